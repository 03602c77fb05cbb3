"""PaddleDetection 2: `.pdparams` of Mask R-CNN with ResNet, ResNet-vd and ResNeXt-vd, with pyramid and C4.

Conventions: PaddleDetection release/2.6 `configs/mask_rcnn/`, `ppdet/modeling/`, `ppdet/data/transform/operators.py`;
Paddle 2 `generate_proposals` (its least side is 1 pixel), `distribute_fpn_proposals`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from maskgraft.errors import Finding
from maskgraft.families.class_names import COCO_80, numbered
from maskgraft.families.configs import base_fault, changes_from, setting
from maskgraft.families.family import (
    Config,
    Family,
    Reading,
    class_count_fault,
    conv_links,
    count,
    learned,
    norm_links,
    not_taken_up,
    refuse_what_cannot_be_obeyed,
    shape,
    unsupported,
)
from maskgraft.files import Tensors
from maskgraft.links import Link, Transpose
from maskgraft.spec import NUMERICS_FIELDS, Arch, Learned, NormKind, Numerics, Spec

NUMERICS = Numerics(
    channel_order="rgb",
    pixel_scale=1 / 255,
    pixel_mean=(0.485, 0.456, 0.406),
    pixel_std=(0.229, 0.224, 0.225),
    resize="opencv-cubic",
    normalise_first=False,
    size_rounding="even",
    box_scale="factor",
    clip_unrounded=True,
    norm_eps=1e-5,
    stride_in="3x3",
    anchor_order="size",
    anchor_rounding=False,
    anchor_stride="nominal",
    rpn_rank="logit",
    rpn_min_size=1.0,
    level_epsilon="inside",
    level_epsilon_value=1e-8,
    roi_aligned=True,
    roi_sampling=0,
    nms_apart=True,
    box_min_size=0.0,
    mask_paste="grid-sample",
    rpn_post_nms_train=1000,
    rpn_rescue="overlapping",
    rpn_normaliser="samples",
    rpn_beta=0.0,
    box_beta=0.0,
    mask_targets="polygon",
)

C4: dict[str, Any] = {
    "anchor_sizes": ((32.0, 64.0, 128.0, 256.0, 512.0),),
    "rpn_pre_nms": 6000,
    "rpn_pre_nms_train": 12000,
    "rpn_post_nms_train": 2000,
    "pad_multiple": 1,
    "box_pool_size": 14,
}

_TEST = "TestReader.sample_transforms"
_INTERPOLATIONS = {1: "opencv-factor", 2: "opencv-cubic"}  # OpenCV's numbers of them


def _sizes(value: Any) -> tuple[tuple[float, ...], ...]:
    """One list for all levels, or one for each."""
    levels = value if isinstance(value[0], list | tuple) else [value]
    return tuple(tuple(float(size) for size in level) for level in levels)


def _ratios(value: Any) -> tuple[float, ...]:
    first = value[0] if isinstance(value[0], list | tuple) else value
    return tuple(float(ratio) for ratio in first)


# Field of Numerics ← (key of the config, how its value reads)
_FROM_CONFIG: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("stride_in", "ResNet.variant", lambda variant: "1x1" if variant == "a" else "3x3"),
    ("anchor_sizes", "RPNHead.anchor_generator.anchor_sizes", _sizes),
    ("anchor_ratios", "RPNHead.anchor_generator.aspect_ratios", _ratios),
    ("anchor_offset", "RPNHead.anchor_generator.offset", float),
    ("rpn_pre_nms", "RPNHead.test_proposal.pre_nms_top_n", int),
    ("rpn_post_nms", "RPNHead.test_proposal.post_nms_top_n", int),
    ("rpn_nms_threshold", "RPNHead.test_proposal.nms_thresh", float),
    ("rpn_min_size", "RPNHead.test_proposal.min_size", lambda least: max(1.0, float(least))),
    ("rpn_pre_nms_train", "RPNHead.train_proposal.pre_nms_top_n", int),
    ("rpn_post_nms_train", "RPNHead.train_proposal.post_nms_top_n", int),
    ("rpn_samples", "RPNHead.rpn_target_assign.batch_size_per_im", int),
    ("rpn_positive_fraction", "RPNHead.rpn_target_assign.fg_fraction", float),
    ("rpn_positive_iou", "RPNHead.rpn_target_assign.positive_overlap", float),
    ("rpn_negative_iou", "RPNHead.rpn_target_assign.negative_overlap", float),
    ("roi_aligned", "BBoxHead.roi_extractor.aligned", bool),
    ("roi_sampling", "BBoxHead.roi_extractor.sampling_ratio", int),
    ("box_pool_size", "BBoxHead.roi_extractor.resolution", int),
    ("mask_pool_size", "MaskHead.roi_extractor.resolution", int),
    ("box_delta_weights", "RCNNBox.prior_box_var", lambda weights: tuple(map(float, weights))),
    ("roi_samples", "BBoxAssigner.batch_size_per_im", int),
    ("roi_positive_iou", "BBoxAssigner.fg_thresh", float),
    ("roi_positive_fraction", "BBoxAssigner.fg_fraction", float),
    ("score_threshold", "BBoxPostProcess.nms.score_threshold", float),
    ("nms_threshold", "BBoxPostProcess.nms.nms_threshold", float),
    ("max_detections", "BBoxPostProcess.nms.keep_top_k", int),
    ("mask_threshold", "MaskPostProcess.binary_thresh", float),
)
_ASSUMED = (
    *(field for field, _, _ in _FROM_CONFIG),
    *("min_size", "max_size", "resize", "pixel_mean", "pixel_std", "pixel_scale", "pad_multiple"),
)

# Settings whose other values change what is computed in ways that the model does not have.
_REQUIRED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("architecture", ("MaskRCNN",)),
    ("RPNHead.anchor_generator.strides", ((4, 8, 16, 32, 64), (16,))),
    ("RPNHead.anchor_generator.variance", ((1.0, 1.0, 1.0, 1.0),)),
    *(
        (f"{head}.roi_extractor.{name}", (usual,))
        for head in ("BBoxHead", "MaskHead")
        for name, usual in (("canconical_level", 4), ("canonical_size", 224), ("start_level", 0), ("end_level", 3))
    ),
    ("BBoxPostProcess.nms.name", ("MultiClassNMS",)),
    ("RPNHead.test_proposal.eta", (1.0,)),
    ("BBoxPostProcess.nms.nms_eta", (1.0,)),
    ("BBoxPostProcess.nms.normalized", (True,)),
    ("BBoxPostProcess.decode", ("RCNNBox",)),
)
# Settings of trainings alone, which one here does not take up; those with a key for a value are the same as another.
_OF_TRAINING: tuple[tuple[str, Any], ...] = (
    ("RPNHead.loss_rpn_bbox", None),
    ("RPNHead.train_proposal.eta", 1),
    ("RPNHead.rpn_target_assign.ignore_thresh", -1),
    ("BBoxAssigner.ignore_thresh", -1),
    ("BBoxHead.bbox_loss", None),
    ("BBoxHead.loss_normalize_pos", False),
)
_SAME_IN_TRAINING = (
    ("RPNHead.train_proposal.nms_thresh", "RPNHead.test_proposal.nms_thresh"),
    ("RPNHead.train_proposal.min_size", "RPNHead.test_proposal.min_size"),
    ("BBoxAssigner.bg_thresh", "BBoxAssigner.fg_thresh"),
    ("BBoxHead.bbox_weight", "RCNNBox.prior_box_var"),
)
# What its proposal generator takes for what a config does not say of it, though it says others (`ProposalGenerator`).
_PROPOSALS: tuple[tuple[str, str, Any], ...] = (
    ("rpn_pre_nms", "RPNHead.test_proposal.pre_nms_top_n", 12000),
    ("rpn_post_nms", "RPNHead.test_proposal.post_nms_top_n", 2000),
    ("rpn_nms_threshold", "RPNHead.test_proposal.nms_thresh", 0.5),
    ("rpn_pre_nms_train", "RPNHead.train_proposal.pre_nms_top_n", 12000),
    ("rpn_post_nms_train", "RPNHead.train_proposal.post_nms_top_n", 2000),
)
# Settings of the pooling for masks, which is that for boxes, and what its RoIAlign takes where none is given.
_POOLING: Mapping[str, Any] = {"aligned": False, "sampling_ratio": 0}

_VECTORS = {"weight": "weight", "bias": "bias", "running_mean": "_mean", "running_var": "_variance"}
_DENSE = (Transpose((1, 0)),)


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a PaddleDetection file, and of its config where one is given."""
    names = tensors.arrays
    for missing, what in (
        ("backbone.res2.res2a.branch2c.conv.weight", "a backbone that is not a ResNet of bottlenecks"),
        ("bbox_head.bbox_score.weight", "cascade heads"),
        ("mask_head.mask_fcn_logits.weight", "no mask head (Faster R-CNN)"),
    ):
        if missing not in names:
            raise unsupported(tensors, "PaddleDetection", what)
    for part, what in ((".conv_offset.", "deformable convolutions"), (".se.", "squeeze and excitation")):
        if any(part in name for name in names):
            raise unsupported(tensors, "PaddleDetection", what)
    arch = _arch(tensors)
    how = {
        **learned("tensor names and shapes", "implied", [f"arch.{name}" for name in Arch.__dataclass_fields__]),
        **learned("PaddleDetection's maths", "implied", [f"numerics.{name}" for name in NUMERICS_FIELDS]),
        **learned("as in configs/mask_rcnn", "assumed", [f"numerics.{name}" for name in _ASSUMED]),
        "classes": Learned("assumed", "80 classes: COCO's" if arch.classes == 80 else "no file says their names"),
    }
    changes: dict[str, Any] = dict(C4) if arch.neck == "c4" else {}
    changes["stride_pooled"] = "backbone.res3.res3a.short.conv.conv.weight" in names  # ResNet-D, and not ResNet-C
    findings: list[Finding] = []
    if config is not None:
        _refuse_what_cannot_be_obeyed(tensors, config, arch)
        changes |= changes_from(config, _FROM_CONFIG, how)
        if arch.neck == "fpn" and len(changes.get("anchor_sizes", ())) == 1:
            changes["anchor_sizes"] *= 5
        if isinstance(setting(config, "BBoxHead.roi_extractor"), Mapping):
            changes.setdefault("roi_aligned", False)  # the default of its RoIAlign
        for field, key, usual in _PROPOSALS:
            if isinstance(setting(config, key.rpartition(".")[0]), Mapping):
                changes.setdefault(field, usual)
        most, proposals = setting(config, "BBoxPostProcess.nms.nms_top_k"), changes.get("rpn_post_nms", 1000)
        if isinstance(most, int) and 0 <= most < proposals:
            what = f"BBoxPostProcess.nms.nms_top_k is {most}, not -1, and there are {proposals} proposals"
            raise unsupported(tensors, FAMILY.title, what)
        pixels = _pixels(tensors, config)
        changes |= pixels
        how |= learned(f"config: {_TEST}", "read", [f"numerics.{name}" for name in pixels])
        findings += class_count_fault(tensors, arch.classes, setting(config, "num_classes"), "num_classes")
        alike = [(key, other) for key, like in _SAME_IN_TRAINING if (other := setting(config, like)) is not None]
        findings += not_taken_up(config, (*_OF_TRAINING, *alike))
        findings += base_fault(config, "give the folder of configs that it came from, as it was")
    spec = Spec(
        family="paddledetection",
        arch=arch,
        numerics=replace(NUMERICS, **changes),
        classes=COCO_80 if arch.classes == 80 else numbered(arch.classes),
        learned=how,
    )
    return Reading(spec, "", tuple(findings))


