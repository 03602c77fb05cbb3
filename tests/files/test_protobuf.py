"""The wire format against literal bytes of its specification."""

import pytest

from maskgraft.errors import CheckpointError
from maskgraft.files import protobuf


def parsed(data: bytes):
    return [
        (number, wire, value if isinstance(value, int) else bytes(value))
        for number, wire, value in protobuf.fields(memoryview(data))
    ]


def test_every_wire_type():
    assert parsed(b"\x08\x96\x01") == [(1, protobuf.VARINT, 150)]
    assert parsed(b"\x12\x07testing") == [(2, protobuf.BYTES, b"testing")]
    assert parsed(b"\x1d\x00\x00\x80\x3f") == [(3, protobuf.FIXED32, 0x3F800000)]
    assert parsed(b"\x21" + bytes(7) + b"\x40") == [(4, protobuf.FIXED64, 0x40 << 56)]
    assert parsed(b"") == []


def test_order_and_repeats_are_kept():
    assert parsed(b"\x10\x02\x08\x01\x10\x03") == [(2, 0, 2), (1, 0, 1), (2, 0, 3)]


def test_readings_of_a_number():
    minus_two = next(protobuf.fields(memoryview(b"\x08\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01")))[2]
    assert protobuf.signed(minus_two) == -2
    assert protobuf.float32(0x3F800000) == 1.0
    assert protobuf.float64(0x4000000000000000) == 2.0
    assert protobuf.integers(memoryview(b"\x03\x8e\x02\x9e\xa7\x05")) == [3, 270, 86942]
    assert protobuf.integers(7) == [7]
    assert protobuf.text(memoryview("größe".encode())) == "größe"


def test_floats_packed_and_one_by_one():
    assert bytes(protobuf.floats(0x3F800000, protobuf.FIXED32, 4)) == b"\x00\x00\x80\x3f"
    assert bytes(protobuf.floats(memoryview(b"\x00\x00\x80\x3f"), protobuf.BYTES, 4)) == b"\x00\x00\x80\x3f"
    for wire in (protobuf.VARINT, protobuf.FIXED64):
        with pytest.raises(CheckpointError):
            protobuf.floats(1 << 63, wire, 4)


def test_a_cut_message():
    data = memoryview(b"\x08\x96\x01\x12\x07test")
    assert protobuf.claimed(data) == 12 and protobuf.claimed(data[:3]) == 3 and protobuf.claimed(data[:2]) == 3
    assert [bytes(value) for _, wire, value in protobuf.fields(data, cut=True) if wire == protobuf.BYTES] == [b"test"]


def test_bytes_are_not_copied():
    data = bytearray(b"\x12\x02hi")
    (_, _, value) = next(protobuf.fields(memoryview(data)))
    data[2:4] = b"HO"
    assert bytes(protobuf.view(value)) == b"HO"


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # a tag without a value
        b"\x08\x80",  # a number that is cut
        b"\x08" + b"\xff" * 11,  # a number that does not end
        b"\x12\x05abc",  # a length past the end
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # 2^63 bytes
        b"\x1d\x00\x00",  # four bytes cut
        b"\x21\x00",  # eight bytes cut
        b"\x00\x01",  # field number 0
        b"\x0b",  # a group
        b"\x0f",  # wire type 7
    ],
)
def test_what_is_wrong_is_a_checkpoint_error(data):
    with pytest.raises(CheckpointError) as caught:
        parsed(data)
    assert caught.value.findings[0].code == "file.damaged"


def test_kind_mismatch():
    for reading in (protobuf.integer, protobuf.signed, protobuf.float32, protobuf.float64):
        with pytest.raises(CheckpointError):
            reading(memoryview(b"x"))
    with pytest.raises(CheckpointError):
        protobuf.text(3)
