"""`data convert`: datasets of other tools as COCO files."""

from pathlib import Path
from typing import Annotated

import typer

from maskgraft.cli import options
from maskgraft.cli.show import console, print_findings, print_json
from maskgraft.errors import Finding, UsageError


def convert(
    source: Annotated[Path, typer.Argument(help="Folder or file: LabelMe, VIA, YOLO, mask PNGs, TFRecords.")],
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    to: Annotated[str, typer.Option(help="Only coco.")] = "coco",
    kind: Annotated[
        str | None,
        typer.Option("--from", help="labelme, via, yolo, voc, mask-png or tfrecord, if not told by content."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of VIA's images; else beside the file.")] = None,
    label_map: Annotated[Path | None, typer.Option(help="Label map (.pbtxt) of TFRecords.")] = None,
    classes: options.Classes = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images too; else they stay where they are.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write a dataset of another tool as COCO instances JSON: all of it, or nothing with every fault told."""
    from maskgraft import data_conversion

    if to != "coco":
        raise UsageError(Finding("spec.field", "error", f"--to is {to!r}, and only coco is written", fix="--to coco"))
    done = data_conversion.convert_data(
        source,
        out=out,
        kind=kind,  # type: ignore[arg-type]
        images=images,
        label_map=label_map,
        classes=options.names(classes),
        copy=copy,
    )
    if as_json:
        print_json(done.as_json())
        return
    print_findings(done.findings, to=console())
    kinds = "1 class" if len(done.classes) == 1 else f"{len(done.classes)} classes"
    told = f"{done.photos} images, {done.instances} instances of {kinds} ({done.kind})"
    console().print(f"{told}; check them with")
    for path in done.annotations.values():
        console().print(f"  maskgraft data check {path} {done.images}", soft_wrap=True)
