"""What a pickled checkpoint holds before weights and the rest are told apart."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from maskgraft.errors import Finding


@dataclass(frozen=True, slots=True)
class Cut:
    """How a file ends too early: the bytes that are there, and how many were meant (at least, where not `exact`).

    `expected` is 0 where not even the header is there to tell.
    """

    present: int
    expected: int = 0
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Contents:
    """The object that was saved, as inert data with tensors in it, and what the container says beside it.

    `names` are the classes and functions that became stubs (see `pickles.Pickle`).
    """

    format: str
    value: Any
    names: Mapping[tuple[str, str], bool] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    cut: Cut | None = None
    findings: tuple[Finding, ...] = ()
