"""The command line as people type it: what it prints, what it writes, and how it exits."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
import torch

from maskgraft.cli import main
from tests.test_graft import foreign_file
from tests.tiny import draw_dataset, tiny_model

SMALL = ["--set", "min_size=96", "--set", "max_size=128", "--set", "rpn_post_nms=50", "--set", "rpn_post_nms_train=50"]


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


class Run(Protocol):
    def __call__(self, *arguments: object) -> Done: ...


@pytest.fixture
def maskgraft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process: starting Python and torch anew would take most of the time."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["maskgraft", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    foreign_file(tiny_model(), folder / "model.pth")
    draw_dataset(folder / "data", images=4)
    return folder


def test_inspect_compares_one_file_with_one(maskgraft: Run, folder: Path) -> None:
    model = folder / "model.pth"
    assert "0 changed" in maskgraft("inspect", model, "--diff", model).stdout
    done = maskgraft("inspect", model, model, "--diff", model)
    assert done.returncode == 2
    assert "2 are given" in done.stderr


def test_inspect_and_diagnose_tell_what_it_is(maskgraft: Run, folder: Path) -> None:
    done = maskgraft("inspect", folder / "model.pth", "--tree")
    assert done.returncode == 0, done.stderr
    assert "torchvision: ResNet of blocks 1/1/1/1, FPN 32, 2 classes" in done.stdout
    assert "roi_heads.box_head.fc{6…7}.bias" in done.stdout
    done = maskgraft("diagnose", folder / "model.pth", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["family"]) == (0, "torchvision")
    assert report["spec"]["arch"]["neck_channels"] == 32


def test_predict_writes_pictures_and_json(maskgraft: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = maskgraft("predict", folder / "model.pth", folder / "data" / "images", "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.glob("*.jpg")) == [f"{number}.jpg" for number in range(4)]
    entries = json.loads((out / "detections.json").read_text())
    assert {"class", "score", "box", "mask_area"} == set(entries[0]["detections"][0])


def test_train_evaluate_and_resume(maskgraft: Run, folder: Path, tmp_path: Path) -> None:
    data = ["--annotations", folder / "data" / "instances.json", "--images", folder / "data" / "images"]
    run = tmp_path / "run"
    common = ["train", folder / "model.pth", *data, "--out", run, *SMALL, "--workers", "0", "--policy", "predictors"]
    done = maskgraft(*common, "--steps", "1", "--val-annotations", data[1])
    assert done.returncode == 0, done.stderr
    assert "box_predictor" in done.stdout and "2 classes new: disc, box" in done.stdout
    assert "mask AP" in done.stdout
    done = maskgraft(*common, "--steps", "1")
    assert done.returncode == 2 and "holds a run already" in done.stderr
    done = maskgraft(*common, "--steps", "2", "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    done = maskgraft("evaluate", run / "last", *data, "--limit", "2", "--why", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["images"] == told["shortfall"]["images"] == 2


BAD = {
    "a missing checkpoint": (["diagnose", "nothing.pth"], "nothing.pth"),
    "a folder for a checkpoint": (["predict", ".", "image.jpg"], "image.jpg"),
    "a broken override": (["predict", "model.pth", "data/images", "--set", "min_sise=5"], "did you mean min_size"),
    "no equals sign": (["predict", "model.pth", "data/images", "--set", "min_size"], "has no ="),
    "a missing image": (["predict", "model.pth", "gone.jpg"], "there is no image gone.jpg"),
    "no annotations": (
        ["evaluate", "model.pth", "--annotations", "x.json", "--images", "data/images"],
        "x.json does not exist",
    ),
    "a wrong policy": (
        "train model.pth --annotations data/instances.json --images data/images --out new --policy hedas".split(),
        "did you mean heads",
    ),
    "another model": (["predict", "other.pth", "data/images"], "no family that maskgraft knows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(maskgraft: Run, folder: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"encoder.weight": torch.zeros(3, 3)}, folder / "other.pth")
    monkeypatch.chdir(folder)
    arguments, text = BAD[case]
    before = sorted(folder.rglob("*"))
    done = maskgraft(*arguments)
    assert done.returncode == 2, done.stdout
    assert text in done.stderr + done.stdout
    assert sorted(folder.rglob("*")) == before, "nothing is written"


def test_the_installed_command_answers_and_never_with_a_traceback(folder: Path) -> None:
    command = [sys.executable, "-m", "maskgraft", "inspect"]
    done = subprocess.run([*command, folder / "model.pth"], capture_output=True, text=True, check=False)
    assert (done.returncode, "torchvision" in done.stdout) == (0, True), done.stderr
    done = subprocess.run([*command, folder / "nothing.pth"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nothing.pth" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_train_takes_synonyms_and_says_where_rows_come_from(maskgraft: Run, folder: Path, tmp_path: Path) -> None:
    synonyms = tmp_path / "synonyms.toml"
    synonyms.write_text('disc = ["round thing", "class 1"]\n')
    given = [
        folder / "model.pth",
        "--annotations",
        folder / "data" / "instances.json",
        "--images",
        folder / "data" / "images",
    ]
    options = [*SMALL, "--steps", 1, "--batch", 1, "--workers", 0, "--min-size", 96, "--max-size", 128]
    done = maskgraft("train", *given, "--out", tmp_path / "run", *options, "--synonyms", synonyms)
    assert done.returncode == 0, done.stderr
    assert "1 classes kept: disc (there: class 1)" in done.stdout and "1 classes new: box" in done.stdout
    synonyms.write_text("disc = 3\n")
    done = maskgraft("train", *given, "--out", tmp_path / "other", *options, "--synonyms", synonyms)
    assert done.returncode == 2 and "no name and no list of names" in done.stderr
    assert not (tmp_path / "other").exists()
