"""Files that a family would have written, made from its own links: names and shapes are real, values are not."""

from pathlib import Path

import numpy as np
import torch

from maskgraft.families import family
from maskgraft.files import LazyArray, Tensors
from maskgraft.model import MaskRCNN
from maskgraft.spec import Spec


def canonical_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in MaskRCNN(spec).state_dict().items()}


def drawn(spec: Spec, era: str = "", *, extra: dict[str, tuple[int, ...]] | None = None) -> Tensors:
    """What a file of `spec` holds, in names of `era`, and `extra` tensors beside it."""
    shapes = canonical_shapes(spec)
    arrays = {}
    for link in family(spec.family).links(spec, era):
        array = link.back(np.zeros(shapes[link.ours], np.float32))
        for name in (link.theirs, *link.copies):
            arrays[name] = LazyArray.of(array)
    arrays |= {name: LazyArray.of(np.zeros(shape, np.float32)) for name, shape in (extra or {}).items()}
    return Tensors(Path("drawn"), "drawn", arrays)
