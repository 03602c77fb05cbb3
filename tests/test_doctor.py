"""The doctor from outside: before a training, while it goes, after it, and on the command line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import maskgraft as mg
from maskgraft import attending, coco, examining, shortfalls, watching
from maskgraft.ailments import data as ailments
from maskgraft.attending import Attendant
from maskgraft.errors import Finding
from maskgraft.recipe import Recipe
from maskgraft.training import train
from maskgraft.treating import treat
from tests.test_cli import Run, maskgraft  # noqa: F401
from tests.tiny import draw_dataset, tiny_model

QUICK = Recipe(
    policy="all", batch=2, workers=0, steps=6, warmup=0, lr=0.002, evaluate_every=0, gradient_norms=0, retention=0
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    draw_dataset(folder / "data", images=8)
    mg.save(tiny_model(), folder / "model")
    return folder


@pytest.fixture(scope="module")
def data(folder: Path) -> coco.Dataset:
    return coco.read(folder / "data" / "instances.json", folder / "data" / "images")


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """An examination that draws half of what it draws elsewhere: what it judges by is tested beside each ailment."""
    monkeypatch.setattr(examining, "_IMAGES", 4)
    monkeypatch.setattr(examining, "_COMPARED", 4)


def grave(findings: tuple[Finding, ...]) -> list[str]:
    return [one.code for one in findings if one.severity != "info"]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_an_examination_leaves_the_model_as_it_was(folder: Path, data: coco.Dataset) -> None:
    model = mg.load(folder / "model")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state, spec = torch.get_rng_state(), model.spec
    found = mg.doctor(model, data, QUICK.model_copy(update={"numerics": {"roi_samples": 16}}))
    assert torch.equal(state, torch.get_rng_state())
    assert model.spec is spec and not model.training
    assert all(one.requires_grad and one.grad is None for one in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    stages: list[str] = []
    mg.doctor(model, data, QUICK, progress=stages.append)
    assert stages[0] == "the weights" and any("8 images of instances.json" in one for one in stages)
    assert {"first_losses", "pulse", "anchors", "gradients", "seconds", "annotations"} <= found.measured.keys()
    json.dumps(found.as_json(), allow_nan=False)


def test_what_a_training_would_refuse_is_found(folder: Path, data: coco.Dataset) -> None:
    other = replace(data, classes=("disc", "ring"))
    assert grave(mg.doctor(mg.load(folder / "model"), other, QUICK).findings)[0] == "shape.classes"
    assert grave(mg.doctor(folder / "model", data, QUICK.model_copy(update={"policy": "hads"})).findings) == [
        "train.nothing-trainable"
    ]
    crowds = [replace(one, annotations=tuple(replace(a, crowd=True) for a in one.annotations)) for one in data.images]
    nothing = mg.doctor(folder / "model", replace(data, images=tuple(crowds)), QUICK)
    assert grave(nothing.findings)[0] == "train.no-instances" and not nothing.healthy


def test_classes_in_another_spelling(folder: Path) -> None:
    (told,) = ailments._spelt(mg.load(folder / "model", classes=("DISC", "box", "ring")))
    assert told.code == "data.class-names" and told.evidence == {"DISC": "disc"}
    assert not list(ailments._spelt(mg.load(folder / "model", classes=("disc", "ring"))))


def test_wrong_arguments(folder: Path, data: coco.Dataset, tmp_path: Path) -> None:
    for arguments in ({}, {"model": folder / "model"}, {"run": tmp_path, "data": data}):
        with pytest.raises(mg.UsageError, match="doctor takes"):
            mg.doctor(**arguments)  # type: ignore[arg-type]
    with pytest.raises(mg.UsageError, match="holds no run"):
        mg.doctor(run=tmp_path)
    with pytest.raises(mg.UsageError, match="did you mean warn"):
        train(tiny_model(), data, QUICK, out=tmp_path / "run", doctor="wran")  # type: ignore[arg-type]


def test_looking_on_changes_no_byte(
    folder: Path, data: coco.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attending, "_EARLY", (2,))
    recipe = QUICK.model_copy(update={"steps": 4})
    alone, watched = (mg.load(folder / "model") for _ in range(2))
    first = train(alone, data, recipe, out=tmp_path / "alone")
    second = train(watched, data, recipe, out=tmp_path / "watched", doctor="warn")
    assert first.losses == second.losses
    ours, theirs = alone.state_dict(), watched.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    written = lines(tmp_path / "watched")
    assert written[0]["examination"]["first_losses"]
    assert any("pulse" in line for line in written) and any("updates" in line for line in written)
    assert [line for line in written if "losses" in line] == [line for line in lines(tmp_path / "alone")]


@pytest.mark.long
def test_first_steps_are_judged_where_nothing_was_examined(folder: Path, data: coco.Dataset, tmp_path: Path) -> None:
    cut = replace(
        data, images=tuple(replace(one, annotations=tuple(map(narrow, one.annotations))) for one in data.images)
    )
    recipe = QUICK.model_copy(update={"steps": 13, "lr": 0.2, "clip_norm": 1.0})
    alone, watched = (mg.load(folder / "model") for _ in range(2))
    first = train(alone, cut, recipe, out=tmp_path / "alone")
    run = train(watched, cut, recipe, out=tmp_path / "watched", doctor=Attendant(cut, examines=False))
    assert first.losses == run.losses
    log = lines(tmp_path / "watched")
    told = {one["step"]: [found["code"] for found in one["findings"]] for one in log if "findings" in one}
    assert "train.lr-high" in told[0]  # by the gradients of the first step
    assert any("train.boxes" in codes for codes in told.values())
    assert any("examination" in one and one["step"] == 11 for one in log)


def narrow(one: coco.Annotation) -> coco.Annotation:
    """A box of which a corner is all that is left."""
    x1, y1, x2, y2 = one.box
    return replace(one, box=(x1, y1, x1 + (x2 - x1) / 4, y1 + (y2 - y1) / 4))


def test_a_worker_that_dies_in_the_middle_of_a_step(data: coco.Dataset, tmp_path: Path) -> None:
    class Dying(Attendant):
        def before_update(self, moment: watching.Moment) -> None:
            raise RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details are lost")

    model = tiny_model()
    with pytest.raises(mg.DataError, match=r"train\.loader-died"):
        train(model, data, QUICK, out=tmp_path / "run", doctor=Dying(data, examines=False))
    assert grave(mg.doctor(run=tmp_path / "run").findings)[0] == "train.loader-died"


@pytest.mark.long
def test_a_run_says_what_was_forgotten_or_why_it_does_not(folder: Path, data: coco.Dataset, tmp_path: Path) -> None:
    telling = QUICK.model_copy(update={"retention": 8})
    train(mg.load(folder / "model"), data, telling, out=tmp_path / "told")
    (tmp_path / "told" / "retention.json").unlink()
    kept = mg.doctor(run=tmp_path / "told").measured["kept"]
    assert kept["components"]["backbone"]["change"] > 0 and not (tmp_path / "told" / "retention.json").exists()
    train(tiny_model(), data, telling, out=tmp_path / "fresh")
    (why,) = [one for one in mg.doctor(run=tmp_path / "fresh").findings if one.code == "train.retention"]
    assert why.severity == "info" and "it began from no file" in why.message


def test_the_last_evaluation_serves_the_report(
    folder: Path, data: coco.Dataset, tmp_path: Path, monkeypatch: Any
) -> None:
    asked: list[int] = []
    measure = shortfalls.shortfall
    monkeypatch.setattr(shortfalls, "shortfall", lambda *a, **named: asked.append(1) or measure(*a, **named))
    run = train(mg.load(folder / "model"), data, QUICK, out=tmp_path / "run", val=data)
    short = json.loads((tmp_path / "run" / "shortfall.json").read_text())
    assert asked == [1] and run.metrics is not None and short["metrics"] == run.metrics.as_json()
    assert short["step"] == run.steps and "Why not 100?" in (tmp_path / "run" / "report.html").read_text()


def test_a_rate_that_is_too_high(folder: Path, data: coco.Dataset, tmp_path: Path) -> None:
    recipe = QUICK.model_copy(update={"lr": 1.0, "steps": 3})
    with pytest.raises(mg.DataError, match=r"train\.lr-high"):
        train(mg.load(folder / "model"), data, recipe, out=tmp_path / "stopped", doctor="stop")
    assert not any("losses" in line for line in lines(tmp_path / "stopped"))
    assert grave(mg.doctor(run=tmp_path / "stopped").findings)[0] == "train.lr-high"

    run = train(mg.load(folder / "model"), data, recipe, out=tmp_path / "fixed", doctor="fix")
    kept = json.loads((tmp_path / "fixed" / "recipe.json").read_text())
    assert kept["recipe"]["lr"] == 0.0025 and run.steps == 3
    (note,) = [one for one in kept["derived"] if one["field"] == "lr"]
    assert note["why"].startswith("doctor, train.lr-high")


def test_what_is_treated_and_what_is_not(folder: Path, data: coco.Dataset) -> None:
    model = mg.load(folder / "model")
    ill = QUICK.model_copy(
        update={
            "loss_weights": {"mask": 100.0},
            "train_norms": True,
            "numerics": {"rpn_positive_fraction": 0.001, "anchor_sizes": [[200], [300], [400], [500], [600]]},
        }
    )
    recipe, notes = treat(model, data, Recipe(**ill.model_dump(exclude_unset=True)))
    assert recipe.loss_weights == {} and not recipe.train_norms
    assert recipe.numerics["rpn_positive_fraction"] == 0.5 and max(recipe.numerics["anchor_sizes"])[0] < 200
    assert {"loss_weights", "train_norms", "numerics.anchor_sizes"} <= {one.field for one in notes}
    sound = Recipe(**QUICK.model_dump(exclude_unset=True))
    assert treat(model, data, sound) == (sound, ())


def test_an_image_that_gives_no_number_is_left_out(folder: Path, data: coco.Dataset, tmp_path: Path) -> None:
    nowhere = replace(data.images[5].annotations[0], box=(10.0, 10.0, 10.0, 40.0))
    images = list(data.images)
    images[5] = replace(images[5], annotations=(nowhere,))
    poisoned = replace(data, images=tuple(images))
    recipe = QUICK.model_copy(update={"steps": 8, "flip": 0.0})
    with pytest.raises(mg.DataError, match="image 5"):
        train(mg.load(folder / "model"), poisoned, recipe, out=tmp_path / "told", doctor=Unexamined(poisoned))
    (kept,) = (tmp_path / "told").glob("bad-batch-*.json")
    assert "5" in json.loads(kept.read_text())["boxes"]
    assert grave(mg.doctor(run=tmp_path / "told").findings)[0] == "train.boxes"

    fixing = Unexamined(poisoned, mode="fix")
    run = train(mg.load(folder / "model"), poisoned, recipe, out=tmp_path / "fixed", doctor=fixing)
    assert run.steps == 8 and len(run.losses) == 6  # it came twice
    assert [line["action"] for line in lines(tmp_path / "fixed") if "action" in line] == ["skip", "skip"]


class Unexamined(Attendant):
    """A doctor that does not look before the first step, so that what it meets later is what it meets first."""

    def begin(self, model: mg.MaskRCNN, *_: Any) -> None:
        self.model = model


def test_a_loss_that_grows_is_rolled_back(folder: Path, data: coco.Dataset, tmp_path: Path) -> None:
    recipe = QUICK.model_copy(update={"lr": 3.0, "steps": 12, "save_every": 4})
    doctor = Unexamined(data, mode="fix")
    run = train(mg.load(folder / "model"), data, recipe, out=tmp_path / "run", doctor=doctor)
    back = [line for line in lines(tmp_path / "run") if line.get("action") == "roll back"]
    assert back and back[0]["changes"]["clip_norm"] == 10 and back[0]["changes"]["lr"] < 3
    assert run.steps == 12 and all(map(torch.isfinite, map(torch.tensor, run.losses)))


def test_verdicts_of_several_processes_have_an_order() -> None:
    assert watching.agreed(watching.Verdict(action="skip")) == watching.Verdict(action="skip")


def test_the_verb_before_a_training(maskgraft: Run, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    arguments = ["--data", folder / "data/instances.json", "--images", folder / "data/images"]
    arguments += ["--weights", folder / "model", "--field", "batch=2", "--field", "workers=0", "--field", "policy=all"]
    done = maskgraft("doctor", *arguments, "--field", "lr=1", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 1 and told["findings"][0]["code"] == "train.lr-high"
    assert told["findings"][0]["fix"] == "lr=0.0025" and told["measured"]["first_losses"]["mask"] > 0
    shown = maskgraft("doctor", *arguments).stdout
    assert "losses before the first step" in shown and "anchors meet" in shown


def test_the_verb_on_a_run(maskgraft: Run, folder: Path, data: coco.Dataset, tmp_path: Path) -> None:  # noqa: F811
    train(mg.load(folder / "model"), data, QUICK, out=tmp_path / "run")
    done = maskgraft("doctor", tmp_path / "run")
    assert done.returncode == 0 and "6 of 6 steps" in done.stdout and "nothing stands in the way" in done.stdout
    assert maskgraft("doctor").returncode == 2
    assert "holds no run" in maskgraft("doctor", folder / "data").stderr
