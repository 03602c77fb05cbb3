"""`maskgraft convert`: a checkpoint in another home framework's names, layouts and container."""

from pathlib import Path
from typing import Annotated

import typer

from maskgraft import conversion
from maskgraft.cli import options
from maskgraft.cli.show import console, print_findings, print_json, table
from maskgraft.errors import Finding


def convert(
    checkpoint: options.Checkpoint,
    to: Annotated[str, typer.Option(help="The family to write: torchvision, detectron2, mmdet, matterport …")],
    out: Annotated[Path, typer.Option(help="The file to write; of a TensorFlow checkpoint its prefix.")],
    accept: Annotated[bool, typer.Option("--accept", help="Write although the target computes otherwise.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    config: options.Config = None,
    key: options.Key = None,
    as_json: options.Json = False,
) -> None:
    """Write a checkpoint as another home framework would have.

    Exit 1, and nothing written, when the target cannot express a convention of the source and --accept is not given.
    """
    try:
        done = conversion.convert(
            checkpoint, to=to, out=out, accept=accept, overwrite=overwrite, config=config, key=key
        )
    except conversion.NotExpressible as error:
        if as_json:
            print_json({"files": [], "family": to, "findings": [finding.as_json() for finding in error.findings]})
        else:
            _print_conventions(error.findings)
            console().print("nothing is written; --accept writes it all the same", style="bold")
        raise typer.Exit(1) from None
    if as_json:
        print_json(done.as_json())
        return
    out_ = console()
    _print_conventions(done.findings)
    if done.settings:
        rows = [(name, str(value)) for name, value in done.settings.items()]
        out_.print(table("to be set in the home framework", ("setting", "value"), rows))
    for path in done.files:
        out_.print(f"wrote {path}", style="bold")


def _print_conventions(findings: tuple[Finding, ...]) -> None:
    """Differing conventions as a table, and all other findings as they are."""
    rows = [
        (finding.names[0].removeprefix("numerics."), _short(finding, "source"), _short(finding, "target"), finding.code)
        for finding in findings
        if finding.severity != "info" and "target" in finding.evidence
    ]
    if rows:
        console().print(table("what the target computes otherwise", ("convention", "source", "target", "code"), rows))
    training = [finding for finding in findings if finding.code == "numerics.training"]
    if training:
        console().print(f"{len(training)} conventions of training differ (--json lists them)", style="dim")
    print_findings([finding for finding in findings if "target" not in finding.evidence])


def _short(finding: Finding, side: str) -> str:
    value = finding.evidence[side]
    return f"{value:.6g}" if isinstance(value, float) else str(value)
