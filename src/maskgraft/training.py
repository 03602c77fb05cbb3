"""Training: one loop that reads from top to bottom.

run = train(model, read_coco("train.json", "photos"), Recipe(policy="heads", epochs=4), out="runs/first", val=held_out)
run.best, run.folder        # the best mask AP, and where everything stands
"""

import json
import math
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from maskgraft import batches, draw, evaluation, interrupts, optimizers, policy, store
from maskgraft import state as states
from maskgraft.coco import Dataset, ImageRecord
from maskgraft.errors import DataError, Finding, UsageError
from maskgraft.evaluation import Metrics
from maskgraft.files.writing import atomic
from maskgraft.losses import LOSSES
from maskgraft.model import MaskRCNN
from maskgraft.policy import Trainable
from maskgraft.recipe import Recipe, Resolved, lr_factor, resolve
from maskgraft.state import BEST, LAST, State
from maskgraft.targets import Batch

_SAMPLES = 4  # pictures after each evaluation


class Watcher(Protocol):
    """What is told of a training as it goes; `maskgraft train` shows it as a progress bar."""

    def begin(self, resolved: Resolved, trainable: Trainable, findings: Sequence[Finding]) -> None:
        """Before the first step: the recipe without gaps, what trains, and what is doubtful about it."""

    def step(self, number: int, entry: Mapping[str, Any]) -> None:
        """After each step: its lines in metrics.jsonl and timing.jsonl."""

    def evaluated(self, number: int, metrics: Metrics) -> None:
        """After each evaluation."""


