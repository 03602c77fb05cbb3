"""Models of random weights, and the recipe that they need."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import maskgraft as mg
from maskgraft import shapes
from maskgraft.backbones.norms import Affine, FrozenNorm
from maskgraft.recipe import Recipe, resolve

SMALL = {
    "min_size": 64,
    "max_size": 64,
    "anchor_sizes": [[8], [16], [32], [64], [128]],
    "rpn_post_nms_train": 50,
    "roi_samples": 16,
}


@pytest.mark.parametrize("norm", ["gn", "bn"])
@pytest.mark.parametrize("init", ["kaiming", "xavier"])
def test_nothing_is_frozen(norm: str, init: str) -> None:
    torch.manual_seed(0)
    model = mg.MaskRCNN.from_scratch("small", ["disc"], init=init, norm=norm)
    assert not any(isinstance(one, FrozenNorm | Affine) for one in model.modules())
    assert all(one.requires_grad and one.isfinite().all() for one in model.parameters())
    wanted = torch.nn.GroupNorm if norm == "gn" else torch.nn.BatchNorm2d
    assert any(isinstance(one, wanted) for one in model.modules())


def test_unknown_names_are_told_at_once() -> None:
    with pytest.raises(mg.UsageError) as error:
        mg.MaskRCNN.from_scratch("resnet5", ["disc"], init="zero", norm="ln")
    assert len(error.value.findings) == 3


def test_norms_that_cannot_learn_are_refused() -> None:
    with pytest.raises(mg.UsageError, match="do not learn"):
        mg.MaskRCNN.from_scratch(mg.Arch(classes=1), ["disc"])
    arch = replace(mg.Arch(classes=9), norm="group", block="basic", blocks=(1, 1, 1, 1))
    assert mg.MaskRCNN.from_scratch(arch, ["disc"]).spec.arch.classes == 1


def test_the_schedule_is_sized_to_the_data_and_said() -> None:
    many = resolve(Recipe(from_scratch=True, batch=8), images=8000)
    few = resolve(Recipe(from_scratch=True, batch=8), images=80)
    assert many.steps == 72 * 1000 and few.steps * 8 == 24_000
    for one in (many, few):
        assert one.recipe.policy == "all" and one.recipe.clip_norm == 10 and one.recipe.warmup == 500
        assert {"policy", "epochs", "warmup", "clip_norm"} <= {each.field for each in one.derived}
    mine = resolve(Recipe(from_scratch=True, epochs=2, clip_norm=1.0), images=80)
    assert mine.steps == 80 and mine.recipe.clip_norm == 1.0 and mine.recipe.warmup == 16
    staged = resolve(Recipe(from_scratch=True, stages="heads:2st, all:10st"), images=80)  # type: ignore[arg-type]
    assert staged.steps == 12


def test_random_weights_are_not_frozen_and_learn(tmp_path: Path) -> None:
    path = shapes.draw(tmp_path / "shapes", images=4, classes=("disc",), seed=1, side=64)
    data = mg.read_coco(path, path.parent)
    torch.manual_seed(0)
    model = mg.MaskRCNN.from_scratch("small", ["disc"], numerics=SMALL)
    with pytest.raises(mg.UsageError, match="freezes"):
        mg.train(model, data, Recipe(policy="heads", steps=1, workers=0), out=tmp_path / "frozen")
    assert not (tmp_path / "frozen").exists()
    recipe = Recipe(from_scratch=True, steps=2, batch=2, workers=0, evaluate_every=0)
    run = mg.train(model, data, recipe, out=tmp_path / "run")
    assert run.steps == 2 and run.frozen == 0 and not run.findings


def test_batch_norms_must_gather_statistics(tmp_path: Path) -> None:
    path = shapes.draw(tmp_path / "shapes", images=2, classes=("disc",), seed=1, side=64)
    model = mg.MaskRCNN.from_scratch("small", ["disc"], norm="bn", numerics=SMALL)
    recipe = Recipe(from_scratch=True, steps=1, workers=0)
    with pytest.raises(mg.UsageError, match="first statistics"):
        mg.train(model, mg.read_coco(path, path.parent), recipe, out=tmp_path / "run")
