"""TensorFlow checkpoints of the second format, written: an index of sorted names, and one file of values.

The index is a LevelDB table (https://github.com/google/leveldb/blob/main/doc/table_format.md) of the messages of
tensorflow/core/protobuf/tensor_bundle.proto.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from maskgraft.files.crc32c import masked
from maskgraft.files.tensors import Array
from maskgraft.files.tf_objects import GRAPH_KEY, SUFFIX
from maskgraft.files.tf_values import STRING, code_of
from maskgraft.files.writing import atomic

_BLOCK = 4096  # bytes after which a block of the table ends
_WEIGHTED = "layer_with_weights-"
_MAGIC = bytes.fromhex("57fb808b247547db")


def write_bundle(prefix: Path, arrays: Mapping[str, Array], *, objects: bool) -> None:
    """Write `prefix`.index and `prefix`.data-00000-of-00001.

    With `objects`, names are paths of attributes ("model/backbone/layer_with_weights-0/kernel"), as TensorFlow 2 keeps
    them: the graph of objects that leads to them is written too, so that `tf.train.Checkpoint` restores them.
    """
    keys = {name + SUFFIX if objects else name: array for name, array in arrays.items()}
    index, data = bundle_places(prefix)
    entries: dict[bytes, bytes] = {b"": _field(1, 1) + _field(3, _field(1, 1))}
    with atomic(index) as index_file, atomic(data) as data_file:
        with open(data_file, "wb") as file:
            for key, array in sorted(keys.items()):
                stored = np.ascontiguousarray(array).tobytes()
                entries[key.encode()] = _entry(code_of(array.dtype), array.shape, file.tell(), stored)
                file.write(stored)
            if objects:
                graph = _object_graph(list(arrays))
                length = _varint(len(graph))
                stored = length + struct.pack("<I", masked(struct.pack("<I", len(graph)))) + graph
                checksum = masked(struct.pack("<I", len(graph)) + stored[len(length) :])
                entries[GRAPH_KEY.encode()] = _entry(STRING, (), file.tell(), stored, checksum)
                file.write(stored)
        index_file.write_bytes(_table(entries))


def bundle_places(prefix: Path) -> tuple[Path, Path]:
    """The files of a bundle: its index, and its values."""
    prefix = prefix.with_name(prefix.name.removesuffix(".index"))
    return prefix.with_name(f"{prefix.name}.index"), prefix.with_name(f"{prefix.name}.data-00000-of-00001")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _entry(code: int, shape: Sequence[int], offset: int, stored: bytes, checksum: int | None = None) -> bytes:
    """A `BundleEntryProto`."""
    axes = b"".join(_field(2, _field(1, axis)) for axis in shape)
    crc = masked(stored) if checksum is None else checksum
    return (
        _field(1, code)
        + _field(2, axes)
        + (_field(4, offset) if offset else b"")
        + _field(5, len(stored))
        + _varint(6 << 3 | 5)
        + struct.pack("<I", crc)
    )


def _object_graph(names: Sequence[str]) -> bytes:
    """A `TrackableObjectGraph` in which every part of a path is an object, and the last of each holds a variable.

    A Keras model is restored by its "layer_with_weights-…", which one that is not built has none of yet: where there is
    but one, it stands as the first layer too, by which a `Sequential` finds it.
    """
    numbers = {"": 0}
    children: list[list[tuple[str, int]]] = [[]]
    for name in names:
        parts = name.split("/")
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            if path not in numbers:
                numbers[path] = len(children)
                children.append([])
                children[numbers["/".join(parts[: depth - 1])]].append((parts[depth - 1], numbers[path]))
    for below in children:
        weighted = [number for part, number in below if part.startswith(_WEIGHTED)]
        if len(weighted) == 1:
            below.append(("layer-0", weighted[0]))
    variables = {numbers[name]: name for name in names}
    graph = b""
    for number, below in enumerate(children):
        node = b"".join(_field(1, _field(1, child) + _field(2, part.encode())) for part, child in below)
        if number in variables:
            name = variables[number]
            texts = (b"VARIABLE_VALUE", name.encode(), (name + SUFFIX).encode())
            node += _field(2, b"".join(_field(at, text) for at, text in enumerate(texts, 1)))
        graph += _field(1, node)
    return graph


def _table(entries: Mapping[bytes, bytes]) -> bytes:
    out, ends = bytearray(), []
    block: list[tuple[bytes, bytes]] = []
    for key, value in sorted(entries.items()):
        block.append((key, value))
        if sum(len(one) + len(other) for one, other in block) >= _BLOCK:
            ends.append((key, _append(out, _block(block))))
            block = []
    if block:
        ends.append((block[-1][0], _append(out, _block(block))))
    meta = _append(out, _block([]))
    index = _append(out, _block(ends))
    return bytes(out) + (meta + index).ljust(40, b"\0") + _MAGIC


def _append(out: bytearray, block: bytes) -> bytes:
    """Put a block and its trailer (kind 0: not compressed, and the checksum of both) behind `out`; its handle."""
    handle = _varint(len(out)) + _varint(len(block))
    out += block + b"\0" + struct.pack("<I", masked(block + b"\0"))
    return handle


def _block(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Keys and values, with one restart point: no key leaves out what it shares with the one before."""
    out = b"".join(_varint(0) + _varint(len(key)) + _varint(len(value)) + key + value for key, value in pairs)
    return out + struct.pack("<II", 0, 1)
