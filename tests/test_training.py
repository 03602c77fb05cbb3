"""Training on drawn images: it learns, freezes what it should, resumes to the byte, and refuses before it spends."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import maskgraft as mg
from maskgraft import coco, policy
from maskgraft.batches import plan, sample
from maskgraft.init import initialise
from maskgraft.recipe import Recipe, lr_factor, recipe_from, resolve
from maskgraft.training import train
from tests.tiny import draw_dataset, tiny_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> coco.Dataset:
    return coco.read(*draw_dataset(tmp_path_factory.mktemp("drawn"), images=8))


def fresh(seed: int = 0) -> mg.MaskRCNN:
    model = tiny_model(seed=seed)
    torch.manual_seed(seed)
    initialise(model)
    return model


QUICK = Recipe(
    policy="all",
    epochs=2,
    batch=2,
    lr=0.005,
    warmup=0,
    workers=0,
    train_norms=True,
    clip_norm=10.0,
    schedule="constant",
)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_and_leaves_a_whole_run(data: coco.Dataset, tmp_path: Path) -> None:
    recipe = QUICK.model_copy(update={"epochs": 4, "evaluate_every": 2})
    run = train(fresh(), data, recipe, out=tmp_path / "run", val=data)
    assert run.steps == 16
    assert sum(run.losses[-4:]) < 0.6 * sum(run.losses[:4])
    entries = lines(tmp_path / "run")
    assert [entry["step"] for entry in entries if "losses" in entry] == list(range(1, 17))
    assert set(entries[0]["losses"]) == {"rpn_cls", "rpn_box", "cls", "box", "mask"}
    assert [entry["step"] for entry in entries if "evaluation" in entry] == [8, 16]
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["steps"] == 16
    assert len(list((tmp_path / "run" / "samples").glob("*.jpg"))) == 2
    best, last = (mg.load(tmp_path / "run" / name) for name in ("best", "last"))
    assert best.spec.classes == last.spec.classes == ("disc", "box")
    assert run.best is not None


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_run_ends_with_the_same_bytes(data: coco.Dataset, tmp_path: Path, workers: int) -> None:
    recipe = QUICK.model_copy(update={"workers": workers})
    whole, half = fresh(), fresh()
    train(whole, data, recipe, out=tmp_path / "whole")
    train(half, data, recipe.model_copy(update={"steps": 3}), out=tmp_path / "half")
    other = fresh(seed=9)  # its weights must not matter: they come from the run
    train(other, data, recipe, out=tmp_path / "half", resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    losses = [[entry["losses"] for entry in lines(tmp_path / name) if "losses" in entry] for name in ("whole", "half")]
    assert losses[0] == losses[1]


def test_batches_are_the_same_for_any_number_of_workers(data: coco.Dataset) -> None:
    assert plan(data.images, QUICK, 0) == plan(data.images, QUICK, 0)
    assert plan(data.images, QUICK, 0) != plan(data.images, QUICK, 1)
    drawn = [index for batch in plan(data.images, QUICK, 0) for index, _ in batch]
    assert len(set(drawn)) == len(drawn) == 8


def test_truth_follows_a_mirrored_image(data: coco.Dataset) -> None:
    numerics = tiny_model().spec.numerics
    record = data.images[0]
    mirrored = sample(record, numerics, Recipe(flip=1.0), 0)
    plain = sample(record, numerics, Recipe(flip=0.0), 0)
    assert torch.allclose(mirrored.prepared.pixels, plain.prepared.pixels.flip(2), atol=2e-3)
    width = plain.prepared.size[1]
    assert torch.allclose(mirrored.target.boxes[:, 0], width - plain.target.boxes[:, 2], atol=1e-3)
    for box, mask, parts in zip(
        mirrored.target.boxes, mirrored.target.masks, mirrored.target.polygons or (), strict=True
    ):
        columns = torch.nonzero(mask.any(0)).squeeze(1)
        assert abs(columns.min() - box[0]) <= 2 and abs(columns.max() + 1 - box[2]) <= 2
        assert abs(min(part[0::2].min() for part in parts) - box[0]) <= 2


@pytest.mark.parametrize(
    ("name", "trains", "frozen"),
    [
        ("heads", "fpn.lateral2.conv.weight", "backbone.res5.0.conv1.conv.weight"),
        ("4+", "backbone.res4.0.conv1.conv.weight", "backbone.res3.0.conv1.conv.weight"),
        ("predictors", "mask_predictor.logits.weight", "mask_head.upsample.weight"),
        ("last:2", "box_predictor.deltas.weight", "box_predictor.cls.weight"),
        ("backbone:2", "backbone.res3.0.conv1.conv.weight", "backbone.res2.0.conv1.conv.weight"),
        ("fpn, backbone.res5.*", "backbone.res5.0.conv1.conv.weight", "rpn.deltas.weight"),
    ],
)
def test_a_policy_trains_what_it_names_and_nothing_else(
    data: coco.Dataset, tmp_path: Path, name: str, trains: str, frozen: str
) -> None:
    model = fresh()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    run = train(model, data, QUICK.model_copy(update={"policy": name, "steps": 1, "lr": 0.1}), out=tmp_path / "run")
    assert run.steps == 1
    after = model.state_dict()
    assert not torch.equal(before[trains], after[trains])
    chosen = policy.apply(model, name).names
    moving = ("running_mean", "running_var", "num_batches_tracked")
    same = [key for key in before if key not in chosen and not key.endswith(moving)]
    assert frozen in same
    assert all(torch.equal(before[key], after[key]) for key in same)


@pytest.mark.parametrize("name", ["head", "last:x", "nothing.*", "backbone:5x"])
def test_an_unknown_policy_is_told(name: str) -> None:
    with pytest.raises(mg.UsageError, match="policy"):
        policy.apply(tiny_model(), name)


def test_rates_per_component_and_no_decay_for_norms_and_biases() -> None:
    model = tiny_model()
    groups = {
        group.name: group
        for group in policy.groups(
            model, policy.apply(model, "all"), lr=0.1, multipliers={"backbone": 0.1, "fpn": 0.2}, weight_decay=1e-4
        )
    }
    assert groups["backbone weights"].lr == pytest.approx(0.01)
    assert groups["fpn weights"].lr == pytest.approx(0.02)
    assert groups["rpn weights"].lr == 0.1
    assert groups["backbone norms and biases"].weight_decay == 0
    assert groups["backbone weights"].weight_decay == 1e-4
    everything = [name for group in groups.values() for name in group.names]
    assert sorted(everything) == sorted(name for name, _ in model.named_parameters())
    with pytest.raises(mg.UsageError, match="did you mean backbone"):
        policy.groups(model, policy.apply(model, "all"), lr=0.1, multipliers={"backbon": 1}, weight_decay=0)


def test_what_is_derived_is_said() -> None:
    resolved = resolve(Recipe(batch=4, epochs=3), images=10)
    assert resolved.steps == 6
    assert resolved.recipe.lr == pytest.approx(0.005)
    assert {one.field for one in resolved.derived} == {"steps", "lr", "warmup"}
    assert "0.02 × 4 / 16" in next(one.why for one in resolved.derived if one.field == "lr")


def test_schedules() -> None:
    stepped = Recipe(warmup=10, schedule="step", milestones=(0.5, 0.75))
    assert lr_factor(stepped, 0, 100) == pytest.approx(1e-3)
    assert lr_factor(stepped, 10, 100) == 1.0
    assert lr_factor(stepped, 50, 100) == pytest.approx(0.1)
    assert lr_factor(stepped, 75, 100) == pytest.approx(0.01)
    cosine = Recipe(warmup=0, schedule="cosine")
    assert lr_factor(cosine, 50, 100) == pytest.approx(0.5)


def test_wrong_recipe_fields_are_named_at_once() -> None:
    with pytest.raises(mg.UsageError) as caught:
        recipe_from({"polcy": "heads", "epochs": 0, "lr": -1})
    text = str(caught.value)
    assert "did you mean policy?" in text
    assert "epochs is 0" in text and "lr is -1" in text


def test_refusals_come_before_anything_is_written(data: coco.Dataset, tmp_path: Path) -> None:
    with pytest.raises(mg.UsageError, match=r"classes=data\.classes"):
        train(tiny_model(("disc", "star")), data, QUICK, out=tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(mg.UsageError, match="no saved step"):
        train(tiny_model(), data, QUICK, out=tmp_path / "a", resume=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(mg.UsageError, match="not empty"):
        train(tiny_model(), data, QUICK, out=tmp_path / "b")


def test_a_loss_that_is_not_finite_stops_and_tells_where(data: coco.Dataset, tmp_path: Path) -> None:
    model = fresh()
    with torch.no_grad():
        model.mask_predictor.logits.bias.fill_(float("nan"))
    with pytest.raises(mg.DataError, match=r"step 0: mask is not finite on images \d, \d") as caught:
        train(model, data, QUICK, out=tmp_path / "run")
    assert caught.value.findings[0].code == "train.nan"
    assert not (tmp_path / "run" / "last").exists()
    kept = json.loads(next((tmp_path / "run").glob("bad-batch-*.json")).read_text())
    assert set(kept["boxes"]) == set(caught.value.findings[0].names)


def test_labels_follow_names_and_not_order(data: coco.Dataset, tmp_path: Path) -> None:
    """The row of a class that the data lacks is not the one that learns."""
    model = tiny_model(("star", "box", "disc"))
    torch.manual_seed(0)
    initialise(model)
    before = model.box_predictor.cls.bias.detach().clone()
    train(model, data, QUICK.model_copy(update={"steps": 4, "policy": "predictors", "lr": 0.05}), out=tmp_path / "run")
    moved = model.box_predictor.cls.bias.detach() - before
    assert moved[0] < moved[1] and moved[0] < moved[2]
