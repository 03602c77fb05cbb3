"""`Tensors`: what every reader gives and everything else takes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskgraft.errors import Finding

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class LazyArray:
    """An array that is still on disk: shape and dtype are known, `read()` fetches the values.

    `dtype` may be one of ml_dtypes' (bfloat16, float8_e4m3fn …). `read()` may return a read-only view into a
    memory map; copy it before writing to it. It raises `CheckpointError` when the bytes are not there.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], Array] = field(repr=False)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes of the values."""
        return self.size * self.dtype.itemsize

    @staticmethod
    def of(array: Array) -> "LazyArray":
        """An array that is already in memory."""
        return LazyArray(array.shape, array.dtype, lambda: array)


@dataclass(frozen=True, slots=True, eq=False)
class Tensors(Mapping[str, LazyArray]):
    """A checkpoint: a read-only mapping of name → lazy array, in the file's own order, plus what the file says.

        ckpt = mg.open("model_final.pth")
        ckpt["backbone.bottom_up.stem.conv1.weight"].shape      # (64, 3, 7, 7), nothing read yet
        ckpt["backbone.bottom_up.stem.conv1.weight"].read()     # numpy array

    `format` names the container ("pytorch-zip", "safetensors", "tf-bundle" …). `about` is everything in the file that
    is not a weight, as plain Python data (str, int, float, bool, None, list, dict, small numpy arrays and inert
    `Stub`s): wrapper entries such as epoch, meta, config, class names. `key` is the path of wrapper keys under which
    the weights stood ("model", "state_dict"); "" for a bare mapping. `slots` are arrays that belong to an optimizer or
    are moving-average copies and no part of the model. `findings` tell what is odd but did not stop the reading.
    """

    path: Path
    format: str
    arrays: Mapping[str, LazyArray]
    about: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    slots: Mapping[str, LazyArray] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def __getitem__(self, name: str) -> LazyArray:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def __repr__(self) -> str:
        parameters = sum(array.size for array in self.values())
        return f"<Tensors {self.path.name}: {self.format}, {len(self)} tensors, {parameters:,} values>"
