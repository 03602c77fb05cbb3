"""`Grafted`: the record of what a load put where; a model carries it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maskgraft.errors import Finding


@dataclass(frozen=True, slots=True)
class Row:
    """Where a class of the model comes from: `source` is its index in the file, or None for a new class.

    `called` is its name there, where that is another; `path` is the file, where it is not the model's own.
    """

    name: str
    source: int | None
    called: str = ""
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Grafted:
    """What a load did: `moved` canonical name → name in the file, the class rows, what was ignored and why."""

    path: Path
    family: str
    era: str
    prefix: str
    moved: Mapping[str, str]
    rows: tuple[Row, ...]
    dropped: tuple[str, ...]
    ignored: Mapping[str, str]
    findings: tuple[Finding, ...]
