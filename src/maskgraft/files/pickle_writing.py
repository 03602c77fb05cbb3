"""Pickles of arrays that any numpy reads, and those of Python 2 too: written opcode by opcode, for pickling by numpy
itself names modules that only numpy 2 has.

Opcodes are those of Python's `pickletools`; the state of an array is that of `numpy.ndarray.__setstate__`.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np


def write_pickle(file: BinaryIO, value: Mapping[str, Any], *, python2: bool = False) -> None:
    """Write nested dicts, lists and tuples of text, numbers and arrays.

    With `python2` the pickle is of protocol 2 and its arrays are texts of bytes, which Python 3 reads with
    `encoding="latin1"`; else of protocol 3.
    """
    file.write(b"\x80\x02" if python2 else b"\x80\x03")
    for piece in _pieces(value, python2):
        file.write(piece)
    file.write(b".")


def _pieces(value: Any, python2: bool) -> Iterator[bytes | memoryview]:
    match value:
        case None | bool():
            yield {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int() if abs(value) < 1 << 31:
            yield b"J" + struct.pack("<i", value)
        case int():
            packed = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            yield b"\x8a" + bytes([len(packed)]) + packed
        case float():
            yield b"G" + struct.pack(">d", value)
        case str():
            text = value.encode()
            yield b"X" + struct.pack("<I", len(text)) + text
        case Mapping():
            yield b"}("
            for key, entry in value.items():
                yield from _pieces(key, python2)
                yield from _pieces(entry, python2)
            yield b"u"
        case list() | tuple():
            yield b"(" if isinstance(value, tuple) else b"]("
            for entry in value:
                yield from _pieces(entry, python2)
            yield b"t" if isinstance(value, tuple) else b"e"
        case np.ndarray():
            yield from _array(value, python2)
        case _:
            raise TypeError(f"a pickle of arrays holds no {type(value).__name__}")


def _array(array: np.ndarray[Any, Any], python2: bool) -> Iterator[bytes | memoryview]:
    if array.dtype.kind not in "biufc":
        raise TypeError(f"numpy alone has no arrays of {array.dtype}")
    array = np.ascontiguousarray(array).reshape(array.shape)
    kind = array.dtype.newbyteorder("<").str
    yield b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _bytes(b"b", python2) + b"\x87R"
    yield b"(K\x01"
    yield from _pieces(tuple(array.shape), python2)
    yield b"cnumpy\ndtype\n"
    yield from _pieces(kind[1:], python2)
    yield b"\x89\x88\x87R(K\x03"
    yield from _pieces(kind[0], python2)
    yield b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb\x89"
    yield (b"T" if python2 else b"B") + struct.pack("<I", array.nbytes)
    yield array.astype(kind, copy=False).tobytes()
    yield b"tb"


def _bytes(value: bytes, python2: bool) -> bytes:
    return (b"U" if python2 else b"C") + bytes([len(value)]) + value
