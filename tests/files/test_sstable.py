"""Sorted string tables and Snappy, against literal bytes."""

import pytest
from tensorflow_writer import crc32c, table

from maskgraft.errors import CheckpointError
from maskgraft.files.sstable import blocks, entries, is_table, unsnap


def read(data: bytes) -> dict[bytes, bytes]:
    view = memoryview(data)
    return {key: bytes(value) for block in blocks(view) for key, value in entries(view, block)}


def test_the_writer_makes_the_documented_bytes():
    # Each entry: bytes shared with the key before, bytes of its own, size of the value, key, value.
    body = bytes.fromhex("000004686561640002016162310201026332320000000001000000")
    meta = bytes.fromhex("000000000100000000")
    index = bytes.fromhex("000302616263001b000000000100000000")
    footer = bytes.fromhex("20082d10").ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")
    written = table({b"": b"head", b"ab": b"1", b"abc": b"22"})
    assert written[:28] == body + b"\0"
    assert written[32 : 32 + 9] == meta
    assert written[45 : 45 + 17] == index
    assert written[-48:] == footer and len(written) == 45 + 17 + 4 + 48
    assert crc32c(b"123456789") == 0xE3069283


def test_entries_come_back():
    pairs = {b"": b"head", b"ab": b"1", b"abc": b"22", b"b": bytes(100)}
    assert read(table(pairs)) == pairs


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("per_block", [1, 7, 1000])
def test_many_blocks(compress, per_block):
    pairs = {f"layer/{number:04d}/weights".encode(): bytes([number % 256]) * 40 for number in range(100)}
    data = table(pairs, compress=compress, per_block=per_block)
    assert is_table(memoryview(data)) and len(blocks(memoryview(data))) == -(-100 // per_block)
    assert read(data) == pairs


def test_snappy_as_its_description_gives_it():
    literal = b"\x05\x10hello"
    assert unsnap(memoryview(literal)) == b"hello"
    # "ab", then a copy of 8 bytes from 2 back (one-byte offset), which overlaps itself.
    assert unsnap(memoryview(b"\x0a\x04ab" + bytes([1 | (8 - 4) << 2, 2]))) == b"ababababab"
    # The same with a two-byte and a four-byte offset.
    assert unsnap(memoryview(b"\x0a\x04ab" + bytes([2 | 7 << 2, 2, 0]))) == b"ababababab"
    assert unsnap(memoryview(b"\x0a\x04ab" + bytes([3 | 7 << 2, 2, 0, 0, 0]))) == b"ababababab"
    # A literal of 300 bytes: its length in two bytes behind the tag.
    assert unsnap(memoryview(b"\xac\x02" + bytes([61 << 2, 43, 1]) + bytes(range(250)) + bytes(50))) == (
        bytes(range(250)) + bytes(50)
    )


@pytest.mark.parametrize(
    "packed",
    [
        b"\x05\x10hell",  # the literal is cut
        b"\x0a\x04ab\x11\x05",  # back before the beginning
        b"\x0a\x04ab\x11\x00",  # back by nothing
        b"\x04\x10hello",  # more than announced
        b"\x06\x10hello",  # less
        b"\xff\xff\xff\x7f\x00a",  # announces 256 MB
        b"\x05\xfc\xff",  # a long literal without its length
    ],
)
def test_broken_snappy_is_refused(packed):
    with pytest.raises(CheckpointError, match=r"file\.damaged"):
        unsnap(memoryview(packed))


def test_a_flipped_bit_is_seen_by_the_checksum():
    data = bytearray(table({b"": b"head", b"ab": b"1"}))
    data[5] ^= 1
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        read(bytes(data))


def test_a_cut_table_is_none():
    data = table({b"": b"head"})
    assert not is_table(memoryview(data[:-1]))
    with pytest.raises(CheckpointError, match="no footer"):
        read(data[:-1])
