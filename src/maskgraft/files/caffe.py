"""Caffe models (`.caffemodel`): blobs by layer and number.

Numbers of fields: NetParameter, LayerParameter, V1LayerParameter and BlobProto in
https://github.com/BVLC/caffe/blob/master/src/caffe/proto/caffe.proto
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from maskgraft.errors import CheckpointError
from maskgraft.files import protobuf
from maskgraft.files.contents import Contents
from maskgraft.files.cuts import Cut
from maskgraft.files.faults import damaged
from maskgraft.files.pickled_arrays import checked_shape
from maskgraft.files.protobuf import BYTES, VARINT, fields, integer, text, view
from maskgraft.files.tensors import Array, LazyArray


@dataclass(frozen=True, slots=True)
class _Era:
    """Where a layer keeps its name, type and blobs."""

    name: int
    kind: int
    kind_wire: int
    blobs: int


_ERAS = {100: _Era(1, 2, BYTES, 7), 2: _Era(4, 5, VARINT, 6)}


def is_caffe(data: memoryview) -> bool:
    """Whether the bytes are a NetParameter with at least one layer of either era."""
    try:
        for number, wire, value in fields(data, cut=True):
            if number not in (1, 2, 3, 4, 5, 6, 7, 8, 100):
                return False
            if number in _ERAS:
                return wire == BYTES and _is_layer(view(value), _ERAS[number])
    except CheckpointError:
        return False
    return False


def _is_layer(layer: memoryview, era: _Era) -> bool:
    wires = {number: wire for number, wire, _ in fields(layer, cut=True)}
    return wires.get(era.name) == BYTES and wires.get(era.kind) == era.kind_wire


def read(data: memoryview) -> Contents:
    """The blobs as "layer.0", "layer.1" …; `about` has the net's name and each layer's type."""
    expected = protobuf.claimed(data)
    cut = Cut(len(data), expected, exact=False) if expected > len(data) else None
    arrays: dict[str, LazyArray] = {}
    kinds: dict[str, Any] = {}
    name = ""
    for number, wire, value in fields(data, cut=cut is not None):
        if number == 1 and wire == BYTES:
            name = text(value)
        if number in _ERAS and wire == BYTES:
            layer = view(value)
            if cut is not None and protobuf.claimed(layer) > len(layer):
                continue
            _add_layer(layer, _ERAS[number], arrays, kinds)
    return Contents("caffe", arrays, about={"name": name, "layers": kinds}, cut=cut)


def _add_layer(layer: memoryview, era: _Era, arrays: dict[str, LazyArray], kinds: dict[str, Any]) -> None:
    name, kind, blobs = "", "", []
    for number, wire, value in fields(layer):
        if number == era.name and wire == BYTES:
            name = text(value)
        elif number == era.kind and wire == era.kind_wire:
            kind = text(value) if wire == BYTES else str(integer(value))
        elif number == era.blobs and wire == BYTES:
            blobs.append(view(value))
    kinds[name] = kind
    for place, blob in enumerate(blobs):
        label = f"{name}.{place}"
        if label in arrays:
            raise damaged(f"the net has two layers of the name {name!r} with weights")
        arrays[label] = _blob(blob, label)


def _blob(message: memoryview, name: str) -> LazyArray:
    sizes: dict[int, int] = {}
    dims: list[int] | None = None
    parts: list[memoryview] = []
    kind = np.dtype("<f4")
    for number, wire, value in fields(message):
        if number in (1, 2, 3, 4) and wire == VARINT:
            sizes[number] = integer(value)
        elif number == 7 and wire == BYTES:
            dims = [size for field, _, part in fields(view(value)) if field == 1 for size in protobuf.integers(part)]
        elif number in (5, 8):
            kind = np.dtype("<f4" if number == 5 else "<f8")
            parts.append(protobuf.floats(value, wire, kind.itemsize))
    if dims is None:
        dims = [sizes.get(number, 1) for number in (1, 2, 3, 4)]
    shape = checked_shape(dims)
    have = sum(map(len, parts))
    if have != prod(shape) * kind.itemsize:
        raise damaged(f"{name!r} {list(shape)} needs {prod(shape) * kind.itemsize:,} bytes, the net has {have:,}")
    return LazyArray(shape, kind, lambda: _joined(parts, shape, kind))


def _joined(parts: list[memoryview], shape: tuple[int, ...], kind: np.dtype[Any]) -> Array:
    if len(parts) == 1 and len(parts[0]):
        return np.frombuffer(parts[0], kind).reshape(shape)
    return np.frombuffer(b"".join(parts) or b"", kind).reshape(shape) if parts else np.empty(shape, kind)
