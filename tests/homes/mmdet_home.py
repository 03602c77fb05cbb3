"""MMDetection's own detector, for a Python that has MMDetection 3: with every tensor of a file, strictly.

The model is built with the config that the file carries. Where MMCV was installed without its compiled kernels
(mmcv-lite), the two that a Mask R-CNN runs are torchvision's.
"""

import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
import torchvision


class Kernels(types.ModuleType):
    """In the place of `mmcv._ext`: all that is asked for is there, and all but two refuse to run."""

    @staticmethod
    def roi_align_forward(x: torch.Tensor, rois: torch.Tensor, result: torch.Tensor, *_: Any, **how: Any) -> None:
        assert how["pool_mode"] == 1
        size = (how["aligned_height"], how["aligned_width"])
        scale, samples = how["spatial_scale"], how["sampling_ratio"]
        result.copy_(torchvision.ops.roi_align(x, rois, size, scale, samples, how["aligned"]))

    @staticmethod
    def nms(boxes: torch.Tensor, scores: torch.Tensor, *, iou_threshold: float, offset: int) -> torch.Tensor:
        assert offset == 0
        return torchvision.ops.nms(boxes, scores, iou_threshold)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*_: Any, **__: Any) -> Any:
            raise NotImplementedError(name)

        return refuse


if importlib.util.find_spec("mmcv._ext") is None:
    sys.modules["mmcv._ext"] = Kernels("mmcv._ext")

from mmdet.apis import inference_detector  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.runner.checkpoint import _load_checkpoint  # noqa: E402


def detector(checkpoint: str) -> Callable[[Any], Any]:
    """What takes a photograph, a path or uint8 [H, W, 3] BGR, and finds instances."""
    register_all_modules()
    held = _load_checkpoint(checkpoint, map_location="cpu")
    cfg = Config.fromstring(held["meta"]["cfg"], ".py")
    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(held["state_dict"], strict=True)
    model.cfg, model.dataset_meta = cfg, held["meta"]["dataset_meta"]
    return lambda photo: inference_detector(model, photo).pred_instances
