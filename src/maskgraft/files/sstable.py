"""Sorted string tables, the container of TensorFlow's checkpoint indexes and of its first checkpoint format.

A table is blocks of sorted (key, value) entries, an index of the blocks, and a footer of 48 bytes. Keys are stored
without what they share with the key before. Layout: LevelDB's table format, with Snappy as the one compression.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from maskgraft.files.crc32c import masked
from maskgraft.files.faults import damaged, unsupported
from maskgraft.files.protobuf import varint

MAGIC = bytes.fromhex("57fb808b247547db")

_FOOTER = 48
_TRAILER = 5
_MOST_BLOCKS = 100_000
_MOST_UNPACKED = 64
_MOST_KEYS = 16


@dataclass(frozen=True, slots=True)
class Block:
    """Where one block stands; `last` is a key not before its last one and before the next block's first."""

    last: bytes
    offset: int
    size: int


def is_table(view: memoryview) -> bool:
    """Whether the bytes end as a table."""
    return len(view) >= _FOOTER and bytes(view[-8:]) == MAGIC


def blocks(view: memoryview) -> list[Block]:
    """The blocks of a table in the order of their keys; only the footer and the index are read.

    Raises `CheckpointError` (`file.damaged`) where the index is wrong or does not match its checksum.
    """
    if not is_table(view):
        raise damaged("the table has no footer at its end")
    footer = view[-_FOOTER:]
    at = varint(footer, varint(footer, 0)[1])[1]
    offset, at = varint(footer, at)
    size, _ = varint(footer, at)
    found = []
    for key, value in entries(view, Block(b"", offset, size)):
        start, at = varint(value, 0)
        found.append(Block(key, start, varint(value, at)[0]))
        if len(found) > _MOST_BLOCKS:
            raise damaged(f"the table claims more than {_MOST_BLOCKS:,} blocks")
    return found


def entries(view: memoryview, block: Block, *, checked: bool = True) -> Iterator[tuple[bytes, memoryview]]:
    """The (key, value) pairs of one block, in the order of their keys.

    `checked` compares the block with its checksum first, at about 10 MB/s. Raises `CheckpointError`: `file.damaged`,
    or `file.unsupported` for a compression other than Snappy.
    """
    end = block.offset + block.size
    if end + _TRAILER > len(view):
        raise damaged(f"a block of {block.size:,} bytes at {block.offset:,} does not fit a table of {len(view):,}")
    if checked and masked(view[block.offset : end + 1]) != int.from_bytes(view[end + 1 : end + 5], "little"):
        raise damaged(f"the block at byte {block.offset:,} of the table does not match its checksum")
    body = view[block.offset : end]
    if view[end] == 1:
        body = memoryview(unsnap(body))
    elif view[end] != 0:
        raise unsupported(f"a block of the table is compressed with method {view[end]}; Snappy (1) is known")
    if len(body) < 4:
        raise damaged("a block of the table is too short")
    restarts = int.from_bytes(body[-4:], "little")
    end = len(body) - 4 - 4 * restarts
    if end < 0:
        raise damaged(f"a block of {len(body):,} bytes claims {restarts:,} restart points")
    yield from _pairs(body[:end])


def _pairs(body: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    at, key = 0, b""
    left = _MOST_KEYS * len(body) + 4096
    while at < len(body):
        shared, at = varint(body, at)
        own, at = varint(body, at)
        size, at = varint(body, at)
        if shared > len(key) or own + size > len(body) - at:
            raise damaged(f"an entry of the table shares {shared:,} bytes of a key and has {own:,} and {size:,} more")
        key = key[:shared] + bytes(body[at : at + own])
        at += own
        left -= len(key)
        if left < 0:
            raise damaged("the keys of a block share so much that they cannot be names")
        yield key, body[at : at + size]
        at += size


def unsnap(packed: memoryview) -> bytes:
    """Undo Snappy's block compression (https://github.com/google/snappy/blob/main/format_description.txt).

        unsnap(memoryview(b"\\x0a\\x0cab\\x12\\x02"))    # not whole: raises

    Raises `CheckpointError` (`file.damaged`) where the data contradicts itself, or claims to become more than
    Snappy can pack into its size.
    """
    size, at = varint(packed, 0)
    if size > _MOST_UNPACKED * len(packed):
        raise damaged(f"{len(packed):,} compressed bytes claim to become {size:,}")
    out = bytearray()
    while at < len(packed):
        tag = packed[at]
        kind, length = tag & 3, (tag >> 2) + 1
        at += 1
        if kind == 0:
            if length > 60:
                width = length - 60
                length = int.from_bytes(packed[at : at + width], "little") + 1
                at += width
            if length > len(packed) - at:
                raise damaged("compressed data ends inside a literal")
            out += packed[at : at + length]
            at += length
        else:
            width = (1, 2, 4)[kind - 1]
            back = int.from_bytes(packed[at : at + width], "little")
            at += width
            if kind == 1:
                length, back = (tag >> 2 & 7) + 4, back | (tag >> 5) << 8
            if not 0 < back <= len(out) or at > len(packed):
                raise damaged(f"compressed data repeats bytes from {back:,} before its place of {len(out):,}")
            piece = out[-back:][:length]
            while len(piece) < length:
                piece += piece[: length - len(piece)]
            out += piece
        if len(out) > size:
            break
    if len(out) != size:
        raise damaged(f"compressed data becomes {len(out):,} bytes, {size:,} were announced")
    return bytes(out)
