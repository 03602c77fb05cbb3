"""What a run keeps in its folder, so that it goes on as if it had never stopped.

`recipe.json` says how and on what data it trains, `last/` holds the weights with `state.pt` beside them, and
`metrics.jsonl` what was measured; what a clock measured is in `timing.jsonl`, so that metrics of two runs can be equal.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from maskgraft import policy, processes, store
from maskgraft.averaging import Average, moving
from maskgraft.balance import Balance
from maskgraft.coco import Dataset, ImageRecord
from maskgraft.errors import Finding, UsageError
from maskgraft.files.writing import atomic
from maskgraft.model import MaskRCNN
from maskgraft.recipe import Recipe, Resolved, recipe_from
from maskgraft.watching import CHANGEABLE, Verdict

LAST, BEST, RECIPE, METRICS, TIMING = "last", "best", "recipe.json", "metrics.jsonl", "timing.jsonl"
_STATE = "state.pt"
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_LENGTH = frozenset({"epochs", "steps"})
_MAY_CHANGE = _LENGTH | {
    "workers",
    "evaluate_every",
    "save_every",
    "tensorboard",
    "retention",
}  # the rest would make it another run


@dataclass(slots=True)
class State:
    """How far a run has come: what is kept beside weights and optimizer."""

    step: int = 0
    evaluated: int = 0  # the last step after which the model was evaluated
    best: float | None = None
    lr_factor: float = 1.0  # of the learning rate, that the plateau schedule and the doctor have come to
    waits: int = 0  # evaluations since the best one
    stage: int = 0  # which of the recipe's stages is under way
    frozen: dict[str, str] = field(default_factory=dict)  # digests of what does not train, when the stage began
    untouched: dict[str, str] = field(default_factory=dict)  # and of what has not trained since the run began
    changes: dict[str, Any] = field(default_factory=dict)  # fields of the recipe that a doctor has changed since
    rollbacks: int = 0  # how often it went back to its last save


def unwritten(error: OSError, state: State, folder: Path) -> OSError:
    """What a run raises that cannot write any more: where, why, what stays, and how it goes on.

    Other faults of the system are given back as they are.
    """
    if error.errno is not None and error.errno not in _UNWRITABLE:
        return error
    where = f"{error.filename}: " if error.filename else ""
    fault = f"{where}{error.strerror or error}"
    saved = (folder / LAST / _STATE).exists()
    stays = f"the last save in {folder / LAST} stays" if saved else "nothing was saved before"
    return OSError(f"the run cannot be written after step {state.step}: {fault}; {stays}: make room, then --resume")


def stopped(state: State, folder: Path) -> KeyboardInterrupt:
    """What a run raises that was asked to stop, once its last step is saved."""
    return KeyboardInterrupt(
        f"stopped after step {state.step}, which is saved in {folder / LAST}; resume goes on there"
    )


def note_verdict(state: State, lr: float, verdict: Verdict, log: "Log") -> None:
    """Write a doctor's findings and changes into the log, and let the changes hold from now on; `lr` is the stage's.

    Raises `UsageError` for a change of a field that cannot change, or to a value that it cannot take.
    """
    findings = [
        Finding("spec.field", "error", f"a doctor changes {name}; it can only change {', '.join(CHANGEABLE)}", (name,))
        for name in verdict.changes
        if name not in CHANGEABLE
    ]
    if findings:
        raise UsageError(findings)
    recipe_from(verdict.changes, "a doctor's changes")
    if verdict.measured:
        log.write({"step": state.step, **verdict.measured})
    if verdict.findings or verdict.changes:
        note_findings(state, verdict.findings, log, action=verdict.action, changes=verdict.changes)
    state.lr_factor = verdict.changes["lr"] / lr if "lr" in verdict.changes else state.lr_factor
    state.changes |= {name: value for name, value in verdict.changes.items() if name != "lr"}


def note_findings(
    state: State,
    findings: Iterable[Finding],
    log: "Log",
    *,
    action: str = "go on",
    changes: Mapping[str, Any] | None = None,
) -> None:
    """Write findings into the log, at the last step that is done."""
    told = [finding.as_json() for finding in findings]
    log.write({"step": state.step, "action": action, "findings": told, "changes": dict(changes or {})})


def changed(recipe: Recipe, lr: float, state: State) -> Recipe:
    """The recipe as a doctor has changed it so far; `lr` is the stage's."""
    return recipe.model_copy(update={**state.changes, "lr": lr * state.lr_factor})


def seed(recipe: Recipe, step: int) -> None:
    """Seed torch for one step: what it draws depends on the recipe and the step alone, not on what went before."""
    torch.manual_seed(int(np.random.SeedSequence((recipe.seed, step)).generate_state(1, np.uint64)[0]))


