"""`data anchors`: anchors fitted to a dataset, as a table and as what `--set` takes."""

import json
from pathlib import Path
from typing import Annotated

import typer

from maskgraft.cli import options
from maskgraft.cli.show import console, print_json, table


def anchors(
    annotations: Annotated[Path, typer.Argument(help="COCO instances JSON.")],
    images: Annotated[Path, typer.Argument(help="Folder of the images; they are not opened.")],
    checkpoint: Annotated[
        Path | None, typer.Option("--for", help="Checkpoint whose anchors are to be fitted; else torchvision's.")
    ] = None,
    min_size: Annotated[int | None, typer.Option(min=32, help="Short side of the network's input, pixels.")] = None,
    max_size: Annotated[int | None, typer.Option(min=32, help="Longest side of the network's input, pixels.")] = None,
    as_json: options.Json = False,
) -> None:
    """Fit anchors to the boxes of a dataset: recall and best overlap before and after."""
    from maskgraft import anchor_fitting, coco

    data = coco.read(annotations, images, need_files=False)
    spec = options.spec_of(checkpoint, data.classes)
    fit = anchor_fitting.fit_anchors(data, spec, min_size=min_size, max_size=max_size)
    if as_json:
        print_json({**fit.as_json(), "numerics": fit.numerics})
        return
    both = (fit.before, fit.after)
    rows = [
        ("sizes", *(" ".join(",".join(f"{size:g}" for size in level) for level in one.sizes) for one in both)),
        ("ratios (height / width)", *(" ".join(f"{ratio:g}" for ratio in one.ratios) for one in both)),
        *(
            (f"recall at IoU {overlap}", *(f"{100 * one.recall(overlap):.1f} %" for one in both))
            for overlap in (0.5, 0.7)
        ),
        ("mean best IoU", *(f"{one.mean:.3f}" for one in both)),
        *(
            (f"best IoU {step / 10:.1f} to {(step + 1) / 10:.1f}", *(_bar(one.histogram(), step) for one in both))
            for step in range(10)
        ),
    ]
    out = console()
    out.print(table(f"{len(fit.before.best)} boxes", ("", "before", "after"), rows))
    if not fit.numerics:
        out.print("The anchors fit these boxes: nothing better by a point was found.")
        return
    sizes, ratios = (json.dumps(fit.numerics[name], separators=(",", ":")) for name in fit.numerics)
    out.print(f"--set anchor_sizes={sizes} --set anchor_ratios={ratios}", soft_wrap=True)
    out.print(f"in a recipe:  [numerics]\n  anchor_sizes = {sizes}\n  anchor_ratios = {ratios}", soft_wrap=True)


def _bar(counts: tuple[int, ...], step: int) -> str:
    most = max(max(counts), 1)
    return f"{'█' * round(20 * counts[step] / most):<20} {counts[step]}"
