"""What HDF5 values are made of: types, shapes, storage, and how they become text and arrays."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Literal

import ml_dtypes
import numpy as np

from maskgraft.files.faults import damaged, outside, unsupported
from maskgraft.files.hdf5_index import chunks, global_object
from maskgraft.files.hdf5_source import Cursor, Source
from maskgraft.files.pickled_arrays import checked_shape
from maskgraft.files.tensors import Array

_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3
_MOST_DEFLATED = 1032
_CLASSES = ("integer", "float", "time", "string", "bit field", "opaque", "compound", "reference", "enumeration")


@dataclass(frozen=True, slots=True)
class Datatype:
    """A type: `number` with its dtype, fixed or variable-length `text`, `opaque` bytes, or `other` things by name."""

    kind: Literal["number", "text", "long text", "opaque", "other"]
    size: int
    dtype: np.dtype[Any] | None = None
    what: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a dataset's values stand.

    `address` and `size` belong to contiguous values, `inline` to values inside the header, `chunk` (a shape) and
    `address` (of the index) to chunked ones. `foreign` marks an index that only h5py reads.
    """

    kind: Literal["inline", "contiguous", "chunked"]
    address: int | None = None
    size: int | None = None
    inline: memoryview | None = None
    chunk: tuple[int, ...] = ()
    foreign: bool = False


def datatype(cursor: Cursor, depth: int = 0) -> Datatype:
    """Read a datatype message."""
    head = cursor.number(1)
    bits, size = cursor.number(3), cursor.number(4)
    kind, version = head & 15, head >> 4
    if depth > 4 or not 1 <= version <= 5:
        raise damaged(f"a datatype of version {version}, nested {depth} deep")
    order = ">" if bits & 1 else "<"
    if kind == 0 and size in (1, 2, 4, 8):
        cursor.bytes(4)
        return Datatype("number", size, np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}"))
    if kind == 1:
        cursor.bytes(5)
        exponent, _, mantissa = cursor.number(1), cursor.number(1), cursor.number(1)
        cursor.number(4)
        if (size, exponent, mantissa) in ((2, 5, 10), (4, 8, 23), (8, 11, 52)) and not bits & 64:
            return Datatype("number", size, np.dtype(f"{order}f{size}"))
        if (size, exponent, mantissa, order) == (2, 8, 7, "<"):
            return Datatype("number", size, np.dtype(ml_dtypes.bfloat16))
        return Datatype("other", size, what=f"float of {exponent} exponent and {mantissa} mantissa bits")
    if kind == 3:
        return Datatype("text", size)
    if kind == 5:
        return Datatype("opaque", size)
    if kind == 8:
        base = datatype(cursor, depth + 1)
        return Datatype("number", size, base.dtype) if base.dtype and base.size == size else base
    if kind == 9:
        return Datatype("long text", size) if bits & 15 == 1 else Datatype("other", size, what="variable-length list")
    return Datatype("other", size, what=_CLASSES[kind] if kind < len(_CLASSES) else f"class {kind}")


def dataspace(cursor: Cursor) -> tuple[int, ...] | None:
    """Read a dataspace message: the shape; `None` for the null dataspace, which holds nothing."""
    version, rank, _ = cursor.number(1), cursor.number(1), cursor.number(1)
    kind = cursor.number(1)
    if version == 1:
        cursor.bytes(4)
    elif version != 2:
        raise damaged(f"a dataspace of version {version}")
    if version == 2 and kind == 2:
        return None
    return checked_shape(tuple(cursor.length() for _ in range(rank)))


def layout(cursor: Cursor) -> Layout:
    """Read a data layout message.

    Raises `CheckpointError`: `file.outside` for virtual datasets, whose values stand in other files,
    `file.unsupported` for versions that do not exist yet.
    """
    version = cursor.number(1)
    if version in (1, 2):
        rank, kind = cursor.number(1), cursor.number(1)
        cursor.bytes(5)
        address = None if kind == 0 else cursor.address()
        axes = tuple(cursor.number(4) for _ in range(rank))
        if kind == 0:
            return Layout("inline", inline=cursor.bytes(cursor.number(4)))
        if kind == 1:
            return Layout("contiguous", address=address)
        if kind == 2 and rank > 1:
            return Layout("chunked", address=address, chunk=axes[:-1])
        raise damaged(f"a dataset of storage kind {kind}")
    if version not in (3, 4, 5):
        raise unsupported(f"HDF5 data layout version {version}; versions 1 to 5 are known")
    kind = cursor.number(1)
    if kind == 0:
        return Layout("inline", inline=cursor.bytes(cursor.number(2)))
    if kind == 1:
        return Layout("contiguous", address=cursor.address(), size=cursor.length())
    if kind == 2 and version == 3:
        rank = cursor.number(1)
        address = cursor.address()
        axes = tuple(cursor.number(4) for _ in range(rank))
        if rank < 2:
            raise damaged(f"a chunked dataset of {rank} axes")
        return Layout("chunked", address=address, chunk=axes[:-1])
    if kind == 2:
        return Layout("chunked", foreign=True)
    if kind == 3:
        raise outside("a virtual dataset, whose values stand in other files")
    raise damaged(f"a dataset of storage kind {kind}")


def filters(cursor: Cursor) -> tuple[int, ...]:
    """Read a filter pipeline message: the filters' numbers, in the order in which they were applied."""
    version, count = cursor.number(1), cursor.number(1)
    if version == 1:
        cursor.bytes(6)
    elif version != 2:
        raise damaged(f"a filter list of version {version}")
    found = []
    for _ in range(count):
        number = cursor.number(2)
        name_size = cursor.number(2) if version == 1 or number >= 256 else 0
        cursor.number(2)
        values = cursor.number(2)
        cursor.bytes(name_size + (-name_size % 8 if version == 1 else 0))
        cursor.bytes(4 * values + (4 if version == 1 and values % 2 else 0))
        found.append(number)
    return tuple(found)


def attribute_value(source: Source, kind: Datatype, shape: tuple[int, ...] | None, raw: Cursor) -> Any:
    """The value of an attribute as str, int, float, bytes, a list of texts or a small array.

    `None` for what has no plain Python form (references, compound values).
    """
    count = 0 if shape is None else prod(shape)
    if kind.kind == "other" or shape is None:
        return None
    if kind.size == 0:
        raise damaged("an attribute's values have no size")
    data = raw.bytes(count * kind.size)
    if kind.kind == "number":
        array = np.frombuffer(data, kind.dtype).reshape(shape)
        return array.item() if shape == () else array.astype(array.dtype.newbyteorder("="))
    source.budget.spend(records=len(data) // 8)
    pieces = [data[at * kind.size : (at + 1) * kind.size] for at in range(count)]
    if kind.kind == "opaque":
        return [bytes(piece) for piece in pieces] if shape else bytes(pieces[0])
    texts = [_long_text(source, piece) if kind.kind == "long text" else bytes(piece) for piece in pieces]
    plain = [text.split(b"\0", 1)[0].decode("utf-8", "replace") for text in texts]
    return plain if shape else plain[0]


def _long_text(source: Source, piece: memoryview) -> bytes:
    cursor = Cursor(piece, source.offset_size, source.length_size)
    size, collection, index = cursor.number(4), cursor.address(), cursor.number(4)
    if size == 0 or not collection:
        return b""
    found = global_object(source, collection, index)
    if size > len(found):
        raise damaged(f"a text of {size:,} bytes stands in a place of {len(found):,}")
    source.budget.spend(text=size)
    return bytes(found[:size])


def check_storage(source: Source, stored: Layout, pipeline: tuple[int, ...], nbytes: int) -> None:
    """Hold a dataset's declared size against what is stored, before anything of it is read.

    Raises `CheckpointError`: `file.truncated` or `file.damaged` when values are missing, `file.unsupported` for a
    filter that is not known (none is ever loaded from outside).
    """
    if nbytes == 0:
        return
    if stored.kind == "contiguous":
        if stored.address is None:
            raise damaged(f"{nbytes:,} bytes are declared and none were ever written")
        if stored.size is not None and stored.size < nbytes:
            raise damaged(f"its shape needs {nbytes:,} bytes, {stored.size:,} are stored")
        source.take(stored.address, nbytes)
    elif stored.inline is not None and len(stored.inline) < nbytes:
        raise damaged(f"its shape needs {nbytes:,} bytes, {len(stored.inline):,} are stored")
    elif stored.kind == "chunked":
        unknown = [number for number in pipeline if number not in (_DEFLATE, _SHUFFLE, _FLETCHER32)]
        if unknown:
            raise unsupported(
                f"its values went through HDF5 filter {unknown[0]}; deflate, shuffle and Fletcher-32 are read",
                fix="write the file again without compression (h5repack -f NONE in.h5 out.h5)",
            )
        if nbytes > (len(source.view) + source.expected) * (_MOST_DEFLATED if _DEFLATE in pipeline else 1):
            raise damaged(f"its shape needs {nbytes:,} bytes, more than a file of {source.expected:,} can unpack to")


def read_values(
    source: Source,
    stored: Layout,
    pipeline: tuple[int, ...],
    *,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    foreign: Callable[[], Array],
) -> Array:
    """All values of a dataset, in native byte order: a view into the file where they stand in one piece.

    `foreign` reads what this module does not: newer chunk indexes.
    """
    count = prod(shape)
    if count == 0:
        return np.empty(shape, dtype.newbyteorder("="))
    check_storage(source, stored, pipeline, count * dtype.itemsize)
    if stored.foreign:
        return foreign()
    if stored.kind == "chunked":
        array = _unchunk(source, stored, pipeline, shape, dtype)
    else:
        size = count * dtype.itemsize
        data = source.take(stored.address, size) if stored.address is not None else stored.inline or b""
        array = np.frombuffer(data, dtype, count).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _unchunk(
    source: Source, stored: Layout, pipeline: tuple[int, ...], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Array:
    grid = [-(-axis // step) if step else 0 for axis, step in zip(shape, stored.chunk, strict=False)]
    if len(stored.chunk) != len(shape) or not all(grid) or stored.address is None:
        raise damaged(f"chunks of shape {stored.chunk} do not make an array of shape {shape}")
    found = {chunk.origin: chunk for chunk in chunks(source, stored.address, len(shape))}
    steps = (range(0, axis, step) for axis, step in zip(shape, stored.chunk, strict=True))
    expected = prod(grid)
    if len(found) != expected or any(origin not in found for origin in product(*steps)):
        raise damaged(f"{len(found):,} chunks are stored, an array of shape {shape} needs {expected:,}")
    chunk_bytes = prod(stored.chunk) * dtype.itemsize
    kept = sum(chunk.size for chunk in found.values())
    if expected * chunk_bytes > kept * (_MOST_DEFLATED if _DEFLATE in pipeline else 1) + 64 * expected:
        raise damaged(f"chunks of {kept:,} bytes cannot hold an array of {expected * chunk_bytes:,}")
    array = np.empty(shape, dtype)
    for origin, chunk in found.items():
        data = _unfilter(source.take(chunk.address, chunk.size), pipeline, chunk.skipped_filters, chunk_bytes, dtype)
        block = np.frombuffer(data, dtype, prod(stored.chunk)).reshape(stored.chunk)
        inside = tuple(
            slice(0, min(step, axis - at)) for at, step, axis in zip(origin, stored.chunk, shape, strict=True)
        )
        place = tuple(slice(at, at + step) for at, step in zip(origin, stored.chunk, strict=True))
        array[place] = block[inside]
    return array


def _unfilter(
    data: memoryview, pipeline: tuple[int, ...], skipped: int, size: int, dtype: np.dtype[Any]
) -> bytes | memoryview:
    """The bytes of one chunk before the filters were applied, exactly `size` of them."""
    out: bytes | memoryview = data
    for place in reversed(range(len(pipeline))):
        if skipped >> place & 1:
            continue
        if pipeline[place] == _FLETCHER32:
            out = out[:-4]
        elif pipeline[place] == _DEFLATE:
            try:
                out = zlib.decompressobj().decompress(out, size + 8)
            except zlib.error as error:
                raise damaged(f"a compressed chunk cannot be unpacked: {error}") from None
        elif pipeline[place] == _SHUFFLE:
            whole = len(out) - len(out) % dtype.itemsize
            spread = np.frombuffer(out[:whole], np.uint8).reshape(dtype.itemsize, -1)
            out = spread.T.tobytes() + bytes(out[whole:])
    if len(out) < size:
        raise damaged(f"a chunk unpacks to {len(out):,} bytes, its shape needs {size:,}")
    return out
