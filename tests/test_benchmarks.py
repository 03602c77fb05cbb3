"""The benchmarks say what they measured, and fail by themselves when results do not agree."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import detection, resnet
from torchvision.ops.misc import FrozenBatchNorm2d

from benchmarks import elsewhere, on_gpu, reading, timing, training_step
from benchmarks.peers import CLASSES, photographs
from benchmarks.timing import Row

ROOT = Path(__file__).parent.parent


def test_a_ratio_is_their_time_by_ours_and_what_was_not_measured_says_so() -> None:
    rows = [
        Row("reading", 0.1, 0.25, "torch.load", "≥ 1×", "every value equal"),
        Row("reading a bundle", None, None, "TensorFlow", "≥ 1×", "not measured: give --tensorflow PYTHON"),
    ]
    first, second = timing.table(rows).splitlines()[2:]
    assert "| 100 ms | torch.load 250 ms | 2.50× |" in first
    assert "| not measured | TensorFlow |  |" in second


def test_works_take_turns_after_a_turn_that_is_not_counted() -> None:
    turns: list[str] = []
    spent = timing.alternate(2, {"ours": lambda: turns.append("ours"), "theirs": lambda: turns.append("theirs")})
    assert turns == ["ours", "theirs"] * 3
    assert set(spent) == {"ours", "theirs"}


def test_a_process_of_its_own_tells_its_own_memory() -> None:
    ballast = bytearray(200 << 20)
    _, (memory,) = timing.child("print(memory())")
    assert 2 < float(memory) < 100 < len(ballast) >> 20


def test_other_values_are_told(tmp_path: Path) -> None:
    wanted = reading.arrays(16)
    paths = reading.write(tmp_path, 16, None)
    assert {reading.same(path, wanted) for path in paths.values()} == {"every value equal"}
    wanted["backbone.layer1.weight"][7] += 1
    assert reading.same(paths["PyTorch zip"], wanted) == "VALUES DIFFER"


def test_a_benchmark_goes_on_with_what_this_machine_has_measured(tmp_path: Path) -> None:
    out = tmp_path / "some.json"
    assert timing.earlier("some", quick=False, out=out) == {}
    document: dict[str, Any] = {"machine": timing.machine()}
    timing.go(document).append("first")
    timing.write("some", document, quick=False, out=out)
    again = timing.earlier("some", quick=False, out=out)
    timing.go(again).append("second")
    assert [one["measured"] for one in again["goes"]] == [["first"], ["second"]]
    timing.write("some", {**again, "machine": {"processor": "another"}}, quick=False, out=out)
    with pytest.raises(SystemExit, match="another machine"):
        timing.earlier("some", quick=False, out=out)


def test_unknown_benchmarks_are_refused() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", "nothing"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "there is no benchmark 'nothing'" in done.stderr
    command = [sys.executable, "-m", "benchmarks", "reading", "--go-on"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "--go-on is for from-scratch and retention" in done.stderr


def test_the_readme_shows_what_was_measured() -> None:
    text = (ROOT / "README.md").read_text()
    assert timing.readme(("reading", "loading", "predicting", "training_step", "feeding", "evaluating")) in text


def test_a_home_framework_that_is_not_named_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for home in elsewhere.HOMES:
        monkeypatch.delenv(elsewhere.HOMES[home].variable, raising=False)
        row = elsewhere.beside(home, "predict", tmp_path / "none.pth", tmp_path, [], 1)
        assert row.ratio is None and row.agreement.startswith("not measured")
        assert elsewhere.HOMES[home].variable in row.agreement


def test_a_home_framework_that_ends_is_told() -> None:
    with pytest.raises(ChildProcessError, match="instead of predicting"), elsewhere._turns("false", []):
        pass


@pytest.mark.long
def test_the_reading_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "reading", "--quick", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "reading.json").exists()


def test_what_needs_a_gpu_says_so_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    on_gpu.run(quick=True, out=tmp_path / "on-gpu.json", tensorflow=None)
    told = capsys.readouterr().out
    assert told.count("| not measured | torchvision |") == 4 and "torch sees no GPU" in told


def small(file: Path, **options: Any) -> detection.MaskRCNN:
    """torchvision's own class with few blocks and channels, and the weights of a file where there is one."""
    torch.manual_seed(0)
    body = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], norm_layer=FrozenBatchNorm2d)
    layers = {f"layer{number}": str(number - 1) for number in (1, 2, 3, 4)}
    model = detection.MaskRCNN(
        detection.backbone_utils.BackboneWithFPN(body, layers, [64, 128, 256, 512], 32),
        rpn_head=detection.rpn.RPNHead(32, 3),
        box_head=detection.faster_rcnn.TwoMLPHead(32 * 49, 64),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(64, CLASSES + 1),
        mask_head=detection.mask_rcnn.MaskRCNNHeads(32, [32], 1),
        mask_predictor=detection.mask_rcnn.MaskRCNNPredictor(32, 32, CLASSES + 1),
        **options,
    )
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True))
    return model


def test_the_works_of_a_gpu_run_on_a_cpu_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line that a GPU would run but its synchronisation, on a model and a photograph that are small."""
    file = tmp_path / "small.pth"
    state = small(file).state_dict()
    state["roi_heads.box_predictor.cls_score.weight"] *= 100  # else no class would pass the threshold
    torch.save(state, file)
    monkeypatch.setattr(on_gpu, "workplace", lambda: nullcontext((tmp_path, file)))
    for module in (on_gpu, training_step):
        monkeypatch.setattr(module, "theirs_with", small)
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    monkeypatch.setattr(on_gpu, "photographs", lambda folder, number: photographs(folder, 1))
    rows = on_gpu.measured("cpu", images=1, side=64, rounds=1)
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before
    assert len(rows) == 4 and all(row.ratio for row in rows)
    agree, _, total = rows[0].agreement.split()[:3]
    assert agree == total != "0"
    whole, half = (float(row.agreement.split()[4].rstrip(",")) for row in rows[2:])
    assert whole < 1e-4 < half < 0.1
