"""Looking into a checkpoint without loading it: what it holds, what it says of itself, how it differs from another.

description = describe("model_final.pth")
description.components, description.dtypes, description.folded()
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from maskgraft.diagnosis import components, summary
from maskgraft.errors import CheckpointError, Finding, worst_first
from maskgraft.families import extractor_offer, identify, of_file, other_network, recognise
from maskgraft.files import LazyArray, Tensors, open_checkpoint
from maskgraft.files.unreadable import is_document
from maskgraft.links import Shape

_MOST_TEXT = 120
_DEEP = 3  # how many levels of what a file says about itself are shown


@dataclass(frozen=True, slots=True)
class Description:
    """What `describe` found. `tensors` is None for a file that cannot be opened; `findings` then say why.

    `family` is the best guess, "" below half of the landmarks; `summary` a few words on the architecture, or on what
    else of no family the file holds, where it can be told; `components` maps components to (tensors, numbers).
    """

    path: Path
    tensors: Tensors | None
    family: str
    likeness: float
    summary: str
    classes: tuple[str, ...]
    components: Mapping[str, tuple[int, int]]
    findings: tuple[Finding, ...]

    @property
    def dtypes(self) -> dict[str, int]:
        """How many tensors are of each dtype."""
        return dict(Counter(str(array.dtype) for array in (self.tensors or {}).values()))

    def folded(self) -> list["Row"]:
        """The tensors, those that differ only by an index in one row."""
        return fold(self.tensors) if self.tensors is not None else []

    def as_json(self) -> dict[str, Any]:
        """The description as plain JSON types; the keys are stable."""
        tensors = self.tensors if self.tensors is not None else {}
        slots = self.tensors.slots if self.tensors is not None else {}
        return {
            "path": str(self.path),
            "format": self.tensors.format if self.tensors is not None else None,
            "key": self.tensors.key if self.tensors is not None else None,
            "family": self.family or None,
            "likeness": round(self.likeness, 3),
            "summary": self.summary or None,
            "classes": list(self.classes),
            "components": {
                name: {"tensors": count, "values": values} for name, (count, values) in self.components.items()
            },
            "dtypes": self.dtypes,
            "tensors": {
                name: {"shape": list(array.shape), "dtype": str(array.dtype)} for name, array in tensors.items()
            },
            "slots": {name: {"shape": list(array.shape), "dtype": str(array.dtype)} for name, array in slots.items()},
            "about": plain(self.tensors.about) if self.tensors is not None else {},
            "findings": [finding.as_json() for finding in self.findings],
        }


def describe(path: str | Path, *, key: str | None = None, salvage: bool = False, values: bool = False) -> Description:
    """Open a checkpoint and say what is in it. Headers are read only, unless `values` asks to look for damage.

    Never raises for a bad file: it is described by its findings.
    """
    path = Path(path)
    try:
        tensors = open_checkpoint(path, key=key, salvage=salvage)
    except CheckpointError as error:
        return Description(path, None, "", 0.0, "", (), {}, error.findings)
    harm = damaged(tensors) if values else []
    findings = [*tensors.findings, *harm]
    likeness, family, _, _ = recognise(tensors)[0]
    if likeness < 0.5:
        other = other_network(tensors)
        if other and (offer := extractor_offer(tensors)):
            findings.append(Finding("family.backbone-only", "info", "of this file the backbone can be had", fix=offer))
        return Description(path, tensors, "", likeness, other, (), _by_top(tensors), worst_first(findings))
    try:
        known = identify(tensors)
    except CheckpointError as error:
        findings += [finding for finding in error.findings if finding not in findings]
        return Description(path, tensors, family.title, likeness, "", (), _by_top(tensors), worst_first(findings))
    return Description(
        path,
        tensors,
        known.family.title,
        likeness,
        summary(known.spec),
        known.spec.classes,
        components(known),
        worst_first([*of_file(known, tensors), *harm, *known.findings]),
    )


def _by_top(tensors: Tensors) -> dict[str, tuple[int, int]]:
    """Tensors and numbers by the first part of their names that differs, for files of no family."""
    counts: dict[str, tuple[int, int]] = {}
    parts = [name.replace("/", ".").split(".") for name in tensors]
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(min(parts), max(parts), strict=False)) if parts else ()
    depth = 1 + len(list(shared))
    for (name, array), part in zip(tensors.items(), parts, strict=True):
        top = name[: len(".".join(part[:depth]))]
        count, values = counts.get(top, (0, 0))
        counts[top] = (count + 1, values + array.size)
    return counts


@dataclass(frozen=True, slots=True)
class Row:
    """Tensors of one shape and dtype whose names differ only in their numbers: `layer3.{0…22}.conv2.weight`."""

    name: str
    count: int
    shape: Shape
    dtype: str


def fold(tensors: Mapping[str, LazyArray]) -> list[Row]:
    """Rows of tensors, in the order in which the file has the first of each."""
    groups: dict[tuple[tuple[str, ...], Shape, str], list[tuple[str, ...]]] = {}
    for name, array in tensors.items():
        parts = _parts(name)
        pattern = tuple("#" if part.isdigit() else part for part in parts)
        groups.setdefault((pattern, array.shape, str(array.dtype)), []).append(parts)
    rows = []
    for (pattern, shape, dtype), members in groups.items():
        texts = [
            _span({int(member[position]) for member in members}) if part == "#" else part
            for position, part in enumerate(pattern)
        ]
        rows.append(Row("".join(texts), len(members), shape, dtype))
    return rows


def _parts(name: str) -> tuple[str, ...]:
    """A name cut into separators, numbers and words."""
    parts: list[str] = []
    for letter in name:
        kind = letter.isdigit()
        if parts and parts[-1].isdigit() == kind and letter not in "./" and parts[-1] not in (".", "/"):
            parts[-1] += letter
        else:
            parts.append(letter)
    return tuple(parts)


def _span(numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    if low == high:
        return str(low)
    if len(numbers) == high - low + 1:
        return f"{{{low}…{high}}}"
    return (
        f"{{{','.join(map(str, sorted(numbers)))}}}"
        if len(numbers) < 7
        else f"{{{low}…{high}, {len(numbers)} of them}}"
    )


def damaged(tensors: Tensors) -> list[Finding]:
    """What no trained weight looks like: tensors with NaN or infinity, and weights that are one number throughout."""
    broken, flat = [], []
    for name, array in tensors.items():
        if array.dtype.kind not in "fV" or not array.size:
            continue
        values = np.asarray(array.read(), dtype=np.float32)
        if not np.isfinite(values).all():
            broken.append(name)
        elif len(array.shape) > 1 and array.size > 1 and values.min() == values.max():
            flat.append(name)
    findings = []
    if broken:
        message = f"{len(broken)} tensors hold NaN or infinity, first {broken[0]}"
        findings.append(Finding("values.nan", "error", message, names=tuple(broken)))
    if flat:
        message = f"{len(flat)} weights are one number throughout, first {flat[0]}"
        effect = "a layer of one number has learnt nothing"
        findings.append(Finding("values.untrained", "warning", message, names=tuple(flat), effect=effect))
    return findings


@dataclass(frozen=True, slots=True)
class Change:
    """How one tensor differs between two files: the largest difference, and the norm of it against the first's norm."""

    name: str
    largest: float
    relative: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Two checkpoints compared by name. `changed` is sorted by relative change, greatest first."""

    equal: int
    changed: tuple[Change, ...]
    reshaped: Mapping[str, tuple[Shape, Shape]]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The difference as plain JSON types; the keys are stable."""
        return {
            "equal": self.equal,
            "changed": [{"name": one.name, "largest": one.largest, "relative": one.relative} for one in self.changed],
            "reshaped": {name: [list(one), list(other)] for name, (one, other) in self.reshaped.items()},
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
        }


def difference(one: Tensors, other: Tensors) -> Difference:
    """Which tensors of two checkpoints differ, and by how much. Reads the values of both, tensor by tensor."""
    equal, changed, reshaped = 0, [], {}
    for name in one:
        if name not in other:
            continue
        if one[name].shape != other[name].shape:
            reshaped[name] = (one[name].shape, other[name].shape)
            continue
        first, second = (np.asarray(file[name].read(), dtype=np.float64) for file in (one, other))
        if np.array_equal(first, second, equal_nan=True):
            equal += 1
            continue
        apart, size = second - first, float(np.linalg.norm(first))
        moved = float(np.linalg.norm(apart))
        changed.append(Change(name, float(np.abs(apart).max()), moved / size if size else math.inf))
    return Difference(
        equal,
        tuple(sorted(changed, key=lambda change: -change.relative)),
        reshaped,
        tuple(name for name in one if name not in other),
        tuple(name for name in other if name not in one),
    )


def plain(value: Any, depth: int = 0) -> Any:
    """What a file says about itself as short JSON types: arrays by shape, long texts cut, deep things named."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value if len(value) <= _MOST_TEXT else f"{value[:_MOST_TEXT]}… ({len(value):,} characters)"
    if depth >= _DEEP:
        return f"{type(value).__name__} of {len(value)}" if isinstance(value, Sized) else _named(value)
    if isinstance(value, Mapping):
        return {str(name): plain(one, depth + 1) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        shown = [plain(one, depth + 1) for one in list(value)[:20]]
        return [*shown, f"… {len(value) - 20} more"] if len(value) > 20 else shown
    if isinstance(value, np.ndarray | LazyArray):
        return f"array {list(value.shape)} {value.dtype}"
    return _named(value)


def _named(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"


def checkpoints_in(paths: Iterable[Path]) -> list[Path]:
    """Files and folders as the checkpoints they hold: a folder that is one itself stays, another gives its files.

    Of a folder's files those stay out that are text under no checkpoint's name (a licence, a config), and the parts of
    a TensorFlow checkpoint whose index is there. A path that was named itself always stays.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        try:
            open_checkpoint(path)
            found.append(path)
        except CheckpointError:
            inside = sorted(one for one in path.rglob("*") if one.is_file() and not one.name.startswith("."))
            found += [one for one in inside if not _is_part(one) and not is_document(one)] or [path]
    return found


def _is_part(path: Path) -> bool:
    stem = path.name.removesuffix(".meta") if path.name.endswith(".meta") else path.name.partition(".data-")[0]
    return stem != path.name and path.with_name(f"{stem}.index").is_file()
