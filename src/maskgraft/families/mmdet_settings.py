"""The config that an MMDetection 3 file carries in its `meta`, written from a spec."""

from collections.abc import Mapping
from typing import Any

from maskgraft.spec import Arch, NormKind, Numerics, Spec

# The fields of `Numerics` that it carries.
FIELDS = frozenset(
    "channel_order pixel_mean pixel_std min_size max_size pad_multiple stride_in norm_eps anchor_sizes anchor_ratios "
    "anchor_order anchor_offset head_norm_eps stride_pooled rpn_delta_weights rpn_pre_nms rpn_post_nms "
    "rpn_nms_threshold rpn_min_size roi_aligned roi_sampling box_pool_size mask_pool_size res5_stride "
    "box_delta_weights score_threshold nms_threshold max_detections mask_threshold".split()
)


def settings(spec: Spec) -> Mapping[str, Any]:
    """A config of MMDetection 3, nested: what its `init_detector` builds the model with."""
    arch, numerics, pyramid = spec.arch, spec.numerics, spec.arch.neck == "fpn"
    stages = 3 if arch.neck == "c4" else 4
    style = "caffe" if numerics.stride_in == "1x1" else "pytorch"
    strides = [4, 8, 16, 32, 64][: len(numerics.anchor_sizes)] if pyramid else [16]
    first = numerics.anchor_sizes[0]
    align = {"type": "RoIAlign", "sampling_ratio": numerics.roi_sampling, "aligned": numerics.roi_aligned}
    norm = {"norm_cfg": _norm(arch.norm, numerics.norm_eps), "norm_eval": True, "style": style}
    depth = {"depth": sum(arch.blocks) * (3 if arch.block == "bottleneck" else 2) + 2}
    widths = [(64 if arch.block == "basic" else 256) * 2**stage for stage in range(4)]
    channels = arch.neck_channels if pyramid else widths[stages - 1]  # of what proposals and regions are made from
    layers = {"out_channels": channels, "featmap_strides": strides[:4]}
    backbone: dict[str, Any] = {
        "type": "ResNeXt" if arch.groups > 1 else "ResNet",
        **depth,
        "stem_channels": arch.stem_width,
        "num_stages": stages,
        "strides": (1, 2, 2, 1 if arch.neck == "dc5" else 2)[:stages],
        "dilations": (1, 1, 1, 2 if arch.neck == "dc5" else 1)[:stages],
        "out_indices": (0, 1, 2, 3) if pyramid else (stages - 1,),
        "deep_stem": arch.stem == "3x3",
        "avg_down": numerics.stride_pooled,
        **norm,
    }
    if arch.groups > 1:
        backbone |= {"groups": arch.groups, "base_width": arch.width_per_group}
    head: dict[str, Any] = {
        "type": "StandardRoIHead",
        "bbox_roi_extractor": {
            "type": "SingleRoIExtractor",
            "roi_layer": align | {"output_size": numerics.box_pool_size},
            **layers,
        },
        "bbox_head": {
            "type": "BBoxHead" if arch.box_head == "res5" else "ConvFCBBoxHead",
            "num_classes": arch.classes,
            "reg_class_agnostic": arch.box_rows == "agnostic",
            "bbox_coder": _coder(numerics.box_delta_weights),
            **(_mean_head(widths[-1], numerics) if arch.box_head == "res5" else _box_head(arch, numerics, channels)),
        },
        "mask_head": {
            "type": "FCNMaskHead",
            "num_convs": arch.mask_convs,
            "in_channels": widths[-1] if arch.neck == "c4" else channels,
            "norm_cfg": _norm(arch.mask_norm, numerics.eps_of_heads),
            "conv_out_channels": arch.mask_channels,
            "num_classes": arch.classes,
            "class_agnostic": arch.mask_rows == "agnostic",
        },
    }
    if arch.neck != "c4":
        layer = align | {"output_size": numerics.mask_pool_size}
        head["mask_roi_extractor"] = {"type": "SingleRoIExtractor", "roi_layer": layer, **layers}
    else:
        stride = {"stage": 3, "stride": numerics.res5_stride, "dilation": 1}
        head["shared_head"] = {"type": "ResLayer", **depth, **stride, **norm}
    model: dict[str, Any] = {
        "type": "MaskRCNN",
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            "mean": list(numerics.pixel_mean),
            "std": list(numerics.pixel_std),
            "bgr_to_rgb": numerics.channel_order == "rgb",
            "pad_size_divisor": numerics.pad_multiple,
            "pad_mask": True,
        },
        "backbone": backbone,
        "rpn_head": {
            "type": "RPNHead",
            "in_channels": channels,
            "feat_channels": arch.rpn_channels,
            "num_convs": arch.rpn_convs,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "scales": [size / first[0] for size in first],
                "base_sizes": [sizes[0] for sizes in numerics.anchor_sizes],
                "scale_major": numerics.anchor_order == "ratio",
                "ratios": list(numerics.anchor_ratios),
                "strides": strides,
                "centers": [(numerics.anchor_offset * stride,) * 2 for stride in strides],
            },
            "bbox_coder": _coder(numerics.rpn_delta_weights),
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
        },
        "roi_head": head,
        "train_cfg": None,
        "test_cfg": {
            "rpn": {
                "nms_pre": numerics.rpn_pre_nms,
                "max_per_img": numerics.rpn_post_nms,
                "nms": {"type": "nms", "iou_threshold": numerics.rpn_nms_threshold},
                "min_bbox_size": numerics.rpn_min_size or 0,  # below 0 it would keep boxes of no area to the end
            },
            "rcnn": {
                "score_thr": numerics.score_threshold,
                "nms": {"type": "nms", "iou_threshold": numerics.nms_threshold},
                "max_per_img": numerics.max_detections,
                "mask_thr_binary": numerics.mask_threshold,
            },
        },
    }
    if pyramid:
        model["neck"] = {
            "type": "FPN",
            "in_channels": widths,
            "out_channels": arch.neck_channels,
            "num_outs": 5,
            "norm_cfg": _norm(arch.neck_norm, numerics.eps_of_heads),
            "no_norm_on_lateral": arch.neck_norm_after == "outputs",
        }
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (numerics.max_size, numerics.min_size), "keep_ratio": True},
        {"type": "PackDetInputs", "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")},
    ]
    return {"model": model, "test_dataloader": {"dataset": {"pipeline": pipeline}}}


