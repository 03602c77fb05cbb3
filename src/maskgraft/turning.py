"""One convention of a model turned into what other home frameworks have."""

import typing
from collections.abc import Iterator
from typing import Any, Literal

from maskgraft.errors import UsageError
from maskgraft.graft import rebuilt
from maskgraft.model import MaskRCNN
from maskgraft.spec import Numerics

# Numbers that the frameworks have for conventions which no word or yes and no says.
_NUMBERS: dict[str, tuple[Any, ...]] = {
    "pixel_scale": (1.0, 1 / 255, 2 / 255, 1 / 127.5),
    "pixel_mean": (
        (0.0, 0.0, 0.0),
        (0.485, 0.456, 0.406),
        (123.675, 116.28, 103.53),
        (103.53, 116.28, 123.675),
        (102.9801, 115.9465, 122.7717),
        (103.939, 116.779, 123.68),
        (123.7, 116.8, 103.9),
        (123.68, 116.779, 103.939),
        (123.152, 115.903, 103.063),
        (1.0, 1.0, 1.0),
    ),
    "pixel_std": ((1.0, 1.0, 1.0), (0.229, 0.224, 0.225), (58.395, 57.12, 57.375), (57.375, 57.12, 58.395)),
    "pad_multiple": (1, 32, 64, 128),
    "norm_eps": (0.0, 1e-5, 1.001e-5, 1e-4, 1e-3),
    "c4_stride": (8, 16),
    "anchor_ratios": ((0.5, 1.0, 2.0), (2.0, 1.0, 0.5)),
    "anchor_offset": (0.0, 0.5),
    "rpn_dilation": (1, 2),
    "rpn_pre_nms": (300, 1000, 2000, 6000, None),
    "rpn_post_nms": (100, 300, 1000, 2000),
    "rpn_nms_threshold": (0.5, 0.7),
    "rpn_min_size": (None, 0.0, 1e-3, 1.0, 16.0),
    "rpn_delta_weights": ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)),
    "delta_clip": (4.135166556742356, None),
    "level_epsilon_value": (1e-8, 1e-6, 0.0),
    "box_pool_size": (7, 14),
    "mask_pool_size": (7, 14),
    "res5_stride": (1, 2),
    "roi_sampling": (0, 1, 2),
}


def others(model: MaskRCNN, name: str) -> Iterator[tuple[Any, MaskRCNN]]:
    """Each other value that a convention of `model` may have, and the same weights under it.

    for value, turned in others(model, "stride_in"): …     # "3x3", and a model that strides there
    """
    kind = typing.get_type_hints(Numerics)[name]
    words = typing.get_args(kind) if typing.get_origin(kind) is Literal else _NUMBERS.get(name, ())
    now = getattr(model.spec.numerics, name)
    for value in (not now,) if kind is bool else words:
        if value != now:
            try:
                yield value, rebuilt(model, model.spec.with_numerics({name: value}))
            except (RuntimeError, UsageError):  # no such model can be built
                continue
