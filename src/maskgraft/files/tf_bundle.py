"""TensorFlow checkpoints of the second format: an index, and the values in one or several data files.

Names of TensorFlow 1 are the variables' own ("FirstStageFeatureExtractor/resnet_v1_50/conv1/weights"). Those of
TensorFlow 2 are paths of attributes ("model/backbone/layer_with_weights-0/kernel"; see `tf_objects.names_of`). Field
numbers are those of tensorflow/core/protobuf/tensor_bundle.proto.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from maskgraft.errors import CheckpointError, Finding
from maskgraft.files import unreadable
from maskgraft.files.cuts import Cut, salvaged, truncated
from maskgraft.files.faults import damaged, unsupported
from maskgraft.files.mapping import beside, mapped
from maskgraft.files.protobuf import VARINT, varint
from maskgraft.files.sstable import blocks, entries, is_table
from maskgraft.files.tensors import Array, LazyArray, Tensors
from maskgraft.files.tf_objects import GRAPH_KEY, ObjectGraph, names_of, object_graph
from maskgraft.files.tf_slots import sort_out
from maskgraft.files.tf_values import (
    STRING,
    Slice,
    dtype_of,
    is_message_of,
    message,
    number_in,
    shape_of,
    slice_of,
    strings,
)

_MOST_TEXT = 1 << 20
_MOST_SHARDS = 100_000
_POINTER = 1024


@dataclass(frozen=True, slots=True)
class _Entry:
    """One record of the index: what a tensor is, and where its bytes or its slices stand."""

    code: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes of a data file, and which part of the tensor they are (`None`: all of it)."""

    shard: int
    offset: int
    size: int
    place: tuple[slice, ...] | None
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Shard:
    """One data file: how many bytes it has, and why it cannot be read."""

    path: Path
    bytes: int
    fault: Finding | None


def first_entry(view: memoryview) -> tuple[bytes, memoryview] | None:
    """The first entry of a table; `None` when the bytes are no table or none can be read."""
    if not is_table(view):
        return None
    try:
        found = blocks(view)
        return next(entries(view, found[0]), None) if found else None
    except CheckpointError:
        return None


def is_bundle_index(view: memoryview) -> bool:
    """Whether the bytes are the index of a bundle: a table whose first entry, under the empty key, is its header."""
    first = first_entry(view)
    return first is not None and first[0] == b"" and is_message_of(first[1], (1, VARINT))


def bundle_tensors(index: Path, *, salvage: bool = False) -> Tensors:
    """Read a bundle by its index file.

        bundle_tensors(Path("model.ckpt-22500.index"))["Conv/weights"].read()

    A data file that is missing, or is only a Git LFS pointer, is a finding: names and shapes are there, and `read()`
    raises. `slots` has optimizer slots and moving averages. `about` has the counters `global_step` and `save_counter`,
    `slots` (how many of each kind), `texts` (string tensors), `shards`, and for TensorFlow 2 `full_names`: the
    variables' own names by their names here.

    Raises `CheckpointError`: `file.damaged`; `file.truncated` when a data file is shorter than the index says (with
    `salvage` the tensors that are whole come instead); `file.outside` when a data file is a link to elsewhere.
    """
    records, parts, count = _index(mapped(index))
    pieces = {key: _pieces(key, entry, parts) for key, entry in records.items()}
    shards = _shards(index, count, {piece.shard for found in pieces.values() for piece in found})
    data = cache(lambda shard: mapped(shards[shard].path))

    texts = {key: entry for key, entry in records.items() if entry.code == STRING and key != GRAPH_KEY}
    graph = _graph(records.get(GRAPH_KEY), shards, data)
    keys = [key for key, entry in records.items() if entry.code != STRING]
    names = names_of(keys, graph)
    cut = _cut(shards, {names[key]: pieces[key] for key in keys}, salvage)
    missing = {name for finding in cut for name in finding.names}
    arrays = {names[key]: _lazy(records[key], pieces[key], shards, data) for key in keys if names[key] not in missing}

    found = sort_out(arrays)
    about: dict[str, Any] = {"shards": count, **found.about}
    if graph is not None:
        full_names = {key: full for key, full in graph.variables.values()}
        about["full_names"] = {names[key]: full_names[key] for key in keys if full_names.get(key)}
    if texts:
        about["texts"] = _texts(texts, shards, data)
    faults = tuple(shard.fault for shard in shards.values() if shard.fault)
    findings = (*faults, *cut, *found.findings)
    return Tensors(index, "tf-bundle", found.weights, about, slots=found.slots, findings=findings)


