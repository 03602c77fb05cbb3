"""Feature extractors of the TF Object Detection API's Faster R-CNN and SSD, as backbones: taken only by name.

    mg.load("ssd_resnet50_v1_fpn/model.ckpt", family="tf_object_detection_extractor", classes=["cup"])

A Faster R-CNN gives its extractor of two stages and its proposal head, under the conventions of the Mask R-CNN with the
same backbone. An SSD gives the trunk for a pyramid (ResNet, Inception v2); MobileNets are no backbone of maskgraft.

SSD's ResNet keeps a stage's map before it strides (`models/ssd_resnet_v1_fpn_feature_extractor.py`,
`store_non_strided_activations`), so that every second cell of it is what the next stage's first 1×1 convolutions read:
a stride in the 1×1. `override_base_feature_extractor_hyperparams` gives its norms the eps of the config.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from maskgraft.errors import Finding
from maskgraft.families import tf1_object_detection as tf1
from maskgraft.families import tf2_object_detection as tf2
from maskgraft.families.backbone_only import reading
from maskgraft.families.configs import setting
from maskgraft.families.family import Config, Family, Reading, learned, shape, unsupported
from maskgraft.families.other_detectors import told
from maskgraft.families.pipeline_config import read_pipeline
from maskgraft.families.pipeline_settings import numerics
from maskgraft.families.tf_object_detection import EXTRACTOR, INCEPTION, NUMERICS, proposal_links
from maskgraft.files import Tensors
from maskgraft.links import Link
from maskgraft.spec import Arch, Learned, Spec

TITLE = "Feature extractor (TF Object Detection API)"
_SSD1 = "FeatureExtractor"
_SSD2 = "model/_feature_extractor/classification_backbone/layer_with_weights-{}"
_STEMS = (
    *(f"{first}/resnet_v1_{depth}/conv1/weights" for first in (tf1.FIRST, _SSD1) for depth in (50, 101, 152)),
    *(f"{first}/InceptionV2/Conv2d_1a_7x7/pointwise_weights" for first in (tf1.FIRST, _SSD1)),
    f"{tf1.FIRST}/InceptionResnetV2/Conv2d_1a_3x3/weights",
    *(f"{saved}{first.format(0)}/kernel" for first in (tf2.FIRST, _SSD2) for saved in ("", "_")),
)
# The mask heads of the published models, which none of these files has.
_MASKS: Mapping[str, Any] = {"mask_convs": 3, "mask_upsample": "resize", "mask_kernel": 3}
_SSD_EPS = "model.ssd.feature_extractor.conv_hyperparams.batch_norm.epsilon"
_SSD_OWN_EPS = "model.ssd.feature_extractor.override_base_feature_extractor_hyperparams"


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a Mask R-CNN of one class on the extractor; the era is the scope of the backbone, if it has one."""
    if (plain := tf2.as_checkpoint(tensors)) is not tensors:
        return replace(read(plain, config), tensors=plain)
    if (scope := tf1.scope_of(tensors, tf1.FIRST)) != "":
        backbone = "resnet" if scope.startswith("resnet_v1_") else tf1.SCOPES.get(scope)
        if backbone is None:
            raise unsupported(tensors, TITLE, f"the backbone {scope}")
        trunk = tf1.trunk(tensors, scope, tf1.FIRST, tf1.SECOND)
        return _two_stages(tensors, config, backbone, trunk, tf1.ASSUMED[backbone], tf1.LAYERS, "biases", scope)
    if f"{tf2.FIRST.format(0)}/kernel" in tensors:
        backbone = tf2.backbone_of(tensors)
        if backbone is None:
            raise unsupported(tensors, TITLE, "a backbone that is neither a ResNet nor Inception-ResNet v2")
        trunk = _keras_trunk(tensors, tf2.FIRST, tf2.SECOND) if backbone == "resnet" else {"blocks": ()}
        return _two_stages(tensors, config, backbone, trunk, tf2.ASSUMED[backbone], tf2.LAYERS, "bias", "")
    if (scope := tf1.scope_of(tensors, _SSD1)).startswith("resnet_v1_"):
        return _single_stage(tensors, config, tf1.trunk(tensors, scope, _SSD1, _SSD1), scope)
    if scope == "InceptionV2":
        return _single_stage(tensors, config, {"backbone": "inception_v2", "blocks": ()}, scope)
    if f"{_SSD2.format(0)}/kernel" in tensors and tensors[f"{_SSD2.format(0)}/kernel"].shape[:2] == (7, 7):
        return _single_stage(tensors, config, _keras_trunk(tensors, _SSD2, _SSD2), "")
    raise unsupported(tensors, TITLE, told(tensors.arrays) or "no backbone that maskgraft builds")


