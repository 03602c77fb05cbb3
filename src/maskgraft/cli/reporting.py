"""`maskgraft report`: the page of a run."""

from pathlib import Path
from typing import Annotated

import typer

from maskgraft.cli import options
from maskgraft.cli.show import bar, console, print_json


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, ended or not.")],
    val_annotations: Annotated[
        Path | None, typer.Option(help="COCO instances JSON to look for errors in; else what the run was evaluated on.")
    ] = None,
    val_images: Annotated[Path | None, typer.Option(help="Its images; else the folder of the JSON.")] = None,
    limit: Annotated[int, typer.Option(help="Only the first images of it.")] = 200,
    device: options.Device = "cpu",
    as_json: options.Json = False,
) -> None:
    """Write report.html into the folder of a run: how it went, what it loses and why, and how it was set up."""
    from maskgraft import coco
    from maskgraft.reporting import report as write

    val = coco.read(val_annotations, val_images or val_annotations.parent) if val_annotations else None
    path = write(run, val=val, limit=limit, device=device, progress=lambda all_: bar(all_, "evaluate", quiet=as_json))
    if as_json:
        print_json({"run": str(run), "page": str(path)})
    else:
        console().print(f"{path}  ({path.stat().st_size / 1e6:.1f} MB, needs nothing else)")
