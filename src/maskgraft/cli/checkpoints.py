"""Verbs on checkpoint files: what they are and what is wrong with them. None of them imports torch."""

import sys
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from maskgraft import diagnosis
from maskgraft.causes.conventions import COSTS
from maskgraft.cli import options
from maskgraft.cli.show import console, head, print_findings, print_json, table
from maskgraft.errors import DataError, Finding, UsageError
from maskgraft.files.writing import atomic

_MOST_ALIKE = 16  # conventions that were learned in one and the same way are counted beyond this, not listed


def diagnose(
    checkpoint: options.Checkpoint,
    into: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET",
            help="What it is to be loaded into: another checkpoint, a pipeline.config, "
            "torchvision/maskrcnn_resnet50_fpn and the like, or package.module:factory, which runs that code of yours. "
            "Repeatable.",
        ),
    ] = None,
    config: options.Config = None,
    images: Annotated[Path | None, typer.Option(help="Photographs on which the first layer is tried.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="COCO annotations whose classes it should have.")] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="With package.module:factory: the plan of pairs, read where the file exists, else written."),
    ] = None,
    components: Annotated[
        str | None, typer.Option(help="Only these components of the module, with commas between.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Apply the plan and save the module's state as safetensors.")] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all of it as one page, down to the tensors.")
    ] = None,
    classes: options.Classes = None,
    key: options.Key = None,
    every: Annotated[bool, typer.Option("--all", help="Show every finding and every convention.")] = False,
    as_json: options.Json = False,
) -> None:
    """Say what a checkpoint is, and everything that is wrong or doubtful about it.

    Exit 1 when something stops it from loading.
    """
    targets = [factory_made(one) if is_factory(one) else one for one in into or ()]
    report = diagnosis.diagnose(checkpoint, into=targets, config=config, images=images, key=key)
    if annotations is not None:
        report = report.with_findings(_data_findings(report, annotations, images))
    if html is not None:
        from maskgraft.pages.checkpoint import page

        text = page(checkpoint, report, config=config, key=key, classes=options.names(classes))
        with atomic(html) as temporary:
            temporary.write_text(text, encoding="utf-8")
    planned = _plans(checkpoint, into or (), targets, plan, components, out)
    if as_json:
        print_json({**report.as_json(), **({"plans": planned} if planned else {})})
    else:
        print_report(report, every=every)
        _print_plans(planned)
    if not report.loadable:
        raise typer.Exit(1 if report.format else 2)


def is_factory(target: str) -> bool:
    """Whether a target is package.module:factory and no path."""
    module, colon, name = target.partition(":")
    return bool(colon) and name.isidentifier() and not Path(target).exists() and "/" not in module


def factory_made(target: str) -> Any:
    """Call the user's own factory, as asked for; the current folder can be imported from.

    Raises `UsageError` when there is none or what it gives is no module.
    """
    from torch import nn

    name, _, attribute = target.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(import_module(name), attribute)()
    except Exception as error:  # whatever the user's code raises
        fault = f"--into {target}: {type(error).__name__}: {error}"
        raise UsageError(Finding("config.path", "error", fault, fix="--into package.module:factory")) from error
    finally:
        sys.path.pop(0)
    if not isinstance(made, nn.Module):
        raise UsageError(Finding("config.path", "error", f"--into {target}: gives {type(made).__name__}, no nn.Module"))
    return made


def _plans(
    checkpoint: Path,
    names: Sequence[str],
    targets: Sequence[Any],
    path: Path | None,
    components: str | None,
    out: Path | None,
) -> list[dict[str, Any]]:
    """Plans for the modules among the targets, where one is asked for; applied and saved with `out`."""
    if path is None and out is None and components is None:
        return []
    modules = [(name, one) for name, one in zip(names, targets, strict=True) if not isinstance(one, str)]
    if len(modules) != 1:
        message = "--plan, --components and --out need one --into package.module:factory"
        raise UsageError(Finding("config.path", "error", message))
    from maskgraft.planning import plan as planned
    from maskgraft.planning import read_plan

    name, module = modules[0]
    parts = options.names(components)
    given = path is not None and path.exists()
    made = read_plan(path, checkpoint, module) if path is not None and given else planned(checkpoint, module)
    told = {
        "target": name,
        "pairs": len(made.pairs),
        "doubtful": len(made.doubtful),
        "unmatched": list(made.unmatched),
        "unused": list(made.unused),
        "percent": {part: round(share, 2) for part, share in made.percent(parts).items()},
    }
    if path is not None and not given:
        made.save(path)
        told["written"] = str(path)
    if out is not None:
        from safetensors.torch import save_file

        made.apply(components=parts)
        save_file({key: value.contiguous() for key, value in module.state_dict().items()}, out)
        told["saved"] = str(out)
    return [told]


