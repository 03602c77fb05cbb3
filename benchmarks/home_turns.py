"""Run under a Python that has Detectron2 or MMDetection: photographs to masks, again at each line that comes in.

python home_turns.py detectron2 model.pth config.yaml found.npz THREADS photograph …

What the first turn found is written to `found.npz`; a line goes out when the model is ready, and after each turn.
`python -m benchmarks predicting` starts it.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "homes"))
home, checkpoint, config, out, threads, *photographs = sys.argv[1:]
torch.set_num_threads(int(threads))
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what they print themselves is no answer

if home == "detectron2":
    from detectron2.data.detection_utils import read_image
    from detectron2_home import predictor

    predict = predictor(checkpoint, config)

    def finds(path: str) -> tuple[Any, Any, Any]:
        found = predict(read_image(path, "BGR"))["instances"]
        return found.pred_boxes.tensor, found.pred_classes, found.pred_masks

else:
    from mmdet_home import detector

    detect = detector(checkpoint)

    def finds(path: str) -> tuple[Any, Any, Any]:
        found = detect(path)
        return found.bboxes, found.labels, found.masks


print("ready", file=answers, flush=True)
for turn, _ in enumerate(sys.stdin):
    found = [finds(path) for path in photographs]
    if turn == 0:
        parts = zip(("boxes", "labels", "masks"), zip(*found, strict=True), strict=True)
        np.savez(out, **{f"{name}{index}": one.numpy() for name, each in parts for index, one in enumerate(each)})
    print("done", file=answers, flush=True)
