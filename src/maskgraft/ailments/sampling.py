"""What the proposal network and the heads are given to learn from: anchors, positives, proposals, regions."""

import math
from collections.abc import Sequence
from dataclasses import replace

from maskgraft.anchor_fitting import Coverage, anchor_coverage, fit_anchors
from maskgraft.coco import Dataset
from maskgraft.errors import Finding
from maskgraft.preprocess import network_size
from maskgraft.pulse import Pulse
from maskgraft.recipe import Recipe
from maskgraft.spec import Numerics, Spec

_MET, _POOR, _BETTER = 0.75, 0.4, 0.12  # recall of anchors at 0.5 that could be better, that is too low; a fit's gain
_LAX_ANCHOR, _LAX_REGION = 0.4, 0.3  # overlaps below which a positive has little of its object
_CROWDED = 0.1  # share of images with more objects than may be found
_SMALL = 8.0  # pixels of the input: a side of which little is left at a stride of 4
_SHRUNK = 0.2  # share of objects that the recipe alone makes so small


def examine(data: Dataset, spec: Spec, recipe: Recipe, pulses: Sequence[Pulse]) -> tuple[list[Finding], Coverage]:
    """Findings about anchors and sampling, and how anchors meet boxes at the size of the training."""
    home, spec = spec, at_training_size(spec, recipe)
    cover = anchor_coverage(data, spec)
    found = [
        *_anchors(data, spec, cover),
        *_sampled(spec, pulses),
        *_proposed(spec, pulses, cover),
        *_sizes(data, spec, home, recipe),
        *_cut_off(data, spec),
    ]
    return found, cover


