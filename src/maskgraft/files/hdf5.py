"""HDF5 files as named nodes, whole or cut off: groups with attributes, datasets that are read when asked for.

The structure is read here and not by the HDF5 library, so that a file that ends too early still gives what it has,
a hostile one meets limits instead of a C library, and values are views into the file. Only the newer kinds of
chunk index are left to h5py.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from maskgraft.errors import CheckpointError
from maskgraft.files.faults import damaged, outside, unsupported
from maskgraft.files.hdf5_index import dense, symbols
from maskgraft.files.hdf5_source import Cursor, Source, header_places, open_source
from maskgraft.files.hdf5_values import (
    Datatype,
    Layout,
    attribute_value,
    check_storage,
    dataspace,
    datatype,
    filters,
    layout,
    read_values,
)
from maskgraft.files.tensors import Array, LazyArray

_DEEPEST_GROUP = 64
_DATASPACE, _LINK_INFO, _DATATYPE, _LINK, _EXTERNAL, _LAYOUT = 0x1, 0x2, 0x3, 0x6, 0x7, 0x8
_FILTERS, _ATTRIBUTE, _CONTINUATION, _SYMBOLS, _ATTRIBUTE_INFO = 0xB, 0xC, 0x10, 0x11, 0x15


@dataclass(frozen=True, slots=True)
class Node:
    """A group or a dataset. `array` is `None` for groups and for datasets that are no numbers (`what` says what)."""

    kind: Literal["group", "dataset"]
    attributes: Mapping[str, Any]
    array: LazyArray | None = None
    what: str = ""


@dataclass(frozen=True, slots=True)
class Tree:
    """Every node of an HDF5 file by its path ("" is the root, "conv1/conv1/kernel:0" a dataset), in the file's order.

    `faults` holds what is wrong by the path where it was met; what stands under such a path may be incomplete.
    `notes` holds what is sound and cannot be read. `expected` is the file's size as its writer left it, `present`
    what there is.
    """

    nodes: Mapping[str, Node]
    faults: Mapping[str, CheckpointError]
    notes: Mapping[str, CheckpointError]
    present: int
    expected: int

    @property
    def cut(self) -> bool:
        """Whether the file ends before its end."""
        return self.expected > self.present


@dataclass(frozen=True, slots=True)
class _Header:
    """The messages of one object: (kind, is shared, content); `fault` when not all of them could be read."""

    messages: list[tuple[int, bool, Cursor]]
    fault: CheckpointError | None


@dataclass(frozen=True, slots=True)
class _Link:
    name: str
    header: int | None = None
    target: str = ""
    order: int | None = None


@dataclass(slots=True)
class _Walk:
    source: Source
    file: Path | None
    nodes: dict[str, Node] = field(default_factory=dict)
    faults: dict[str, CheckpointError] = field(default_factory=dict)
    notes: dict[str, CheckpointError] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)


def walk(view: memoryview, *, file: Path | None = None) -> Tree:
    """Read the structure of an HDF5 file; no values.

        tree = walk(mapped(path), file=path)
        tree.nodes["conv1/conv1/kernel:0"].array.read()

    `view` holds the file's bytes; `file` is where they come from, `None` when they are a member of an archive.
    Truncation is no error here (see `Tree.cut`): groups whose parent is lost are searched for, and stand under the
    path "@" and their address ("@13752/conv1/kernel:0").

    Raises `CheckpointError` when not even the superblock can be read, and `file.outside` when any link, external
    storage or virtual dataset leads out of the file.
    """
    walking = _Walk(open_source(view), file)
    _descend(walking, "", walking.source.root)
    if walking.source.cut:
        for address in _orphans(walking):
            _descend(walking, f"@{address}", address)
    _follow_aliases(walking)
    leading_out = [
        finding for error in walking.faults.values() for finding in error.findings if finding.code == "file.outside"
    ]
    if leading_out:
        raise CheckpointError(leading_out)
    return Tree(walking.nodes, walking.faults, walking.notes, len(view), walking.source.expected)


def _descend(walking: _Walk, path: str, address: int) -> None:
    """Note every node from an object header downwards."""
    pending = [(path, address)]
    while pending:
        path, address = pending.pop()
        try:
            walking.source.budget.spend(records=1)
            links = _visit(walking, path, address)
            if links is None:
                continue
            pending.extend(reversed(list(_children(walking, path, links))))
        except CheckpointError as error:
            walking.faults[path] = error
            if walking.source.budget.spent:
                return


def _orphans(walking: _Walk) -> list[int]:
    """Addresses of groups that no group reached so far leads to, in the file's order, the topmost of each."""
    found: dict[int, set[int]] = {}
    for address in header_places(walking.source):
        header = _header(walking.source, address)
        if address in walking.seen or not any(kind == _SYMBOLS for kind, _, _ in header.messages):
            continue
        trial = _Walk(walking.source, walking.file)
        try:
            found[address] = {link.header for link in _links(trial, "", header) if link.header is not None}
        except CheckpointError:
            found[address] = set()
        if walking.source.budget.spent:
            break
    children = set().union(*found.values())
    return [address for address in found if address not in children]


