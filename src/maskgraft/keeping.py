"""What holds a model to its start while it learns: `Keeping` adds losses that grow with what is being lost.

    keeping = Keeping(start, known=("disc", "box"), l2sp=0.01, distil=1.0)
    mg.train(model, data, recipe, out="runs/grown", retainer=keeping)

`Recipe(l2sp=…, distil=…)` does the same with the model that the training starts from.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from maskgraft import processes, store
from maskgraft.backbones.norms import BATCH_NORMS
from maskgraft.class_surgery import rows_per_class
from maskgraft.errors import Finding, UsageError
from maskgraft.model import MaskRCNN
from maskgraft.ops import boxes as box_ops
from maskgraft.recipe import Recipe
from maskgraft.spec import component
from maskgraft.targets import Batch

START = "start"  # the folder of a run that holds the model it began with
_REGIONS = 64  # proposals of the start model that are compared in each image
_SURE = 0.5  # of the start model: where its boxes and masks, and its objectness, are answers to be kept
_NEW = 0.3  # overlap from which a region shows a new class, and the start model's opinion of it is not asked


class Keeping:
    """Losses towards a start model, for `train(…, retainer=…)`.

    `l2sp`: half its multiple of the squared distance of all weights from their start, `kept.l2sp` (Li et al. 2018,
    "Explicit inductive bias", equation 2). `distil`: weight of answering as the start model does on the new images
    (learning without forgetting, Li & Hoiem 2016, for detectors as in Shmelkov et al. 2017): `kept.rpn`, `kept.cls`,
    `kept.box` and `kept.mask`, on the start model's own proposals, leaving out those of new classes.

    `known` are the classes that the start model has learnt; rows of others are nobody's to keep.
    """

    def __init__(self, start: MaskRCNN, *, known: Sequence[str], l2sp: float = 0.0, distil: float = 0.0) -> None:
        self.start = deepcopy(start).eval().requires_grad_(False)
        self.known = tuple(known)
        self.l2sp, self.distil = l2sp, distil

    def losses(self, model: MaskRCNN, batch: Batch) -> Mapping[str, Tensor]:
        """The losses of a batch, weighted; those whose weight is nought are left out."""
        result = {"kept.l2sp": 0.5 * self.l2sp * distance(self.start, model, self.known)} if self.l2sp else {}
        return result | (self._distilled(model, batch) if self.distil else {})

    def _distilled(self, model: MaskRCNN, batch: Batch) -> dict[str, Tensor]:
        ours = [model.spec.classes.index(name) for name in self.known]
        theirs = [self.start.spec.classes.index(name) for name in self.known]
        padded = int(batch.pixels.shape[2]), int(batch.pixels.shape[3])
        with torch.no_grad():
            old_maps = self.start.features(batch.pixels)
            old_rpn, regions = self._proposed(old_maps, batch, padded, ours)
            logits, deltas = _answers(self.start, old_maps, regions, padded)
            wanted = logits[:, [*theirs, self.start.spec.arch.classes]].float().softmax(1)
            probability, column = wanted[:, :-1].max(1)
            is_sure = probability >= _SURE
            sure = torch.nonzero(is_sure).squeeze(1)
            # masks are most of the work, and are compared only where the start model is sure of an instance
            parts = torch.split(is_sure, [len(one) for one in regions])
            instances = [one[part] for one, part in zip(regions, parts, strict=True)]
            old_masks = self.start.mask_logits(old_maps, instances, padded)
        with _norms_at_rest(model):
            maps = model.features(batch.pixels)
            rpn = _objectness(model, maps)
            new_logits, new_deltas = _answers(model, maps, regions, padded)
            masks = model.mask_logits(maps, instances, padded)

        result = {"kept.rpn": _objectness_loss(rpn, old_rpn)}
        given = new_logits[:, [*ours, model.spec.arch.classes]].float().log_softmax(1)
        result["kept.cls"] = -(wanted * given).sum() / max(len(wanted), 1)
        of_old = torch.tensor(theirs, device=sure.device)[column[sure]]
        of_new = torch.tensor(ours, device=sure.device)[column[sure]]
        count = max(len(sure), 1)
        result["kept.box"] = F.smooth_l1_loss(
            _row(_by_class(new_deltas)[sure], of_new).float(),
            _row(_by_class(deltas)[sure], of_old).float(),
            reduction="sum",
        ) / (4 * count)
        mask = _row(masks, of_new).float()
        likely = _row(old_masks, of_old).float().sigmoid()
        pixels = count * mask.shape[-1] * mask.shape[-2]
        result["kept.mask"] = F.binary_cross_entropy_with_logits(mask, likely, reduction="sum") / pixels
        return {name: self.distil * loss for name, loss in result.items()}

    def _proposed(
        self, maps: dict[str, Tensor], batch: Batch, padded: tuple[int, int], known: Sequence[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness logits of each level, and the best proposals of each image that are no instance of a new class."""
        levels = self.start.proposal_maps(maps)
        heads = [self.start.rpn(map_, level) for level, map_ in enumerate(levels.values())]
        anchors = self.start.anchors(levels, padded)
        regions = []
        for image, (size, target) in enumerate(zip(batch.sizes, batch.targets, strict=True)):
            found = self.start.propose(
                [_flat(logits[image], 1)[:, 0].float() for logits, _ in heads],
                [_flat(deltas[image], 4).float() for _, deltas in heads],
                anchors,
                size,
                scale=batch.scales[image] if batch.scales else 1.0,
            )
            best = found.boxes[:_REGIONS]
            others = ~torch.isin(target.labels, torch.tensor(known, device=target.labels.device))
            if len(best) and others.any():
                overlap = box_ops.iou(target.boxes[others], best, inclusive=False).amax(0)
                best = best[overlap < _NEW]
            regions.append(best)
        return [logits for logits, _ in heads], regions


