"""Training: one loop that reads from top to bottom.

run = train(model, read_coco("train.json", "photos"), Recipe(policy="heads", epochs=4), out="runs/first", val=held_out)
run.best, run.folder        # the best mask AP, and where everything stands
"""

import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maskgraft import (
    admission,
    attending,
    batches,
    boards,
    forgetting,
    interrupts,
    judging,
    keeping,
    optimizers,
    policy,
    precision,
    processes,
    replaying,
    reporting,
    treating,
    watching,
)
from maskgraft import state as states
from maskgraft.ailments.not_finite import unlearnable
from maskgraft.ailments.order import causes_first
from maskgraft.averaging import Average
from maskgraft.backbones.norms import BATCH_NORMS
from maskgraft.balance import Balance, pulls, shared_features
from maskgraft.coco import Dataset
from maskgraft.errors import DataError, Finding
from maskgraft.evaluation import Metrics
from maskgraft.forgetting import Retention
from maskgraft.losses import LOSSES
from maskgraft.model import MaskRCNN
from maskgraft.policy import Trainable
from maskgraft.recipe import Derived, Recipe, Resolved, resolve
from maskgraft.schedules import lr_factor
from maskgraft.stages import Span
from maskgraft.state import Kept, State
from maskgraft.watching import Doctor, Moment, Retainer, Verdict, Watcher

_MOST_ROLLBACKS = 5  # after so many, going back to the last save does not help


@dataclass(slots=True)
class Run:
    """A training that has ended.

    `folder` holds everything; `metrics` are those of the last evaluation, `best` is the best by `recipe.metric`, and
    `losses` the weighted sum at each step. `frozen` tensors did not train and are proved to be the same to the byte.
    `findings` is what was doubtful before the first step, and what a doctor found; `retention` what was kept of the
    model that it began with, where that came from a file.
    """

    folder: Path
    steps: int
    metrics: Metrics | None = None
    best: float | None = None
    losses: list[float] = field(default_factory=list)
    frozen: int = 0
    findings: tuple[Finding, ...] = ()
    retention: Retention | None = None