def _visit(walking: _Walk, path: str, address: int) -> list[_Link] | None:
    """Note the node at an object header; a group's links, `None` for a dataset."""
    source = walking.source
    header = _header(source, address)
    if header.fault:
        walking.faults[path] = header.fault
    attributes = _attributes(walking, path, header)
    kinds = {kind for kind, _, _ in header.messages}
    if _LAYOUT in kinds or _DATASPACE in kinds:
        walking.nodes[path] = _dataset(walking, path, header, attributes)
        return None
    if path and not kinds & {_SYMBOLS, _LINK_INFO, _LINK} and header.fault:
        return None
    if address in walking.seen or path.count("/") >= _DEEPEST_GROUP:
        raise damaged(f"the group {path!r} stands in two places or inside itself, or too deep")
    walking.seen.add(address)
    walking.nodes[path] = Node("group", attributes)
    return list(_links(walking, path, header))


def _children(walking: _Walk, path: str, links: list[_Link]) -> Iterator[tuple[str, int]]:
    if all(link.order is not None for link in links):
        links = sorted(links, key=lambda link: link.order or 0)
    for link in links:
        child = f"{path}/{link.name}" if path else link.name
        if not link.name or "/" in link.name or child in walking.nodes or child in walking.aliases:
            raise damaged(f"the group {path!r} holds {link.name!r} twice or under no proper name")
        if link.header is None:
            walking.aliases[child] = link.target if link.target.startswith("/") else f"{path}/{link.target}"
        else:
            yield child, link.header


def _follow_aliases(walking: _Walk) -> None:
    """Soft links to datasets become datasets; all others are noted."""
    for path, target in walking.aliases.items():
        node = walking.nodes.get("/".join(part for part in target.split("/") if part not in ("", ".")))
        if node is not None and node.kind == "dataset":
            walking.nodes[path] = node
        else:
            walking.notes[path] = unsupported(f"{path!r} is a link to {target!r}, which is no dataset of this file")


def _header(source: Source, address: int) -> _Header:
    """All messages of an object header, its continuation blocks included."""
    messages: list[tuple[int, bool, Cursor]] = []
    try:
        if bytes(source.take(address, 4)) == b"OHDR":
            blocks, tracked = _modern_header(source, address)
        else:
            cursor = source.cursor(address, 16)
            version = cursor.number(1)
            cursor.bytes(7)
            size = cursor.number(4)
            if version != 1:
                raise damaged(f"an object header of version {version} at byte {address:,}")
            blocks, tracked = [(address + 16, size)], None
        seen: set[int] = set()
        while blocks:
            at, size = blocks.pop(0)
            if at in seen:
                raise damaged(f"the object header at byte {address:,} continues in itself")
            seen.add(at)
            block = source.cursor(at, size)
            while block.left >= (8 if tracked is None else 4 + tracked):
                source.budget.spend(records=1)
                kind = block.number(2 if tracked is None else 1)
                length, flags = block.number(2), block.number(1)
                block.bytes(3 if tracked is None else tracked)
                message = block.part(length)
                if kind == _CONTINUATION:
                    start, extent = message.defined("the rest of an object header"), message.length()
                    if tracked is not None:
                        source.signed(start, 4, b"OCHK")
                        start, extent = start + 4, max(extent - 8, 0)
                    blocks.append((start, extent))
                elif kind:
                    messages.append((kind, bool(flags & 2), message))
    except CheckpointError as error:
        return _Header(messages, error)
    return _Header(messages, None)


def _modern_header(source: Source, address: int) -> tuple[list[tuple[int, int]], int]:
    """The first block of a version 2 object header, and how many bytes of creation order each message carries."""
    cursor = source.signed(address, 6, b"OHDR")
    version, flags = cursor.number(1), cursor.number(1)
    if version != 2:
        raise damaged(f"an object header of version {version} at byte {address:,}")
    at = address + 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0)
    width = 1 << (flags & 3)
    size = source.cursor(at, width).number(width)
    return [(at + width, size)], 2 if flags & 4 else 0


def _attributes(walking: _Walk, path: str, header: _Header) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, shared, message in header.messages:
        try:
            if kind == _ATTRIBUTE and not shared:
                name, value = _attribute(walking.source, message)
                found[name] = value
            elif kind == _ATTRIBUTE_INFO:
                flags = (message.number(1), message.number(1))[1]
                message.bytes(2 if flags & 1 else 0)
                heap, tree = message.address(), message.address()
                for cursor in dense(walking.source, heap, tree) if heap is not None and tree is not None else ():
                    name, value = _attribute(walking.source, cursor)
                    found[name] = value
        except CheckpointError as error:
            if error.findings[0].code != "file.unsupported":
                walking.faults[path] = error
    return found


