"""`maskgraft inspect`: what is in checkpoint files, and how two of them differ. Imports no torch."""

from pathlib import Path
from typing import Annotated

import typer

from maskgraft import inspection
from maskgraft.cli import options
from maskgraft.cli.show import console, folded, head, print_findings, print_json, table
from maskgraft.errors import Finding, UsageError
from maskgraft.files import open_checkpoint

_MOST_ROWS = 40
_MOST_CHANGES = 20
_MOST_LETTERS = 160


def inspect(
    checkpoints: Annotated[list[Path], typer.Argument(help="Checkpoints, or folders of them.")],
    tree: Annotated[bool, typer.Option("--tree", help="List every tensor, index ranges folded.")] = False,
    values: Annotated[bool, typer.Option("--values", help="Read the values: NaN, constant weights.")] = False,
    diff: Annotated[Path | None, typer.Option(help="Another checkpoint: what differs, and by how much.")] = None,
    key: options.Key = None,
    salvage: Annotated[bool, typer.Option("--salvage", help="Read what is whole of a truncated file.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show what is in checkpoint files, without loading them. Exit 2 when one cannot be opened."""
    if diff is not None:
        if len(checkpoints) != 1:
            message = f"--diff compares one checkpoint with {diff}, and {len(checkpoints)} are given"
            fix = f"maskgraft inspect {checkpoints[0]} --diff {diff}"
            raise UsageError(Finding("spec.field", "error", message, fix=fix))
        _print_difference(checkpoints[0], diff, key, salvage=salvage, as_json=as_json)
        return
    paths = inspection.checkpoints_in(checkpoints)
    found = [inspection.describe(path, key=key, salvage=salvage, values=values) for path in paths]
    if as_json:
        print_json([one.as_json() for one in found] if len(found) > 1 else found[0].as_json())
    elif len(found) > 1:
        _print_list(found)
    else:
        _print_one(found[0], tree=tree)
    if any(one.tensors is None for one in found):
        raise typer.Exit(2)


def _print_difference(first: Path, second: Path, key: str | None, *, salvage: bool, as_json: bool) -> None:
    one, other = (open_checkpoint(path, key=key, salvage=salvage) for path in (first, second))
    found = inspection.difference(one, other)
    if as_json:
        print_json(found.as_json())
        return
    out = console()
    out.print(f"{found.equal} tensors are equal, {len(found.changed)} changed, {len(found.reshaped)} of another shape")
    rows = [(one.name, f"{one.largest:.3g}", f"{one.relative:.2%}") for one in found.changed[:_MOST_CHANGES]]
    if rows:
        out.print(table("", ("changed", "largest difference", "relative"), rows, right=(1, 2)))
    if len(found.changed) > _MOST_CHANGES:
        out.print(f"… and {len(found.changed) - _MOST_CHANGES} more", style="dim")
    for name, (before, after) in list(found.reshaped.items())[:_MOST_CHANGES]:
        out.print(f"{name}: {list(before)} in {first.name}, {list(after)} in {second.name}")
    for path, names in ((first, found.only_first), (second, found.only_second)):
        if names:
            out.print(f"only in {path.name}: {folded(names)}")


def _print_list(found: list[inspection.Description]) -> None:
    rows: list[tuple[object, ...]] = []
    base = _shared_folder([one.path for one in found])
    if base is not None:
        console().print(f"in {base}:", highlight=False)
    for one in found:
        path = one.path.relative_to(base) if base is not None else one.path
        if one.tensors is None:
            rows.append((path, "–", one.findings[0].code, one.findings[0].message))
        else:
            values = sum(array.size for array in one.tensors.values())
            what = f"{one.family} {one.summary}".strip() or "of no known family"
            rows.append((path, one.tensors.format, f"{len(one.tensors)} tensors, {values:,} values", what))
    console().print(table("", ("file", "format", "holds", "what"), rows))


def _shared_folder(paths: list[Path]) -> Path | None:
    """The innermost folder that all paths lie in, unless it is a file system's root or the working folder."""
    shared = [folder for folder in paths[0].parents if folder.parts and all(folder in path.parents for path in paths)]
    return shared[0] if shared and shared[0] != Path(shared[0].anchor) else None


def _print_one(one: inspection.Description, *, tree: bool) -> None:
    out = console()
    if one.tensors is None:
        print_findings(one.findings, to=out)
        return
    tensors = one.tensors
    size = sum(array.nbytes for array in tensors.values())
    under = f" under {tensors.key!r}" if tensors.key else ""
    out.print(head(one.path, f"{tensors.format}{under}"))
    out.print(f"{len(tensors)} tensors, {sum(array.size for array in tensors.values()):,} values, {_bytes(size)}")
    known = [part for part in (one.family, one.summary) if part]
    out.print(": ".join(known) or "of no family that maskgraft knows")
    out.print("dtypes: " + ", ".join(f"{count} × {dtype}" for dtype, count in one.dtypes.items()))
    if one.classes:
        out.print(f"{len(one.classes)} classes: {folded(one.classes)}")
    if tensors.slots:
        slots = sum(array.nbytes for array in tensors.slots.values())
        out.print(f"{len(tensors.slots)} optimizer slots and averages apart from these, {_bytes(slots)}")
    if one.components:
        shown = list(one.components.items())[:_MOST_ROWS]
        parts = [(name, count, f"{values:,}") for name, (count, values) in shown]
        out.print()
        out.print(table("", ("part", "tensors", "values"), parts, right=(1, 2)))
        if len(one.components) > _MOST_ROWS:
            out.print(f"… and {len(one.components) - _MOST_ROWS} more parts (--tree)", style="dim")
    said = inspection.plain(tensors.about)
    if said:
        out.print()
        entries = [(name, _one_line(value)) for name, value in list(said.items())[:_MOST_ROWS]]
        out.print(table("", ("the file says", ""), entries))
    if tree:
        out.print()
        rows = [(row.name, row.count, "×".join(map(str, row.shape)) or "scalar", row.dtype) for row in one.folded()]
        out.print(table("", ("tensor", "count", "shape", "dtype"), rows, right=(1,)))
    if one.findings:
        out.print()
        print_findings(one.findings, to=out)


def _one_line(value: object) -> str:
    text = str(value).replace("\n", " ")
    return text if len(text) <= _MOST_LETTERS else text[:_MOST_LETTERS] + "…"


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size:,} bytes"
