"""What is written for a home framework is taken by its own code, strictly, and finds there what it finds here."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import maskgraft as mg
from maskgraft.ops.boxes import iou
from tests.golden.cases import opened

HERE = Path(__file__).parent / "homes"
# Home framework, the environment variable that names a Python that has it, and the ending of what is written.
HOMES = {
    "detectron2": ("MASKGRAFT_DETECTRON2", ".pth"),
    "mmdet": ("MASKGRAFT_MMDET", ".pth"),
}
TAKEN = [
    ("detectron2", "detectron2-r50fpn"),
    ("detectron2", "detectron2-r50fpn-gn"),
    ("detectron2", "detectron2-x101fpn"),
    ("detectron2", "torchvision-r50fpn"),
    ("detectron2", "torchvision-r50fpn-v2"),
    ("detectron2", "matterport-r50-c81"),
    ("detectron2", "chainer-r50c4"),
    ("mmdet", "mmdet-r50fpn"),
    ("mmdet", "torchvision-r50fpn-v2"),
    ("mmdet", "chainer-r50c4"),
]


@pytest.mark.long
@pytest.mark.parametrize(("home", "source"), TAKEN)
def test_the_home_framework_takes_it_and_finds_the_same(home: str, source: str, tmp_path: Path) -> None:
    variable, ending = HOMES[home]
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no Python that has {home}")
    with opened(source, tmp_path / "case") as case:
        mg.save(case.load(case.about["checkpoint"]), tmp_path / "saved")
        image = case.golden["image"]
        # of the same network in its first home: five times what float32 moved its scores by there
        allowed = max(1e-4, 5 * case.about["detections"]["score_noise"])
    done = mg.convert(tmp_path / "saved", to=home, out=tmp_path / f"model{ending}", accept=True)
    np.save(tmp_path / "photo.npy", image)
    run = subprocess.run(
        [
            *(python, str(HERE / f"run_{home}.py"), str(done.files[0]), str(done.files[-1])),
            *(str(tmp_path / "photo.npy"), str(tmp_path / "found.npz")),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    ours = mg.load(done.files[0]).predict([image])[0]
    with np.load(tmp_path / "found.npz") as theirs:
        boxes, masks = torch.from_numpy(theirs["boxes"]), torch.from_numpy(theirs["masks"])
        scores, labels = torch.from_numpy(theirs["scores"]), torch.from_numpy(theirs["labels"])
    assert len(ours) == len(scores) > 10
    overlaps, taken = iou(boxes, ours.boxes), set()
    for index in range(len(scores)):
        twin = int((overlaps[index] * (ours.labels == labels[index]) * unlike(taken, len(ours))).argmax())
        taken.add(twin)
        assert ours.labels[twin] == labels[index]
        assert overlaps[index, twin] > 0.99
        assert abs(ours.scores[twin] - scores[index]) < allowed
        assert (ours.masks[twin] ^ masks[index]).sum() <= 0.02 * (ours.masks[twin] | masks[index]).sum() + 2


def unlike(taken: set[int], count: int) -> torch.Tensor:
    return torch.tensor([float(index not in taken) for index in range(count)])


@pytest.mark.long
def test_the_kept_case_is_what_paddledetection_computes(tmp_path: Path) -> None:
    python = os.environ.get("MASKGRAFT_PPDET")
    if not python:
        pytest.skip("MASKGRAFT_PPDET names no Python that has PaddleDetection")
    folder = HERE.parent / "golden" / "paddledetection"
    made = tmp_path / "golden.npz"
    run = subprocess.run(
        [python, "-W", "ignore", str(folder / "made.py"), str(made)], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-3000:]
    with np.load(made) as again, np.load(folder / "golden.npz") as kept:
        assert set(again) == set(kept)
        for name in kept:
            largest = max(np.abs(kept[name]).max(), 1e-6)
            assert np.abs(again[name] - kept[name]).max() <= 1e-3 * largest, name
