"""Detectron2's own predictor, for a Python that has it: with every tensor of a file, strictly, and its config."""

from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor


def predictor(checkpoint: str, config: str) -> Any:
    """What takes a photograph, uint8 [H, W, 3] BGR, and finds instances."""
    incompatible: list[Any] = []

    def load_model(self: DetectionCheckpointer, file: Any, *, theirs: Any = DetectionCheckpointer._load_model) -> Any:
        incompatible.append(theirs(self, file))
        return incompatible[-1]

    DetectionCheckpointer._load_model = load_model
    cfg = get_cfg()
    cfg.merge_from_file(config)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = checkpoint, "cpu"
    found = DefaultPredictor(cfg)
    assert incompatible, "Detectron2 loaded nothing"
    for one in incompatible:
        assert not (one.missing_keys or one.unexpected_keys or one.incorrect_shapes), one
    return found
