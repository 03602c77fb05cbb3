"""No setting of a config that changes results is passed over: it is obeyed, or it is refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maskgraft.errors import CheckpointError
from maskgraft.families import identify
from maskgraft.preprocess import network_size
from maskgraft.spec import Numerics, Spec
from tests.families.drawn import drawn
from tests.families.slim import SLIM

WIDTHS = ("stem_width", "width_per_group", "neck_channels", "box_fc_width", "mask_channels")
GN: dict[str, Any] = {
    **{"norm": "group", "neck_norm": "group", "fc_norm": "group", "fc_bias": False, "mask_norm": "group"},
    **dict.fromkeys(WIDTHS, 32),
}


def slim(name: str, **changes: Any) -> tuple[Spec, str]:
    spec, era = SLIM[name]
    return replace(spec, arch=replace(spec.arch, blocks=(1, 1, 1, 1), **changes)), era


FILES: dict[str, tuple[tuple[Spec, str], str]] = {
    "detectron2": (slim("detectron2"), "config.yaml"),
    "detectron2 dc5": (slim("detectron2", neck="dc5"), "config.yaml"),
    "detectron2 gn": (slim("detectron2", norm="group", neck_norm="group", **dict.fromkeys(WIDTHS, 32)), "config.yaml"),
    "benchmark": (slim("maskrcnn-benchmark"), "config.yaml"),
    "benchmark gn": (slim("maskrcnn-benchmark", **GN), "config.yaml"),
    "benchmark gn heads": (slim("maskrcnn-benchmark", **{**GN, "norm": "frozen"}), "config.yaml"),
    "benchmark c4": (
        slim("maskrcnn-benchmark", neck="c4", box_head="res5", anchors_per_cell=15, mask_convs=0),
        "config.yaml",
    ),
    "detectron": (slim("detectron"), "config.yaml"),
    "detectron c4": (
        slim("detectron", neck="c4", box_head="res5", anchors_per_cell=15, mask_convs=0),
        "config.yaml",
    ),
    "mmdet": (slim("mmdet"), "config.py"),
    "paddle": (slim("paddle"), "config.yml"),
    "garden": (slim("model garden"), "params.yaml"),
    "tf1": (slim("tf1"), "pipeline.config"),
}


def read(name: str, text: str, folder: Path) -> Numerics:
    (spec, era), called = FILES[name]
    path = folder / called
    path.write_text(text)
    return identify(drawn(spec, era), config=path).spec.numerics


MMDET = {
    "model": "model = dict({})",
    "head": "model = dict(roi_head=dict({}))",
    "nms": "model = dict(test_cfg=dict(rcnn=dict(nms=dict({}))))",
    "step": "test_pipeline = [dict({})]",
}
TF = """
model {{ faster_rcnn {{
  num_classes: 3
  image_resizer {{ {resizer} }}
  feature_extractor {{ type: "faster_rcnn_resnet50" first_stage_features_stride: 16 }}
  first_stage_anchor_generator {{ grid_anchor_generator {{
    scales: [0.25, 0.5, 1.0, 2.0]  aspect_ratios: [0.5, 1.0, 2.0] {anchors} }} }}
  second_stage_box_predictor {{ mask_rcnn_box_predictor {{ {heads} }} }}
  second_stage_post_processing {{ {after} }}
  {other}
}} }}
"""


def tf(resizer: str = "keep_aspect_ratio_resizer { }", after: str = "score_converter: SOFTMAX", **parts: str) -> str:
    return TF.format(resizer=resizer, after=after, **{"heads": "", "anchors": "", "other": "", **parts})


# what builds a pyramid, and its anchors
DETECTRON2 = (
    "MODEL: {{MASK_ON: true, BACKBONE: {{NAME: build_resnet_fpn_backbone}}, "
    "ANCHOR_GENERATOR: {{SIZES: [[32], [64], [128], [256], [512]]}}, {}}}"
)
DETECTRON = """
MODEL: {CONV_BODY: FPN.add_fpn_ResNet50_conv5_body, MASK_ON: true}
FAST_RCNN: {ROI_XFORM_METHOD: RoIAlign, ROI_XFORM_RESOLUTION: 7}
MRCNN: {DILATION: 1, ROI_XFORM_RESOLUTION: 14}
"""

REFUSED = [
    ("detectron2", "MODEL: {ROI_BOX_HEAD: {USE_SIGMOID_CE: true}}", "USE_SIGMOID_CE"),
    ("detectron2", "MODEL: {RPN: {HEAD_NAME: MyHead}}", "RPN.HEAD_NAME"),
    ("detectron2", "MODEL: {RPN: {IN_FEATURES: [p3, p4, p5, p6, p7]}}", "RPN.IN_FEATURES"),
    ("detectron2", "MODEL: {ROI_HEADS: {IN_FEATURES: [p3, p4, p5]}}", "ROI_HEADS.IN_FEATURES"),
    ("detectron2", "MODEL: {RESNETS: {RES5_DILATION: 2}}", "RES5_DILATION"),
    ("detectron2 dc5", "MODEL: {RESNETS: {RES5_DILATION: 1}}", "RES5_DILATION"),
    (
        "detectron2",
        "MODEL: {ROI_BOX_HEAD: {POOLER_SAMPLING_RATIO: 0}, ROI_MASK_HEAD: {POOLER_SAMPLING_RATIO: 2}}",
        "ROI_MASK_HEAD.POOLER_SAMPLING_RATIO",
    ),
    ("detectron2", "model: {roi_heads: {box_predictor: {use_sigmoid_ce: true}}}", "use_sigmoid_ce"),
    ("detectron2", "model: {backbone: {bottom_up: {_target_: detectron2.modeling.RegNet}}}", "RegNet, not ResNet"),
    ("detectron2", "MODEL: {ROI_MASK_HEAD: {NAME: PointRendMaskHead}}", "PointRendMaskHead"),
    ("detectron2", "MODEL: {BACKBONE: {NAME: build_retinanet_resnet_fpn_backbone}}", "build_retinanet"),
    ("detectron2", "MODEL: {MASK_ON: false}", "MASK_ON"),
    (
        "detectron2",
        DETECTRON2.format("RPN: {IN_FEATURES: [p2, p3, p4, p5, p6]}, RESNETS: {RES5_DILATION: 2}"),
        "DILATION",
    ),
    ("benchmark", "MODEL: {RPN: {ANCHOR_STRIDE: [8, 16, 32, 64, 128]}}", "ANCHOR_STRIDE"),
    ("benchmark", "MODEL: {ROI_BOX_HEAD: {POOLER_SCALES: [0.125, 0.0625]}}", "POOLER_SCALES"),
    (
        "benchmark",
        "MODEL: {ROI_BOX_HEAD: {POOLER_SAMPLING_RATIO: 2}, ROI_MASK_HEAD: {POOLER_SAMPLING_RATIO: 0}}",
        "POOLER_SAMPLING_RATIO",
    ),
    ("benchmark", "MODEL: {MASK_ON: false}", "MASK_ON"),
    ("benchmark", "MODEL: {RESNETS: {STAGE_WITH_DCN: [false, true, true, true]}}", "STAGE_WITH_DCN"),
    ("benchmark", "MODEL: {RPN: {ANCHOR_STRIDE: [16]}}", "ANCHOR_STRIDE"),
    ("benchmark c4", "MODEL: {ROI_MASK_HEAD: {SHARE_BOX_FEATURE_EXTRACTOR: false}}", "SHARE_BOX_FEATURE_EXTRACTOR"),
    ("detectron", "FPN: {ROI_CANONICAL_SCALE: 112}", "ROI_CANONICAL_SCALE"),
    ("detectron", "TEST: {BBOX_AUG: {ENABLED: true}}", "BBOX_AUG"),
    ("detectron", "MRCNN: {DILATION: 2}", "DILATION"),
    ("detectron", "MODEL: {CONV_BODY: FPN.add_fpn_ResNet50_conv5_body}", "FAST_RCNN.ROI_XFORM_METHOD is 'RoIPoolF'"),
    ("detectron", "TEST: {BBOX_REG: false}", "TEST.BBOX_REG"),
    ("detectron", "MODEL: {FASTER_RCNN: false}", "MODEL.FASTER_RCNN"),
    ("mmdet", MMDET["nms"].format("class_agnostic=True"), "class_agnostic"),
    ("mmdet", MMDET["nms"].format("max_num=50"), "max_num"),
    ("mmdet", MMDET["nms"].format("score_threshold=0.1"), "score_threshold"),
    ("mmdet", "model = dict(test_cfg=dict(rpn=dict(nms=dict(offset=1))))", "offset"),
    ("mmdet", MMDET["model"].format("neck=dict(end_level=2)"), "end_level"),
    ("mmdet", MMDET["model"].format("neck=dict(norm_cfg=dict(type='GN', num_groups=16))"), "num_groups"),
    ("mmdet", MMDET["model"].format("backbone=dict(norm_cfg=dict(type='IN'))"), "IN"),
    (
        "mmdet",
        MMDET["model"].format(
            "neck=dict(norm_cfg=dict(type='BN')), roi_head=dict(mask_head=dict(norm_cfg=dict(type='BN', eps=0.001)))"
        ),
        "to variances",
    ),
    (
        "mmdet",
        MMDET["model"].format(
            "rpn_head=dict(bbox_coder=dict(type='DeltaXYWHBBoxCoder')), "
            "roi_head=dict(bbox_head=dict(bbox_coder=dict(type='LegacyDeltaXYWHBBoxCoder')))"
        ),
        "coders DeltaXYWHBBoxCoder and LegacyDeltaXYWHBBoxCoder",
    ),
    ("mmdet", MMDET["step"].format("type='Resize', scale_factor=0.5, keep_ratio=True"), "by a factor"),
    ("mmdet", MMDET["step"].format("type='MultiScaleFlipAug', scale_factor=1.0, transforms=[]"), "by a factor"),
    ("mmdet", MMDET["step"].format("type='LoadImageFromFile', to_float32=True"), "to_float32"),
    ("mmdet", MMDET["step"].format("type='LoadImageFromFile', color_type='grayscale'"), "grayscale"),
    ("mmdet", MMDET["model"].format("neck=dict(upsample_cfg=dict(mode='bilinear'))"), "upsample_cfg"),
    ("mmdet", MMDET["model"].format("backbone=dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))"), "strides"),
    ("mmdet", MMDET["model"].format("data_preprocessor=dict(pad_value=114)"), "pad_value"),
    ("mmdet", MMDET["model"].format("rpn_head=dict(bbox_coder=dict(clip_border=False))"), "clip_border"),
    ("mmdet", MMDET["head"].format("bbox_head=dict(loss_cls=dict(type='SeesawLoss'))"), "SeesawLoss"),
    ("mmdet", MMDET["head"].format("bbox_head=dict(cls_predictor_cfg=dict(type='NormedLinear'))"), "NormedLinear"),
    ("mmdet", MMDET["head"].format("bbox_head=dict(bbox_coder=dict(target_means=[0.1, 0, 0, 0]))"), "target_means"),
    (
        "mmdet",
        MMDET["head"].format(
            "bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=0)), "
            "mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=2))"
        ),
        "mask_roi_extractor.roi_layer.sampling_ratio",
    ),
    ("mmdet", MMDET["step"].format("type='Resize', scale=(1333, 800)"), "without keeping their ratio"),
    ("mmdet", MMDET["step"].format("type='Resize', img_scale=(1333, 800), backend='pillow'"), "pillow"),
    ("mmdet", MMDET["step"].format("type='Pad', size=(1024, 1024)"), "padded"),
    ("mmdet", MMDET["step"].format("type='CenterCrop', crop_size=5"), "CenterCrop"),
    (
        "mmdet",
        MMDET["model"].format("data_preprocessor=dict(pad_size_divisor=32)")
        + "\ntest_pipeline = [dict(type='Pad', size_divisor=64)]",
        "before the data_preprocessor does",
    ),
    ("mmdet", MMDET["model"].format("test_cfg=dict(rpn=dict(max_per_img=-1))"), "rpn.max_per_img is -1"),
    (
        "paddle",
        "TestReader: {sample_transforms: [{Resize: {target_size: [1, 2], interp: 2, keep_ratio: false}}]}",
        "ratio",
    ),
    ("paddle", "TestReader: {sample_transforms: [{Resize: {target_size: [1, 2], interp: 0}}]}", "interp 0"),
    ("paddle", "TestReader: {sample_transforms: [{LetterBoxResize: {target_size: 608}}]}", "LetterBoxResize"),
    ("paddle", "BBoxPostProcess: {nms: {name: MatrixNMS}}", "MatrixNMS"),
    ("paddle", "BBoxPostProcess: {nms: {name: MultiClassNMS, nms_top_k: 100}}", "nms_top_k is 100"),
    ("paddle", "MaskHead: {share_bbox_feat: true}", "share_bbox_feat"),
    ("paddle", "RPNHead: {test_proposal: {eta: 0.9}}", "eta is 0.9"),
    (
        "paddle",
        "MaskHead: {roi_extractor: {sampling_ratio: 2}}\nBBoxHead: {roi_extractor: {sampling_ratio: 0}}",
        "MaskHead",
    ),
    (
        "paddle",
        "MaskHead: {roi_extractor: {resolution: 14}}\nBBoxHead: {roi_extractor: {aligned: true}}",
        "MaskHead.roi_extractor.aligned is False",
    ),
    ("paddle", "architecture: CascadeRCNN", "CascadeRCNN"),
    ("garden", "task: {model: {detection_generator: {use_sigmoid_probability: true}}}", "use_sigmoid_probability"),
    ("garden", "task: {model: {detection_generator: {use_class_agnostic_nms: true}}}", "use_class_agnostic_nms"),
    ("tf1", tf(after="score_converter: SOFTMAX calibration_config { }"), "calibration_config"),
    ("tf1", tf(after="score_converter: SOFTMAX batch_non_max_suppression { use_combined_nms: true }"), "combined"),
    ("tf1", tf("keep_aspect_ratio_resizer { convert_to_grayscale: true }"), "convert_to_grayscale"),
    ("tf1", tf("keep_aspect_ratio_resizer { per_channel_pad_value: [1, 2, 3] }"), "per_channel_pad_value"),
    ("tf1", tf("conditional_shape_resizer { }"), "conditional_shape_resizer"),
    ("tf1", tf(other="context_config { }"), "context_config"),
    ("tf1", tf(other="use_combined_nms_in_first_stage: true"), "use_combined_nms_in_first_stage"),
    ("tf1", tf(anchors="height_offset: 4"), "height_offset"),
    ("tf1", tf(other="first_stage_box_predictor_conv_hyperparams { batch_norm { } }"), "batch_norm"),
]


@pytest.mark.parametrize(("name", "text", "says"), REFUSED, ids=[f"{name}: {says}" for name, _, says in REFUSED])
def test_it_is_refused_by_name(name: str, text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=says) as raised:
        read(name, text, tmp_path)
    assert raised.value.findings[0].code == "family.unknown"


OBEYED: list[tuple[str, str, dict[str, Any]]] = [
    ("detectron2", "INPUT: {MIN_SIZE_TEST: 0}", {"min_size": 0}),
    (
        "detectron2",
        "model: {proposal_generator: {min_box_size: 4, smooth_l1_beta: 0.5, anchor_boundary_thresh: 0}}",
        {"rpn_min_size": 4, "rpn_beta": 0.5, "rpn_straddle": 0},
    ),
    (
        "detectron2 gn",
        DETECTRON2.format("ROI_BOX_HEAD: {POOLER_RESOLUTION: 7}"),
        {"stride_in": "1x1", "rpn_pre_nms": 6000, "rpn_pre_nms_train": 12000, "rpn_post_nms_train": 2000},
    ),
    ("detectron2 gn", "MODEL: {ROI_BOX_HEAD: {POOLER_RESOLUTION: 7}}", {"stride_in": "3x3", "rpn_pre_nms": 1000}),
    (
        "detectron2",
        "MODEL: {ANCHOR_GENERATOR: {SIZES: [48], ASPECT_RATIOS: [0.25, 1.0, 4.0]}}",
        {"anchor_sizes": ((48.0,),) * 5, "anchor_ratios": (0.25, 1.0, 4.0)},
    ),
    ("detectron2", "TEST: {DETECTIONS_PER_IMAGE: -1}\nMODEL: {RPN: {POST_NMS_TOPK_TEST: 5}}", {"max_detections": 15}),
    (
        "detectron2",
        "MODEL: {RPN: {LOSS_WEIGHT: 2.0, BBOX_REG_LOSS_WEIGHT: 1.5, BBOX_REG_LOSS_TYPE: giou}, "
        "ROI_BOX_HEAD: {BBOX_REG_LOSS_WEIGHT: 10.0}, ROI_HEADS: {PROPOSAL_APPEND_GT: false}}",
        {"loss_weights": (2, 3, 1, 10, 1), "rpn_box_loss": "giou", "box_loss": "smooth-l1", "roi_truth": False},
    ),
    (
        "detectron2",
        "model: {_target_: GeneralizedRCNN, proposal_generator: {loss_weight: 0.5}, "
        "roi_heads: {box_predictor: {loss_weight: {loss_box_reg: 4.0}, box_reg_loss_type: giou}}}",
        {"loss_weights": (0.5, 0.5, 1, 4, 1), "box_loss": "giou", "score_threshold": 0.0, "stride_in": "3x3"},
    ),
    (
        "detectron",
        DETECTRON,
        {
            **{"min_size": 600, "max_size": 1000, "nms_threshold": 0.3, "rpn_pre_nms": 12000, "rpn_post_nms": 2000},
            **{"roi_sampling": 0, "roi_samples": 64},
        },
    ),
    (
        "detectron",
        "TEST: {RPN_PRE_NMS_TOP_N: 0, RPN_NMS_THRESH: 0.0, RPN_POST_NMS_TOP_N: 7, DETECTIONS_PER_IM: 0}",
        {"rpn_pre_nms": None, "rpn_nms_threshold": 2.0, "max_detections": 7 * 3},
    ),
    (
        "detectron c4",
        "TEST: {RPN_PRE_NMS_TOP_N: 500, RPN_NMS_THRESH: 0.0, RPN_POST_NMS_TOP_N: 7}",
        {"rpn_nms_threshold": 2.0, "rpn_post_nms": 500, "rpn_post_nms_train": 12000},
    ),
    ("detectron c4", "TEST: {RPN_POST_NMS_TOP_N: 0}", {"rpn_post_nms": 6000, "rpn_post_nms_train": 2000}),
    ("detectron", "MRCNN: {WEIGHT_LOSS_MASK: 2.0}", {"loss_weights": (1, 1, 1, 1, 2)}),
    ("benchmark", "MODEL: {ROI_MASK_HEAD: {POSTPROCESS_MASKS_THRESHOLD: 0.4}}", {"mask_threshold": 0.5}),
    (
        "benchmark",
        "MODEL: {ROI_MASK_HEAD: {POSTPROCESS_MASKS: true, POSTPROCESS_MASKS_THRESHOLD: 0.4}}",
        {"mask_threshold": 0.4},
    ),
    (
        "benchmark",
        "MODEL: {BACKBONE: {CONV_BODY: R-50-FPN}, ROI_HEADS: {SCORE_THRESH: 0.2}}",  # all else by its own defaults
        {
            **{"score_threshold": 0.2, "rpn_pre_nms": 6000, "rpn_post_nms": 2000, "rpn_level_post_nms": 1000},
            **{"rpn_pre_nms_train": 12000, "rpn_level_post_nms_train": None},
            **{"pad_multiple": 1, "roi_sampling": 0, "box_pool_size": 14},
        },
    ),
    ("benchmark", "MODEL: {RPN: {POST_NMS_TOP_N_TEST: 300}}", {"rpn_level_post_nms": 300, "rpn_post_nms": 1000}),
    ("benchmark", "MODEL: {RPN: {FPN_POST_NMS_PER_BATCH: false}}", {"rpn_post_nms_shared": False}),
    (
        "benchmark",
        "MODEL: {RPN: {NMS_THRESH: 0}, ROI_HEADS: {NMS: -1, DETECTIONS_PER_IMG: 0}}",
        {"rpn_nms_threshold": 2.0, "nms_threshold": 2.0, "max_detections": 3000},
    ),
    ("benchmark c4", "MODEL: {RPN: {FPN_POST_NMS_PER_BATCH: true}}", {"rpn_post_nms_shared": False}),
    ("benchmark gn heads", "MODEL: {GROUP_NORM: {EPSILON: 0.001}}", {"norm_eps": 0.0, "head_norm_eps": 0.001}),
    ("benchmark gn heads", "MODEL: {MASK_ON: true}", {"norm_eps": 0.0, "head_norm_eps": 1e-5}),
    ("benchmark c4", "MODEL: {RPN: {POST_NMS_TOP_N_TEST: 300}}", {"rpn_level_post_nms": None, "rpn_post_nms": 300}),
    ("benchmark gn", "MODEL: {GROUP_NORM: {EPSILON: 0.001}}", {"norm_eps": 0.001}),
    ("benchmark", "MODEL: {GROUP_NORM: {EPSILON: 0.001}}", {"norm_eps": 0.0}),
    ("detectron", "BBOX_XFORM_CLIP: 4.0\nFPN: {COARSEST_STRIDE: 64}", {"delta_clip": 4.0, "pad_multiple": 64}),
    (
        "mmdet",
        "test_pipeline = [dict(type='Resize', scale=(9, 9), keep_ratio=True)]\n"
        "test_dataloader = dict(dataset=dict(pipeline=[dict(type='mmdet.Resize', scale=(800, 500), keep_ratio=True)]))",
        {"min_size": 500, "max_size": 800},
    ),
    (
        "mmdet",
        "model = dict(type='mmdet.models.detectors.MaskRCNN', "
        "rpn_head=dict(loss_bbox=dict(type='mmdet.models.losses.L1Loss')))",
        {"rpn_beta": 0.0},
    ),
    (
        "mmdet",
        MMDET["model"].format(
            "rpn_head=dict(anchor_generator=dict(octave_base_scale=4, scales_per_octave=2, scale_major=False, "
            "ratios=[0.5, 1.0], strides=[(4, 4), (8, 8), (16, 16), (32, 32), (64, 64)]))"
        ),
        {"anchor_sizes": tuple((16.0 * 2**n, 16 * 2**n * 2**0.5) for n in range(5)), "anchor_order": "size"},
    ),
    (
        "paddle",
        """
