"""Models of random weights, and the recipe that they need."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import maskgraft as mg
from maskgraft import shapes
from maskgraft.backbones.norms import Affine, FrozenNorm
from maskgraft.cli import app
from maskgraft.recipe import Recipe, resolve

SMALL = {
    "min_size": 64,
    "max_size": 64,
    "anchor_sizes": [[8], [16], [32], [64], [128]],
    "rpn_post_nms_train": 50,
    "roi_samples": 16,
}


@pytest.mark.parametrize("norm", ["gn", "syncbn", "bn"])
@pytest.mark.parametrize("init", ["kaiming", "xavier"])
def test_nothing_is_frozen(norm: str, init: str) -> None:
    torch.manual_seed(0)
    model = mg.MaskRCNN.from_scratch("small", ["disc"], init=init, norm=norm)
    assert not any(isinstance(one, FrozenNorm | Affine) for one in model.modules())
    assert all(one.requires_grad and one.isfinite().all() for one in model.parameters())
    wanted = {"gn": torch.nn.GroupNorm, "syncbn": torch.nn.SyncBatchNorm, "bn": torch.nn.BatchNorm2d}[norm]
    assert any(isinstance(one, wanted) for one in model.modules())


def test_unknown_names_are_told_at_once() -> None:
    with pytest.raises(mg.UsageError) as error:
        mg.MaskRCNN.from_scratch("resnet5", ["disc"], init="zero", norm="ln")
    assert len(error.value.findings) == 3


@pytest.mark.parametrize("classes", [[], ["disc", "disc"], "disc"])
def test_classes_are_names_none_of_them_twice(classes: list[str]) -> None:
    with pytest.raises(mg.UsageError, match="none of them twice"):
        mg.MaskRCNN.from_scratch("small", classes)


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


@pytest.mark.parametrize("norm", ["bn", "syncbn"])
def test_batch_norms_gather_statistics(norm: str, tmp_path: Path) -> None:
    path = shapes.draw(tmp_path / "shapes", images=2, classes=("disc",), seed=1, side=64)
    data = mg.read_coco(path, path.parent)
    model = mg.MaskRCNN.from_scratch("small", ["disc"], norm=norm, numerics=SMALL)
    still = Recipe(from_scratch=True, train_norms=False, steps=1, workers=0)
    with pytest.raises(mg.UsageError, match="first statistics"):
        mg.train(model, data, still, out=tmp_path / "run")
    mg.train(model, data, Recipe(from_scratch=True, steps=1, workers=0), out=tmp_path / "run")
    statistics = [one for name, one in model.named_buffers() if name.endswith("running_mean")]
    assert statistics and all(one.any() for one in statistics)


def test_sync_norms_answer_as_batch_norms_in_one_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    alone = mg.MaskRCNN.from_scratch("small", ["disc"], norm="bn", numerics=SMALL)
    together = mg.MaskRCNN.from_scratch("small", ["disc"], norm="syncbn", numerics=SMALL)
    together.load_state_dict(alone.state_dict())
    pixels = torch.randn(2, 3, 64, 64)
    for one in (alone, together):
        one.train()
    maps = together.features(pixels)
    assert all(torch.equal(map_, maps[name]) for name, map_ in alone.features(pixels).items())
    mg.save(together, tmp_path / "saved")
    assert mg.load(tmp_path / "saved").spec.arch.norm == "sync"


def test_an_optimizer_of_ones_own_keeps_its_rate() -> None:
    proposed = resolve(Recipe(from_scratch=True, batch=8), images=80).recipe
    assert (proposed.optimizer, proposed.lr, proposed.schedule) == ("adamw", 1e-3, "cosine")
    mine = resolve(Recipe(from_scratch=True, optimizer="sgd", batch=8), images=80).recipe
    assert (mine.optimizer, mine.lr, mine.schedule) == ("sgd", pytest.approx(0.01), "step")


def test_above_an_imagenet_backbone() -> None:
    few, many = (resolve(Recipe(from_backbone=True, batch=8), images=count) for count in (80, 8000))
    assert few.recipe.policy == "3+" and few.recipe.clip_norm == 10 and few.recipe.optimizer == "sgd"
    assert few.steps * 8 == 12_000 and many.recipe.epochs == 36
    with pytest.raises(mg.UsageError, match="from_backbone"):
        Recipe(from_backbone=True, from_scratch=True)


def test_the_command_draws_a_model(tmp_path: Path) -> None:
    path = shapes.draw(tmp_path / "shapes", images=2, classes=("disc",), seed=1, side=64)
    where = ["--annotations", str(path), "--images", str(path.parent), "--out", str(tmp_path / "run")]
    small = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    done = CliRunner().invoke(app, ["train", "resnet5", "--from-scratch", *where])
    assert "takes an architecture" in str(done.exception) and not (tmp_path / "run").exists()
    short = ["--from-scratch", "--steps", "1", "--workers", "0"]
    done = CliRunner().invoke(app, ["train", "small", *where, *short, *small])
    assert done.exit_code == 0, done.output
    assert "random weights" in done.output and "none frozen" in done.output and "1 steps" in done.output
    assert mg.load(tmp_path / "run" / "last").spec.arch.norm == "group"
