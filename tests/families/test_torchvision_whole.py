"""Models that torchvision's users pickled whole say what their constructors were told."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

import maskgraft as mg
from maskgraft.errors import CheckpointError

MAPS = ["0", "1", "2", "3"]
SIZES = ((16, 24), (32, 48), (64, 96), (128, 192), (256, 384))


def anchors(*ratios: tuple[float, ...]) -> AnchorGenerator:
    return AnchorGenerator(SIZES, ratios if len(ratios) > 1 else ratios * len(SIZES))


def pooling(size: int, sampling: int) -> MultiScaleRoIAlign:
    return MultiScaleRoIAlign(MAPS, size, sampling)


def pickled(path: Path, **options: Any) -> Path:
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=lambda c: FrozenBatchNorm2d(c, 0.001))
    given = {"box_roi_pool": pooling(2, 0), "mask_roi_pool": pooling(4, 0)} | options
    torch.save(torch.nn.DataParallel(MaskRCNN(body, 3, **given)), path)
    return path


def test_nothing_is_assumed(tmp_path: Path) -> None:
    path = pickled(
        tmp_path / "model.pth",
        rpn_anchor_generator=anchors((0.5, 1.0, 2.0, 3.0)),
        **{"min_size": (200, 300), "max_size": 500, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.3, 0.2, 0.1]},
        **{"rpn_pre_nms_top_n_test": 120, "rpn_post_nms_top_n_test": 70, "rpn_post_nms_top_n_train": 90},
        **{"rpn_nms_thresh": 0.6, "rpn_score_thresh": 0.3, "rpn_batch_size_per_image": 64, "rpn_bg_iou_thresh": 0.25},
        **{"box_score_thresh": 0.2, "box_nms_thresh": 0.35, "box_detections_per_img": 15, "box_fg_iou_thresh": 0.6},
        **{"bbox_reg_weights": (8.0, 8.0, 4.0, 4.0), "box_positive_fraction": 0.4},
    )
    report = mg.diagnose(path)
    assert report.spec is not None
    told = report.spec.numerics
    assert (told.min_size, told.max_size, told.pad_multiple, told.norm_eps) == (300, 500, 32, 0.001)
    assert (told.pixel_mean, told.pixel_std) == ((0.4, 0.5, 0.6), (0.3, 0.2, 0.1))
    assert (told.anchor_sizes, told.anchor_ratios) == (SIZES, (0.5, 1.0, 2.0, 3.0))
    assert (told.rpn_pre_nms, told.rpn_post_nms, told.rpn_post_nms_train) == (120, 70, 90)
    assert (told.rpn_nms_threshold, told.rpn_score_threshold, told.rpn_samples) == (0.6, 0.3, 64)
    assert (told.score_threshold, told.nms_threshold, told.max_detections) == (0.2, 0.35, 15)
    assert (told.box_delta_weights, told.roi_positive_fraction) == ((8, 8, 4, 4), 0.4)
    assert (told.rpn_negative_iou, told.roi_positive_iou) == (0.25, 0.6)
    assert (told.box_pool_size, told.mask_pool_size, told.roi_sampling) == (2, 4, 0)
    assumed = [name for name, one in report.spec.learned.items() if one.how == "assumed"]
    assert assumed == ["classes"]
    (finding,) = (one for one in report.findings if one.code == "numerics.training")
    assert finding.evidence == {"roi_heads.proposal_matcher.low_threshold": 0.5}


def test_a_photograph_of_one_size_or_as_it_is(tmp_path: Path) -> None:
    assert mg.diagnose(pickled(tmp_path / "one.pth", fixed_size=(256, 192))).spec.numerics.fixed_size == (192, 256)
    assert mg.diagnose(pickled(tmp_path / "as it is.pth", _skip_resize=True)).spec.numerics.min_size == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rpn_anchor_generator": anchors(*[(0.5, 1.0)] * 4, (1.0, 2.0))}, "ratios differ from level to level"),
        ({"mask_roi_pool": pooling(4, 2)}, "mask_roi_pool.sampling_ratio is 2"),
        ({"box_roi_pool": MultiScaleRoIAlign(MAPS, 2, 0, canonical_scale=112)}, "canonical_scale is 112"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=says):
        mg.load(pickled(tmp_path / "model.pth", **options))