def _keras_trunk(tensors: Tensors, first: str, last: str) -> dict[str, Any]:
    width = tf2.width_of(tensors, first)
    stem = shape(tensors, f"{first.format(0)}/kernel")[3]
    return {"blocks": tf2.blocks_of(tensors, first, last), "stem_width": stem, "width_per_group": width}


def _two_stages(
    tensors: Tensors,
    config: Config | None,
    backbone: str,
    trunk: dict[str, Any],
    assumed: Mapping[str, Any],
    layers: Mapping[str, str],
    bias: str,
    scope: str,
) -> Reading:
    found, how = numerics(tensors, config, assumed, title=TITLE)
    arch = Arch(
        **trunk,
        **_MASKS,
        classes=1,
        backbone=backbone,  # type: ignore[arg-type]
        norm_scale=backbone != "inception_resnet_v2",
        neck="c4",
        rpn_channels=shape(tensors, f"{layers['rpn']}/{bias}")[0],
        anchors_per_cell=shape(tensors, f"{layers['rpn.objectness']}/{bias}")[0] // 2,
        objectness="softmax",
        box_head="res5",
    )
    how |= learned("as in the published models; the file has no masks", "assumed", [f"arch.{one}" for one in _MASKS])
    how["classes"] = Learned("assumed", "the file's own classes are not taken")
    spec = Spec(family=EXTRACTOR, arch=arch, numerics=found, classes=("object",), learned=how)
    return Reading(spec, scope, (_finding(tensors, "the box and mask heads"),))


def _single_stage(tensors: Tensors, config: Config | None, trunk: dict[str, Any], scope: str) -> Reading:
    arch = Arch(**trunk, classes=1)
    inception = arch.backbone == "inception_v2"
    eps, how = 1e-3, Learned("assumed", "as in the published models; pipeline.config would say")
    if config is not None and setting(config, _SSD_EPS) is not None and setting(config, _SSD_OWN_EPS):
        eps, how = float(setting(config, _SSD_EPS)), Learned("read", f"config: {_SSD_EPS}")
    backbone = {
        "channel_order": "rgb",
        "pixel_scale": 1.0,
        "pixel_mean": NUMERICS.pixel_mean,
        "pixel_std": NUMERICS.pixel_std,
        "stride_in": "1x1",
        "pool_padding": "same",
        **(INCEPTION if inception else {}),
        "norm_eps": eps,
    }
    implied = "the maths of the SSD that the file is from"
    result = reading(tensors, EXTRACTOR, arch, backbone, implied=implied, told={"numerics.norm_eps": how}, era=scope)
    return replace(result, findings=(_finding(tensors, "pyramid, proposal network and heads"),))


def _finding(tensors: Tensors, rest: str) -> Finding:
    return Finding(
        "family.backbone-only",
        "info",
        f"of {tensors.path.name} only the feature extractor is taken",
        effect=f"{rest} start from nothing and must be trained",
    )


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a tensor of the extractor, and of the proposal head where there are two stages."""
    arch = spec.arch
    keras = not era
    if arch.box_head != "res5":
        yield from tf2.trunk_links(arch, _SSD2, _SSD2) if keras else tf1.trunk_links(arch, era, _SSD1, _SSD1)
        return
    if keras:
        yield from tf2.trunk_links(arch, tf2.FIRST, tf2.SECOND)
        yield from proposal_links(arch, tf2.LAYERS, kernel="kernel", bias="bias")
    else:
        yield from tf1.trunk_links(arch, era, tf1.FIRST, tf1.SECOND)
        yield from proposal_links(arch, tf1.LAYERS, kernel="weights", bias="biases")


_OTHERS = (
    *("SecondStageBoxPredictor/", "BoxPredictor_", "WeightSharedConvolutionalBoxPredictor/", f"{_SSD1}/fpn/"),
    *("model/_mask_rcnn_box_predictor/", "model/_box_predictor/", "model/_feature_extractor/_"),
)


def ignored(name: str) -> str:
    """Why a tensor of the file is no part of the backbone, or ""."""
    if name.startswith(_OTHERS) or "/fpn/" in name or "_Conv2d_" in name:
        return "heads and pyramid of another detector"
    return tf1.ignored(name) or tf2.ignored(name)


FAMILY = Family(
    name=EXTRACTOR,
    title=TITLE,
    landmarks=_STEMS[:1],
    older_landmarks=tuple((stem,) for stem in _STEMS[1:]),
    read=read,
    links=links,
    ignored=ignored,
    configs=("pipeline.config", "../pipeline.config"),
    read_config=read_pipeline,
    whole=False,
    on_request=True,
)
