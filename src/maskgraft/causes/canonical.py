"""The shape of each canonical tensor, from the architecture alone."""

from maskgraft.links import Shape
from maskgraft.spec import Arch, ClassRows, Spec

_VECTORS = ("bias", "running_mean", "running_var")


def canonical_shape(name: str, spec: Spec) -> Shape | None:
    """The shape of a canonical tensor, or None for the insides of backbones that are no ResNet.

    canonical_shape("box_predictor.cls.weight", spec)      # (81, 1024)
    """
    arch = spec.arch
    layer, _, vector = name.rpartition(".")
    if vector == "num_batches_tracked":
        return ()
    weight = _weight(layer.removesuffix(".norm") if layer.endswith(".norm") else layer, spec)
    if weight is None:
        return None
    if vector in _VECTORS or layer.endswith(".norm") or ".norms." in layer or "fc_norms" in layer:
        transposed = layer == "mask_head.upsample"
        return (arch.mask_channels,) if transposed or layer == "mask_head.norm" else weight[:1]
    return weight


def rows(kind: ClassRows, classes: int) -> int:
    """How many rows a class-dependent layer has."""
    return {"foreground": classes, "with-background": classes + 1, "agnostic": 1, "agnostic-with-background": 2}[kind]


def _weight(layer: str, spec: Spec) -> Shape | None:
    """The weight of a layer; of a norm, that of a layer with as many outputs."""
    arch = spec.arch
    part, _, rest = layer.partition(".")
    if part == "backbone":
        return _trunk(rest, arch)
    width = arch.neck_channels if arch.neck == "fpn" else _outer(arch, 5 if arch.neck == "dc5" else 4)
    if arch.backbone != "resnet" and arch.neck != "fpn":
        return None
    if part == "fpn":
        level = rest.split(".")[0]
        if level.startswith("lateral"):
            source = _outer(arch, int(level[7:])) if arch.backbone == "resnet" else None
            return (width, source, 1, 1) if source else None
        return (width, width, 3, 3)
    if part == "rpn":
        return _proposals(rest, arch, width)
    if part == "box_head":
        return _box_head(rest, spec, width)
    deep = _outer(arch, 5) if arch.box_head == "res5" else width
    if rest.startswith("convs."):
        first = rest.split(".")[1] == "0"
        return (arch.mask_channels, deep if first else arch.mask_channels, 3, 3)
    if layer in ("mask_head.upsample", "mask_head"):
        return (arch.mask_channels if arch.mask_convs else deep, arch.mask_channels, 2, 2)
    return _class_rows(layer, arch)


def _trunk(rest: str, arch: Arch) -> Shape | None:
    if arch.backbone != "resnet":
        return None
    if rest in ("stem.conv", "stem"):
        return (arch.stem_width, 3, 7, 7) if arch.stem == "7x7" else None
    return _block(rest, arch) if rest.startswith("res") else None


def _block(rest: str, arch: Arch) -> Shape | None:
    """res3.0.conv2.conv: of a stage, a block and a convolution."""
    stage_name, block, conv = rest.split(".")[:3]
    stage = int(stage_name[3:])
    of_group, outer = arch.width_per_group * 2 ** (stage - 2), _outer(arch, stage)
    inner = arch.groups * of_group
    before = outer if block != "0" else arch.stem_width if stage == 2 else _outer(arch, stage - 1)
    if conv == "shortcut":
        return (outer, before, 1, 1)
    if arch.block == "basic":
        return (outer, before if conv == "conv1" else outer, 3, 3)
    return {
        "conv1": (inner, before, 1, 1),
        "conv2": (inner, of_group, 3, 3),
        "conv3": (outer, inner, 1, 1),
    }.get(conv)


def _outer(arch: Arch, stage: int) -> int:
    return (64 if arch.block == "basic" else 256) << (stage - 2)


def _proposals(rest: str, arch: Arch, width: int) -> Shape | None:
    hidden = arch.rpn_channels
    if rest.startswith("convs."):
        return (hidden, width if rest == "convs.0" else hidden, 3, 3)
    if rest.startswith("norms."):
        return (hidden, hidden, 3, 3)
    anchors = arch.anchors_per_cell
    if rest == "objectness":
        return (anchors * (2 if arch.objectness == "softmax" else 1), hidden, 1, 1)
    return (anchors * 4, hidden, 1, 1) if rest == "deltas" else None


def _box_head(rest: str, spec: Spec, width: int) -> Shape | None:
    arch = spec.arch
    if rest.startswith("res5."):
        return _block(rest, arch)
    index = rest.split(".")[1]
    if rest.startswith("convs."):
        return (arch.box_conv_channels, width if index == "0" else arch.box_conv_channels, 3, 3)
    if rest.startswith("fc_norms."):
        return (arch.box_fc_width, arch.box_fc_width)
    channels = arch.box_conv_channels if arch.box_convs else width
    flat = channels * spec.numerics.box_pool_size**2
    return (arch.box_fc_width, flat if index == "0" else arch.box_fc_width)


def _class_rows(layer: str, arch: Arch) -> Shape | None:
    deep = _outer(arch, 5) if arch.box_head == "res5" else arch.box_fc_width
    deep = arch.box_conv_channels if arch.box_head == "fc" and not arch.box_fcs else deep
    if layer == "box_predictor.cls":
        return (arch.classes + 1, deep)
    if layer == "box_predictor.deltas":
        return (4 * rows(arch.box_rows, arch.classes), deep)
    if layer == "mask_predictor.logits":
        return (rows(arch.mask_rows, arch.classes), arch.mask_channels, arch.mask_kernel, arch.mask_kernel)
    return None
