"""Two architectures told apart by cause and not by tensor."""

import dataclasses
from math import prod

from maskgraft.causes.canonical import canonical_shape
from maskgraft.errors import Finding
from maskgraft.families import Identified
from maskgraft.spec import Spec

_CAUSES = {
    "blocks": "shape.depth",
    "block": "shape.depth",
    "backbone": "family.mismatch",
    "groups": "shape.groups",
    "width_per_group": "shape.width",
    "stem_width": "shape.width",
    "neck_channels": "shape.width",
    "rpn_channels": "shape.width",
    "box_fc_width": "shape.width",
    "mask_channels": "shape.width",
    "classes": "shape.classes",
}
_DEPTHS: dict[tuple[int, ...], str] = {
    (2, 2, 2, 2): "18",
    (3, 4, 6, 3): "50",
    (3, 4, 23, 3): "101",
    (3, 8, 36, 3): "152",
}
_FIRST = ("backbone", "block", "groups", "blocks", "neck", "classes")  # what other differences follow from
_FOLLOWING = {
    "classes": ("box_rows", "mask_rows"),
    "groups": ("width_per_group",),
    "neck": ("rpn_channels", "anchors_per_cell", "box_head", "mask_convs"),
}


def architecture_faults(known: Identified | Spec, target: Spec, *, where: str = "the target") -> list[Finding]:
    """Why a checkpoint's shapes do not fit a target: depth, groups, width, classes, neck, heads; causes first."""
    file = known if isinstance(known, Spec) else known.spec
    findings: list[Finding] = []
    differing = [
        field.name
        for field in dataclasses.fields(file.arch)
        if getattr(file.arch, field.name) != getattr(target.arch, field.name)
    ]
    explained = {name for cause in differing for name in _FOLLOWING.get(cause, ())}
    for name in sorted(differing, key=lambda one: _FIRST.index(one) if one in _FIRST else len(_FIRST)):
        if name in explained or (name == "norm" and {file.arch.norm, target.arch.norm} == {"frozen", "batch"}):
            continue
        have, want = getattr(file.arch, name), getattr(target.arch, name)
        fix = _fix(name, where)
        findings.append(
            Finding(
                _CAUSES.get(name, "shape.other"),
                "error",
                _told(name, file, target, known, where),
                names=(f"arch.{name}",),
                evidence={
                    "file": list(have) if isinstance(have, tuple) else have,
                    "target": list(want) if isinstance(want, tuple) else want,
                },
                effect="layers without a source stay random; load_state_dict refuses, or skips them with strict=False",
                fix=fix,
            )
        )
    return findings


def _told(name: str, file: Spec, target: Spec, known: Identified | Spec, where: str) -> str:
    have, want = getattr(file.arch, name), getattr(target.arch, name)
    if name == "blocks":
        missing = sum(max(0, theirs - ours) for ours, theirs in zip(have, want, strict=False))
        rest = f"{missing} blocks have no source" if missing else f"{sum(have) - sum(want)} blocks are unused"
        return f"the file is {depth(file)}, {where} {depth(target)}: {rest}"
    if name == "block":
        return (
            f"the file has {have} blocks (ResNet-{'18 or 34' if have == 'basic' else '50 and deeper'}), {where} {want}"
        )
    if name == "groups":
        return f"the file is {depth(file)} ({have} groups of {file.arch.width_per_group}), {where} {depth(target)}"
    if name == "classes":
        count = 6
        share = ""
        if not isinstance(known, Spec):
            names = [link.ours for link in known.links if "predictor" in link.ours]
            count = len(names)
            whole = sum(prod(canonical_shape(link.ours, file) or (0,)) for link in known.links)
            part = sum(prod(canonical_shape(one, file) or (0,)) for one in names)
            share = f", {part / whole:.1%} of the parameters" if whole else ""
        return (
            f"{have + 1} class rows in the file against {want + 1} in {where} ({have} and {want} classes and the "
            f"background): only the class-dependent layers differ ({count} tensors{share})"
        )
    if name == "neck":
        return f"the file has {_NECKS[have]}, {where} {_NECKS[want]}: neck and heads have no source"
    return f"{name} is {have!r} in the file and {want!r} in {where}"


_NECKS = {"fpn": "a feature pyramid (FPN)", "c4": "no pyramid (C4)", "dc5": "a dilated C5 (DC5)"}


def _fix(name: str, where: str) -> str:
    if name == "classes":
        return "mg.load(path, classes=[…]) keeps the rows of shared names; to predict, build the model with the file's"
    if name in ("blocks", "groups", "block", "backbone"):
        return f"build {where} with the file's depth, or find the checkpoint of the other one"
    return ""


def depth(spec: Spec) -> str:
    """ResNet-50, ResNeXt-101 32x8d, or the number of blocks a stage."""
    name = _DEPTHS.get(spec.arch.blocks, "")
    if spec.arch.block == "basic" and name == "50":
        name = "34"
    kind = "ResNeXt" if spec.arch.groups > 1 else "ResNet"
    if not name:
        return f"{kind} of blocks {'/'.join(map(str, spec.arch.blocks))}"
    return f"{kind}-{name}" + (f" {spec.arch.groups}x{spec.arch.width_per_group}d" if spec.arch.groups > 1 else "")
