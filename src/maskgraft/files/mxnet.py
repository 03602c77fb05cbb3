"""MXNet's `.params`: arrays in a row, then their names.

Layout: NDArray::Save and NDArray::LegacyLoad in https://github.com/apache/mxnet/blob/master/src/ndarray/ndarray.cc
"""

import struct
from collections.abc import Mapping
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from maskgraft.files.contents import Contents
from maskgraft.files.cuts import Cut
from maskgraft.files.faults import damaged, unsupported
from maskgraft.files.pickled_arrays import checked_shape
from maskgraft.files.tensors import Array, LazyArray

_MAGIC = 0x112
_FIRST, _SECOND, _THIRD = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DTYPES: Mapping[int, np.dtype[Any]] = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float64),
    2: np.dtype(np.float16),
    3: np.dtype(np.uint8),
    4: np.dtype(np.int32),
    5: np.dtype(np.int8),
    6: np.dtype(np.int64),
    7: np.dtype(np.bool_),
    12: np.dtype(ml_dtypes.bfloat16),
}


class _End(Exception):
    """The file is over; `wanted` is the size that it must have had at least."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted


class _Reader:
    def __init__(self, data: memoryview, at: int) -> None:
        self.data, self.at = data, at

    def take(self, size: int) -> memoryview:
        if size > len(self.data) - self.at:
            raise _End(self.at + size)
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, code: str) -> int:
        value: int = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]
        return value


def is_mxnet(data: memoryview) -> bool:
    """Whether the bytes begin with the mark of a list of arrays."""
    return len(data) >= 16 and int.from_bytes(data[:8], "little") == _MAGIC


def read(data: memoryview) -> Contents:
    """The arrays by name ("arg:conv0_weight", "aux:bn0_moving_mean"), or by number where the file names none.

    A cut file has lost the names, which stand at its end.
    """
    reader = _Reader(data, 16)
    arrays: list[LazyArray] = []
    names: list[str] = []
    cut = None
    try:
        for _ in range(_count(reader, 4)):
            arrays.append(_array(reader, len(arrays)))
        names = [bytes(reader.take(reader.number("Q"))).decode("utf-8", "replace") for _ in range(_count(reader, 8))]
    except _End as end:
        cut = Cut(len(data), end.wanted, exact=False)
    if cut is not None or not names:
        names = [str(place) for place in range(len(arrays))]
    if len(names) != len(arrays) or len(set(names)) != len(names):
        raise damaged(f"the file has {len(arrays):,} arrays and {len(set(names)):,} names")
    return Contents("mxnet", dict(zip(names, arrays, strict=True)), cut=cut)


def _count(reader: _Reader, least: int) -> int:
    count = reader.number("Q")
    if count > len(reader.data) // least:
        raise damaged(f"the file claims {count:,} entries in {len(reader.data):,} bytes", claimed=count)
    return count


def _array(reader: _Reader, place: int) -> LazyArray:
    magic = reader.number("I")
    if magic in (_SECOND, _THIRD) and reader.number("i") != 0:
        raise unsupported(f"array {place} of the file is sparse", fix="save it again with stype='default'")
    if magic in (_FIRST, _SECOND, _THIRD):
        rank, code = reader.number("I"), "q"
    else:
        rank, code = magic, "I"
    if rank > 64:
        raise damaged(f"array {place} of the file has {rank:,} dimensions")
    shape = checked_shape(tuple(reader.number(code) for _ in range(rank)))
    if rank == 0 and magic != _THIRD:
        return LazyArray.of(np.empty(0, np.float32))
    reader.take(8)  # the device
    kind = reader.number("i")
    if kind not in _DTYPES:
        raise unsupported(f"array {place} of the file is of MXNet's dtype {kind}, which is not read")
    dtype = _DTYPES[kind]
    raw = reader.take(prod(shape) * dtype.itemsize)

    def read_values() -> Array:
        return np.frombuffer(raw, dtype).reshape(shape) if len(raw) else np.empty(shape, dtype)

    return LazyArray(shape, dtype, read_values)
