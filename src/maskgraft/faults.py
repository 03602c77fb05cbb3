"""Many culprits of one kind, told as one finding."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from maskgraft.errors import DataError, Finding, Severity, worst_first

_EXAMPLES = 5  # how many culprits a message names


class Faults:
    """Collects what is wrong with one file: `add` for what occurs often, `error` for what occurs once.

    faults = Faults(path)
    faults.add("data.box-empty", "warning", "boxes have no area", "annotation 7 of image 3")
    faults.stop()                       # raises `DataError` with everything, when there is an error among it
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._single: list[Finding] = []
        self._culprits: dict[tuple[str, Severity, str, str], list[str]] = defaultdict(list)

    def error(self, code: str, message: str, fix: str = "", names: Sequence[str] = ()) -> None:
        """One fault that stands in the way."""
        self._single.append(Finding(code, "error", f"{self.path}: {message}", names=tuple(names), fix=fix))

    def note(self, code: str, message: str, count: int) -> None:
        """Something worth knowing that `count` things have in common."""
        self._single.append(Finding(code, "info", f"{self.path}: {message}", evidence={"count": count}))

    def add(self, code: str, severity: Severity, text: str, culprit: str, fix: str = "") -> None:
        """One culprit; those of the same code, severity, text and fix become one finding."""
        self._culprits[(code, severity, text, fix)].append(culprit)

    def findings(self) -> tuple[Finding, ...]:
        """Everything so far, worst first; each message counts its culprits and names the first few."""
        folded = [
            Finding(
                code,
                severity,
                f"{self.path}: {len(culprits)} × {text}: {'; '.join(culprits[:_EXAMPLES])}"
                + (" …" if len(culprits) > _EXAMPLES else ""),
                names=tuple(culprits),
                evidence={"count": len(culprits)},
                fix=fix,
            )
            for (code, severity, text, fix), culprits in self._culprits.items()
        ]
        return worst_first([*self._single, *folded])

    def stop(self) -> None:
        """Raise `DataError` with everything if any of it is an error."""
        findings = self.findings()
        if any(finding.severity == "error" for finding in findings):
            raise DataError(findings)
