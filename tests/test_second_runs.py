"""Golden cases that the last bit of a float decides, beside the home frameworks' own second runs of them.

`golden/again` holds what the same frameworks (Matterport Mask_RCNN 2.1 and a frozen graph of the TF Object Detection
API, both in TensorFlow 1.15.5) found with the same file and photograph on another processor. Where this is not what
the golden case says, neither is more right than the other, and maskgraft finds the whole of one of the two.
"""

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maskgraft.detections import Detections
from tests.golden.cases import FOLDER, NAMES, Case, lonely, opened

SHARED = Path(os.environ.get("MASKGRAFT_SHARED", Path(__file__).parents[2] / "shared")) / "oracles"
AGAIN = {path.stem: path for path in sorted((FOLDER / "again").glob("*.npz"))}


@contextmanager
def wherever_it_is(name: str, folder: Path) -> Iterator[Case]:
    """The golden case `name` of the tests, or the whole one of a folder of oracles beside the repository."""
    if name in NAMES:
        with opened(name, folder) as case:
            yield case
        return
    if not (SHARED / name).is_dir():
        pytest.skip(f"no {SHARED / name} (MASKGRAFT_SHARED)")
    with tarfile.open(SHARED / name / "checkpoint.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    with np.load(SHARED / name / "golden.npz") as golden:
        yield Case(name, folder, json.loads((SHARED / name / "load.json").read_text()), dict(golden))
    shutil.rmtree(folder)


def as_found(case: Case) -> Detections:
    """What the golden case says was found, as a model would say it."""
    about, golden = case.about["detections"], case.golden
    height, width = golden["image"].shape[:2]
    masks = np.unpackbits(golden[about["masks"]], axis=1)[:, : height * width].reshape(-1, height, width)
    columns = [1, 0, 3, 2] if about["order"] == "yxyx" else [0, 1, 2, 3]
    return Detections(
        boxes=torch.from_numpy(golden[about["boxes"]].astype(np.float32)[:, columns]),
        scores=torch.from_numpy(golden[about["scores"]]),
        labels=torch.from_numpy(golden[about["labels"]].astype(np.int64)) - about["first_label"],
        masks=torch.from_numpy(masks.astype(bool)),
        mask_probs=torch.zeros(len(masks), 1, 1),
    )


@pytest.mark.long
@pytest.mark.parametrize("name", AGAIN)
def test_every_detection_is_that_of_one_of_two_runs_at_home(name: str, tmp_path: Path) -> None:
    with wherever_it_is(name, tmp_path / name) as case, np.load(AGAIN[name]) as arrays:
        again = replace(case, golden={**case.golden, **arrays})
        model = case.load(case.about["checkpoint"])
        assert lonely(case, as_found(again), model), "the home framework's two runs agree"
        found = model.predict([np.ascontiguousarray(case.golden["image"])])[0]
        first, second = lonely(case, found, model), lonely(again, found, model)
        assert not first or not second, "\n".join([*first, "and of the second run", *second])