def train(
    model: MaskRCNN,
    data: Dataset,
    recipe: Recipe | None = None,
    *,
    out: str | Path,
    val: Dataset | None = None,
    replay: Dataset | None = None,
    resume: bool = False,
    watcher: Watcher | None = None,
    doctor: Doctor | Literal["warn", "stop", "fix", "off"] = "off",
    retainer: Retainer | None = None,
) -> Run:
    """Train `model` on `data`, in place.

    `out` becomes the run's folder: `recipe.json` (what was set, what was derived and why), `metrics.jsonl` (a line for
    each step and evaluation), `last/` and `best/` (models that `mg.load` opens), `samples/` (`augmented.jpg`: what the
    first steps train on; predictions beside the truth), and `report.html` when it ends. `val` is evaluated every
    `recipe.evaluate_every` epochs and chooses `best/`. `replay` are old images, of which each batch takes its share
    (`recipe.replay`), so that what they teach is not forgotten. A model that came from a file is compared with its
    start at the end: `retention.json`.

    `resume` goes on from the last saved step, to the same bytes as if the run had never stopped; the recipe is then the
    run's own, and `recipe` says only what changes. Ctrl-C finishes the step, saves it and raises `KeyboardInterrupt`;
    a second one stops at once. `watcher` sees each step, `retainer` adds losses to it (`maskgraft.watching`).

    `doctor`: "warn" examines the training before its first step and looks on while it goes, "stop" ends it at the first
    error, "fix" changes what is safe and writes what and why into the run; or any `Doctor`, which may stop the run,
    change its recipe, or send it back to its last save. What was found stands in `Run.findings`, causes first.

    Raises `UsageError` before anything is written, with everything that cannot be: a model that lacks classes of the
    data, a folder that holds another run, a policy that trains nothing …; `DataError` without an instance to learn
    from, for images that cannot be read, and (`train.nan`) when a loss is not finite: the last saved step stays.
    """
    folder, (records, replayed) = Path(out), replaying.records(data, replay, model.spec.classes)
    new = len(records) - replayed
    if not new:
        raise DataError(Finding("train.no-instances", "error", f"{data.path} has no instance that can be trained on"))
    recipe = states.continued(folder, recipe, data, records) if resume else recipe or Recipe()
    spec = model.spec.with_numerics(admission.conventions(recipe, model.spec.numerics), "the recipe")
    admission.check(model, data, val, recipe, folder, resume=resume)
    replaying.check(replay, replayed, recipe)
    if not resume:
        keeping.check(model, recipe)
    remedies: tuple[Derived, ...] = ()
    if doctor == "fix" and not resume:
        recipe, remedies = treating.treat(model, data, recipe, val=val)
        spec = model.spec.with_numerics(admission.conventions(recipe, model.spec.numerics), "the recipe")
    attendant = attending.attendant(doctor, data, val)
    batch_norms = any(isinstance(one, BATCH_NORMS) for one in model.modules())
    left_out = len(data.images) - new
    resolved = resolve(recipe, images=new, left_out=left_out, replayed=replayed, batch_norms=batch_norms)
    resolved = replace(resolved, derived=(*resolved.derived, *remedies))
    recipe = resolved.recipe
    admission.check_parts(recipe, len(records))
    findings = admission.doubts(model, resolved)
    device = model.device
    labels = replaying.labels(data, replay, model.spec.classes)
    scaler, balance = precision.scaler(device, recipe.precision), Balance(recipe.balance, device)
    average = Average(recipe.ema) if recipe.ema else None
    stage = _enter(model, resolved, 0, balance)  # tells what is wrong with the recipe before anything is written

    model.spec = spec
    if processes.leads():
        folder.mkdir(parents=True, exist_ok=True)
    if not resume:  # first of all, so that the folder is known for a run
        states.write_recipe(folder, resolved, data, records, model=model, val=val, findings=findings)
    kept = states.restore(model, folder) if resume else None
    state = kept.state if kept else State()
    retainers = [one for one in (retainer, keeping.begin(model, recipe, folder, fresh=kept is None)) if one is not None]
    if kept:
        stage = _enter(model, resolved, state.stage, balance)
        _put_back(kept, stage, scaler, balance, average)
    else:
        states.note_frozen(model, stage.trainable.names, state)
    if average:
        average.follow(model, stage.trainable)
    earlier = states.cut_log(folder, state)
    run = Run(folder, state.step, best=state.best, losses=_totals(earlier), findings=findings)

    def save() -> None:
        log.sync()
        if processes.leads():
            about = {"step": state.step, "metrics": run.metrics.as_json() if run.metrics else None}
            parts: _Parts = {"optimizer": stage.optimizer, "scaler": scaler, "balance": balance, "average": average}
            states.save(model, folder, state, about=about, **parts)

    looked: dict[str, Any] = {}  # what a doctor has measured since the last step

    def heed(verdict: Verdict | None) -> bool:
        """Take a doctor's verdict; gives whether it changes the recipe."""
        verdict = watching.agreed(verdict)
        if verdict is None:
            return False
        run.findings += verdict.findings
        looked.update(verdict.measured)
        tell(verdict.findings)
        if verdict.action == "stop":
            raise DataError(verdict.findings)
        if verdict.action == "roll back":
            raise _RollBack(verdict)
        states.note_verdict(state, stage.span.lr, verdict, log)
        if verdict.action == "skip":
            raise _Skip
        return bool(verdict.changes)

    def tell(found: Sequence[Finding]) -> None:
        for one in watchers if found else ():
            one.found(state.step, found)

    def waits_long(finding: Finding) -> None:
        """The loader gives no batch; told from a thread of its own, while this one waits."""
        run.findings += (finding,)
        states.note_findings(state, (finding,), log)
        tell((finding,))

    @contextmanager
    def end_noted() -> Iterator[None]:
        try:
            yield
        except DataError as error:
            states.note_findings(state, error.findings, log, action="stop")
            reporting.attempt(folder)
            raise
        except KeyboardInterrupt:
            reporting.attempt(folder)
            raise
        except OSError as error:
            raise states.unwritten(error, state, folder) from error

    if resume:
        states.write_recipe(folder, resolved, data, records, model=model, val=val, findings=findings)
    with (
        states.Log(folder) as log,
        interrupts.noted() as stop,
        boards.opened(folder, recipe, state.step) as board,
        end_noted(),
    ):
        watchers = [one for one in (watcher, board) if one is not None]
        if state.step == 0:
            save()
            if processes.leads():
                judging.draw_augmented(data, model.spec.numerics, recipe, folder)
        for one in watchers:
            one.begin(resolved, stage.trainable, findings)
        if attendant:
            heed(attendant.begin(model, resolved, stage.trainable, earlier))
        while True:
            try:
                if val is None and judging.is_due(state, resolved):
                    with average.inside(model) if average else nullcontext():
                        judging.draw_epoch(model, data, folder, state)
                if val is not None and judging.is_due(state, resolved):
                    with average.inside(model) if average else nullcontext():
                        run.metrics = judging.judge(model, val, folder, state, recipe, stop)
                    epoch = (state.step - 1) // resolved.steps_per_epoch
                    log.write({"step": state.step, "epoch": epoch, "evaluation": run.metrics.as_json()})
                    for one in watchers:
                        one.evaluated(state.step, run.metrics)
                    if attendant:
                        heed(attendant.evaluated(state.step, run.metrics))
                    save()
                if state.step >= resolved.steps:
                    break
                if state.step >= stage.span.end:
                    states.prove_frozen(model, state)
                    state.stage += 1
                    before, stage = stage, _enter(model, resolved, state.stage, balance)
                    optimizers.carry(before.optimizer, stage.optimizer)
                    states.note_frozen(model, stage.trainable.names, state)
                    if average:
                        average.follow(model, stage.trainable)
                    for one in watchers:
                        one.begin(resolved, stage.trainable, ())
                    if attendant:
                        heed(attendant.begin(model, resolved, stage.trainable, ()))

                epoch, start = divmod(state.step, resolved.steps_per_epoch)
                waited, pin = time.perf_counter(), device.type == "cuda"
                loader = batches.loader(
                    records,
                    model.spec.numerics,
                    recipe,
                    epoch=epoch,
                    start=start,
                    replayed=replayed,
                    pin=pin,
                    told=waits_long,
                )
                for parts in zip(*[loader] * recipe.accumulate, strict=True):
                    if stop.is_set() and not processes.several():
                        break
                    loaded = time.perf_counter()
                    recipe = states.changed(resolved.recipe, stage.span.lr, state)
                    steps, done_of_them = stage.span.end - stage.span.first, state.step - stage.span.first
                    factor = lr_factor(recipe, done_of_them, steps=steps, warmup=stage.span.warmup) * state.lr_factor
                    for group in stage.optimizer.param_groups:
                        group["lr"] = group["base_lr"] * factor
                    fixed = {**dict.fromkeys(LOSSES, 1.0), **recipe.weights}
                    weights = balance.weights(fixed)
                    looks = recipe.gradient_norms > 0 and state.step % recipe.gradient_norms == 0
                    values: dict[str, float] = {}
                    altered = False

                    states.seed(recipe, state.step)
                    stage.optimizer.zero_grad(set_to_none=True)
                    for number, part in enumerate(parts, 1):
                        last = number == len(parts)
                        if fault := unlearnable(part, len(labels)):
                            admission.keep_batch(part, {"fault": fault.message}, state.step, folder)
                            if attendant and not processes.several():  # the others do not know of it
                                heed(attendant.unlearnable(fault))
                            raise DataError(fault)
                        batch = processes.alike(part.relabelled(labels).to(device), device)
                        with nullcontext() if last else processes.alone(stage.network):
                            with precision.autocast(device, recipe.precision):
                                with shared_features(model, kept=looks) as maps:
                                    losses = stage.network(batch)
                                further = watching.added(retainers, model, batch)
                            total = torch.stack([balance.total(losses, fixed), *further.values()]).sum()
                            losses = {**losses, **further}
                            moment = Moment(
                                state.step + 1, epoch, model, batch, losses, weights, total, stage.optimizer, recipe
                            )
                            told = {"total": total, **losses}
                            found = processes.means({name: one.item() for name, one in told.items()}, device)
                            finite = all(math.isfinite(value) for value in found.values())
                            broken = None if finite else admission.not_finite(found, batch, state.step, folder)
                            if attendant:
                                altered |= heed(attendant.before_backward(moment))
                            if broken:
                                raise broken
                            for name, value in found.items():
                                values[name] = values.get(name, 0.0) + value / len(parts)
                            norms, cosines = pulls(losses, maps) if looks and last else ({}, {})
                            scaler.scale(total / len(parts)).backward()  # type: ignore[no-untyped-call]

                    scaler.unscale_(stage.optimizer)
                    processes.average([one.grad for one in balance.parameters() if one.grad is not None])
                    norm = _norm(stage.parameters).item()
                    broken = None
                    if not math.isfinite(norm) and not precision.overflows(scaler):
                        broken = admission.not_finite({**values, "gradient": norm}, batch, state.step, folder)
                    if attendant:
                        altered |= heed(attendant.before_update(replace(moment, norm=norm)))
                    if broken:
                        raise broken
                    if recipe.clip_value is not None:
                        torch.nn.utils.clip_grad_value_(stage.parameters, recipe.clip_value)
                    if recipe.clip_norm is not None:
                        torch.nn.utils.clip_grad_norm_(stage.parameters, recipe.clip_norm)
                    scaler.step(stage.optimizer)
                    scaler.update()
                    if norms:
                        balance.adjust(norms, values, fixed)
                    state.step += 1
                    if average:
                        average.update(model, state.step)

                    total_value = values.pop("total")
                    entry = {
                        "step": state.step,
                        "epoch": epoch,
                        "lr": factor * stage.span.lr,
                        "total": total_value,
                        "losses": values,
                        "shares": _shares(values, weights),
                        "gradient": norm if math.isfinite(norm) else None,
                        **({"weights": weights} if recipe.balance != "fixed" else {}),
                        **({"gradients": norms, "cosines": cosines} if norms else {}),
                    }
                    done = time.perf_counter()
                    timing = {
                        "step": state.step,
                        "data_s": round(loaded - waited, 4),
                        "step_s": round(done - loaded, 4),
                        "memory_mb": _memory(device),
                    }
                    waited = done
                    run.losses.append(total_value)
                    log.write(entry)
                    log.write(timing, states.TIMING)
                    for one in watchers:
                        one.step(state.step, {**entry, **timing, **looked})
                    looked.clear()
                    if attendant:
                        altered |= heed(attendant.step(state.step, {**entry, **timing}))
                    if processes.mean(float(stop.is_set()), device) > 0:
                        stop.set()
                    if state.step >= stage.span.end or stop.is_set():
                        break
                    if altered or (recipe.save_every and state.step % recipe.save_every == 0):
                        save()
                save()
                if stop.is_set():
                    raise states.stopped(state, folder)
            except _Skip:
                state.step += 1
                save()
            except _RollBack as back:
                rollbacks = state.rollbacks + 1
                processes.wait()  # until the save has ended
                kept = states.restore(model, folder)
                if kept is None or rollbacks > _MOST_ROLLBACKS:
                    raise DataError(back.verdict.findings) from None
                state = kept.state
                state.rollbacks = rollbacks
                stage = _enter(model, resolved, state.stage, balance)
                _put_back(kept, stage, scaler, balance, average)
                run.losses = _totals(log.cut(state))
                states.note_verdict(state, stage.span.lr, back.verdict, log)
                save()

    states.prove_frozen(model, state)
    if average:
        average.put_into(model)
    run.findings = causes_first(run.findings)
    run.steps, run.best, run.frozen = state.step, state.best, len(state.untouched)
    model.eval()
    try:
        if recipe.retention and processes.leads():
            run.retention = forgetting.of_run(model, folder, replay or val or data, limit=recipe.retention)
        if processes.leads():
            reporting.report(folder, data=data, val=val, device=device)
    except OSError as error:  # the training is done and saved: it must not be lost for want of a page
        run.findings += (reporting.left_out(error, folder),)
        if watcher:
            watcher.found(state.step, run.findings[-1:])
    return run


