"""Detectors that are no Mask R-CNN but come from the same homes: told by name, so that a refusal says what a file is.

SSD of the TF Object Detection API under both TensorFlows (`models/*_feature_extractor.py`), torchvision's detectors of
one stage (`models/detection/`), the RetinaNets of maskrcnn-benchmark and Detectron2, and what stands beside Mask R-CNN
in PaddleDetection (`ppdet/modeling/heads/`, `transformers/`). Faster R-CNN is refused by the families themselves, whose
names it has.
"""

from collections.abc import Mapping

from maskgraft.families.tf_object_detection import SLIM_SCOPES
from maskgraft.files import LazyArray

# A tensor that only this detector has.
_BY_TENSOR = {
    "head.classification_head.module_list.0.weight": "SSD of torchvision",
    "head.classification_head.module_list.0.0.0.weight": "SSDlite of torchvision",
    "head.regression_head.bbox_ctrness.weight": "FCOS of torchvision",
    "head.classification_head.cls_logits.weight": "RetinaNet of torchvision",
    "rpn.head.cls_tower.0.weight": "RetinaNet of maskrcnn-benchmark",
    "head.cls_subnet.0.weight": "RetinaNet or FCOS of Detectron2",
    "bbox_head.bbox_score_stage0.weight": "Cascade R-CNN of PaddleDetection",
    "yolo_head.yolo_output.0.weight": "YOLOv3 or PP-YOLO of PaddleDetection",
    "yolo_head.pred_reg.0.weight": "PP-YOLOE of PaddleDetection",
    "head.stem_conv.0.conv.weight": "YOLOX of PaddleDetection",
    "head.head_cls0.weight": "PicoDet of PaddleDetection",
    "head.retina_cls.weight": "RetinaNet of PaddleDetection",
    "fcos_head.fcos_feat.fcos_head_cls_tower_conv_0.conv.weight": "FCOS of PaddleDetection",
    "head.gfl_head_cls.weight": "GFL of PaddleDetection",
    "head.cls_decomp.la_conv1.weight": "TOOD of PaddleDetection",
    "ssd_head.boxes0.weight": "SSD of PaddleDetection",
    "ssd_head.boxes0.dw_conv.weight": "SSDlite of PaddleDetection",
    "ttf_head.wh_head.head.weight": "TTFNet of PaddleDetection",
    "head.offset.2.conv.weight": "CenterNet of PaddleDetection",
    "solov2_head.solo_cate.weight": "SOLOv2 of PaddleDetection",
    "head.init_proposal_features.weight": "Sparse R-CNN of PaddleDetection",
    "detr_head.score_head.weight": "DETR of PaddleDetection",
    "transformer.dec_bbox_head.0.layers.0.weight": "DINO or RT-DETR of PaddleDetection",
}
_KERAS = "model/_feature_extractor/classification_backbone/layer_with_weights-"

_OTHERS = {  # how names begin that no other detector has
    "SecondStageBoxPredictor/refined_locations/": "R-FCN of the TF1",
    "model/_prediction_head_dict/": "CenterNet of the TF2",
    "model/_feature_extractor/_bifpn_stage/": "EfficientDet of the TF2",
}


def told(arrays: Mapping[str, LazyArray]) -> str:
    """What detector a file holds, or "" when it is none of those.

    told(tensors)     # "SSD MobileNet v2 of the TF2 Object Detection API, no Mask R-CNN"
    """
    if any(name.startswith("_model/") for name in arrays):  # a SavedModel
        arrays = {name.removeprefix("_"): array for name, array in arrays.items()}
    for start, what in _OTHERS.items():
        if any(name.startswith(start) for name in arrays):
            return f"{what} Object Detection API, no Mask R-CNN"
    for what, era in ((_slim_ssd(arrays), "TF1"), (_keras_ssd(arrays), "TF2")):
        if what:
            return f"SSD {what} of the {era} Object Detection API, no Mask R-CNN"
    for name, what in _BY_TENSOR.items():
        if name in arrays:
            return f"{what}, no Mask R-CNN"
    return ""


def _slim_ssd(arrays: Mapping[str, LazyArray]) -> str:
    boxes = "BoxPredictor_0/BoxEncodingPredictor/weights" in arrays
    if not boxes and not any(name.startswith("WeightSharedConvolutionalBoxPredictor/") for name in arrays):
        return ""
    scopes = {name.split("/")[1] for name in arrays if name.startswith("FeatureExtractor/") and name.count("/") > 1}
    backbone = next((title for scope, title in SLIM_SCOPES.items() if scope in scopes), "with another backbone")
    pyramid = any("/fpn/" in name or name.startswith("FeatureExtractor/fpn/") for name in arrays)
    return backbone + (" FPN" if pyramid else "")


def _keras_ssd(arrays: Mapping[str, LazyArray]) -> str:
    stem = arrays.get(f"{_KERAS}0/kernel")
    if stem is None or not any(name.startswith("model/_box_predictor/") for name in arrays):
        return ""
    backbone = "with another backbone"
    if stem.shape[:2] == (7, 7):
        depth = 50 if f"{_KERAS}106/kernel" not in arrays else 101 if f"{_KERAS}208/kernel" not in arrays else 152
        backbone = f"ResNet-{depth}"
    elif f"{_KERAS}2/depthwise_kernel" in arrays and f"{_KERAS}4/kernel" in arrays:
        widened = arrays[f"{_KERAS}4/kernel"].shape[3] > arrays[f"{_KERAS}4/kernel"].shape[2]
        backbone = "MobileNet v1" if widened else "MobileNet v2"
    pyramid = any(name.startswith("model/_feature_extractor/_fpn_features_generator/") for name in arrays)
    return backbone + (" FPN" if pyramid else "")
