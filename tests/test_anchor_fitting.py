"""Anchors against boxes: the same overlaps as the model's own anchors have, and better ones after fitting."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import maskgraft as mg
from maskgraft import admission, anchor_fitting, coco
from maskgraft.cli import app
from maskgraft.ops import boxes as box_ops
from maskgraft.preprocess import prepare, stack
from maskgraft.recipe import Recipe
from tests.tiny import draw_dataset, tiny_model


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return draw_dataset(tmp_path_factory.mktemp("drawn"), images=8)


def test_overlaps_are_those_of_the_models_own_anchors(drawn: tuple[Path, Path]) -> None:
    data, model = coco.read(*drawn), tiny_model()
    model.spec = model.spec.with_numerics({"anchor_rounding": False})
    best = []
    for image in data.images:
        prepared = prepare(image.load(), model.spec.numerics)
        height, width = stack([prepared], 32).shape[2:]
        levels = {
            f"p{level}": torch.zeros(1, 1, -(-height // 2**level), -(-width // 2**level)) for level in range(2, 7)
        }
        every = torch.cat(model.anchors(levels, (height, width)))
        boxes = prepared.to_network(torch.from_numpy(coco.truth(image).boxes))
        best += box_ops.iou(boxes, every, inclusive=False).max(1).values.tolist()
    found = anchor_fitting.anchor_coverage(data, model.spec)
    assert np.abs(np.sort(found.best) - np.sort(best)).max() < 1e-4
    assert sum(found.histogram()) == len(best)
    assert found.recall(0.5) == np.mean(np.array(best) >= 0.5)


def test_boxes_that_are_no_numbers_do_not_count(drawn: tuple[Path, Path]) -> None:
    data, spec = coco.read(*drawn), tiny_model().spec
    whole = anchor_fitting.anchor_coverage(data, spec)
    first = data.images[0].annotations[0]
    odd = replace(
        data.images[0], annotations=(*data.images[0].annotations, replace(first, box=(np.nan, 1.0, 9.0, 9.0)))
    )
    found = anchor_fitting.anchor_coverage(replace(data, images=(odd, *data.images[1:])), spec)
    assert found.as_json() == whole.as_json()


def test_fitted_anchors_meet_more_boxes_and_keep_the_models_shape(drawn: tuple[Path, Path]) -> None:
    data, spec = coco.read(*drawn), tiny_model().spec
    poor = spec.with_numerics({"anchor_sizes": [[64], [128], [256], [512], [700]]})
    fit = mg.fit_anchors(data, poor)
    assert fit.after.recall(0.7) > fit.before.recall(0.7) + 0.3
    again = mg.fit_anchors(data, poor)
    assert again.numerics == fit.numerics
    changed = poor.with_numerics(fit.numerics)
    assert list(map(len, changed.numerics.anchor_sizes)) == [1] * 5
    assert anchor_fitting.anchor_coverage(data, changed).mean == pytest.approx(fit.after.mean)
    assert admission.trained(poor, Recipe(numerics=fit.numerics)).numerics == changed.numerics
    with pytest.raises(mg.UsageError, match="built for"):
        admission.trained(poor, Recipe(numerics={"anchor_ratios": (1.0,)}))


def test_anchors_that_fit_stay(drawn: tuple[Path, Path]) -> None:
    data, spec = coco.read(*drawn), tiny_model().spec
    once = mg.fit_anchors(data, spec)
    assert mg.fit_anchors(data, spec.with_numerics(once.numerics)).numerics == {}


def test_the_input_size_counts(drawn: tuple[Path, Path]) -> None:
    data, spec = coco.read(*drawn), tiny_model().spec
    small, large = (mg.fit_anchors(data, spec, min_size=side, max_size=2 * side) for side in (96, 384))
    assert np.allclose(4 * small.before.sides, large.before.sides, rtol=0.05)


def test_one_level_has_all_sizes(drawn: tuple[Path, Path]) -> None:
    data, spec = coco.read(*drawn), tiny_model().spec
    c4 = replace(spec, arch=replace(spec.arch, neck="c4", anchors_per_cell=15))
    c4 = c4.with_numerics({"anchor_sizes": [[32, 64, 128, 256, 512]]})
    assert anchor_fitting.strides(c4.arch, c4.numerics) == (16,)
    fit = mg.fit_anchors(data, c4)
    assert [len(level) for level in fit.after.sizes] == [5]
    assert fit.after.mean > fit.before.mean


def test_the_verb_prints_what_set_takes(drawn: tuple[Path, Path]) -> None:
    done = CliRunner().invoke(app, ["data", "anchors", *map(str, drawn), "--min-size", "96", "--max-size", "128"])
    assert done.exit_code == 0, done.output
    assert "in a recipe:  [numerics]\n" in done.output  # brackets are text, and no style
    with pytest.raises(mg.UsageError, match="max_size is 0"):
        mg.fit_anchors(coco.read(*drawn), tiny_model().spec, max_size=0)
    assert "--set anchor_sizes=[[" in done.output and "recall at IoU 0.7" in done.output
