"""`data split`: parts of a dataset that share nothing."""

from pathlib import Path
from typing import Annotated

import typer

from maskgraft.cli import options
from maskgraft.cli.show import console, print_json, table


def split(
    annotations: Annotated[Path, typer.Argument(help="COCO instances JSON.")],
    images: Annotated[Path, typer.Argument(help="Folder of the images.")],
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    val: Annotated[float, typer.Option(help="Share of the images for evaluation.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of the images for a last test.")] = 0.0,
    group: Annotated[str, typer.Option(help="auto, prefix, folder or none: what stays together besides.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of what is drawn.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Split a dataset by class, with images that are alike, or of one video, on one side."""
    from maskgraft import data_splitting

    done = data_splitting.split_data(annotations, images, out=out, val=val, test=test, group=group, seed=seed)  # type: ignore[arg-type]
    if as_json:
        print_json(done.as_json())
        return
    parts = list(done.annotations)
    rows = [("images", *(done.images[part] for part in parts))]
    rows += [(name, *(done.instances[part][name] for part in parts)) for name in done.instances[parts[0]]]
    console().print(table("", ("", *parts), rows, right=range(1, len(parts) + 1)))
    console().print(f"{done.groups} groups ({done.grouping}), {done.alike} pairs of images alike; in {out}")
