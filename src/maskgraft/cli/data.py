"""Verbs on datasets."""

from pathlib import Path
from typing import Annotated

import typer

from maskgraft.cli import anchors, converting, options, previewing, splitting
from maskgraft.cli.show import bar, console, print_findings, print_json

app = typer.Typer(
    help="Bring a dataset to COCO form, look at it, split it, before training on it.", no_args_is_help=True
)
app.command()(converting.convert)
app.command()(splitting.split)
app.command()(anchors.anchors)
app.command()(previewing.show)


@app.callback()
def _verbs() -> None:
    """Bring a dataset to COCO form, look at it, split it, before training on it."""


@app.command()
def check(
    annotations: Annotated[Path, typer.Argument(help="COCO instances JSON.")],
    images: Annotated[Path, typer.Argument(help="Folder of the images.")],
    open_images: Annotated[bool, typer.Option("--open-images", help="Open every image too.")] = False,
    checkpoint: Annotated[Path | None, typer.Option("--for", help="Checkpoint that is to be trained.")] = None,
    val_annotations: Annotated[Path | None, typer.Option(help="Instances JSON of the validation set.")] = None,
    val_images: Annotated[Path | None, typer.Option(help="Its images; else the same folder.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder for a picture of the worst, worst.jpg.")] = None,
    as_json: options.Json = False,
) -> None:
    """Report everything that is wrong or odd about a dataset. Exit 2 when it cannot be read, 1 with warnings."""
    from maskgraft import coco, data_checking
    from maskgraft.files.writing import atomic

    dataset = coco.read(annotations, images)
    val = coco.read(val_annotations, val_images or images) if val_annotations else None
    spec = options.spec_of(checkpoint, dataset.classes) if checkpoint else None
    report = data_checking.check_data(
        dataset, val=val, spec=spec, open_images=open_images, progress=lambda every: bar(every, "images", quiet=as_json)
    )
    sheet = report.pictures() if pictures else None
    if sheet is not None and pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        with atomic(pictures / "worst.jpg") as temporary:
            sheet.save(temporary)
    findings = report.findings
    if as_json:
        layers = {name: [finding.code for finding in found] for name, found in report.layers().items()}
        every = [finding.as_json() for finding in findings]
        print_json({"images": len(dataset.images), "layers": layers, "findings": every})
    else:
        for name, found in report.layers().items():
            if found:
                console().print(f"{name}", style="bold")
                print_findings(found, to=console())
        counts = {"image": len(dataset.images), "class": len(dataset.classes), "finding": len(findings)}
        console().print(", ".join(_some(count, name) for name, count in counts.items()))
        if sheet is not None and pictures is not None:
            console().print(f"the worst are drawn in {pictures / 'worst.jpg'}")
    if any(finding.severity != "info" for finding in findings):
        raise typer.Exit(1)


def _some(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}{'es' if name.endswith('s') else 's'}"
