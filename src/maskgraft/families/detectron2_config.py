"""With which numbers Detectron2 runs a model, under a `config.yaml` or a LazyConfig.

Conventions: detectron2 0.6 `config/defaults.py`, `configs/common/models/mask_rcnn_fpn.py`, `modeling/`.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from maskgraft.errors import Finding
from maskgraft.families.configs import base_fault, changes_from, setting
from maskgraft.families.detectron2_language import Language, levels
from maskgraft.families.detectron2_lazy import LAZY
from maskgraft.families.detectron2_yacs import FROM_CONFIG, YACS
from maskgraft.families.family import (
    Config,
    class_count_fault,
    learned,
    limited,
    not_taken_up,
    refuse_other_pooling,
    refuse_what_cannot_be_obeyed,
    unsupported,
)
from maskgraft.families.python_configs import merged
from maskgraft.files import Tensors
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, Numerics

NUMERICS = Numerics(
    channel_order="bgr",
    pixel_scale=1.0,
    pixel_mean=(103.53, 116.28, 123.675),
    pixel_std=(1.0, 1.0, 1.0),
    resize="pil",
    normalise_first=False,
    size_rounding="round",
    norm_eps=1e-5,
    stride_in="1x1",
    anchor_order="size",
    anchor_rounding=False,
    anchor_stride="nominal",
    rpn_rank="logit",
    rpn_min_size=0.0,
    level_epsilon="inside",
    level_epsilon_value=1e-8,
    roi_aligned=True,
    roi_sampling=0,
    box_min_size=0.0,
    mask_paste="grid-sample",
    rpn_post_nms_train=1000,
    rpn_normaliser="samples",
    rpn_beta=0.0,
    box_beta=0.0,
    mask_targets="polygon",
)

# Backbones whose 3×3 convolutions are grouped were trained on scaled pixels (mask_rcnn_X_101_32x8d_FPN_3x.yaml).
_STD_OF_RESNEXT = (57.375, 57.12, 58.395)

_ONE_LEVEL: dict[str, Any] = {
    "anchor_sizes": ((32.0, 64.0, 128.0, 256.0, 512.0),),
    "rpn_pre_nms": 6000,
    "rpn_pre_nms_train": 12000,
    "rpn_post_nms_train": 2000,
    "pad_multiple": 1,
}


_READ = [f"numerics.{name}" for name in ("anchor_sizes", "loss_weights", *(name for name, _, _ in FROM_CONFIG))]


def numerics_of(
    tensors: Tensors, arch: Arch, config: Config | None, title: str
) -> tuple[Numerics, dict[str, Learned], list[Finding]]:
    """The numbers with which Detectron2 runs an architecture under a config, and how each was learned.

    Where a config builds this very model, what it leaves open is Detectron2's default; of a fragment of one, it is the
    setting of the model zoo. Raises `CheckpointError` for settings that maskgraft does not have; `title` says of which
    framework the file is.
    """
    numerics, how = _of_model_zoo(tensors, arch)
    if config is None:
        return numerics, how, []
    language = LAZY if "MODEL" not in config and "model" in config else YACS
    defaults = language.defaults(config, arch)
    if defaults:
        how |= learned("Detectron2's default, which the config leaves", "implied", _READ)
    _refuse(tensors, arch, merged(defaults, config), language, title)

    def of_levels(sizes: Any) -> tuple[tuple[float, ...], ...]:
        found = levels(sizes)
        return tuple(found * 5 if arch.neck == "fpn" and len(found) == 1 else found)

    def weights(_: Any) -> tuple[float, ...]:
        said = (setting(config, key) for key in language.weighing)
        return language.loss_weights([1.0 if one is None else one for one in said])

    settings = (
        *language.settings,
        ("anchor_sizes", language.anchor_sizes, of_levels),
        *(("loss_weights", key, weights) for key in language.weighing),
    )
    numerics = limited(replace(numerics, **changes_from(config, settings, how, defaults)), arch, least=0)
    return numerics, how, list(_disagreements(tensors, arch, config, language, numerics))


def _refuse(tensors: Tensors, arch: Arch, config: Config, language: Language, title: str) -> None:
    """Raises `CheckpointError` for a setting that the model cannot obey."""
    required = (*language.required, *language.required_of.get(arch.neck, ()))
    refuse_what_cannot_be_obeyed(tensors, config, required, title)
    for key, allowed in language.called:
        called = setting(config, f"{key}._target_")
        if called is not None and str(called).rpartition(".")[2] not in allowed:
            raise unsupported(tensors, title, f"{key} is {called}, not {' or '.join(allowed)}")
    for keys in language.pooling if arch.neck != "c4" else ():
        refuse_other_pooling(tensors, config, keys, title)
    ratios = setting(config, language.anchor_ratios)
    if ratios is not None and len(set(levels(ratios))) > 1:
        raise unsupported(tensors, title, "anchors whose ratios differ from level to level")


def _of_model_zoo(tensors: Tensors, arch: Arch) -> tuple[Numerics, dict[str, Learned]]:
    """The numbers of the model zoo's config for an architecture, with the pixels that the file itself says."""
    how = {
        **learned("Detectron2's maths", "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
        **learned("Detectron2's defaults; config.yaml would say", "assumed", _READ),
    }
    changes: dict[str, Any] = {}
    if arch.neck != "fpn":
        changes |= _ONE_LEVEL
    if arch.neck == "c4":
        changes["box_pool_size"] = 14
    if arch.groups > 1:
        changes |= {"stride_in": "3x3", "pixel_std": _STD_OF_RESNEXT}
        how |= learned("as in the model zoo's ResNeXt configs", "assumed", ["numerics.stride_in", "numerics.pixel_std"])
    elif arch.norm == "group":
        changes["stride_in"] = "3x3"
        how |= learned("as in the model zoo's GN configs", "assumed", ["numerics.stride_in"])
    for name in ("pixel_mean", "pixel_std"):  # model zoo files of 2019 carry both
        if name in tensors and math.prod(tensors[name].shape) == 3:
            changes[name] = tuple(round(float(x), 6) for x in tensors[name].read().ravel())
            how[f"numerics.{name}"] = Learned("read", f"{tensors.path.name}: {name}")
    return replace(NUMERICS, **changes), how


def _disagreements(
    tensors: Tensors, arch: Arch, config: Config, language: Language, numerics: Numerics
) -> Iterator[Finding]:
    yield from class_count_fault(tensors, arch.classes, setting(config, language.classes), language.classes)
    taken_up = ((key, getattr(numerics, name).replace("-", "_")) for name, key in language.box_losses)
    yield from not_taken_up(config, (*language.of_training, *taken_up))
    if language is LAZY and setting(config, "model._target_") is None:
        told = "the config changes a model that it does not build itself: what it does not say is assumed"
        yield Finding("numerics.assumed", "warning", told, fix="give the config.yaml that Detectron2 wrote")
    yield from base_fault(config, "give the config.yaml that Detectron2 wrote into the output folder of the training")
