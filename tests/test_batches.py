"""Batches from a drawn dataset: truth stays on the objects, order and draws are the same, faults are told."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import maskgraft as mg
from maskgraft import batches, coco
from maskgraft.cutouts import Cutouts
from maskgraft.families import chainer, detectron_caffe2, matterport, model_garden
from maskgraft.recipe import Recipe
from maskgraft.spec import Numerics
from maskgraft.targets import Batch, Target
from tests.tiny import draw_dataset, tiny_spec

PLAIN = tiny_spec().numerics
LETTERBOX = replace(matterport.NUMERICS, min_size=96, max_size=160)
# the page is wider than the photograph, which lies at its top left
FIXED = replace(model_garden.NUMERICS, fixed_size=(128, 192))
FACTOR = replace(chainer.NUMERICS, min_size=101, max_size=160)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> coco.Dataset:
    return coco.read(*draw_dataset(tmp_path_factory.mktemp("drawn"), images=8))


def planes(target: Target) -> torch.Tensor:
    return torch.from_numpy(target.masks.planes())


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("numerics", [PLAIN, LETTERBOX, FIXED, FACTOR], ids=["plain", "letterbox", "fixed", "factor"])
def test_boxes_masks_and_polygons_stay_on_the_objects(data: coco.Dataset, numerics: Numerics, flip: float) -> None:
    for record in data.images:
        one = batches.sample(record, numerics, Recipe(flip=flip), 0)
        image, target = one.prepared.pixels, one.target
        assert target.masks.size == image.shape[1:]
        for box, mask, parts in zip(target.boxes, planes(target), target.polygons or (), strict=True):
            rows, columns = torch.nonzero(mask.any(1)).squeeze(1), torch.nonzero(mask.any(0)).squeeze(1)
            drawn = torch.tensor((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
            assert (drawn - box).abs().max() <= 2
            points = np.concatenate(parts).reshape(-1, 2)
            outline = torch.tensor((*points.min(0), *points.max(0)))
            assert (outline - box).abs().max() <= 2


@pytest.mark.parametrize("numerics", [PLAIN, LETTERBOX, FIXED], ids=["plain", "letterbox", "fixed"])
def test_masks_lie_on_the_pixels_of_their_object(data: coco.Dataset, numerics: Numerics) -> None:
    """Discs are red and boxes blue: the difference of two channels tells what a pixel belongs to."""
    for record in data.images:
        one = batches.sample(record, numerics, Recipe(flip=1.0), 0)
        red, _, blue = one.prepared.pixels * torch.tensor(numerics.pixel_std)[:, None, None]
        disc = (red - blue) / numerics.pixel_scale + (numerics.pixel_mean[0] - numerics.pixel_mean[2])
        for label, mask in zip(one.target.labels, planes(one.target), strict=True):
            others = (planes(one.target).sum(0) > mask.int()) & mask  # something may have been drawn over it
            inside = disc[mask & ~others] * (1 if label == 0 else -1)
            assert (inside > 100).float().mean() > 0.9


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_boxes_that_hold_their_last_pixel_end_with_that_of_the_photograph(data: coco.Dataset, flip: float) -> None:
    """As Detectron's `xywh_to_xyxy` makes them, before they are scaled."""
    family = replace(detectron_caffe2.NUMERICS, min_size=150, max_size=400)
    ending = replace(family, inclusive_boxes=False, inclusive_areas=False)
    for record in data.images:
        last, end = (batches.sample(record, one, Recipe(flip=flip), 0) for one in (family, ending))
        assert last.prepared.scale[0] > 1.1
        moved = torch.tensor((0, 0, *last.prepared.scale[::-1]))
        assert torch.allclose(last.target.boxes, end.target.boxes - moved, atol=1e-4)


def test_a_mirrored_image_is_the_mirror_of_the_image(data: coco.Dataset) -> None:
    mirrored = batches.sample(data.images[0], PLAIN, Recipe(flip=1.0), 0)
    plain = batches.sample(data.images[0], PLAIN, Recipe(flip=0.0), 0)
    assert torch.allclose(mirrored.prepared.pixels, plain.prepared.pixels.flip(2), atol=2e-3)
    width = plain.prepared.size[1]
    assert torch.allclose(mirrored.target.boxes[:, 0], width - plain.target.boxes[:, 2], atol=1e-3)


def test_several_sizes_are_drawn(data: coco.Dataset) -> None:
    recipe = Recipe(min_size=(64, 96), max_size=400)
    drawn = {min(batches.sample(data.images[0], PLAIN, recipe, seed).prepared.size) for seed in range(8)}
    assert drawn == {64, 96}


