"""`maskgraft compare`: two checkpoints, or a checkpoint and a stage dump, stage by stage."""

from pathlib import Path
from typing import Annotated

import typer

from maskgraft.cli import options
from maskgraft.cli.show import console, print_json, table


def compare(
    one: Annotated[Path, typer.Argument(help="A checkpoint of any family.")],
    other: Annotated[Path, typer.Argument(help="Another, or an .npz of stages from another program.")],
    image: Annotated[Path, typer.Option(help="The photograph to compare on.")],
    config: options.Config = None,
    settings: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Say in which stage two models first differ, and which conventions could be the cause. Exit 1 when they differ."""
    from maskgraft.comparison import compare as compare_models
    from maskgraft.comparison import read_dump
    from maskgraft.graft import load

    numerics = options.numerics(settings)
    model = load(one, config=config, numerics=numerics)
    dump = other.suffix == ".npz" and _is_dump(other)
    second = read_dump(other) if dump else load(other, numerics=numerics)
    found = compare_models(model, second, image)
    if as_json:
        print_json(found.as_json())
    else:
        rows = [
            (stage.name, stage.note or f"{stage.largest:.3g}", "" if stage.note else f"{stage.relative:.2g}", mark)
            for stage in found.stages
            for mark in ["agrees" if stage.agrees else "DIFFERS" if stage.name == found.first else "differs"]
        ]
        out = console()
        out.print(table("", ("stage", "largest difference", "relative", ""), rows, right=(1, 2)))
        if found.first:
            out.print(f"first stage that differs: {found.first}", style="bold")
            if dump and all(yours is None for _, yours in found.suspects.values()):
                acting = ", ".join(f"{name} {mine}" for name, (mine, _) in found.suspects.items())
                out.print(f"  no single convention makes it agree; what acts there: {acting}")
            else:
                for name, (mine, yours) in found.suspects.items():
                    out.print(
                        f"  {name}: {mine} in {one.name}, {yours} {'would agree' if dump else f'in {other.name}'}"
                    )
            if not found.suspects:
                differ = (
                    "no convention that acts there differs" if found.unseen else "no convention differs up to there"
                )
                out.print(f"  {differ}: the weights do")
        else:
            out.print("every stage agrees", style="bold")
        if found.unseen:
            what = "act where stages agree" if found.first else "do nothing on this photograph"
            out.print(f"conventions differ that {what}, or that the weights make up for:")
        for name, (mine, yours) in found.unseen.items():
            out.print(f"  {name}: {mine} in {one.name}, {yours} in {other.name}")
    if found.first:
        raise typer.Exit(1)


def _is_dump(path: Path) -> bool:
    from maskgraft.files import open_checkpoint

    tensors = open_checkpoint(path)
    return any(name in tensors for name in ("input", "p2", "c4", "c5"))
