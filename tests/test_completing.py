"""Labels that new data leaves out, completed by the model that a run begins with."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import maskgraft as mg
from maskgraft import shapes, state
from maskgraft.cli import app
from maskgraft.coco import Dataset
from maskgraft.completing import COMPLETED, absent_classes
from maskgraft.model import MaskRCNN
from maskgraft.ops.boxes import iou
from tests.test_keeping import NEW, SHORT, Killer, Stop, grown, start

NAMES = ("box", "triangle")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Pictures of three classes, of which one is labelled."""
    path = shapes.draw(tmp_path_factory.mktemp("shapes") / "new", images=4, classes=NEW, seed=5, side=96)
    whole = mg.read_coco(path, path.parent)
    star = whole.classes.index("star")
    images = [replace(one, annotations=tuple(a for a in one.annotations if a.label == star)) for one in whole.images]
    alone = tuple(replace(one, annotations=tuple(replace(a, label=0) for a in one.annotations)) for one in images)
    return replace(whole, classes=("star",), category_ids=(star + 1,), images=alone)


def finds(model: MaskRCNN) -> float:
    """A score that a few detections of an untrained model reach."""
    return model.spec.numerics.score_threshold + 1e-3


def test_what_is_not_labelled_is_added(data: Dataset) -> None:
    model = start()
    score = finds(model)
    assert absent_classes(model, data) == ("disc", "box", "triangle")
    completed = mg.complete_labels(model, data, score=score)
    assert completed.classes[0] == "star" and set(completed.classes[1:]) <= set(model.spec.classes)
    assert len(set(completed.category_ids)) == len(completed.classes)
    ids = [one.id for image in completed.images for one in image.annotations]
    assert len(set(ids)) == len(ids) > sum(len(image.annotations) for image in data.images)
    for before, after in zip(data.images, completed.images, strict=True):
        labelled = len(before.annotations)
        assert after.annotations[:labelled] == before.annotations
        found = model.predict([before.load()])[0].above(score)
        assert 0 <= len(after.annotations) - labelled <= len(found)
        boxes = torch.tensor([one.box for one in after.annotations])
        overlap = iou(boxes, boxes[labelled:])
        overlap[torch.arange(labelled, len(boxes)), torch.arange(len(boxes) - labelled)] = 0
        assert not len(boxes[labelled:]) or overlap.max() < 0.52  # corners are rounded
        for one in after.annotations[labelled:]:
            assert min((found.boxes - torch.tensor(one.box)).abs().amax(1).tolist()) <= 1 / 32


def test_nothing_is_added_over_a_label(data: Dataset) -> None:
    """Where a labelled instance stands, the label is right, and not the model."""
    model = start()
    found = model.predict([data.images[0].load()])[0].above(finds(model))
    label = data.images[0].annotations[0] if data.images[0].annotations else data.trainable()[0].annotations[0]
    labelled = tuple(
        replace(label, id=1000 + number, box=tuple(box)) for number, box in enumerate(found.boxes.tolist())
    )
    covered = replace(data, images=(replace(data.images[0], annotations=labelled), *data.images[1:]))
    completed = mg.complete_labels(model, covered, score=finds(model))
    assert completed.images[0] == covered.images[0]


def test_a_class_with_labels_is_left_to_them(data: Dataset) -> None:
    star = data.trainable()[0]
    with_box = replace(star, annotations=(*star.annotations, replace(star.annotations[0], id=999, label=1)))
    both = replace(data, classes=("star", "box"), category_ids=(3, 1), images=(with_box, *data.images))
    assert absent_classes(start(), both) == ("disc", "triangle")


def test_nothing_to_complete_is_told(data: Dataset) -> None:
    with pytest.raises(mg.UsageError, match=r"nothing of .* with a score of 1"):
        mg.complete_labels(start(), data, score=1.0)
    known = replace(data, classes=("disc",))
    model = start()
    model.graft = replace(model.graft, rows=model.graft.rows[:1])  # type: ignore[type-var, union-attr]
    with pytest.raises(mg.UsageError, match="nothing to complete"):
        mg.complete_labels(model, known)