def meta(spec: Spec) -> Mapping[str, Any]:
    """What an MMDetection 3 file says of itself beside its weights."""
    text = "\n".join(f"{name} = {value!r}" for name, value in settings(spec).items())
    return {"mmdet_version": "3.3.0", "dataset_meta": {"classes": list(spec.classes)}, "cfg": text + "\n"}


def _norm(kind: NormKind, eps: float) -> dict[str, Any] | None:
    if kind == "none":
        return None
    return {"type": "GN", "num_groups": 32, "eps": eps} if kind == "group" else {"type": "BN", "eps": eps}


def _coder(weights: tuple[float, float, float, float]) -> dict[str, Any]:
    stds = [1 / weight for weight in weights]
    return {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": stds}


def _box_head(arch: Arch, numerics: Numerics, channels: int) -> dict[str, Any]:
    return {
        "in_channels": channels,
        "roi_feat_size": numerics.box_pool_size,
        "num_shared_convs": arch.box_convs,
        "conv_out_channels": arch.box_conv_channels,
        "num_shared_fcs": arch.box_fcs,
        "fc_out_channels": arch.box_fc_width,
        "norm_cfg": _norm(arch.box_norm, numerics.eps_of_heads),
    }


def _mean_head(channels: int, numerics: Numerics) -> dict[str, Any]:
    side = numerics.box_pool_size // numerics.res5_stride
    return {"with_avg_pool": True, "roi_feat_size": side, "in_channels": channels}
