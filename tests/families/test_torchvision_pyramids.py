"""torchvision's pyramids of other maps than all four: built as at home, or refused by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import maskgraft as mg
from maskgraft.errors import CheckpointError
from tests.families.test_torchvision_home import photograph


def at_home(layers: list[int], maps: int, **options: Any) -> MaskRCNN:
    torch.manual_seed(0)
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, returned_layers=layers, **options)
    anchors = AnchorGenerator(tuple((32 * 2**level,) for level in range(maps)), ((0.5, 1.0, 2.0),) * maps)
    names = ["0", "1", "2", "3"][: len(layers)]
    pools = {"box_roi_pool": MultiScaleRoIAlign(names, 2, 2), "mask_roi_pool": MultiScaleRoIAlign(names, 4, 2)}
    return MaskRCNN(body, 3, rpn_anchor_generator=anchors, min_size=96, max_size=200, box_score_thresh=0.3, **pools)


@pytest.mark.parametrize("layers", [[2, 3, 4], [1, 2, 3], [3, 4]], ids=str)
@torch.inference_mode()
def test_fewer_maps(layers: list[int], tmp_path: Path) -> None:
    home, image = at_home(layers, len(layers) + 1).eval(), photograph(100, 140)
    torch.save(home, tmp_path / "model.pth")
    ours = mg.load(tmp_path / "model.pth")
    stages = ours.trace(image)
    theirs = home.backbone(stages["input"])
    names = [f"p{layer + 1}" for layer in (*layers, layers[-1] + 1)]
    assert [name for name in stages if name in names] == names
    for name, map_ in zip(names, theirs.values(), strict=True):
        torch.testing.assert_close(stages[name], map_, rtol=1e-4, atol=1e-4 * float(map_.abs().max()))
    found, wanted = ours.predict([image])[0], home([torch.from_numpy(image).permute(2, 0, 1) / 255])[0]
    assert len(found) == len(wanted["scores"]) > 0
    torch.testing.assert_close(found.scores, wanted["scores"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("layers", "maps", "options", "says"),
    [
        ([2, 4], 3, {}, "a pyramid of maps of 128, 512 channels"),
        ([2, 3, 4], 5, {"extra_blocks": LastLevelP6P7(256, 256)}, "extra blocks"),
    ],
)
def test_other_pyramids_are_refused_by_name(
    layers: list[int], maps: int, options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    torch.save(at_home(layers, maps, **options).state_dict(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=says):
        mg.load(tmp_path / "model.pth")
