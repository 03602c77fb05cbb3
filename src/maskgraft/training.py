"""Training: one loop that reads from top to bottom.

run = train(model, read_coco("train.json", "photos"), Recipe(policy="heads", epochs=4), out="runs/first", val=held_out)
run.best, run.folder        # the best mask AP, and where everything stands
"""

import math
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskgraft import admission, batches, interrupts, judging, optimizers, policy
from maskgraft import state as states
from maskgraft.coco import Dataset
from maskgraft.errors import DataError, Finding
from maskgraft.evaluation import Metrics
from maskgraft.losses import LOSSES
from maskgraft.model import MaskRCNN
from maskgraft.recipe import Recipe, lr_factor, resolve
from maskgraft.state import State
from maskgraft.targets import Batch
from maskgraft.watching import Doctor, Moment, Retainer, Verdict, Watcher

_MOST_ROLLBACKS = 5  # after so many, going back to the last save does not help


@dataclass(slots=True)
class Run:
    """A training that has ended.

    `folder` holds everything; `metrics` are those of the last evaluation, `best` is the best mask AP, `losses` the
    weighted sum at each step. `frozen` tensors did not train and are proved to be the same to the byte. `findings` is
    what was doubtful before the first step, and what a doctor found.
    """

    folder: Path
    steps: int
    metrics: Metrics | None = None
    best: float | None = None
    losses: list[float] = field(default_factory=list)
    frozen: int = 0
    findings: tuple[Finding, ...] = ()