def _refuse_what_cannot_be_obeyed(tensors: Tensors, config: Config, arch: Arch) -> None:
    shared = (("MaskHead.share_bbox_feat", (arch.neck == "c4",)), ("BBoxHead.with_pool", (arch.neck == "c4",)))
    refuse_what_cannot_be_obeyed(tensors, config, (*_REQUIRED, *shared), FAMILY.title)
    ratios = setting(config, "RPNHead.anchor_generator.aspect_ratios")
    if isinstance(ratios, list) and isinstance(ratios[0], list) and any(level != ratios[0] for level in ratios):
        raise unsupported(tensors, FAMILY.title, "anchors whose ratios differ from level to level")
    masks, boxes = (setting(config, f"{head}.roi_extractor") for head in ("MaskHead", "BBoxHead"))
    if arch.neck == "fpn" and isinstance(masks, Mapping) and isinstance(boxes, Mapping):
        for name, usual in _POOLING.items():
            if masks.get(name, usual) != boxes.get(name, usual):
                what = f"MaskHead.roi_extractor.{name} is {masks.get(name, usual)}, that of BBoxHead"
                raise unsupported(tensors, FAMILY.title, f"{what} {boxes.get(name, usual)}")


def _pixels(tensors: Tensors, config: Config) -> dict[str, Any]:
    """What the steps of the test reader say. Raises `CheckpointError` for one that maskgraft does not have."""
    steps = setting(config, _TEST)
    if not isinstance(steps, list):
        return {}
    changes: dict[str, Any] = {}
    for step in steps:
        for name, said in step.items() if isinstance(step, Mapping) else ():
            options = said if isinstance(said, Mapping) else {}
            if name == "Resize":
                size = options.get("target_size", 0)
                sides = [int(side) for side in (size if isinstance(size, list | tuple) else [size])]
                if options.get("keep_ratio", True) is not True:
                    raise unsupported(tensors, FAMILY.title, f"{_TEST}: Resize with another ratio of sides")
                interp = options.get("interp", 1)
                if interp not in _INTERPOLATIONS:
                    raise unsupported(tensors, FAMILY.title, f"{_TEST}: Resize with interp {interp}, not 1 or 2")
                changes |= {"resize": _INTERPOLATIONS[interp], "min_size": min(sides), "max_size": max(sides)}
            elif name == "NormalizeImage":
                if options.get("norm_type", "mean_std") != "mean_std":
                    raise unsupported(tensors, FAMILY.title, f"{_TEST}: NormalizeImage {options['norm_type']}")
                changes["pixel_scale"] = 1 / 255 if options.get("is_scale", True) else 1.0
                for field, key in (("pixel_mean", "mean"), ("pixel_std", "std")):
                    if key in options:
                        changes[field] = tuple(float(one) for one in options[key])
            elif name not in ("Decode", "Permute"):
                raise unsupported(tensors, FAMILY.title, f"{_TEST}: {name}")
    for step in setting(config, "TestReader.batch_transforms") or ():
        stride = (step.get("PadBatch") or {}).get("pad_to_stride") if isinstance(step, Mapping) else None
        if stride is not None:
            changes["pad_multiple"] = max(1, int(stride))
    return changes


