"""What TensorFlow's files share: types, shapes, slices of partitioned variables, tensors inside messages.

Field numbers are those of tensorflow/core/framework/{types,tensor,tensor_shape,tensor_slice}.proto.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from maskgraft.errors import CheckpointError
from maskgraft.files.faults import damaged, unsupported
from maskgraft.files.pickled_arrays import checked_shape
from maskgraft.files.protobuf import BYTES, fields, integers, signed, varint
from maskgraft.files.tensors import Array, LazyArray

STRING = 7

_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    8: np.dtype("<c8"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    11: np.dtype("i1"),
    12: np.dtype("u1"),
    13: np.dtype("<i4"),
    14: np.dtype(ml_dtypes.bfloat16),
    15: np.dtype("<i2"),
    16: np.dtype("<u2"),
    17: np.dtype("<u2"),
    18: np.dtype("<c16"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
}
_OTHER = {0: "invalid", STRING: "string", 20: "resource", 21: "variant"}
# Fields of a TensorProto that hold values: raw bytes, and by type.
_CONTENT, _INT, _HALF = 4, 7, 13
_FLOATS: dict[np.dtype[Any], tuple[int, str]] = {
    np.dtype("<f4"): (5, "<f4"),
    np.dtype("<f8"): (6, "<f8"),
    np.dtype("<c8"): (9, "<f4"),
    np.dtype("<c16"): (12, "<f8"),
}
_INTEGERS: dict[np.dtype[Any], int] = {
    np.dtype("<i8"): 10,
    np.dtype("?"): 11,
    np.dtype("<u4"): 16,
    np.dtype("<u8"): 17,
}
_MOST_AXES = 64
_MOST_REPEATED = 1 << 24

Message = dict[int, list[int | memoryview]]


def message(view: memoryview | int) -> Message:
    """The fields of one message by number, each as the list of its occurrences.

    Raises `CheckpointError` (`file.damaged`) where the bytes are no message.
    """
    if isinstance(view, int):
        raise damaged("a protobuf field holds a number where a message belongs")
    found: Message = {}
    for number, _, value in fields(view):
        found.setdefault(number, []).append(value)
    return found


def number_in(found: Message, field: int, default: int = 0) -> int:
    """The last occurrence of a signed number field."""
    return signed(found[field][-1]) if field in found else default


def texts_in(found: Message, field: int) -> list[str]:
    """All occurrences of a text field."""
    return [bytes(value).decode("utf-8", "replace") for value in found.get(field, []) if isinstance(value, memoryview)]


def text_in(found: Message, field: int) -> str:
    """The last occurrence of a text field, "" without one."""
    return (texts_in(found, field) or [""])[-1]


def dtype_of(code: int) -> np.dtype[Any] | None:
    """The dtype of a `DataType`; `None` for strings.

    Raises `CheckpointError` (`file.unsupported`) for types that hold no values, and numbers that are no type.
    """
    code = code - 100 if code > 100 else code
    if code == STRING:
        return None
    if code not in _DTYPES:
        raise unsupported(f"TensorFlow type {code} ({_OTHER.get(code, 'not known')}) is not read here")
    return _DTYPES[code]


def code_of(dtype: np.dtype[Any]) -> int:
    """The number of a type in TensorFlow's files. Raises `ValueError` for a type that TensorFlow does not have."""
    found = next((code for code, known in _DTYPES.items() if known == dtype), None)
    if found is None:
        raise ValueError(f"TensorFlow has no type {dtype}")
    return found


def shape_of(views: Iterable[int | memoryview]) -> tuple[int, ...]:
    """The shape in a `TensorShapeProto`; () when the field is absent."""
    axes: list[int] = []
    for view in views:
        shape = message(view)
        for axis in shape.get(2, []):
            axes.append(number_in(message(axis), 1))
        if number_in(shape, 3) or len(axes) > _MOST_AXES or any(axis < 0 for axis in axes):
            raise damaged(f"a tensor has the shape {axes[:_MOST_AXES]}, which no values can have")
    return checked_shape(axes)


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a partitioned variable: where it begins on each axis, and how long it is (-1: all of the axis)."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]

    def within(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        """The part as an index into the whole.

        Raises `CheckpointError` (`file.damaged`) when it does not lie in the whole.
        """
        if len(self.starts) != len(shape):
            raise damaged(f"a slice of {len(self.starts)} axes belongs to a tensor of shape {shape}")
        parts = []
        for start, length, axis in zip(self.starts, self.lengths, shape, strict=True):
            end = axis if length < 0 else start + length
            if not 0 <= start <= end <= axis:
                raise damaged(f"a slice from {start} to {end} lies outside an axis of {axis}")
            parts.append(slice(start, end))
        return tuple(parts)

    def key(self, name: str) -> bytes:
        """The table key of the part: a zero, the name, the number of axes, and start and length of each."""
        out = b"\0" + name.encode().replace(b"\0", b"\0\xff").replace(b"\xff", b"\xff\0") + b"\0\1"
        if b"\0" in name.encode():
            raise unsupported(f"a partitioned variable is called {name!r}")
        out += _increasing(len(self.starts))
        for start, length in zip(self.starts, self.lengths, strict=True):
            out += _signed_increasing(start) + _signed_increasing(length)
        return out


def slice_of(view: int | memoryview) -> Slice:
    """A `TensorSliceProto`."""
    starts, lengths = [], []
    for extent in message(view).get(1, []):
        found = message(extent)
        starts.append(number_in(found, 1))
        lengths.append(number_in(found, 2, -1))
    return Slice(tuple(starts), tuple(lengths))


def _increasing(value: int) -> bytes:
    """A number whose bytes sort as it does: its length, then its bytes, highest first."""
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "big")


