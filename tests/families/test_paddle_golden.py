"""PaddleDetection against what ppdet itself computed on weights that are made of their names."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import maskgraft as mg
from maskgraft.families import paddle
from maskgraft.families.class_names import numbered
from maskgraft.graft import rebuilt
from maskgraft.model import MaskRCNN
from maskgraft.ops.boxes import iou
from maskgraft.preprocess import prepare
from maskgraft.spec import Arch, Spec
from tests.families.drawn import drawn
from tests.golden.paddledetection.made import photo, step, weight

FOLDER = Path(__file__).parents[1] / "golden" / "paddledetection"
ARCH = Arch(classes=3, neck_channels=32, rpn_channels=32, box_fc_width=64, mask_channels=32, box_rows="foreground")
OWN = {"min_size": 128, "max_size": 213}  # as its reader has it, whose settings stand in another file


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "golden.npz") as golden:
        return dict(golden)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MaskRCNN:
    folder = tmp_path_factory.mktemp("paddle")
    spec = Spec(family="paddledetection", arch=ARCH, numerics=paddle.NUMERICS, classes=numbered(3))
    arrays = {name: weight(name, array.shape) for name, array in drawn(spec).items()}
    (folder / "model.pdparams").write_bytes(pickle.dumps(arrays, protocol=2))
    shutil.copy(FOLDER / "config.yml", folder)
    return mg.load(folder / "model.pdparams", numerics=OWN)


@pytest.fixture(scope="module")
def trace(model: MaskRCNN, golden: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return model.trace(photo(), torch.from_numpy(golden["proposals"]))


def stage_faults(trace: dict[str, torch.Tensor], golden: dict[str, np.ndarray]) -> list[str]:
    """Stages that differ by more than float32's rounding; of the input, by more than one grey level at a pixel."""
    faults = []
    for name in (key.removeprefix("stage/") for key in golden if key.startswith("stage/")):
        theirs = golden[f"stage/{name}"]
        ours = trace[name].numpy().reshape(-1)
        ours = ours[:: step(ours)]
        allowed = (2e-2 if name == "input" else 2e-3) * np.abs(theirs).max()
        if ours.shape != theirs.shape or np.abs(ours - theirs).max() > allowed:
            faults.append(f"{name}: {np.abs(ours - theirs).max()} of {np.abs(theirs).max()}")
    return faults


def test_the_photograph_is_resized_as_there(model: MaskRCNN, golden: dict[str, np.ndarray]) -> None:
    prepared = prepare(photo(), model.spec.numerics)
    assert prepared.size == golden["resized"].shape[:2]
    assert prepared.unrounded == pytest.approx(golden["im_shape"].tolist(), rel=1e-6)
    numerics = model.spec.numerics
    grey = prepared.pixels.permute(1, 2, 0).numpy() * numerics.pixel_std + numerics.pixel_mean
    assert np.abs(grey * 255 - golden["resized"]).max() < 1.01
    assert (np.abs(grey * 255 - golden["resized"]) > 0.5).mean() < 1e-3


def test_every_stage_agrees(trace: dict[str, torch.Tensor], golden: dict[str, np.ndarray]) -> None:
    assert stage_faults(trace, golden) == []


def test_proposals_agree_one_to_one(trace: dict[str, torch.Tensor], golden: dict[str, np.ndarray]) -> None:
    assert proposals_alone(trace["proposals"], golden) == 0
    assert golden["proposals"][:, 2].max() > golden["resized"].shape[1]  # cut where the photograph ends, not the pixels


def proposals_alone(proposals: torch.Tensor, golden: dict[str, np.ndarray]) -> int:
    if proposals.shape != golden["proposals"].shape:
        return len(golden["proposals"])
    apart = np.abs(golden["proposals"][:, None] - proposals.numpy()[None]).max(2)
    return int((apart.min(1) > 0.05).sum())


def test_heads_agree(trace: dict[str, torch.Tensor], golden: dict[str, np.ndarray]) -> None:
    assert np.abs(trace["roi.class_logits"].softmax(1).numpy() - golden["probabilities"]).max() < 2e-3
    theirs = golden["box_deltas"]
    assert np.abs(trace["roi.box_deltas"].numpy() - theirs).max() < 5e-3 * np.abs(theirs).max()


def test_detections_agree_one_to_one(model: MaskRCNN, golden: dict[str, np.ndarray]) -> None:
    assert detections_alone(model, golden) == []


def detections_alone(model: MaskRCNN, golden: dict[str, np.ndarray]) -> list[int]:
    found = model.predict([photo()])[0]
    if len(found) != len(golden["scores"]):
        return [len(found), *range(len(golden["scores"]))]
    overlaps, alone, taken = iou(torch.from_numpy(golden["boxes"]), found.boxes), [], set()
    for index in range(len(golden["scores"])):
        twins = [
            twin
            for twin in range(len(found))
            if twin not in taken
            and found.labels[twin] == golden["labels"][index]
            and abs(found.scores[twin] - golden["scores"][index]) < 2e-3
            and overlaps[index, twin] > 0.98
            and np.abs(found.mask_probs[twin].numpy()[::3, ::3] - golden["masks"][index]).max() < 2e-2
        ]
        if twins:
            taken.add(max(twins, key=lambda twin: overlaps[index, twin]))
        else:
            alone.append(index)
    return alone


# Conventions that the family sets and the photograph can tell, and what another framework has instead; that strides are
# nominal it cannot: the padded sides are multiples of all of them.
FLIPS = {
    "channel_order": "bgr",
    "pixel_mean": (0.5, 0.5, 0.5),
    "pixel_std": (0.25, 0.25, 0.25),
    "pixel_scale": 1 / 250,
    "resize": "opencv",
    "norm_eps": 1e-2,
    "stride_in": "1x1",
    "anchor_rounding": True,
    "clip_unrounded": False,
    "rpn_min_size": 16.0,
    "rpn_post_nms": 50,
    "rpn_nms_threshold": 0.6,
    "roi_aligned": False,
    "roi_sampling": 1,
    "nms_threshold": 0.3,
    "score_threshold": 0.5,
}


@pytest.mark.long
@pytest.mark.parametrize("name", list(FLIPS))
def test_a_flipped_convention_is_told(name: str, model: MaskRCNN, golden: dict[str, np.ndarray]) -> None:
    flipped = rebuilt(model, model.spec.with_numerics({name: FLIPS[name]}))
    trace = flipped.trace(photo(), torch.from_numpy(golden["proposals"]))
    told = stage_faults(trace, golden) or proposals_alone(trace["proposals"], golden)
    theirs = golden["probabilities"]
    told = told or np.abs(trace["roi.class_logits"].softmax(1).numpy() - theirs).max() > 2e-3
    assert told or detections_alone(flipped, golden)
