"""What no shape shows: settings that had to be assumed, with what a wrong guess costs, and where two specs differ."""

from collections.abc import Iterator
from typing import Any

from maskgraft.errors import Finding
from maskgraft.spec import Spec, differences

# Field of Numerics → what a wrong value does. Measured figures are of COCO box AP, with who measured them.
COSTS: dict[str, str] = {
    "channel_order": "red and blue exchanged: 43.6 → 38.9 AP (MMDetection 9111)",
    "pixel_scale": "inputs of another size: nothing is detected",
    "pixel_mean": "a colour cast: below 1 AP for neighbouring means, all of it where the scale is another",
    "pixel_std": "contrast wrong by the ratio: nothing is detected at 1 for 57",
    "norm_eps": "small: class logits move by 1.5 at 1e-5 for 0, by 12 at 1e-3",
    "stride_in": "features shifted in every stage: 40.2 → 34.4 AP (a Detectron2 R50 run with the other)",
    "min_size": "objects of other sizes than in training: 1 to 5 AP, small objects first",
    "max_size": "wide photographs come smaller or larger than in training",
    "fixed_size": "photographs of another shape than in training",
    "anchor_sizes": "boxes decoded from other anchors: all of them wrong",
    "anchor_ratios": "boxes decoded from other anchors: two of three wrong",
    "rpn_pre_nms": "fewer proposals: below 1 AP",
    "rpn_post_nms": "fewer proposals: below 1 AP",
    "rpn_nms_threshold": "fewer or more proposals: below 1 AP",
    "rpn_delta_weights": "proposals of another size: all boxes wrong",
    "box_delta_weights": "boxes of another size: all boxes wrong",
    "roi_aligned": "regions half a pixel aside: about 1 AP",
    "roi_sampling": "smoother or rougher regions: about 0.2 AP",
    "box_pool_size": "the first fully connected layer would not fit",
    "score_threshold": "other detections shown; AP below 0.5",
    "nms_threshold": "doubles shown, or neighbours lost: about 1 AP",
    "max_detections": "crowded photographs lose detections",
    "pad_multiple": "borders of the features change: below 0.2 AP",
}
_CODES = {
    "channel_order": "numerics.channel-order",
    "pixel_scale": "numerics.pixel-scale",
    "pixel_mean": "numerics.pixel-scale",
    "pixel_std": "numerics.pixel-scale",
    "norm_eps": "numerics.norm-eps",
    "stride_in": "numerics.stride",
    "stride_at": "numerics.stride",
    "c4_stride": "numerics.stride",
    "box_delta_weights": "numerics.box-order",
    "rpn_delta_weights": "numerics.box-order",
    "inclusive_boxes": "numerics.box-order",
    "roi_aligned": "numerics.pooling",
    "roi_sampling": "numerics.pooling",
    "roi_method": "numerics.pooling",
    "box_pool_size": "numerics.pooling",
    "level_rounding": "numerics.pooling",
}


def assumptions(spec: Spec) -> list[Finding]:
    """The settings that no file states, and what each wrong guess would cost."""
    assumed = [name for name, one in spec.learned.items() if one.how == "assumed"]
    if not assumed:
        return []
    evidence = {
        name: {
            "value": value_of(spec, name),
            "why": spec.learned[name].source,
            "cost": "labels under the wrong names" if name == "classes" else COSTS.get(name.partition(".")[2], ""),
        }
        for name in assumed
    }
    return [
        Finding(
            "numerics.assumed",
            "info",
            f"{len(assumed)} settings are in no file and are assumed",
            names=tuple(assumed),
            evidence=evidence,
            effect="results differ from the home framework's where an assumption is wrong",
            fix="give the training's config file with --config, or set them with --set NAME=VALUE",
        )
    ]


def anchor_faults(spec: Spec) -> list[Finding]:
    """Anchors of a number that the file's proposal head does not have: every box would be decoded from another one."""
    fault = spec.anchors_fault
    if not fault:
        return []
    names = ("numerics.anchor_sizes", "numerics.anchor_ratios")
    sources = {name: spec.learned[name].source for name in names if name in spec.learned}
    return [
        Finding(
            "numerics.assumed",
            "error",
            f"in the file {fault}",
            names=names,
            evidence={name: {"value": value_of(spec, name), "why": source} for name, source in sources.items()},
            effect=COSTS["anchor_sizes"],
            fix="give the training's config file with --config, or numerics={'anchor_sizes': …, 'anchor_ratios': …}",
        )
    ]


def value_of(spec: Spec, name: str) -> Any:
    """The value of "numerics.norm_eps" or "classes", tuples as lists."""
    part, _, field = name.partition(".")
    value = getattr(getattr(spec, part), field) if field else getattr(spec, part)
    return list(value) if isinstance(value, tuple) else value


def convention_faults(file: Spec, target: Spec, *, where: str) -> Iterator[Finding]:
    """Conventions of the file that the target computes otherwise, one finding a cause; shapes show none of them."""
    by_code: dict[str, dict[str, tuple[Any, Any]]] = {}
    for name, pair in differences(file, target).items():
        field = name.removeprefix("numerics.")
        if name.startswith("numerics.") and field in _CODES:
            by_code.setdefault(_CODES[field], {})[field] = pair
    for code, fields in by_code.items():
        field, (have, want) = next(iter(fields.items()))
        yield Finding(
            code,
            "warning",
            f"{field} is {_short(have)} where the file comes from, and {_short(want)} in {where}",
            names=tuple(f"numerics.{one}" for one in fields),
            evidence={one: {"file": _plain(pair[0]), "target": _plain(pair[1])} for one, pair in fields.items()},
            effect=COSTS.get(field, "the same weights give other numbers"),
            fix="load it with mg.load, whose model obeys the file's own conventions, or change the target's",
        )
    if file.classes != target.classes and set(file.classes) & set(target.classes) and len(file.classes) > 1:
        moved = [name for name in file.classes if name in target.classes]
        if [name for name in target.classes if name in moved] != moved or len(file.classes) == len(target.classes):
            first = next((a, b) for a, b in zip((*file.classes, ""), (*target.classes, ""), strict=False) if a != b)
            yield Finding(
                "numerics.class-order",
                "warning",
                f"row by row the classes differ: the first is {first[0]!r} in the file and {first[1]!r} in {where}",
                names=("classes",),
                evidence={"file": list(file.classes), "target": list(target.classes)},
                effect="objects are found and named wrongly",
                fix="mg.load(path, classes=[…]) moves rows by name",
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    text = (
        " ".join(f"{one:.6g}" if isinstance(one, float) else str(one) for one in value)
        if isinstance(value, tuple)
        else str(value)
    )
    return text if len(text) < 60 else f"{text[:57]}…"
