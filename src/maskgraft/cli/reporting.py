"""`maskgraft report`: the page of a run."""

from pathlib import Path
from typing import Annotated

import typer

from maskgraft.cli import options
from maskgraft.cli.show import console, print_json


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, ended or not.")],
    as_json: options.Json = False,
) -> None:
    """Write report.html into the folder of a run: how it went, what it loses and why, and how it was set up."""
    from maskgraft.reporting import report as write

    path = write(run)
    if as_json:
        print_json({"run": str(run), "page": str(path)})
    else:
        console().print(f"{path}  ({path.stat().st_size / 1e6:.1f} MB, needs nothing else)")
