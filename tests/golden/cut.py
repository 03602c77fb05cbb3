"""Cut golden cases down to what the tests need.

python tests/golden/cut.py ../shared/oracles                       # every case with detections
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
NOISE = 5  # a stage may differ by this many times the float32 noise measured in the home framework …
SMALLEST = 2e-5  # … or by this share of its largest value where only feature maps were measured
MOST = 1e-3  # of its largest value, whatever was measured
UNMEASURED = 3e-4  # of its largest value where nothing was, from what such networks were measured to have elsewhere

PYRAMID = ("p2", "p3", "p4", "p5", "p6")

Table = dict[str, tuple[str, str]]


def table(levels: dict[str, str], *, background_first: bool, anchors: str = "anchors") -> Table:
    """Stage of `MaskRCNN.trace` ← (key of golden.npz, view), for a framework that calls our `levels` by other names."""
    logits, deltas = ("background-first", "quads-background-first") if background_first else ("same", "same")
    return {
        "input": ("net_input", "same"),
        **{ours: (f"feat.{theirs}", "same") for ours, theirs in levels.items()},
        **{f"rpn.logits.{ours}": (f"rpn_logits.{theirs}", "same") for ours, theirs in levels.items()},
        **{f"rpn.deltas.{ours}": (f"rpn_deltas.{theirs}", "same") for ours, theirs in levels.items()},
        "anchors": (anchors, "same"),
        "roi.pooled": ("roi_box_pooled", "same"),
        "roi.features": ("roi_box_head", "same"),
        "roi.class_logits": ("roi_cls_logits", logits),
        "roi.box_deltas": ("roi_box_deltas", deltas),
        "roi.mask_logits": ("roi_mask_logits", "background-first" if background_first else "same"),
    }


TORCHVISION = table(dict(zip(PYRAMID, "0 1 2 3 pool".split(), strict=True)), background_first=True)
DETECTRON2 = table({level: level for level in PYRAMID}, background_first=False)
DETECTRON2_C4 = table({"c4": "res4"}, background_first=False)
MMDET = table(dict(zip(PYRAMID, "01234", strict=True)), background_first=False)
MASKRCNN_BENCHMARK = table(dict(zip(PYRAMID, "01234", strict=True)), background_first=True)


def object_detection(level: str) -> Table:
    """The TF Object Detection API, whose arrays of feature maps end with `level`."""
    return {
        "input": ("input", "nhwc"),
        "c4": (f"rpn_features_to_crop{level}", "nhwc"),
        "rpn.deltas.c4": ("rpn_box_encodings", "cells-yx"),
        "anchors": ("anchors", "yx"),
        "roi.pooled": ("roi_pooled", "nhwc"),
        "roi.class_logits": ("roi_cls_logits", "background-first"),
        "roi.box_deltas": ("roi_box_encodings", "quads-yx"),
        "roi.mask_logits": ("roi_mask_logits", "same"),
    }


TF1_OBJECT_DETECTION, TF2_OBJECT_DETECTION = object_detection(""), object_detection("_0")
MODEL_GARDEN = {
    "input": ("input", "nhwc"),
    **{f"c{level}": (f"feat_C{level}", "nhwc") for level in (2, 3, 4, 5)},
    **{f"p{level}": (f"feat_P{level}", "nhwc") for level in (2, 3, 4, 5, 6)},
    **{f"rpn.logits.p{level}": (f"rpn_scores_{level}", "nhwc") for level in (2, 3, 4, 5, 6)},
    **{f"rpn.deltas.p{level}": (f"rpn_boxes_{level}", "nhwc-yx") for level in (2, 3, 4, 5, 6)},
    "roi.pooled": ("roi_pooled", "nhwc"),
    "roi.class_logits": ("roi_cls_logits", "background-first"),
    "roi.box_deltas": ("roi_box_deltas", "quads-yx-background-first"),
    "roi.mask_logits": ("roi_mask_logits", "nhwc-background-first"),
}

MATTERPORT = {
    "input": ("input", "cells"),
    **{f"c{level}": (f"feat_C{level}", "nhwc") for level in (2, 3, 4, 5)},
    **{f"p{level}": (f"feat_P{level}", "nhwc") for level in (2, 3, 4, 5, 6)},
    "roi.pooled": ("roi_pool_cls", "nhwc"),
    "roi.class_logits": ("roi_cls_logits", "background-first"),
    "roi.box_deltas": ("roi_bbox_deltas", "rows-yx-background-first"),
    "roi.mask_logits": ("roi_mask_logits", "nhwc-background-first"),
}
TENSORPACK = {
    "input": ("input", "nhwc"),
    **{f"c{level}": (f"feat_C{level}", "same") for level in (2, 3, 4, 5)},
    **{f"p{level}": (f"feat_P{level}", "same") for level in (2, 3, 4, 5, 6)},
    **{f"rpn.logits.p{level}": (f"rpn_logits_{level - 2}", "cells") for level in (2, 3, 4, 5, 6)},
    **{f"rpn.deltas.p{level}": (f"rpn_deltas_{level - 2}", "cells-of-quads") for level in (2, 3, 4, 5, 6)},
    "roi.pooled": ("roi_pooled", "same"),
    "roi.class_logits": ("roi_cls_logits", "background-first"),
    "roi.box_deltas": ("roi_box_deltas", "rows-background-first"),
    "roi.mask_logits": ("roi_mask_logits", "same"),
}
CHAINER = table({"c4": "res4"}, background_first=True) | {
    "rpn.deltas.c4": ("rpn_deltas.res4", "planes-yx"),
    "anchors": ("anchors_yxyx", "yx"),
    "roi.box_deltas": ("roi_box_deltas", "quads-yx-background-first"),
    "roi.mask_logits": ("roi_mask_logits", "same"),
}

# Cases that are not here are compared at the feature maps that their load.json names, and at their detections.
STAGES: dict[str, Table] = {
    "torchvision-r50fpn": TORCHVISION,
    "torchvision-r50fpn-v2": TORCHVISION,
    "detectron2-r50fpn": DETECTRON2,
    "detectron2-r50fpn-gn": DETECTRON2,
    "detectron2-x101fpn": DETECTRON2,
    "detectron2-r50c4": DETECTRON2_C4,
    # Detectron2 drops the background rows of the file, which maskgraft keeps
    "detectron-caffe2-r50fpn": DETECTRON2 | {"roi.box_deltas": ("roi_box_deltas", "foreground-quads")},
    "mmdet-r50fpn": MMDET,
    "mmdet-r50caffe-fpn": MMDET,
    "maskrcnn-benchmark-r50fpn": MASKRCNN_BENCHMARK,
    "tf1od-mask_rcnn_resnet50_atrous_coco": TF1_OBJECT_DETECTION,
    "tf1od-mask_rcnn_inception_v2_coco": TF1_OBJECT_DETECTION,
    "tf2od-mask_rcnn_resnet50_keras": TF2_OBJECT_DETECTION,
    "tf2od-mask_rcnn_inception_resnet_v2": TF2_OBJECT_DETECTION,
    "modelgarden-maskrcnn_resnet50fpn": MODEL_GARDEN,
    "matterport-r50-c81": MATTERPORT,
    "tensorpack-COCO-MaskRCNN-R50FPN1x": TENSORPACK,
    "chainer-r50c4": CHAINER,
}

# The arrays of given regions and of proposals, and in what they count.
REGIONS = {
    **{
        name: {"rois": "fixed_rois", "proposals": "proposals_norm", "coordinates": "fractions-yx"}
        for name in STAGES
        if name.startswith(("tf1od", "tf2od"))
    },
    "modelgarden-maskrcnn_resnet50fpn": {"rois": "fixed_rois", "proposals": "proposals", "coordinates": "yx"},
    "matterport-r50-c81": {"rois": "fixed_rois", "proposals": "proposals", "coordinates": "corner-fractions-yx"},
    "tensorpack-COCO-MaskRCNN-R50FPN1x": {"rois": "fixed_rois", "proposals": "proposals", "coordinates": "xy"},
    "chainer-r50c4": {"rois": "rois", "proposals": "proposals.boxes_yxyx", "coordinates": "xy"},
}
PIXELS = {"rois": "rois", "proposals": "proposals.boxes", "coordinates": "xy"}

# Every sample is kept in the golden training steps; Detectron2 divides by the number that it might have drawn. All but
# torchvision's were made with as many proposals as in evaluation.
SAMPLES = {"detectron2": 10**6, "detectron-caffe2": 10**6}

# What a full case says wrongly: these boxes are x1 y1 x2 y2, as the masks beside them show.
CORRECTED = {"tensorpack-COCO-MaskRCNN-R50FPN1x": {"order": "xyxy"}}

LOSSES = {  # ours ← what the frameworks call it
    "rpn_cls": ("loss_objectness", "loss_rpn_cls"),
    "rpn_box": ("loss_rpn_box_reg", "loss_rpn_loc", "loss_rpn_bbox"),
    "cls": ("loss_classifier", "loss_cls"),
    "box": ("loss_box_reg", "loss_bbox"),
    "mask": ("loss_mask",),
}


def allowed_of(case: dict[str, Any], key: str) -> float:
    """By how much an array may differ: `NOISE` times its float32 noise.

    That is the larger of a float64 run's and a rerun's difference, or in the TensorFlow cases that of a run with other
    kernels. Where crops at the knife edge flip between those two, a thousandth of the largest value is the most.
    """
    info = case["arrays"][key]
    if "noise" in case:
        differences = case["noise"].get(key, {})
        measured = max(differences.get("f64_maxabs") or 0.0, differences.get("rerun_maxabs") or 0.0)
        return NOISE * measured or SMALLEST * info.get("absmax", 0.0)
    largest = max(abs(info["min"]), abs(info["max"]))
    if "cross_run" not in case:
        return UNMEASURED * largest
    measured = next(iter(case["cross_run"].values())).get(key, [0.0])[0]
    return max(min(NOISE * measured, MOST * largest), SMALLEST * largest)


def losses_of(case: dict[str, Any], cut: dict[str, np.ndarray], source: Path) -> dict[str, Any] | None:
    losses = case.get("losses")
    if not losses:
        return None
    modes = losses.get("modes", {"": losses})
    result: dict[str, Any] = {
        "truth": losses["ground_truth"],
        "modes": {},
        "samples": SAMPLES.get(case["family"], 10**7),
    }
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


def keep(cut: dict[str, np.ndarray], stage: str, array: np.ndarray) -> int:
    """Store every n-th value of a stage; returns n."""
    flat = array.reshape(-1)
    step = -(-len(flat) // MOST_VALUES)
    cut[f"stage/{stage}"] = flat[::step]
    return step


def cut_case(source: Path, target: Path) -> None:
    case, load = (json.loads((source / name).read_text()) for name in ("case.json", "load.json"))
    golden = np.load(source / "golden.npz")
    cut: dict[str, np.ndarray] = {"image": golden["image"]}
    stages: dict[str, dict[str, Any]] = {}
    for stage, (key, view) in STAGES.get(source.name, {}).items():
        info = case["arrays"][key]
        stages[stage] = {
            "view": view,
            "shape": info["shape"],
            "step": info.get("subsample_k", info.get("stride_k")) * keep(cut, stage, golden[key]),
            "allowed": allowed_of(case, key),
            "classes": case.get("mask_logit_classes") if stage == "roi.mask_logits" else None,
        }
    for stage, info in load["stages"].items():
        if stage not in stages:
            stages[stage] = {
                "view": "nhwc" if info["layout"] == "NHWC" else "same",
                "shape": info["shape"],
                "step": info["k"] * keep(cut, stage, golden[info["key"]]),
                "allowed": max(NOISE * info["noise"], SMALLEST * info["absmax"]),
                "classes": None,
            }
    detections = load["detections"]
    of_detections = [detections[name] for name in ("boxes", "scores", "labels", "masks")]
    regions = REGIONS.get(source.name, PIXELS)
    for name in (regions["rois"], regions["proposals"], "gt_masks_packed", *of_detections):
        if name in golden.files:
            cut[name] = golden[name]
    described = {
        **{name: load[name] for name in ("case", "family", "checkpoint", "also", "config", "numerics")},
        "detections": {**detections, **CORRECTED.get(source.name, {})},
        "regions": regions,
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


def cut_head(source: Path, target: Path) -> None:
    """What Matterport's heads said of its proposals, and what its `refine_detections_graph` made of that."""
    golden = np.load(source / "golden.npz")
    kept = ("proposals", "window", "cls_logits_on_proposals", "bbox_deltas_on_proposals", "detections_norm")
    shapes = json.loads((source / "case.json").read_text())["arrays"]
    np.savez_compressed(target, **{name: golden[name].reshape(shapes[name]["shape"]) for name in kept})
    print(f"{target.name}: {target.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    found = sorted(path.parent.name for path in options.folder.glob("*/load.json"))
    for name in options.cases or found:
        if name == "matterport-r50-c4":
            cut_head(options.folder / name, HERE / f"{name}-detections.npz")
        else:
            cut_case(options.folder / name, HERE / name)


if __name__ == "__main__":
    main()
