"""What the folder of a run tells about how it went, and what is measured on it afterwards."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskgraft import coco, forgetting, histories, store
from maskgraft.ailments import courses, outcomes, pulses
from maskgraft.ailments.courses import Facts
from maskgraft.ailments.order import causes_first
from maskgraft.coco import Dataset
from maskgraft.errors import DataError, Finding, MaskgraftError
from maskgraft.examining import Examination
from maskgraft.forgetting import RETENTION
from maskgraft.histories import Entry, History
from maskgraft.keeping import START
from maskgraft.recipe import ADAM_LR, ADAMS
from maskgraft.shortfalls import SHORTFALL
from maskgraft.state import BEST, LAST

_COMPARED = 8  # images on which a run is compared with its start, where its recipe does not say


def examine_run(folder: Path, *, compare: bool = False) -> Examination:
    """Everything that was found while a run went, what its log says, and what came of it, worst cause first.

    What was forgotten is read from the folder, where the run has told it at its end; with `compare` it is measured
    where it has not, if the folder holds the model that the run began with. Nothing is written. Raises `UsageError`
    for a folder that holds no run.
    """
    history = histories.read(folder)
    recipe, entries = history.recipe["recipe"], history.steps
    facts = Facts(_classes(folder), _usual(history.recipe), recipe.get("loss_weights") or {})
    found = [one for told in history.told for one in told.findings]
    found += [*courses.judge(entries, history.timing, facts), *courses.ending(entries)]
    kind, _, name = str(recipe.get("metric", "mask.AP")).partition(".")
    scores = [(one["step"], one["evaluation"][kind].get(name) or 0.0) for one in history.evaluations]
    found += courses.evaluations(scores, f"{kind}.{name}")
    found += pulses.judge(_pulses(history), lr=entries[-1]["lr"] if entries else 0.0, usual=facts.usual)
    short = history.parsed(SHORTFALL)
    found += outcomes.misses(short) if short else ()
    kept, unknown = _kept(history, compare=compare)
    found += outcomes.forgotten(kept) if kept else ()
    found += [unknown] if unknown else []
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
        "misses": {kind: round(one["points"], 4) for kind, one in short["kinds"].items()} if short else None,
        "kept": kept,
    }
    return Examination(causes_first(found), measured)


def _pulses(history: History) -> list[dict[str, Any]]:
    """What was measured while the run went, each with how far its step moved the weights, which the next one tells."""
    taken: list[dict[str, Any]] = []
    for one in history.others:
        if "pulse" in one:
            taken.append({**one["pulse"], "step": one["step"] + 1})
        elif "updates" in one and taken:
            taken[-1] |= {"updates": one["updates"], "rate": one["rate"]}
    return taken


def _kept(history: History, *, compare: bool) -> tuple[Mapping[str, Any] | None, Finding | None]:
    """What a run kept of its start, or why that is not known."""
    known: Mapping[str, Any] | None = history.parsed(RETENTION)
    if known is not None or not compare:
        return known, None
    folder, about = history.folder, history.recipe
    place = next((folder / name for name in (BEST, LAST) if store.is_saved(folder / name)), None)
    data = next((one for one in (_named(about.get("val")), _named(about.get("data"))) if one), None)
    if not store.is_saved(folder / START):
        nothing = about["recipe"].get("retention") == 0
        why = "retention is 0 in its recipe" if nothing else "it began from no file, or was begun by another version"
        fix = "mg.retention((start, end), data) compares any two models"
        return None, _unknown(f"{folder} does not hold the model that the run began with: {why}", fix)
    if place is None:
        return None, _unknown(f"{folder} holds no model yet", "wait for its first save")
    if data is None:
        fix = "mg.retention((run/start, run/best), data) with images that are there"
        return None, _unknown("the images that its recipe names are not where they were", fix)
    limit = about["recipe"].get("retention") or _COMPARED
    try:
        report = forgetting.of_start(store.load(place), folder, data, limit=limit)
    except (MaskgraftError, OSError) as error:
        return None, _unknown(f"comparing {place} with {folder / START} failed: {error}", "")
    return (report.as_json() if report else None), None


def _unknown(why: str, fix: str) -> Finding:
    return Finding("train.retention", "info", f"what was forgotten is not known: {why}", fix=fix)


def _named(told: Mapping[str, Any] | None) -> Dataset | None:
    """A dataset that a recipe names, where it can still be read."""
    if not told:
        return None
    path = Path(told["annotations"])
    try:
        return coco.read(path, told.get("folder", path.parent)) if path.is_file() else None
    except DataError:
        return None


def _classes(folder: Path) -> int:
    for name in (LAST, BEST):
        if store.is_saved(folder / name):
            return len(store.read_spec(folder / name).classes)
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
