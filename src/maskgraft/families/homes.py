"""What each home framework can hold and be told: the nearest architecture, and the settings that carry conventions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from maskgraft.families import mmdet_settings, tf_settings
from maskgraft.families.pipeline_settings import FROM_CONFIG
from maskgraft.families.tf1_object_detection import FIRST, SECOND
from maskgraft.spec import Arch, Spec

Settings = Mapping[str, Any]


def _no_settings(spec: Spec) -> Settings:
    return {}


def _nowhere(name: str) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Home:
    """How a family takes in a model that was another's.

    `containers` are the kinds of file that it reads, the usual one first. `changes` says which fields of an `Arch` have
    another value there, either always or by the value that they have; each such change is exact. `config` is the name
    of the file in which it reads its settings, "" where a constructor or a class is told them, and `language` that of
    its text. `settings` are those that come of the whole spec, `sets` the fields of `Numerics` among them. `told` are
    the fields that are set by hand, with the name they go by. `era` gives the era of its names where that depends on
    the architecture. `lacks` is how our names of tensors end that it has none for. `whole` are the keys of its config
    that take integers only. `labels` is the name of the file beside it that names the classes. `unread` gives a
    further name under which the home framework asks for a tensor, and makes no use of it, or "".
    """

    containers: tuple[str, ...]
    changes: Mapping[str, Any]
    config: str = ""
    language: Literal["yaml", "protobuf"] = "yaml"
    settings: Callable[[Spec], Settings] = _no_settings
    told: Mapping[str, str] = field(default_factory=dict)
    sets: frozenset[str] = frozenset()
    era: Callable[[Arch], str] | None = None
    lacks: tuple[str, ...] = ()
    whole: frozenset[str] = frozenset()
    labels: str = ""
    unread: Callable[[str], str] = _nowhere

    def arch(self, arch: Arch) -> Arch:
        """The architecture in which the family would hold a model of `arch`."""
        one: dict[str, Any] = {name: "batch" for name in _NORMS if getattr(arch, name) == "sync"}
        arch = replace(arch, **one)
        changed = {
            name: change.get(getattr(arch, name), getattr(arch, name)) if isinstance(change, Mapping) else change
            for name, change in self.changes.items()
        }
        result = replace(arch, **changed)
        if result.neck_norm_after == "outputs" and "neck_norm_after" not in self.changes:
            result = replace(result, neck_norm="none")  # few have norms behind some of the pyramid alone
        if result.neck_norm == "none":
            result = replace(result, neck_norm_after="all")
        return result


# Norms of all GPUs are those of one in a file, whose framework is told at training which they are.
_NORMS = ("norm", "neck_norm", "rpn_norm", "box_norm", "fc_norm", "mask_norm", "upsample_norm")
_FOLDED = {"frozen": "none", "affine": "none"}
_ALL_FOLDED = {**_FOLDED, "batch": "none"}
_FIXED = {"affine": "frozen", "batch": "frozen"}
_TRAINED = dict.fromkeys(("none", "affine", "frozen"), "batch")
_EACH = dict.fromkeys(("foreground", "agnostic", "agnostic-with-background"), "with-background")
_WITHOUT_BACKGROUND = {"with-background": "foreground", "agnostic-with-background": "agnostic"}

_PLAIN: dict[str, Any] = {
    "stem_bias": False,
    "conv_bias": False,
    "head_bias": False,
    "objectness": "sigmoid",
    "neck_norm": _FOLDED,
    "coarsest": "max-pool",
    "rpn_norm": "none",
    "box_norm": _FOLDED,
    "mask_norm": _FOLDED,
    "fc_norm": _ALL_FOLDED,
    "upsample_norm": _ALL_FOLDED,
}
_PLAIN_HEADS = {**_PLAIN, "neck_norm": _ALL_FOLDED, "box_norm": _ALL_FOLDED, "mask_norm": _ALL_FOLDED}
_DETECTRON_ROWS = {"foreground": "with-background", "agnostic": "agnostic-with-background"}
_OBJECT_DETECTION: dict[str, Any] = {
    **_PLAIN_HEADS,
    "norm": _FIXED,
    "objectness": "softmax",
    "box_rows": _WITHOUT_BACKGROUND,
    "mask_rows": _WITHOUT_BACKGROUND,
}


def _named_norm(kind: str) -> str:
    return {"frozen": "FrozenBN", "batch": "BN", "group": "GN"}.get(kind, "")


def _depth(arch: Arch) -> int:
    return sum(arch.blocks) * (3 if arch.block == "bottleneck" else 2) + 2


def _detectron2(spec: Spec) -> Settings:
    """What builds the architecture, and the sizes of its anchors."""
    arch, numerics, pyramid = spec.arch, spec.numerics, spec.arch.neck == "fpn"
    levels = ["p2", "p3", "p4", "p5"] if pyramid else ["res4" if arch.neck == "c4" else "res5"]
    pooler = "ROIAlignV2" if numerics.roi_aligned else "ROIAlign"
    model: dict[str, Any] = {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "MASK_ON": True,
        "BACKBONE.NAME": "build_resnet_fpn_backbone" if pyramid else "build_resnet_backbone",
        "RESNETS.DEPTH": _depth(arch),
        "RESNETS.STRIDE_IN_1X1": numerics.stride_in == "1x1",
        "RESNETS.NUM_GROUPS": arch.groups,
        "RESNETS.WIDTH_PER_GROUP": arch.width_per_group,
        "RESNETS.STEM_OUT_CHANNELS": arch.stem_width,
        "RESNETS.RES2_OUT_CHANNELS": 256 if arch.block == "bottleneck" else 64,
        "RESNETS.RES5_DILATION": 2 if arch.neck == "dc5" else 1,
        "RESNETS.NORM": _named_norm(arch.norm),
        "RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"] if pyramid else levels,
        "ANCHOR_GENERATOR.SIZES": [list(sizes) for sizes in numerics.anchor_sizes],
        "RPN.IN_FEATURES": [*levels, "p6"] if pyramid else levels,
        "RPN.CONV_DIMS": [arch.rpn_channels] * arch.rpn_convs,
        "ROI_HEADS.NAME": "Res5ROIHeads" if arch.neck == "c4" else "StandardROIHeads",
        "ROI_HEADS.IN_FEATURES": levels,
        "ROI_HEADS.NUM_CLASSES": arch.classes,
        "ROI_BOX_HEAD.NAME": "" if arch.neck == "c4" else "FastRCNNConvFCHead",
        "ROI_BOX_HEAD.POOLER_TYPE": pooler,
        "ROI_BOX_HEAD.NUM_CONV": arch.box_convs,
        "ROI_BOX_HEAD.CONV_DIM": arch.box_conv_channels,
        "ROI_BOX_HEAD.NUM_FC": arch.box_fcs,
        "ROI_BOX_HEAD.FC_DIM": arch.box_fc_width,
        "ROI_BOX_HEAD.NORM": _named_norm(arch.box_norm),
        "ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": arch.box_rows == "agnostic",
        "ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
        "ROI_MASK_HEAD.POOLER_TYPE": pooler,
        "ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": numerics.roi_sampling,
        "ROI_MASK_HEAD.NUM_CONV": arch.mask_convs,
        "ROI_MASK_HEAD.CONV_DIM": arch.mask_channels,
        "ROI_MASK_HEAD.NORM": _named_norm(arch.mask_norm),
        "ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": arch.mask_rows == "agnostic",
    }
    if pyramid:
        model |= {
            "FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
            "FPN.OUT_CHANNELS": arch.neck_channels,
            "FPN.NORM": _named_norm(arch.neck_norm),
        }
    masks = "polygon" if numerics.mask_targets.startswith("polygon") else "bitmask"
    said = {"VERSION": 2, "INPUT.FORMAT": numerics.channel_order.upper(), "INPUT.MASK_FORMAT": masks}
    return {**said, **{f"MODEL.{key}": value for key, value in model.items()}}


def _maskrcnn_benchmark(spec: Spec) -> Settings:
    """What builds the architecture, and the settings that a pyramid has under names of its own."""
    arch, numerics, pyramid = spec.arch, spec.numerics, spec.arch.neck == "fpn"
    sizes = numerics.anchor_sizes
    model: dict[str, Any] = {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "MASK_ON": True,
        "BACKBONE.CONV_BODY": f"R-{_depth(arch)}-{'FPN' if pyramid else 'C4'}",
        "RESNETS.STRIDE_IN_1X1": numerics.stride_in == "1x1",
        "RESNETS.NUM_GROUPS": arch.groups,
        "RESNETS.WIDTH_PER_GROUP": arch.width_per_group,
        "RESNETS.STEM_OUT_CHANNELS": arch.stem_width,
        "RESNETS.BACKBONE_OUT_CHANNELS": arch.neck_channels if pyramid else 1024,
        "CLS_AGNOSTIC_BBOX_REG": arch.box_rows.startswith("agnostic"),
        "RPN.ANCHOR_SIZES": [one for level in sizes for one in level] if pyramid else list(sizes[0]),
        "RPN.POST_NMS_TOP_N_TEST": numerics.rpn_level_post_nms or numerics.rpn_post_nms,
        "RPN.POST_NMS_TOP_N_TRAIN": numerics.rpn_level_post_nms_train or numerics.rpn_post_nms_train,
        "ROI_BOX_HEAD.NUM_CLASSES": arch.classes + 1,
        "RPN.FPN_POST_NMS_PER_BATCH": numerics.rpn_post_nms_shared,
        "GROUP_NORM.EPSILON": numerics.eps_of_heads or 1e-5,
        "ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": numerics.roi_sampling,
        "ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR": not pyramid,
    }
    if arch.norm == "group":
        model |= {"RESNETS.STEM_FUNC": "StemWithGN", "RESNETS.TRANS_FUNC": "BottleneckWithGN"}
    if pyramid:
        scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
        model |= {
            "RPN.USE_FPN": True,
            "RPN.ANCHOR_STRIDE": [4, 8, 16, 32, 64],
            "RPN.FPN_POST_NMS_TOP_N_TEST": numerics.rpn_post_nms,
            "RPN.FPN_POST_NMS_TOP_N_TRAIN": numerics.rpn_post_nms_train,
            "FPN.USE_GN": arch.neck_norm == "group",
            "ROI_HEADS.USE_FPN": True,
            "ROI_BOX_HEAD.POOLER_SCALES": scales,
            "ROI_BOX_HEAD.FEATURE_EXTRACTOR": f"FPN{'Xconv1fc' if arch.box_convs else '2MLP'}FeatureExtractor",
            "ROI_BOX_HEAD.PREDICTOR": "FPNPredictor",
            "ROI_BOX_HEAD.USE_GN": arch.box_norm == "group" or arch.fc_norm == "group",
            "ROI_BOX_HEAD.NUM_STACKED_CONVS": arch.box_convs or 4,
            "ROI_BOX_HEAD.CONV_HEAD_DIM": arch.box_conv_channels,
            "ROI_BOX_HEAD.MLP_HEAD_DIM": arch.box_fc_width,
            "ROI_MASK_HEAD.POOLER_SCALES": scales,
            "ROI_MASK_HEAD.FEATURE_EXTRACTOR": "MaskRCNNFPNFeatureExtractor",
            "ROI_MASK_HEAD.USE_GN": arch.mask_norm == "group",
            "ROI_MASK_HEAD.CONV_LAYERS": [arch.mask_channels] * arch.mask_convs,
            "ROI_MASK_HEAD.RESOLUTION": 2 * numerics.mask_pool_size,
        }
    return {"INPUT.TO_BGR255": numerics.channel_order == "bgr", **{f"MODEL.{key}": one for key, one in model.items()}}


def _detectron(spec: Spec) -> Settings:
    sizes = spec.numerics.anchor_sizes
    said = {
        "MODEL.NUM_CLASSES": spec.arch.classes + 1,
        "RESNETS.STRIDE_1X1": spec.numerics.stride_in == "1x1",
        "MRCNN.ROI_XFORM_SAMPLING_RATIO": spec.numerics.roi_sampling,
    }
    if spec.arch.neck == "fpn":
        return {**said, "FPN.RPN_ANCHOR_START_SIZE": int(sizes[0][0])}
    return {**said, "RPN.SIZES": list(sizes[0])}


def _chainer(spec: Spec) -> Settings:
    return {
        "pooling_func": "align",
        "anchor_scales": [size / 16 for size in spec.numerics.anchor_sizes[0]],
        "class_names": list(spec.classes),
    }


def _paddle_variant(spec: Spec) -> str:
    return "d" if spec.numerics.stride_pooled else "c" if spec.arch.stem == "3x3" else "b"


def _paddle(spec: Spec) -> Settings:
    numerics = spec.numerics
    interp = 1 if numerics.resize == "opencv-factor" else 2
    sides = {"interp": interp, "target_size": [numerics.min_size, numerics.max_size], "keep_ratio": True}
    pixels = {"is_scale": True, "mean": list(numerics.pixel_mean), "std": list(numerics.pixel_std)}
    steps = [{"Decode": {}}, {"Resize": sides}, {"NormalizeImage": pixels}, {"Permute": {}}]
    stride = numerics.pad_multiple if numerics.pad_multiple > 1 else -1
    return {
        "TestReader.sample_transforms": steps,
        "TestReader.batch_transforms": [{"PadBatch": {"pad_to_stride": stride}}],
        "num_classes": spec.arch.classes,
        "ResNet.variant": "a" if numerics.stride_in == "1x1" else _paddle_variant(spec),
        "BBoxHead.roi_extractor.aligned": numerics.roi_aligned,
        "MaskHead.roi_extractor.aligned": numerics.roi_aligned,
        "MaskHead.roi_extractor.sampling_ratio": numerics.roi_sampling,
    }


def _model_garden(spec: Spec) -> Settings:
    """Its Huber losses are smooth L1 times their deltas, and nothing where a delta is 0."""
    numerics = spec.numerics
    rpn, heads = (max(beta, 1e-3) for beta in (numerics.rpn_beta, numerics.box_beta))
    names = ("rpn_score", "rpn_box", "frcnn_class", "frcnn_box", "mask")
    weights = zip(names, numerics.loss_weights, (1, rpn, 1, heads, 1), strict=True)
    return {
        "task.model.num_classes": spec.arch.classes + 1,
        "task.losses.rpn_huber_loss_delta": rpn,
        "task.losses.frcnn_huber_loss_delta": heads,
        "task.model.roi_generator.nms_iou_threshold": numerics.rpn_nms_threshold,
        "task.model.detection_generator.nms_version": "v2" if numerics.nms_tiled else "v1",
        "task.model.roi_sampler.mix_gt_boxes": numerics.roi_truth,
        "task.model.roi_sampler.background_iou_high_threshold": numerics.roi_positive_iou,
        "task.model.mask_sampler.num_sampled_masks": int(numerics.roi_samples * numerics.roi_positive_fraction),
        **{f"task.losses.{name}_weight": weight / delta for name, weight, delta in weights},
    }


def _tf1_era(arch: Arch) -> str:
    return f"resnet_v1_{_depth(arch)}" if arch.backbone == "resnet" else ""


def _tf1_unread(name: str) -> str:
    """Slim builds a ResNet's last block in the first stage too, and the exporter restores every variable there is."""
    last = name.startswith(f"{SECOND}/resnet_v1_") and "/block4/" in name
    return name.replace(SECOND, FIRST, 1) if last else ""


