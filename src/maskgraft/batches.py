"""From a dataset on disk to batches in memory, the same ones for any number of worker processes."""

import itertools
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from maskgraft import lookouts, outlines, processes
from maskgraft.augmenting import Scene, augment, mirrored
from maskgraft.coco import ImageRecord
from maskgraft.cutouts import Cutouts
from maskgraft.errors import DataError, Finding, MaskgraftError
from maskgraft.preprocess import Prepared, one_thread, prepare, stack
from maskgraft.recipe import Recipe, replayed_in
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
    seed: int
    mirrored: bool


def sample(
    record: ImageRecord, numerics: Numerics, recipe: Recipe, seed: int, *, others: Sequence[ImageRecord] = ()
) -> Sample:
    """Load one image, augment it as `seed` draws, and bring image and truth to the network's input.

    The short side is one of `recipe.min_size`; the image is mirrored with probability `recipe.flip`; `augmenting` does
    what else the recipe asks for, with `others` to paste from. Masks follow by the nearest pixel, polygons exactly.
    """
    random = np.random.default_rng(seed)
    sizes = recipe.min_size or numerics.min_size
    short = int(random.choice(sizes)) if isinstance(sizes, tuple) else sizes
    mirror = random.random() < recipe.flip
    scene = augment(Scene.of(record), recipe, random, others=others, grey=_mean_colour(numerics))
    if mirror:
        scene = mirrored(scene)
    changed = replace(numerics, min_size=short, max_size=recipe.max_size or numerics.max_size)
    prepared = prepare(scene.image, changed)
    polygons, (rows, columns) = scene.polygons, scene.size
    if polygons is not None:
        top, left, bottom, right = prepared.window
        to_input = np.array((((right - left) / columns, 0, left), (0, (bottom - top) / rows, top)))
        polygons = tuple(outlines.moved(one, to_input) for one in polygons)
    boxes, labels = torch.from_numpy(scene.boxes), torch.from_numpy(scene.labels)
    if numerics.inclusive_areas:  # the last pixels of objects, as the home frameworks read their boxes
        boxes = torch.cat((boxes[:, :2], torch.maximum(boxes[:, 2:] - 1, boxes[:, :2])), 1)
    target = Target(prepared.to_network(boxes), labels, _placed(scene.masks, prepared), polygons)
    return Sample(prepared, target, record.id, seed, mirror)


def _mean_colour(numerics: Numerics) -> tuple[int, int, int]:
    """What the network sees as nought, as red, green, blue of 0 to 255."""
    mean = numerics.pixel_mean if numerics.channel_order == "rgb" else numerics.pixel_mean[::-1]
    red, green, blue = (min(max(round(value / numerics.pixel_scale), 0), 255) for value in mean)
    return red, green, blue


def _placed(masks: Cutouts, prepared: Prepared) -> Cutouts:
    """Masks of the photograph where it lies in the network's input, which may be larger than it."""
    top, left, bottom, right = (round(side) for side in prepared.window)
    height, width = prepared.size
    return masks.resized((bottom - top, right - left)).seen_through((-top, -left, height - top, width - left))


class _Images(Dataset[Sample | tuple[Finding, ...]]):
    """Samples by draw; what is wrong with an image comes as findings, since no exception outlives a worker whole."""

    def __init__(self, records: Sequence[ImageRecord], numerics: Numerics, recipe: Recipe) -> None:
        self.records, self.numerics, self.recipe = records, numerics, recipe

    def __getitem__(self, draw: Draw) -> Sample | tuple[Finding, ...]:
        try:
            return sample(self.records[draw[0]], self.numerics, self.recipe, draw[1], others=self.records)
        except MaskgraftError as error:
            return error.findings

    def __getitems__(self, draws: list[Draw]) -> list[Sample | tuple[Finding, ...]]:
        threads = torch.get_num_threads()
        if threads == 1:  # as in a worker process
            return [self[draw] for draw in draws]
        with one_thread(), ThreadPoolExecutor(threads) as pool:
            others = [pool.submit(self.__getitem__, draw) for draw in draws[1:]]
            return [self[draws[0]], *(one.result() for one in others)]