def at_training_size(spec: Spec, recipe: Recipe) -> Spec:
    """The spec with the sizes that the images have in training: of several the middle one."""
    sizes = recipe.min_size or spec.numerics.min_size
    short = sorted(sizes)[len(sizes) // 2] if isinstance(sizes, tuple) else sizes
    numerics = replace(spec.numerics, min_size=short, max_size=recipe.max_size or spec.numerics.max_size)
    return replace(spec, numerics=numerics)


def _anchors(data: Dataset, spec: Spec, cover: Coverage) -> list[Finding]:
    if not cover.best.size or cover.recall(0.5) >= _MET:
        return []
    fit = fit_anchors(data, spec)
    if fit.after.recall(0.5) < cover.recall(0.5) + _BETTER:
        return []
    sides = cover.sides.prod(1) ** 0.5
    sizes = [size for level in cover.sizes for size in level]
    shown = ", ".join(f"[{', '.join(f'{one:g}' for one in level)}]" for level in fit.after.sizes)
    ratios = ", ".join(f"{one:g}" for one in fit.after.ratios)
    return [
        Finding(
            "train.anchors-miss",
            "error" if cover.recall(0.5) < _POOR / 2 else "warning" if cover.recall(0.5) < _POOR else "info",
            f"anchors of {min(sizes):g} to {max(sizes):g} pixels meet {100 * cover.recall(0.5):.0f} % of the "
            "boxes by half "
            f"and {100 * cover.recall(0.7):.0f} % by 0.7; half of the boxes are smaller than "
            f"{float(sorted(sides)[len(sides) // 2]):.0f} "
            f"pixels at this input. Fitted anchors meet {100 * fit.after.recall(0.5):.0f} and "
            f"{100 * fit.after.recall(0.7):.0f} %",
            names=("anchor_sizes", "anchor_ratios"),
            evidence={"before": cover.as_json(), "after": fit.after.as_json()},
            effect="proposals start from boxes that are too unlike the objects: recall stays low and boxes are off",
            fix=f"numerics={{anchor_sizes = [{shown}], anchor_ratios = [{ratios}]}} in the recipe",
        )
    ]  # fmt: skip


def _sampled(spec: Spec, pulses: Sequence[Pulse]) -> list[Finding]:
    numerics, found = spec.numerics, list[Finding]()
    images = sum(one.images for one in pulses)
    truths = sum(one.truths for one in pulses)
    if not images or not truths:
        return found
    each = truths / images
    positives = sum(one.positives * one.images for one in pulses) / images
    negatives = sum(one.negatives * one.images for one in pulses) / images
    foreground = sum(one.foreground * one.images for one in pulses) / images
    evidence = {"positives": positives, "negatives": negatives, "foreground": foreground, "instances": each}
    evidence = {name: round(value, 2) for name, value in evidence.items()}
    most = int(numerics.rpn_samples * numerics.rpn_positive_fraction)
    if positives < 0.6 * each and most < each:
        found.append(
            Finding(
                "train.rpn-starved",
                "error",
                f"the proposal network learns from {positives:.1f} positive anchors an image, where there are "
                f"{each:.1f} "
                f"objects: rpn_samples {numerics.rpn_samples} × rpn_positive_fraction "
                f"{numerics.rpn_positive_fraction:g} "
                f"allows {most}",
                names=("rpn_samples", "rpn_positive_fraction"),
                evidence=evidence,
                effect="it learns that everything is background: proposals miss the objects",
                fix="numerics={rpn_samples = 256, rpn_positive_fraction = 0.5}",
            )
        )
    if negatives < 1 or negatives < 0.05 * positives:
        found.append(
            Finding(
                "train.rpn-starved",
                "warning",
                f"the proposal network learns from {negatives:.1f} negative anchors an image, beside {positives:.1f} "
                f"positive ones: rpn_negative_iou is {numerics.rpn_negative_iou:g}, rpn_positive_fraction "
                f"{numerics.rpn_positive_fraction:g}",
                names=("rpn_negative_iou", "rpn_positive_fraction"),
                evidence=evidence,
                effect="it never learns what is no object",
                fix="numerics={rpn_negative_iou = 0.3, rpn_positive_fraction = 0.5}",
            )
        )
    if numerics.rpn_positive_iou > 0.85:
        anchored = sum((one.anchored or 0.0) * one.truths for one in pulses) / truths
        found.append(
            Finding(
                "train.rpn-starved",
                "warning",
                f"rpn_positive_iou is {numerics.rpn_positive_iou:g}: {100 * anchored:.0f} % of the objects have "
                "an anchor "
                f"that good, and the others one each; 0.7 is usual",
                names=("rpn_positive_iou",),
                evidence=evidence,
                effect="few positive anchors, and good ones taken for background",
                fix="numerics={rpn_positive_iou = 0.7}",
            )
        )
    for name, least, whose in (
        ("rpn_positive_iou", _LAX_ANCHOR, "anchors"),
        ("roi_positive_iou", _LAX_REGION, "regions"),
    ):
        if getattr(numerics, name) < least:
            usual = 0.7 if whose == "anchors" else 0.5
            found.append(
                Finding(
                    "train.sampling",
                    "warning",
                    f"{name} is {getattr(numerics, name):g}: {whose} that hardly touch an object are taught as that "
                    f"object ({positives if whose == 'anchors' else foreground:.1f} an image, where there are "
                    f"{each:.1f} objects); {usual:g} is usual",
                    names=(name,),
                    evidence=evidence,
                    effect="everything near an object is called that object; boxes cannot be learnt from so far away",
                    fix=f"numerics={{{name} = {usual:g}}}",
                )
            )
    most = int(numerics.roi_samples * numerics.roi_positive_fraction)
    if foreground < 0.6 * each and most < each:
        found.append(
            Finding(
                "train.heads-starved",
                "error",
                f"the heads learn from {foreground:.1f} regions of objects an image, where there are {each:.1f} "
                "objects: "
                f"roi_samples {numerics.roi_samples} × roi_positive_fraction {numerics.roi_positive_fraction:g} "
                f"allows {most}",
                names=("roi_samples", "roi_positive_fraction"),
                evidence=evidence,
                effect="boxes and masks get hardly a gradient, and every region is called background",
                fix="numerics={roi_samples = 512, roi_positive_fraction = 0.25}",
            )
        )
    if numerics.roi_positive_iou > 0.8:
        found.append(
            Finding(
                "train.heads-starved",
                "warning",
                f"roi_positive_iou is {numerics.roi_positive_iou:g}: {foreground:.1f} regions an image count as "
                "objects, "
                f"hardly more than the {each:.1f} true boxes themselves; 0.5 is usual",
                names=("roi_positive_iou",),
                evidence=evidence,
                effect="the heads see true boxes only, and not the proposals that they are asked about later",
                fix="numerics={roi_positive_iou = 0.5}",
            )
        )
    return found


def _proposed(spec: Spec, pulses: Sequence[Pulse], cover: Coverage) -> list[Finding]:
    """Proposals that cannot come, whatever the network learns."""
    numerics = spec.numerics
    images = sum(one.images for one in pulses)
    if not images or not cover.sides.size:
        return []
    least = numerics.rpn_min_size if numerics.rpn_min_size_train == "as in detecting" else numerics.rpn_min_size_train
    found = []
    lost = float((cover.sides.min(1) < least).mean()) if least else 0.0
    if least and lost > 0.1 and numerics.rpn_min_size_in == "input":
        found.append(
            Finding(
                "train.rpn-recall",
                "error" if lost > 0.5 else "warning",
                f"proposals with a side below rpn_min_size = {least:g} pixels are dropped, and {100 * lost:.0f} % "
                "of the "
                "boxes have one at this input",
                names=("rpn_min_size",),
                evidence={"rpn_min_size": least, "lost": round(lost, 3)},
                effect="these objects can never be proposed",
                fix="numerics={rpn_min_size = 0}",
            )
        )
    each = sum(one.truths for one in pulses) / images
    for name in ("rpn_post_nms_train", "rpn_post_nms", "rpn_pre_nms_train", "rpn_pre_nms"):
        most = getattr(numerics, name)
        if most is not None and 0 < most < max(3 * each, 10):
            found.append(
                Finding(
                    "train.rpn-recall",
                    "warning",
                    f"{name} is {most}: hardly more proposals than the {each:.1f} objects of an image; 1000 is usual",
                    names=(name,),
                    evidence={name: most, "instances": round(each, 2)},
                    effect="objects are lost before the heads see them",
                    fix=f"numerics={{{name} = 1000}}",
                )
            )
            break
    if numerics.rpn_nms_threshold < 0.3 or numerics.rpn_nms_threshold > 0.97:
        found.append(
            Finding(
                "train.rpn-recall",
                "warning",
                f"rpn_nms_threshold is {numerics.rpn_nms_threshold:g}; 0.7 is usual",
                names=("rpn_nms_threshold",),
                effect="neighbours suppress each other" if numerics.rpn_nms_threshold < 0.5 else "proposals repeat "
                "each other until there is no place for others",
                fix="numerics={rpn_nms_threshold = 0.7}",
            )
        )  # fmt: skip
    return found


def _cut_off(data: Dataset, spec: Spec) -> list[Finding]:
    """Images that have more objects than may be found."""
    most = spec.numerics.max_detections
    counts = [len(image.instances) for image in data.images if image.instances]
    over = sum(count > most for count in counts)
    if over <= _CROWDED * len(counts):
        return []
    return [
        Finding(
            "train.thresholds",
            "warning",
            f"max_detections is {most}, and {over} of {len(counts)} images have more objects, up to {max(counts)}; 100 "
            "is usual",
            names=("max_detections",),
            evidence={"max_detections": most, "images": over, "most": max(counts)},
            effect="what is found beyond that is cut off: AP stays low, whatever is learnt",
            fix=f"numerics={{max_detections = {max(100, 2 * max(counts))}}}",
        )
    ]


def _sizes(data: Dataset, spec: Spec, home: Spec, recipe: Recipe) -> list[Finding]:
    """Objects that the chosen size of the input leaves too small; `home` has the size that the model came with."""
    factor = sum(recipe.scale_jitter) / 2 if recipe.scale_jitter else 1.0
    sides = [side * factor for side in _short_sides(data, spec.numerics)]
    before = _short_sides(data, home.numerics)
    small = sum(side < _SMALL for side in sides)
    shrunk = small > _SHRUNK * len(sides) and sum(side < _SMALL for side in before) < small / 3
    if not sides or (small < 0.5 * len(sides) and not shrunk):
        return []
    middle = sorted(sides)[len(sides) // 2]
    wanted = round(spec.numerics.min_size * 2.5 * _SMALL / max(middle, 1e-3))
    wanted = min(wanted, home.numerics.min_size) if shrunk else wanted
    jitter = f" and a scale_jitter of {factor:g} on the mean" if factor < 1 else ""
    return [
        Finding(
            "train.input-small",
            "warning",
            f"{100 * small / len(sides):.0f} % of the objects have a side below {_SMALL:g} pixels at an input of "
            f"{spec.numerics.min_size} pixels ({'the recipe' if recipe.min_size else 'the model'} says so){jitter}; "
            f"half have less than {middle:.1f}",
            names=("min_size",),
            evidence={
                "small": small,
                "instances": len(sides),
                "median_side": round(middle, 2),
                "min_size": spec.numerics.min_size,
                "came_with": home.numerics.min_size,
            },
            effect="the finest map has a cell for 4 pixels: such objects are a cell or less",
            fix="scale_jitter=None" if factor < 0.5 else f"min_size={wanted}, or crops of the images",
        )
    ]


def _short_sides(data: Dataset, numerics: Numerics) -> list[float]:
    """The shorter side of each box, in pixels of the input."""
    sides = []
    for image in data.images:
        height, width = network_size((image.height, image.width), numerics)
        for one in image.instances:
            box = one.box
            side = min((box[2] - box[0]) * width / image.width, (box[3] - box[1]) * height / image.height)
            if math.isfinite(side):
                sides.append(side)
    return sides