RPNHead: {anchor_generator: {anchor_sizes: [16, 32], aspect_ratios: [1.0], offset: 0.5}}
RCNNBox: {prior_box_var: [5.0, 5.0, 2.0, 2.0]}
BBoxHead: {roi_extractor: {resolution: 5, sampling_ratio: 2}}
MaskHead: {roi_extractor: {resolution: 10, sampling_ratio: 2}}
TestReader:
  sample_transforms:
  - Decode: {}
  - Resize: {interp: 1, target_size: [640, 1024], keep_ratio: True}
  - NormalizeImage: {is_scale: false, mean: [100, 101, 102], std: [1, 2, 3]}
  - Permute: {}
  batch_transforms: [{PadBatch: {pad_to_stride: 64}}]
""",
        {
            "anchor_sizes": ((16.0, 32.0),) * 5,
            "anchor_ratios": (1.0,),
            "anchor_offset": 0.5,
            "box_delta_weights": (5, 5, 2, 2),
            "box_pool_size": 5,
            "mask_pool_size": 10,
            "roi_sampling": 2,
            "roi_aligned": False,  # the default of its RoIAlign, whatever its sample configs say
            "resize": "opencv-factor",
            "min_size": 640,
            "max_size": 1024,
            "pixel_scale": 1.0,
            "pixel_mean": (100, 101, 102),
            "pixel_std": (1, 2, 3),
            "pad_multiple": 64,
        },
    ),
    (
        "garden",
        "task: {model: {detection_generator: {box_coder_weights: [5, 6, 2, 3]}}}",
        {"box_delta_weights": (6, 5, 3, 2)},
    ),
    (
        "benchmark",
        "MODEL: {ROI_HEADS: {NMS: 0.0, DETECTIONS_PER_IMG: 0}, RPN: {NMS_THRESH: -0.1, PRE_NMS_TOP_N_TEST: 80, "
        "POST_NMS_TOP_N_TEST: 50, FPN_POST_NMS_TOP_N_TEST: 90, POST_NMS_TOP_N_TRAIN: 0}}",
        {
            "nms_threshold": 2,
            "rpn_nms_threshold": 2,
            "rpn_post_nms": 90,
            "rpn_level_post_nms": None,  # nothing is counted that is not suppressed
            "rpn_level_post_nms_train": None,
            "max_detections": 90 * 3,
        },
    ),
    (
        "benchmark c4",
        "MODEL: {RPN: {NMS_THRESH: 0, PRE_NMS_TOP_N_TEST: 80, POST_NMS_TOP_N_TEST: 50}}",
        {"rpn_nms_threshold": 2, "rpn_post_nms": 80},
    ),
    (
        "benchmark c4",
        "MODEL: {RPN: {PRE_NMS_TOP_N_TEST: 80, POST_NMS_TOP_N_TEST: 50, PRE_NMS_TOP_N_TRAIN: 70, "
        "POST_NMS_TOP_N_TRAIN: 0}}",
        {"rpn_nms_threshold": 0.7, "rpn_post_nms": 50, "rpn_post_nms_train": 70},
    ),
    ("mmdet", MMDET["head"].format("bbox_head=dict(loss_bbox=dict(type='GIoULoss'))"), {"box_loss": "giou"}),
    (
        "mmdet",
        MMDET["model"].format("data_preprocessor=dict(pad_size_divisor=16)")
        + "\ntest_pipeline = [dict(type='Normalize', mean=[1, 2, 3], std=[4, 5, 6], to_rgb=True)]",
        {"channel_order": "rgb", "pixel_mean": (1, 2, 3), "pixel_std": (4, 5, 6), "pad_multiple": 16},
    ),
    ("mmdet", MMDET["model"].format("test_cfg=dict(rpn=dict(min_bbox_size=-1))"), {"rpn_min_size": None}),
    (
        "mmdet",
        MMDET["model"].format(
            "type='MaskRCNN', test_cfg=dict(rpn=dict(nms_pre=-1, nms=None), rcnn=dict(nms=None, max_per_img=-1))"
        ),
        {"rpn_pre_nms": None, "rpn_nms_threshold": 2, "nms_threshold": 2, "max_detections": 3 * 1000},
    ),
    (
        "mmdet",
        MMDET["model"]
        .format(
            "type='MaskRCNN', test_cfg=dict(rpn=dict(nms_post=50, max_per_img=90)), "
            "train_cfg=dict(rpn_proposal=dict(nms_pre=0, min_bbox_size=-1), rcnn=dict(soft_mask_target=True))"
        )
        .replace("test_cfg", "roi_head=dict(type='StandardRoIHead'), test_cfg"),
        {
            "rpn_pre_nms": None,  # where a model is built, what is not said is no limit
            "rpn_min_size": None,
            "rpn_level_post_nms": None,  # MMDetection 1's
            "rpn_post_nms": 90,
            "rpn_pre_nms_train": None,
            "rpn_min_size_train": None,
            "mask_targets": "soft-bitmap",
        },
    ),
    (
        "mmdet",
        MMDET["model"].format("backbone=dict(norm_cfg=dict(type='BN', eps=1e-3)), neck=dict(norm_cfg=dict(type='BN'))"),
        {"norm_eps": 1e-3, "head_norm_eps": 1e-5},
    ),
    (
        "mmdet",
        MMDET["model"].format(
            "rpn_head=dict(loss_cls=dict(loss_weight=2.0)), "
            "roi_head=dict(mask_head=dict(loss_mask=dict(loss_weight=0.5))),"
            " train_cfg=dict("
            "rpn=dict(assigner=dict(match_low_quality=False, min_pos_iou=0.2, neg_iou_thr=0.4), allowed_border=8), "
            "rpn_proposal=dict(nms_pre=700, max_per_img=600, min_bbox_size=4), "
            "rcnn=dict(assigner=dict(min_pos_iou=0.6), sampler=dict(num=64, add_gt_as_proposals=False)))"
        ),
        {
            "loss_weights": (2.0, 1.0, 1.0, 1.0, 0.5),
            "rpn_rescue": "none",
            "rpn_rescue_iou": 0.2,
            "rpn_negative_iou": 0.4,
            "rpn_straddle": 8,
            "rpn_pre_nms_train": 700,
            "rpn_post_nms_train": 600,
            "rpn_min_size_train": 4,
            "roi_rescue_iou": 0.6,
            "roi_samples": 64,
            "roi_truth": False,
        },
    ),
    (
        "mmdet",
        MMDET["model"].format(
            "test_cfg=dict(rpn=dict(nms_pre=500)), "
            "train_cfg=dict(rpn=dict(allowed_border=-1), rcnn=dict(assigner=dict(match_low_quality=False)))"
        ),
        {"rpn_pre_nms_train": 500, "rpn_straddle": None, "roi_rescue_iou": None},
    ),
    ("tf1", tf(), {"min_size": 600, "max_size": 1024, "fixed_size": None}),
    ("tf1", tf("fixed_shape_resizer { width: 400 }"), {"fixed_size": (300, 400)}),
    ("tf1", tf("fixed_shape_resizer { resize_method: AREA }"), {"resize": "tensorflow-1-area"}),
    ("tf1", tf("keep_aspect_ratio_resizer { resize_method: BICUBIC }"), {"resize": "tensorflow-1-cubic"}),
    ("tf1", tf("keep_aspect_ratio_resizer { resize_method: NEAREST_NEIGHBOR }"), {"resize": "tensorflow-1-nearest"}),
    (
        "tf1",
        tf("keep_aspect_ratio_resizer { pad_to_max_dimension: true max_dimension: 640 }"),
        {"pad_square": True, "pad_black": True, "clip_shown": True, "mask_regions": "stretched", "max_size": 640},
    ),
    ("tf1", tf(after="batch_non_max_suppression { }"), {"class_scores": "logit"}),
    ("tf1", tf(after="score_converter: SIGMOID logit_scale: 2"), {"class_scores": "sigmoid", "logit_scale": 2.0}),
    (
        "tf1",
        tf(other="clip_anchors_to_image: true"),
        {"anchor_clip_train": True, "rpn_straddle": None, "rpn_outside": "matched"},
    ),
    ("tf1", tf("identity_resizer { }"), {"min_size": 0, "fixed_size": None}),
    ("tf1", tf(anchors="height_offset: 4 width_offset: 4"), {"anchor_offset": 0.25}),
    (
        "tf1",
        tf(anchors="height: 128 width: 512"),
        {"anchor_sizes": ((64, 128, 256, 512),), "anchor_ratios": (0.5, 0.25, 0.125)},
    ),
]


@pytest.mark.parametrize(("name", "text", "wanted"), OBEYED, ids=[f"{name}: {list(said)}" for name, _, said in OBEYED])
def test_it_is_obeyed(name: str, text: str, wanted: dict[str, Any], tmp_path: Path) -> None:
    told = read(name, text, tmp_path)
    assert {field: getattr(told, field) for field in wanted} == wanted


def test_what_a_config_leaves_is_said_to_be_a_default(tmp_path: Path) -> None:
    (spec, era), called = FILES["detectron2"]
    (tmp_path / called).write_text(DETECTRON2.format("ROI_BOX_HEAD: {POOLER_RESOLUTION: 7}"))
    told = identify(drawn(spec, era), config=tmp_path / called).spec.learned
    assert {name: told[f"numerics.{name}"].how for name in ("box_pool_size", "rpn_pre_nms", "min_size", "resize")} == {
        "box_pool_size": "read",
        "rpn_pre_nms": "implied",
        "min_size": "implied",
        "resize": "implied",
    }
    assert "MODEL.RPN.PRE_NMS_TOPK_TEST, which the config leaves" in told["numerics.rpn_pre_nms"].source


def test_a_photograph_that_is_not_resized(tmp_path: Path) -> None:
    assert network_size((333, 517), read("detectron2", "INPUT: {MIN_SIZE_TEST: 0}", tmp_path)) == (333, 517)
    (spec, _), _ = FILES["detectron2"]
    assert network_size((333, 517), spec.with_numerics({"min_size": 0}).numerics) == (333, 517)


@pytest.mark.parametrize(
    ("name", "text", "key"),
    [
        (
            "detectron2",
            "MODEL: {RPN: {BBOX_REG_LOSS_TYPE: diou, LOSS_WEIGHT: 1.0}}",
            "MODEL.RPN.BBOX_REG_LOSS_TYPE",
        ),
        (
            "benchmark",
            "MODEL: {ROI_HEADS: {FG_IOU_THRESHOLD: 0.6, BG_IOU_THRESHOLD: 0.4}}",
            "MODEL.ROI_HEADS.BG_IOU_THRESHOLD",
        ),
    ],
)
def test_settings_of_trainings_alone_are_told(name: str, text: str, key: str, tmp_path: Path) -> None:
    (spec, era), _ = FILES[name]
    path = tmp_path / "config.yaml"
    path.write_text(text)
    (finding,) = identify(drawn(spec, era), config=path).findings
    assert (finding.code, finding.severity) == ("numerics.training", "info")
    assert finding.names == (key,)


def test_what_a_config_of_paddledetection_leaves_out_is_what_its_classes_take(tmp_path: Path) -> None:
    text = """
