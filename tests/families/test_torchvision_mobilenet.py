"""Mask R-CNN on MobileNetV3-Large, built with torchvision's helpers, against torchvision itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone

import maskgraft as mg
from maskgraft.errors import CheckpointError

SIZES = (32, 64, 128, 256, 512)


def built(levels: list[int] | None = None, sizes: tuple[tuple[int, ...], ...] = (SIZES,) * 3) -> MaskRCNN:
    torch.manual_seed(0)
    backbone = mobilenet_backbone(backbone_name="mobilenet_v3_large", fpn=True, weights=None, returned_layers=levels)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    model = MaskRCNN(backbone, 5, rpn_anchor_generator=anchors, box_score_thresh=0.0).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1)
    return model


@pytest.mark.parametrize(
    ("levels", "sizes"),
    [(None, (SIZES,) * 3), ([1, 2, 3, 4, 5], tuple((size,) for size in (*SIZES, 600)))],
    ids=["as torchvision's own", "five maps"],
)
@torch.inference_mode()
def test_its_numbers_are_torchvisions(
    levels: list[int] | None, sizes: tuple[tuple[int, ...], ...], tmp_path: Path
) -> None:
    theirs = built(levels, sizes)
    torch.save(theirs.state_dict(), tmp_path / "mobile.pth")
    changes = {"min_size": 160, "max_size": 320, "score_threshold": 0.0, "anchor_sizes": [list(one) for one in sizes]}
    model = mg.load(tmp_path / "mobile.pth", numerics=changes)
    assert model.spec.arch.backbone == "mobilenet_v3_large"
    theirs.transform.min_size, theirs.transform.max_size = (160,), 320
    image = np.random.default_rng(0).integers(0, 255, (200, 260, 3), np.uint8)
    wanted = theirs([torch.from_numpy(image).permute(2, 0, 1) / 255])[0]
    found = model.predict([image])[0]
    assert len(found.boxes) == len(wanted["boxes"]) > 10
    torch.testing.assert_close(found.scores, wanted["scores"], rtol=1e-4, atol=1e-5)
    twins = [
        ((found.boxes - box).abs().amax(1) + (found.labels != label) * 1e6).min() < 0.05
        for box, label in zip(wanted["boxes"], wanted["labels"] - 1, strict=True)
    ]
    assert sum(twins) >= 0.95 * len(twins)  # untrained scores nearly tie, and float noise picks among them
    maps = model.trace(image)
    pyramid = theirs.backbone(maps["input"])
    for (name, map_), ours in zip(
        pyramid.items(), [name for name in maps if name[0] == "p" and name[1:].isdigit()], strict=True
    ):
        torch.testing.assert_close(maps[ours], map_, rtol=1e-4, atol=1e-5, msg=name)


def test_the_anchors_are_those_of_torchvisions_own_detectors(tmp_path: Path) -> None:
    torch.save(built().state_dict(), tmp_path / "mobile.pth")
    spec = mg.load(tmp_path / "mobile.pth").spec
    assert spec.numerics.anchor_sizes == (tuple(map(float, SIZES)),) * 3
    assert spec.learned["numerics.anchor_sizes"].how == "assumed"


@pytest.mark.parametrize(
    ("backbone", "says"), [("mobilenet_v3_small", "MobileNetV3-Small"), ("mobilenet_v2", "supported: MobileNetV2")]
)
def test_its_kin_are_refused_by_name(backbone: str, says: str, tmp_path: Path) -> None:
    body = mobilenet_backbone(backbone_name=backbone, fpn=True, weights=None)
    model = MaskRCNN(body, 5, rpn_anchor_generator=AnchorGenerator((SIZES,) * 3, ((0.5, 1.0, 2.0),) * 3))
    torch.save(model.state_dict(), tmp_path / "mobile.pth")
    with pytest.raises(CheckpointError, match=says):
        mg.load(tmp_path / "mobile.pth")


def test_other_widths_are_refused(tmp_path: Path) -> None:
    state = built().state_dict()
    state["backbone.fpn.inner_blocks.0.0.weight"] = torch.ones(256, 77, 1, 1)
    torch.save(state, tmp_path / "mobile.pth")
    with pytest.raises(CheckpointError, match="MobileNetV3 of other widths"):
        mg.load(tmp_path / "mobile.pth")
