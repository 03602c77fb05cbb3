"""From a dataset on disk to batches in memory, the same ones for any number of worker processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from maskgraft import coco
from maskgraft.coco import ImageRecord
from maskgraft.errors import DataError, Finding
from maskgraft.preprocess import Prepared, prepare, resize_masks, stack
from maskgraft.recipe import Recipe
from maskgraft.spec import Numerics
from maskgraft.targets import Batch, Target

# An image and the seed of its augmentation.
Draw = tuple[int, int]

_STALLED_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Sample:
    """One prepared image with its truth."""

    prepared: Prepared
    target: Target
    id: int


def sample(record: ImageRecord, numerics: Numerics, recipe: Recipe, seed: int) -> Sample:
    """Load one image, augment it as `seed` draws, and bring image and truth to the network's input.

    The short side is one of `recipe.min_size`; the image is mirrored with probability `recipe.flip`. Masks follow by
    the nearest pixel, polygons exactly.
    """
    random = np.random.default_rng(seed)
    sizes = recipe.min_size or numerics.min_size
    short = int(random.choice(sizes)) if isinstance(sizes, tuple) else sizes
    mirrored = random.random() < recipe.flip
    image, truth = record.load(), coco.truth(record)
    boxes, masks, polygons = torch.from_numpy(truth.boxes), truth.masks, truth.polygons
    if mirrored:
        image, masks = image[:, ::-1], masks[:, :, ::-1]
        left, top, right, bottom = boxes.unbind(1)
        boxes = torch.stack((record.width - right, top, record.width - left, bottom), 1)
    prepared = prepare(image, replace(numerics, min_size=short, max_size=recipe.max_size or numerics.max_size))
    if polygons is not None:
        scale = np.array((prepared.size[1] / record.width, prepared.size[0] / record.height))
        origin, sign = (np.array((record.width, 0)), np.array((-1, 1))) if mirrored else (np.zeros(2), np.ones(2))
        polygons = tuple(
            tuple(((part.reshape(-1, 2) * sign + origin) * scale).ravel() for part in parts) for parts in polygons
        )
    resized = resize_masks(torch.from_numpy(np.ascontiguousarray(masks)), prepared.size)
    target = Target(prepared.to_network(boxes), torch.from_numpy(truth.labels), resized, polygons)
    return Sample(prepared, target, record.id)


class _Images(Dataset[Sample]):
    def __init__(self, records: Sequence[ImageRecord], numerics: Numerics, recipe: Recipe) -> None:
        self.records, self.numerics, self.recipe = records, numerics, recipe

    def __getitem__(self, draw: Draw) -> Sample:
        return sample(self.records[draw[0]], self.numerics, self.recipe, draw[1])


class _Epoch(Sampler[list[Draw]]):
    """The batches of one epoch, from `start` on."""

    def __init__(self, batches: Sequence[list[Draw]], start: int) -> None:
        self.batches = batches[start:]

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def plan(records: Sequence[ImageRecord], recipe: Recipe, epoch: int) -> list[list[Draw]]:
    """Which images come in which batch of an epoch, each with the seed of its augmentation.

    It depends on the recipe's seed and the epoch alone. Wide and tall images come in batches of their own, so that
    little is padded; what does not fill a batch waits for another epoch's order.
    """
    random = np.random.default_rng((recipe.seed, epoch))
    order = random.permutation(len(records)).tolist()
    seeds = random.integers(0, 2**63, len(records)).tolist()
    waiting: dict[bool, list[Draw]] = {True: [], False: []}
    batches = []
    for index in order:
        kind = waiting[records[index].width >= records[index].height]
        kind.append((index, seeds[index]))
        if len(kind) == recipe.batch:
            batches.append(list(kind))
            kind.clear()
    left = waiting[True] + waiting[False]
    batches += [left[start : start + recipe.batch] for start in range(0, len(left) - recipe.batch + 1, recipe.batch)]
    return batches or [left]


def collate(samples: Sequence[Sample], numerics: Numerics) -> Batch:
    """Samples as one batch, padded to a common size."""
    return Batch(
        stack([one.prepared for one in samples], numerics.pad_multiple),
        tuple(one.prepared.size for one in samples),
        tuple(one.target for one in samples),
        tuple(one.id for one in samples),
    )


def loader(
    records: Sequence[ImageRecord], numerics: Numerics, recipe: Recipe, *, epoch: int, start: int, pin: bool
) -> Iterator[Batch]:
    """The batches of an epoch, from batch `start` on.

    Raises `DataError` (`train.loader-stalled`) when worker processes give nothing for five minutes.
    """
    batches = DataLoader(
        _Images(records, numerics, recipe),
        batch_sampler=_Epoch(plan(records, recipe, epoch), start),
        num_workers=recipe.workers,
        collate_fn=partial(collate, numerics=numerics),
        pin_memory=pin,
        timeout=_STALLED_SECONDS if recipe.workers else 0,
        generator=torch.Generator(),  # else each start of the loader would draw from the generator that training uses
    )
    try:
        yield from batches
    except RuntimeError as error:
        if "timed out" not in str(error):
            raise
        raise DataError(
            Finding(
                "train.loader-stalled",
                "error",
                f"{recipe.workers} worker processes gave no batch for {_STALLED_SECONDS} seconds",
                fix="train with workers=0 to see where it stands",
            )
        ) from error
