"""Several processes under torchrun: one batch, one loss curve, one evaluation, one folder."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import maskgraft as mg
from maskgraft import batches, coco, evaluation, processes
from maskgraft.recipe import Recipe
from tests.test_graft import foreign_file
from tests.test_training import fresh, lines
from tests.tiny import draw_dataset

HERE = Path(__file__).parent.parent
SMALL = ["--set", "min_size=96", "--set", "max_size=128", "--set", "roi_samples=32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    foreign_file(fresh(), folder / "model.pth")
    draw_dataset(folder / "data", images=8)
    return folder


def run_training(folder: Path, out: str, *options: str, several: int = 1) -> Path:
    """`maskgraft train` as it is typed, in one process or under torchrun."""
    data = ["--annotations", folder / "data" / "instances.json", "--images", folder / "data" / "images"]
    val = ["--val-annotations", folder / "data" / "instances.json"]
    starter = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(several), "-m"]
        if several > 1
        else ["-m"]
    )
    command = [sys.executable, *starter, "maskgraft", "train", folder / "model.pth", *data, *val, "--out", folder / out]
    fixed = ["--batch", "4", "--lr", "0.005", "--workers", "0", "--seed", "1", "--json", *SMALL, *options]
    environment = {**os.environ, "PYTHONPATH": f"{HERE / 'src'}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command), *fixed], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["run"] == str(folder / out)  # printed once
    return folder / out


def curve(run: Path) -> list[dict[str, Any]]:
    return [entry for entry in lines(run) if "losses" in entry]


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs a Unix")
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        # without proposals but the truth, only the order of float sums differs
        (["--policy", "all", "--epochs", "2", "--set", "rpn_post_nms_train=0"], 1e-4),
        # with them, an untrained network's scores are so near to each other that it changes their order
        (["--stages", "heads:2st, all:2st", "--accumulate", "2", "--set", "rpn_post_nms_train=50"], 2e-2),
    ],
    ids=["truth", "proposals"],
)
def test_two_processes_give_the_loss_curve_of_one(
    folder: Path, options: list[str], tolerance: float, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    one = run_training(folder, f"one-{name}", *options)
    two = run_training(folder, f"two-{name}", *options, several=2)
    assert len(curve(one)) == len(curve(two)) == 4
    for alone, together in zip(curve(one), curve(two), strict=True):
        assert together["losses"] == pytest.approx(alone["losses"], rel=tolerance, abs=tolerance)
        assert together["gradient"] == pytest.approx(alone["gradient"], rel=10 * tolerance)
    judged = [[entry["evaluation"] for entry in lines(run) if "evaluation" in entry] for run in (one, two)]
    assert [entry["images"] for entry in judged[1]] == [entry["images"] for entry in judged[0]] == [8] * len(judged[0])
    assert not list(two.glob(".*")) and (two / "last" / "model.safetensors").exists()


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs a Unix")
def test_a_doctor_of_two_processes_tells_once_and_ends_both(folder: Path) -> None:
    high = ["--policy", "all", "--steps", "2", "--lr", "1", "--doctor"]
    with pytest.raises(AssertionError) as stopped:
        run_training(folder, "doctor-stop", *high, "stop", several=2)
    assert str(stopped.value).count("error train.lr-high") == 1
    told = [entry for entry in lines(folder / "doctor-stop") if "findings" in entry]
    assert sum(found["code"] == "train.lr-high" for entry in told for found in entry["findings"]) == 1
    assert not curve(folder / "doctor-stop")
    fixed = run_training(folder, "doctor-fix", *high, "fix", several=2)
    assert [entry["lr"] for entry in curve(fixed)][-1] == 0.005


def test_processes_share_each_part_of_each_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = coco.read(folder / "data" / "instances.json", folder / "data" / "images")
    asked = Recipe(batch=4, accumulate=2)
    planned = batches.plan(data.images, asked, 0)
    monkeypatch.setattr(processes, "count", lambda: 2)
    shared = []
    for rank in (0, 1):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        shared.append(batches.shares(planned, asked))
    assert all(len(part) == 1 for share in shared for part in share)
    together = [one + other for one, other in zip(*shared, strict=True)]
    assert [together[0] + together[1], together[2] + together[3]] == planned


def test_an_evaluation_in_parts_has_each_image_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes one after the other: what the first found is handed to the second."""
    data = coco.read(folder / "data" / "instances.json", folder / "data" / "images")
    model = fresh()
    whole = evaluation.evaluate(model, data)
    found: list[Any] = []

    def gathered(entries: Any) -> list[Any]:
        found.extend(entries)
        return found

    monkeypatch.setattr(processes, "gathered", gathered)
    for rank in (1, 0):
        monkeypatch.setattr(processes, "share", lambda images, rank=rank: images[rank::2])
        metrics = evaluation.evaluate(model, data, together=True)
    assert metrics == whole


def test_norms_that_gather_statistics_are_refused_on_cpus(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch would say so from the middle of its own code, after the folder of the run is written."""
    data = coco.read(folder / "data" / "instances.json", folder / "data" / "images")
    model = mg.MaskRCNN.from_scratch("small", data.classes, norm="syncbn")
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "several", lambda: True)
    with pytest.raises(mg.UsageError, match="between GPUs only") as told:
        mg.train(model, data, Recipe(from_scratch=True), out=tmp_path / "run")
    (finding,) = told.value.findings
    assert finding.code == "train.batchnorm" and "--norm gn" in finding.fix
    assert not (tmp_path / "run").exists()


def test_one_process_is_several_of_one() -> None:
    assert not processes.several() and processes.leads() and processes.count() == 1
    assert processes.mean(3, torch.device("cpu")) == 3 and processes.gathered([1, 2]) == [1, 2]
    model = torch.nn.Linear(1, 1)
    assert processes.network(model) is model
    with processes.joined("cpu") as device, processes.alone(model):
        assert device == "cpu"