_SIZES = frozenset({"anchor_sizes"})

_TORCHVISION = {
    "min_size": "min_size",
    "max_size": "max_size",
    "pixel_mean": "image_mean",
    "pixel_std": "image_std",
    "anchor_sizes": "rpn_anchor_generator: AnchorGenerator sizes",
    "anchor_ratios": "rpn_anchor_generator: AnchorGenerator aspect_ratios",
    "rpn_pre_nms": "rpn_pre_nms_top_n_test",
    "rpn_post_nms": "rpn_post_nms_top_n_test",
    "rpn_nms_threshold": "rpn_nms_thresh",
    "roi_sampling": "box_roi_pool and mask_roi_pool: MultiScaleRoIAlign sampling_ratio",
    "box_pool_size": "box_roi_pool: MultiScaleRoIAlign output_size",
    "mask_pool_size": "mask_roi_pool: MultiScaleRoIAlign output_size",
    "score_threshold": "box_score_thresh",
    "nms_threshold": "box_nms_thresh",
    "max_detections": "box_detections_per_img",
}
_MATTERPORT = {
    "min_size": "IMAGE_MIN_DIM",
    "max_size": "IMAGE_MAX_DIM",
    "pixel_mean": "MEAN_PIXEL",
    "anchor_sizes": "RPN_ANCHOR_SCALES",
    "rpn_nms_threshold": "RPN_NMS_THRESHOLD",
    "rpn_pre_nms": "PRE_NMS_LIMIT",
    "rpn_post_nms": "POST_NMS_ROIS_INFERENCE",
    "box_pool_size": "POOL_SIZE",
    "mask_pool_size": "MASK_POOL_SIZE",
    "score_threshold": "DETECTION_MIN_CONFIDENCE",
    "nms_threshold": "DETECTION_NMS_THRESHOLD",
    "max_detections": "DETECTION_MAX_INSTANCES",
}
_TENSORPACK = {
    "min_size": "PREPROC.TEST_SHORT_EDGE_SIZE",
    "max_size": "PREPROC.MAX_SIZE",
    "pixel_mean": "PREPROC.PIXEL_MEAN, which stands in RGB",
    "pixel_std": "PREPROC.PIXEL_STD, which stands in RGB",
    "anchor_sizes": "RPN.ANCHOR_SIZES",
    "anchor_ratios": "RPN.ANCHOR_RATIOS",
    "rpn_nms_threshold": "RPN.PROPOSAL_NMS_THRESH",
    "score_threshold": "TEST.RESULT_SCORE_THRESH",
    "nms_threshold": "TEST.FRCNN_NMS_THRESH",
    "max_detections": "TEST.RESULTS_PER_IM",
}