def _index(view: memoryview) -> tuple[dict[str, _Entry], dict[bytes, _Entry], int]:
    """All tensors by key, all slices of partitioned ones by table key, and the number of data files."""
    records: dict[str, _Entry] = {}
    parts: dict[bytes, _Entry] = {}
    count = 0
    for block in blocks(view):
        for key, value in entries(view, block):
            if not key:
                header = message(value)
                count = number_in(header, 1)
                if number_in(header, 2):
                    raise unsupported("the checkpoint was written on a big-endian machine")
                if not 0 < count <= _MOST_SHARDS:
                    raise damaged(f"the index speaks of {count:,} data files")
            elif key[0] == 0:
                parts[key] = _entry(value, count)
            else:
                records[key.decode("utf-8", "replace")] = _entry(value, count)
    if not count:
        raise damaged("the index has no header")
    return records, parts, count


def _entry(value: memoryview, count: int) -> _Entry:
    found = message(value)
    entry = _Entry(
        number_in(found, 1),
        shape_of(found.get(2, [])),
        number_in(found, 3),
        number_in(found, 4),
        number_in(found, 5),
        tuple(slice_of(part) for part in found.get(7, [])),
    )
    if not 0 <= entry.shard < count or entry.offset < 0 or entry.size < 0:
        raise damaged(f"a tensor stands in data file {entry.shard} of {count} at byte {entry.offset:,}")
    return entry


def _pieces(key: str, entry: _Entry, parts: Mapping[bytes, _Entry]) -> list[_Piece]:
    """Where a tensor's bytes stand. Raises `CheckpointError` where they are not as many as its shape needs."""
    dtype = dtype_of(entry.code)
    if dtype is None:
        return [_Piece(entry.shard, entry.offset, entry.size, None, entry.shape)]
    found = []
    for part in entry.slices:
        place = part.within(entry.shape)
        stored = parts.get(part.key(key))
        if stored is None:
            raise damaged(f"{key!r} has a part at {part.starts} that the index does not list")
        shape = tuple(axis.stop - axis.start for axis in place)
        found.append(_Piece(stored.shard, stored.offset, stored.size, place, shape))
    if not entry.slices:
        found.append(_Piece(entry.shard, entry.offset, entry.size, None, entry.shape))
    for piece in found:
        if piece.size != prod(piece.shape) * dtype.itemsize:
            raise damaged(f"{key!r} of shape {piece.shape} and type {dtype} has {piece.size:,} bytes")
    if sum(prod(piece.shape) for piece in found) != prod(entry.shape):
        raise damaged(f"the parts of {key!r} do not make up its shape {entry.shape}")
    return found


def _shards(index: Path, count: int, used: set[int]) -> dict[int, _Shard]:
    prefix = index.name.removesuffix(".index")
    found = {}
    for number in sorted(used):
        path = index.with_name(f"{prefix}.data-{number:05d}-of-{count:05d}")
        if not path.is_file():
            found[number] = _Shard(path, 0, _missing(path, index))
            continue
        beside(index, path.name)
        pointer = _lfs_pointer(path)
        found[number] = _Shard(path, path.stat().st_size, pointer)
    return found


def _missing(path: Path, index: Path) -> Finding:
    return Finding(
        "file.missing-shard",
        "error",
        f"{path.name} is not beside {index.name}: names and shapes are known, values are not",
        evidence={"file": path.name},
        fix=f"put {path.name} into the folder of {index.name}",
    )


