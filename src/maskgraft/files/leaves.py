"""Arrays of every kind that can stand in the object that a file holds."""

from typing import Any, TypeGuard

from maskgraft.files.pickled_arrays import PickledArray
from maskgraft.files.tensors import LazyArray
from maskgraft.files.torch_tensors import TorchParameter, TorchTensor

Leaf = TorchTensor | TorchParameter | PickledArray | LazyArray


def is_leaf(value: Any) -> TypeGuard[Leaf]:
    """Whether a value is an array or tensor."""
    return isinstance(value, TorchTensor | TorchParameter | PickledArray | LazyArray)


def is_numeric(leaf: Leaf) -> bool:
    """Whether the elements are numbers, and no text, records or Python objects."""
    if isinstance(leaf, TorchTensor | TorchParameter):
        return True
    # ml_dtypes' kinds are "V" and "f".
    return leaf.dtype.names is None and leaf.dtype.kind in "biufcV" and leaf.dtype.char != "V"


def lazy(leaf: Leaf) -> LazyArray:
    """The array, still in the file."""
    return leaf if isinstance(leaf, LazyArray) else leaf.lazy()


def refusal(leaf: Leaf) -> str:
    """Why the values cannot be had, "" if they can."""
    return leaf.refusal if isinstance(leaf, TorchTensor | TorchParameter) else ""


def is_whole(leaf: Leaf) -> bool:
    """Whether the file has all the bytes."""
    return leaf.whole if isinstance(leaf, TorchTensor | TorchParameter) else True
