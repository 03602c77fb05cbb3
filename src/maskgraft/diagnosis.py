"""What a checkpoint is, what is doubtful about it, and what stands in the way of a target."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskgraft.errors import CheckpointError, Finding, worst_first
from maskgraft.families import Identified, identify
from maskgraft.files import open_checkpoint
from maskgraft.links import parameters
from maskgraft.spec import COMPONENTS, Learned, Spec, component, differences


@dataclass(frozen=True, slots=True)
class Report:
    """The answer of `diagnose`.

    `spec`, `family` and `era` are None and "" when the file is of no family. `components` maps each component to the
    number of its tensors and of the numbers in them. `findings` are worst first.
    """

    path: Path
    format: str
    family: str
    era: str
    spec: Spec | None
    components: Mapping[str, tuple[int, int]]
    ignored: Mapping[str, str]
    findings: tuple[Finding, ...]

    @property
    def learned(self) -> Mapping[str, Learned]:
        """How each field of the spec was learned."""
        return self.spec.learned if self.spec else {}

    @property
    def loadable(self) -> bool:
        """Whether nothing that was found stops a load."""
        return all(finding.severity != "error" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """The report as plain JSON types; the keys are stable."""
        return {
            "path": str(self.path),
            "format": self.format,
            "family": self.family or None,
            "era": self.era or None,
            "components": {
                name: {"tensors": tensors, "values": values} for name, (tensors, values) in self.components.items()
            },
            "ignored": dict(self.ignored),
            "spec": self.spec.as_json() if self.spec else None,
            "findings": [finding.as_json() for finding in self.findings],
        }


def diagnose(
    path: str | Path,
    *,
    into: "Spec | str | Path | None" = None,
    config: str | Path | None = None,
    key: str | None = None,
) -> Report:
    """Say what a checkpoint is, and everything that is wrong or doubtful about it, at once.

        report = mg.diagnose("model_final.pth")
        report.family, report.spec.arch.blocks          # "detectron2", (3, 4, 6, 3)
        report = mg.diagnose("model_final.pth", into="other.pth")

    `into` is what it is to be loaded into: another checkpoint or a `Spec`. Returns a report for everything, unreadable
    files included; raises only for arguments that are wrong themselves.
    """
    path = Path(path)
    try:
        tensors = open_checkpoint(path, key=key)
    except CheckpointError as error:
        return Report(path, "", "", "", None, {}, {}, error.findings)
    try:
        known = identify(tensors, config=config)
    except CheckpointError as error:
        return Report(path, tensors.format, "", "", None, {}, {}, worst_first((*tensors.findings, *error.findings)))
    findings = [*tensors.findings, *known.findings, *_table_faults(known), *_assumptions(known.spec)]
    if into is not None:
        target = into if isinstance(into, Spec) else identify(open_checkpoint(into)).spec
        findings += architecture_faults(known.spec, target)
    return Report(
        path=path,
        format=tensors.format,
        family=known.family.name,
        era=known.era,
        spec=known.spec,
        components=components(known),
        ignored=known.ignored,
        findings=worst_first(findings),
    )


def components(known: Identified) -> dict[str, tuple[int, int]]:
    """Tensors and numbers per component, in the order of the data's way through the model."""
    ours = {link.theirs: link.ours for link in known.links}
    counts = {name: (0, 0) for name in COMPONENTS}
    for name, array in known.tensors.items():
        if name in ours:
            tensors, values = counts[component(ours[name])]
            counts[component(ours[name])] = (tensors + 1, values + parameters([array.shape]))
    return {name: count for name, count in counts.items() if count[0]}


def _table_faults(known: Identified) -> list[Finding]:
    """Names that the family's links miss or leave over; shapes are checked against the model when it is built."""
    linked = {name for link in known.links for name in (link.theirs, *link.copies)}
    missing = [link.theirs for link in known.links if not link.optional and link.theirs not in known.tensors]
    extra = [name for name in known.tensors if name not in linked]
    findings = []
    if missing:
        message = f"{len(missing)} of {len(linked)} tensors are not in the file, first {missing[0]}"
        findings.append(Finding("names.missing", "error", message, names=tuple(missing)))
    if extra:
        message = f"{len(extra)} tensors have no place in a {known.family.title} Mask R-CNN, first {extra[0]}"
        findings.append(Finding("names.unexpected", "error", message, names=tuple(extra)))
    return findings