RPNHead: {test_proposal: {min_size: 0.0}, train_proposal: {pre_nms_top_n: 2000, nms_thresh: 0.7}}
BBoxPostProcess: {nms: {nms_top_k: 2000}}
"""
    told = read("paddle", text, tmp_path)
    assert (told.rpn_pre_nms, told.rpn_post_nms, told.rpn_nms_threshold) == (12000, 2000, 0.5)
    assert (told.rpn_pre_nms_train, told.rpn_post_nms_train) == (2000, 2000)


def test_settings_of_paddledetections_trainings_are_told(tmp_path: Path) -> None:
    (spec, era), called = FILES["paddle"]
    path = tmp_path / called
    path.write_text("""
RPNHead: {test_proposal: {nms_thresh: 0.6}, train_proposal: {nms_thresh: 0.7}}
BBoxAssigner: {bg_thresh: 0.5, fg_thresh: 0.5}
BBoxHead: {bbox_loss: GIoULoss}
""")
    (finding,) = identify(drawn(spec, era), config=path).findings
    assert finding.names == ("BBoxHead.bbox_loss", "RPNHead.train_proposal.nms_thresh")


def test_a_label_map_of_more_classes_than_the_file_has_is_told(tmp_path: Path) -> None:
    (spec, era), called = FILES["tf1"]
    items = "".join(f'item {{ id: {number} name: "c{number}" }}\n' for number in (1, 2, 3, 7))
    (tmp_path / "map.pbtxt").write_text(items)
    (tmp_path / called).write_text(tf() + 'train_input_reader { label_map_path: "map.pbtxt" }')
    findings = identify(drawn(spec, era), config=tmp_path / called).findings
    assert ["goes up to id 7" in one.message for one in findings if one.code == "shape.classes"] == [True]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("img_scale=[(9, 6), (12, 8)], flip=True", "at several sizes and flipped too"),
        ("img_scale=(9, 6), flip=True", "each image flipped too"),
        ("img_scale=(9, 6), flip=False", ""),
    ],
)
def test_tests_that_look_several_times_are_told(options: str, says: str, tmp_path: Path) -> None:
    (spec, era), called = FILES["mmdet"]
    (tmp_path / called).write_text(f"test_pipeline = [dict(type='MultiScaleFlipAug', {options}, transforms=[])]")
    findings = identify(drawn(spec, era), config=tmp_path / called).findings
    assert [says in one.message for one in findings if one.code == "numerics.resize"] == [True] * bool(says)


def test_soft_masks_of_mmdetection_are_told(tmp_path: Path) -> None:
    (spec, era), called = FILES["mmdet"]
    (tmp_path / called).write_text("model = dict(test_cfg=dict(rcnn=dict(mask_thr_binary=-1)))")
    reading = identify(drawn(spec, era), config=tmp_path / called)
    (finding,) = reading.findings
    assert (finding.code, finding.severity) == ("numerics.assumed", "warning")
    assert "mask_thr_binary is -1" in finding.message
    assert reading.spec.numerics.mask_threshold == 0.5


def test_mmdetections_settings_of_trainings_alone_are_told(tmp_path: Path) -> None:
    (spec, era), called = FILES["mmdet"]
    text = (
        "model = dict(rpn_head=dict(loss_bbox=dict(type='GIoULoss'), reg_decoded_bbox=True), "
        "roi_head=dict(bbox_head=dict(loss_bbox=dict(type='GIoULoss'))), "
        "test_cfg=dict(rpn=dict(nms=dict(iou_threshold=0.7))), train_cfg=dict("
        "rpn=dict(assigner=dict(type='MaxIoUAssigner', gt_max_assign_all=True, ignore_iof_thr=-1), pos_weight=-1), "
        "rpn_proposal=dict(nms=dict(iou_threshold=0.8)), "
        "rcnn=dict(assigner=dict(pos_iou_thr=0.6, neg_iou_thr=0.5), sampler=dict(type='OHEMSampler'), pos_weight=2)))"
    )
    (tmp_path / called).write_text(text)
    (finding,) = identify(drawn(spec, era), config=tmp_path / called).findings
    assert (finding.code, finding.severity) == ("numerics.training", "info")
    assert set(finding.names) == {
        *("bbox_head.loss_bbox.type", "train_cfg.rpn_proposal.nms", "train_cfg.rcnn.assigner.neg_iou_thr"),
        *("train_cfg.rcnn.sampler.type", "train_cfg.rcnn.pos_weight"),
    }
