"""What the TF Object Detection API does with a Mask R-CNN under either TensorFlow, and how it keeps its heads.

Conventions: tensorflow/models, research/object_detection `meta_architectures/faster_rcnn_meta_arch.py`,
`core/post_processing.py`, `core/preprocessor.py`, `utils/ops.py`. What its `pipeline.config` changes of them stands in
`pipeline_settings`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from maskgraft.errors import CheckpointError
from maskgraft.families.class_names import COCO_90, numbered
from maskgraft.families.family import Config, unsupported
from maskgraft.families.pipeline_config import unused
from maskgraft.files import Tensors
from maskgraft.links import Link, Transpose, background_last, xy_first
from maskgraft.spec import Arch, Learned, Numerics

KERNEL = Transpose((3, 2, 0, 1))  # height, width, in, out
DENSE = Transpose((1, 0))

NUMERICS = Numerics(
    channel_order="rgb",
    pixel_scale=1.0,
    pixel_mean=(123.68, 116.779, 103.939),
    pixel_std=(1.0, 1.0, 1.0),
    resize="tensorflow-1",
    normalise_first=False,
    size_rounding="even-float",
    min_size=800,
    max_size=1365,
    box_scale="fractions",
    pad_multiple=1,
    norm_eps=1e-5,
    stride_in="3x3",
    pool_padding="same",
    anchor_sizes=((64.0, 128.0, 256.0, 512.0),),
    anchor_ratios=(2.0, 1.0, 0.5),  # aspect_ratios are width / height
    anchor_order="ratio",
    anchor_rounding=False,
    anchor_stride="nominal",
    anchor_clip=True,
    nms_apart=True,
    clip_after_nms=True,
    rpn_activation="relu6",
    rpn_scope="image",
    rpn_rank="probability-first",
    rpn_pre_nms=None,
    rpn_score_threshold=0.0,
    rpn_post_nms=300,
    rpn_min_size=0.0,
    rpn_delta_weights=(10.0, 10.0, 5.0, 5.0),
    delta_clip=None,
    level_epsilon="outside",
    roi_method="crop",
    roi_aligned=False,
    roi_sampling=1,
    box_pool_size=14,
    roi_max_pool=(2, 2),
    score_threshold=0.0,
    box_min_size=0.0,
    nms_threshold=0.6,
    max_per_class=100,
    mask_paste="crop",
    mask_size=33,
    rpn_pre_nms_train=None,
    rpn_post_nms_train=300,
    rpn_straddle=0.0,
    rpn_straddle_closed=True,
    rpn_outside="absent",
    rpn_rescue="first",
    rpn_normaliser="sampled",
    rpn_beta=1.0,
    roi_samples=64,
    roi_truth=False,
    box_beta=1.0,
    loss_mean="image",
    mask_targets="soft-crop",
    loss_weights=(1.0, 2.0, 1.0, 2.0, 4.0),
)

EXTRACTOR = "tf_object_detection_extractor"  # the family under which backbones of other detectors are taken

# What TF-Slim calls its networks.
SLIM_SCOPES = {
    "MobilenetV1": "MobileNet v1",
    "MobilenetV2": "MobileNet v2",
    "MobilenetV3": "MobileNet v3",
    "InceptionV2": "Inception v2",
    "InceptionV3": "Inception v3",
    "InceptionResnetV2": "Inception-ResNet v2",
    "resnet_v1_50": "ResNet-50",
    "resnet_v1_101": "ResNet-101",
    "resnet_v1_152": "ResNet-152",
}

# What the backbones' feature extractors do before and in them.
INCEPTION: dict[str, Any] = {
    "pixel_scale": 2 / 255,
    "pixel_mean": (1.0, 1.0, 1.0),
    "norm_eps": 1e-3,
    "conv_padding": "same",
}


def without_masks(tensors: Tensors, title: str, backbone: str, *, built: bool) -> CheckpointError:
    """The refusal of a Faster R-CNN, and how its backbone can be had all the same where it is `built` here."""
    refusal = unsupported(tensors, title, f"no mask head (Faster R-CNN with {backbone})")
    if not built:
        return refusal
    fix = f'mg.load("{tensors.path.name}", family="{EXTRACTOR}") takes its feature extractor and its proposal head'
    return CheckpointError([replace(finding, fix=fix) for finding in refusal.findings])


def class_names(arch: Arch, config: Config | None) -> tuple[tuple[str, ...], Learned]:
    """The names of the classes, and how they were learned; id k of a label map is class k - 1."""
    labels = config.get("label_map") if config is not None else None
    if labels:
        names = tuple(labels.get(number, unused(number)) for number in range(1, arch.classes + 1))
        return names, Learned("read", "the label map that the config names")
    if arch.classes == len(COCO_90):
        return COCO_90, Learned("assumed", "90 classes: COCO's category ids")
    return numbered(arch.classes), Learned("assumed", "no label map was found")


def norm_links(ours: str, theirs: str, *, scale: bool = True) -> Iterator[Link]:
    """The vectors of a batch normalisation layer."""
    if scale:
        yield Link(f"{ours}.weight", f"{theirs}/gamma")
    yield Link(f"{ours}.bias", f"{theirs}/beta")
    yield Link(f"{ours}.running_mean", f"{theirs}/moving_mean")
    yield Link(f"{ours}.running_var", f"{theirs}/moving_variance")


def proposal_links(arch: Arch, layers: Mapping[str, str], *, kernel: str, bias: str) -> Iterator[Link]:
    """The proposal head; `layers`, `kernel` and `bias` as in `head_links`."""
    yield Link("rpn.convs.0.weight", f"{layers['rpn']}/{kernel}", (KERNEL,))
    yield Link("rpn.convs.0.bias", f"{layers['rpn']}/{bias}")
    yield Link("rpn.objectness.weight", f"{layers['rpn.objectness']}/{kernel}", (KERNEL,))
    yield Link("rpn.objectness.bias", f"{layers['rpn.objectness']}/{bias}")
    order = xy_first(4 * arch.anchors_per_cell)
    yield Link("rpn.deltas.weight", f"{layers['rpn.deltas']}/{kernel}", (KERNEL, order))
    yield Link("rpn.deltas.bias", f"{layers['rpn.deltas']}/{bias}", (order,))


def head_links(
    arch: Arch, layers: Mapping[str, str], masks: Sequence[str], *, kernel: str, bias: str
) -> Iterator[Link]:
    """Both box predictors and the mask head.

    `layers` has their names for "rpn", "rpn.deltas", "rpn.objectness", "cls" and "deltas", `masks` those of the mask
    head's convolutions, of which the last is the predictor; `kernel` and `bias` are what tensors are called there.
    """
    yield from proposal_links(arch, layers, kernel=kernel, bias=bias)
    background = background_last(arch.classes + 1)
    yield Link("box_predictor.cls.weight", f"{layers['cls']}/{kernel}", (DENSE, background))
    yield Link("box_predictor.cls.bias", f"{layers['cls']}/{bias}", (background,))
    order = xy_first(4 if arch.box_rows == "agnostic" else 4 * arch.classes)
    yield Link("box_predictor.deltas.weight", f"{layers['deltas']}/{kernel}", (DENSE, order))
    yield Link("box_predictor.deltas.bias", f"{layers['deltas']}/{bias}", (order,))
    for index, name in enumerate(masks):
        last = index == len(masks) - 1
        ours = "mask_predictor.logits" if last else f"mask_head.convs.{index}.conv"
        yield Link(f"{ours}.weight", f"{name}/{kernel}", (KERNEL,))
        yield Link(f"{ours}.bias", f"{name}/{bias}")
