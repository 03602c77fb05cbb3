"""Models that begin with random weights.

model = mg.MaskRCNN.from_scratch("small", ["disc", "box"], norm="gn")
run = mg.train(model, data, mg.Recipe(from_scratch=True, batch=8), out="runs/first")
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from maskgraft.errors import Finding, UsageError
from maskgraft.families import torchvision
from maskgraft.init import initialise
from maskgraft.model import MaskRCNN
from maskgraft.spec import FROM_SCRATCH, Arch, NormKind, Spec

Init = Literal["kaiming", "xavier"]
Norm = Literal["gn", "syncbn", "bn"]

ARCHS: dict[str, dict[str, Any]] = {
    "resnet50": {},
    "resnet101": {"blocks": (3, 4, 23, 3)},
    "resnet18": {"block": "basic", "blocks": (2, 2, 2, 2)},
    # for small pictures and few cores: a third of ResNet-18's width
    "small": {
        "block": "basic",
        "blocks": (2, 2, 2, 2),
        "stem_width": 32,
        "width_per_group": 32,
        "neck_channels": 64,
        "rpn_channels": 64,
        "box_fc_width": 256,
        "mask_convs": 2,
        "mask_channels": 64,
    },
}
_NORMS: dict[str, NormKind] = {"gn": "group", "syncbn": "sync", "bn": "batch"}


def from_scratch(
    arch: str | Arch,
    classes: Sequence[str],
    *,
    init: Init = "kaiming",
    norm: Norm = "gn",
    numerics: Mapping[str, Any] | None = None,
) -> MaskRCNN:
    """`MaskRCNN.from_scratch`, which see."""
    if isinstance(classes, str) or not classes or len(set(classes)) < len(classes):
        message = f"classes are {classes!r}: names, none of them twice"
        raise UsageError(Finding("shape.classes", "error", message, ("classes",), fix='classes=["person", "forklift"]'))
    if isinstance(arch, str):
        findings = [
            Finding("spec.field", "error", f"there is no {what} {given!r}", fix=f"one of {', '.join(known)}")
            for what, given, known in (
                ("architecture", arch, ARCHS),
                ("init", init, ("kaiming", "xavier")),
                ("norm", norm, _NORMS),
            )
            if given not in known
        ]
        if findings:
            raise UsageError(findings)
        kind = _NORMS[norm]
        arch = Arch(classes=len(classes), norm=kind, neck_norm=kind, mask_norm=kind, **ARCHS[arch])
    elif arch.norm in ("frozen", "affine", "none"):
        message = f"the architecture's norms are of the kind {arch.norm!r}, which do not learn: random weights diverge"
        raise UsageError(
            Finding("train.frozen-random", "error", message, ("arch.norm",), fix='norm="group", "sync" or "batch"')
        )
    arch = replace(arch, classes=len(classes))
    spec = Spec(family=FROM_SCRATCH, arch=arch, numerics=torchvision.NUMERICS, classes=tuple(classes))
    model = MaskRCNN(spec.with_numerics(numerics or {}))
    with torch.no_grad():
        initialise(model)
        if init == "xavier":
            for module in model.backbone.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.xavier_normal_(module.weight)
    return model.eval()
