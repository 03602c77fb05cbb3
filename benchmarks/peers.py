"""What is compared: the same weights in both models, the same photographs, and torchvision's model as it is built.

The weights are those of `tests/golden/torchvision-r50fpn` (made by rule, 90 classes), the photographs those of COCO in
the folder that MASKGRAFT_SHARED names, or the golden case's own, drawn one where it is absent.
"""

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.ops.misc import FrozenBatchNorm2d

from maskgraft.detections import Detections
from maskgraft.ops.boxes import iou

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "torchvision-r50fpn"
SHARED = Path(os.environ.get("MASKGRAFT_SHARED", ROOT.parent / "shared"))
CLASSES = 90


@contextmanager
def workplace() -> Iterator[tuple[Path, Path]]:
    """A folder that is gone afterwards, and the checkpoint in it."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with tarfile.open(GOLDEN / "checkpoint.tar.xz") as tar:
            tar.extractall(folder, filter="data")
        yield folder, next(folder.glob("*.pth"))


def photographs(folder: Path, number: int) -> list[Path]:
    """That many photographs; drawn ones are written to `folder`."""
    real = sorted(SHARED.rglob("coco_tiny/**/*.jpg"))[:number]
    if real:
        return real
    with np.load(GOLDEN / "golden.npz") as golden:
        drawn = golden["image"]
    for index in range(number):
        turned = drawn[:, ::-1] if index % 2 else drawn
        Image.fromarray(np.ascontiguousarray(turned)).save(folder / f"{index}.png")
    return [folder / f"{index}.png" for index in range(number)]


def theirs_with(file: Path, **options: Any) -> Any:
    """torchvision's model as its own builder makes it, with frozen norms as its trained detectors have them."""
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES + 1, **options)
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], FrozenBatchNorm2d(module.num_features, eps=module.eps))
    state = torch.load(file, weights_only=True)
    model.load_state_dict({name: one for name, one in state.items() if not name.endswith("num_batches_tracked")})
    return model


def agreeing(ours: Detections, boxes: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor) -> int:
    """How many of a peer's detections `ours` has too: the class, and box and mask at an IoU of 0.98 and more."""
    agree = 0
    for box, label, mask in zip(boxes, labels, masks, strict=True):
        near = iou(box[None], ours.boxes)[0] * (ours.labels == label)
        twin = int(near.argmax()) if len(near) else -1
        if twin >= 0 and near[twin] > 0.98:
            union = (ours.masks[twin] | mask).sum()
            agree += int((ours.masks[twin] & mask).sum() >= 0.98 * union)
    return agree