def _body(neck: str, stage: int) -> str:
    return "bbox_head.head" if stage == 5 and neck == "c4" else "backbone"


def _block(stage: int, block: int, blocks: int) -> str:
    """res2a, res2b …; in a fourth stage of more than ten blocks res4a, res4b1, res4b2 …"""
    numbered_ones = blocks > 10 and stage == 4 and block > 0
    return f"res{stage}b{block}" if numbered_ones else f"res{stage}{chr(ord('a') + block)}"


def _blocks(names: Mapping[str, Any], body: str, stage: int) -> int:
    template = f"{body}.res{stage}.res{stage}{{}}.branch2a.conv.weight"
    letters = 0
    while template.format(chr(ord("a") + letters)) in names:
        letters += 1
    return max(letters, 1 + count(names, template.replace("{}", "b{}"), start=1))


def _norm_of(names: Mapping[str, Any], layer: str) -> NormKind:
    if f"{layer}.norm.weight" not in names:
        return "none"
    return "frozen" if f"{layer}.norm._mean" in names else "group"


def _arch(tensors: Tensors) -> Arch:
    names = tensors.arrays
    neck = "c4" if "bbox_head.head.res5.res5a.branch2a.conv.weight" in names else "fpn"
    deep = "backbone.conv1.conv1_1.conv.weight" in names
    stem = "conv1_3" if deep else "conv1" if "backbone.conv1.conv1.conv.weight" in names else "res_conv1"
    inner, per_group = shape(tensors, "backbone.res2.res2a.branch2b.conv.weight")[:2]
    lateral = "neck.fpn_inner_res5_sum"
    neck_norm = _norm_of(names, lateral)
    box_convs = count(names, "bbox_head.head.bbox_head_conv{}.conv.weight")
    mask = "mask_head.head.upsample.mask_inter_feat_{}"
    mask_norm = _norm_of(names, mask.format(1))
    width, rows = shape(tensors, "bbox_head.bbox_score.weight")
    return Arch(
        classes=rows - 1,
        blocks=tuple(_blocks(names, _body(neck, stage), stage) for stage in (2, 3, 4, 5)),
        stem="3x3" if deep else "7x7",
        stem_width=shape(tensors, f"backbone.conv1.{stem}.conv.weight")[0],
        groups=inner // per_group,
        width_per_group=per_group,
        norm="frozen",
        neck=neck,  # type: ignore[arg-type]
        neck_channels=shape(tensors, f"{lateral}{'.conv' if neck_norm != 'none' else ''}.weight")[0]
        if neck == "fpn"
        else 256,
        neck_norm=neck_norm,
        rpn_channels=shape(tensors, "rpn_head.rpn_feat.rpn_conv.weight")[0],
        anchors_per_cell=shape(tensors, "rpn_head.rpn_rois_score.weight")[0],
        box_head="res5" if neck == "c4" else "fc",
        box_convs=box_convs,
        box_conv_channels=shape(tensors, "bbox_head.head.bbox_head_conv0.conv.weight")[0] if box_convs else 256,
        box_fcs=1 if box_convs else 2,
        box_fc_width=width if neck == "fpn" else 1024,
        box_norm=_norm_of(names, "bbox_head.head.bbox_head_conv0"),
        mask_convs=count(names, mask + (".conv.weight" if mask_norm != "none" else ".weight"), start=1),
        mask_channels=shape(tensors, "mask_head.mask_fcn_logits.weight")[1],
        mask_norm=mask_norm,
    )


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor."""
    arch = spec.arch
    if arch.stem == "3x3":
        for index in range(3):
            yield from _conv_norm(f"backbone.stem.{index}", f"backbone.conv1.conv1_{index + 1}", arch.norm)
    else:
        stem = "res_conv1" if arch.groups > 1 else "conv1"
        yield from _conv_norm("backbone.stem", f"backbone.conv1.{stem}", arch.norm)
    for stage, blocks in enumerate(arch.blocks, 2):
        place = "box_head" if stage == 5 and arch.neck == "c4" else "backbone"
        for index in range(blocks):
            ours = f"{place}.res{stage}.{index}"
            theirs = f"{_body(arch.neck, stage)}.res{stage}.{_block(stage, index, blocks)}"
            for number, branch in enumerate("abc", 1):
                yield from _conv_norm(f"{ours}.conv{number}", f"{theirs}.branch2{branch}", arch.norm)
            if index == 0:
                behind_pool = spec.numerics.stride_pooled and stage > 2
                yield from _conv_norm(f"{ours}.shortcut", f"{theirs}.short{'.conv' if behind_pool else ''}", arch.norm)
    if arch.neck == "fpn":
        for level in (2, 3, 4, 5):
            lateral = "neck.fpn_inner_res5_sum" if level == 5 else f"neck.fpn_inner_res{level}_sum_lateral"
            yield from _conv_norm(f"fpn.lateral{level}", lateral, arch.neck_norm)
            yield from _conv_norm(f"fpn.output{level}", f"neck.fpn_res{level}_sum", arch.neck_norm)
    yield from conv_links("rpn.convs.0", "rpn_head.rpn_feat.rpn_conv", bias=True)
    yield from conv_links("rpn.objectness", "rpn_head.rpn_rois_score", bias=True)
    yield from conv_links("rpn.deltas", "rpn_head.rpn_rois_delta", bias=True)
    for index in range(arch.box_convs):
        theirs = f"bbox_head.head.bbox_head_conv{index}"
        yield from _conv_norm(f"box_head.convs.{index}", theirs, arch.box_norm)
    if arch.box_head == "fc":
        for index in range(arch.box_fcs):
            yield from conv_links(f"box_head.fcs.{index}", f"bbox_head.head.fc{6 + index}", bias=True, steps=_DENSE)
    yield from conv_links("box_predictor.cls", "bbox_head.bbox_score", bias=True, steps=_DENSE)
    yield from conv_links("box_predictor.deltas", "bbox_head.bbox_delta", bias=True, steps=_DENSE)
    for index in range(arch.mask_convs):
        theirs = f"mask_head.head.upsample.mask_inter_feat_{index + 1}"
        yield from _conv_norm(f"mask_head.convs.{index}", theirs, arch.mask_norm)
    yield from conv_links("mask_head.upsample", "mask_head.head.upsample.conv5_mask", bias=True)
    yield from conv_links("mask_predictor.logits", "mask_head.mask_fcn_logits", bias=True)


def _conv_norm(ours: str, theirs: str, kind: NormKind) -> Iterator[Link]:
    """A convolution with its norm under its own name, or alone and with a bias."""
    if kind == "none":
        yield from conv_links(f"{ours}.conv", theirs, bias=True)
    else:
        yield from conv_links(f"{ours}.conv", f"{theirs}.conv", bias=False)
        yield from norm_links(f"{ours}.norm", f"{theirs}.norm", kind, _VECTORS)


def ignored(name: str) -> str:
    """Nothing in such a file is superfluous."""
    return ""


FAMILY = Family(
    name="paddledetection",
    title="PaddleDetection",
    landmarks=(
        "rpn_head.rpn_feat.rpn_conv.weight",
        "rpn_head.rpn_rois_delta.weight",
        "bbox_head.bbox_delta.weight",
        "mask_head.head.upsample.conv5_mask.weight",
        "mask_head.mask_fcn_logits.weight",
    ),
    read=read,
    links=links,
    ignored=ignored,
    configs=("config.yml", "config.yaml"),
    settings=_FROM_CONFIG,
)
