"""Training on drawn images: it learns, freezes what it should, resumes to the byte, and refuses before it spends."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import maskgraft as mg
from maskgraft import Finding, coco, interrupts, policy, store
from maskgraft.init import initialise
from maskgraft.policy import Trainable
from maskgraft.recipe import Recipe, Resolved
from maskgraft.targets import Batch
from maskgraft.training import Run, train
from maskgraft.watching import Moment, Verdict
from tests.tiny import draw_dataset, tiny_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> coco.Dataset:
    return coco.read(*draw_dataset(tmp_path_factory.mktemp("drawn"), images=8))


def some(data: coco.Dataset, count: int) -> coco.Dataset:
    return replace(data, images=data.images[:count])


def fresh(seed: int = 0, classes: tuple[str, ...] = ("disc", "box")) -> mg.MaskRCNN:
    model = tiny_model(classes, seed=seed)
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
    schedule="cosine",
)


class Watching:
    """A watcher that does something after one of the steps."""

    def __init__(self, at: int = 0, then: Any = None) -> None:
        self.at, self.then = at, then
        self.findings: Sequence[mg.Finding] = ()

    def examines(self, what: str) -> None: ...

    def begin(self, resolved: Resolved, trainable: Trainable, findings: Sequence[mg.Finding]) -> None:
        self.findings = findings

    def step(self, number: int, entry: Any) -> None:
        if number == self.at:
            self.then()

    def evaluated(self, number: int, metrics: Any) -> None: ...

    def found(self, number: int, findings: Any) -> None: ...


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same_weights(one: Path, other: Path) -> bool:
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_it_learns_and_leaves_a_whole_run(data: coco.Dataset, tmp_path: Path) -> None:
    recipe = QUICK.model_copy(update={"epochs": 4, "evaluate_every": 2, "schedule": "constant"})
    run = train(fresh(), data, recipe, out=tmp_path / "run", val=some(data, 3))
    assert run.steps == 16
    assert sum(run.losses[-4:]) < 0.6 * sum(run.losses[:4])
    entries = lines(tmp_path / "run")
    assert [entry["step"] for entry in entries if "losses" in entry] == list(range(1, 17))
    assert set(entries[0]["losses"]) == {"rpn_cls", "rpn_box", "cls", "box", "mask"}
    assert [entry["step"] for entry in entries if "evaluation" in entry] == [8, 16]
    timing = [json.loads(line) for line in (tmp_path / "run" / "timing.jsonl").read_text().splitlines()]
    assert len(timing) == 16 and set(timing[0]) == {
        "step", "data_s", "step_s", "data_busy_s", "step_busy_s", "memory_mb",
    }  # fmt: skip
    kept = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert kept["steps"] == 16 and "lr" in kept["set"] and kept["data"]["images"] == 8
    assert len(list((tmp_path / "run" / "samples").glob("step-*.jpg"))) == 2
    assert (tmp_path / "run" / "samples" / "augmented.jpg").is_file()
    best, last = (mg.load(tmp_path / "run" / name) for name in ("best", "last"))
    assert best.spec.classes == last.spec.classes == ("disc", "box")
    assert run.best is not None and run.metrics is not None
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


@contextmanager
def stop_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    predict = mg.MaskRCNN.predict

    def interrupted(self: mg.MaskRCNN, images: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return predict(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(mg.MaskRCNN, "predict", interrupted)
        yield


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_a_run_stopped_by_ctrl_c_and_resumed_is_the_run_that_never_stopped(
    data: coco.Dataset, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, val = QUICK.model_copy(update={"workers": workers, "optimizer": "adamw", "lr": 1e-3}), some(data, 2)
    train(fresh(), data, recipe, out=tmp_path / "whole", val=val)

    def ctrl_c() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="after step 3"):
        train(fresh(), data, recipe, out=tmp_path / "torn", val=val, watcher=Watching(3, ctrl_c))
    # weights, recipe and random numbers of now must not matter: they come from the run
    with stop_in_evaluation(monkeypatch), pytest.raises(KeyboardInterrupt, match="after step 4"):
        train(fresh(seed=9), data, out=tmp_path / "torn", val=val, resume=True)
    torch.manual_seed(123)
    run = train(fresh(seed=9), data, Recipe(workers=1), out=tmp_path / "torn", val=val, resume=True)
    assert run.steps == 8 and len(run.losses) == 8
    assert same_weights(tmp_path / "whole" / "last", tmp_path / "torn" / "last")
    assert same_weights(tmp_path / "whole" / "best", tmp_path / "torn" / "best")
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "torn" / "metrics.jsonl").read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from maskgraft import coco
from tests import test_training as tests
from maskgraft.training import train
folder = Path(sys.argv[2])
data = coco.read(folder / "instances.json", folder / "images")
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
train(tests.fresh(), data, tests.QUICK, out=sys.argv[3], watcher=tests.Watching(6, die))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_run_that_was_killed_goes_on_from_its_last_save(data: coco.Dataset, tmp_path: Path) -> None:
    train(fresh(), data, QUICK, out=tmp_path / "whole")
    here = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", KILLED, here, data.path.parent, tmp_path / "torn"], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert len(lines(tmp_path / "torn")) == 6
    with (tmp_path / "torn" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "epo')  # what a kill in the middle of a line leaves
    train(fresh(seed=9), data, out=tmp_path / "torn", resume=True)
    assert same_weights(tmp_path / "whole" / "last", tmp_path / "torn" / "last")
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "torn" / "metrics.jsonl").read_bytes()


def test_a_kill_while_saving_leaves_the_model_of_before(tmp_path: Path) -> None:
    target = tmp_path / "last"
    store.save(tiny_model(seed=1), target)
    weights = (target / "model.safetensors").read_bytes()
    # between its two renames: the new folder is whole, the old one waits
    target.rename(tmp_path / ".last.old")
    (tmp_path / ".last.0123abcd").mkdir()
    (tmp_path / ".last.0123abcd" / "model.safetensors").write_bytes(weights[:100])
    store.recover(target)
    assert [path.name for path in tmp_path.iterdir()] == ["last"]
    assert (target / "model.safetensors").read_bytes() == weights
    # while it removes the old one
    (tmp_path / ".last.old").mkdir()
    store.save(tiny_model(seed=2), target)
    assert [path.name for path in tmp_path.iterdir()] == ["last"]
    assert (target / "model.safetensors").read_bytes() != weights


def test_a_run_stopped_before_its_first_save_begins_anew(data: coco.Dataset, tmp_path: Path) -> None:
    once = QUICK.model_copy(update={"steps": 1})
    train(fresh(), data, once, out=tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    shutil.rmtree(tmp_path / "torn" / "last")
    train(fresh(), data, out=tmp_path / "torn", resume=True)
    assert same_weights(tmp_path / "whole" / "last", tmp_path / "torn" / "last")


def test_a_second_ctrl_c_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupts.noted() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set()
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_full_disk_loses_nothing_already_saved(
    data: coco.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def fill() -> None:
        monkeypatch.setattr("maskgraft.store.save_file", full)

    with pytest.raises(OSError, match="No space left"):
        train(fresh(), data, QUICK, out=tmp_path / "torn", watcher=Watching(6, fill))
    monkeypatch.undo()
    train(fresh(), data, QUICK, out=tmp_path / "whole")
    train(fresh(seed=9), data, out=tmp_path / "torn", resume=True)
    assert same_weights(tmp_path / "whole" / "last", tmp_path / "torn" / "last")


@pytest.mark.parametrize("name", ["heads", "predictors", "fpn, backbone.res5.*"])
def test_what_does_not_train_is_the_same_to_the_byte(data: coco.Dataset, tmp_path: Path, name: str) -> None:
    model = fresh()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    run = train(model, data, QUICK.model_copy(update={"policy": name, "steps": 1, "lr": 0.1}), out=tmp_path / "run")
    chosen = policy.apply(model, name).names
    after = model.state_dict()
    moving = ("running_mean", "running_var", "num_batches_tracked")
    same = [key for key in before if key not in chosen and not key.endswith(moving)]
    assert all(torch.equal(before[key], after[key]) for key in same)
    assert run.frozen >= len(same) > 0
    moved = [key for key in chosen if not torch.equal(before[key], after[key])]
    assert {key.split(".")[0] for key in moved} == {key.split(".")[0] for key in chosen}


def test_frozen_tensors_are_proved_over_a_resume(
    data: coco.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = QUICK.model_copy(update={"policy": "predictors", "steps": 1})
    first = train(fresh(), data, recipe, out=tmp_path / "run")
    other = fresh(seed=9)
    assert train(other, data, Recipe(steps=2), out=tmp_path / "run", resume=True).frozen == first.frozen

    def meddle() -> None:
        with torch.no_grad():
            other.rpn.deltas.bias[0] += 1

    with pytest.raises(AssertionError, match=r"rpn\.deltas\.bias"):
        train(other, data, Recipe(steps=3), out=tmp_path / "run", resume=True, watcher=Watching(3, meddle))


def refused(*args: Any, **options: Any) -> str:
    with pytest.raises(mg.UsageError) as caught:
        train(*args, **options)
    return str(caught.value)


def test_refusals_come_before_anything_is_written(data: coco.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "a"
    strange = replace(data, classes=("star", "comet"))
    several = refused(tiny_model(), strange, Recipe(schedule="plateau", evaluate_every=0), out=out, val=strange)
    for part in ("classes=data.classes", "knows none of the classes", "schedule is plateau"):
        assert part in several
    fixed = tiny_model()
    fixed.spec = replace(fixed.spec, numerics=replace(fixed.spec.numerics, fixed_size=(128, 128)))
    assert "always 128 × 128" in refused(fixed, data, Recipe(min_size=96), out=out)
    assert "hedas" in refused(tiny_model(), data, Recipe(policy="hedas"), out=out)
    assert "did you mean sgd" in refused(tiny_model(), data, Recipe(optimizer="sdg", lr=1), out=out)
    assert "did you mean fpn" in refused(tiny_model(), data, Recipe(multipliers={"fpm": 1}), out=out)
    assert "no run to go on with" in refused(tiny_model(), data, QUICK, out=out, resume=True)
    empty = replace(data, images=tuple(replace(image, annotations=()) for image in data.images))
    with pytest.raises(mg.DataError, match="no instance"):
        train(tiny_model(), empty, QUICK, out=out)
    assert not out.exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "photo.jpg").write_bytes(b"x")
    assert "not empty" in refused(tiny_model(), data, QUICK, out=tmp_path / "b")
    assert "is a file" in refused(tiny_model(), data, QUICK, out=tmp_path / "b" / "photo.jpg")


def test_a_run_goes_on_only_as_the_run_that_it_is(data: coco.Dataset, tmp_path: Path) -> None:
    train(fresh(), data, QUICK.model_copy(update={"steps": 1}), out=tmp_path / "run")
    again: dict[str, Any] = {"out": tmp_path / "run", "resume": True}
    assert "holds a run already" in refused(fresh(), data, QUICK, out=tmp_path / "run")
    told = refused(fresh(), some(data, 5), Recipe(policy="heads", lr=0.1, steps=9), **again)
    for part in ("policy was 'all'", "is 'heads' now", "lr was 0.005", "began on 8 images", "the 5 of"):
        assert part in told
    assert "steps" not in told
    assert "classes were disc, box" in refused(fresh(classes=("box", "disc")), data, None, **again)
    wider = tiny_model()
    wider.spec = replace(wider.spec, numerics=replace(wider.spec.numerics, roi_samples=32))
    assert "roi_samples was 64 and is 32" in refused(wider, data, None, **again)
    (tmp_path / "run" / "recipe.json").write_text("{}")
    assert "not what a run writes" in refused(fresh(), data, None, **again)


def test_what_is_doubtful_is_told_before_the_first_step(data: coco.Dataset, tmp_path: Path) -> None:
    watching = Watching()
    mixed = replace(data, images=(replace(data.images[0], annotations=()), *data.images[1:]))
    recipe = QUICK.model_copy(update={"policy": "predictors", "steps": 1})
    run: Run = train(fresh(), mixed, recipe, out=tmp_path / "run", watcher=watching)
    assert {finding.code for finding in run.findings} == {"train.frozen-random", "train.batchnorm"}
    assert run.findings == watching.findings
    why = next(one["why"] for one in json.loads((run.folder / "recipe.json").read_text())["derived"])
    assert "7 images by 2; 1 have no instance" in why


def test_a_loss_that_is_not_finite_stops_and_tells_where(data: coco.Dataset, tmp_path: Path) -> None:
    model = fresh()

    def spoil() -> None:
        with torch.no_grad():
            model.mask_predictor.logits.bias.fill_(float("nan"))

    recipe = QUICK.model_copy(update={"save_every": 1})
    with pytest.raises(mg.DataError, match=r"step 3: mask is not finite on images \d, \d") as caught:
        train(model, data, recipe, out=tmp_path / "run", watcher=Watching(2, spoil))
    assert caught.value.findings[0].code == "train.nan"
    kept = json.loads(next((tmp_path / "run").glob("bad-batch-*.json")).read_text())
    assert set(kept["boxes"]) == set(caught.value.findings[0].names)
    assert kept["losses"]["mask"] == "nan"


def test_labels_follow_names_and_not_order(data: coco.Dataset, tmp_path: Path) -> None:
    """The row of a class that the data lacks is not the one that learns."""
    model = fresh(classes=("star", "box", "disc"))
    before = model.box_predictor.cls.bias.detach().clone()
    train(model, data, QUICK.model_copy(update={"steps": 4, "policy": "predictors", "lr": 0.05}), out=tmp_path / "run")
    moved = model.box_predictor.cls.bias.detach() - before
    assert moved[0] < moved[1] and moved[0] < moved[2]


class Interfering:
    """A doctor that answers at one of the steps, and notes what it saw."""

    def __init__(self, at: int, before: Verdict | None = None, after: Verdict | None = None, times: int = 1) -> None:
        self.at, self.before, self.after, self.left = at, before, after, times
        self.seen: list[tuple[int, float | None]] = []
        self.rates: list[float | None] = []

    def begin(self, *_: Any) -> None: ...

    def step(self, *_: Any) -> None: ...

    def unlearnable(self, *_: Any) -> None: ...

    def evaluated(self, *_: Any) -> None: ...

    def before_backward(self, moment: Moment) -> Verdict | None:
        assert all(loss.requires_grad for loss in moment.losses.values())
        self.rates.append(moment.recipe.lr)
        return self._answer(moment, self.before)

    def before_update(self, moment: Moment) -> Verdict | None:
        assert moment.model.rpn.deltas.weight.grad is not None
        self.seen.append((moment.step, moment.norm))
        return self._answer(moment, self.after)

    def _answer(self, moment: Moment, verdict: Verdict | None) -> Verdict | None:
        if moment.step != self.at or verdict is None or not self.left:
            return None
        self.left -= 1
        return verdict


LOWER = Finding("train.lr-high", "warning", "the loss grows")


def test_a_doctor_sends_a_run_back_and_changes_its_recipe(data: coco.Dataset, tmp_path: Path) -> None:
    recipe = QUICK.model_copy(update={"save_every": 2, "schedule": "constant", "epochs": 1})
    doctor = Interfering(4, after=Verdict((LOWER,), "roll back", {"lr": 0.0005, "clip_norm": 1.0}))
    run = train(fresh(), data, recipe, out=tmp_path / "run", doctor=doctor)
    assert [step for step, _ in doctor.seen] == [1, 2, 3, 4, 3, 4]
    assert doctor.rates == pytest.approx([0.005] * 4 + [0.0005] * 2)
    assert run.findings[-1] == LOWER and len(run.losses) == 4
    entries = lines(tmp_path / "run")
    assert [entry["lr"] for entry in entries if "losses" in entry] == pytest.approx([0.005] * 2 + [0.0005] * 2)
    assert next(entry for entry in entries if "action" in entry)["findings"][0]["code"] == "train.lr-high"
    # the change holds over a resume
    later = Interfering(0)
    train(fresh(), data, Recipe(epochs=2), out=tmp_path / "run", resume=True, doctor=later)
    assert later.rates == pytest.approx([0.0005] * 4)


def test_a_doctor_changes_what_follows_or_stops_the_run(data: coco.Dataset, tmp_path: Path) -> None:
    doctor = Interfering(2, Verdict((LOWER,), changes={"loss_weights": {"mask": 0.0}}))
    train(fresh(), data, QUICK.model_copy(update={"epochs": 1}), out=tmp_path / "a", doctor=doctor)
    entries = [entry for entry in lines(tmp_path / "a") if "losses" in entry]
    heavy, light = (entry["total"] - sum(entry["losses"].values()) for entry in (entries[1], entries[2]))
    assert heavy == pytest.approx(0, abs=1e-5) and light == pytest.approx(-entries[2]["losses"]["mask"], rel=1e-4)
    with pytest.raises(mg.DataError, match="the loss grows"):
        train(fresh(), data, QUICK, out=tmp_path / "b", doctor=Interfering(3, Verdict((LOWER,), "stop")))
    assert mg.load(tmp_path / "b" / "last").spec.classes == ("disc", "box")
    with pytest.raises(mg.UsageError, match="a doctor changes policy"):
        train(fresh(), data, QUICK, out=tmp_path / "c", doctor=Interfering(1, Verdict(changes={"policy": "all"})))
    endless = Interfering(1, Verdict((LOWER,), "roll back"), times=99)
    with pytest.raises(mg.DataError, match="the loss grows"):
        train(fresh(), data, QUICK, out=tmp_path / "d", doctor=endless)


class Holding:
    """Holds the biases of the box deltas to nought."""

    def losses(self, model: mg.MaskRCNN, batch: Batch) -> dict[str, torch.Tensor]:
        assert len(batch.targets) == 2
        return {"held": 100 * model.box_predictor.deltas.bias.square().sum()}


def test_a_retainer_adds_its_losses(data: coco.Dataset, tmp_path: Path) -> None:
    free, held = fresh(), fresh()
    recipe = QUICK.model_copy(update={"epochs": 1})
    train(free, data, recipe, out=tmp_path / "free")
    train(held, data, recipe, out=tmp_path / "held", retainer=Holding())
    assert held.box_predictor.deltas.bias.norm() < 0.5 * free.box_predictor.deltas.bias.norm()
    last = lines(tmp_path / "held")[-1]
    assert last["losses"]["held"] > 0 and last["total"] == pytest.approx(sum(last["losses"].values()), rel=1e-5)


def test_a_doctor_leaves_out_a_step(data: coco.Dataset, tmp_path: Path) -> None:
    recipe = QUICK.model_copy(update={"epochs": 1})
    run = train(fresh(), data, recipe, out=tmp_path / "run", doctor=Interfering(2, Verdict((LOWER,), "skip")))
    entries = lines(tmp_path / "run")
    steps = [entry["step"] for entry in entries if "losses" in entry]
    assert run.steps == len(steps) + 1 and 2 not in steps and {1, 3} <= set(steps)
    assert next(entry for entry in entries if "action" in entry)["action"] == "skip"
