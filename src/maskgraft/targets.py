"""What a training step should have answered: truth matched to anchors and proposals, samples drawn, mask targets."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from maskgraft import mask_answers
from maskgraft.cutouts import Cutouts
from maskgraft.ops import boxes as box_ops
from maskgraft.sending import sent
from maskgraft.spec import MaskCrop

Size = tuple[int, int]
Rescue = Literal["all", "overlapping", "undecided", "first", "taken", "none"]
Method = Literal["soft-bitmap", "bitmap", "polygon", "polygon-or-cut", MaskCrop]
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


def match(
    overlaps: Tensor, *, positive: float, negative: float, rescue: Rescue, least: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Match candidates to truth by overlap [N truths, M candidates].

    Returns the best truth of each candidate, int64 [M], and its kind, int64 [M]: 1 positive (overlap ≥ `positive`),
    0 negative (< `negative`), -1 neither. `rescue`: the best candidates of each truth are positive however low their
    overlap (Ren et al. 2015, §3.1.2), if it is `least`: "all" that share it, those "overlapping" it at all, those
    "undecided" without; or the "first", whose truth it then is (of several truths the first), or all are "taken" so (of
    several truths by the last, as in MMDetection's `MaxIoUAssigner`). Without truth everything is negative.
    """
    truths, count = overlaps.shape
    if not truths or not count:
        return overlaps.new_zeros(count, dtype=torch.int64), overlaps.new_zeros(count, dtype=torch.int64)
    best, which = overlaps.max(0)
    kind = torch.full_like(which, -1)
    kind[best < negative] = 0
    kind[best >= positive] = 1
    if rescue == "none":
        return which, kind
    highest = overlaps.max(1).values
    order = torch.arange(truths, device=which.device)
    if rescue == "first":
        owner = torch.full_like(which, truths)
        owner = owner.scatter_reduce(0, overlaps.argmax(1), order.where(highest >= least, truths), "amin")
        rescued = owner < truths
        which = torch.where(rescued, owner, which)
    else:
        equal = (overlaps == highest[:, None]) & (highest >= least)[:, None]
        if rescue == "overlapping":
            equal &= overlaps > 0
        rescued = equal.any(0)
        if rescue == "undecided":
            rescued &= best >= negative
        if rescue == "taken":
            which[rescued] = order[:, None].where(equal[:, rescued], -1).amax(0)
    kind[rescued] = 1
    return which, kind