def test_the_file_is_a_dataset(data: Dataset, tmp_path: Path) -> None:
    completed = mg.complete_labels(start(), data, score=finds(start()), out=tmp_path / "new.json")
    assert data.folder is not None
    again = mg.read_coco(tmp_path / "new.json", data.folder)
    assert sorted(again.classes) == sorted(completed.classes)
    for one, other in zip(completed.images, again.images, strict=True):
        assert [(completed.classes[a.label], a.box) for a in one.annotations] == [
            (again.classes[a.label], a.box) for a in other.annotations
        ]
    marked = [one for one in json.loads((tmp_path / "new.json").read_text())["annotations"] if "completed" in one]
    assert marked and all(one["completed"] >= finds(start()) for one in marked)


def test_a_run_trains_on_what_was_added_and_resumes_with_it(data: Dataset, tmp_path: Path) -> None:
    model = grown()
    recipe = SHORT.model_copy(update={"complete": finds(model), "save_every": 1, "retention": 0})
    whole = grown()
    run = mg.train(whole, data, recipe, out=tmp_path / "whole")
    told = json.loads((tmp_path / "whole" / "recipe.json").read_text())
    assert "the start model found" in next(one["why"] for one in told["derived"] if one["field"] == "complete")
    added = mg.read_coco(tmp_path / "whole" / COMPLETED, data.folder or tmp_path)
    assert set(added.classes) & set(NAMES) and not run.findings
    with pytest.raises(Stop):
        mg.train(grown(), data, recipe, out=tmp_path / "cut", watcher=Killer(3))
    again = mg.load(tmp_path / "cut" / "last")  # what it would find by now is another thing
    mg.train(again, data, out=tmp_path / "cut", resume=True)
    assert all(torch.equal(one, again.state_dict()[name]) for name, one in whole.state_dict().items())
    lines = [(tmp_path / name / state.METRICS).read_bytes() for name in ("whole", "cut")]
    assert lines[0] == lines[1]


def test_a_model_that_knows_nothing_cannot_complete(data: Dataset, tmp_path: Path) -> None:
    model = grown()
    model.graft = None
    with pytest.raises(mg.UsageError, match="complete hold"):
        mg.train(model, data, SHORT.model_copy(update={"complete": 0.5}), out=tmp_path / "run")


def test_the_command_line_keeps_the_classes_of_the_checkpoint(data: Dataset, tmp_path: Path) -> None:
    """The file lists the new class alone; the model has those that it knew too, or those that are asked for."""
    entries = json.loads(data.path.read_text())
    star = next(one["id"] for one in entries["categories"] if one["name"] == "star")
    entries["categories"] = [one for one in entries["categories"] if one["id"] == star]
    entries["annotations"] = [one for one in entries["annotations"] if one["category_id"] == star]
    (tmp_path / "star.json").write_text(json.dumps(entries))
    mg.save(start(), tmp_path / "old")
    files = [tmp_path / "old", "--annotations", tmp_path / "star.json", "--images", data.folder]
    files += ["--val-annotations", data.path]
    fixed = ["--steps", 1, "--workers", 0, "--doctor", "off", "--retention", 0, "--complete", finds(start()), "--json"]

    def typed(out: str, *further: object) -> tuple[int, str]:
        arguments = ["train", *files, "--out", tmp_path / out, *fixed, *further]
        done = CliRunner().invoke(app, [str(one) for one in arguments])
        return done.exit_code, str(done.exception)

    assert typed("every") == (0, "None")
    assert mg.load(tmp_path / "every" / "last").spec.classes == ("disc", "box", "triangle", "star")
    assert typed("some", "--classes", "box,triangle,star") == (0, "None")
    assert mg.load(tmp_path / "some" / "last").spec.classes == ("box", "triangle", "star")
    code, told = typed("wrong", "--classes", "triangel,star")
    assert code and "neither" in told and "triangel" in told and not (tmp_path / "wrong").exists()
