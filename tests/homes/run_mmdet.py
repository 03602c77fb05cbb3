"""Run under a Python that has MMDetection 3: its own detector on a file that was written for it.

python run_mmdet.py model.pth - photo.npy out.npz
"""

import sys

import numpy as np
from mmdet_home import detector

checkpoint, _, photo, out = sys.argv[1:]
found = detector(checkpoint)(np.load(photo)[:, :, ::-1].copy())
np.savez(
    out,
    boxes=found.bboxes.numpy(),
    scores=found.scores.numpy(),
    labels=found.labels.numpy(),
    masks=found.masks.numpy(),
)
