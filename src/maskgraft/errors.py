"""What can be wrong, as values, and who erred, as exceptions.

    MaskgraftError
    ├── CheckpointError   the file erred: unreadable, incomplete, not what it was taken for
    ├── DataError         the dataset erred: annotations or images that cannot be trained on
    └── UsageError        the caller erred: an argument that no file could make right

Every exception carries `findings`, worst first, so that one `except` sees everything that is wrong and not only
the first fault.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["info", "warning", "error"]

_RANK: dict[str, int] = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One diagnosed cause.

        Finding("file.truncated", "error", "the file ends after 4,079,616 of 257,557,808 bytes",
                evidence={"bytes": 4079616, "expected": 257557808}, fix="download mask_rcnn_coco.h5 again")

    `code` is stable and never renamed. `message` says the place, both values and both sources in one sentence.
    `names` are the tensors, images or fields concerned. `evidence` is what was measured (JSON types only).
    `effect` says what happens to results if the finding is ignored. `fix` is a command or a line of Python.
    """

    code: str
    severity: Severity
    message: str
    names: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    effect: str = ""
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.code}: {self.message}"
        return f"{text}\n  → {self.fix}" if self.fix else text

    def as_json(self) -> dict[str, Any]:
        """The finding as plain JSON types; the keys are stable."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "names": list(self.names),
            "evidence": dict(self.evidence),
            "effect": self.effect,
            "fix": self.fix,
        }


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then information; the given order is kept inside each."""
    return tuple(sorted(findings, key=lambda finding: _RANK[finding.severity]))


class MaskgraftError(Exception):
    """The root of all errors that maskgraft raises on purpose.

    Raises nothing itself. `findings` holds every fault that was found, worst first.
    """

    def __init__(self, findings: Finding | Iterable[Finding]) -> None:
        self.findings = worst_first([findings] if isinstance(findings, Finding) else findings)
        super().__init__("\n".join(str(finding) for finding in self.findings if finding.severity != "info"))


class CheckpointError(MaskgraftError):
    """A checkpoint file cannot be opened, or does not fit what it is to be loaded into."""


class DataError(MaskgraftError):
    """A dataset cannot be trained or evaluated on as it is."""


class UsageError(MaskgraftError):
    """An argument is wrong, whatever the files say."""
