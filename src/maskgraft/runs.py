"""What the folder of a run tells about how it went."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskgraft import state as states
from maskgraft.ailments import courses, pulses
from maskgraft.ailments.courses import Facts
from maskgraft.ailments.order import causes_first
from maskgraft.errors import Finding, UsageError
from maskgraft.examining import Examination
from maskgraft.recipe import ADAM_LR, ADAMS


def examine_run(folder: Path) -> Examination:
    """Everything that was found while a run went, and what its log says, worst cause first.

    Raises `UsageError` for a folder that holds no run.
    """
    path = folder / states.RECIPE
    try:
        about = json.loads(path.read_text())
        recipe, steps = about["recipe"], about["steps"]
    except FileNotFoundError:
        raise UsageError(
            Finding("train.resume", "error", f"{folder} holds no run", fix="give the folder of --out")
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path} is not what a run writes: {error!r}"
        raise UsageError(Finding("train.resume", "error", message)) from None
    lines, timings = _lines(folder / states.METRICS), _lines(folder / states.TIMING)
    entries = [line for line in lines if "losses" in line]
    told = [_finding(one) for line in lines for one in line.get("findings", ())]
    classes = _classes(folder)
    facts = Facts(classes, _usual(recipe, about), recipe.get("loss_weights") or {})
    found = [*told, *courses.judge(entries, timings, facts), *courses.ending(entries)]
    kind, _, name = str(recipe.get("metric", "mask.AP")).partition(".")
    scores = [(line["step"], line["evaluation"][kind].get(name) or 0.0) for line in lines if "evaluation" in line]
    found += courses.evaluations(scores, f"{kind}.{name}")
    taken = [{"step": line["step"] + 1, **line["pulse"]} for line in lines if "pulse" in line]
    found += pulses.judge(taken, lr=entries[-1]["lr"] if entries else 0.0, usual=facts.usual)
    if not entries:
        found.append(Finding("train.no-steps", "warning" if not told else "info", f"{folder} holds no step "
        "yet", fix="is it still loading, or did it end at once?"))  # fmt: skip
    done = max((line["step"] for line in lines), default=0)
    measured = {
        "steps": done,
        "of": steps,
        "losses": _summary(entries),
        "scores": [[step, round(value, 4)] for step, value in scores],
        "changes": [line["changes"] for line in lines if line.get("changes")],
    }
    return Examination(causes_first(_with_evidence(found)), measured)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log that are whole."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            break  # the process ended, or is, while it wrote this line
        found.append(entry)
    return found


def _finding(told: Mapping[str, Any]) -> Finding:
    return Finding(**{**told, "names": tuple(told["names"])})


def _with_evidence(found: Sequence[Finding]) -> list[Finding]:
    return [one for one in found if all(not isinstance(v, float) or math.isfinite(v) for v in one.evidence.values())]


def _classes(folder: Path) -> int:
    for name in (states.LAST, states.BEST):
        spec = folder / name / "spec.json"
        if spec.exists():
            return len(json.loads(spec.read_text())["spec"]["classes"])
    return 1


def _usual(recipe: Mapping[str, Any], about: Mapping[str, Any]) -> float | None:
    usual: float | None = about.get("usual_lr")
    return usual if usual is not None else (ADAM_LR if recipe.get("optimizer", "").lower() in ADAMS else None)


def _summary(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Each loss over the first and the last tenth of the steps."""
    tenth = max(1, len(entries) // 10)
    return {
        name: [
            round(sum(one["losses"][name] for one in some) / tenth, 4) for some in (entries[:tenth], entries[-tenth:])
        ]
        for name in (entries[-1]["losses"] if entries else {})
    }