def test_an_epoch_draws_every_image_once_and_the_next_one_otherwise(data: coco.Dataset) -> None:
    recipe = Recipe(batch=2, seed=3)
    assert batches.plan(data.images, recipe, 0) == batches.plan(data.images, recipe, 0)
    assert batches.plan(data.images, recipe, 0) != batches.plan(data.images, recipe, 1)
    assert batches.plan(data.images, recipe, 0) != batches.plan(data.images, Recipe(batch=2, seed=4), 0)
    drawn = [index for batch in batches.plan(data.images, recipe, 0) for index, _ in batch]
    assert sorted(drawn) == list(range(8))
    assert [len(batch) for batch in batches.plan(data.images, Recipe(batch=3), 0)] == [3, 3]
    assert [len(batch) for batch in batches.plan(data.images[:2], Recipe(batch=3), 0)] == [2]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than this machine may have cores
def test_the_same_batches_come_from_any_number_of_workers(data: coco.Dataset) -> None:
    def load(workers: int, start: int) -> list[Batch]:
        recipe = Recipe(batch=2, workers=workers, min_size=(64, 96))
        return list(batches.loader(data.images, PLAIN, recipe, epoch=1, start=start, pin=False))

    alone, helped, late = load(0, 0), load(3, 0), load(2, 2)
    assert len(alone) == len(helped) == 4
    for one, other in [*zip(alone, helped, strict=True), *zip(alone[2:], late, strict=True)]:
        assert one.ids == other.ids and one.sizes == other.sizes
        assert torch.equal(one.pixels, other.pixels)
        for mine, yours in zip(one.targets, other.targets, strict=True):
            assert torch.equal(mine.boxes, yours.boxes) and torch.equal(planes(mine), planes(yours))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_went_bad_is_named(data: coco.Dataset, tmp_path: Path, workers: int) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(data.images[0].path.read_bytes()[:200])
    records = [replace(data.images[0], path=broken), *data.images[1:]]
    with pytest.raises(mg.DataError, match=r"broken\.png") as caught:
        list(batches.loader(records, PLAIN, Recipe(workers=workers), epoch=0, start=0, pin=False))
    assert caught.value.findings[0].code.startswith("data.")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_loader_that_stands_still_is_told_with_its_files(
    data: coco.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "slow.png")  # opening it waits for a writer that never comes
    monkeypatch.setattr(batches, "_STALLED_SECONDS", 1)
    records = [replace(data.images[0], path=tmp_path / "slow.png")]
    with pytest.raises(mg.DataError, match=r"worker 0 of 1.*slow\.png") as caught:
        list(batches.loader(records, PLAIN, Recipe(workers=1), epoch=0, start=0, pin=False))
    assert caught.value.findings[0].code == "train.loader-stalled"


class Deadly:
    """A path that ends the process that opens it, as the kernel does when memory runs out."""

    def __str__(self) -> str:
        return "deadly.png"

    def __fspath__(self) -> str:
        os._exit(9)


def test_a_worker_that_dies_is_told_with_its_files(data: coco.Dataset) -> None:
    records = [replace(data.images[0], path=Deadly())]  # type: ignore[arg-type]
    with pytest.raises(mg.DataError, match=r"worker 0 of 1.*deadly\.png") as caught:
        list(batches.loader(records, PLAIN, Recipe(workers=1), epoch=0, start=0, pin=False))
    assert caught.value.findings[0].code == "train.loader-died"


def test_truth_goes_between_processes_as_it_is() -> None:
    masks = np.random.default_rng(0).random((3, 5, 7)) > 0.5
    polygons = ((np.array([0.0, 0, 3, 0, 3, 3]),),) * 3
    for target in (
        Target(torch.rand(3, 4), torch.tensor([2, 0, 1]), Cutouts.of(masks), polygons),
        Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), Cutouts.of(masks[:0])),
    ):
        given = pickle.loads(pickle.dumps(target))
        assert torch.equal(given.boxes, target.boxes) and torch.equal(given.labels, target.labels)
        assert torch.equal(planes(given), planes(target))
        assert (given.polygons is None) == (target.polygons is None)
    whole = Target(torch.zeros(9, 4), torch.zeros(9), Cutouts.of(np.ones((9, 800, 800), np.bool_)))
    assert len(pickle.dumps(whole)) < 9 * 800 * 800 / 7


def test_wide_and_tall_images_come_in_batches_of_their_own(data: coco.Dataset) -> None:
    tall = [replace(one, width=60, height=90) for one in data.images[:4]]
    images = [*tall, *(replace(one, width=90, height=60) for one in data.images[4:])]
    for epoch in range(3):
        for batch in batches.plan(images, Recipe(batch=2), epoch):
            assert len({images[index].width for index, _ in batch}) == 1
    mixed = [batch for epoch in range(3) for batch in batches.plan(images, Recipe(batch=2, by_shape=False), epoch)]
    assert any(len({images[index].width for index, _ in batch}) == 2 for batch in mixed)
