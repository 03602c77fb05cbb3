"""`Detections`: what a model found on one image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The instances found on one image, best first, all on the CPU.

    `boxes` float32 [N, 4] xyxy in pixels of the given image; `scores` float32 [N], descending; `labels` int64 [N],
    0-based into `model.spec.classes`; `masks` bool [N, H, W]; `mask_probs` float32 [N, m, m], the mask of the predicted
    class inside its box before it was pasted onto the image.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor
    mask_probs: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> "Detections":
        """Those whose score is at least `threshold`."""
        kept = self.scores >= threshold
        return Detections(
            self.boxes[kept], self.scores[kept], self.labels[kept], self.masks[kept], self.mask_probs[kept]
        )

    def as_json(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """One entry an instance, without masks: class name, score, box xyxy, mask area in pixels."""
        return [
            {"class": classes[label], "score": score, "box": box, "mask_area": area}
            for label, score, box, area in zip(
                self.labels.tolist(),
                self.scores.tolist(),
                self.boxes.tolist(),
                self.masks.sum((1, 2)).tolist(),
                strict=True,
            )
        ]
