"""Options that several verbs share."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from maskgraft.errors import CheckpointError, Finding, UsageError
from maskgraft.spec import Arch, Spec

Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint of any family, or a folder that maskgraft saved.")]
Config = Annotated[Path | None, typer.Option(help="Config file of the training; else the one beside the checkpoint.")]
Key = Annotated[str | None, typer.Option(help="Which model, where a file holds several.")]
FamilyName = Annotated[str | None, typer.Option("--family", help="Home framework, instead of the guess.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Override a convention, such as score_threshold=0.5. Repeatable."),
]
Classes = Annotated[
    str | None, typer.Option(help="Class names with commas between: rows are kept by name, new ones initialised.")
]
ValAnnotations = Annotated[Path | None, typer.Option(help="COCO instances JSON to evaluate on.")]
ValImages = Annotated[Path | None, typer.Option(help="Its images; else those of --images.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1 …")]


def numerics(settings: Sequence[str] | None, option: str = "--set") -> dict[str, Any] | None:
    """`--set NAME=VALUE` options as a mapping; values are JSON, or text where they are not."""
    if not settings:
        return None
    result = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(Finding("spec.field", "error", f"{option} {setting} has no =", fix=f"{option} NAME=VALUE"))
        try:
            result[name.strip()] = json.loads(value)
        except ValueError:
            result[name.strip()] = value
    return result


def names(classes: str | None) -> list[str] | None:
    """`--classes a,b,c` as a list."""
    return [name.strip() for name in classes.split(",")] if classes is not None else None


def synonyms(path: Path | None) -> dict[str, Any] | None:
    """A file of synonyms, TOML or JSON: class of the data → what it may be called in a checkpoint.

    Raises `UsageError` for a file that cannot be read, or holds anything else than names and lists of names.
    """
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(Finding("spec.field", "error", f"--synonyms {path} cannot be read: {error}")) from None
    strange = [
        name
        for name, also in (found.items() if isinstance(found, dict) else [(str(path), None)])
        if not all(isinstance(one, str) for one in (also if isinstance(also, list) else [also]))
    ]
    if strange:
        message = f"--synonyms {path}: {', '.join(strange[:5])} is no name and no list of names"
        raise UsageError(Finding("spec.field", "error", message, fix='human = ["person", "pedestrian"]'))
    return dict(found)


def spec_of(checkpoint: Path | None, classes: Sequence[str]) -> Spec:
    """The spec of a checkpoint, or torchvision's for these classes. Raises `CheckpointError` where there is none."""
    if checkpoint is None:
        from maskgraft.families import torchvision

        arch, names = Arch(classes=len(classes)), tuple(classes)
        return Spec(family="torchvision", arch=arch, numerics=torchvision.NUMERICS, classes=names)
    if (checkpoint / "spec.json").is_file():
        from maskgraft import store

        return store.read_spec(checkpoint)
    from maskgraft.diagnosis import diagnose

    report = diagnose(checkpoint)
    if report.spec is None:
        raise CheckpointError(report.findings)
    return report.spec