def _lfs_pointer(path: Path) -> Finding | None:
    told = unreadable.told(path, mapped(path)) if path.stat().st_size < _POINTER else None
    if told is None or told.code != "file.lfs-pointer":
        return None
    return replace(told, message=f"{told.message}: names and shapes are known, values are not")


def _is_there(piece: _Piece, shards: Mapping[int, _Shard]) -> bool:
    shard = shards[piece.shard]
    return shard.fault is None and piece.offset + piece.size <= shard.bytes


def _cut(shards: Mapping[int, _Shard], pieces: Mapping[str, list[_Piece]], salvage: bool) -> list[Finding]:
    """Data files that are shorter than the index says; raised as an error unless what is whole was asked for."""
    whole = [name for name, found in pieces.items() if all(_is_there(piece, shards) for piece in found)]
    missing = [name for name in pieces if name not in set(whole)]
    short = []
    for number, shard in shards.items():
        ends = (piece.offset + piece.size for found in pieces.values() for piece in found if piece.shard == number)
        cut = Cut(shard.bytes, max(ends, default=0))
        if shard.fault is None and cut.expected > cut.present:
            short.append((shard.path, cut))
    if short and not (salvage and whole):
        raise CheckpointError(truncated(path, cut, whole, len(pieces)) for path, cut in short)
    return [salvaged(path, cut, len(whole), missing) for path, cut in short]


def _bytes_of(piece: _Piece, shards: Mapping[int, _Shard], data: Callable[[int], memoryview]) -> memoryview:
    shard = shards[piece.shard]
    if shard.fault is not None:
        raise CheckpointError(shard.fault)
    found = data(piece.shard)[piece.offset : piece.offset + piece.size]
    if len(found) < piece.size:
        raise damaged(f"{shard.path.name} has become shorter since it was opened")
    return found


def _lazy(
    entry: _Entry, pieces: list[_Piece], shards: Mapping[int, _Shard], data: Callable[[int], memoryview]
) -> LazyArray:
    dtype = dtype_of(entry.code)
    assert dtype is not None
    kind = dtype

    def read() -> Array:
        if pieces and pieces[0].place is None:
            return np.frombuffer(_bytes_of(pieces[0], shards, data), kind).reshape(entry.shape)
        for piece in pieces:
            _bytes_of(piece, shards, data)
        array = np.zeros(entry.shape, kind)
        for piece in pieces:
            array[piece.place] = np.frombuffer(_bytes_of(piece, shards, data), kind).reshape(piece.shape)
        return array

    return LazyArray(entry.shape, dtype, read)


def _graph(entry: _Entry | None, shards: Mapping[int, _Shard], data: Callable[[int], memoryview]) -> ObjectGraph | None:
    if entry is None or entry.code != STRING or shards[entry.shard].fault is not None:
        return None
    piece = _Piece(entry.shard, entry.offset, entry.size, None, entry.shape)
    if not _is_there(piece, shards):
        return None
    view = _bytes_of(piece, shards, data)
    size, at = varint(view, 0)
    if entry.shape != () or at + 4 + size > len(view):
        raise damaged(f"the object graph of {size:,} bytes does not fit its {len(view):,}")
    return object_graph(view[at + 4 : at + 4 + size])


def _texts(
    texts: Mapping[str, _Entry], shards: Mapping[int, _Shard], data: Callable[[int], memoryview]
) -> dict[str, Any]:
    """String tensors as text or lists of text; `None` for what is long or not there."""
    found: dict[str, Any] = {}
    for key, entry in texts.items():
        piece = _Piece(entry.shard, entry.offset, entry.size, None, entry.shape)
        found[key] = None
        if piece.size <= _MOST_TEXT and _is_there(piece, shards):
            values = strings(_bytes_of(piece, shards, data), prod(entry.shape))
            plain = [value.decode("utf-8", "replace") for value in values]
            found[key] = plain[0] if entry.shape == () else plain
    return found