@dataclass(frozen=True, slots=True)
class Kept:
    """What stands in `last/` beside the weights: how far the run has come, and what its parts remember."""

    state: State
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    balance: dict[str, Any]
    average: dict[str, Tensor]


def save(
    model: MaskRCNN,
    folder: Path,
    state: State,
    *,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    balance: Balance,
    average: Average | None,
    about: dict[str, Any],
) -> None:
    """Write `last/` of a run, whole or not at all: weights, or their running mean where there is one, and the rest."""
    kept = {
        "state": asdict(state),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "balance": balance.state(),
        "own": average.own(model) if average else {},
    }

    def write(fresh: Path) -> None:
        try:
            torch.save(kept, fresh / _STATE)
        except RuntimeError as error:  # what it makes of a full disk
            raise OSError(f"{folder / LAST / _STATE} cannot be written: {error}") from error

    with average.inside(model) if average else nullcontext():
        store.save(model, folder / LAST, about=about, beside=write)


def restore(model: MaskRCNN, folder: Path) -> Kept | None:
    """Put the model back to what `save` wrote; None when the run was stopped before its first save.

    Raises `UsageError` when the model is not the one that the run trains.
    """
    if processes.leads():
        for name in (LAST, BEST):
            store.recover(folder / name)
    processes.wait()
    if not (folder / LAST).exists():
        return None
    if not (folder / LAST / _STATE).exists():
        message = f"{folder / LAST} holds weights, but not the {_STATE} to go on from"
        raise UsageError(Finding("train.resume", "error", message, fix=f"load {folder / LAST} and start a new run"))
    saved = store.load(folder / LAST)
    if other := _differences(saved, model):
        message = f"the model is not the one of {folder / LAST}: {', '.join(other)}"
        raise UsageError(
            Finding("train.resume", "error", message, tuple(other), fix="load it as when the run began, or start anew")
        )
    kept = torch.load(folder / LAST / _STATE, map_location="cpu", weights_only=True)
    weights = saved.state_dict()
    model.load_state_dict({**weights, **kept["own"]})
    average = {name: weights[name].to(model.device) for name in kept["own"]}
    return Kept(State(**kept["state"]), kept["optimizer"], kept["scaler"], kept["balance"], average)


def _differences(saved: MaskRCNN, model: MaskRCNN) -> list[str]:
    """The fields of two specs that differ, with both values."""
    found = []
    for old, new in ((saved.spec.arch, model.spec.arch), (saved.spec.numerics, model.spec.numerics)):
        for one in fields(old):
            then, now = getattr(old, one.name), getattr(new, one.name)
            if then != now:
                found.append(f"{one.name} was {then} and is {now}")
    if saved.spec.classes != model.spec.classes:
        found.append(f"classes were {', '.join(saved.spec.classes)} and are {', '.join(model.spec.classes)}")
    return found


# ---- the recipe and the data -----------------------------------------------------------------------------------------


def write_recipe(
    folder: Path,
    resolved: Resolved,
    data: Dataset,
    records: Sequence[ImageRecord],
    *,
    model: MaskRCNN,
    val: Dataset | None,
    findings: Iterable[Finding],
) -> None:
    """Write `recipe.json`: every field, which of them the user set, what was derived and why, the data, what trains in
    each stage, and what was doubtful at the beginning."""
    if not processes.leads():
        return
    about = {"annotations": str(data.path), "images": len(records), "digest": digest(records)}
    about |= {"folder": str(data.folder.absolute())} if data.folder is not None else {}
    judged = None
    if val is not None and val.folder is not None:
        judged = {"annotations": str(val.path.absolute()), "folder": str(val.folder.absolute())}
    told = {
        **resolved.as_json(),
        "data": about,
        "val": judged,
        "trains": [{**asdict(span), "parts": _trained(model, resolved, span.policy)} for span in resolved.stages],
        "findings": [finding.as_json() for finding in findings],
    }
    with atomic(folder / RECIPE) as temporary:
        temporary.write_text(json.dumps(told, indent=1))


def _trained(model: MaskRCNN, resolved: Resolved, name: str) -> list[dict[str, Any]]:
    chosen = policy.chosen_by(name, model)
    return [asdict(part) for part in policy.parts_of(model, chosen, train_norms=resolved.recipe.train_norms)]


def digest(records: Iterable[ImageRecord]) -> str:
    """What the training images and their instances are, as one number."""
    known = hashlib.sha256()
    for record in records:
        instances = [(one.label, *one.box) for one in record.instances]
        known.update(repr((record.id, record.width, record.height, instances)).encode())
    return known.hexdigest()


