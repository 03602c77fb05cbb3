"""`maskgraft probe`: conventions that no file states, tried on photographs."""

from pathlib import Path
from typing import Annotated

import typer

from maskgraft.cli import options
from maskgraft.cli.show import console, print_json, table


def probe(
    checkpoint: options.Checkpoint,
    images: Annotated[Path, typer.Option(help="A folder of photographs.")],
    annotations: Annotated[
        Path | None, typer.Option(help="COCO annotations of them; without, the detector's confidence judges.")
    ] = None,
    config: options.Config = None,
    key: options.Key = None,
    settings: options.Set = None,
    limit: Annotated[int, typer.Option(help="How many photographs.")] = 4,
    every: Annotated[bool, typer.Option("--all", help="Try what is implied or read, too.")] = False,
    write: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Save the model with what fits: weights and spec.json.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Try the alternatives to what was assumed on a few photographs, and say which fits."""
    from maskgraft.probing import probe as probed
    from maskgraft.store import save

    found = probed(
        *(checkpoint, images, annotations),
        config=config,
        key=key,
        numerics=options.numerics(settings),
        limit=limit,
        every=every,
    )
    if write is not None:
        save(found.model, write)
    if as_json:
        print_json({**found.as_json(), "written": str(write) if write else None})
        return
    out = console()
    if not found.trials:
        out.print("nothing was assumed: the file, its config or its family say all of it (--all tries it all the same)")
        return
    chosen = found.chosen
    rows = [
        (
            trial.convention,
            trial.name + (" (assumed)" if trial.assumed else ""),
            f"{trial.score:.3f}",
            "fits" if chosen[trial.convention] is trial else "",
        )
        for trial in found.trials
    ]
    judge = "score × overlap of labelled objects" if found.labelled else "mean confidence"
    out.print(table(f"{found.images} photographs", ("convention", "tried", judge, ""), rows, right=(2,)))
    changes = {name: value for trial in chosen.values() for name, value in trial.changes.items()}
    if changes:
        out.print("what fits: " + " ".join(f"--set {name}={_typed(value)}" for name, value in changes.items()))
    else:
        out.print("what was assumed fits best")
    if write is not None:
        out.print(f"saved: {write}")


def _typed(value: object) -> str:
    return f"'{list(value)}'" if isinstance(value, tuple) else str(value)
