"""What a training step should have answered: truth matched to anchors and proposals, samples drawn, mask targets."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from maskgraft.cutouts import Cutouts
from maskgraft.ops import boxes as box_ops
from maskgraft.sending import sent
from maskgraft.torchvision_ops import roi_align

Polygons = tuple[tuple[npt.NDArray[np.float64], ...], ...]


@dataclass(frozen=True, slots=True)
class Target:
    """The truth of one image, in pixels of the network's input.

    `boxes` float32 [N, 4] xyxy, `labels` int64 [N] in 0..K-1, `masks` those of the instances, which stay in the
    memory of the processor. `polygons`, where the data has them, hold for each instance its parts, each float64 [2P] as
    x, y, x, y …
    """

    boxes: Tensor
    labels: Tensor
    masks: Cutouts
    polygons: Polygons | None = None

    def to(self, device: torch.device) -> "Target":
        """The same truth on another device."""
        return replace(self, boxes=sent(self.boxes, device), labels=sent(self.labels, device))

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process would give each tensor a shared memory of its own, which takes longer than these few numbers.
        return _received, (self.boxes.cpu().numpy(), self.labels.cpu().numpy(), self.masks, self.polygons)


def _received(
    boxes: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], masks: Cutouts, polygons: Polygons | None
) -> Target:
    return Target(torch.from_numpy(boxes), torch.from_numpy(labels), masks, polygons)


def match(overlaps: Tensor, *, positive: float, negative: float, rescue: bool) -> tuple[Tensor, Tensor]:
    """Match candidates to truth by overlap [N truths, M candidates].

    Returns the best truth of each candidate, int64 [M], and its kind, int64 [M]: 1 positive (overlap ≥ `positive`),
    0 negative (< `negative`), -1 neither. `rescue`: the best candidates of each truth are positive however low their
    overlap (Ren et al. 2015, §3.1.2). Without truth everything is negative.
    """
    count = overlaps.shape[1]
    if not len(overlaps):
        return overlaps.new_zeros(count, dtype=torch.int64), overlaps.new_zeros(count, dtype=torch.int64)
    best, which = overlaps.max(0)
    kind = torch.full_like(which, -1)
    kind[best < negative] = 0
    kind[best >= positive] = 1
    if rescue:
        kind[(overlaps == overlaps.max(1, keepdim=True).values).any(0)] = 1
    return which, kind


def sample(
    kind: Tensor, *, count: int, positive_fraction: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw at most `count` candidates, at most `positive_fraction` of them positive; the rest is filled with negatives.

    Returns the indices of positives and of negatives. Without a `generator` on the same device, the draw uses torch's
    global one.
    """
    positive, negative = (torch.nonzero(kind == value).squeeze(1) for value in (1, 0))
    positives = min(len(positive), int(count * positive_fraction))
    negatives = min(len(negative), count - positives)
    # without a draw to make, the order is kept: results do not depend on the generator then
    if positives < len(positive):
        positive = positive[torch.randperm(len(positive), device=kind.device, generator=generator)[:positives]]
    if negatives < len(negative):
        negative = negative[torch.randperm(len(negative), device=kind.device, generator=generator)[:negatives]]
    return positive, negative


def mask_targets(
    target: Target, which: Tensor, boxes: Tensor, *, side: int, method: Literal["soft-bitmap", "bitmap", "polygon"]
) -> Tensor:
    """The truth inside each box [N, 4], as the mask head sees it: float32 [N, side, side].

    `which` int64 [N] says which instance each box is to be. "soft-bitmap" (torchvision) pools the bitmap without
    rounding; "bitmap" (Detectron2's bitmasks, MMDetection) pools it aligned and cuts at 0.5; "polygon" (Detectron2)
    draws the polygon at `side` × `side`, and takes the bitmap where an instance has no polygon.
    """
    if method == "polygon" and target.polygons is not None:
        return _drawn(target.polygons, which, boxes, side)
    regions = torch.cat((which[:, None].to(boxes.dtype), boxes), 1)
    soft = method == "soft-bitmap"
    pooled: Tensor = roi_align(_planes(target.masks, boxes.device), regions, side, 1.0, -1, aligned=not soft)[:, 0]
    return pooled if soft else (pooled >= 0.5).float()


