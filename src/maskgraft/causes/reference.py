"""All names that a family's files can have, whatever the depth: what an incomplete file is a part of."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from math import prod

from maskgraft.causes.canonical import canonical_shape
from maskgraft.families import FAMILIES, detectron2, torchvision
from maskgraft.families.family import Family
from maskgraft.spec import Arch, Spec, component

_FPN = Arch(classes=80)
_C4 = replace(_FPN, neck="c4", box_head="res5", rpn_channels=1024, anchors_per_cell=15, mask_convs=0)
_DEEP = {"blocks": (3, 8, 36, 3)}

# Architectures whose names together are about all that a family can have.
_VARIANTS = (
    _FPN,
    replace(_FPN, **_DEEP, norm="batch", conv_bias=True, head_bias=True),  # type: ignore[arg-type]
    replace(_FPN, **_DEEP, fc_norm="frozen", mask_norm="frozen", conv_bias=True),  # type: ignore[arg-type]
    replace(_FPN, norm="batch", neck_norm="batch", box_norm="batch", mask_norm="batch", box_convs=4, rpn_convs=2),
    replace(_FPN, norm="group", neck_norm="group", box_norm="group", mask_norm="group", box_convs=4),
    _C4,
    replace(_C4, **_DEEP, mask_convs=4, mask_upsample="resize"),  # type: ignore[arg-type]
)
_ERAS = {"tf1_object_detection_api": ("resnet_v1_50", "resnet_v1_101")}


@cache
def reference_names(family: Family) -> Mapping[str, str]:
    """Name in the family's files → canonical name, over the usual architectures and all eras.

    A name that means different tensors in different architectures (layers that are only numbered) has its component.
    """
    names: dict[str, str] = {}
    for era in eras(family):
        for theirs, ours in era_names(family, era).items():
            names[theirs] = ours if names.get(theirs, ours) == ours else component(ours)
    return names


def eras(family: Family) -> tuple[str, ...]:
    """The ways in which a family names its tensors."""
    return _ERAS.get(family.name, family.eras) if family.whole else ()


@cache
def era_names(family: Family, era: str) -> Mapping[str, str]:
    """The same of one era."""
    names: dict[str, str] = {}
    for arch in _VARIANTS:
        for link in family.links(_spec(arch), era):
            known = names.get(link.theirs, link.ours)
            names[link.theirs] = link.ours if known == link.ours else component(link.ours)
    return names


def all_reference_names() -> Iterator[tuple[Family, Mapping[str, str]]]:
    """Every family with its names."""
    for family in FAMILIES:
        yield family, reference_names(family)


def likely_architectures() -> Iterator[tuple[str, Counter[int], Counter[int]]]:
    """Usual architectures: in words, and how many tensors of each size they have, all and the backbone's.

    Sizes do not depend on names nor on layouts. Class-dependent layers and vectors are left out.
    """
    for title, changes in (
        ("ResNet-50", {}),
        ("ResNet-101", {"blocks": (3, 4, 23, 3)}),
        ("ResNet-152", _DEEP),
        ("ResNeXt-101 32x8d", {"blocks": (3, 4, 23, 3), "groups": 32, "width_per_group": 8}),
        ("ResNet-18", {"block": "basic", "blocks": (2, 2, 2, 2)}),
        ("ResNet-34", {"block": "basic", "blocks": (3, 4, 6, 3)}),
    ):
        for neck, base in (("FPN", _FPN), ("C4", _C4)):
            spec = _spec(replace(base, **changes))
            names = [link.ours for link in detectron2.FAMILY.links(spec, "")]
            sizes = {name: prod(canonical_shape(name, spec) or (0,)) for name in names}
            fixed = {name: size for name, size in sizes.items() if "predictor" not in name and size > 8192}
            trunk = Counter(size for name, size in fixed.items() if name.startswith("backbone"))
            yield f"a {title} {neck} Mask R-CNN", Counter(fixed.values()), trunk


def _spec(arch: Arch) -> Spec:
    classes = tuple(str(index) for index in range(arch.classes))
    return Spec(family="", arch=arch, numerics=torchvision.NUMERICS, classes=classes)
