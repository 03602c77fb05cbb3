"""The verb doctor: why a training will not work, or why it does not."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from maskgraft.cli import options
from maskgraft.cli.show import console, print_findings, print_json, table
from maskgraft.errors import Finding, UsageError


def doctor(
    run: Annotated[Path | None, typer.Argument(help="The folder of a run, to say how it goes or went.")] = None,
    data: Annotated[Path | None, typer.Option(help="COCO instances JSON to train on.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of its images; else that of the JSON.")] = None,
    weights: Annotated[Path | None, typer.Option(help="The checkpoint to train.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Recipe file, TOML or JSON, or a run's recipe.json.")] = None,
    val_annotations: options.ValAnnotations = None,
    val_images: options.ValImages = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--field", metavar="NAME=VALUE", help="A field of the recipe, such as lr=0.01. Repeatable."),
    ] = None,
    config: options.Config = None,
    key: options.Key = None,
    family: options.FamilyName = None,
    settings: options.Set = None,
    classes: options.Classes = None,
    device: options.Device = "cpu",
    as_json: options.Json = False,
) -> None:
    """Say why a training is stuck, or will be: a cause, evidence and a fix, worst first.

    Exit 1 with anything above info.
    """
    if run is None and (data is None or weights is None):
        message = "doctor takes the folder of a run, or --data and --weights"
        raise UsageError(Finding("spec.field", "error", message, fix="maskgraft doctor runs/first"))
    if run is not None and (data is not None or weights is not None):
        raise UsageError(Finding("spec.field", "error", "doctor takes a run, or --data with --weights, not both"))
    if run is not None:
        from maskgraft.runs import examine_run

        found: Any = examine_run(run, compare=True)
    elif data is not None and weights is not None:
        from maskgraft import coco
        from maskgraft import recipe as recipes
        from maskgraft.class_surgery import with_classes
        from maskgraft.cli.models import load_model
        from maskgraft.cli.progress import examining
        from maskgraft.examining import examine

        dataset = coco.read(data, images or data.parent, classes=options.names(classes))
        place = val_images or images
        val = (
            coco.read(val_annotations, place or val_annotations.parent, classes=dataset.classes)
            if val_annotations
            else None
        )
        values = recipes.read(recipe).model_dump(exclude_unset=True) if recipe else {}
        chosen = recipes.recipe_from({**values, **(options.numerics(fields, "--field") or {})})
        model = load_model(weights, config, key, family, settings, None, device)
        if tuple(model.spec.classes) != dataset.classes:
            model = with_classes(model, dataset.classes)
        found = examine(model, dataset, chosen, val=val, progress=partial(examining, quiet=as_json))
    if as_json:
        print_json(found.as_json())
    else:
        out = console()
        print_findings(found.findings, to=out)
        _print_measured(found.measured, out)
        if found.healthy:
            out.print("nothing stands in the way")
    if not found.healthy:
        raise typer.Exit(1)


def _print_measured(measured: Any, out: Any) -> None:
    """The figures that are worth a look, whatever was found."""
    if losses := measured.get("first_losses"):
        undecided = measured["undecided"]
        rows = [
            (name, f"{value:.3f}", f"{undecided[name]:.3f}" if name in undecided else "")
            for name, value in losses.items()
        ]
        out.print(table("losses before the first step", ("loss", "measured", "of random weights"), rows, right=(1, 2)))
    if anchors := measured.get("anchors"):
        bars = " ".join(str(count) for count in anchors["histogram"])
        out.print(
            f"anchors meet {anchors['recall_0.5']:.0%} of the boxes by half, {anchors['recall_0.7']:.0%} by 0.7; "
            f"best IoU in tenths: {bars}"
        )
    if measured.get("of"):
        out.print(f"{measured['steps']} of {measured['of']} steps")
        rows = [(name, f"{first:.3f}", f"{last:.3f}") for name, (first, last) in measured["losses"].items()]
        out.print(table("", ("loss", "first tenth", "last tenth"), rows, right=(1, 2)))
