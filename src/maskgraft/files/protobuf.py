"""The protobuf wire format, read without a schema (https://protobuf.dev/programming-guides/encoding)."""

import struct
from collections.abc import Iterator

from maskgraft.errors import CheckpointError
from maskgraft.files.faults import damaged

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def fields(buffer: memoryview, *, cut: bool = False) -> Iterator[tuple[int, int, int | memoryview]]:
    """Every field of one message, in the file's order: (number, wire type, value).

        list(fields(memoryview(b"\\x08\\x96\\x01\\x12\\x02hi")))    # [(1, 0, 150), (2, 2, <memory of b"hi">)]

    The value is an unsigned int for VARINT, FIXED64 and FIXED32 (little endian bits; `float32`, `float64` and `signed`
    read them otherwise), a view without a copy for BYTES (text, nested messages, packed numbers).

    With `cut`, a file may end too early: the last field is then what is left of it.

    Raises `CheckpointError` (`file.damaged`) where a length goes past the end, a number does not end, or the
    field number is 0 or a group, which nothing that holds weights uses.
    """
    at, end = 0, len(buffer)
    while at < end:
        start = at
        tag, at = varint(buffer, at)
        number, wire = tag >> 3, tag & 7
        if number == 0 or number >= 1 << 29:
            raise damaged(f"protobuf field number {number} at byte {start} does not exist")
        if wire == VARINT:
            value, at = varint(buffer, at)
            yield number, wire, value
        elif wire == BYTES:
            size, at = varint(buffer, at)
            if size > end - at and not cut:
                raise damaged(
                    f"protobuf field {number} at byte {start} claims {size:,} bytes, {end - at:,} are left",
                    claimed=size,
                    left=end - at,
                )
            yield number, wire, buffer[at : at + size]
            at += size
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
            if size > end - at:
                raise damaged(f"protobuf field {number} at byte {start} is cut after {end - at} of {size} bytes")
            yield number, wire, int.from_bytes(buffer[at : at + size], "little")
            at += size
        else:
            raise damaged(f"protobuf field {number} at byte {start} has wire type {wire}, which is not in use")


def claimed(buffer: memoryview) -> int:
    """The size that a message says it has: its own, or more where its last field goes past the end.

    A message that ends inside a number has at least one byte more.
    """
    at, end = 0, len(buffer)
    while at < end:
        try:
            tag, at = varint(buffer, at)
            size, after = varint(buffer, at) if tag & 7 in (VARINT, BYTES) else (0, at)
        except CheckpointError:
            return end + 1
        at = after + {BYTES: size, FIXED64: 8, FIXED32: 4}.get(tag & 7, 0)
    return at


def varint(buffer: memoryview, at: int) -> tuple[int, int]:
    """The unsigned base-128 number at a byte, and the byte after it; at most 10 bytes, 64 bits."""
    value = 0
    for place in range(10):
        if at + place >= len(buffer):
            raise damaged(f"a protobuf number at byte {at} is cut")
        byte = buffer[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + place + 1
    raise damaged(f"a protobuf number at byte {at} does not end within 10 bytes")


def view(value: int | memoryview) -> memoryview:
    """The value of a field that must be text, a message or bytes."""
    if isinstance(value, int):
        raise damaged("a protobuf field holds a number where bytes belong")
    return value


def text(value: int | memoryview) -> str:
    """The value of a field that must be UTF-8; what is not becomes U+FFFD."""
    return bytes(view(value)).decode("utf-8", "replace")


def integer(value: int | memoryview) -> int:
    """The value of a field that must be one number, unsigned."""
    if not isinstance(value, int):
        raise damaged("a protobuf field holds bytes where a number belongs")
    return value


def signed(value: int | memoryview) -> int:
    """The value of an `int32` or `int64` field (two's complement in 64 bits)."""
    number = integer(value)
    return number - (1 << 64) if number >= 1 << 63 else number


def integers(value: int | memoryview) -> list[int]:
    """One element of a repeated number field: itself, or all numbers of its packed form; unsigned."""
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while at < len(value):
        number, at = varint(value, at)
        numbers.append(number)
    return numbers


def floats(value: int | memoryview, wire: int, itemsize: int) -> memoryview:
    """One element of a repeated `float` (4) or `double` (8) field as little-endian bytes: itself, or packed ones."""
    if isinstance(value, memoryview):
        return value
    if wire != (FIXED32 if itemsize == 4 else FIXED64):
        raise damaged(f"a protobuf field of {8 * itemsize}-bit floats holds a number of wire type {wire}")
    return memoryview(value.to_bytes(itemsize, "little"))


def float32(value: int | memoryview) -> float:
    """The value of a `float` field."""
    return float(struct.unpack("<f", (integer(value) & 0xFFFF_FFFF).to_bytes(4, "little"))[0])


def float64(value: int | memoryview) -> float:
    """The value of a `double` field."""
    return float(struct.unpack("<d", integer(value).to_bytes(8, "little"))[0])