def _planes(masks: Cutouts, device: torch.device) -> Tensor:
    """Masks on their whole picture, float32 [N, 1, height, width], laid together on the device."""
    pixels = sent(torch.from_numpy(masks.pixels()), device)
    ends = np.cumsum([part.size for part in masks.parts]).tolist()
    planes = torch.zeros((len(masks), 1, *masks.size), device=device)
    for plane, (top, left, bottom, right), part, end in zip(planes, masks.windows, masks.parts, ends, strict=True):
        plane[0, top:bottom, left:right] = pixels[end - part.size : end].view(part.shape)
    return planes


def _drawn(polygons: Polygons, which: Tensor, boxes: Tensor, side: int) -> Tensor:
    from faster_coco_eval import mask as coco_mask  # imported here: only polygon training needs it

    drawn = np.zeros((len(boxes), side, side), np.float32)
    for index, (instance, (x1, y1, x2, y2)) in enumerate(
        zip(which.tolist(), boxes.double().cpu().tolist(), strict=True)
    ):
        scale = np.array((side / max(x2 - x1, 0.1), side / max(y2 - y1, 0.1)))
        parts = [((part.reshape(-1, 2) - (x1, y1)) * scale).ravel() for part in polygons[instance]]
        encoded = coco_mask.merge(coco_mask.frPyObjects([part.tolist() for part in parts], side, side))
        drawn[index] = coco_mask.decode(encoded)
    return torch.from_numpy(drawn).to(boxes.device)


@dataclass(frozen=True, slots=True)
class RegionSample:
    """Proposals drawn for one training image: `boxes` [N, 4], `labels` [N] (K is background), the first `positives`
    of them foreground, `which` [N] the truth that each was matched to."""

    boxes: Tensor
    labels: Tensor
    which: Tensor
    positives: int


def sample_regions(
    proposals: Tensor,
    target: Target,
    *,
    classes: int,
    positive_iou: float,
    count: int,
    positive_fraction: float,
    inclusive: bool,
    generator: torch.Generator | None = None,
) -> RegionSample:
    """Draw proposals [M, 4] for the heads; the true boxes are proposals too."""
    boxes = torch.cat((proposals, target.boxes))
    overlaps = box_ops.iou(target.boxes, boxes, inclusive=inclusive)
    which, kind = match(overlaps, positive=positive_iou, negative=positive_iou, rescue=False)
    positive, negative = sample(kind, count=count, positive_fraction=positive_fraction, generator=generator)
    chosen = torch.cat((positive, negative))
    labels = torch.full((len(chosen),), classes, dtype=torch.int64, device=boxes.device)
    if len(target.labels):
        labels[: len(positive)] = target.labels[which[positive]]
    return RegionSample(boxes[chosen], labels, which[chosen], len(positive))


@dataclass(frozen=True, slots=True)
class Batch:
    """Images and truth as the network takes them.

    `pixels` float32 [B, 3, H, W], normalised and padded; `sizes` the height and width of each image without padding;
    `targets` the truth in pixels of the network's input; `ids` what the dataset calls the images. `seeds`, where given,
    decide for each image by itself which anchors and proposals are sampled, whatever images are beside it; `scales` are
    lengths in the input by lengths in the photograph; `mirrored` says which are shown with left and right exchanged.
    """

    pixels: Tensor
    sizes: tuple[tuple[int, int], ...]
    targets: tuple[Target, ...]
    ids: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    mirrored: tuple[bool, ...] = ()

    def generators(self) -> list[torch.Generator | None]:
        """A generator for each image, started from its seed; None for each where there are no seeds."""
        seeds = [one % 2**63 for one in self.seeds]
        return [torch.Generator(self.pixels.device).manual_seed(one) for one in seeds] or [None] * len(self.targets)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return replace(
            self, pixels=sent(self.pixels, device), targets=tuple(target.to(device) for target in self.targets)
        )

    def alone(self, index: int) -> "Batch":
        """One image of the batch, as if it had come by itself, but for its padding."""
        part = slice(index, index + 1)
        return Batch(
            self.pixels[part],
            self.sizes[part],
            self.targets[part],
            self.ids[part],
            self.seeds[part],
            self.scales[part],
            self.mirrored[part],
        )

    def relabelled(self, labels: Tensor) -> "Batch":
        """Labels of the dataset as labels of the model, which may have more classes or another order."""
        targets = tuple(replace(one, labels=labels[one.labels]) for one in self.targets)
        return replace(self, targets=targets)

    def pin_memory(self) -> "Batch":
        """The same batch with its pixels in page-locked memory (called by the data loader)."""
        return replace(self, pixels=self.pixels.pin_memory())
