"""How HDF5 finds things: symbol tables, B-trees of both versions, and the local, global and fractal heaps."""

from collections.abc import Iterator
from dataclasses import dataclass

from maskgraft.errors import CheckpointError
from maskgraft.files.faults import damaged, unsupported
from maskgraft.files.hdf5_source import Cursor, Source

_DEEPEST = 16


@dataclass(frozen=True, slots=True)
class Symbol:
    """One entry of a symbol table: a name, and the object header or the path that it stands for."""

    name: str
    header: int | None
    target: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stored piece of a chunked dataset: where it begins in the array, and where in the file."""

    origin: tuple[int, ...]
    size: int
    skipped_filters: int
    address: int


def symbols(source: Source, tree: int, heap: int, faults: list[CheckpointError]) -> Iterator[Symbol]:
    """The entries of an old-style group, by name.

    What cannot be read is put into `faults`, and the entries of the other nodes still come.
    """
    cursor = source.signed(heap, 8 + 2 * source.length_size + source.offset_size, b"HEAP")
    cursor.number(4)
    size = cursor.length()
    cursor.length()
    names = bytes(source.take(cursor.defined("a heap of names"), size))
    for address in _leaves(source, tree, faults):
        try:
            yield from _symbol_node(source, address, names)
        except CheckpointError as error:
            faults.append(error)


def _leaves(source: Source, tree: int, faults: list[CheckpointError]) -> Iterator[int]:
    """Addresses of the symbol nodes under a version 1 B-tree of a group."""
    pending: list[tuple[int, int | None]] = [(tree, None)]
    while pending:
        address, level = pending.pop()
        if level == -1:
            yield address
            continue
        try:
            cursor, found, count = _node(source, address, 0, level)
            body = cursor.part(count * (source.length_size + source.offset_size))
            children = []
            for _ in range(count):
                body.length()
                children.append((body.defined("a node"), found - 1))
            pending.extend(reversed(children))
        except CheckpointError as error:
            faults.append(error)


def _node(
    source: Source, address: int, kind: int, level: int | None, key: int | None = None
) -> tuple[Cursor, int, int]:
    """Cursor at the first key of a version 1 B-tree node, the node's level, and how many children it has."""
    source.budget.spend(records=1)
    head = source.signed(address, 8 + 2 * source.offset_size, b"TREE")
    found_kind, found_level, count = head.number(1), head.number(1), head.number(2)
    if found_kind != kind or found_level > _DEEPEST or level not in (None, found_level):
        raise damaged(f"the B-tree node at {address:,} is of kind {found_kind} and level {found_level}")
    source.budget.spend(records=count)
    size = count * ((source.length_size if key is None else key) + source.offset_size)
    return source.cursor(address + 8 + 2 * source.offset_size, size), found_level, count


def _symbol_node(source: Source, address: int, names: bytes) -> Iterator[Symbol]:
    head = source.signed(address, 8, b"SNOD")
    head.number(2)
    count = head.number(2)
    source.budget.spend(records=count)
    cursor = source.cursor(address + 8, count * (2 * source.offset_size + 24))
    for _ in range(count):
        name = _text_at(names, cursor.number(source.offset_size))
        header = cursor.address()
        kind = cursor.number(4)
        cursor.number(4)
        scratch = cursor.part(16)
        target = _text_at(names, scratch.number(4)) if kind == 2 else ""
        yield Symbol(name, None if kind == 2 else header, target)


def _text_at(names: bytes, at: int) -> str:
    end = names.find(b"\0", at)
    if at >= len(names) or end < 0:
        raise damaged(f"a name begins at byte {at:,} of a heap of {len(names):,} and does not end")
    return names[at:end].decode("utf-8", "replace")


