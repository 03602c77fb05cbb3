"""torchvision itself beside us: backbones, class counts, sizes and photographs that no golden case has."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.detection import MaskRCNN as Home
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

import maskgraft as mg

SIDES = {"min_size": 128, "max_size": 240}


def at_home(backbone: str, classes: int, norm: type[torch.nn.Module]) -> Home:
    """torchvision's model, its weights random and calm enough that detections differ from each other."""
    body = resnet_fpn_backbone(backbone_name=backbone, weights=None, norm_layer=norm)
    model = Home(body, num_classes=classes + 1, box_score_thresh=0.2, box_detections_per_img=1000, **SIDES)
    random = torch.Generator().manual_seed(3)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.ndim > 1:
            tensor.data = torch.randn(tensor.shape, generator=random) * (2 / tensor[0].numel()) ** 0.5
        elif name.endswith("running_var"):
            tensor.data = torch.rand(tensor.shape, generator=random) + 0.5
        elif name.endswith(("running_mean", "bias")):
            tensor.data = torch.randn(tensor.shape, generator=random) * 0.05
        elif name.endswith(("bn3.weight", "layer1.0.bn2.weight")):
            tensor.data.fill_(0.3)
    model.roi_heads.box_predictor.bbox_pred.weight.data *= 0.3
    model.rpn.head.bbox_pred.weight.data *= 0.1
    model.rpn.head.cls_logits.weight.data *= 0.3
    return model.eval()


def photograph(height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(0)
    patches = np.kron(random.normal(128, 60, (height // 8 + 1, width // 8 + 1, 3)), np.ones((8, 8, 1)))
    return (patches[:height, :width] + random.normal(0, 10, (height, width, 3))).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("backbone", "classes", "norm", "size"),
    [
        ("resnet18", 1, FrozenBatchNorm2d, (99, 133)),
        ("resnext50_32x4d", 3, torch.nn.BatchNorm2d, (200, 60)),
    ],
)
def test_detections_are_torchvisions_own(
    backbone: str, classes: int, norm: type[torch.nn.Module], size: tuple[int, int], tmp_path: Path
) -> None:
    home, image = at_home(backbone, classes, norm), photograph(*size)
    torch.save(home.state_dict(), tmp_path / "model.pth")
    ours = mg.load(tmp_path / "model.pth", numerics={**SIDES, "score_threshold": 0.2, "max_detections": 1000})
    found = ours.predict([image])[0]
    with torch.inference_mode():
        theirs = home([torch.from_numpy(image).permute(2, 0, 1) / 255])[0]
    assert len(theirs["scores"]) > 0
    assert len(found) == len(theirs["scores"])
    free = set(range(len(found)))
    for box, score, label, mask in zip(*(theirs[name] for name in ("boxes", "scores", "labels", "masks")), strict=True):
        of_label = [other for other in free if found.labels[other] == label - 1]
        twin = min(of_label, key=lambda other: float((found.boxes[other] - box).abs().max()))
        free.remove(twin)
        assert torch.allclose(found.boxes[twin], box, atol=1)
        assert abs(found.scores[twin] - score) < 5e-3
        differ = (found.masks[twin] != (mask[0] > 0.5)).sum()
        assert differ <= max(2, 0.02 * found.masks[twin].sum())
