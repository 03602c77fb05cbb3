"""The command line as people type it: what it prints, what it writes, and how it exits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_graft import foreign_file
from tests.tiny import draw_dataset, tiny_model

SMALL = ["--set", "min_size=96", "--set", "max_size=128", "--set", "rpn_post_nms=50", "--set", "rpn_post_nms_train=50"]


def maskgraft(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "maskgraft", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    foreign_file(tiny_model(), folder / "model.pth")
    draw_dataset(folder / "data", images=4)
    return folder


def test_inspect_and_diagnose_tell_what_it_is(folder: Path) -> None:
    done = maskgraft("inspect", folder / "model.pth", "--tree")
    assert done.returncode == 0, done.stderr
    assert "torchvision: ResNet of blocks 1/1/1/1, FPN 32, 2 classes" in done.stdout
    assert "roi_heads.box_head.fc{6…7}.bias" in done.stdout
    done = maskgraft("diagnose", folder / "model.pth", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["family"]) == (0, "torchvision")
    assert report["spec"]["arch"]["neck_channels"] == 32


def test_predict_writes_pictures_and_json(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = maskgraft("predict", folder / "model.pth", folder / "data" / "images", "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.glob("*.jpg")) == [f"{number}.jpg" for number in range(4)]
    entries = json.loads((out / "detections.json").read_text())
    assert {"class", "score", "box", "mask_area"} == set(entries[0]["detections"][0])


def test_train_evaluate_and_resume(folder: Path, tmp_path: Path) -> None:
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
    done = maskgraft("evaluate", run / "last", *data, "--limit", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 2


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
def test_bad_input_is_one_clear_error(folder: Path, tmp_path: Path, case: str) -> None:
    import torch

    torch.save({"encoder.weight": torch.zeros(3, 3)}, folder / "other.pth")
    arguments, text = BAD[case]
    before = sorted(folder.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "maskgraft", *arguments], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 2, done.stdout
    assert text in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert sorted(folder.rglob("*")) == before, "nothing is written"
