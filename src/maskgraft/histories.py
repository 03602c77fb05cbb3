"""What a run's folder tells: its recipe, every step, evaluations and findings, whether it has ended or was killed.

history = read("runs/first")
history.steps[-1]["total"], history.evaluations[-1]["evaluation"]["mask"]["AP"]
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskgraft.errors import Finding, UsageError

Entry = Mapping[str, Any]

LOOKING_BACK = "looking back"  # the action of what is found in the log of a run afterwards

_RECIPE, _METRICS, _TIMING = "recipe.json", "metrics.jsonl", "timing.jsonl"


@dataclass(frozen=True, slots=True)
class Told:
    """Findings that came after `step`, what was done about them, and fields of the recipe that were changed."""

    step: int
    action: str
    findings: tuple[Finding, ...]
    changes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class History:
    """A run as its folder tells it; lines of `metrics.jsonl` and `timing.jsonl` in the order in which they came.

    `others` are lines of further kinds, such as what was measured at the proposals.
    """

    folder: Path
    recipe: Mapping[str, Any]
    steps: Sequence[Entry]
    evaluations: Sequence[Entry]
    others: Sequence[Entry]
    told: Sequence[Told]
    timing: Sequence[Entry]

    @property
    def ended(self) -> bool:
        """Whether the last step of the recipe is done."""
        return bool(self.steps) and self.steps[-1]["step"] >= self.recipe["steps"]

    @property
    def samples(self) -> list[Path]:
        """Pictures of predictions beside the truth, in the order of their steps."""
        return sorted((self.folder / "samples").glob("step-*.jpg"))

    def parsed(self, name: str) -> Any:
        """A JSON file of the folder that another part writes; None where it is not there or torn."""
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def read(folder: str | Path) -> History:
    """Read a run's folder. Raises `UsageError` (`train.resume`) for a folder that holds no run."""
    folder = Path(folder)
    try:
        recipe = json.loads((folder / _RECIPE).read_text(encoding="utf-8"))
        whole = all(name in recipe for name in ("recipe", "set", "derived", "stages", "steps"))
    except (OSError, ValueError, TypeError) as error:
        message = f"{folder} holds no run: {folder / _RECIPE} cannot be read: {error}"
        raise UsageError(Finding("train.resume", "error", message, fix="give the folder of --out")) from None
    if not whole:
        message = f"{folder / _RECIPE} is not what a run writes"
        raise UsageError(Finding("train.resume", "error", message, fix="give the folder of --out"))
    entries = _lines(folder / _METRICS)
    told = [_told(one) for one in entries if "findings" in one]
    began = tuple(_finding(one) for one in recipe.get("findings", ()))
    return History(
        folder,
        recipe,
        steps=[one for one in entries if "losses" in one],
        evaluations=[one for one in entries if "evaluation" in one],
        others=[one for one in entries if not one.keys() & {"losses", "evaluation", "findings"}],
        told=[*([Told(0, "go on", began, {})] if began else []), *told],
        timing=_lines(folder / _TIMING),
    )


def _lines(path: Path) -> list[Entry]:
    found: list[Entry] = []
    if not path.exists():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            break  # the process ended while it wrote this line
        if isinstance(entry, dict) and "step" in entry:
            found.append(entry)
    return found


def _told(entry: Entry) -> Told:
    findings = tuple(_finding(one) for one in entry["findings"])
    return Told(entry["step"], entry.get("action", "go on"), findings, entry.get("changes", {}))


def _finding(entry: Mapping[str, Any]) -> Finding:
    return Finding(**{**entry, "names": tuple(entry.get("names", ()))})