def continued(folder: Path, recipe: Recipe | None, data: Dataset, records: Sequence[ImageRecord]) -> Recipe:
    """The recipe with which the run in `folder` goes on: its own, with what `recipe` sets now.

    Length, workers and how often it evaluates and saves may change. Raises `UsageError` for a folder without a run,
    for each field that would make it another run, and for other data.
    """
    path = folder / RECIPE
    try:
        kept = json.loads(path.read_text())
        before, given, trained = recipe_from(kept["recipe"], str(path)), kept["set"], kept["data"]
    except FileNotFoundError:
        message = f"{folder} holds no run to go on with"
        raise UsageError(Finding("train.resume", "error", message, fix="train without resume")) from None
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path} is not what a run writes: {error!r}"
        raise UsageError(Finding("train.resume", "error", message, fix="start a new run")) from None
    now = (
        {name: value for name in recipe.model_fields_set if (value := getattr(recipe, name)) is not None}
        if recipe
        else {}
    )
    findings = [
        Finding(
            "train.resume",
            "error",
            f"{name} was {getattr(before, name)!r} when the run in {folder} began, and is {value!r} now",
            (name,),
            fix=f"leave {name} out, or start a new run from {folder / LAST}",
        )
        for name, value in now.items()
        if name not in _MAY_CHANGE and value != getattr(before, name)
    ]
    if trained["digest"] != digest(records):
        message = (
            f"the run in {folder} began on {trained['images']} images of {trained['annotations']}; the {len(records)} "
            f"of {data.path} are not the same images and instances"
        )
        findings.append(Finding("train.resume", "error", message, fix="give the same data, or start a new run"))
    if findings:
        raise UsageError(findings)
    same = {name: getattr(before, name) for name in given if not (name in _LENGTH and _LENGTH & now.keys())}
    return Recipe(**{**same, **now})


# ---- metrics ---------------------------------------------------------------------------------------------------------


class Log:
    """`metrics.jsonl` and `timing.jsonl`, a line for each step and evaluation, written as they come.

    Of several processes only the first writes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, TextIO] = {}
        self._open()

    def _open(self) -> None:
        if processes.leads():
            self._files = {name: (self._folder / name).open("a", encoding="utf-8") for name in (METRICS, TIMING)}

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        for file in self._files.values():
            # on a full disk closing fails as the last line did, which is told already
            with suppress(OSError) if kind else nullcontext():
                file.close()

    def cut(self, state: State) -> list[dict[str, Any]]:
        """`cut_log` while the files are open."""
        self.__exit__()
        steps = cut_log(self._folder, state)
        self._open()
        return steps

    def write(self, entry: Mapping[str, Any], name: str = METRICS) -> None:
        """Add a line, and let other programs see it at once."""
        if name in self._files:
            try:
                self._files[name].write(json.dumps(entry, allow_nan=False) + "\n")
                self._files[name].flush()
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self._folder / name)) from error

    def sync(self) -> None:
        """Force all lines to disk: before a save, so that a saved step never lacks its line."""
        for file in self._files.values():
            os.fsync(file.fileno())


def cut_log(folder: Path, state: State) -> list[dict[str, Any]]:
    """Forget what came after the last save, which will be done again; gives the steps' lines that stay."""
    steps: list[dict[str, Any]] = []
    if not processes.leads():
        return processes.gathered(steps)
    for name in (METRICS, TIMING):
        kept = []
        for line in (folder / name).read_text().splitlines() if (folder / name).exists() else []:
            try:
                entry = json.loads(line)
            except ValueError:
                break  # the process ended while it wrote this line
            if entry["step"] <= (state.evaluated if "evaluation" in entry else state.step):
                kept.append(line + "\n")
                if name == METRICS and "losses" in entry:
                    steps.append(entry)
        with atomic(folder / name) as temporary:
            temporary.write_text("".join(kept))
    return processes.gathered(steps)


# ---- what must not change --------------------------------------------------------------------------------------------


def note_frozen(model: MaskRCNN, training: frozenset[str], state: State) -> None:
    """When a stage begins: keep a digest of each tensor that is not to change in it.

    All but the parameters that train, and the statistics of training norms.
    """
    state.frozen = digests(model, model.state_dict().keys() - training - moving(model))
    before = state.untouched if state.step else state.frozen
    state.untouched = {name: digest for name, digest in before.items() if name in state.frozen}


def prove_frozen(model: MaskRCNN, state: State) -> None:
    """When a stage ends: what was not to change has not. Raises `AssertionError`, for it is nobody's fault but ours."""
    expected = {**state.frozen, **state.untouched}
    after = digests(model, expected)
    if changed := [name for name, digest in expected.items() if after[name] != digest]:
        raise AssertionError(f"frozen tensors have changed: {', '.join(changed[:5])}")


def digests(model: MaskRCNN, names: Iterable[str]) -> dict[str, str]:
    """A digest of the bytes of each named tensor."""
    tensors = model.state_dict()
    return {name: hashlib.sha256(tensors[name].cpu().numpy().tobytes()).hexdigest() for name in sorted(names)}
