"""Cut golden cases down to what the tests need.

python tests/golden/cut.py ../shared/oracles                       # every case that a table below describes
python tests/golden/cut.py ../shared/oracles detectron2-r50fpn     # one
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
MOST_VALUES = 1500  # of one stage

PYRAMID = ("p2", "p3", "p4", "p5", "p6")

# stage of `MaskRCNN.trace` ← (key of golden.npz, view). One table a home framework.
TORCHVISION: dict[str, tuple[str, str]] = {
    "input": ("net_input", "same"),
    **{level: (f"feat.{theirs}", "same") for level, theirs in zip(PYRAMID, "0 1 2 3 pool".split(), strict=True)},
    **{
        f"rpn.{ours}.{level}": (f"rpn_{ours}.{theirs}", "same")
        for ours in ("logits", "deltas")
        for level, theirs in zip(PYRAMID, "0 1 2 3 pool".split(), strict=True)
    },
    "anchors": ("anchors", "same"),
    "roi.pooled": ("roi_box_pooled", "same"),
    "roi.features": ("roi_box_head", "same"),
    "roi.class_logits": ("roi_cls_logits", "background-first"),
    "roi.box_deltas": ("roi_box_deltas", "quads-background-first"),
    "roi.mask_logits": ("roi_mask_logits", "background-first"),
}
DETECTRON2: dict[str, tuple[str, str]] = {
    "input": ("net_input", "same"),
    **{level: (f"feat.{level}", "same") for level in PYRAMID},
    **{f"rpn.{ours}.{level}": (f"rpn_{ours}.{level}", "same") for ours in ("logits", "deltas") for level in PYRAMID},
    "anchors": ("anchors", "same"),
    "roi.pooled": ("roi_box_pooled", "same"),
    "roi.features": ("roi_box_head", "same"),
    "roi.class_logits": ("roi_cls_logits", "same"),
    "roi.box_deltas": ("roi_box_deltas", "same"),
    "roi.mask_logits": ("roi_mask_logits", "same"),
}
STAGES: dict[str, dict[str, tuple[str, str]]] = {
    "torchvision-r50fpn": TORCHVISION,
    "torchvision-r50fpn-v2": TORCHVISION,
    "detectron2-r50fpn": DETECTRON2,
}

# Every sample is kept in the golden training steps; Detectron2 divides by the number that it might have drawn.
TRAINING: dict[str, dict[str, Any]] = {
    "torchvision": {"rpn_samples": 10**7, "roi_samples": 10**7},
    "detectron2": {
        "rpn_samples": 10**6,
        "roi_samples": 10**6,
        "rpn_pre_nms_train": 1000,
        "rpn_post_nms_train": 1000,
    },
}

LOSSES = {  # ours ← what the frameworks call it
    "rpn_cls": ("loss_objectness", "loss_rpn_cls"),
    "rpn_box": ("loss_rpn_box_reg", "loss_rpn_loc", "loss_rpn_bbox"),
    "cls": ("loss_classifier", "loss_cls"),
    "box": ("loss_box_reg", "loss_bbox"),
    "mask": ("loss_mask",),
}


def noise_of(case: dict[str, Any], key: str) -> float:
    """The float32 noise measured for an array: the larger of a float64 run's and a rerun's difference."""
    measured = case["noise"].get(key, {})
    return max(measured.get("f64_maxabs") or 0.0, measured.get("rerun_maxabs") or 0.0)


def losses_of(case: dict[str, Any], cut: dict[str, np.ndarray], source: Path) -> dict[str, Any] | None:
    losses = case.get("losses")
    if not losses:
        return None
    modes = losses.get("modes", {"": losses})
    result: dict[str, Any] = {"truth": losses["ground_truth"], "modes": {}, "numerics": TRAINING[case["family"]]}
    for mode, values in modes.items():
        if not isinstance(values, dict) or "losses" not in values:
            continue
        result["modes"][mode] = {
            ours: next(values["losses"][name] for name in names if name in values["losses"])
            for ours, names in LOSSES.items()
        }
    info = losses.get("grad_info") or losses.get("modes", {}).get("grad_info")
    if info and (source / "grads.npz").exists():
        stored = np.load(source / "grads.npz")
        result["gradients"] = {}
        for name in stored.files:
            step = -(-len(stored[name].reshape(-1)) // MOST_VALUES)
            cut[f"gradient/{name}"] = stored[name].reshape(-1)[::step]
            result["gradients"][name] = info[name]["subsample_k"] * step
    return result


def cut_case(source: Path, target: Path) -> None:
    case, load = (json.loads((source / name).read_text()) for name in ("case.json", "load.json"))
    golden = np.load(source / "golden.npz")
    cut: dict[str, np.ndarray] = {"image": golden["image"]}
    stages: dict[str, dict[str, Any]] = {}
    for stage, (key, view) in STAGES[source.name].items():
        if key not in golden.files:
            print(f"{source.name}: no {key}")
            continue
        info = case["arrays"][key]
        flat = golden[key].reshape(-1)
        step = -(-len(flat) // MOST_VALUES)
        cut[f"stage/{stage}"] = flat[::step]
        stages[stage] = {
            "view": view,
            "shape": info["shape"],
            "step": info.get("subsample_k", info.get("stride_k", 1)) * step,
            "noise": noise_of(case, key),
            "classes": case["mask_logit_classes"] if stage == "roi.mask_logits" else None,
        }
    for name in (
        "rois",
        "proposals.boxes",
        "det.boxes",
        "det.scores",
        "det.labels",
        "det.masks_packed",
        "gt_masks_packed",
    ):
        if name in golden.files:
            cut[name] = golden[name]
    described = {
        **{name: load[name] for name in ("case", "family", "checkpoint", "also", "config", "numerics")},
        "detections": load["detections"],
        "stages": stages,
        "losses": losses_of(case, cut, source),
    }
    target.mkdir(exist_ok=True)
    (target / "case.json").write_text(json.dumps(described, indent=1))
    np.savez_compressed(target / "golden.npz", **cut)
    shutil.copy(source / "checkpoint.tar.xz", target)
    if load["config"] and (source / load["config"]).exists():
        shutil.copy(source / load["config"], target)
    print(f"{source.name}: {sum(path.stat().st_size for path in target.iterdir()) / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="*", default=sorted(STAGES))
    options = parser.parse_args()
    for name in options.cases:
        cut_case(options.folder / name, HERE / name)


if __name__ == "__main__":
    main()
