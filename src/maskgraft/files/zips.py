"""Zip archives as a table of views: nothing is extracted, stored members are not copied.

Layout: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT (sections 4.3 to 4.5).
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from maskgraft.files.faults import damaged, outside, unsupported

_LOCAL, _DIRECTORY, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END64, _LOCATOR64 = b"PK\x06\x06", b"PK\x06\x07"
_STORED, _DEFLATED = 0, 8
_MAX_RATIO = 1032  # what deflate can reach


@dataclass(frozen=True, slots=True)
class Member:
    """One file in an archive: where its local header is, how many bytes it has there and unpacked, how it is packed."""

    name: str
    header: int
    packed: int
    size: int
    method: int
    checksum: int


def is_zip(archive: memoryview) -> bool:
    """Whether the bytes begin as an archive with at least one member, or are an empty one."""
    return bytes(archive[:4]) in (_LOCAL, _END)


def is_whole(archive: memoryview) -> bool:
    """Whether the directory, which is written last, is there."""
    return _end_record(archive) >= 0


def members(archive: memoryview) -> Mapping[str, Member]:
    """The members by name, in the order of the directory.

    Raises `CheckpointError`: `file.damaged` where the directory contradicts itself or the file's size,
    `file.outside` where a member's name leads out of the archive.
    """
    end = _end_record(archive)
    if end < 0:
        raise damaged("the archive has no directory at its end")
    count, size, start = struct.unpack("<HII", archive[end + 10 : end + 20])
    if count == 0xFFFF or 0xFFFFFFFF in (size, start):
        count, size, start = _large_directory(archive, end)
    if start + size > end:
        raise damaged(f"the archive's directory of {size:,} bytes at {start:,} does not fit before byte {end:,}")
    found: dict[str, Member] = {}
    for member in _entries(archive[start : start + size], count):
        if member.name in found:
            raise damaged(f"the archive has {member.name!r} twice")
        if member.header + 30 + member.packed > start:
            raise damaged(f"{member.name!r} claims {member.packed:,} bytes at {member.header:,}, beyond the directory")
        found[member.name] = member
    return found


def read(archive: memoryview, member: Member) -> memoryview:
    """A member's bytes: a view where it is stored, unpacked and checked where it is deflated."""
    start = _data_start(archive, member.header)
    packed = archive[start : start + member.packed]
    if len(packed) < member.packed:
        raise damaged(f"{member.name!r} is cut after {len(packed):,} of {member.packed:,} bytes")
    if member.method == _STORED:
        return packed
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = unpacker.decompress(packed, member.size)
        left_over = unpacker.unconsumed_tail or (not unpacker.eof and unpacker.decompress(b"", 1))
    except zlib.error as error:
        raise damaged(f"{member.name!r} cannot be unpacked ({error})") from None
    if len(data) != member.size or left_over or zlib.crc32(data) != member.checksum:
        raise damaged(f"{member.name!r} unpacks to something else than its {member.size:,} bytes")
    return memoryview(data)


def head(archive: memoryview, member: Member, size: int) -> memoryview:
    """The first bytes of a member, unpacked no further than that."""
    start = _data_start(archive, member.header)
    packed = archive[start : start + member.packed]
    if member.method == _STORED:
        return packed[:size]
    try:
        return memoryview(zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed[: size + 4096], size))
    except zlib.error as error:
        raise damaged(f"{member.name!r} cannot be unpacked ({error})") from None


def scan(archive: memoryview, size_of: Callable[[str, int], int]) -> Iterator[tuple[str, int]]:
    """Name and first byte of every member of an archive that has no directory, the cut one included.

    `size_of(name, start)` gives the least number of bytes that the member has, as far as the caller knows: the search
    for the next member begins after them.
    """
    at = 0
    while 0 <= at <= len(archive) - 30:
        start = _data_start(archive, at)
        name_size = struct.unpack("<H", archive[at + 26 : at + 28])[0]
        if start > len(archive):
            return
        name = bytes(archive[at + 30 : at + 30 + name_size]).decode("utf-8", "replace")
        yield name, start
        at = _find(archive, _LOCAL, start + size_of(name, start))