def train(
    model: MaskRCNN,
    data: Dataset,
    recipe: Recipe | None = None,
    *,
    out: str | Path,
    val: Dataset | None = None,
    resume: bool = False,
    watcher: Watcher | None = None,
    doctor: Doctor | None = None,
    retainer: Retainer | None = None,
) -> Run:
    """Train `model` on `data`, in place.

    `out` becomes the run's folder: `recipe.json` (what was set, what was derived and why), `metrics.jsonl` (a line for
    each step and evaluation), `last/` and `best/` (models that `mg.load` opens), `samples/` (predictions beside the
    truth). `val` is evaluated every `recipe.evaluate_every` epochs and chooses `best/`.

    `resume` goes on from the last saved step, to the same bytes as if the run had never stopped; the recipe is then the
    run's own, and `recipe` says only what changes. Ctrl-C finishes the step, saves it and raises `KeyboardInterrupt`;
    a second one stops at once. `watcher` sees each step, `retainer` adds losses to it, and `doctor` may stop the run,
    change its recipe, or send it back to its last save (`maskgraft.watching`).

    Raises `UsageError` before anything is written, with everything that cannot be: a model that lacks classes of the
    data, a folder that holds another run, a policy that trains nothing …; `DataError` without an instance to learn
    from, for images that cannot be read, and (`train.nan`) when a loss is not finite: the last saved step stays.
    """
    folder, records = Path(out), data.trainable()
    if not records:
        raise DataError(Finding("train.no-instances", "error", f"{data.path} has no instance that can be trained on"))
    recipe = states.continued(folder, recipe, data, records) if resume else recipe or Recipe()
    admission.check(model, data, val, recipe, folder, resume=resume)
    resolved = resolve(recipe, images=len(records), left_out=len(data.images) - len(records))
    recipe = resolved.recipe
    trainable = policy.apply(model, recipe.policy, train_norms=recipe.train_norms)
    findings = tuple(policy.doubts(model, trainable, train_norms=recipe.train_norms, batch=recipe.batch))
    optimizer = optimizers.build(model, trainable, recipe)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    labels = torch.tensor([model.spec.classes.index(name) for name in data.classes])

    folder.mkdir(parents=True, exist_ok=True)
    restored = states.restore(model, optimizer, folder) if resume else None
    state = restored or State(frozen=states.frozen_digests(model, trainable.names))
    earlier = states.cut_log(folder, state)
    run = Run(folder, state.step, best=state.best, losses=_totals(earlier), findings=findings)

    def save() -> None:
        log.sync()
        metrics = run.metrics.as_json() if run.metrics else None
        states.save(model, optimizer, state, folder, {"step": state.step, "metrics": metrics})

    def heed(verdict: Verdict | None) -> bool:
        """Take a doctor's verdict; gives whether it changes the recipe."""
        if verdict is None:
            return False
        run.findings += verdict.findings
        if verdict.action == "stop":
            raise DataError(verdict.findings)
        if verdict.action == "roll back":
            raise _RollBack(verdict)
        states.note_verdict(state, resolved.recipe, verdict, log)
        return bool(verdict.changes)

    states.write_recipe(folder, resolved, data, records)
    with states.Log(folder) as log, interrupts.noted() as stop:
        if state.step == 0:
            save()
        if watcher:
            watcher.begin(resolved, trainable, findings)
        if doctor:
            heed(doctor.begin(model, resolved, trainable, earlier))
        while True:
            try:
                if val is not None and judging.is_due(state, resolved):
                    run.metrics = judging.judge(model, val, folder, state, recipe, stop)
                    policy.set_norms(model, trainable.names, train_norms=recipe.train_norms)
                    epoch = (state.step - 1) // resolved.steps_per_epoch
                    log.write({"step": state.step, "epoch": epoch, "evaluation": run.metrics.as_json()})
                    if watcher:
                        watcher.evaluated(state.step, run.metrics)
                    if doctor:
                        heed(doctor.evaluated(state.step, run.metrics))
                    save()
                if state.step >= resolved.steps:
                    break

                epoch, start = divmod(state.step, resolved.steps_per_epoch)
                waited, pin = time.perf_counter(), model.device.type == "cuda"
                for batch in batches.loader(records, model.spec.numerics, recipe, epoch=epoch, start=start, pin=pin):
                    if stop.is_set():
                        break
                    loaded = time.perf_counter()
                    batch = _relabelled(batch, labels).to(model.device)
                    recipe = states.changed(resolved.recipe, state)
                    factor = lr_factor(recipe, state.step, resolved.steps) * state.lr_factor
                    for group in optimizer.param_groups:
                        group["lr"] = group["base_lr"] * factor

                    states.seed(recipe, state.step)
                    weights = {**dict.fromkeys(LOSSES, 1.0), **recipe.weights}
                    losses = model(batch)
                    kept = retainer.losses(model, batch) if retainer else {}
                    total = torch.stack([*(losses[name] * weights[name] for name in LOSSES), *kept.values()]).sum()
                    losses = {**losses, **kept}
                    values = {name: loss.item() for name, loss in losses.items()}
                    moment = Moment(state.step + 1, epoch, model, batch, losses, weights, total, optimizer, recipe)
                    altered = heed(doctor.before_backward(moment)) if doctor else False
                    if not math.isfinite(total.item()):
                        raise admission.not_finite(values, batch, state.step, folder)
                    optimizer.zero_grad(set_to_none=True)
                    total.backward()  # type: ignore[no-untyped-call]
                    norm = _norm(parameters)
                    if doctor:
                        altered |= heed(doctor.before_update(replace(moment, norm=norm.item())))
                    if not math.isfinite(norm):
                        raise admission.not_finite({**values, "gradient": norm.item()}, batch, state.step, folder)
                    if recipe.clip_value is not None:
                        torch.nn.utils.clip_grad_value_(parameters, recipe.clip_value)
                    if recipe.clip_norm is not None:
                        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
                    optimizer.step()
                    state.step += 1

                    entry = {
                        "step": state.step,
                        "epoch": epoch,
                        "lr": factor * (resolved.recipe.lr or 0.0),
                        "total": total.item(),
                        "losses": values,
                        "gradient": norm.item(),
                    }
                    done = time.perf_counter()
                    timing = {
                        "step": state.step,
                        "data_s": round(loaded - waited, 4),
                        "step_s": round(done - loaded, 4),
                        "memory_mb": _memory(model.device),
                    }
                    waited = done
                    run.losses.append(total.item())
                    log.write(entry)
                    log.write(timing, states.TIMING)
                    if watcher:
                        watcher.step(state.step, {**entry, **timing})
                    if state.step >= resolved.steps or stop.is_set():
                        break
                    if altered or (recipe.save_every and state.step % recipe.save_every == 0):
                        save()
                save()
                if stop.is_set():
                    raise states.stopped(state, folder)
            except _RollBack as back:
                restored, rollbacks = states.restore(model, optimizer, folder), state.rollbacks + 1
                if restored is None or rollbacks > _MOST_ROLLBACKS:
                    raise DataError(back.verdict.findings) from None
                state = restored
                state.rollbacks = rollbacks
                run.losses = _totals(log.cut(state))
                states.note_verdict(state, resolved.recipe, back.verdict, log)
                policy.set_norms(model, trainable.names, train_norms=recipe.train_norms)
                save()

    run.steps, run.best, run.frozen = state.step, state.best, len(state.frozen)
    _prove_frozen(model, state)
    model.eval()
    return run


class _RollBack(Exception):
    """A doctor sends the run back to its last save."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


def _totals(entries: Iterable[Mapping[str, Any]]) -> list[float]:
    return [entry["total"] for entry in entries]


def _norm(parameters: Iterable[Tensor]) -> Tensor:
    """The norm of the whole gradient."""
    return torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])


def _relabelled(batch: Batch, labels: Tensor) -> Batch:
    """Labels of the dataset as labels of the model, which may have more classes or another order."""
    targets = tuple(type(one)(one.boxes, labels[one.labels], one.masks, one.polygons) for one in batch.targets)
    return replace(batch, targets=targets)


def _prove_frozen(model: MaskRCNN, state: State) -> None:
    after = states.digests(model, state.frozen)
    changed = [name for name, digest in state.frozen.items() if after[name] != digest]
    if changed:
        raise AssertionError(f"frozen tensors have changed: {', '.join(changed[:5])}")


def _memory(device: torch.device) -> int:
    """Peak memory in MB: of the GPU, or of this process; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)
