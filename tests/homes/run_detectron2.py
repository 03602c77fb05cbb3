"""Run under a Python that has Detectron2: its own loader and predictor on a file that was written for it.

python run_detectron2.py model.pth config.yaml photo.npy out.npz
"""

import sys

import numpy as np
from detectron2_home import predictor

checkpoint, config, photo, out = sys.argv[1:]
found = predictor(checkpoint, config)(np.load(photo)[:, :, ::-1])["instances"]
np.savez(
    out,
    boxes=found.pred_boxes.tensor.numpy(),
    scores=found.scores.numpy(),
    labels=found.pred_classes.numpy(),
    masks=found.pred_masks.numpy(),
)