def chunks(source: Source, tree: int, rank: int) -> Iterator[Chunk]:
    """The stored chunks of a dataset of `rank` axes, from its version 1 B-tree.

    Raises `CheckpointError` where the tree is cut or contradicts itself.
    """
    key = 8 + 8 * (rank + 1)
    pending: list[tuple[int, int | None]] = [(tree, None)]
    while pending:
        address, level = pending.pop()
        cursor, found, count = _node(source, address, 1, level, key)
        for _ in range(count):
            size, skipped = cursor.number(4), cursor.number(4)
            origin = tuple(cursor.number(8) for _ in range(rank))
            cursor.number(8)
            child = cursor.defined("a chunk")
            if found:
                pending.append((child, found - 1))
            else:
                yield Chunk(origin, size, skipped, child)


def global_object(source: Source, collection: int, index: int) -> memoryview:
    """One object of a global heap collection: the text of a variable-length string."""
    if collection not in source.heaps:
        source.heaps[collection] = _global_heap(source, collection)
    found = source.heaps[collection].get(index)
    if found is None:
        raise damaged(f"object {index} is not in the heap at {collection:,}")
    return found


def _global_heap(source: Source, collection: int) -> dict[int, memoryview]:
    head = source.signed(collection, 8 + source.length_size, b"GCOL")
    head.number(4)
    size = head.length()
    at, end = collection + 8 + source.length_size, collection + size
    found: dict[int, memoryview] = {}
    while at + 8 + source.length_size <= end:
        source.budget.spend(records=1)
        cursor = source.cursor(at, 8 + source.length_size)
        index = cursor.number(2)
        cursor.number(6)
        length = cursor.length()
        if index == 0:
            break
        found[index] = source.take(at + 8 + source.length_size, length)
        at += 8 + source.length_size + length + -length % 8
    return found


def dense(source: Source, heap: int, tree: int) -> Iterator[Cursor]:
    """The links or attributes of a new-style object that has many: a fractal heap in the order of a version 2 B-tree.

    Raises `CheckpointError`: `file.unsupported` for heaps that are compressed or hold objects of over 64 KB.
    """
    shape = _fractal_heap(source, heap)
    for record in _records(source, tree):
        yield _heap_object(source, shape, record)


@dataclass(frozen=True, slots=True)
class _Heap:
    id_size: int
    most_bits: int
    length_bytes: int
    width: int
    first_size: int
    direct_rows: int
    root: int
    rows: int


def _fractal_heap(source: Source, address: int) -> _Heap:
    cursor = source.signed(address, 22 + 12 * source.length_size + 3 * source.offset_size, b"FRHP")
    cursor.number(1)
    id_size, filtered = cursor.number(2), cursor.number(2)
    cursor.number(1)
    most_managed = cursor.number(4)
    cursor.bytes(2 * source.length_size + 2 * source.offset_size + 8 * source.length_size)
    width, first_size, largest = cursor.number(2), cursor.length(), cursor.length()
    most_bits = cursor.number(2)
    cursor.number(2)
    root, rows = cursor.defined("a heap of links"), cursor.number(2)
    if filtered:
        raise unsupported("its list of names is compressed")
    sound = 0 < first_size <= largest <= 1 << 32 and first_size & (first_size - 1) == 0 and largest & (largest - 1) == 0
    if not sound or not 0 < width <= 1024 or most_bits > 64 or rows > 64 or not 0 < id_size <= 64:
        raise damaged(f"the fractal heap at {address:,} describes itself impossibly")
    length_bytes = (min(largest, most_managed).bit_length() + 7) // 8
    direct_rows = largest.bit_length() - first_size.bit_length() + 2
    return _Heap(id_size, most_bits, length_bytes, width, first_size, direct_rows, root, rows)


def _row_size(heap: _Heap, row: int) -> int:
    """Bytes of heap that one block of a row of the doubling table covers."""
    return heap.first_size << max(row - 1, 0)


