"""What a checkpoint is, what is doubtful about it, and what stands in the way of a target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgraft.causes.architectures import architecture_faults as architecture_faults
from maskgraft.causes.architectures import depth
from maskgraft.causes.colours import colour_faults
from maskgraft.causes.conventions import anchor_faults, assumptions
from maskgraft.causes.tables import era_fault, table_faults, unrecognised
from maskgraft.causes.targets import into_pipeline, is_pipeline, resolve, target_faults
from maskgraft.causes.values import glances, not_numbers, value_faults
from maskgraft.errors import CheckpointError, Finding, worst_first
from maskgraft.families import FAMILIES, Identified, identify, of_file
from maskgraft.files import Tensors, open_checkpoint
from maskgraft.links import parameters
from maskgraft.spec import COMPONENTS, Learned, Spec, component, differences

if TYPE_CHECKING:
    from torch import nn

_PHOTOGRAPHS = (".jpg", ".jpeg", ".png")


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

    def with_findings(self, more: Sequence[Finding]) -> "Report":
        """The report with further findings, worst first again."""
        return replace(self, findings=worst_first((*self.findings, *more)))

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
    into: "Spec | str | Path | nn.Module | Sequence[Spec | str | Path | nn.Module] | None" = None,
    config: str | Path | None = None,
    images: str | Path | None = None,
    key: str | None = None,
) -> Report:
    """Say what a checkpoint is, and everything that is wrong or doubtful about it, at once.

        report = mg.diagnose("model_final.pth")
        report.family, report.spec.arch.blocks          # "detectron2", (3, 4, 6, 3)
        report = mg.diagnose("model_final.pth", into="other.pth")
        report = mg.diagnose("model_final.pth", into="torchvision/maskrcnn_resnet50_fpn?classes=2")
        report = mg.diagnose("model.ckpt", into="pipeline.config")

    `into` is what it is to be loaded into: another checkpoint, a `Spec`, a well-known model by name, a
    `pipeline.config`, any `nn.Module`, or several of them. `images` is a folder of photographs (RGB) on which the first
    convolution is tried. All values are read once. Returns a report for everything, unreadable files included; raises
    only for arguments that are wrong themselves.
    """
    path = Path(path)
    try:
        tensors = open_checkpoint(path, key=key)
    except CheckpointError as error:
        return Report(path, "", "", "", None, {}, {}, error.findings)
    targets: list[Any] = [] if into is None else list(into) if isinstance(into, list | tuple) else [into]
    known, findings = _identified(tensors, config)
    if known is None:
        findings += not_numbers(tensors, glances(tensors))
        for target in targets:
            findings += _into_without_family(tensors, target)
        return Report(path, tensors.format, "", "", None, {}, {}, worst_first((*tensors.findings, *findings)))
    notes = [finding for finding in findings if finding.severity == "info"]
    findings = [finding for finding in findings if finding.severity != "info"]
    mixed = era_fault(known.family, known.tensors)
    findings = [*([mixed] if mixed else []), *table_faults(known), *findings, *value_faults(known)]
    if known.family.whole:
        findings += [*anchor_faults(known.spec), *colour_faults(known, _photographs(images))]
    else:
        notes.insert(0, _backbone_only(known))
    for target in targets:
        findings += _into(tensors, known, target)
    findings += [*notes, *of_file(known, tensors), *assumptions(known.spec)]
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


def _identified(tensors: Tensors, config: str | Path | None) -> tuple[Identified | None, list[Finding]]:
    """What the file is, without its config where that does not fit it; and what there is to say about either."""
    try:
        known = identify(tensors, config=config)
        return known, list(known.findings)
    except CheckpointError as error:
        try:  # from a place that has no config beside it
            alone = tensors.path.parent / "no" / "config" / "here" / tensors.path.name
            known = identify(replace(tensors, path=alone))
            return replace(known, tensors=replace(known.tensors, path=tensors.path)), list(error.findings)
        except CheckpointError:
            return None, unrecognised(tensors, error)


def _backbone_only(known: Identified) -> Finding:
    lacking = [part for part in COMPONENTS if part not in components(known)]
    return Finding(
        "names.missing",
        "info",
        f"{known.tensors.path.name} holds a backbone alone ({known.family.title}): no {', no '.join(lacking)}",
        names=tuple(lacking),
        effect="a model made of it detects nothing before it is trained",
        fix="maskgraft train with it as the start; neck and heads are initialised",
    )


def _photographs(folder: str | Path | None) -> list[Path]:
    if folder is None:
        return []
    return sorted(one for one in Path(folder).rglob("*") if one.suffix.lower() in _PHOTOGRAPHS)


def _into(tensors: Tensors, known: Identified, into: "Spec | str | Path | nn.Module") -> list[Finding]:
    """Why a recognised file does not fit a target; a target that cannot be read is one fault among the others."""
    if not isinstance(into, Spec | str | Path):
        from maskgraft.planning import module_faults

        return module_faults(tensors, into)
    if not isinstance(into, Spec) and is_pipeline(Path(into)):
        return into_pipeline(tensors, known, Path(into))
    try:
        return target_faults(known, resolve(into))
    except CheckpointError as error:
        return list(error.findings)


def _into_without_family(tensors: Tensors, into: "Spec | str | Path | nn.Module") -> list[Finding]:
    if not isinstance(into, Spec | str | Path):
        from maskgraft.planning import module_faults

        return module_faults(tensors, into)
    if not isinstance(into, Spec) and is_pipeline(Path(into)):
        return into_pipeline(tensors, None, Path(into))
    return []


def components(known: Identified) -> dict[str, tuple[int, int]]:
    """Tensors and numbers per component, in the order of the data's way through the model."""
    ours = {link.theirs: link.ours for link in known.links}
    counts = {name: (0, 0) for name in COMPONENTS}
    for name, array in known.tensors.items():
        if name in ours:
            tensors, values = counts[component(ours[name])]
            counts[component(ours[name])] = (tensors + 1, values + parameters([array.shape]))
    return {name: count for name, count in counts.items() if count[0]}


def summary(spec: Spec) -> str:
    """A spec in a few words: "ResNet-50, FPN 256, 80 classes"; or "ResNet-50, a backbone only"."""
    arch = spec.arch
    trunk = depth(spec) if arch.backbone == "resnet" else arch.backbone
    if any(family.name == spec.family and not family.whole for family in FAMILIES) and spec.classes == ("object",):
        return f"{trunk}, a backbone only"
    neck = f"FPN {arch.neck_channels}" if arch.neck == "fpn" else arch.neck.upper()
    return f"{trunk}, {neck}, {arch.classes} classes"


def numerics_differences(one: Spec, other: Spec) -> dict[str, tuple[Any, Any]]:
    """The conventions in which two specs differ."""
    return {name: pair for name, pair in differences(one, other).items() if name.startswith("numerics.")}
