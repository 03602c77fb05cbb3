"""`maskgraft export`: a model as one ONNX graph."""

from pathlib import Path
from typing import Annotated

import typer

from maskgraft.cli import options
from maskgraft.cli.models import load_model
from maskgraft.cli.show import console, print_json
from maskgraft.errors import Finding, UsageError


def export(
    checkpoint: options.Checkpoint,
    out: Annotated[Path, typer.Option(help="The file to write, ending with .onnx.")],
    size: Annotated[
        str | None, typer.Option(metavar="HEIGHTxWIDTH", help="Of the photographs; else as large as the input.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    config: options.Config = None,
    key: options.Key = None,
    family: options.FamilyName = None,
    settings: options.Set = None,
    classes: options.Classes = None,
    as_json: options.Json = False,
) -> None:
    """Write a model as ONNX, from pixels to boxes, scores, labels and masks, for photographs of one size."""
    sides = _size(size)
    model = load_model(checkpoint, config, key, family, settings, classes)

    from maskgraft import exporting

    done = exporting.export(model, out, size=sides, overwrite=overwrite)
    if as_json:
        print_json(done.as_json())
        return
    (high, wide), (height, width) = done.photograph, done.pixels
    console().print(f"wrote {done.file}", style="bold", soft_wrap=True)
    console().print(
        f"for photographs of {high} × {wide}, which it takes resized to {height} × {width} (height × width)"
    )


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise UsageError(Finding("spec.field", "error", f"--size {text} is no HEIGHTxWIDTH", fix="--size 720x1280"))
    return int(height), int(width)
