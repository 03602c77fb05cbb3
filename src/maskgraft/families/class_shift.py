"""MMDetection files whose biases a converter moved to the wrong classes."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from maskgraft.errors import Finding
from maskgraft.files import Tensors


def version(meta: Mapping[str, Any]) -> tuple[int, ...]:
    """(1, 2) of "1.2.0+unknown"; a high number where the file does not say."""
    parts = str(meta.get("mmdet_version", "")).split("+")[0].split(".")
    numbers = [int(part) for part in parts[:2] if part.isdigit()]
    return tuple(numbers) or (99,)


def class_shift(tensors: Tensors, meta: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether box or mask biases belong to the neighbouring class.

    MMDetection's `upgrade_model_version.py` takes the background row, the first, from the weights of 1.x, but the last
    row from their biases. The background's biases were never trained: they are 0, and now stand first. A file in the
    layout of 2.x whose meta still says 1.x went through that script, or through one that does it right.
    """
    upgraded = version(meta) < (2,)
    for name, per_class in (("roi_head.bbox_head.fc_reg.bias", 4), ("roi_head.mask_head.conv_logits.bias", 1)):
        rows = tensors[name].read().reshape(-1, per_class) if name in tensors else np.zeros((0, per_class))
        if len(rows) < 2:
            continue
        zeros_first = not rows[0].any() and rows[1:].any(1).mean() > 0.5
        reason = "its first class has the zeros of a background row" if zeros_first else ""
        if upgraded:
            reason = reason or f"the layout is that of 2.x, and meta says {meta.get('mmdet_version')}"
        if reason:
            yield Finding(
                "values.class-shift",
                "warning",
                f"{name} {'is' if zeros_first else 'is probably'} shifted by one class against its weights: {reason}",
                names=(name,),
                evidence={"first": [float(value) for value in rows[0]], "mmdet_version": meta.get("mmdet_version")},
                effect="each class has its neighbour's bias, the last class none of its own: worse boxes and masks",
                fix="load the file from before the upgrade, which maskgraft reads as it is",
            )
