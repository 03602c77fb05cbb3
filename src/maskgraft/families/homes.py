"""What each home framework can hold and be told: the nearest architecture, and the settings that carry conventions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, Literal

from maskgraft.families import detectron_settings, mmdet_settings, tf_settings
from maskgraft.families.detectron_settings import Settings, depth
from maskgraft.families.pipeline_settings import FROM_CONFIG
from maskgraft.families.tf1_object_detection import FIRST, SECOND
from maskgraft.spec import Arch, Spec


def _no_settings(spec: Spec) -> Settings:
    return {}


def _nowhere(name: str) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Home:
    """How a family takes in a model that was another's.

    `containers` are the kinds of file that it reads, the usual one first. `changes` says which fields of an `Arch` have
    another value there, either always or by the value that they have; each such change is exact. `holds` are the values
    that fields of an `Arch` may have. `config` is the name of the file in which it reads its settings, "" where no file
    beside the weights holds them, and `language` that of its text. `settings` are those that come of the whole spec,
    `sets` the fields of `Numerics` among them; `printed`: they stand in a module of the user's, who must be told them.
    `told` are the fields that a constructor is given, with the names of its arguments. `era` gives the era of its names
    where that depends on the architecture. `lacks` is how our names of tensors end that it has none for. `whole` are
    the keys of its config that take integers only. `labels` is the name of the file beside it that names the classes.
    `unread` gives a further name under which the home framework asks for a tensor, and makes no use of it, or "".
    """

    containers: tuple[str, ...]
    changes: Mapping[str, Any]
    holds: Mapping[str, tuple[Any, ...]]
    config: str = ""
    language: Literal["yaml", "protobuf"] = "yaml"
    settings: Callable[[Spec], Settings] = _no_settings
    printed: bool = False
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
        arch = _one_class(replace(arch, **one))
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


def _one_class(arch: Arch) -> Arch:
    """Of one class, a row for each class and one for all are the same."""
    if arch.classes > 1:
        return arch
    kinds = {"agnostic": "foreground", "agnostic-with-background": "with-background"}
    return replace(
        arch,
        box_rows=kinds.get(arch.box_rows, arch.box_rows),  # type: ignore[arg-type]
        mask_rows=kinds.get(arch.mask_rows, arch.mask_rows),  # type: ignore[arg-type]
    )


# Norms of all GPUs are those of one in a file, whose framework is told at training which they are.
_NORMS = ("norm", "neck_norm", "rpn_norm", "box_norm", "fc_norm", "mask_norm", "upsample_norm")
_FOLDED = {"frozen": "none", "affine": "none"}
_ALL_FOLDED = {**_FOLDED, "batch": "none"}
_FIXED = {"affine": "frozen", "batch": "frozen"}
_TRAINED = dict.fromkeys(("none", "affine", "frozen"), "batch")
_EACH = dict.fromkeys(("foreground", "agnostic", "agnostic-with-background"), "with-background")
_WITHOUT_BACKGROUND = {"with-background": "foreground", "agnostic-with-background": "agnostic"}

# What most of them hold: a ResNet of bottlenecks with a pyramid, and one layer that proposes.
_RESNET: dict[str, tuple[Any, ...]] = {
    "backbone": ("resnet",),
    "block": ("bottleneck",),
    "stem": ("7x7",),
    "neck": ("fpn",),
    "rpn_convs": (1,),
    "mask_upsample": ("deconv",),
}
_ON_C4: dict[str, tuple[Any, ...]] = {**_RESNET, "neck": ("fpn", "c4")}
_CROPS: dict[str, tuple[Any, ...]] = {**_RESNET, "neck": ("c4",), "mask_upsample": ("resize",)}
_TORCHVISION_HOLDS: dict[str, tuple[Any, ...]] = {
    "backbone": ("resnet", "mobilenet_v3_large"),
    "stem": ("7x7",),
    "neck": ("fpn",),
    "mask_upsample": ("deconv",),
}

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


def _matterport(spec: Spec) -> Settings:
    """Attributes of `Config`. A side that is no multiple of 64 is refused by `MaskRCNN.build`."""
    numerics = spec.numerics
    said: dict[str, Any] = {
        "IMAGE_MAX_DIM": 64 * ceil(numerics.max_size / 64),
        "PRE_NMS_LIMIT": numerics.rpn_pre_nms or (None if numerics.rpn_pre_nms is None else numerics.rpn_post_nms),
        "USE_MINI_MASK": numerics.mask_targets == "mini-crop",
    }
    if not numerics.pad_square and numerics.pad_multiple == 64:
        said["IMAGE_RESIZE_MODE"] = "pad64"
    return said


def _tensorpack(spec: Spec) -> Settings:
    """Keys of `config.py`; colours stand in RGB there, and a pyramid counts proposals by level."""
    numerics, pyramid = spec.numerics, spec.arch.neck == "fpn"
    sizes = numerics.anchor_sizes
    said: dict[str, Any] = {
        "PREPROC.MAX_SIZE": numerics.max_size,
        "PREPROC.PIXEL_MEAN": list(numerics.pixel_mean[::-1]),
        "PREPROC.PIXEL_STD": list(numerics.pixel_std[::-1]),
        "BACKBONE.STRIDE_1X1": numerics.stride_in == "1x1",
        "BACKBONE.TF_PAD_MODE": numerics.conv_padding == "same-after",
        "RPN.ANCHOR_SIZES": [level[0] for level in sizes] if pyramid else list(sizes[0]),
        "RPN.MIN_SIZE": numerics.rpn_min_size or 0,
        "MRCNN.ACCURATE_PASTE": numerics.mask_paste != "centre-box",
    }
    if pyramid and numerics.rpn_scope == "level":
        counts = {"TEST_PER_LEVEL_NMS_TOPK": numerics.rpn_post_nms}
        counts["TRAIN_PER_LEVEL_NMS_TOPK"] = numerics.rpn_post_nms_train
    else:
        counts = {"TEST_POST_NMS_TOPK": numerics.rpn_post_nms, "TRAIN_POST_NMS_TOPK": numerics.rpn_post_nms_train}
        for when, count in (("TEST", numerics.rpn_pre_nms), ("TRAIN", numerics.rpn_pre_nms_train)):
            if count is not None:
                counts[f"{when}_PRE_NMS_TOPK"] = count or counts[f"{when}_POST_NMS_TOPK"]
    if pyramid and numerics.rpn_scope == "image":
        said["FPN.PROPOSAL_MODE"] = "Joint"
    return {**said, **{f"RPN.{key}": count for key, count in counts.items()}}


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
    return f"resnet_v1_{depth(arch)}" if arch.backbone == "resnet" else ""


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
_PIPELINE: dict[str, Any] = {
    "config": "pipeline.config",
    "language": "protobuf",
    "settings": tf_settings.settings,
    "labels": tf_settings.LABEL_MAP,
    "sets": frozenset(name for name, _, _ in FROM_CONFIG),
}

HOMES: Mapping[str, Home] = {
    "torchvision": Home(
        ("torch",),
        {**_PLAIN, "norm": {"affine": "frozen"}, "box_rows": _EACH, "mask_rows": _EACH},
        _TORCHVISION_HOLDS,
        told=_TORCHVISION,
    ),
    "detectron2": Home(
        ("pickle model", "torch model"),
        {**_PLAIN, "norm": {"affine": "frozen"}, "box_rows": _WITHOUT_BACKGROUND, "mask_rows": _WITHOUT_BACKGROUND},
        {"backbone": ("resnet",), "stem": ("7x7",), "neck": ("fpn", "c4", "dc5"), "mask_upsample": ("deconv",)},
        config="config.yaml",
        settings=detectron_settings.detectron2,
        sets=_SIZES,
        whole=frozenset({"MODEL.PROPOSAL_GENERATOR.MIN_SIZE", "MODEL.RPN.BOUNDARY_THRESH"}),
    ),
    "maskrcnn-benchmark": Home(
        ("torch model stream",),  # it runs on PyTorch 1.0 to 1.4
        {**_PLAIN_HEADS, "norm": _FIXED, "box_rows": _DETECTRON_ROWS, "mask_rows": _EACH},
        _ON_C4,
        config="config.yaml",
        settings=detectron_settings.maskrcnn_benchmark,
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
        _ON_C4,
        settings=detectron_settings.detectron,
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
        {"backbone": ("resnet",), "neck": ("fpn", "c4", "dc5"), "mask_upsample": ("deconv",)},
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
        {**_RESNET, "box_convs": (0,), "box_fcs": (2,)},
        settings=_matterport,
        printed=True,
    ),
    "tensorpack": Home(
        ("npz",),
        {
            **_PLAIN_HEADS,
            "head_bias": True,
            "norm": _FIXED,
            "box_rows": {"foreground": "with-background", "agnostic-with-background": "agnostic"},
            "mask_rows": {**_WITHOUT_BACKGROUND, "agnostic": "foreground"},
        },
        _ON_C4,
        settings=_tensorpack,
        printed=True,
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
        {**_RESNET, "neck": ("c4",)},
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
        {**_ON_C4, "stem": ("7x7", "3x3")},
        config="config.yml",
        settings=_paddle,
        sets=frozenset({"min_size", "max_size", "resize", "pixel_mean", "pixel_std", "pad_multiple"}),
    ),
    "tf1_object_detection_api": Home(
        ("bundle",),
        _OBJECT_DETECTION,
        {**_CROPS, "backbone": ("resnet", "inception_v2", "inception_resnet_v2")},
        era=_tf1_era,
        unread=_tf1_unread,
        **_PIPELINE,
    ),
    "tf2_object_detection_api": Home(
        ("bundle of objects",),
        _OBJECT_DETECTION,
        {**_CROPS, "backbone": ("resnet", "inception_resnet_v2")},
        era=lambda arch: "",
        **_PIPELINE,
    ),
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
        {name: values for name, values in _RESNET.items() if name != "rpn_convs"},
        config="params.yaml",
        settings=_model_garden,
        lacks=(".num_batches_tracked",),
    ),
}