def sample(
    kind: Tensor,
    *,
    count: int,
    positive_fraction: float,
    negatives: Literal["fill", "ratio"] = "fill",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw at most `count` candidates, at most `positive_fraction` of them positive; the rest is filled with negatives.

    By "ratio" there are no more `negatives` than leave the positives their fraction. Returns the indices of positives
    and of negatives. Without a `generator` on the same device, the draw uses torch's global one.
    """
    positive, negative = (torch.nonzero(kind == value).squeeze(1) for value in (1, 0))
    positives = min(len(positive), int(count * positive_fraction))
    most = count
    if negatives == "ratio":
        most = int(np.float32(1 / positive_fraction) * np.float32(positives))  # in float32, as Matterport counts
    wanted = min(len(negative), most - positives)
    # without a draw to make, the order is kept: results do not depend on the generator then
    if positives < len(positive):
        positive = positive[torch.randperm(len(positive), device=kind.device, generator=generator)[:positives]]
    if wanted < len(negative):
        negative = negative[torch.randperm(len(negative), device=kind.device, generator=generator)[:wanted]]
    return positive, negative


def mask_targets(target: Target, which: Tensor, boxes: Tensor, *, side: int, method: Method, page: Size) -> Tensor:
    """The truth inside each box [N, 4], as the mask head sees it: float32 [N, side, side].

    `which` int64 [N] says which instance each box is to be, `page` is the size of the batch's pixels. "soft-bitmap"
    (torchvision) pools the bitmap without rounding; "bitmap" (Detectron2's bitmasks, MMDetection) pools it aligned and
    cuts at 0.5; "polygon" (Detectron2) draws the polygon at `side` × `side`, and takes the bitmap where an instance has
    no polygon; "polygon-or-cut" (maskrcnn-benchmark) draws it in boxes of a pixel at least, and else cuts the bitmap at
    whole pixels; so does "resized" (chainer-mask-rcnn), in another way. The others are those of TensorFlow's
    `crop_and_resize` ("soft-crop", the TF Object Detection API; "crop" and "mini-crop", Matterport; "soft-sample",
    Tensorpack; "mini-sample", Model Garden).
    """
    match method:
        case "soft-crop":
            return mask_answers.cropped(target.masks, which, boxes, side, page=page)
        case "crop":
            last = page[0] - 1, page[1] - 1
            return (mask_answers.cropped(target.masks, which, boxes, side, page=page, ends=last) > 0.5).float()
        case "mini-crop":
            return mask_answers.cropped_small(target.masks, which, boxes, side)
        case "soft-sample":
            return mask_answers.sampled(target.masks, which, boxes, side)
        case "cut":
            return mask_answers.cut_out(target.masks, which, boxes, side)
        case "mini-sample":
            return mask_answers.sampled_small(target.masks, target.boxes, which, boxes, side)
        case "resized":
            return mask_answers.resized(target.masks, which, boxes, side)
        case "polygon" if target.polygons is not None:
            return mask_answers.drawn(target.polygons, which, boxes, side, least=0.1)
        case "polygon-or-cut" if target.polygons is not None:
            return mask_answers.drawn(target.polygons, which, boxes, side, least=1)
        case "polygon-or-cut":
            return mask_answers.cut(target.masks, which, boxes, side)
        case "soft-bitmap":
            return mask_answers.pooled(target.masks, which, boxes, side, aligned=False)
        case _:
            return (mask_answers.pooled(target.masks, which, boxes, side, aligned=True) >= 0.5).float()


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
    rescue_iou: float | None = None,
    count: int,
    positive_fraction: float,
    inclusive: bool,
    scale: float = 1.0,
    truth: bool = True,
    negatives: Literal["fill", "ratio"] = "fill",
    filled: bool = False,
    proposed: int = 0,
    generator: torch.Generator | None = None,
) -> RegionSample:
    """Draw proposals [M, 4] for the heads.

    Overlaps are those of boxes made smaller by `scale`, which counts where boxes are `inclusive`. `truth`: the true
    boxes are proposals too. `rescue_iou`: a proposal that overlaps an object best, and by this at least, is positive
    and answers for it, whatever other object it overlaps more; true boxes then are matched to themselves, and rescue
    nothing. `negatives` as in `sample`. `filled`: where there are fewer than `count`, boxes of no area
    in the corner make up for them, as background; they make up for missing proposals, and are drawn like these, where
    there are fewer than `proposed`.
    """
    proposals = F.pad(proposals, (0, 0, 0, max(proposed - len(proposals), 0)))
    boxes = torch.cat((proposals, target.boxes)) if truth else proposals
    matched = boxes if rescue_iou is None else proposals
    which, kind = match(
        box_ops.iou(target.boxes / scale, matched / scale, inclusive=inclusive),
        positive=positive_iou,
        negative=positive_iou,
        rescue="none" if rescue_iou is None else "taken",
        least=rescue_iou or 0.0,
    )
    if len(matched) < len(boxes):
        which = torch.cat((which, torch.arange(len(target.boxes), device=which.device)))
        kind = torch.cat((kind, torch.ones_like(target.labels)))
    positive, negative = sample(
        kind, count=count, positive_fraction=positive_fraction, negatives=negatives, generator=generator
    )
    chosen = torch.cat((positive, negative))
    labels = torch.full((len(chosen),), classes, dtype=torch.int64, device=boxes.device)
    if len(target.labels):
        labels[: len(positive)] = target.labels[which[positive]]
    drawn = RegionSample(boxes[chosen], labels, which[chosen], len(positive))
    return _filled(drawn, count - len(chosen), classes) if filled else drawn


def _filled(drawn: RegionSample, more: int, classes: int) -> RegionSample:
    return RegionSample(
        torch.cat((drawn.boxes, drawn.boxes.new_zeros(more, 4))),
        torch.cat((drawn.labels, drawn.labels.new_full((more,), classes))),
        torch.cat((drawn.which, drawn.which.new_zeros(more))),
        drawn.positives,
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """Images and truth as the network takes them.

    `pixels` float32 [B, 3, H, W], normalised and padded; `sizes` the height and width of each image without padding;
    `targets` the truth in pixels of the network's input; `ids` what the dataset calls the images. `seeds`, where given,
    decide for each image by itself which anchors and proposals are sampled, whatever images are beside it (but where
    proposals are shared, `Numerics.rpn_post_nms_shared`); `scales` are
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
