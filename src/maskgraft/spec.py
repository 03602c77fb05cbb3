"""`Arch`, `Numerics`, `Spec`: everything that decides what a Mask R-CNN computes, one line a field.

`Arch` is what shapes depend on, `Numerics` what numbers depend on and shapes do not. Together with the class names they
make a `Spec`, in which each field remembers how it was learned. Two models with equal `Spec`s and equal weights give
equal results, whatever framework trained them.

Canonical form: NCHW, PyTorch weight layouts, boxes xyxy, deltas (dx, dy, dw, dh) class-major, foreground classes
0..K-1 in the order of `Spec.classes`, the background row last where there is one.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, isfinite, nextafter
from typing import Any, Literal

from maskgraft.errors import Finding, UsageError
from maskgraft.fields import checked_fields, field_fault

BackboneKind = Literal["resnet", "efficientnet_lite0", "mobilenet_v3_large", "inception_v2", "inception_resnet_v2"]
NormKind = Literal["none", "frozen", "batch", "sync", "affine", "group"]
ResizeKind = Literal[
    "torch",
    "pil",
    "opencv",
    "opencv-factor",
    "opencv-float",
    "opencv-cubic",
    "skimage",
    "tensorflow",
    "tensorflow-1",
    "tensorflow-1-nearest",
    "tensorflow-1-cubic",
    "tensorflow-1-area",
]
ClassRows = Literal["foreground", "with-background", "agnostic", "agnostic-with-background"]
ScoreKind = Literal["softmax", "sigmoid", "logit"]
MaskCrop = Literal["soft-crop", "crop", "mini-crop", "soft-sample", "mini-sample", "resized", "cut"]
How = Literal["read", "implied", "assumed"]

FROM_SCRATCH = "scratch"  # the family of a model that came from no file
COMPONENTS = ("backbone", "fpn", "rpn", "box_head", "box_predictor", "mask_head", "mask_predictor")


def component(name: str) -> str:
    """The component that a canonical tensor name belongs to: its first part.

    component("box_predictor.cls.weight")   # "box_predictor"
    """
    return name.split(".", 1)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """What shapes depend on. The defaults are the paper's ResNet-50 with an FPN."""

    classes: int  # foreground classes K, without background
    # backbone
    backbone: BackboneKind = "resnet"
    block: Literal["bottleneck", "basic"] = "bottleneck"
    blocks: tuple[int, ...] = (3, 4, 6, 3)  # residual blocks of C2..C5, or of as many stages as there are
    levels: tuple[int, ...] = (2, 3, 4, 5)  # of the backbone's maps, those that the pyramid takes
    stem: Literal["7x7", "3x3"] = "7x7"  # one convolution, or three (ResNet-C and -D)
    stem_width: int = 64  # channels after the stem
    groups: int = 1  # groups of the 3×3 convolutions (ResNeXt)
    width_per_group: int = 64  # channels per group in C2; doubles with each stage
    stem_bias: bool = False  # the stem convolution has a bias beside its norm
    conv_bias: bool = False  # so have all other convolutions that a norm follows (Keras)
    norm: NormKind = "frozen"  # frozen: fixed statistics; affine: scale and shift; batch: BatchNorm; sync: of all GPUs
    norm_scale: bool = True  # the backbone's norms have a scale (not in Inception-ResNet v2)
    # neck: "fpn" gives P2..P6; "c4" gives C4 and keeps C5 in the box head; "dc5" gives C5 dilated to stride 16
    neck: Literal["fpn", "c4", "dc5"] = "fpn"
    neck_channels: int = 256
    neck_norm: NormKind = "none"
    neck_norm_after: Literal["all", "outputs"] = "all"  # after which convolutions of the pyramid
    coarsest: Literal["max-pool", "conv"] = "max-pool"  # how P6 comes from P5: every second cell, or a convolution
    head_bias: bool = False  # the convolutions of neck and heads have a bias beside their norm
    # region proposal network
    rpn_convs: int = 1
    rpn_channels: int = 256
    rpn_norm: NormKind = "none"  # after its convolutions, one for each level
    anchors_per_cell: int = 3
    objectness: Literal["sigmoid", "softmax"] = "sigmoid"  # one logit per anchor, or (background, foreground) pairs
    # box head and predictor
    box_head: Literal["fc", "res5"] = "fc"  # "res5": the C5 stage of the backbone, then global mean (C4 models)
    box_convs: int = 0
    box_conv_channels: int = 256
    box_fcs: int = 2
    box_fc_width: int = 1024
    box_norm: NormKind = "none"  # after each convolution of the box head
    fc_norm: NormKind = "none"  # after each fully connected layer of the box head
    fc_bias: bool = True  # each of them has a bias
    box_rows: ClassRows = "foreground"
    # mask head and predictor
    mask_convs: int = 4
    mask_channels: int = 256
    mask_norm: NormKind = "none"
    upsample_norm: NormKind = "none"  # after the transposed convolution
    mask_upsample: Literal["deconv", "resize"] = "deconv"  # a transposed convolution, or features resized at first
    mask_kernel: int = 1  # of the mask predictor
    mask_rows: ClassRows = "foreground"


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """What numbers depend on and shapes do not: the conventions in which home frameworks differ.

    Lengths are pixels of the network input unless a field says otherwise. A field without a default is one that
    families truly disagree about; each family states it.
    """

    # input image to network input
    channel_order: Literal["rgb", "bgr"]
    pixel_scale: float  # a grey level 0..255 is multiplied by this before the mean is taken off
    pixel_mean: tuple[float, float, float]  # in channel_order
    pixel_std: tuple[float, float, float]  # in channel_order
    # whose interpolation, bilinear where the name says no other; OpenCV's by the sizes, or by the factor that they are
    # rounded of (all but "opencv"); "tensorflow-1" samples at pixels' corners
    resize: ResizeKind
    normalise_first: bool  # normalise, then resize in float; else resize the uint8 image, then normalise
    # of height × scale and width × scale: cut; the short side whole and the long one rounded, or cut; both rounded, or
    # rounded half to even, "-float" in float32 and held against max_size after that
    size_rounding: Literal["floor", "round", "long-floor", "both-round", "even", "even-float"]
    min_size: int = 800  # the short side after resizing (0: the photograph stays as it is) …
    max_size: int = 1333  # … unless the long side would pass this
    enlarge_only: bool = False  # a short side above min_size stays as it is
    least_scale: float = 0.0  # a photograph grows at least by this factor, as far as max_size lets it
    fixed_size: tuple[int, int] | None = None  # height and width of the input, whatever min_size and max_size say …
    fixed_fit: Literal["stretch", "inside"] = "stretch"  # … which a photograph fills, or fits into
    # of boxes: each side's, the one asked for, or the mean of both; "fractions": each side's, by way of fractions of
    # the input, of which a box that ends with the input may end one bit before 1
    box_scale: Literal["sides", "factor", "mean", "fractions"] = "sides"
    pad_multiple: int = 32  # height and width are padded with zeros at bottom and right to a multiple of this
    pad_square: bool = False  # … or to a square of max_size
    pad_centred: bool = False  # on all sides alike, each image by itself
    pad_black: bool = False  # with black pixels, normalised like all others
    # backbone and neck
    norm_eps: float  # added to the variance by every normalisation layer …
    head_norm_eps: float | None = None  # … but those of neck and heads, where this says another
    norm_behind_relu: bool = False  # the norms of the heads' convolutions (Tensorpack's group norm)
    stride_in: Literal["1x1", "3x3"]  # which convolution of a down-sampling bottleneck has stride 2
    stride_pooled: bool = False  # a shortcut that strides averages 2 × 2 cells and keeps stride 1 (ResNet-D)
    stride_at: Literal["first", "before"] = "first"  # the first block of a stage, or the last of the stage before
    c4_stride: Literal[8, 16] = 16  # of C4 in C4 models; where it is 8, the convolutions of C4 are dilated instead
    # zeros around a strided convolution: alike on all sides, TensorFlow's SAME, or for every size those of an even one
    conv_padding: Literal["symmetric", "same", "same-before", "same-after"] = "symmetric"
    # the same of the stem's max-pool; "cover": alike, and a last window over what is left
    pool_padding: Literal["symmetric", "same", "same-before", "same-after", "cover"] = "symmetric"
    # anchors
    anchor_sizes: tuple[tuple[float, ...], ...] = ((32,), (64,), (128,), (256,), (512,))  # √area, per level
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    anchor_order: Literal["size", "ratio"]  # what changes slowest over the anchors of a cell
    anchor_rounding: bool  # base anchors are rounded to integers
    anchor_stride: Literal["nominal", "grid"]  # 4, 8 … 64, or padded size // grid size
    anchor_offset: float = 0.0  # where in its cell an anchor is centred, in strides
    anchor_clip: bool = False  # for detecting, anchors are cut to the input
    anchor_whole_sides: bool = False  # sides are rounded at the size of one cell, then enlarged (Detectron)
    # boxes everywhere
    inclusive_boxes: bool = False  # x2, y2 are the last pixels of a box: deltas and anchors have x2 - x1 + 1 as width …
    inclusive_areas: bool = False  # … and so have areas and overlaps
    decoded_wider: bool = False  # boxes from deltas are half a pixel wider on all sides (MMDetection 2's legacy coder)
    clip_after_nms: bool = False  # boxes are cut to the image, and those of no area dropped, after suppression
    clip_shown: bool = False  # proposals are cut where the photograph ends, and not where a larger page of it does
    clip_unrounded: bool = False  # for detecting, boxes are cut to the photograph's sides before they are whole pixels
    corner_boxes: bool = False  # coordinates run from the first pixel, 0, to the last, width - 1 (Matterport)
    # proposals
    rpn_activation: Literal["relu", "relu6"] = "relu"
    rpn_dilation: int = 1  # of the 3×3 convolution of the proposal head
    # what suppression ranks by (equal but where the sigmoid saturates); "-first": candidates are chosen by it too
    rpn_rank: Literal["logit", "probability", "probability-first"]
    rpn_scope: Literal["level", "image"] = "level"  # candidates are ranked and suppressed per level, or all together
    # candidates per level, or of all levels (`rpn_scope`); 0: as many as rpn_post_nms; None: all
    rpn_pre_nms: int | None = 1000
    rpn_score_threshold: float | None = None  # candidates have more than this probability
    rpn_level_post_nms: int | None = None  # proposals that each level has at most, before the best of all are taken
    rpn_post_nms: int = 1000
    rpn_nms_threshold: float = 0.7
    rpn_nms_tiled: bool = False  # proposals are suppressed as in `ops.tiles`
    rpn_min_size: float | None  # proposals with a side below this are dropped; 0: those of no area; None: none is
    rpn_min_size_in: Literal["input", "photograph"] = "input"  # whose pixels rpn_min_size counts
    rpn_clip_padded: bool = False  # for detecting, proposals are cut to the padded input and not to the image
    detect_filled: bool = False  # for detecting, proposals that are missing are boxes of no area in the corner
    rpn_delta_weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    delta_clip: float | None = 4.135166556742356  # dw, dh are clamped to at most this; log(1000 / 16); None: to nothing
    delta_clip_both: bool = False  # and to at least its negative
    nms_at_threshold: bool = False  # an overlap that equals the threshold suppresses too
    nms_apart: bool = False  # one suppression a class; else one for all, their boxes shifted apart in float32
    nms_ties: Literal["first", "heap"] = "first"  # equal scores are suppressed in order, or as in `ops.ties`
    nms_flat_last: bool = False  # a box of no area is kept again and again (TensorFlow 1.15 to 2.1)
    # region features
    level_epsilon: Literal["outside", "inside"]  # floor(4 + log2(s/224) + ε) or floor(4 + log2(s/224 + ε)) …
    level_epsilon_value: float = 1e-6  # … and ε
    level_rounding: Literal["floor", "round"] = "floor"  # or the nearest level, half to even
    roi_method: Literal["align", "crop"] = "align"  # RoIAlign, or one sample a bin, the outer ones on the box's edges
    roi_aligned: bool  # RoIAlign shifts by half a pixel
    roi_inclusive: bool = False  # RoIAlign reads to the end of the last pixel, x2 + 1
    roi_any_size: bool = False  # unaligned RoIAlign does not widen regions that are smaller than a cell
    roi_sampling: int  # samples per bin and axis; 0: as many as the bin has pixels
    box_pool_size: int = 7
    roi_max_pool: tuple[int, int] = (1, 1)  # kernel and stride of a max-pool over what was pooled
    mask_pool_size: int = 14
    res5_stride: int = 2  # of the C5 stage when it is the box head
    res5_padded: bool = True  # its strided convolutions have zeros around the region (Inception-ResNet v2)
    # detections
    box_delta_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    # where boxes are decoded and suppressed: in pixels of the input, of the photograph, or the one and then the other
    detect_in: Literal["input", "photograph", "input-photograph"] = "input"
    logit_scale: float = 1.0  # by which the logits of classes are divided, before they become scores:
    class_scores: ScoreKind = "softmax"  # over all classes, each class by itself, or not at all
    class_choice: Literal["every", "best"] = "every"  # every class above the threshold, or the best of all
    score_threshold: float = 0.05
    box_min_size: float  # detections with a side below this are dropped before suppression (0: none is)
    nms_threshold: float = 0.5
    nms_tiled: bool = False  # detections are suppressed as in `ops.tiles`
    max_detections: int = 100
    max_by: Literal["score", "argsort"] = "score"  # the best stay, or those of late places in `numpy.argsort` (Chainer)
    max_per_class: int | None = None
    detect_padded: bool = False  # boxes are cut to the padded input, and not to the photograph
    box_rounding: Literal["none", "drop", "whole"] = "none"  # drop boxes that round to nothing; round the others too
    # sample at pixel centres; resize the grown mask to the grown box, or the mask to the box, cut to integers; or the
    # mask to a box of integers, or of the pixels whose centres it holds; sample from edge to edge of the image
    mask_paste: Literal["grid-sample", "integer-box", "whole-box", "skimage-box", "crop", "centre-box"]
    mask_size: int = 28  # side of a mask where the mask head resizes features (`Arch.mask_upsample`)
    # masks are pooled from the boxes, or from where in the padded input the boxes would lie if the photograph filled it
    mask_regions: Literal["boxes", "stretched"] = "boxes"
    mask_threshold: float = 0.5
    # training: what a step of the home framework computes
    rpn_pre_nms_train: int | None = 2000
    rpn_level_post_nms_train: int | None = None
    rpn_post_nms_train: int = 2000
    rpn_post_nms_shared: bool = False  # so many of all levels and all images of a batch, and not of each image
    rpn_min_size_train: float | Literal["as in detecting"] | None = "as in detecting"  # rpn_min_size of a step
    anchor_clip_train: bool = False  # for training, anchors are cut to the input
    rpn_positive_iou: float = 0.7
    rpn_negative_iou: float = 0.3
    rpn_straddle: float | None = None  # anchors further outside the image than this are not sampled; None: all may be
    rpn_straddle_closed: bool = False  # one that ends just that far outside is sampled
    # anchors too far outside are matched all the same, are not (the best anchor of an object is sought among the
    # others), or are no proposals either
    rpn_outside: Literal["matched", "unmatched", "absent"] = "matched"
    # the best anchors of an object are positive however low their overlap: all that share it, those that overlap at
    # all, those that are not negative; the first of them, or all, which then answer for this object; or none is …
    rpn_rescue: Literal["all", "overlapping", "undecided", "first", "taken", "none"] = "all"
    rpn_rescue_iou: float = 0.0  # … where the object overlaps its best anchor by at least this
    rpn_own_cells: bool = False  # cells beyond an image's own padding, beside larger images, are not sampled
    rpn_samples: int = 256  # anchors per image
    rpn_positive_fraction: float = 0.5
    # losses divide by what was sampled, or by rpn_samples, or roi_samples ("regions"), × images; or objectness by this,
    # and boxes by that
    rpn_normaliser: Literal["sampled", "samples", "samples-sampled", "regions"]
    rpn_both: bool = False  # "sampled" counts one positive and one negative of each image at least
    rpn_box_mean: bool = False  # that of boxes by the coordinates of the positive anchors
    rpn_box_levels: bool = False  # … of each level apart, all its positive anchors, sampled or not; these are added
    rpn_beta: float  # where the smooth L1 loss turns from square to linear; 0: plain L1
    rpn_filled: bool = False  # proposals that are missing in training are boxes of no area in the corner
    roi_positive_iou: float = 0.5
    roi_rescue_iou: float | None = None  # the best proposals of an object that overlap it so far answer for it
    roi_samples: int = 512  # proposals per image
    roi_positive_fraction: float = 0.25
    roi_truth: bool = True  # the true boxes are proposals too
    roi_negatives: Literal["fill", "ratio"] = (
        "fill"  # as many as samples are left, or as the positives' fraction allows
    )
    roi_filled: bool = False  # samples that are missing are boxes of no area in the corner, background
    box_beta: float
    box_mean: bool = (
        False  # the loss of boxes divides by the coordinates of the positives, not by all that were sampled
    )
    # losses of anchors and of regions divide by what was counted in the batch, or in each image, and are then averaged
    loss_mean: Literal["batch", "image"] = "batch"
    # of the proposal network, and of the box head: smooth L1 of deltas, or 1 - GIoU of boxes (Rezatofighi et al. 2019)
    rpn_box_loss: Literal["smooth-l1", "giou"] = "smooth-l1"
    box_loss: Literal["smooth-l1", "giou"] = "smooth-l1"
    # cross-entropy of pixels, its edge pixels counting more, Dice of whole masks (Milletari et al. 2016), or two added
    mask_loss: Literal["bce", "boundary", "dice", "bce-dice"] = "bce"
    mean_offset: float = 0.0  # added to what a mean over positives divides by: coordinates of boxes, pixels of masks
    # pooled; pooled and cut at 0.5; drawn at mask size; one sample a pixel, the outer ones on the region's edges; the
    # same cut at 0.5, and of masks that were brought to 56 × 56 before (Matterport's mini-masks); one sample in the
    # middle of each pixel; drawn, or where there is no polygon cut at whole pixels and resized, what is not all object
    # being 0; about the same as in the middle of each pixel, of masks brought to 112 × 112 before (Model Garden); cut
    # at whole pixels and resized, above 0.5; the same as OpenCV resizes grey levels, from the first pixel to the last
    mask_targets: Literal["soft-bitmap", "bitmap", "polygon", "polygon-or-cut", MaskCrop]
    # of objectness, proposals' boxes, classes, boxes and masks, before any that a recipe gives
    loss_weights: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)

    @property
    def eps_of_heads(self) -> float:
        """What the norms of neck and heads add to the variance."""
        return self.norm_eps if self.head_norm_eps is None else self.head_norm_eps