@dataclass(frozen=True, slots=True)
class _Stage:
    """What one stage works with; `network` is the model, or what synchronises it with other processes."""

    span: Span
    trainable: Trainable
    optimizer: Optimizer
    parameters: list[nn.Parameter]
    network: nn.Module


class _Parts(TypedDict):
    """What is saved beside the weights."""

    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    balance: Balance
    average: Average | None


def _enter(model: MaskRCNN, resolved: Resolved, number: int, balance: Balance) -> _Stage:
    """Let train what the stage names."""
    span, recipe = resolved.stages[number], resolved.recipe
    trainable = policy.apply(model, span.policy, train_norms=recipe.train_norms)
    optimizer = optimizers.build(model, trainable, recipe, lr=span.lr, beside=balance.parameters())
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return _Stage(span, trainable, optimizer, parameters, processes.network(model))


def _put_back(
    kept: Kept, stage: _Stage, scaler: torch.amp.GradScaler, balance: Balance, average: Average | None
) -> None:
    """Everything beside the weights, as it was saved."""
    stage.optimizer.load_state_dict(kept.optimizer)
    scaler.load_state_dict(kept.scaler)
    balance.restore(kept.balance)
    if average:
        average.values = dict(kept.average)


def _shares(values: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """What part of the weighted sum each loss is."""
    weighted = {name: value * weights.get(name, 1.0) for name, value in values.items()}
    whole = sum(weighted.values())
    return {name: round(value / whole, 4) if whole else 0.0 for name, value in weighted.items()}


class _Skip(Exception):
    """A doctor leaves out the step under way."""


class _RollBack(DataError):
    """A doctor sends the run back to its last save; where there is none yet, this ends it."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.findings)
        self.verdict = verdict


def _totals(entries: Iterable[Mapping[str, Any]]) -> list[float]:
    return [entry["total"] for entry in entries]


def _norm(parameters: Iterable[Tensor]) -> Tensor:
    """The norm of the whole gradient."""
    return torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])


def _memory(device: torch.device) -> int:
    """Peak memory in MB: of the GPU, or of this process; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)
