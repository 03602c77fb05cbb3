"""`data show`: what training will see, as a contact sheet."""

from pathlib import Path
from typing import Annotated

import typer

from maskgraft.cli import options
from maskgraft.cli.show import console, print_json
from maskgraft.errors import Finding, UsageError


def show(
    annotations: Annotated[Path, typer.Argument(help="COCO instances JSON.")],
    images: Annotated[Path, typer.Argument(help="Folder of the images.")],
    out: Annotated[Path, typer.Argument(help="Picture to write, .jpg or .png.")],
    recipe: Annotated[Path | None, typer.Option(help="Recipe file whose augmentations are shown.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--for", help="Checkpoint whose input size is used; else torchvision's.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=200, help="How many images.")] = 12,
    seed: Annotated[int | None, typer.Option(help="Seed of what is drawn; else the recipe's.")] = None,
    as_json: options.Json = False,
) -> None:
    """Draw images with their truth as the augmentations of a recipe leave them: what the first steps train on."""
    from maskgraft import coco, previews
    from maskgraft import recipe as recipes
    from maskgraft.files.writing import atomic
    from maskgraft.images import SUFFIXES

    if out.suffix.lower() not in SUFFIXES:
        message = f"{out} is no picture that can be written: {out.suffix or 'no ending'}"
        raise UsageError(Finding("spec.field", "error", message, fix=f"{out.stem}.jpg, or .png"))
    data = coco.read(annotations, images)
    chosen = recipes.read(recipe) if recipe else recipes.Recipe()
    chosen = chosen if seed is None else chosen.model_copy(update={"seed": seed})
    spec = options.spec_of(checkpoint, data.classes)
    picture = previews.preview_augmented(data, spec.numerics, chosen, count=count)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as temporary:
        picture.save(temporary)
    if as_json:
        print_json({"picture": str(out), "width": picture.width, "height": picture.height})
    else:
        console().print(f"{out}: {picture.width} × {picture.height} pixels")
