"""torchvision: `maskrcnn_resnet50_fpn` and its kin (v1, v2), in the names of 2019 and of 2022.

Conventions: torchvision 0.29 `models/detection/` (transform.py, anchor_utils.py, rpn.py, roi_heads.py, mask_rcnn.py).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from maskgraft import mobilenet_v3
from maskgraft.families import torchvision_modules
from maskgraft.families.class_names import COCO_90, numbered
from maskgraft.families.family import (
    Config,
    Family,
    Reading,
    conv_links,
    count,
    learned,
    norm_kind,
    norm_links,
    shape,
    unsupported,
)
from maskgraft.files import Tensors
from maskgraft.links import Link, background_last
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, Numerics, Spec

ERAS = ("2022", "2019")  # since 0.13 the pyramid, the RPN and the mask head are blocks: one more ".0" in the names

NUMERICS = Numerics(
    channel_order="rgb",
    pixel_scale=1 / 255,
    pixel_mean=(0.485, 0.456, 0.406),
    pixel_std=(0.229, 0.224, 0.225),
    resize="torch",
    normalise_first=True,
    size_rounding="floor",
    norm_eps=1e-5,
    stride_in="3x3",
    anchor_order="ratio",
    anchor_rounding=True,
    anchor_stride="grid",
    rpn_rank="probability",
    rpn_min_size=1e-3,
    level_epsilon="outside",
    roi_aligned=False,
    roi_sampling=2,
    box_min_size=1e-2,
    mask_paste="integer-box",
    rpn_normaliser="sampled",
    rpn_beta=1 / 9,
    box_beta=1 / 9,
    mask_targets="soft-bitmap",
)

_KEYPOINTS = "roi_heads.keypoint_predictor.kps_score_lowres.weight"
MOBILE_LANDMARK = "backbone.body.1.block.0.0.weight"

# The first eight digits of the SHA-256 of maskrcnn_resnet50_fpn_coco, which torch.hub puts into the file's name.
_PUBLISHED_V1 = "bf2d0c1e"


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a torchvision file; torchvision has no config file, so `config` is not looked at.

    A model that was pickled whole says its conventions itself (`torchvision_modules`).
    """
    names = tensors.arrays
    mobile = MOBILE_LANDMARK in names
    if not mobile and not any(name.startswith("backbone.body.layer1.") for name in names):
        second = any(name.endswith("1.conv.0.0.weight") for name in names)
        other = "MobileNetV2" if second else "a backbone that is neither a ResNet with a pyramid nor MobileNetV3-Large"
        raise unsupported(tensors, "torchvision", other)
    if "roi_heads.mask_predictor.mask_fcn_logits.weight" not in names:
        other = "Keypoint R-CNN" if _KEYPOINTS in names else "Faster R-CNN"
        raise unsupported(tensors, "torchvision", f"no mask head ({other})")
    if _KEYPOINTS in names:
        raise unsupported(tensors, "torchvision", "keypoints beside masks")
    if any(name.startswith("backbone.fpn.extra_blocks.") for name in names):
        raise unsupported(tensors, "torchvision", "a pyramid with extra blocks (LastLevelP6P7)")
    era = "2022" if "rpn.head.conv.0.0.weight" in names else "2019"
    arch = _arch(tensors, era)
    classes, said_of_classes = numbered(arch.classes), "the file has no class names"
    if arch.classes == len(COCO_90):
        classes, said_of_classes = COCO_90, "91 rows: COCO category ids"
    eps, how = _eps(tensors, arch, era)
    said, read_how, findings = torchvision_modules.numerics_of(tensors)
    changes = {"norm_eps": eps} | ({"anchor_sizes": _mobile_anchors(arch)} if mobile else {}) | said
    spec = Spec(
        family="torchvision",
        arch=arch,
        numerics=replace(NUMERICS, **changes),
        classes=classes,
        learned={
            **learned("tensor names and shapes", "implied", [f"arch.{name}" for name in Arch.__dataclass_fields__]),
            **learned("torchvision's defaults", "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
            **learned(
                "torchvision's defaults; a constructor may say otherwise",
                "assumed",
                ["numerics.min_size", "numerics.max_size", "numerics.score_threshold", "numerics.anchor_sizes"],
            ),
            "numerics.norm_eps": how,
            "classes": Learned("assumed", said_of_classes),
            **read_how,
        },
    )
    return Reading(spec, era, findings)


def _arch(tensors: Tensors, era: str) -> Arch:
    names = tensors.arrays
    box_convs = count(names, "roi_heads.box_head.{}.0.weight")
    mask = "roi_heads.mask_head.{}.0.weight" if era == "2022" else "roi_heads.mask_head.mask_fcn{}.weight"
    class_rows = shape(tensors, "roi_heads.box_predictor.cls_score.weight")[0]
    first_fc = f"roi_heads.box_head.{box_convs + 1}" if box_convs else "roi_heads.box_head.fc6"
    return Arch(
        classes=class_rows - 1,
        **(_mobile_trunk(tensors, era) if MOBILE_LANDMARK in names else _resnet_trunk(tensors, era)),
        neck_channels=shape(tensors, _lateral(era, 0) + ".weight")[0],
        neck_norm=norm_kind(names, "backbone.fpn.inner_blocks.0.1"),
        rpn_convs=count(names, "rpn.head.conv.{}.0.weight") if era == "2022" else 1,
        rpn_channels=shape(tensors, "rpn.head.cls_logits.weight")[1],
        anchors_per_cell=shape(tensors, "rpn.head.cls_logits.weight")[0],
        box_convs=box_convs,
        box_conv_channels=shape(tensors, "roi_heads.box_head.0.0.weight")[0] if box_convs else 256,
        box_fcs=1 if box_convs else 2,
        box_fc_width=shape(tensors, f"{first_fc}.weight")[0],
        box_norm=norm_kind(names, "roi_heads.box_head.0.1") if box_convs else "none",
        box_rows="with-background",
        mask_convs=count(names, mask, start=0 if era == "2022" else 1),
        mask_channels=shape(tensors, "roi_heads.mask_predictor.mask_fcn_logits.weight")[1],
        mask_norm=norm_kind(names, "roi_heads.mask_head.0.1"),
        mask_rows="with-background",
    )


def _resnet_trunk(tensors: Tensors, era: str) -> dict[str, Any]:
    """What `resnet_fpn_backbone` made: of its `returned_layers` the last is the last that it keeps."""
    names = tensors.arrays
    body = "backbone.body.layer{}.{{}}.conv1.weight"
    shape(tensors, "backbone.body.layer1.0.conv1.weight")
    bottleneck = "backbone.body.layer1.0.conv3.weight" in names
    inner, per_group = shape(tensors, "backbone.body.layer1.0.conv2.weight")[:2]
    blocks = tuple(blocks for layer in (1, 2, 3, 4) if (blocks := count(names, body.format(layer))))
    widths = {level: (256 if bottleneck else 64) * 2 ** (level - 2) for level in range(2, 2 + len(blocks))}
    taken = _widths_taken(tensors, era)
    levels = tuple(level for level, width in widths.items() if width in taken)
    if not levels or [widths[level] for level in levels] != taken or levels[-1] - levels[0] >= len(levels):
        raise unsupported(tensors, "torchvision", f"a pyramid of maps of {', '.join(map(str, taken))} channels")
    return {
        "block": "bottleneck" if bottleneck else "basic",
        "blocks": blocks,
        "levels": levels,
        "stem_width": shape(tensors, "backbone.body.conv1.weight")[0],
        "groups": inner // per_group if bottleneck else 1,
        "width_per_group": per_group,
        "norm": norm_kind(names, "backbone.body.bn1"),
    }


def _mobile_trunk(tensors: Tensors, era: str) -> dict[str, Any]:
    """What `mobilenet_backbone` made: the widths that the pyramid takes say which of the maps it does."""
    taken = _widths_taken(tensors, era)
    levels = tuple(int(name[1]) for name, width in mobilenet_v3.WIDTHS.items() if width in taken)
    if "backbone.body.16.0.weight" not in tensors:
        raise unsupported(tensors, "torchvision", "MobileNetV3-Small, or Large without its last convolution")
    whole = shape(tensors, "backbone.body.16.0.weight")[:2] == (mobilenet_v3.LAST_WIDTH, 160)
    if not whole or [mobilenet_v3.WIDTHS[f"c{level}"] for level in levels] != taken:
        raise unsupported(tensors, "torchvision", f"a MobileNetV3 of other widths ({', '.join(map(str, taken))})")
    return {"backbone": "mobilenet_v3_large", "levels": levels, "norm": norm_kind(tensors.arrays, "backbone.body.0.1")}


def _widths_taken(tensors: Tensors, era: str) -> list[int]:
    """Of the maps that the pyramid takes."""
    maps = count(tensors.arrays, "backbone.fpn.inner_blocks.{}" + (".0" if era == "2022" else "") + ".weight")
    return [shape(tensors, _lateral(era, index) + ".weight")[1] for index in range(maps)]


def _mobile_anchors(arch: Arch) -> tuple[tuple[float, ...], ...]:
    """Five sizes on each map, as torchvision's own detectors on MobileNetV3 have; or else one on each."""
    sizes, maps = (32.0, 64.0, 128.0, 256.0, 512.0), len(arch.levels) + 1
    if arch.anchors_per_cell == 3 * len(sizes):
        return (sizes,) * maps
    return tuple((size,) for size in sizes[:maps])


def _eps(tensors: Tensors, arch: Arch, era: str) -> tuple[float, Learned]:
    """The eps of the frozen norms: 0 in the published v1 COCO weights (`overwrite_eps`), 1e-5 everywhere else."""
    if arch.norm != "frozen":
        return 1e-5, Learned("implied", "plain BatchNorm2d has 1e-5 in torchvision")
    if _PUBLISHED_V1 in tensors.path.name:
        return 0.0, Learned("implied", f"{tensors.path.name} is torchvision's COCO_V1 file, trained with eps 0")
    if era == "2019" and arch.classes == 90:
        return 0.0, Learned("assumed", "91 rows under the names of 2019: the published COCO_V1 weights, eps 0")
    return 1e-5, Learned("assumed", "eps is in no file; 1e-5 unless training started from COCO_V1 weights (then 0)")


def _lateral(era: str, index: int) -> str:
    return f"backbone.fpn.inner_blocks.{index}" + (".0" if era == "2022" else "")


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor, in the names of `era`."""
    arch = spec.arch
    yield from _body(arch)
    dot = ".0" if era == "2022" else ""
    for index, level in enumerate(arch.levels):
        for ours, theirs in ((f"fpn.lateral{level}", "inner_blocks"), (f"fpn.output{level}", "layer_blocks")):
            block = f"backbone.fpn.{theirs}.{index}"
            yield from conv_links(f"{ours}.conv", f"{block}{dot}", bias=arch.neck_norm == "none")
            yield from norm_links(f"{ours}.norm", f"{block}.1", arch.neck_norm)
    for index in range(arch.rpn_convs):
        theirs = f"rpn.head.conv.{index}.0" if era == "2022" else "rpn.head.conv"
        yield from conv_links(f"rpn.convs.{index}", theirs, bias=True)
    yield from conv_links("rpn.objectness", "rpn.head.cls_logits", bias=True)
    yield from conv_links("rpn.deltas", "rpn.head.bbox_pred", bias=True)
    for index in range(arch.box_convs):
        theirs = f"roi_heads.box_head.{index}"
        yield from conv_links(f"box_head.convs.{index}.conv", f"{theirs}.0", bias=arch.box_norm == "none")
        yield from norm_links(f"box_head.convs.{index}.norm", f"{theirs}.1", arch.box_norm)
    for index in range(arch.box_fcs):
        # after convolutions the first fully connected layer follows a flatten, which has an index too
        theirs = f"roi_heads.box_head.{arch.box_convs + 1 + 2 * index if arch.box_convs else f'fc{6 + index}'}"
        yield from conv_links(f"box_head.fcs.{index}", theirs, bias=True)
    first, quads = background_last(arch.classes + 1), background_last(4 * (arch.classes + 1), 4)
    for vector in ("weight", "bias"):
        yield Link(f"box_predictor.cls.{vector}", f"roi_heads.box_predictor.cls_score.{vector}", (first,))
        yield Link(f"box_predictor.deltas.{vector}", f"roi_heads.box_predictor.bbox_pred.{vector}", (quads,))
    for index in range(arch.mask_convs):
        theirs = f"roi_heads.mask_head.{index}" if era == "2022" else f"roi_heads.mask_head.mask_fcn{index + 1}"
        yield from conv_links(f"mask_head.convs.{index}.conv", f"{theirs}{dot}", bias=arch.mask_norm == "none")
        yield from norm_links(f"mask_head.convs.{index}.norm", f"{theirs}.1", arch.mask_norm)
    yield from conv_links("mask_head.upsample", "roi_heads.mask_predictor.conv5_mask", bias=True)
    for vector in ("weight", "bias"):
        theirs = f"roi_heads.mask_predictor.mask_fcn_logits.{vector}"
        yield Link(f"mask_predictor.logits.{vector}", theirs, (first,))


def _body(arch: Arch) -> Iterator[Link]:
    yield from _mobile_body(arch) if arch.backbone == "mobilenet_v3_large" else _resnet_body(arch)


def _mobile_body(arch: Arch) -> Iterator[Link]:
    def conv(ours: str, theirs: str) -> Iterator[Link]:
        yield from conv_links(f"{ours}.conv", f"{theirs}.0", bias=False)
        yield from norm_links(f"{ours}.norm", f"{theirs}.1", arch.norm)

    yield from conv("backbone.stem", "backbone.body.0")
    before = mobilenet_v3.STEM_WIDTH
    for index, row in enumerate(mobilenet_v3.ROWS):
        ours, theirs = f"backbone.blocks.{index}", f"backbone.body.{index + 1}.block"
        parts = ["expand"] * (row.inner != before) + ["depthwise"] + ["squeeze"] * row.squeezes + ["project"]
        for number, part in enumerate(parts):
            if part == "squeeze":
                for layer in ("fc1", "fc2"):
                    yield from conv_links(f"{ours}.squeeze.{layer}", f"{theirs}.{number}.{layer}", bias=True)
            else:
                yield from conv(f"{ours}.{part}", f"{theirs}.{number}")
        before = row.outer
    yield from conv("backbone.last", f"backbone.body.{len(mobilenet_v3.ROWS) + 1}")


def _resnet_body(arch: Arch) -> Iterator[Link]:
    yield from conv_links("backbone.stem.conv", "backbone.body.conv1", bias=False)
    yield from norm_links("backbone.stem.norm", "backbone.body.bn1", arch.norm)
    for layer, blocks in enumerate(arch.blocks, 1):
        for index in range(blocks):
            ours, theirs = f"backbone.res{layer + 1}.{index}", f"backbone.body.layer{layer}.{index}"
            for number in (1, 2, 3) if arch.block == "bottleneck" else (1, 2):
                yield from conv_links(f"{ours}.conv{number}.conv", f"{theirs}.conv{number}", bias=False)
                yield from norm_links(f"{ours}.conv{number}.norm", f"{theirs}.bn{number}", arch.norm)
            if index == 0 and (layer > 1 or arch.block == "bottleneck"):
                yield from conv_links(f"{ours}.shortcut.conv", f"{theirs}.downsample.0", bias=False)
                yield from norm_links(f"{ours}.shortcut.norm", f"{theirs}.downsample.1", arch.norm)


def ignored(name: str) -> str:
    """Nothing in a torchvision file is superfluous."""
    return ""


_HEADS = (
    "rpn.head.cls_logits.weight",
    "roi_heads.box_predictor.cls_score.weight",
    "roi_heads.mask_predictor.conv5_mask.weight",
)
FAMILY = Family(
    name="torchvision",
    title="torchvision",
    landmarks=(
        "backbone.body.conv1.weight",
        "backbone.body.layer1.0.conv1.weight",
        *_HEADS,
    ),
    older_landmarks=((MOBILE_LANDMARK, "backbone.body.16.0.weight", *_HEADS),),
    read=read,
    links=links,
    ignored=ignored,
    eras=ERAS,
    read_config=None,
)
