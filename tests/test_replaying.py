"""Old images mixed into a training: their share of each batch, their classes, and how such a run goes on."""

from pathlib import Path

import pytest
import torch

import maskgraft as mg
from maskgraft import batches, replaying, shapes
from maskgraft.coco import Dataset
from maskgraft.recipe import Recipe, resolve
from tests.test_keeping import Killer, Stop
from tests.tiny import tiny_model

CLASSES = ("star", "box")  # the model's, in another order than the data's
RECIPE = Recipe(policy="all", epochs=2, batch=4, lr=0.01, workers=0, evaluate_every=0, save_every=1)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return drawn(tmp_path_factory.mktemp("old") / "shapes", ("disc", "box"), 5)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return drawn(tmp_path_factory.mktemp("new") / "shapes", ("star",), 6)


def drawn(folder: Path, classes: tuple[str, ...], images: int) -> Dataset:
    path = shapes.draw(folder, images=images, classes=classes, seed=7, side=96)
    return mg.read_coco(path, path.parent)


def test_labels_are_the_models_and_what_it_lacks_is_left_out(new: Dataset, old: Dataset) -> None:
    records, replayed = replaying.records(new, old, CLASSES)
    labels = replaying.labels(new, old, CLASSES)
    assert records[: len(new.images)] == new.images and 0 < replayed <= len(old.images)
    told = {CLASSES[labels[one.label]] for record in records[len(new.images) :] for one in record.instances}
    assert told == {"box"}
    assert {CLASSES[labels[one.label]] for record in new.images for one in record.instances} == {"star"}


@pytest.mark.parametrize(("share", "count"), [(0.25, 1), (0.5, 2), (0.01, 1), (0.99, 3)])
def test_each_batch_has_its_share(new: Dataset, old: Dataset, share: float, count: int) -> None:
    records, replayed = replaying.records(new, old, CLASSES)
    first = len(records) - replayed
    recipe = RECIPE.model_copy(update={"replay": share})
    planned = batches.plan(records, recipe, 0, replayed=replayed)
    assert len(planned) == resolve(recipe, images=first, replayed=replayed).steps_per_epoch
    for batch in planned:
        assert len(batch) == 4 and sum(index >= first for index, _ in batch) == count
    fresh = [index for batch in planned for index, _ in batch if index < first]
    assert len(set(fresh)) == len(fresh)
    assert planned == batches.plan(records, recipe, 0, replayed=replayed)
    assert planned != batches.plan(records, recipe, 1, replayed=replayed)


def test_a_quarter_is_proposed_and_said(new: Dataset) -> None:
    resolved = resolve(RECIPE, images=6, replayed=5)
    assert resolved.recipe.replay == 0.25 and resolved.steps_per_epoch == 2
    assert any(one.field == "replay" for one in resolved.derived)


def test_resumed_to_the_same_bytes(new: Dataset, old: Dataset, tmp_path: Path) -> None:
    whole = tiny_model(CLASSES, seed=3)
    run = mg.train(whole, new, RECIPE, out=tmp_path / "whole", replay=old)
    assert run.steps == 4
    with pytest.raises(Stop):
        mg.train(tiny_model(CLASSES, seed=3), new, RECIPE, out=tmp_path / "cut", replay=old, watcher=Killer(3))
    again = mg.load(tmp_path / "cut" / "last")
    with pytest.raises(mg.UsageError, match="not the same images"):
        mg.train(again, new, out=tmp_path / "cut", resume=True)
    mg.train(again, new, out=tmp_path / "cut", replay=old, resume=True)
    assert all(torch.equal(one, again.state_dict()[name]) for name, one in whole.state_dict().items())
    lines = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "cut")]
    assert lines[0] == lines[1]


def test_what_cannot_be_replayed_is_told(new: Dataset, old: Dataset, tmp_path: Path) -> None:
    model = tiny_model(("star",))
    with pytest.raises(mg.UsageError, match="no instance of a class"):
        mg.train(model, new, RECIPE, out=tmp_path / "run", replay=old)
    with pytest.raises(mg.UsageError, match="there are no old images"):
        mg.train(model, new, RECIPE.model_copy(update={"replay": 0.5}), out=tmp_path / "run")
    with pytest.raises(mg.UsageError, match="no room"):
        alone = RECIPE.model_copy(update={"batch": 1})
        mg.train(tiny_model(CLASSES), new, alone, out=tmp_path / "run", replay=old)
    assert not (tmp_path / "run").exists()
