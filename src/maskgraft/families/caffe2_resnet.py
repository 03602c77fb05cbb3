"""ResNet and ResNeXt of Detectron's model zoo (`R-50.pkl`, `R-101.pkl`, `X-101-32x8d.pkl`): a backbone only.

Conventions: Detectron `MODEL_ZOO.md` and `detectron/core/config.py` (PIXEL_MEANS); norms are affine, their statistics
were folded into scale and shift. X-101-32x8d was trained in Caffe2, with a deviation and the stride in the 3×3.
"""

from collections.abc import Iterator

from maskgraft.families.backbone_only import reading, resnet_parts
from maskgraft.families.family import Config, Family, Reading, count, shape
from maskgraft.families.imagenet_resnet import CAFFE
from maskgraft.files import Tensors
from maskgraft.links import Link
from maskgraft.spec import Arch, Spec

_BRANCH = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}


def read(tensors: Tensors, config: Config | None) -> Reading:
    """The `Spec` of a detector on this backbone; `config` is not looked at."""
    inner, per_group = shape(tensors, "res2_0_branch2b_w")[:2]
    arch = Arch(
        classes=1,
        blocks=tuple(count(tensors.arrays, f"res{stage}_{{}}_branch2a_w") for stage in (2, 3, 4, 5)),
        stem_width=shape(tensors, "conv1_w")[0],
        groups=inner // per_group,
        width_per_group=per_group,
        norm="affine",
    )
    conventions = {**CAFFE, "norm_eps": 0.0}
    if arch.groups > 1:
        conventions |= {"stride_in": "3x3", "pixel_std": (57.375, 57.12, 58.395)}
    return reading(tensors, "caffe2-backbone", arch, conventions, implied="Detectron's model zoo")


def links(spec: Spec, era: str) -> Iterator[Link]:
    """One link a blob."""
    yield from _pair("backbone.stem", "conv1_w", "res_conv1_bn")
    for ours, stage, block, part in resnet_parts(spec.arch):
        theirs = f"res{stage}_{block}_{_BRANCH[part]}"
        yield from _pair(ours, f"{theirs}_w", f"{theirs}_bn")


def _pair(ours: str, kernel: str, norm: str) -> Iterator[Link]:
    yield Link(f"{ours}.conv.weight", kernel)
    yield Link(f"{ours}.norm.weight", f"{norm}_s")
    yield Link(f"{ours}.norm.bias", f"{norm}_b")


def ignored(name: str) -> str:
    """Why a blob of the file is no part of the model, or ""."""
    if name.startswith(("fc1000_", "pred_")):
        return "ImageNet classifier"
    if name in ("conv1_b", "model_iter", "lr") or name.endswith(("_momentum", "_bn_rm", "_bn_riv")):
        return "no part of the network as Detectron runs it"
    return ""


FAMILY = Family(
    name="caffe2-backbone",
    title="ResNet (ImageNet; Detectron)",
    landmarks=("conv1_w", "res_conv1_bn_s", "res2_0_branch1_w", "res5_0_branch2c_w", "res5_0_branch2c_bn_s"),
    read=read,
    links=links,
    ignored=ignored,
    whole=False,
    read_config=None,
)