@dataclass(slots=True)
class Run:
    """A training that has ended.

    `folder` holds everything; `metrics` are those of the last evaluation, `best` is the best mask AP, `losses` the
    weighted sum at each step. `frozen` tensors did not train and are proved to be the same to the byte. `findings` is
    what was doubtful before the first step.
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
) -> Run:
    """Train `model` on `data`, in place.

    `out` becomes the run's folder: `recipe.json` (what was set, what was derived and why), `metrics.jsonl` (a line for
    each step and evaluation), `last/` and `best/` (models that `mg.load` opens), `samples/` (predictions beside the
    truth). `val` is evaluated every `recipe.evaluate_every` epochs and chooses `best/`.

    `resume` goes on from the last saved step, to the same bytes as if the run had never stopped; the recipe is then the
    run's own, and `recipe` says only what changes. Ctrl-C finishes the step, saves it and raises `KeyboardInterrupt`;
    a second one stops at once.

    Raises `UsageError` before anything is written, with everything that cannot be: a model that lacks classes of the
    data, a folder that holds another run, a policy that trains nothing …; `DataError` without an instance to learn
    from, for images that cannot be read, and (`train.nan`) when a loss is not finite: the last saved step stays.
    """
    folder, records = Path(out), data.trainable()
    if not records:
        raise DataError(Finding("train.no-instances", "error", f"{data.path} has no instance that can be trained on"))
    recipe = states.continued(folder, recipe, data, records) if resume else recipe or Recipe()
    _check(model, data, val, recipe, folder, resume=resume)
    resolved = resolve(recipe, images=len(records), left_out=len(data.images) - len(records))
    recipe = resolved.recipe
    trainable = policy.apply(model, recipe.policy, train_norms=recipe.train_norms)
    findings = tuple(policy.doubts(model, trainable, train_norms=recipe.train_norms, batch=recipe.batch))
    optimizer = optimizers.build(model, trainable, recipe)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    weights = dict.fromkeys(LOSSES, 1.0)
    weights.update((name, weight) for name, weight in recipe.loss_weights.items())
    labels = torch.tensor([model.spec.classes.index(name) for name in data.classes])

    folder.mkdir(parents=True, exist_ok=True)
    state = states.restore(model, optimizer, folder) if resume else None
    state = state or State(frozen=states.frozen_digests(model, trainable.names))
    earlier = states.cut_log(folder, state)
    run = Run(folder, state.step, best=state.best, losses=[entry["total"] for entry in earlier], findings=findings)

    def save() -> None:
        log.sync()
        metrics = run.metrics.as_json() if run.metrics else None
        states.save(model, optimizer, state, folder, {"step": state.step, "metrics": metrics})

    states.write_recipe(folder, resolved, data, records)
    with states.Log(folder) as log, interrupts.noted() as stop:
        if state.step == 0:
            save()
        if watcher:
            watcher.begin(resolved, trainable, findings)
        while True:
            if val is not None and _evaluation_is_due(state, resolved):
                run.metrics = _evaluate(model, val, folder, state, trainable, recipe, stop)
                epoch = (state.step - 1) // resolved.steps_per_epoch
                log.write({"step": state.step, "epoch": epoch, "evaluation": run.metrics.as_json()})
                if watcher:
                    watcher.evaluated(state.step, run.metrics)
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
                factor = lr_factor(recipe, state.step, resolved.steps) * state.plateau
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * factor

                states.seed(recipe, state.step)
                losses = model(batch)
                total = torch.stack([losses[name] * weights[name] for name in LOSSES]).sum()
                values = {name: losses[name].item() for name in LOSSES}
                if not math.isfinite(total.item()):
                    raise _not_finite(values, batch, state.step, folder)
                optimizer.zero_grad(set_to_none=True)
                total.backward()  # type: ignore[no-untyped-call]
                if recipe.clip_value is not None:
                    torch.nn.utils.clip_grad_value_(parameters, recipe.clip_value)
                norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm or math.inf).item()
                if not math.isfinite(norm):
                    raise _not_finite({**values, "gradient": norm}, batch, state.step, folder)
                optimizer.step()
                state.step += 1

                entry = {
                    "step": state.step,
                    "epoch": epoch,
                    "lr": factor * (recipe.lr or 0.0),
                    "total": total.item(),
                    "losses": values,
                    "gradient": norm,
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
                if recipe.save_every and state.step % recipe.save_every == 0:
                    save()
            save()
            if stop.is_set():
                raise _stopped(state, folder)

    run.steps, run.best, run.frozen = state.step, state.best, len(state.frozen)
    _prove_frozen(model, state)
    model.eval()
    return run


def _check(model: MaskRCNN, data: Dataset, val: Dataset | None, recipe: Recipe, folder: Path, *, resume: bool) -> None:
    """Raise `UsageError` with everything that would only show later."""
    findings = [] if resume else _folder_faults(folder)
    if missing := [name for name in data.classes if name not in model.spec.classes]:
        message = (
            f"{len(missing)} classes of {data.path} are not among the model's {len(model.spec.classes)}: "
            f"{', '.join(missing[:8])}"
        )
        fix = "mg.load(path, classes=data.classes) keeps the rows of the names that are there"
        findings.append(Finding("shape.classes", "error", message, names=tuple(missing), fix=fix))
    if val is not None and not set(val.classes) & set(model.spec.classes):
        message = f"the model knows none of the classes of {val.path}: {', '.join(val.classes[:8])}"
        fix = "read it with classes=data.classes"
        findings.append(Finding("shape.classes", "error", message, names=val.classes, fix=fix))
    if recipe.schedule == "plateau" and (val is None or not recipe.evaluate_every):
        message = "schedule is plateau, which goes by evaluations, and there are none while it trains"
        findings.append(Finding("spec.field", "error", message, ("schedule",), fix="give val and evaluate_every=1"))
    fixed = model.spec.numerics.fixed_size
    if fixed is not None and (recipe.min_size is not None or recipe.max_size is not None):
        message = f"min_size and max_size do nothing: this model's input is always {fixed[0]} × {fixed[1]}"
        fix = 'mg.load(path, numerics={"fixed_size": [512, 512]})'
        findings.append(Finding("spec.field", "error", message, ("min_size", "max_size"), fix=fix))
    if findings:
        raise UsageError(findings)


def _folder_faults(folder: Path) -> list[Finding]:
    if (folder / states.RECIPE).exists():
        message, fix = f"{folder} holds a run already", "choose another folder, or resume this run"
    elif folder.exists() and not folder.is_dir():
        message, fix = f"{folder} is a file, not a folder", "choose another folder"
    elif folder.is_dir() and any(folder.iterdir()):
        message, fix = f"{folder} exists and is not empty", "choose another folder"
    else:
        return []
    return [Finding("file.exists", "error", message, fix=fix)]


def _relabelled(batch: Batch, labels: Tensor) -> Batch:
    """Labels of the dataset as labels of the model, which may have more classes or another order."""
    targets = tuple(type(one)(one.boxes, labels[one.labels], one.masks, one.polygons) for one in batch.targets)
    return Batch(batch.pixels, batch.sizes, targets, batch.ids)


def _not_finite(values: Mapping[str, float], batch: Batch, step: int, folder: Path) -> DataError:
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    boxes = {str(number): target.boxes.tolist() for number, target in zip(batch.ids, batch.targets, strict=True)}
    told = {"losses": {name: str(value) for name, value in values.items()}, "boxes": boxes}
    path = folder / f"bad-batch-{step}.json"
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(told, indent=1))
    return DataError(
        Finding(
            "train.nan",
            "error",
            f"step {step}: {', '.join(broken)} is not finite on images {', '.join(map(str, batch.ids))}",
            names=tuple(map(str, batch.ids)),
            evidence={name: str(value) for name, value in values.items()},
            fix=f"lower lr or set clip_norm; the batch is in {path}, {folder / LAST} is untouched",
        )
    )


def _stopped(state: State, folder: Path) -> KeyboardInterrupt:
    return KeyboardInterrupt(
        f"stopped after step {state.step}, which is saved in {folder / LAST}; resume goes on there"
    )


def _evaluation_is_due(state: State, resolved: Resolved) -> bool:
    epochs, rest = divmod(state.step, resolved.steps_per_epoch)
    every = resolved.recipe.evaluate_every
    ended = state.step >= resolved.steps
    return state.step > state.evaluated and (ended or (rest == 0 and every > 0 and epochs % every == 0))


def _evaluate(
    model: MaskRCNN,
    val: Dataset,
    folder: Path,
    state: State,
    trainable: Trainable,
    recipe: Recipe,
    stop: threading.Event,
) -> Metrics:
    """Evaluate, draw samples, keep the best model, and let the plateau schedule look at the result."""

    def unless_stopped(images: Sequence[ImageRecord]) -> Iterator[ImageRecord]:
        for image in images:
            if stop.is_set():
                raise _stopped(state, folder)
            yield image

    metrics = evaluation.evaluate(model, val, progress=unless_stopped)
    _draw_samples(model, val.images[:_SAMPLES], val.classes, folder / "samples" / f"step-{state.step:06d}.jpg")
    policy.set_norms(model, trainable.names, train_norms=recipe.train_norms)
    score = metrics.mask["AP"] or 0.0
    state.evaluated = state.step
    if state.best is None or score > state.best:
        state.best, state.waits = score, 0
        store.save(model, folder / BEST, about={"step": state.step, "metrics": metrics.as_json()})
    else:
        state.waits += 1
        if recipe.schedule == "plateau" and state.waits > recipe.patience:
            state.plateau, state.waits = state.plateau * 0.1, 0
    return metrics


def _draw_samples(model: MaskRCNN, records: Iterable[ImageRecord], classes: Sequence[str], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    pictures = []
    for record in records:
        image = record.load()
        found = model.predict([image])[0]
        shown = draw.detections(image, found, model.spec.classes)
        pictures.append(draw.side_by_side([draw.truth(image, record, classes), shown], ["truth", "prediction"]))
    if pictures:
        with atomic(path) as temporary:
            draw.sheet(pictures, columns=1, width=1000).save(temporary, quality=90)


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
