"""PaddlePaddle's `.pdparams`: a pickle of arrays with the framework's own marks in it."""

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from maskgraft.files import pickles
from maskgraft.files.contents import Contents
from maskgraft.files.faults import damaged
from maskgraft.files.leaves import is_leaf, lazy
from maskgraft.files.pickled_arrays import checked_shape
from maskgraft.files.tensors import Array, LazyArray
from maskgraft.files.torch_legacy import KNOWN as TORCH_KNOWN

_NAMES, _SPLIT = "StructuredToParameterName@@", "UnpackBigParamInfor@@"


def _tensor(text: Any, values: Any) -> Any:
    """`eval("data", {"data": array})` is how Paddle has a tensor pickled; nothing else of it is answered."""
    if text == "data" and isinstance(values, dict) and list(values) == ["data"]:
        return values["data"]
    return NotImplemented


KNOWN: pickles.Known = {**TORCH_KNOWN, ("builtins", "eval"): _tensor}


def settled(contents: Contents) -> Contents:
    """The same contents, with Paddle's marks read where it is Paddle's: pairs (name, array) become the array, arrays
    above 2^30 elements, which are stored in slices, become one again, and the map of names goes to `about`.
    """
    value = contents.value
    if not isinstance(value, dict) or not (_NAMES in value or _SPLIT in value or any(map(_is_pair, value.values()))):
        return contents
    entries = {name: entry[1] if _is_pair(entry) else entry for name, entry in value.items()}
    names, split = entries.pop(_NAMES, {}), entries.pop(_SPLIT, {})
    if isinstance(split, dict):
        for name, plan in split.items():
            entries[name] = _whole(name, plan, entries)
    return replace(contents, format="paddle", value=entries, about={**contents.about, "parameter_names": names})


def _is_pair(entry: Any) -> bool:
    return isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str) and is_leaf(entry[1])


def _whole(name: Any, plan: Any, entries: dict[Any, Any]) -> LazyArray:
    slices = plan.get("slices") if isinstance(plan, dict) else None
    if not isinstance(slices, list) or not all(isinstance(part, str) and is_leaf(entries.get(part)) for part in slices):
        raise damaged(f"{str(name)[:100]!r} is stored in slices that the file does not have")
    shape = checked_shape(plan.get("OriginShape"))
    parts = [lazy(entries.pop(part)) for part in slices]
    if not parts or sum(part.size for part in parts) != prod(shape):
        raise damaged(f"the slices of {str(name)[:100]!r} do not make up {list(shape)}")
    return LazyArray(shape, parts[0].dtype, _joining(parts, shape))


def _joining(parts: list[LazyArray], shape: tuple[int, ...]) -> Callable[[], Array]:
    return lambda: np.concatenate([part.read().reshape(-1) for part in parts]).reshape(shape)