class _Epoch(Sampler[list[Draw]]):
    """The batches of one epoch."""

    def __init__(self, batches: Sequence[list[Draw]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[Draw]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def plan(records: Sequence[ImageRecord], recipe: Recipe, epoch: int, *, replayed: int = 0) -> list[list[Draw]]:
    """Which images come in which batch of an epoch, each with the seed of its augmentation.

    It depends on the recipe's seed and the epoch alone. With `by_shape`, wide and tall images come in batches of their
    own, so that little is padded. What does not fill a batch waits for another epoch's order.

    The last `replayed` records are old images: each batch takes its share of them, in an order of their own.
    """
    random = np.random.default_rng((recipe.seed, epoch))
    new, old = len(records) - replayed, replayed_in(recipe.batch, recipe.replay or 0.0) if replayed else 0
    size = recipe.batch - old
    order = random.permutation(new).tolist()
    seeds = random.integers(0, 2**63, new).tolist()
    waiting: dict[bool, list[Draw]] = {True: [], False: []}
    batches = []
    for index in order:
        kind = waiting[recipe.by_shape and records[index].width >= records[index].height]
        kind.append((index, seeds[index]))
        if len(kind) == size:
            batches.append(list(kind))
            kind.clear()
    left = waiting[True] + waiting[False]
    batches += [left[start : start + size] for start in range(0, len(left) - size + 1, size)]
    batches = batches or [left]
    if not old:
        return batches
    rounds = -(-old * len(batches) // replayed)
    again = np.concatenate([new + random.permutation(replayed) for _ in range(rounds)]).tolist()
    draws = list(zip(again, random.integers(0, 2**63, len(again)).tolist(), strict=True))
    mixed = [batch + draws[number * old :][:old] for number, batch in enumerate(batches)]
    return [[batch[place] for place in random.permutation(len(batch))] for batch in mixed]


def shares(planned: Sequence[list[Draw]], recipe: Recipe) -> list[list[Draw]]:
    """What this process computes of each batch, in `recipe.accumulate` parts one after the other.

    The parts of all processes are together the batch, in its order.
    """
    parts = [part for batch in planned for part in _split(batch, recipe.accumulate)]
    return [_split(part, processes.count())[processes.rank()] for part in parts]


def _split(draws: list[Draw], count: int) -> list[list[Draw]]:
    """Draws in `count` parts as equal as can be."""
    ends = [len(draws) * number // count for number in range(count + 1)]
    return [draws[start:end] for start, end in itertools.pairwise(ends)]


def collate(samples: Sequence[Sample], numerics: Numerics) -> Batch:
    """Samples as one batch, padded to a common size; in a worker process at once where the others can read it."""
    return Batch(
        stack([one.prepared for one in samples], numerics.pad_multiple, shared=get_worker_info() is not None),
        tuple(one.prepared.size for one in samples),
        tuple(one.target for one in samples),
        tuple(one.id for one in samples),
        tuple(one.seed for one in samples),
        tuple(sqrt(one.prepared.scale[0] * one.prepared.scale[1]) for one in samples),
        tuple(one.mirrored for one in samples),
    )


def loader(
    records: Sequence[ImageRecord],
    numerics: Numerics,
    recipe: Recipe,
    *,
    epoch: int,
    start: int = 0,
    replayed: int = 0,
    pin: bool = False,
    told: Callable[[Finding], None] | None = None,
) -> Iterator[Batch]:
    """The batches of an epoch, from batch `start` on, each in `recipe.accumulate` parts.

    Of several processes each gets its share of each part. `replayed` is what `plan` takes.

    `told` hears of a batch that does not come for half a minute, while it is waited for: which files, and where the
    workers stand. Raises `DataError` for images that cannot be read, and when worker processes end
    (`train.loader-died`) or give nothing for five minutes (`train.loader-stalled`).
    """
    planned = shares(plan(records, recipe, epoch, replayed=replayed)[start:], recipe)
    stacks = Path(tempfile.mkdtemp(prefix="maskgraft-"))
    try:
        batches = DataLoader(
            _Images(records, numerics, recipe),
            batch_sampler=_Epoch(planned),
            num_workers=recipe.workers,
            collate_fn=partial(_batch_or_findings, numerics=numerics),
            pin_memory=pin,
            timeout=_STALLED_SECONDS if recipe.workers else 0,
            worker_init_fn=partial(_begin_worker, stacks=stacks),
            generator=torch.Generator(),  # else each start would draw from the generator that training uses
        )
        given = iter(batches)
        for number, draws in enumerate(planned):
            files = [str(records[index].path) for index, _ in draws]
            try:
                with lookouts.lookout(files, stacks if recipe.workers else None, told):
                    batch = next(given)
            except RuntimeError as error:
                who = f"worker {number % max(recipe.workers, 1)} of {recipe.workers}, or one beside it"
                failure = _worker_failure(str(error), who, files)
                if failure is None:
                    raise
                raise DataError(failure) from error
            if isinstance(batch, tuple):
                raise DataError(batch)
            yield batch
    finally:
        shutil.rmtree(stacks, ignore_errors=True)


def _batch_or_findings(
    samples: Sequence[Sample | tuple[Finding, ...]], numerics: Numerics
) -> Batch | tuple[Finding, ...]:
    findings = [finding for one in samples if isinstance(one, tuple) for finding in one]
    return tuple(findings) or collate([one for one in samples if isinstance(one, Sample)], numerics)


def _begin_worker(_: int, *, stacks: Path) -> None:
    # Ctrl-C reaches every process of a terminal; the parent finishes its step and then ends its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lookouts.answer(stacks)


def worker_death(said: str) -> Finding | None:
    """What a RuntimeError tells that ends a step because a worker process has ended; None when it is about something
    else. torch raises it wherever the training stands, which need not be where a batch is awaited."""
    return _worker_failure(said, "a worker that loads images", ()) if "exited unexpectedly" in said else None


def _worker_failure(said: str, who: str, files: Sequence[str]) -> Finding | None:
    """What became of a worker process, by what the data loader says; None when that is about something else."""
    if "timed out" in said:
        code, what = "train.loader-stalled", f"gave no batch for {_STALLED_SECONDS} seconds"
        fix = "look whether these files can be read; train with workers=0 to see where it stands"
    elif "exited unexpectedly" in said:
        code, what = "train.loader-died", "ended while it made a batch"
        fix = (
            "it may have run out of memory, or of shared memory (/dev/shm): train with fewer workers; workers=0 shows "
            "at which image"
        )
    else:
        return None
    message = f"{who}, {what}: {', '.join(files)}" if files else f"{who} {what}"
    return Finding(code, "error", message, names=tuple(files), evidence={"said": said}, fix=fix)