def _heap_object(source: Source, heap: _Heap, record: bytes) -> Cursor:
    kind = (record[0] >> 4) & 3
    if kind != 0:
        raise unsupported("one of its links or attributes is stored outside the heap that holds the others")
    offset_bytes = (heap.most_bits + 7) // 8
    if 1 + offset_bytes + heap.length_bytes > len(record):
        raise damaged("a heap address is shorter than the heap's own sizes")
    offset = int.from_bytes(record[1 : 1 + offset_bytes], "little")
    length = int.from_bytes(record[1 + offset_bytes : 1 + offset_bytes + heap.length_bytes], "little")
    block, rows, depth = heap.root, heap.rows, 0
    while rows:
        source.budget.spend(records=1)
        row, start = 0, 0
        while offset >= start + heap.width * _row_size(heap, row):
            start += heap.width * _row_size(heap, row)
            row += 1
            if row >= rows:
                raise damaged(f"a heap address of {offset:,} lies outside its heap")
        column = (offset - start) // _row_size(heap, row)
        offset -= start + column * _row_size(heap, row)
        place = row * heap.width + column
        head = 5 + source.offset_size + (heap.most_bits + 7) // 8
        source.signed(block, 4, b"FHIB")
        cursor = source.cursor(block + head + place * source.offset_size, source.offset_size)
        block = cursor.defined("a heap block")
        depth += 1
        if depth > _DEEPEST:
            raise damaged("a fractal heap is nested without end")
        rows = (
            0
            if row < heap.direct_rows
            else _row_size(heap, row).bit_length() - (heap.first_size * heap.width).bit_length() + 1
        )
        if row >= heap.direct_rows and rows <= 0:
            raise damaged("a fractal heap's rows contradict its width")
    source.signed(block, 4, b"FHDB")
    return source.cursor(block + offset, length)


def _records(source: Source, address: int) -> Iterator[bytes]:
    """The heap addresses in a version 2 B-tree of links (types 5, 6) or attributes (8, 9), in its order."""
    cursor = source.signed(address, 16 + source.offset_size + 2 + source.length_size, b"BTHD")
    cursor.number(1)
    kind, node_size, record_size, depth = cursor.number(1), cursor.number(4), cursor.number(2), cursor.number(2)
    cursor.number(2)
    root, count = cursor.address(), cursor.number(2)
    place, least = {5: (4, 11), 6: (8, 15), 8: (0, 17), 9: (0, 13)}.get(kind, (0, 0))
    if not least or record_size < least or depth > _DEEPEST or not record_size < node_size <= 1 << 24:
        raise damaged(f"the B-tree at {address:,} is of kind {kind} with records of {record_size} bytes")
    if root is None or count == 0:
        return
    size = 8 if kind in (8, 9) else 7
    most = (node_size - 10) // record_size
    count_bytes, total_bytes, total = _bytes_for(most), [0, 0], most
    for _ in range(depth):
        pointer = source.offset_size + count_bytes + total_bytes[-1]
        most = (node_size - 10 - pointer) // (record_size + pointer)
        if most <= 0:
            raise damaged(f"the B-tree at {address:,} has nodes too small for its records")
        total = (most + 1) * total + most
        total_bytes.append(_bytes_for(total))
    pending: list[bytes | tuple[int, int, int]] = [(root, count, depth)]
    while pending:
        item = pending.pop()
        if isinstance(item, bytes):
            yield item
            continue
        at, count, level = item
        source.budget.spend(records=1 + count)
        node = source.signed(at, node_size, b"BTIN" if level else b"BTLF")
        node.number(2)
        records = [bytes(node.bytes(record_size))[place : place + size] for _ in range(count)]
        if not level:
            pending.extend(reversed(records))
            continue
        children = []
        for _ in range(count + 1):
            child = node.defined("a B-tree node")
            below = node.number(count_bytes)
            node.number(total_bytes[level])
            children.append((child, below, level - 1))
        pending.append(children[-1])
        for record, child_entry in zip(reversed(records), reversed(children[:-1]), strict=True):
            pending.append(record)
            pending.append(child_entry)


def _bytes_for(number: int) -> int:
    return (number.bit_length() + 7) // 8
