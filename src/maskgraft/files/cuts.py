"""Files that end too early: how much is there, how much was meant, which tensors are whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskgraft.errors import Finding


@dataclass(frozen=True, slots=True)
class Cut:
    """The bytes that are there, and how many were meant (at least, where not `exact`).

    `expected` is 0 where not even the header is there to tell.
    """

    present: int
    expected: int = 0
    exact: bool = True

    def __str__(self) -> str:
        if not self.expected:
            return f"{self.present:,} bytes, in the middle of its header"
        return f"{self.present:,} of {'' if self.exact else 'at least '}{self.expected:,} bytes"


def truncated(path: Path, cut: Cut, whole: Sequence[str], count: int) -> Finding:
    """`file.truncated` as an error: `whole` are the names of the tensors that are whole, of `count` that are known."""
    of_all = f" of {count}" if count > len(whole) else ""
    return Finding(
        "file.truncated",
        "error",
        f"{path.name} ends after {cut}" + (f"; {len(whole)}{of_all} tensors are whole" if count else ""),
        names=tuple(whole),
        evidence={"bytes": cut.present, "expected": cut.expected or None, "exact": cut.exact, "tensors": count},
        fix="download or copy it again" + (", or read what is whole: salvage=True (--salvage)" if whole else ""),
    )


def salvaged(path: Path, cut: Cut, whole: int, missing: Sequence[str]) -> Finding:
    """`file.truncated` as a warning, beside the tensors that were whole."""
    return Finding(
        "file.truncated",
        "warning",
        f"{path.name} ends after {cut}; {whole} tensors are whole"
        + (f", {len(missing)} are missing" if missing else ""),
        names=tuple(missing),
        evidence={"bytes": cut.present, "expected": cut.expected or None, "exact": cut.exact, "missing": len(missing)},
        effect="the missing tensors are not loaded",
        fix="download or copy it again",
    )