def _signed_increasing(value: int) -> bytes:
    """A signed number whose bytes sort as it does: leading ones tell the length, inverted for negative ones."""
    size = (value if value >= 0 else ~value).bit_length() // 7 + 1
    if size > 10:
        raise damaged(f"a slice begins at {value}")
    head = ((1 << size) - 1) << (16 - size)
    raw = bytearray(value.to_bytes(max(size, 2), "big", signed=True)[-size:])
    raw[0] ^= head >> 8
    if size > 1:
        raw[1] ^= head & 0xFF
    return bytes(raw)


def strings(data: memoryview, count: int) -> list[bytes]:
    """The values of a string tensor in a checkpoint's data: all lengths, a checksum of them, all texts."""
    sizes, at = [], 0
    if count > len(data):
        raise damaged(f"{count:,} texts are announced in {len(data):,} bytes")
    for _ in range(count):
        size, at = varint(data, at)
        sizes.append(size)
    at += 4
    if at + sum(sizes) > len(data):
        raise damaged(f"texts of {sum(sizes):,} bytes are announced in {len(data):,}")
    found = []
    for size in sizes:
        found.append(bytes(data[at : at + size]))
        at += size
    return found


def tensor_in(view: int | memoryview) -> LazyArray | None:
    """The tensor of a `TensorProto`; `None` for strings. Raises `CheckpointError` where it is no sound tensor."""
    found = message(view)
    dtype = dtype_of(number_in(found, 1))
    if dtype is None:
        return None
    shape, kind = shape_of(found.get(2, [])), dtype
    stored = sum(len(value) if isinstance(value, memoryview) else 1 for values in found.values() for value in values)
    content = view_of(found.get(_CONTENT, [memoryview(b"")])[-1])
    size = prod(shape) * dtype.itemsize
    if content and len(content) != size:
        raise damaged(f"a tensor of shape {shape} needs {size:,} bytes, {len(content):,} are stored")

    def read() -> Array:
        if content:
            return np.frombuffer(content, kind).reshape(shape)
        values = typed_values(found, kind)
        count = prod(shape)
        if len(values) == count:
            return values.reshape(shape)
        if len(values) > count:
            raise damaged(f"a tensor of shape {shape} has {len(values):,} values")
        if len(values) <= 1:
            return np.broadcast_to(values[0] if len(values) else np.zeros((), kind), shape)
        # Repeats of the last value are left out by the writer.
        if size > max(1000 * stored, _MOST_REPEATED):
            raise damaged(f"{stored:,} bytes claim to be a tensor of shape {shape}")
        return np.concatenate([values, np.broadcast_to(values[-1], count - len(values))]).reshape(shape)

    return LazyArray(shape, dtype, read)


def view_of(value: int | memoryview) -> memoryview:
    """The value of a field that must be bytes."""
    if isinstance(value, int):
        raise damaged("a protobuf field holds a number where bytes belong")
    return value


def typed_values(found: Message, dtype: np.dtype[Any]) -> Array:
    """The values of a `TensorProto` that stand in the field of their type, flat; packed or one by one."""
    pieces: list[Array] = [np.empty(0, dtype)]
    if dtype in _FLOATS:
        field, wire = _FLOATS[dtype]
        for value in found.get(field, []):
            raw = value if isinstance(value, memoryview) else value.to_bytes(8, "little")[: np.dtype(wire).itemsize]
            if len(raw) % dtype.itemsize:
                raise damaged(f"{len(raw):,} bytes of packed numbers of {dtype.itemsize} bytes each")
            pieces.append(np.frombuffer(raw, dtype))
    elif dtype.itemsize == 2 and dtype.kind not in "iu":
        for value in found.get(_HALF, []):
            pieces.append((np.array(integers(value), "<u8") & np.uint64(0xFFFF)).astype("<u2").view(dtype))
    else:
        for value in found.get(_INTEGERS.get(dtype, _INT), []):
            pieces.append(np.array(integers(value), "<u8").astype(dtype))
    return pieces[1] if len(pieces) == 2 else np.concatenate(pieces)


def is_message_of(view: memoryview, *starts: tuple[int, int]) -> bool:
    """Whether the first fields are of these (number, wire type), in this order; only they are looked at."""
    try:
        for (number, wire, _), start in zip(fields(view, cut=True), starts, strict=False):
            if (number, wire) != start:
                return False
    except CheckpointError:
        return False
    return bool(len(view)) and (starts[0][1] != BYTES or len(view) > 2)
