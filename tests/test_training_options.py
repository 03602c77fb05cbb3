"""What a recipe can ask for beyond a plain training: stages, mean weights, parts of a batch, precision, balance."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import maskgraft as mg
from maskgraft import coco, policy
from maskgraft.averaging import Average
from maskgraft.balance import Balance, pulls
from maskgraft.losses import LOSSES
from maskgraft.recipe import Recipe, recipe_from
from maskgraft.training import train
from tests.test_training import Watching, fresh, lines, same_weights, some
from tests.tiny import draw_dataset, tiny_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> coco.Dataset:
    return coco.read(*draw_dataset(tmp_path_factory.mktemp("drawn"), images=8))


def recipe(**fields: Any) -> Recipe:
    return recipe_from({"batch": 2, "lr": 0.005, "workers": 0, "warmup": 0, "clip_norm": 10.0, "epochs": 1, **fields})


def steps(folder: Path) -> list[dict[str, Any]]:
    return [entry for entry in lines(folder) if "losses" in entry]


STAGED = recipe(epochs=None, stages="predictors:3st@1e-2, heads:3st@5e-3, all:2st", optimizer="adamw", lr=1e-3, ema=0.9)


def test_stages_train_what_they_say_and_frozen_is_proved_in_each(data: coco.Dataset, tmp_path: Path) -> None:
    seen: list[tuple[int, bool, bool]] = []
    model = fresh()
    start = {name: value.clone() for name, value in model.state_dict().items()}

    class Following(Watching):
        def step(self, number: int, entry: Any) -> None:
            now = model.state_dict()
            moved = {name.split(".")[0] for name in now if not torch.equal(now[name], start[name])}
            seen.append((number, "rpn" in moved, "backbone" in moved))

    run = train(model, data, STAGED.model_copy(update={"ema": None}), out=tmp_path / "run", watcher=Following())
    assert [(rpn, backbone) for _, rpn, backbone in seen] == [(False, False)] * 3 + [(True, False)] * 3 + [
        (True, True)
    ] * 2
    rates = [entry["lr"] for entry in steps(tmp_path / "run")]
    assert rates[0] == pytest.approx(1e-2) and rates[3] == pytest.approx(5e-3) and rates[6] == pytest.approx(1e-3)
    assert run.frozen == sum(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in start)


@pytest.mark.parametrize("at", [3, 4, 7])
def test_a_run_stopped_in_any_stage_is_the_run_that_never_stopped(
    data: coco.Dataset, tmp_path: Path, at: int, whole: Path
) -> None:
    """The weights, their running mean, and the moments of what trains on; 3 is the last step of a stage."""
    stop = Watching(at, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match=f"after step {at}"):
        train(fresh(), data, STAGED, out=tmp_path / "torn", watcher=stop)
    train(fresh(seed=9), data, out=tmp_path / "torn", resume=True)
    assert same_weights(whole / "last", tmp_path / "torn" / "last")
    assert (whole / "metrics.jsonl").read_bytes() == (tmp_path / "torn" / "metrics.jsonl").read_bytes()
    kept = [torch.load(folder / "last" / "state.pt", weights_only=True) for folder in (whole, tmp_path / "torn")]
    assert kept[0]["own"].keys() == kept[1]["own"].keys()
    assert all(torch.equal(value, kept[1]["own"][name]) for name, value in kept[0]["own"].items())


@pytest.fixture(scope="module")
def whole(data: coco.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(fresh(), data, STAGED, out=folder)
    return folder


def test_mean_weights_are_what_is_kept(data: coco.Dataset, tmp_path: Path) -> None:
    plain, averaged = fresh(), fresh()
    train(plain, data, recipe(policy="all"), out=tmp_path / "plain")
    train(averaged, data, recipe(policy="all", ema=0.5), out=tmp_path / "mean", val=some(data, 1))
    kept = torch.load(tmp_path / "mean" / "last" / "state.pt", weights_only=True)["own"]
    for name, value in plain.state_dict().items():
        assert torch.equal(kept.get(name, value), value), name
    last, best = (mg.load(tmp_path / "mean" / name).state_dict() for name in ("last", "best"))
    for name, value in averaged.state_dict().items():
        assert torch.equal(value, last[name]) and torch.equal(value, best[name])
    assert not torch.equal(averaged.rpn.deltas.weight, plain.rpn.deltas.weight)


def test_the_mean_of_weights_follows_its_formula() -> None:
    model = tiny_model()
    average = Average(0.999)
    average.follow(model, policy.apply(model, "predictors"))
    bias = model.box_predictor.cls.bias
    expected = bias.detach().clone()
    for step in (1, 2, 3):
        with torch.no_grad():
            bias.add_(step)
        average.update(model, step)
        decay = (1 + step) / (10 + step)
        expected = decay * expected + (1 - decay) * bias.detach()
    own = bias.detach().clone()
    with average.inside(model):
        assert torch.allclose(bias, expected)
    assert torch.equal(bias, own)
    assert not any(name.startswith("backbone") for name in average.values)


def test_a_batch_in_parts_gives_nearly_the_gradient_of_the_whole(data: coco.Dataset, tmp_path: Path) -> None:
    for parts in (1, 4):
        asked = recipe(policy="heads", batch=4, accumulate=parts, steps=2, by_shape=False)
        train(fresh(), data, asked, out=tmp_path / str(parts))
    one, four = (steps(tmp_path / name)[0] for name in ("1", "4"))
    assert four["total"] == pytest.approx(one["total"], rel=0.1)
    assert four["gradient"] == pytest.approx(one["gradient"], rel=0.3)
    with pytest.raises(mg.UsageError, match="cannot be shared alike"):
        train(fresh(), data, recipe(batch=16, accumulate=4), out=tmp_path / "c")


@pytest.mark.parametrize("kind", ["bf16", pytest.param("fp16", marks=pytest.mark.long)])
def test_half_precision_trains_nearly_alike(data: coco.Dataset, tmp_path: Path, kind: str) -> None:
    train(fresh(), data, recipe(policy="all", lr=1e-3), out=tmp_path / "full")
    model = fresh()
    train(model, data, recipe(policy="all", lr=1e-3, precision=kind), out=tmp_path / kind)
    full, half = steps(tmp_path / "full"), steps(tmp_path / kind)
    assert all(one.dtype == torch.float32 for one in model.parameters())
    assert half[0]["losses"] != full[0]["losses"]
    for name, value in full[0]["losses"].items():
        assert half[0]["losses"][name] == pytest.approx(value, rel=0.1, abs=0.02), name
    assert half[-1]["total"] == pytest.approx(full[-1]["total"], rel=0.25)


def test_uncertainty_learns_a_weight_for_each_loss_and_resumes(data: coco.Dataset, tmp_path: Path) -> None:
    asked = recipe(policy="heads", balance="uncertainty", lr=0.01, loss_weights={"box": 0.0}, epochs=2)
    train(fresh(), data, asked, out=tmp_path / "whole")
    first, *_, last = steps(tmp_path / "whole")
    assert first["weights"] == {"rpn_cls": 1, "rpn_box": 1, "cls": 1, "box": 0, "mask": 1}
    assert last["weights"]["box"] == 0 and all(last["weights"][name] != 1 for name in LOSSES)
    stop = Watching(5, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), data, asked, out=tmp_path / "torn", watcher=stop)
    train(fresh(seed=9), data, out=tmp_path / "torn", resume=True)
    assert same_weights(tmp_path / "whole" / "last", tmp_path / "torn" / "last")
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "torn" / "metrics.jsonl").read_bytes()


def test_uncertainty_pulls_a_weight_to_the_inverse_of_its_loss() -> None:
    balance = Balance("uncertainty", torch.device("cpu"))
    losses = {name: torch.tensor(value) for name, value in zip(LOSSES, (0.5, 1.0, 2.0, 4.0, 8.0), strict=True)}
    optimizer = torch.optim.SGD(balance.parameters(), lr=0.2)
    fixed = dict.fromkeys(LOSSES, 1.0)
    for _ in range(200):
        optimizer.zero_grad()
        balance.total(losses, fixed).backward()
        optimizer.step()
    for name, weight in balance.weights(fixed).items():
        assert weight == pytest.approx(1 / losses[name].item(), rel=0.01)


def test_a_loss_of_nothing_pulls_at_nothing() -> None:
    maps = [torch.ones(2, 4, 3, 3, requires_grad=True)]
    losses = {name: (maps[0] * number).sum() for number, name in enumerate(LOSSES, 1)}
    norms, cosines = pulls({**losses, "rpn_box": torch.zeros(())}, maps)  # as it is without positive anchors
    assert norms["rpn_box"] == 0 and all(norms[name] > 0 for name in LOSSES if name != "rpn_box")
    assert cosines["cls box"] == pytest.approx(1) and cosines["rpn_box cls"] == 0


def test_gradient_norms_come_to_pull_alike(data: coco.Dataset, tmp_path: Path) -> None:
    balance = Balance("gradient-norm", torch.device("cpu"))
    fixed, norms = dict.fromkeys(LOSSES, 1.0), dict(zip(LOSSES, (1.0, 2.0, 3.0, 4.0, 5.0), strict=True))
    for _ in range(60):
        balance.adjust(norms, dict.fromkeys(LOSSES, 1.0), fixed)
    weights = balance.weights(fixed)
    pulling = [weights[name] * norms[name] for name in LOSSES]
    assert max(pulling) / min(pulling) == pytest.approx(1, rel=1e-3) and sum(weights.values()) == pytest.approx(5)
    train(fresh(), data, recipe(policy="all", balance="gradient-norm", gradient_norms=2), out=tmp_path / "run")
    entries = steps(tmp_path / "run")
    assert ["gradients" in entry for entry in entries] == [True, False, True, False]
    assert set(entries[0]["gradients"]) == set(LOSSES) and all(one > 0 for one in entries[0]["gradients"].values())
    assert entries[0]["weights"]["mask"] == 1 and entries[1]["weights"]["mask"] != 1
    assert sum(entries[0]["shares"].values()) == pytest.approx(1, abs=1e-3)
    with pytest.raises(mg.UsageError, match="do not train"):
        train(fresh(), data, recipe(balance="gradient-norm", policy="predictors"), out=tmp_path / "b")
    with pytest.raises(mg.UsageError, match="goes by gradient norms"):
        train(fresh(), data, recipe(balance="gradient-norm", gradient_norms=0), out=tmp_path / "b")


def test_losses_and_proposals_are_set_by_the_recipe_and_travel_with_the_model(
    data: coco.Dataset, tmp_path: Path
) -> None:
    settings = {"rpn_min_size": 4, "rpn_positive_fraction": 0.25, "rpn_post_nms_train": 50}
    train(
        fresh(),
        data,
        recipe(box_loss="giou", mask_loss="bce-dice", numerics=settings, steps=1),
        out=tmp_path / "run",
    )
    numerics = mg.load(tmp_path / "run" / "last").spec.numerics
    assert (numerics.box_loss, numerics.rpn_box_loss, numerics.mask_loss) == ("giou", "giou", "bce-dice")
    assert (numerics.rpn_min_size, numerics.rpn_positive_fraction, numerics.rpn_post_nms_train) == (4, 0.25, 50)
    train(fresh(), data, recipe(box_loss="l1", steps=1), out=tmp_path / "l1")
    assert mg.load(tmp_path / "l1" / "last").spec.numerics.box_beta == 0
    with pytest.raises(mg.UsageError, match="norm_eps cannot change once a model is built"):
        train(fresh(), data, recipe(numerics={"norm_eps": 0.1}), out=tmp_path / "b")
    with pytest.raises(mg.UsageError, match="did you mean rpn_min_size"):
        train(fresh(), data, recipe(numerics={"rpn_min_siz": 1}), out=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_frozen_at_first_is_no_doubt_when_a_later_stage_trains_it(data: coco.Dataset, tmp_path: Path) -> None:
    staged = recipe(epochs=None, stages="heads:1st, all:1st")
    assert not train(fresh(), data, staged, out=tmp_path / "a").findings
    told = train(fresh(), data, recipe(epochs=None, stages="predictors:1st, heads:1st"), out=tmp_path / "b").findings
    assert {one.code for one in told} == {"train.frozen-random"}


def test_event_files_hold_what_the_metrics_hold(data: coco.Dataset, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(fresh(), data, recipe(tensorboard=True), out=tmp_path / "run", val=some(data, 1))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    written = [event.value for event in events.Scalars("losses/mask")]
    assert written == pytest.approx([entry["losses"]["mask"] for entry in steps(tmp_path / "run")])
    assert {"lr", "total", "shares/cls"} <= set(events.Tags()["scalars"])


def test_the_recipe_of_a_run_starts_the_same_run_again(data: coco.Dataset, tmp_path: Path, whole: Path) -> None:
    again = mg.Recipe(**json.loads((whole / "recipe.json").read_text())["recipe"])
    train(fresh(), data, again, out=tmp_path / "again")
    assert same_weights(whole / "last", tmp_path / "again" / "last")


def test_best_and_plateau_go_by_the_metric_that_is_asked_for(data: coco.Dataset, tmp_path: Path) -> None:
    asked = recipe(metric="box.AR100", schedule="plateau", patience=1, epochs=4, lr=1e-6, policy="predictors")
    run = train(fresh(), data, asked, out=tmp_path / "run", val=some(data, 2))
    judged = [entry["evaluation"]["box"]["AR100"] for entry in lines(tmp_path / "run") if "evaluation" in entry]
    assert run.best == max(judged)
    rates = [entry["lr"] for entry in steps(tmp_path / "run")]
    waits, factor, expected, best = 0, 1.0, [], -1.0
    for score in judged:
        expected += [1e-6 * factor] * 4
        waits, best = (0, score) if score > best else (waits + 1, best)
        if waits > 1:
            factor, waits = factor * 0.1, 0
    assert rates == pytest.approx(expected)
    with pytest.raises(mg.UsageError, match="metric is 'AP'"):
        recipe(metric="AP")