NUMERICS_FIELDS: tuple[str, ...] = tuple(f.name for f in dataclasses.fields(Numerics))

# What a caller may choose, by least and most; what a file says is taken as it is.
_RANGES: dict[str, tuple[float, float]] = (
    dict.fromkeys(
        "rpn_nms_threshold nms_threshold mask_threshold rpn_positive_iou rpn_negative_iou rpn_positive_fraction "
        "rpn_rescue_iou roi_rescue_iou roi_positive_iou roi_positive_fraction".split(),
        (0.0, 1.0),
    )
    | dict.fromkeys(
        "max_size fixed_size pad_multiple rpn_level_post_nms rpn_post_nms rpn_level_post_nms_train rpn_post_nms_train "
        "rpn_samples roi_samples "
        "max_detections max_per_class box_pool_size mask_pool_size mask_size".split(),
        (1.0, inf),
    )
    | dict.fromkeys(
        "min_size norm_eps head_norm_eps rpn_pre_nms rpn_pre_nms_train rpn_min_size rpn_min_size_train rpn_straddle "
        "rpn_beta box_beta mean_offset box_min_size roi_sampling".split(),
        (0.0, inf),
    )
    | dict.fromkeys(("anchor_sizes", "anchor_ratios"), (nextafter(0.0, 1.0), inf))
)


