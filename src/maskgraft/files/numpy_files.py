"""NumPy's files and bare pickles: `.npy`, `.npz`, and what Detectron, Detectron2 and many others call `.pkl`.

Layout of `.npy`: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import ast
from math import prod
from typing import Any

import numpy as np

from maskgraft.errors import CheckpointError
from maskgraft.files import pickles, zips
from maskgraft.files.contents import Contents
from maskgraft.files.cuts import Cut
from maskgraft.files.faults import damaged
from maskgraft.files.paddle import KNOWN, settled
from maskgraft.files.pickled_arrays import checked_shape, dtype_named
from maskgraft.files.tensors import Array, LazyArray

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000


def is_npy(data: memoryview) -> bool:
    """Whether the bytes begin as one array."""
    return bytes(data[:6]) == _MAGIC


def is_npz(data: memoryview) -> bool:
    """Whether the bytes are an archive of arrays, whole or cut."""
    if not zips.is_zip(data):
        return False
    if not zips.is_whole(data):
        return next(zips.scan(data, lambda _name, _start: 0), ("", 0))[0].endswith(".npy")
    names = zips.members(data)
    return bool(names) and all(name.endswith(".npy") for name in names)


def is_pickle(data: memoryview) -> bool:
    """Whether the bytes are a pickle: marked as one, or of the unmarked protocols 0 and 1 and sound to the end."""
    if bytes(data[:1]) == b"\x80":
        return len(data) > 2 and 2 <= data[1] <= 5
    if bytes(data[:1]) not in (b"(", b"]", b"}", b"c") or bytes(data[-64:]).rstrip()[-1:] != b".":
        return False
    try:
        pickles.load(data, known=KNOWN)
    except CheckpointError:
        return False
    return True


def read_pickle(data: memoryview) -> Contents:
    """The object in a bare pickle, PaddlePaddle's among them; arrays stay in the file."""
    read, cut = pickles.load_cut(data, known=KNOWN)
    return settled(Contents("pickle", read.value, read.names, cut=cut))


def read_npy(data: memoryview) -> Contents:
    """One array, or the object in an array of objects (`np.save` of a dict)."""
    shape, dtype, column_major, start = _header(data[: _MAX_HEADER + 16])
    if dtype.hasobject:
        read, cut = pickles.load_cut(data[start:], known=KNOWN)
        return Contents("numpy-npy", read.value, read.names, cut=cut)
    end = start + prod(shape) * dtype.itemsize
    if end > len(data):
        return Contents("numpy-npy", None, cut=Cut(len(data), end))
    return Contents("numpy-npy", {"array": _lazy(data[start:end], shape, dtype, column_major)})


def read_npz(data: memoryview) -> Contents:
    """The arrays of an archive by name, without the `.npy`; arrays of objects become what they hold."""
    if not zips.is_whole(data):
        return _read_cut_npz(data)
    value: dict[str, Any] = {}
    names: dict[tuple[str, str], bool] = {}
    for name, member in zips.members(data).items():
        shape, dtype, column_major, start = _header(zips.head(data, member, _MAX_HEADER + 16))
        label = name.removesuffix(".npy")
        if dtype.hasobject:
            read = pickles.load(zips.read(data, member)[start:], known=KNOWN)
            value[label] = read.value
            names.update(read.names)
            continue
        if start + prod(shape) * dtype.itemsize != member.size:
            raise damaged(f"{name!r} says it is {dtype} {list(shape)} and has {member.size - start:,} bytes")
        value[label] = _packed(data, member, start, shape, dtype, column_major)
    return Contents("numpy-npz", value, names)


def _read_cut_npz(data: memoryview) -> Contents:
    value: dict[str, Any] = {}
    wanted = len(data) + 1

    def size_of(name: str, start: int) -> int:
        nonlocal wanted
        try:
            shape, dtype, column_major, begin = _header(data[start : start + _MAX_HEADER + 16])
        except CheckpointError:
            return 0
        end = start + begin + prod(shape) * dtype.itemsize
        if dtype.hasobject:
            return 0
        if end <= len(data):
            value[name.removesuffix(".npy")] = _lazy(data[start + begin : end], shape, dtype, column_major)
        wanted = max(wanted, end)
        return end - start

    for _ in zips.scan(data, size_of):
        pass
    return Contents("numpy-npz", value, cut=Cut(len(data), wanted, exact=False))


def _header(data: memoryview) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    """Shape, dtype, whether column-major, and where the values begin."""
    if bytes(data[:6]) != _MAGIC or len(data) < 12:
        raise damaged("an array does not begin with the mark of one")
    wide = data[6] >= 2
    start = 12 if wide else 10
    size = int.from_bytes(data[8:start], "little")
    text = bytes(data[start : start + size])
    if size > _MAX_HEADER or len(text) < size:
        raise damaged(f"an array has a header of {size:,} bytes, of which {len(text):,} are there")
    try:
        header = ast.literal_eval(text.decode("utf-8" if data[6] >= 3 else "latin-1").strip())
        shape, column_major, kind = header["shape"], header["fortran_order"], header["descr"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise damaged("an array has a header that is not NumPy's") from None
    return checked_shape(shape), dtype_named(kind), column_major is True, start + size


def _lazy(raw: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any], column_major: bool) -> LazyArray:
    return LazyArray(shape, dtype.newbyteorder("="), lambda: _array(raw, shape, dtype, column_major))


def _packed(
    data: memoryview, member: zips.Member, start: int, shape: tuple[int, ...], dtype: np.dtype[Any], column_major: bool
) -> LazyArray:
    return LazyArray(
        shape,
        dtype.newbyteorder("="),
        lambda: _array(zips.read(data, member)[start:], shape, dtype, column_major),
    )


def _array(raw: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any], column_major: bool) -> Array:
    if prod(shape) == 0:
        return np.empty(shape, dtype.newbyteorder("="))
    array = np.frombuffer(raw, dtype, prod(shape)).reshape(shape, order="F" if column_major else "C")
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))