def _assumptions(spec: Spec) -> list[Finding]:
    assumed = [name for name, one in spec.learned.items() if one.how == "assumed"]
    if not assumed:
        return []
    values = {name: _value(spec, name) for name in assumed}
    return [
        Finding(
            "numerics.assumed",
            "info",
            f"{len(assumed)} settings are in no file and are assumed",
            names=tuple(assumed),
            evidence={name: {"value": value, "why": spec.learned[name].source} for name, value in values.items()},
            effect="results differ from the home framework's where an assumption is wrong",
            fix="give the training's config file with --config, or set them with --set NAME=VALUE",
        )
    ]


def _value(spec: Spec, name: str) -> Any:
    part, _, field = name.partition(".")
    value = getattr(getattr(spec, part), field) if field else getattr(spec, part)
    return list(value) if isinstance(value, tuple) else value


_CAUSES = {
    "blocks": "shape.depth",
    "block": "shape.depth",
    "backbone": "family.mismatch",
    "groups": "shape.groups",
    "width_per_group": "shape.width",
    "stem_width": "shape.width",
    "neck_channels": "shape.width",
    "classes": "shape.classes",
}
_DEPTHS: dict[tuple[int, ...], str] = {
    (2, 2, 2, 2): "18",
    (3, 4, 6, 3): "50",
    (3, 4, 23, 3): "101",
    (3, 8, 36, 3): "152",
}


def architecture_faults(file: Spec, target: Spec) -> list[Finding]:
    """Why a checkpoint's shapes do not fit a target, told by cause and not by tensor."""
    findings = []
    for field in dataclasses.fields(file.arch):
        have, want = getattr(file.arch, field.name), getattr(target.arch, field.name)
        if have == want:
            continue
        if field.name == "blocks":
            missing = sum(max(0, theirs - ours) for ours, theirs in zip(have, want, strict=True))
            message = (
                f"the file is {_depth(file)}, the target {_depth(target)}: {missing} blocks have no source"
                if missing
                else f"the file is {_depth(file)}, the target {_depth(target)}: {sum(have) - sum(want)} are unused"
            )
        elif field.name == "classes":
            message = (
                f"{have} classes in the file against {want} in the target: only the class-dependent layers differ "
                "(6 tensors)"
            )
        else:
            message = f"{field.name} is {have!r} in the file and {want!r} in the target"
        fix = "mg.load(path, classes=[…]) keeps the rows of shared names" if field.name == "classes" else ""
        findings.append(
            Finding(
                _CAUSES.get(field.name, "shape.other"),
                "error",
                message,
                names=(f"arch.{field.name}",),
                evidence={"file": have, "target": want},
                fix=fix,
            )
        )
    return findings


def _depth(spec: Spec) -> str:
    name = _DEPTHS.get(spec.arch.blocks, f"blocks {'/'.join(map(str, spec.arch.blocks))}")
    kind = "ResNeXt" if spec.arch.groups > 1 else "ResNet"
    return f"{kind}-{name}" if name.isdigit() else f"{kind} of {name}"


def summary(spec: Spec) -> str:
    """A spec in a few words: "ResNet-50, FPN 256, 80 classes"."""
    arch = spec.arch
    trunk = _depth(spec) if arch.backbone == "resnet" else arch.backbone
    neck = f"FPN {arch.neck_channels}" if arch.neck == "fpn" else arch.neck.upper()
    return f"{trunk}, {neck}, {arch.classes} classes"


def numerics_differences(one: Spec, other: Spec) -> dict[str, tuple[Any, Any]]:
    """The conventions in which two specs differ."""
    return {name: pair for name, pair in differences(one, other).items() if name.startswith("numerics.")}