def _end_record(archive: memoryview) -> int:
    low = max(0, len(archive) - 22 - 0xFFFF)
    place = bytes(archive[low:]).rfind(_END)
    return low + place if 0 <= place <= len(archive) - low - 22 else -1


def _large_directory(archive: memoryview, end: int) -> tuple[int, int, int]:
    if end < 20 or bytes(archive[end - 20 : end - 16]) != _LOCATOR64:
        raise damaged("the archive is a large one and lacks the record that says where its directory is")
    place = struct.unpack("<Q", archive[end - 12 : end - 4])[0]
    if place + 56 > end or bytes(archive[place : place + 4]) != _END64:
        raise damaged("the archive's record of its large directory is not where it should be")
    count, size, start = struct.unpack("<QQQ", archive[place + 32 : place + 56])
    return count, size, start


def _entries(directory: memoryview, count: int) -> Iterator[Member]:
    at = 0
    for _ in range(count):
        entry = directory[at : at + 46]
        if len(entry) < 46 or bytes(entry[:4]) != _DIRECTORY:
            raise damaged(f"the archive's directory ends or breaks before its {count:,} members")
        flags, method = struct.unpack("<HH", entry[8:12])
        checksum, packed, size, name_size, extra_size, comment_size = struct.unpack("<IIIHHH", entry[16:34])
        header = struct.unpack("<I", entry[42:46])[0]
        names = directory[at + 46 : at + 46 + name_size]
        extra = directory[at + 46 + name_size : at + 46 + name_size + extra_size]
        if len(names) + len(extra) < name_size + extra_size:
            raise damaged("a name in the archive's directory is cut")
        name = bytes(names).decode("utf-8" if flags & 0x800 else "cp437", "replace")
        size, packed, header = _large_sizes(extra, (size, packed, header))
        _check(name, flags, method, packed, size)
        yield Member(name, header, packed, size, method, checksum)
        at += 46 + name_size + extra_size + comment_size


def _large_sizes(extra: memoryview, sizes: tuple[int, int, int]) -> tuple[int, int, int]:
    at, large = 0, memoryview(b"")
    while at + 4 <= len(extra):
        kind, length = struct.unpack("<HH", extra[at : at + 4])
        if kind == 1:
            large = extra[at + 4 : at + 4 + length]
        at += 4 + length
    full = []
    for size in sizes:
        if size == 0xFFFFFFFF:
            if len(large) < 8:
                raise damaged("a member of the archive above 4 GB does not say its size")
            size = struct.unpack("<Q", large[:8])[0]
            large = large[8:]
        full.append(size)
    return full[0], full[1], full[2]


def _check(name: str, flags: int, method: int, packed: int, size: int) -> None:
    if ".." in name.replace("\\", "/").split("/"):
        raise outside(f"the archive has a member named {name[:100]!r}, which leads out of it", member=name[:200])
    if flags & 1:
        raise unsupported(f"{name!r} is encrypted", fix="unpack the archive with its password and write it again")
    if method not in (_STORED, _DEFLATED):
        raise unsupported(f"{name!r} is packed with method {method}; only stored and deflated members are read")
    if (method == _STORED and packed != size) or size > _MAX_RATIO * packed + 64:
        raise damaged(f"{name!r} claims {size:,} bytes unpacked from {packed:,}", claimed=size, packed=packed)


def _data_start(archive: memoryview, header: int) -> int:
    local = archive[header : header + 30]
    if len(local) < 30 or bytes(local[:4]) != _LOCAL:
        raise damaged(f"no member of the archive begins at byte {header:,}")
    name_size, extra_size = struct.unpack("<HH", local[26:30])
    return header + 30 + int(name_size) + int(extra_size)


def _find(archive: memoryview, wanted: bytes, at: int) -> int:
    step = 1 << 20
    while at < len(archive):
        place = bytes(archive[at : at + step + 3]).find(wanted)
        if place >= 0:
            return at + place
        at += step
    return -1