def distance(start: MaskRCNN, model: MaskRCNN, known: Sequence[str]) -> Tensor:
    """The squared distance of a model's trained weights from their start, over the rows of `known` classes."""
    before = dict(start.named_parameters())
    total = model.rpn.objectness.weight.new_zeros(())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name in before:
            one, other = paired(name, before[name], parameter, start, model, known)
            total = total + (other.float() - one.float()).square().sum()
    return total


def paired(
    name: str, before: Tensor, after: Tensor, start: MaskRCNN, model: MaskRCNN, known: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """What of a tensor both models hold: of class rows those of `known` classes, and of other tensors everything."""
    per_row = rows_per_class(name, start.spec.arch)
    if not per_row:
        return before, after
    pair = []
    for tensor, owner in ((before, start), (after, model)):
        rows = tensor.reshape(-1, per_row, *tensor.shape[1:])
        chosen = [owner.spec.classes.index(one) for one in known]
        chosen += [len(owner.spec.classes)] * (len(rows) > len(owner.spec.classes))  # the background's
        pair.append(rows[chosen])
    return pair[0], pair[1]


def known_classes(model: MaskRCNN) -> tuple[str, ...]:
    """The classes of which a model has learnt rows: those that a file gave."""
    if model.graft is None:
        return ()
    return tuple(row.name for row in model.graft.rows if row.source is not None)


@dataclass(frozen=True, slots=True)
class Start:
    """The model that a run began with, the classes of which it had learnt rows, and the components that a file gave."""

    model: MaskRCNN
    known: tuple[str, ...]
    parts: tuple[str, ...]


def begin(model: MaskRCNN, recipe: Recipe, folder: Path, *, fresh: bool) -> Keeping | None:
    """What a recipe keeps: from the model as it is when `fresh`, else from what the run's folder holds of its start.

    A run that keeps to its start, or tells at its end what was kept of it, saves it in its folder. Raises `UsageError`
    for a run whose start is gone.
    """
    holds, place = bool(recipe.l2sp or recipe.distil), folder / START
    if fresh and model.graft is not None and (holds or recipe.retention):
        known, parts = known_classes(model), sorted({component(name) for name in model.graft.moved})
        if processes.leads():
            store.save(model, place, about={"known": list(known), "parts": parts})
    if not holds:
        return None
    if fresh:
        return Keeping(model, known=known_classes(model), l2sp=recipe.l2sp, distil=recipe.distil)
    start = start_of(folder)
    if start is None:
        message = f"{folder} keeps to the model that it began with, and {place} is not there"
        raise UsageError(Finding("train.resume", "error", message, fix="begin again in another folder"))
    return Keeping(start.model.to(model.device), known=start.known, l2sp=recipe.l2sp, distil=recipe.distil)


def start_of(folder: Path) -> Start | None:
    """What `begin` saved in a run's folder; None where there is nothing."""
    place = folder / START
    if not store.is_saved(place):
        return None
    about = json.loads((place / store.SPEC).read_text())["about"]
    return Start(store.load(place), tuple(about["known"]), tuple(about["parts"]))


def check(model: MaskRCNN, recipe: Recipe) -> None:
    """Raise `UsageError` when there is nothing to be held to."""
    asked = [name for name in ("l2sp", "distil", "complete") if getattr(recipe, name)]
    if asked and not known_classes(model):
        message = f"{' and '.join(asked)} hold a model to what it knew, and none of its class rows comes from a file"
        fix = "train without them, or begin from a checkpoint that knows some of the classes"
        raise UsageError(Finding("spec.field", "error", message, tuple(asked), fix=fix))


def _answers(
    model: MaskRCNN, maps: dict[str, Tensor], regions: Sequence[Tensor], padded: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Class logits and box deltas of regions."""
    vectors = model.box_head(model.pool(maps, regions, model.spec.numerics.box_pool_size, padded))
    logits, deltas = model.box_predictor(vectors)
    return logits, deltas


def _objectness(model: MaskRCNN, maps: dict[str, Tensor]) -> list[Tensor]:
    return [model.rpn(map_, level)[0] for level, map_ in enumerate(model.proposal_maps(maps).values())]


def _objectness_loss(given: Sequence[Tensor], before: Sequence[Tensor]) -> Tensor:
    """Cross-entropy with what the start model took for objects: where it saw none, the truth alone is to say."""
    new = torch.cat([one.flatten() for one in given]).float()
    old = torch.cat([one.flatten() for one in before]).float().sigmoid()
    seen = old >= _SURE
    loss = F.binary_cross_entropy_with_logits(new[seen], old[seen], reduction="sum")
    return loss / max(int(seen.sum()), 1)


def _by_class(deltas: Tensor) -> Tensor:
    """[N, 4 · K] to [N, K, 4]."""
    return deltas.reshape(len(deltas), deltas.shape[1] // 4, 4)


def _row(values: Tensor, labels: Tensor) -> Tensor:
    """The class's own row of each region, or the only one."""
    everyone = torch.arange(len(values), device=values.device)
    return values[everyone, labels if values.shape[1] > 1 else torch.zeros_like(labels)]


def _flat(map_: Tensor, values: int) -> Tensor:
    """[A·values, H, W] to [H·W·A, values], in the order of the anchors."""
    return map_.reshape(-1, values, *map_.shape[1:]).permute(2, 3, 0, 1).reshape(-1, values)


@contextmanager
def _norms_at_rest(model: MaskRCNN) -> Iterator[None]:
    """Batch norms see each batch once only: their statistics are not moved a second time inside."""
    moving = [one for one in model.modules() if isinstance(one, BATCH_NORMS) and one.training]
    for one in moving:
        one.training = False
    try:
        yield
    finally:
        for one in moving:
            one.training = True
