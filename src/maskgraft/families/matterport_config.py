"""Matterport's `Config`: a class in somebody's Python file, whose settings are read and not run.

Conventions: matterport/Mask_RCNN 2.1 `mrcnn/config.py`, and what `mrcnn/utils.py` does with `IMAGE_RESIZE_MODE`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from maskgraft.errors import CheckpointError, Finding
from maskgraft.families.configs import changes_from, read_text
from maskgraft.families.python_configs import Unread, parse_classes
from maskgraft.spec import Learned

_ANY_SIZE = 1 << 20  # pixels: a long side that nothing limits

# What `IMAGE_RESIZE_MODE` changes. A photograph that is not resized has sides of multiples of 32, or it stops at home.
_RESIZE_MODES: Mapping[Any, Mapping[str, Any]] = {
    "pad64": {"pad_square": False, "max_size": _ANY_SIZE},
    "none": {"pad_square": False, "pad_multiple": 32, "min_size": 0, "enlarge_only": False, "least_scale": 0.0},
}


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(float(one) for one in value)


def _weights(deviations: Any) -> tuple[float, ...]:
    y, x, height, width = (round(1 / float(one), 9) for one in deviations)
    return x, y, width, height


def _loss_weights(named: Mapping[str, float]) -> tuple[float, ...]:
    losses = ("rpn_class_loss", "rpn_bbox_loss", "mrcnn_class_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss")
    return tuple(float(named.get(loss, 1)) for loss in losses)


# Field of Numerics ← (attribute of the class, how its value reads)
FROM_CONFIG: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("min_size", "IMAGE_MIN_DIM", int),
    ("max_size", "IMAGE_MAX_DIM", int),
    ("least_scale", "IMAGE_MIN_SCALE", float),
    ("pixel_mean", "MEAN_PIXEL", _numbers),
    ("anchor_sizes", "RPN_ANCHOR_SCALES", lambda scales: tuple((size,) for size in _numbers(scales))),
    ("anchor_ratios", "RPN_ANCHOR_RATIOS", lambda ratios: tuple(1 / ratio for ratio in _numbers(ratios))),
    ("rpn_pre_nms", "PRE_NMS_LIMIT", int),
    ("rpn_pre_nms_train", "PRE_NMS_LIMIT", int),
    ("rpn_post_nms", "POST_NMS_ROIS_INFERENCE", int),
    ("rpn_post_nms_train", "POST_NMS_ROIS_TRAINING", int),
    ("rpn_nms_threshold", "RPN_NMS_THRESHOLD", float),
    ("rpn_delta_weights", "RPN_BBOX_STD_DEV", _weights),
    ("rpn_samples", "RPN_TRAIN_ANCHORS_PER_IMAGE", int),
    ("mask_pool_size", "MASK_POOL_SIZE", int),
    ("box_delta_weights", "BBOX_STD_DEV", _weights),
    ("score_threshold", "DETECTION_MIN_CONFIDENCE", float),
    ("nms_threshold", "DETECTION_NMS_THRESHOLD", float),
    ("max_detections", "DETECTION_MAX_INSTANCES", int),
    ("roi_samples", "TRAIN_ROIS_PER_IMAGE", int),
    ("roi_positive_fraction", "ROI_POSITIVE_RATIO", float),
    ("mask_targets", "USE_MINI_MASK", lambda mini: "mini-crop" if mini else "crop"),
    ("loss_weights", "LOSS_WEIGHTS", _loss_weights),
)

_NONE_IS_ZERO = ("IMAGE_MIN_DIM", "IMAGE_MIN_SCALE", "DETECTION_MIN_CONFIDENCE")

# Attributes whose other values change what is computed in ways that the model does not have.
_REQUIRED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("IMAGE_RESIZE_MODE", ("square", "pad64", "none")),
    ("IMAGE_PADDING", (True,)),  # of the time before there were modes
    ("IMAGE_CHANNEL_COUNT", (3,)),
    ("RPN_ANCHOR_STRIDE", (1,)),
    ("BACKBONE_STRIDES", ((4, 8, 16, 32, 64),)),
    ("TRAIN_BN", (False,)),  # norms would take each image's own statistics, in detecting too
)

# Attributes of trainings alone, and what they are where nobody has changed them.
TRAINING: tuple[tuple[str, Any], ...] = (("MINI_MASK_SHAPE", (56, 56)), ("USE_RPN_ROIS", True))


def read_class(path: Path) -> Mapping[str, Any]:
    """The settings of the one class in a file that no other is made of, with those of its bases in the same file.

        read_class(Path("balloon.py"))      # {"NUM_CLASSES": 2, "DETECTION_MIN_CONFIDENCE": 0.9, …}

    Raises `CheckpointError` for a file with none, or with several.
    """
    classes = parse_classes(read_text(path))
    bases = {base for names, _ in classes.values() for base in names}
    found = {name: _inherited(name, classes, ()) for name in classes if name not in bases}
    found = {name: settings for name, settings in found.items() if settings}
    if len(found) != 1:
        fault = f"has {len(found)}: {', '.join(found)}" if found else "has none"
        message = f"{path} should have one class of settings (class Mine(Config)), and {fault}"
        raise CheckpointError(
            Finding("config.path", "error", message, fix="give a file with that of the training alone")
        )
    return next(iter(found.values()))


def _inherited(
    name: str, classes: Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]], below: tuple[str, ...]
) -> dict[str, Any]:
    """What stands in capitals in a class and in those that it is made of."""
    if name not in classes or name in below:
        return {}
    bases, own = classes[name]
    result: dict[str, Any] = {}
    for base in reversed(bases):
        result |= _inherited(base, classes, (*below, name))
    return result | {key: value for key, value in own.items() if key.isupper()}


def refusal(config: Mapping[str, Any]) -> str:
    """What in a config changes the computation in ways that maskgraft does not have, or ""."""
    for key, allowed in _REQUIRED:
        value = config.get(key)
        value = tuple(value) if isinstance(value, list) else value
        if value is not None and value not in allowed:
            return f"{key} is {value!r}, not {' or '.join(map(str, allowed))}"
    return ""


def read(config: Mapping[str, Any], how: dict[str, Learned]) -> dict[str, Any]:
    """The fields of `Numerics` that a config sets. Raises `CheckpointError` naming every attribute that is none."""
    config = {key: 0 if value is None and key in _NONE_IS_ZERO else value for key, value in config.items()}
    unread = {key: value for key, value in config.items() if isinstance(value, Unread)}
    changes = changes_from({key: value for key, value in config.items() if key not in unread}, FROM_CONFIG, how)
    known = {key for _, key, _ in FROM_CONFIG} | {key for key, _ in _REQUIRED}
    faults = [
        Finding("config.mismatch", "error", f"config: {key} is {value!r}", names=(key,), fix="write the value itself")
        for key, value in unread.items()
        if key in known
    ]
    if faults:
        raise CheckpointError(faults)
    by_mode = _RESIZE_MODES.get(config.get("IMAGE_RESIZE_MODE"), {})
    how |= {f"numerics.{name}": Learned("read", "config: IMAGE_RESIZE_MODE") for name in by_mode}
    return {**changes, **by_mode}
