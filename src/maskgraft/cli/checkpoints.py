"""Verbs on checkpoint files: what they are and what is wrong with them. None of them imports torch."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from maskgraft import diagnosis
from maskgraft.cli import options
from maskgraft.cli.show import console, print_findings, print_json, table

_MOST_ALIKE = 16  # conventions that were learned in one and the same way are counted beyond this, not listed


def diagnose(
    checkpoint: options.Checkpoint,
    into: Annotated[Path | None, typer.Option(help="Another checkpoint, into whose model this one should go.")] = None,
    config: options.Config = None,
    key: options.Key = None,
    every: Annotated[bool, typer.Option("--all", help="Show every finding and every convention.")] = False,
    as_json: options.Json = False,
) -> None:
    """Say what a checkpoint is, and everything that is wrong or doubtful about it.

    Exit 1 when something stops it from loading.
    """
    report = diagnosis.diagnose(checkpoint, into=into, config=config, key=key)
    if as_json:
        print_json(report.as_json())
    else:
        print_report(report, every=every)
    if not report.loadable:
        raise typer.Exit(1 if report.format else 2)


def print_report(report: diagnosis.Report, *, every: bool = False) -> None:
    """What a checkpoint is: a line, the components, the conventions by how they were learned, and the findings."""
    out = console()
    if report.spec is not None:
        spec = report.spec
        era = f", names of {report.era}" if report.era else ""
        out.print(f"[bold]{report.path}[/]  {report.format}")
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
            (name.removeprefix("numerics."), _short(_value(spec, name)), one.how, one.source)
            for name, one in sorted(spec.learned.items())
            if name.startswith("numerics.") and (every or one.how == "assumed")
        ]
        alike = {} if every else Counter((how, source) for _, _, how, source in shown)
        many = {why: number for why, number in alike.items() if number > _MOST_ALIKE}
        if len(shown) > sum(many.values()):
            few = [row for row in shown if row[2:] not in many]
            out.print(table("", ("convention", "value", "how", "source"), few))
        for (how, source), number in many.items():
            out.print(f"{number} conventions are {how}: {source} (--all shows them)", style="dim")
        read = sum(name.startswith("numerics.") and one.how == "read" for name, one in spec.learned.items())
        if read and not every:
            out.print(f"{read} conventions are read from the file or its config (--all shows them)", style="dim")
        if shown or read:
            out.print()
    elif report.format:
        out.print(f"[bold]{report.path}[/]  {report.format}")
    print_findings(report.findings, to=out, most=None if every else 12)
    out.print("it loads" if report.loadable and report.spec else "it does not load as it is", style="bold")


def _value(spec: object, name: str) -> object:
    for part in name.split("."):
        spec = getattr(spec, part)
    return spec


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return " ".join(_short(item) for item in value)
    return str(value)