def _print_plans(plans: Sequence[dict[str, Any]]) -> None:
    out = console()
    for one in plans:
        rows = [(part, f"{share:.1f} %") for part, share in one["percent"].items()]
        out.print(table(f"plan for {one['target']}", ("component", "filled"), rows, right=(1,)))
        out.print(
            f"{one['pairs']} pairs, {one['doubtful']} of them doubtful and not applied; "
            f"{len(one['unmatched'])} tensors without a source, {len(one['unused'])} unused"
        )
        for what in ("written", "saved"):
            if what in one:
                out.print(f"{what}: {one[what]}")


def _data_findings(report: diagnosis.Report, annotations: Path, images: Path | None) -> list[Finding]:
    """What is wrong with the data, and whether its classes are those of the file."""
    from maskgraft import coco

    try:
        data = coco.read(annotations, images if images is not None else annotations.parent)
    except DataError as error:
        return list(error.findings)
    findings = list(data.findings)
    if report.spec is not None:
        lacking = [name for name in data.classes if name not in report.spec.classes]
        if lacking:
            message = (
                f"{len(lacking)} of {len(data.classes)} classes of {annotations.name} are not in the file: "
                f"{', '.join(lacking[:6])}"
            )
            fix = f"mg.load(path, classes={list(data.classes)[:3]}…) keeps the rows of shared names"
            effect = "they cannot be detected, and rows of other classes stand in their places"
            findings.append(Finding("shape.classes", "warning", message, names=tuple(lacking), effect=effect, fix=fix))
    return findings


def print_report(report: diagnosis.Report, *, every: bool = False) -> None:
    """What a checkpoint is: a line, the components, the conventions by how they were learned, and the findings."""
    out = console()
    if report.spec is not None:
        spec = report.spec
        era = f", names of {report.era}" if report.era else ""
        out.print(head(report.path, report.format))
        out.print(f"{report.family}{era}: {diagnosis.summary(spec)}")
        whole = sum(values for _, values in report.components.values()) or 1
        rows = [
            (name, tensors, f"{values:,}", f"{values / whole:.1%}")
            for name, (tensors, values) in report.components.items()
        ]
        out.print()
        out.print(table("", ("component", "tensors", "values", "share"), rows, right=(1, 2, 3)))
        for reason in sorted(set(report.ignored.values())):
            names = [name for name, why in report.ignored.items() if why == reason]
            out.print(f"left out: {len(names)} tensors ({reason})", style="dim")
        out.print()
        shown = [
            (name.removeprefix("numerics."), _short(_value(spec, name)), one.how, one.source, _cost(name))
            for name, one in sorted(spec.learned.items())
            if name.startswith("numerics.") and (every or one.how == "assumed")
        ]
        alike = {} if every else Counter((how, source) for _, _, how, source, _ in shown)
        many = {why: number for why, number in alike.items() if number > _MOST_ALIKE}
        if len(shown) > sum(many.values()):
            few = [row for row in shown if row[2:4] not in many]
            out.print(table("", ("convention", "value", "how", "source", "a wrong guess costs"), few))
        for (how, source), number in many.items():
            out.print(f"{number} conventions are {how}: {source} (--all shows them)", style="dim")
        read = sum(name.startswith("numerics.") and one.how == "read" for name, one in spec.learned.items())
        if read and not every:
            out.print(f"{read} conventions are read from the file or its config (--all shows them)", style="dim")
        if shown or read:
            out.print()
    elif report.format:
        out.print(head(report.path, report.format))
    print_findings(report.findings, to=out, most=None if every else 12)
    out.print("it loads" if report.loadable and report.spec else "it does not load as it is", style="bold")


def _value(spec: object, name: str) -> object:
    for part in name.split("."):
        spec = getattr(spec, part)
    return spec


def _cost(name: str) -> str:
    return COSTS.get(name.removeprefix("numerics."), "").partition(":")[2].strip()


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return " ".join(_short(item) for item in value)
    return str(value)
