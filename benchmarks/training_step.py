"""A step of training: forward, losses, backward, optimizer, beside torchvision with the same weights and truth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import maskgraft as mg
from benchmarks import timing
from benchmarks.peers import CLASSES, theirs_with, workplace
from benchmarks.timing import Row
from maskgraft import policy
from maskgraft.cutouts import Cutouts
from maskgraft.precision import Precision, autocast
from maskgraft.targets import Batch, Target

# The losses by their names here and in torchvision.
_LOSSES = {
    "rpn_cls": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "cls": "loss_classifier",
    "box": "loss_box_reg",
    "mask": "loss_mask",
}
_TRAINED = ("backbone.body.layer2", "backbone.body.layer3", "backbone.body.layer4", "backbone.fpn", "rpn", "roi_heads")
_EVERYTHING = 100_000


def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    with workplace() as (_, file):
        rows = [_training(file, 1 if quick else 5)]
    timing.report("training_step", rows, quick=quick, out=out)


def _training(file: Path, rounds: int) -> Row:
    """A step of two images of 416 pixels; stem and first stage frozen, as torchvision trains."""
    told = agreement(file)
    spent = timing.alternate(rounds, steps(file))
    return Row("training step, 2 images of 416 pixels", spent["ours"], spent["theirs"], "torchvision", "≥ 1.25×", told)


def agreement(file: Path, device: str = "cpu", *, side: int = 416, precision: Precision = "float32") -> str:
    """How far the losses of two images are from torchvision's, when every region is sampled and nothing is by lot.

    Ours are computed in `precision`, torchvision's in float32.
    """
    compared = steps(file, everything=True, device=device, side=min(side, 416), precision=precision)
    mine, others = compared["ours"](), compared["theirs"]()
    furthest = max(abs(mine[ours] - others[theirs]) / others[theirs] for ours, theirs in _LOSSES.items())
    return f"the five losses within {furthest:.1e}, all regions sampled"


def steps(
    file: Path,
    *,
    everything: bool = False,
    device: str = "cpu",
    images: int = 2,
    side: int = 416,
    precision: Precision = "float32",
) -> dict[str, Callable[[], dict[str, float]]]:
    """A step of each model with the same weights and truth; ours in `precision`."""
    options: dict[str, Any] = {"min_size": side, "max_size": side, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    numerics = None
    if everything:
        options |= {"rpn_batch_size_per_image": _EVERYTHING, "box_batch_size_per_image": _EVERYTHING}
        numerics = {"rpn_samples": _EVERYTHING, "roi_samples": _EVERYTHING}
    theirs, ours = theirs_with(file, **options).train().to(device), mg.load(file, numerics=numerics).train().to(device)
    policy.apply(ours, "3+")
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_(name.startswith(_TRAINED))
    batch = drawn(side, images).to(torch.device(device))
    pixels = list(batch.pixels)
    targets = [
        {
            "boxes": one.boxes,
            "labels": one.labels + 1,
            "masks": torch.from_numpy(one.masks.planes()).to(device, torch.uint8),
        }
        for one in batch.targets
    ]

    def we() -> dict[str, torch.Tensor]:
        with autocast(torch.device(device), precision):
            losses: dict[str, torch.Tensor] = ours(batch)
            return losses

    return {"ours": _step(ours, we), "theirs": _step(theirs, lambda: theirs(pixels, targets))}


def _step(model: Any, losses: Callable[[], dict[str, torch.Tensor]]) -> Callable[[], dict[str, float]]:
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=1e-12, momentum=0.9)

    def step() -> dict[str, float]:
        found = losses()
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(found.values())).sum().backward()
        optimizer.step()
        return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))

    return step


def drawn(side: int, images: int) -> Batch:
    """A batch of noise with eight boxes an image."""
    random = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(images):
        corners = torch.rand(8, 2, generator=random) * side * 0.6
        boxes = torch.cat((corners, corners + 20 + torch.rand(8, 2, generator=random) * side * 0.3), 1)
        masks = torch.zeros(8, side, side, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = True
        targets.append(Target(boxes, torch.randint(0, CLASSES, (8,), generator=random), Cutouts.of(masks.numpy())))
    pixels = torch.rand(images, 3, side, side, generator=random)
    return Batch(pixels, ((side, side),) * images, tuple(targets), tuple(range(images)))
