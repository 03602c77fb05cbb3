"""From what Matterport's heads said of its own proposals to its detections, apart from the network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from maskgraft.families.matterport import NUMERICS
from maskgraft.ops.selection import Scored, detections

GOLDEN = Path(__file__).parents[1] / "golden" / "matterport-r50-c4-detections.npz"
LAST = 319  # its input has 320 × 320 pixels, and its fractions count from the first to the last


def found(golden: dict[str, np.ndarray], *, flat_last: bool) -> Scored:
    logits = torch.from_numpy(golden["cls_logits_on_proposals"]).roll(-1, 1)
    deltas = torch.from_numpy(golden["bbox_deltas_on_proposals"]).roll(-1, 1)[..., [1, 0, 3, 2]]
    top, left, bottom, right = golden["window"].tolist()
    return detections(
        logits,
        deltas.reshape(len(deltas), -1),
        torch.from_numpy(golden["proposals"])[:, [1, 0, 3, 2]] * LAST,
        (top, left, bottom - 1, right - 1),
        replace(NUMERICS, score_threshold=0.4, nms_flat_last=flat_last),
        place=lambda boxes: boxes,
        agnostic=False,
    )


def test_detections_are_those_of_matterport() -> None:
    with np.load(GOLDEN) as golden:
        arrays = dict(golden)
    theirs = torch.from_numpy(arrays["detections_norm"])
    theirs = theirs[theirs[:, 4] > 0]
    ours = found(arrays, flat_last=NUMERICS.nms_flat_last)
    assert (ours.labels + 1).tolist() == theirs[:, 4].tolist()
    assert torch.allclose(ours.scores, theirs[:, 5], atol=1e-6)
    assert torch.allclose(ours.boxes / LAST, theirs[:, [1, 0, 3, 2]], atol=1e-6)


def test_one_of_them_has_no_area_and_hides_three_others() -> None:
    with np.load(GOLDEN) as golden:
        arrays = dict(golden)
    kept, every = (found(arrays, flat_last=yes) for yes in (True, False))
    flat = kept.boxes[:, 1] == kept.boxes[:, 3]
    assert flat.sum() == 1
    assert len(every.scores) == len(kept.scores) + 3
    hidden = ~torch.isin(every.scores, kept.scores)
    assert set(every.labels[hidden].tolist()) == set(kept.labels[flat].tolist())
