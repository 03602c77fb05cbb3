"""The benchmarks say what they measured, and fail by themselves when results do not agree."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import on_gpu, reading, timing
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


def test_unknown_benchmarks_are_refused() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks", "nothing"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "there is no benchmark 'nothing'" in done.stderr


def test_the_readme_shows_what_was_measured() -> None:
    text = (ROOT / "README.md").read_text()
    assert timing.readme(("reading", "loading", "predicting", "training_step", "feeding", "evaluating")) in text


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


@pytest.mark.long
def test_the_works_of_a_gpu_run_on_a_cpu_too() -> None:
    rows = on_gpu.measured("cpu", images=1, side=64, rounds=1)
    assert len(rows) == 4 and all(row.ratio for row in rows)
    loss = float(rows[-1].agreement.split()[4].rstrip(","))
    assert loss < 1e-4
