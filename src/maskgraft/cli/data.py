"""Verbs on datasets."""

from pathlib import Path
from typing import Annotated

import typer

from maskgraft.cli import anchors, converting, options, previewing
from maskgraft.cli.show import console, print_findings, print_json

app = typer.Typer(help="Look at a COCO-format dataset before training on it.", no_args_is_help=True)


app.command()(converting.convert)
app.command()(anchors.anchors)
app.command()(previewing.show)


@app.callback()
def _verbs() -> None:
    """Look at a COCO-format dataset before training on it."""


@app.command()
def check(
    annotations: Annotated[Path, typer.Argument(help="COCO instances JSON.")],
    images: Annotated[Path, typer.Argument(help="Folder of the images.")],
    open_images: Annotated[bool, typer.Option("--open-images", help="Open every image too.")] = False,
    as_json: options.Json = False,
) -> None:
    """Report everything that is wrong or odd about a dataset. Exit 2 when it cannot be read, 1 with warnings."""
    from maskgraft import coco

    dataset = coco.read(annotations, images)
    findings = coco.check(dataset, open_images=open_images)
    if as_json:
        print_json({"images": len(dataset.images), "findings": [finding.as_json() for finding in findings]})
    else:
        print_findings(findings, to=console())
        console().print(f"{len(dataset.images)} images, {len(dataset.classes)} classes, {len(findings)} findings")
    if any(finding.severity != "info" for finding in findings):
        raise typer.Exit(1)
