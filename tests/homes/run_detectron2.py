"""Run under a Python that has Detectron2: its own loader and predictor on a file that was written for it.

python run_detectron2.py model.pth config.yaml photo.npy out.npz
"""

import sys
from typing import Any

import numpy as np
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor

checkpoint, config, photo, out = sys.argv[1:]
incompatible: list[Any] = []


def load_model(self: DetectionCheckpointer, file: Any, *, theirs: Any = DetectionCheckpointer._load_model) -> Any:
    incompatible.append(theirs(self, file))
    return incompatible[-1]


DetectionCheckpointer._load_model = load_model
cfg = get_cfg()
cfg.merge_from_file(config)
cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = checkpoint, "cpu"
predictor = DefaultPredictor(cfg)
assert incompatible, "Detectron2 loaded nothing"
for one in incompatible:
    assert not (one.missing_keys or one.unexpected_keys or one.incorrect_shapes), one
found = predictor(np.load(photo)[:, :, ::-1])["instances"]
np.savez(
    out,
    boxes=found.pred_boxes.tensor.numpy(),
    scores=found.scores.numpy(),
    labels=found.pred_classes.numpy(),
    masks=found.pred_masks.numpy(),
)
