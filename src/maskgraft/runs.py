"""What the folder of a run tells about how it went."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskgraft import histories
from maskgraft.ailments import courses, pulses
from maskgraft.ailments.courses import Facts
from maskgraft.ailments.order import causes_first
from maskgraft.errors import Finding
from maskgraft.examining import Examination
from maskgraft.histories import Entry
from maskgraft.recipe import ADAM_LR, ADAMS
from maskgraft.state import BEST, LAST


def examine_run(folder: Path) -> Examination:
    """Everything that was found while a run went, and what its log says, worst cause first.

    Raises `UsageError` for a folder that holds no run.
    """
    history = histories.read(folder)
    recipe, entries = history.recipe["recipe"], history.steps
    facts = Facts(_classes(folder), _usual(history.recipe), recipe.get("loss_weights") or {})
    found = [one for told in history.told for one in told.findings]
    found += [*courses.judge(entries, history.timing, facts), *courses.ending(entries)]
    kind, _, name = str(recipe.get("metric", "mask.AP")).partition(".")
    scores = [(one["step"], one["evaluation"][kind].get(name) or 0.0) for one in history.evaluations]
    found += courses.evaluations(scores, f"{kind}.{name}")
    taken = [{**one["pulse"], "step": one["step"] + 1} for one in history.others if "pulse" in one]
    found += pulses.judge(taken, lr=entries[-1]["lr"] if entries else 0.0, usual=facts.usual)
    if not entries:
        message = f"{folder} holds no step yet"
        fix = "is it still loading, or did it end at once?"
        found.append(Finding("train.no-steps", "info" if found else "warning", message, fix=fix))
    measured = {
        "steps": entries[-1]["step"] if entries else 0,
        "of": history.recipe["steps"],
        "losses": _summary(entries),
        "scores": [[step, round(value, 4)] for step, value in scores],
        "changes": [told.changes for told in history.told if told.changes],
    }
    return Examination(causes_first(found), measured)


def _classes(folder: Path) -> int:
    for name in (LAST, BEST):
        spec = folder / name / "spec.json"
        if spec.exists():
            return len(json.loads(spec.read_text(encoding="utf-8"))["spec"]["classes"])
    return 1


def _usual(about: Mapping[str, Any]) -> float | None:
    usual: float | None = about.get("usual_lr")
    adams = str(about["recipe"].get("optimizer", "")).lower() in ADAMS
    return usual if usual is not None else (ADAM_LR if adams else None)


def _summary(entries: Sequence[Entry]) -> dict[str, list[float]]:
    """Each loss over the first and the last tenth of the steps."""
    tenth = max(1, len(entries) // 10)
    parts = entries[:tenth], entries[-tenth:]
    names = entries[-1]["losses"] if entries else {}
    return {
        name: [round(sum(one["losses"].get(name, 0.0) for one in part) / tenth, 4) for part in parts] for name in names
    }
