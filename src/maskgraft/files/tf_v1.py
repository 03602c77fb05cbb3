"""TensorFlow checkpoints of the first format (before 2017): one table with names, shapes and values.

Field numbers are those of tensorflow/core/util/saved_tensor_slice.proto. Variables may be stored in slices.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from maskgraft.files.faults import damaged
from maskgraft.files.mapping import mapped
from maskgraft.files.protobuf import BYTES
from maskgraft.files.sstable import blocks, entries
from maskgraft.files.tensors import Array, LazyArray, Tensors
from maskgraft.files.tf_bundle import first_entry
from maskgraft.files.tf_slots import sort_out
from maskgraft.files.tf_values import (
    Slice,
    dtype_of,
    is_message_of,
    message,
    number_in,
    shape_of,
    slice_of,
    text_in,
    typed_values,
)

_MOST_RATIO = 64


def is_v1(view: memoryview) -> bool:
    """Whether the bytes are a checkpoint of the first format: a table whose first entry describes the tensors."""
    first = first_entry(view)
    return first is not None and first[0] == b"" and is_message_of(first[1], (1, BYTES))


@dataclass(frozen=True, slots=True)
class _Variable:
    """A tensor's name, shape and type, and the slices in which it is stored."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    slices: tuple[Slice, ...]


def v1_tensors(path: Path) -> Tensors:
    """Read a checkpoint of the first format.

    `slots` and `about` are as in `tf_bundle.bundle_tensors`. Values are unpacked when they are read.
    Raises `CheckpointError` (`file.damaged`) where the table or its description contradict themselves.
    """
    view = mapped(path)
    table = blocks(view)
    variables, texts = _described(view)
    lasts = [block.last for block in table]

    @lru_cache(maxsize=8)
    def content(place: int) -> dict[bytes, memoryview]:
        return dict(entries(view, table[place], checked=False))

    def find(key: bytes) -> memoryview:
        place = bisect_left(lasts, key)
        value = content(place).get(key) if place < len(table) else None
        if value is None:
            raise damaged("a slice that the file describes is not in its table")
        return value

    arrays = {}
    for variable in variables:
        if prod(variable.shape) * variable.dtype.itemsize > _MOST_RATIO * len(view):
            raise damaged(f"{variable.name!r} of shape {variable.shape} cannot stand in {len(view):,} bytes")
        arrays[variable.name] = _lazy(variable, find)
    found = sort_out(arrays)
    about = {**found.about, **({"not_read": texts} if texts else {})}
    return Tensors(path, "tf-v1", found.weights, about, slots=found.slots, findings=found.findings)


def _described(view: memoryview) -> tuple[list[_Variable], list[str]]:
    """All variables, and the names of those that are texts."""
    first = first_entry(view)
    if first is None:
        raise damaged("the table has no first entry")
    variables: dict[str, _Variable] = {}
    texts = []
    for meta in message(first[1]).get(1, []):
        for tensor in message(meta).get(1, []):
            found = message(tensor)
            name, dtype = text_in(found, 1), dtype_of(number_in(found, 3))
            if name in variables or name in texts:
                raise damaged(f"the file describes {name!r} twice")
            if dtype is None:
                texts.append(name)
                continue
            slices = tuple(slice_of(part) for part in found.get(4, []))
            variables[name] = _Variable(name, shape_of(found.get(2, [])), dtype, slices)
    return list(variables.values()), texts


def _lazy(variable: _Variable, find: Callable[[bytes], memoryview]) -> LazyArray:
    def part(stored: Slice, shape: tuple[int, ...]) -> Array:
        for saved in message(find(stored.key(variable.name))).get(2, []):
            for proto in message(saved).get(3, []):
                values = typed_values(message(proto), variable.dtype)
                if len(values) != prod(shape):
                    raise damaged(f"a slice of {variable.name!r} has {len(values):,} values, its shape is {shape}")
                return values.reshape(shape)
        raise damaged(f"a slice of {variable.name!r} holds no values")

    def read() -> Array:
        places = [stored.within(variable.shape) for stored in variable.slices]
        sizes = [tuple(axis.stop - axis.start for axis in place) for place in places]
        if sum(prod(size) for size in sizes) != prod(variable.shape):
            raise damaged(f"the slices of {variable.name!r} do not make up its shape {variable.shape}")
        if sizes == [variable.shape]:
            return part(variable.slices[0], variable.shape)
        array = np.zeros(variable.shape, variable.dtype)
        for stored, place, size in zip(variable.slices, places, sizes, strict=True):
            array[place] = part(stored, size)
        return array

    return LazyArray(variable.shape, variable.dtype, read)
