"""What a pickled checkpoint holds before weights and the rest are told apart."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from maskgraft.errors import Finding
from maskgraft.files.cuts import Cut


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
