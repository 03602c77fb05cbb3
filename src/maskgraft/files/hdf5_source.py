"""The bytes of an HDF5 file: superblock, addresses, and what lies past the end.

Layouts are those of the HDF5 File Format Specification, version 3.0 (https://support.hdfgroup.org/documentation/).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from maskgraft.errors import CheckpointError, Finding
from maskgraft.files.faults import damaged, unsupported

SIGNATURE = b"\x89HDF\r\n\x1a\n"

_MOST_RECORDS = 250_000
_PIECE = 1 << 22
_PLACES = (0, 512, 1024, 2048, 4096)


@dataclass(slots=True)
class Budget:
    """How much work one file may still cause, so that records that point at each other in circles come to an end."""

    records: int
    text: int

    @property
    def spent(self) -> bool:
        """Whether nothing may be read any more."""
        return self.records < 0 or self.text < 0

    def spend(self, *, records: int = 0, text: int = 0) -> None:
        """Raises `CheckpointError` (`file.damaged`) when more is asked for than any sound file needs."""
        self.records -= records
        self.text -= text
        if self.records < 0:
            raise damaged("the file's records lead in circles, or are more than any checkpoint has")
        if self.text < 0:
            raise damaged("its text attributes are longer than the file, so they must overlap")


@dataclass(frozen=True, slots=True)
class Source:
    """A view on the whole file, where addresses count from, and where the file was meant to end.

    `heaps` keeps the global heap collections that were read, as views by address and number.
    """

    view: memoryview
    base: int
    expected: int
    root: int
    offset_size: int
    length_size: int
    budget: Budget
    heaps: dict[int, dict[int, memoryview]]

    @property
    def cut(self) -> bool:
        """Whether bytes are missing at the end."""
        return self.expected > len(self.view)

    def take(self, address: int, size: int) -> memoryview:
        """The bytes at an address.

        Raises `CheckpointError`: `file.truncated` where they were meant to be and are not, `file.damaged` where
        they lie past the end that the file declares.
        """
        start = self.base + address
        if start + size <= len(self.view):
            return self.view[start : start + size]
        if start + size <= self.expected:
            raise CheckpointError(
                Finding(
                    "file.truncated",
                    "error",
                    f"bytes {start:,} to {start + size:,} are missing: the file ends at {len(self.view):,}",
                    evidence={"bytes": len(self.view), "expected": self.expected},
                )
            )
        raise damaged(f"a record claims bytes {start:,} to {start + size:,} of a file of {self.expected:,}")

    def cursor(self, address: int, size: int) -> "Cursor":
        """A cursor over the bytes at an address."""
        return Cursor(self.take(address, size), self.offset_size, self.length_size)

    def signed(self, address: int, size: int, signature: bytes) -> "Cursor":
        """A cursor behind the four letters that every index record begins with."""
        cursor = self.cursor(address, size)
        found = bytes(cursor.bytes(4))
        if found != signature:
            raise damaged(f"{signature.decode()!r} belongs at byte {self.base + address:,}, {found!r} stands there")
        return cursor


@dataclass(slots=True)
class Cursor:
    """Numbers read one after the other from a record; never past its end."""

    view: memoryview
    offset_size: int
    length_size: int
    at: int = 0

    @property
    def left(self) -> int:
        """Bytes that are still unread."""
        return len(self.view) - self.at

    def bytes(self, size: int) -> memoryview:
        """The next bytes, without a copy."""
        start, self.at = self.at, self.at + size
        if self.at > len(self.view):
            raise damaged(f"a record of {len(self.view):,} bytes is too short by {self.at - len(self.view):,}")
        return self.view[start : self.at]

    def number(self, size: int) -> int:
        """The next unsigned little-endian number."""
        return int.from_bytes(self.bytes(size), "little")

    def length(self) -> int:
        """The next size in bytes."""
        return self.number(self.length_size)

    def address(self) -> int | None:
        """The next file address; `None` for all bits set, which stands for nothing there."""
        found = self.number(self.offset_size)
        return None if found == (1 << (8 * self.offset_size)) - 1 else found

    def defined(self, what: str) -> int:
        """The next file address, which must not be empty."""
        found = self.address()
        if found is None:
            raise damaged(f"{what} has no address")
        return found

    def part(self, size: int) -> "Cursor":
        """A cursor over the next bytes."""
        return Cursor(self.bytes(size), self.offset_size, self.length_size)

    def align(self) -> None:
        """Go on at the next multiple of eight."""
        self.at += -self.at % 8


def signature_at(view: memoryview) -> int | None:
    """Where the HDF5 signature stands: at the first byte, or behind a user block; `None` when nowhere."""
    return next((place for place in _PLACES if bytes(view[place : place + 8]) == SIGNATURE), None)


def open_source(view: memoryview) -> Source:
    """Read the superblock.

    `view` holds the whole file. The result's `expected` is the end-of-file address that the writer left, counted
    from the first byte of `view`.

    Raises `CheckpointError`: `file.truncated` when not even the superblock is whole, `file.unsupported` for a
    version that does not exist yet, `file.damaged` otherwise.
    """
    place = signature_at(view)
    if place is None:
        raise damaged("no HDF5 signature")
    if len(view) < place + 96:
        raise CheckpointError(
            Finding(
                "file.truncated",
                "error",
                f"the file ends after {len(view)} bytes, inside its first record",
                evidence={"bytes": len(view)},
                fix="download or copy the file again",
            )
        )
    version = view[place + 8]
    at = place + (13 if version < 2 else 9)
    offset_size, length_size = view[at], view[at + 1]
    if version > 3:
        raise unsupported(f"HDF5 superblock version {version}; versions 0 to 3 are read")
    if offset_size not in (2, 4, 8) or length_size not in (2, 4, 8):
        raise damaged(f"HDF5 addresses of {offset_size} and sizes of {length_size} bytes")
    cursor = Cursor(view, offset_size, length_size, {0: place + 24, 1: place + 28}.get(version, place + 12))
    base = cursor.defined("the file")
    cursor.address()
    expected = cursor.defined("the end of the file")
    if version < 2:
        cursor.address()
        cursor.number(offset_size)
    root = cursor.defined("the root group")
    if base != place:
        base, expected = place, expected - base + place
    budget = Budget(min(_MOST_RECORDS, 2000 + len(view) // 4), len(view))
    return Source(view, base, expected, root, offset_size, length_size, budget, {})


def header_places(source: Source) -> Iterator[int]:
    """Addresses where a version 1 object header may begin, found by looking at every eighth byte.

    Values can look like a header too: the caller parses what it finds.
    """
    # Version 1, a zero, any number of messages, one reference.
    wanted, given = 0x0000_0001_0000_0001, 0xFFFF_FFFF_0000_FFFF
    body = source.view[source.base :]
    for start in range(0, len(body) - 7, _PIECE):
        piece = body[start : start + _PIECE]
        words = np.frombuffer(piece, "<u8", len(piece) // 8)
        for place in np.flatnonzero((words & np.uint64(given)) == np.uint64(wanted)):
            yield start + 8 * int(place)
