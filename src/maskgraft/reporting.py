"""The report page of a run, written when it ends, or made afterwards for one that was killed.

mg.report("runs/first")        # runs/first/report.html: one file that needs nothing else
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from maskgraft import anchor_fitting, coco, exhibits, histories, processes, runs, shortfalls, store
from maskgraft.coco import Dataset, ImageRecord
from maskgraft.errors import DataError, Finding
from maskgraft.files.writing import atomic
from maskgraft.histories import LOOKING_BACK, History, Told
from maskgraft.model import MaskRCNN
from maskgraft.pages import anchors, errors
from maskgraft.pages import run as run_page
from maskgraft.shortfalls import SHORTFALL, Shortfall
from maskgraft.state import BEST, LAST

PAGE, ERRORS = "report.html", "errors"
IMAGES = 200  # that are looked at for errors, unless more are wanted


def report(
    run: str | Path,
    *,
    data: Dataset | None = None,
    val: Dataset | None = None,
    limit: int = IMAGES,
    device: str | torch.device = "cpu",
    progress: Callable[[Sequence[ImageRecord]], Iterable[ImageRecord]] = iter,
) -> Path:
    """Write the report page of a run into its folder, and give its path; the page needs no network.

    It tells how the run went (curves with the findings pinned to them), which stage of the detector loses the objects,
    with pictures, what trained, what was kept, and the recipe with what was set and what was derived.

    `data` is what it trained on and `val` what it was evaluated on, else what its recipe names, where that is still
    there. What the best model gets wrong on the first `limit` images of `val` is measured once and kept in
    `shortfall.json` and `errors/`. Raises `UsageError` (`train.resume`) for a folder without a run, and `OSError` when
    something cannot be written; what stands there stays.
    """
    history = histories.read(run)
    short = _measured(history, val, limit, device, progress)
    return _write(history, data, short)


def attempt(folder: Path) -> None:
    """The page of a run that ends before its time, with what was measured; none on a disk that takes no more."""
    if processes.leads():
        with suppress(OSError):
            history = histories.read(folder)
            _write(history, None, history.parsed(SHORTFALL))


def left_out(error: OSError, folder: Path) -> Finding:
    """That a training is done, and what was to be told of it could not be written."""
    return Finding(
        "train.report-unwritten",
        "warning",
        f"the training is done and saved, but not all that tells of it could be written: {error}",
        fix=f"make room, then: maskgraft report {folder}",
    )


def _write(history: History, data: Dataset | None, short: Mapping[str, Any] | None) -> Path:
    history = _looked_back(history)
    parts = errors.sections(short, history.folder / ERRORS) if short else []
    text = run_page.page(history, parts=[*parts, _anchors(history, data)])
    path = history.folder / PAGE
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _looked_back(history: History) -> History:
    """The history with what its log says as a whole, beside what was found while it went."""
    known = {one.code for told in history.told for one in told.findings}
    later = tuple(one for one in runs.examine_run(history.folder).findings if one.code not in known)
    if not later:
        return history
    step = history.steps[-1]["step"] if history.steps else 0
    return replace(history, told=[*history.told, Told(step, LOOKING_BACK, later, {})])


def _measured(
    history: History,
    val: Dataset | None,
    limit: int,
    device: str | torch.device,
    progress: Callable[[Sequence[ImageRecord]], Iterable[ImageRecord]],
) -> Mapping[str, Any] | None:
    """What the best model, or else the last one, gets wrong: as it was measured before, or measured now."""
    place = next((one for one in (history.folder / BEST, history.folder / LAST) if store.is_saved(one)), None)
    if place is None:
        return None
    step = json.loads((place / store.SPEC).read_text(encoding="utf-8")).get("about", {}).get("step")
    known: Mapping[str, Any] | None = history.parsed(SHORTFALL)
    if known and known.get("step") == step and known.get("limit") == limit:
        return known
    val = val or _named(history.recipe.get("val"), need_files=True)
    if val is None:
        return known
    model = store.load(place).to(device)
    short = shortfalls.shortfall(model, val, limit=limit, progress=progress)
    return keep_shortfall(history.folder, model, val, short, step=step, limit=limit)


def keep_shortfall(
    folder: Path, model: MaskRCNN, val: Dataset, short: Shortfall, *, step: int | None, limit: int = IMAGES
) -> Mapping[str, Any]:
    """Write what a model gets wrong into a run's folder, with pictures of it; gives what is written."""
    exhibits.draw_errors(model, val, short, folder / ERRORS)
    told = {"step": step, "limit": limit, **short.as_json()}
    with atomic(folder / SHORTFALL) as temporary:
        temporary.write_text(json.dumps(told))
    return told


def _named(told: Mapping[str, Any] | None, *, need_files: bool) -> Dataset | None:
    """The dataset that a recipe names; None where it is not there any more, or cannot be read as it is now."""
    if not told:
        return None
    path = Path(told["annotations"])
    try:
        return coco.read(path, told.get("folder", path.parent), need_files=need_files) if path.is_file() else None
    except DataError:
        return None


def _anchors(history: History, data: Dataset | None) -> str:
    spec = next((one for one in (history.folder / LAST, history.folder / BEST) if store.is_saved(one)), None)
    data = data or _named(history.recipe.get("data"), need_files=False)
    if spec is None or data is None:
        return ""
    return anchors.section(anchor_fitting.anchor_coverage(data, store.read_spec(spec)))