@dataclass(frozen=True, slots=True)
class Learned:
    """How a field of a `Spec` came by its value.

    `read`: the file or its config says so. `implied`: it follows from the tensor table, the family and its era.
    `assumed`: a default, undecidable from the file. `source` says which file, entry or rule.
    """

    how: How
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A model, but for its weights.

    `learned` is keyed by "arch.blocks", "numerics.norm_eps", "classes" …; a field that is absent was set by the caller.
    """

    family: str
    arch: Arch
    numerics: Numerics
    classes: tuple[str, ...]
    learned: Mapping[str, Learned] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.classes) != self.arch.classes:
            raise UsageError(
                Finding(
                    "shape.classes",
                    "error",
                    f"{len(self.classes)} class names for an architecture of {self.arch.classes} classes",
                    fix="give as many class names as there are foreground classes",
                )
            )

    @property
    def anchors_fault(self) -> str:
        """How the anchors that the conventions give are not those that the proposal head has room for, or ""."""
        maps = len(self.arch.levels) + 1 if self.arch.neck == "fpn" else 1
        sizes, ratios, cells = self.numerics.anchor_sizes, len(self.numerics.anchor_ratios), self.arch.anchors_per_cell
        if len(sizes) != maps:
            return f"there are {maps} maps that propose, and anchor_sizes for {len(sizes)}"
        other = next((len(level) for level in sizes if len(level) * ratios != cells), None)
        if other is None:
            return ""
        return f"there are {cells} anchors a cell, and anchor_sizes × anchor_ratios are {other} × {ratios}"

    def with_numerics(self, changes: Mapping[str, Any], source: str = "set by the caller") -> "Spec":
        """The same model with some conventions changed.

            spec.with_numerics({"score_threshold": 0.5, "min_size": 480})

        Raises `UsageError` for a name that `Numerics` does not have or a value it cannot take, all of them at once, and
        for anchors that the proposal head has no room for.
        """
        values = checked_fields(Numerics, changes, where="numerics")
        numerics = dataclasses.replace(self.numerics, **values)
        if faults := _beyond(values, numerics):
            raise UsageError([field_fault("numerics", fault, [name]) for name, fault in faults.items()])
        learned = dict(self.learned)
        learned.update({f"numerics.{name}": Learned("read", source) for name in values})
        changed = dataclasses.replace(self, numerics=numerics, learned=learned)
        if {"anchor_sizes", "anchor_ratios"} & set(values) and changed.anchors_fault:
            raise UsageError(field_fault("numerics", changed.anchors_fault, ["anchor_sizes", "anchor_ratios"]))
        return changed

    def as_json(self) -> dict[str, Any]:
        """The spec as plain JSON types; `from_json` is its inverse."""
        return {
            "family": self.family,
            "arch": dataclasses.asdict(self.arch),
            "numerics": dataclasses.asdict(self.numerics),
            "classes": list(self.classes),
            "learned": {name: [one.how, one.source] for name, one in self.learned.items()},
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Spec":
        """Read back what `as_json` wrote. Raises `UsageError` naming every field that is unknown or wrong."""
        missing = [name for name in ("family", "arch", "numerics", "classes") if name not in data]
        if missing:
            raise UsageError(field_fault("spec", f"lacks {', '.join(missing)}", missing))
        try:
            return Spec(
                family=str(data["family"]),
                arch=Arch(**checked_fields(Arch, data["arch"], where="arch")),
                numerics=Numerics(**checked_fields(Numerics, data["numerics"], where="numerics")),
                classes=tuple(str(name) for name in data["classes"]),
                learned={name: Learned(how, source) for name, (how, source) in data.get("learned", {}).items()},
            )
        except TypeError as error:  # a required field is absent
            raise UsageError(field_fault("spec", str(error), [])) from None


def differences(one: Spec, other: Spec) -> dict[str, tuple[Any, Any]]:
    """Every field in which two specs differ: "numerics.norm_eps" → (0.0, 1e-05)."""
    result: dict[str, tuple[Any, Any]] = {}
    for part in ("arch", "numerics"):
        for f in dataclasses.fields(getattr(one, part)):
            values = getattr(getattr(one, part), f.name), getattr(getattr(other, part), f.name)
            if values[0] != values[1]:
                result[f"{part}.{f.name}"] = values
    if one.classes != other.classes:
        result["classes"] = (one.classes, other.classes)
    return result


def _beyond(values: Mapping[str, Any], numerics: Numerics) -> dict[str, str]:
    """What is wrong with each value that nothing could be computed with."""
    faults = {}
    for name, value in values.items():
        least, most = _RANGES.get(name, (-inf, inf))
        if any(not (least <= one <= most and isfinite(one)) for one in _numbers(value)):
            faults[name] = f"{name} is {json.dumps(value)}: it is {_range(least, most)}"
    if {"rpn_positive_iou", "rpn_negative_iou"} & values.keys() and not faults:
        positive, negative = numerics.rpn_positive_iou, numerics.rpn_negative_iou
        if negative > positive:
            told = f"rpn_negative_iou, {negative:g}, is above rpn_positive_iou, {positive:g}"
            faults["rpn_negative_iou"] = f"{told}: an anchor would be both"
    return faults


def _range(least: float, most: float) -> str:
    if most < inf:
        return f"from {least:g} to {most:g}"
    if least in (0, 1):
        return f"{least:g} or more"
    return "above 0" if least > 0 else "a finite number"


def _numbers(value: Any) -> list[float]:
    """The numbers in a value, in tuples of tuples too."""
    if isinstance(value, tuple):
        return [one for item in value for one in _numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []
