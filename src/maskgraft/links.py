"""`Link`: one tensor named in both worlds, and the pure rearrangement between them.

A link moves numbers, it never changes them: every step is a rearrangement that can be undone, so importing and
exporting again gives the same bytes.

    Link("fpn.lateral3.weight", "fpn_c3p3/fpn_c3p3/kernel:0", (Transpose((3, 2, 0, 1)),))
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from maskgraft.errors import Finding

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Transpose:
    """Axis i of the result is axis `axes[i]` of the source."""

    axes: tuple[int, ...]

    def forward(self, array: Array) -> Array:
        """Theirs to ours."""
        return array.transpose(self.axes)

    def back(self, array: Array) -> Array:
        """Ours to theirs."""
        return array.transpose(tuple(int(i) for i in np.argsort(self.axes)))

    def shape(self, shape: Shape) -> Shape:
        """The shape that `forward` gives."""
        return tuple(shape[axis] for axis in self.axes)


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same values in row-major order under another shape."""

    before: Shape
    after: Shape

    def forward(self, array: Array) -> Array:
        """Theirs to ours."""
        return array.reshape(self.after)

    def back(self, array: Array) -> Array:
        """Ours to theirs."""
        return array.reshape(self.before)

    def shape(self, shape: Shape) -> Shape:
        """The shape that `forward` gives."""
        if shape != self.before:
            raise ValueError(f"{shape} is not {self.before}")
        return self.after


@dataclass(frozen=True, slots=True)
class Reorder:
    """Entry i along `axis` of the result is entry `order[i]` of the source."""

    axis: int
    order: tuple[int, ...]

    def forward(self, array: Array) -> Array:
        """Theirs to ours."""
        return array.take(self.order, axis=self.axis)

    def back(self, array: Array) -> Array:
        """Ours to theirs."""
        return array.take(np.argsort(self.order), axis=self.axis)

    def shape(self, shape: Shape) -> Shape:
        """The shape that `forward` gives."""
        if shape[self.axis] != len(self.order):
            raise ValueError(f"axis {self.axis} of {shape} has not {len(self.order)} entries")
        return shape


Step = Transpose | Reshape | Reorder


@dataclass(frozen=True, slots=True)
class Link:
    """`ours` is made from `theirs` by `steps`, in order.

    `optional`: files of some eras lack it (`num_batches_tracked`). `copies`: further names under which a home framework
    stores the same tensor; they are checked to be equal on the way in and written again on the way out.
    """

    ours: str
    theirs: str
    steps: tuple[Step, ...] = ()
    optional: bool = False
    copies: tuple[str, ...] = ()

    def forward(self, array: Array) -> Array:
        """Their array in canonical form; same values, same dtype."""
        for step in self.steps:
            array = step.forward(array)
        return array

    def back(self, array: Array) -> Array:
        """The inverse of `forward`."""
        for step in reversed(self.steps):
            array = step.back(array)
        return array

    def shape(self, theirs: Shape) -> Shape:
        """The canonical shape of a tensor of shape `theirs`. Raises ValueError when the steps cannot apply."""
        for step in self.steps:
            theirs = step.shape(theirs)
        return theirs


def background_last(rows: int, per_class: int = 1) -> Reorder:
    """Row order for class-major tensors whose background class comes first: it goes last.

    background_last(81)      # rows 1..80, then 0
    background_last(324, 4)  # the same for four box deltas a class
    """
    order = np.roll(np.arange(rows).reshape(-1, per_class), -1, axis=0)
    return Reorder(0, tuple(int(i) for i in order.ravel()))


def xy_first(rows: int) -> Reorder:
    """Row order for box deltas that stand as dy, dx, dh, dw: each row changes places with its neighbour.

    xy_first(12)    # rows 1, 0, 3, 2, 5, 4 …
    """
    return Reorder(0, tuple(row ^ 1 for row in range(rows)))


def check(links: Sequence[Link], ours: Mapping[str, Shape], theirs: Mapping[str, Shape]) -> list[Finding]:
    """Do `links` join the model's tensors `ours` and the file's tensors `theirs` one to one, with equal shapes?

    Returns an empty list when they do; otherwise every fault, grouped by kind. Names of the file that no link
    mentions are warnings (`names.unexpected`), everything else is an error.
    """
    findings = [
        Finding("names.renamed", "error", f"{side} names are linked twice", names=tuple(twice))
        for side, twice in (
            ("canonical", _twice(link.ours for link in links)),
            ("file", _twice(link.theirs for link in links)),
        )
        if twice
    ]
    wanted = {link.theirs for link in links} | {copy for link in links for copy in link.copies}
    missing = [link.theirs for link in links if not link.optional and link.theirs not in theirs]
    unexpected = [name for name in theirs if name not in wanted]
    if missing:
        near = {name: match[0] for name in missing[:20] if (match := get_close_matches(name, unexpected, 1, 0.75))}
        findings.append(
            Finding(
                "names.missing",
                "error",
                f"{len(missing)} of {len(links)} tensors are not in the file, first {missing[0]}",
                names=tuple(missing),
                evidence={"nearest": near},
            )
        )
    if unexpected:
        message = f"{len(unexpected)} tensors of the file have no place in the model, first {unexpected[0]}"
        findings.append(Finding("names.unexpected", "warning", message, names=tuple(unexpected)))
    unlinked = sorted(set(ours) - {link.ours for link in links})
    if unlinked:
        message = f"{len(unlinked)} tensors of the model have no source, first {unlinked[0]}"
        findings.append(Finding("names.missing", "error", message, names=tuple(unlinked)))
    findings += _shape_faults(links, ours, theirs)
    return findings


def _shape_faults(links: Iterable[Link], ours: Mapping[str, Shape], theirs: Mapping[str, Shape]) -> list[Finding]:
    faults: dict[str, tuple[str, str]] = {}
    for link in links:
        if link.theirs not in theirs or link.ours not in ours:
            continue
        have = theirs[link.theirs]
        try:
            got: Shape | None = link.shape(have)
        except (ValueError, IndexError):
            got = None
        if got != ours[link.ours]:
            faults[link.theirs] = (str(list(have)), f"{link.ours} {list(ours[link.ours])}")
    if not faults:
        return []
    first = next(iter(faults))
    message = (
        f"{len(faults)} shapes differ, first {first}: {faults[first][0]} in the file, {faults[first][1]} in the model"
    )
    evidence = {name: list(pair) for name, pair in faults.items()}
    return [Finding("shape.other", "error", message, names=tuple(faults), evidence={"shapes": evidence})]


def _twice(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]


def parameters(shapes: Iterable[Shape]) -> int:
    """How many numbers tensors of these shapes hold."""
    return sum(prod(shape) for shape in shapes)