_PIPELINE: dict[str, Any] = {
    "config": "pipeline.config",
    "language": "protobuf",
    "settings": tf_settings.settings,
    "labels": tf_settings.LABEL_MAP,
    "sets": frozenset(name for name, _, _ in FROM_CONFIG),
}

HOMES: Mapping[str, Home] = {
    "torchvision": Home(
        ("torch",), {**_PLAIN, "norm": {"affine": "frozen"}, "box_rows": _EACH, "mask_rows": _EACH}, told=_TORCHVISION
    ),
    "detectron2": Home(
        ("pickle model", "torch model"),
        {**_PLAIN, "norm": {"affine": "frozen"}, "box_rows": _WITHOUT_BACKGROUND, "mask_rows": _WITHOUT_BACKGROUND},
        config="config.yaml",
        settings=_detectron2,
        sets=_SIZES,
        whole=frozenset({"MODEL.PROPOSAL_GENERATOR.MIN_SIZE", "MODEL.RPN.BOUNDARY_THRESH"}),
    ),
    "maskrcnn-benchmark": Home(
        ("torch model stream",),  # it runs on PyTorch 1.0 to 1.4
        {**_PLAIN_HEADS, "norm": _FIXED, "box_rows": _DETECTRON_ROWS, "mask_rows": _EACH},
        config="config.yaml",
        settings=_maskrcnn_benchmark,
        sets=_SIZES,
        whole=frozenset({"MODEL.RPN.MIN_SIZE", "MODEL.RPN.STRADDLE_THRESH"}),
    ),
    "detectron-caffe2": Home(
        ("pickle blobs",),
        {
            **_PLAIN_HEADS,
            "norm": {"frozen": "affine", "batch": "affine"},
            "box_rows": _DETECTRON_ROWS,
            "mask_rows": {"foreground": "with-background"},
        },
        settings=_detectron,
        sets=_SIZES,
        whole=frozenset({"TEST.RPN_MIN_SIZE", "TRAIN.RPN_MIN_SIZE", "TRAIN.RPN_STRADDLE_THRESH"}),
    ),
    "mmdet": Home(
        ("torch state_dict",),
        {
            **_PLAIN,
            "norm": {"affine": "batch", "frozen": "batch"},
            "neck_norm_after": {},
            "box_rows": _WITHOUT_BACKGROUND,
            "mask_rows": _WITHOUT_BACKGROUND,
        },
        settings=mmdet_settings.settings,
        sets=mmdet_settings.FIELDS,
    ),
    "matterport": Home(
        ("keras",),
        {
            **_PLAIN_HEADS,
            "norm": _FIXED,
            "conv_bias": True,
            "objectness": "softmax",
            "fc_norm": {"none": "frozen", "affine": "frozen", "batch": "frozen"},
            "mask_norm": {"none": "frozen", "affine": "frozen", "batch": "frozen"},
            "box_rows": _EACH,
            "mask_rows": _EACH,
        },
        told=_MATTERPORT,
    ),
    "tensorpack": Home(
        ("npz",),
        {
            **_PLAIN_HEADS,
            "head_bias": True,
            "norm": _FIXED,
            "box_rows": {"foreground": "with-background", "agnostic-with-background": "agnostic"},
            "mask_rows": _WITHOUT_BACKGROUND,
        },
        told=_TENSORPACK,
    ),
    "chainer-mask-rcnn": Home(
        ("npz",),
        {
            **_PLAIN_HEADS,
            "norm": {"frozen": "affine", "batch": "affine"},
            "stem_bias": True,
            "box_rows": _EACH,
            "mask_rows": {**_WITHOUT_BACKGROUND, "agnostic": "foreground"},
        },
        config="params.yaml",
        settings=_chainer,
        sets=_SIZES,
    ),
    "paddledetection": Home(
        ("paddle",),
        {
            **_PLAIN_HEADS,
            "norm": _FIXED,
            "box_rows": {**_WITHOUT_BACKGROUND, "agnostic": "foreground"},
            "mask_rows": {**_WITHOUT_BACKGROUND, "agnostic": "foreground"},
        },
        config="config.yml",
        settings=_paddle,
        sets=frozenset({"min_size", "max_size", "resize", "pixel_mean", "pixel_std", "pad_multiple"}),
    ),
    "tf1_object_detection_api": Home(("bundle",), _OBJECT_DETECTION, era=_tf1_era, unread=_tf1_unread, **_PIPELINE),
    "tf2_object_detection_api": Home(("bundle of objects",), _OBJECT_DETECTION, era=lambda arch: "", **_PIPELINE),
    "tf_model_garden": Home(
        ("bundle of objects",),
        {
            **dict.fromkeys(("norm", "neck_norm", "rpn_norm", "box_norm", "fc_norm", "mask_norm"), _TRAINED),
            "upsample_norm": _TRAINED,
            "neck_norm_after": "outputs",
            "coarsest": "conv",
            "stem_bias": False,
            "conv_bias": False,
            "head_bias": True,
            "objectness": "sigmoid",
            "box_rows": {"foreground": "with-background", "agnostic-with-background": "agnostic"},
            "mask_rows": {"foreground": "with-background"},
        },
        config="params.yaml",
        settings=_model_garden,
        lacks=(".num_batches_tracked",),
    ),
}
