"""Drawn pictures: deterministic, true to their masks, and read without a finding."""

import json
from pathlib import Path

import numpy as np
import pytest

import maskgraft as mg
from maskgraft import coco, shapes


def test_pictures_depend_on_number_and_seed_alone(tmp_path: Path) -> None:
    for name, images, seed in (("one", 3, 1), ("more", 5, 1), ("other", 3, 2)):
        shapes.draw(tmp_path / name, images=images, seed=seed)
    names = sorted(path.name for path in (tmp_path / "one").glob("*.png"))
    same = [(tmp_path / "one" / name).read_bytes() == (tmp_path / "more" / name).read_bytes() for name in names]
    other = [(tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes() for name in names]
    assert len(names) == 3 and all(same) and not any(other)


def test_truth_is_what_is_seen(tmp_path: Path) -> None:
    path = shapes.draw(tmp_path / "drawn", images=30, classes=("disc", "star"), seed=3, side=96)
    data = mg.read_coco(path, path.parent)
    assert data.classes == ("disc", "star") and not data.findings
    assert {one.label for image in data.images for one in image.instances} == {0, 1}
    hidden = 0
    for image in data.images:
        masks = [coco.mask(one, image.height, image.width) for one in image.instances]
        assert 1 <= len(masks) <= 5
        assert np.sum(masks, axis=0).max() == 1  # no pixel belongs to two
        for one, mask in zip(image.instances, masks, strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert one.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            assert one.area == mask.sum()
        boxes = [one.box for one in image.instances]
        hidden += sum(
            a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for a in boxes for b in boxes if a != b
        )
    assert hidden  # some shapes reach into the boxes of others


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(mg.UsageError) as error:
        shapes.draw(tmp_path, images=0, classes=("disc", "cube"))
    assert {one.code for one in error.value.findings} == {"data.classes-unknown", "data.limit", "file.exists"}
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_instances_are_plain_coco(tmp_path: Path) -> None:
    found = json.loads(shapes.draw(tmp_path / "drawn", images=2).read_text())
    assert [one["name"] for one in found["categories"]] == list(shapes.CLASSES)
    assert [one["id"] for one in found["annotations"]] == list(range(1, len(found["annotations"]) + 1))