def _attribute(source: Source, message: Cursor) -> tuple[str, Any]:
    version, flags = message.number(1), message.number(1)
    if version not in (1, 2, 3):
        raise damaged(f"an attribute of version {version}")
    sizes = [message.number(2) for _ in range(3)]
    message.bytes(1 if version == 3 else 0)
    parts = []
    for size in sizes:
        parts.append(message.part(size))
        message.bytes(-size % 8 if version == 1 else 0)
    name = bytes(parts[0].view).split(b"\0", 1)[0].decode("utf-8", "replace")
    if version > 1 and flags & 3:
        raise unsupported(f"the attribute {name!r} has a type that is stored elsewhere")
    return name, attribute_value(source, datatype(parts[1]), dataspace(parts[2]), message)


def _links(walking: _Walk, path: str, header: _Header) -> Iterator[_Link]:
    source = walking.source
    for kind, _, message in header.messages:
        if kind == _SYMBOLS:
            faults: list[CheckpointError] = []
            for symbol in symbols(source, message.defined("a group"), message.defined("a group"), faults):
                yield _Link(symbol.name, symbol.header, symbol.target)
            if faults:
                walking.faults[path] = CheckpointError(finding for fault in faults for finding in fault.findings)
        elif kind == _LINK:
            yield _link(message)
        elif kind == _LINK_INFO:
            flags = (message.number(1), message.number(1))[1]
            message.bytes(8 if flags & 1 else 0)
            heap, tree = message.address(), message.address()
            if heap is not None and tree is not None:
                yield from (_link(cursor) for cursor in dense(source, heap, tree))


def _link(message: Cursor) -> _Link:
    version, flags = message.number(1), message.number(1)
    if version != 1:
        raise damaged(f"a link of version {version}")
    kind = message.number(1) if flags & 8 else 0
    order = message.number(8) if flags & 4 else None
    message.bytes(1 if flags & 16 else 0)
    width = 1 << (flags & 3)
    name = bytes(message.bytes(message.number(width))).decode("utf-8", "replace")
    if kind == 0:
        return _Link(name, message.defined(f"the link {name!r}"), order=order)
    target = bytes(message.bytes(message.number(2))).decode("utf-8", "replace")
    if kind == 1:
        return _Link(name, target=target, order=order)
    raise outside(f"{name!r} is a link to another file ({target.strip(chr(0))!r})" if kind == 64 else f"link {name!r}")


def _dataset(walking: _Walk, path: str, header: _Header, attributes: Mapping[str, Any]) -> Node:
    source = walking.source
    kind: Datatype | None = None
    shape: tuple[int, ...] | None = (0,)
    stored: Layout | None = None
    pipeline: tuple[int, ...] = ()
    for number, shared, message in header.messages:
        if number == _EXTERNAL:
            raise outside(f"{path!r} has its values in other files")
        if shared and number in (_DATATYPE, _DATASPACE, _LAYOUT, _FILTERS):
            return Node("dataset", attributes, what="a type that is stored elsewhere")
        if number == _DATATYPE:
            kind = datatype(message)
        elif number == _DATASPACE:
            shape = dataspace(message)
        elif number == _LAYOUT:
            stored = layout(message)
        elif number == _FILTERS:
            pipeline = filters(message)
    if kind is None or stored is None:
        raise header.fault or damaged(f"{path!r} has no type or no storage")
    dtype = np.dtype(f"V{kind.size}") if kind.kind == "opaque" and kind.size else kind.dtype
    if dtype is None or shape is None:
        return Node("dataset", attributes, what=(kind.what or kind.kind) if shape is not None else "nothing")
    where, sizes = stored, shape
    try:
        check_storage(source, stored, pipeline, prod(shape) * dtype.itemsize)
    except CheckpointError as error:
        (walking.notes if error.findings[0].code == "file.unsupported" else walking.faults)[path] = error

    def read() -> Array:
        return read_values(
            source, where, pipeline, shape=sizes, dtype=dtype, foreign=lambda: _by_h5py(walking.file, source.view, path)
        )

    return Node("dataset", attributes, LazyArray(shape, dtype.newbyteorder("="), read))


def _by_h5py(file: Path | None, view: memoryview, path: str) -> Array:
    import h5py

    try:
        with h5py.File(file if file is not None else io.BytesIO(view), "r") as opened:
            return np.asarray(opened[path][()])
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise damaged(f"{path!r} cannot be read: {error}") from None
