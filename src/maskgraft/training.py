"""Training: one loop that reads from top to bottom.

run = train(model, read_coco("train.json", "photos"), Recipe(policy="heads", epochs=4), out="runs/first", val=held_out)
run.best, run.folder        # the best mask AP, and where everything stands
"""

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from maskgraft import batches, draw, evaluation, policy, store
from maskgraft.coco import Dataset, ImageRecord
from maskgraft.errors import DataError, Finding, UsageError
from maskgraft.evaluation import Metrics
from maskgraft.files.writing import atomic
from maskgraft.losses import LOSSES
from maskgraft.model import MaskRCNN
from maskgraft.policy import Trainable
from maskgraft.recipe import Recipe, Resolved, lr_factor, resolve
from maskgraft.targets import Batch

_SAMPLES = 4  # pictures after each evaluation
_STATE = "state.pt"


class Watcher(Protocol):
    """What is told of a training as it goes; `maskgraft train` shows it as a progress bar."""

    def begin(self, resolved: Resolved, trainable: Trainable) -> None:
        """Before the first step: the recipe without gaps, and what trains."""

    def step(self, number: int, entry: Mapping[str, Any]) -> None:
        """After each step: its line in metrics.jsonl."""

    def evaluated(self, number: int, metrics: Metrics) -> None:
        """After each evaluation."""


@dataclass(slots=True)
class Run:
    """A training that has ended: `folder` with everything in it, metrics of the last evaluation, the best mask AP."""

    folder: Path
    steps: int
    metrics: Metrics | None = None
    best: float | None = None
    losses: list[float] = field(default_factory=list)


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
    truth). `val` is evaluated every `recipe.evaluate_every` epochs and chooses `best/`. `resume` continues a run from
    its last saved step, to the same bytes as if it had never stopped.

    Raises `UsageError` before anything is written for a model that lacks classes of the data, a folder that holds
    another run, or a policy that trains nothing; `DataError` (`train.nan`) when a loss is not finite, after saving
    nothing of the broken step.
    """
    folder, recipe = Path(out), recipe or Recipe()
    records = data.trainable()
    _check_classes(model, data)
    _check_folder(folder, resume=resume)
    trainable = policy.apply(model, recipe.policy, train_norms=recipe.train_norms)
    resolved = resolve(recipe, images=len(records))
    recipe = resolved.recipe
    numerics = model.spec.numerics
    optimizer = _optimizer(model, trainable, recipe)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    frozen = _fingerprint(model, trainable)
    labels = torch.tensor([model.spec.classes.index(name) for name in data.classes])
    state = _State()
    torch.manual_seed(recipe.seed)
    if resume:
        model.load_state_dict(store.load(folder / "last").state_dict())
        state = _restore(folder / "last" / _STATE, optimizer)
        _cut_metrics(folder / "metrics.jsonl", state.step)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "recipe.json", resolved.as_json())
    run = Run(folder, state.step, best=state.best)
    if watcher:
        watcher.begin(resolved, trainable)

    with (folder / "metrics.jsonl").open("a") as lines:

        def log(entry: Mapping[str, Any]) -> None:
            lines.write(json.dumps(entry, allow_nan=False) + "\n")
            lines.flush()

        while state.step < resolved.steps:
            epoch, start = divmod(state.step, resolved.steps_per_epoch)
            waited = time.perf_counter()
            pin = model.device.type == "cuda"
            for batch in batches.loader(records, numerics, recipe, epoch=epoch, start=start, pin=pin):
                loaded = time.perf_counter()
                batch = _relabelled(batch, labels).to(model.device)
                factor = lr_factor(recipe, state.step, resolved.steps) * state.plateau
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * factor

                losses = model(batch)
                total = torch.stack([losses[name] * recipe.loss_weights.get(name, 1.0) for name in LOSSES]).sum()
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
                done = time.perf_counter()
                entry = {
                    "step": state.step,
                    "epoch": epoch,
                    "lr": factor * (recipe.lr or 0.0),
                    "total": total.item(),
                    "losses": values,
                    "gradient": norm,
                    "data_s": round(loaded - waited, 4),
                    "step_s": round(done - loaded, 4),
                    "memory_mb": _memory(model.device),
                }
                run.losses.append(total.item())
                log(entry)
                if watcher:
                    watcher.step(state.step, entry)
                waited = time.perf_counter()
                if state.step >= resolved.steps:
                    break

            ended = state.step >= resolved.steps
            due = recipe.evaluate_every and (epoch + 1) % recipe.evaluate_every == 0
            if val is not None and (ended or due):
                run.metrics = _evaluate(model, val, folder, state, trainable, recipe)
                log({"step": state.step, "epoch": epoch, "evaluation": run.metrics.as_json()})
                if watcher:
                    watcher.evaluated(state.step, run.metrics)
            _save(model, folder / "last", state, optimizer, run.metrics)

    run.steps, run.best = state.step, state.best
    _prove_frozen(model, trainable, frozen)
    model.eval()
    return run


@dataclass(slots=True)
class _State:
    """What must be kept, beside the weights, to continue a run as if it had never stopped."""

    step: int = 0
    best: float | None = None
    plateau: float = 1.0  # factor of the learning rate that the plateau schedule has come to
    waits: int = 0  # evaluations since the best one


def _check_classes(model: MaskRCNN, data: Dataset) -> None:
    missing = [name for name in data.classes if name not in model.spec.classes]
    if missing:
        message = (
            f"{len(missing)} classes of {data.path} are not among the model's {len(model.spec.classes)}: "
            f"{', '.join(missing[:8])}"
        )
        fix = "mg.load(path, classes=data.classes) keeps the rows of the names that are there"
        raise UsageError(Finding("shape.classes", "error", message, names=tuple(missing), fix=fix))


def _check_folder(folder: Path, *, resume: bool) -> None:
    holds_run = (folder / "recipe.json").exists()
    if resume and not (folder / "last" / _STATE).exists():
        message = f"{folder} holds no saved step to resume from"
        raise UsageError(Finding("train.resume", "error", message, fix="train without resume"))
    if not resume and holds_run:
        message = f"{folder} holds a run already"
        raise UsageError(Finding("file.exists", "error", message, fix="choose another folder, or resume this run"))
    if not resume and folder.is_dir() and any(folder.iterdir()):
        message = f"{folder} exists and is not empty"
        raise UsageError(Finding("file.exists", "error", message, fix="choose another folder"))


def _optimizer(model: MaskRCNN, trainable: Trainable, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = dict(model.named_parameters())
    groups = [
        {
            "name": group.name,
            "params": [parameters[name] for name in group.names],
            "lr": group.lr,
            "base_lr": group.lr,
            "weight_decay": group.weight_decay,
        }
        for group in policy.groups(
            model,
            trainable,
            lr=recipe.lr or 0.0,
            multipliers=recipe.multipliers,
            weight_decay=recipe.weight_decay,
        )
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum)
    return torch.optim.AdamW(groups)


def _relabelled(batch: Batch, labels: Tensor) -> Batch:
    """Labels of the dataset as labels of the model, which may have more classes or another order."""
    targets = tuple(type(one)(one.boxes, labels[one.labels], one.masks, one.polygons) for one in batch.targets)
    return Batch(batch.pixels, batch.sizes, targets, batch.ids)


def _not_finite(values: Mapping[str, float], batch: Batch, step: int, folder: Path) -> DataError:
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    boxes = {str(number): target.boxes.tolist() for number, target in zip(batch.ids, batch.targets, strict=True)}
    _write_json(
        folder / f"bad-batch-{step}.json",
        {"losses": {name: str(value) for name, value in values.items()}, "boxes": boxes},
    )
    return DataError(
        Finding(
            "train.nan",
            "error",
            f"step {step}: {', '.join(broken)} is not finite on images {', '.join(map(str, batch.ids))}",
            names=tuple(map(str, batch.ids)),
            evidence={name: str(value) for name, value in values.items()},
            fix=f"lower lr or set clip_norm; the batch is in {folder / f'bad-batch-{step}.json'}, last/ is untouched",
        )
    )


def _evaluate(
    model: MaskRCNN, val: Dataset, folder: Path, state: _State, trainable: Trainable, recipe: Recipe
) -> Metrics:
    """Evaluate, draw samples, keep the best model, and let the plateau schedule look at the result."""
    metrics = evaluation.evaluate(model, val)
    _draw_samples(model, val.images[:_SAMPLES], val.classes, folder / "samples" / f"step-{state.step:06d}.jpg")
    policy.set_norms(model, trainable.names, train_norms=recipe.train_norms)
    score = metrics.mask["AP"] or 0.0
    if state.best is None or score > state.best:
        state.best, state.waits = score, 0
        store.save(model, folder / "best", about={"step": state.step, "metrics": metrics.as_json()})
    else:
        state.waits += 1
        if recipe.schedule == "plateau" and state.waits > recipe.patience:
            state.plateau, state.waits = state.plateau * 0.1, 0
    return metrics


def _draw_samples(model: MaskRCNN, records: Sequence[ImageRecord], classes: Sequence[str], path: Path) -> None:
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


def _save(
    model: MaskRCNN, folder: Path, state: _State, optimizer: torch.optim.Optimizer, metrics: Metrics | None
) -> None:
    about = {"step": state.step, "metrics": metrics.as_json() if metrics else None}
    kept = {
        "step": state.step,
        "best": state.best,
        "plateau": state.plateau,
        "waits": state.waits,
        "optimizer": optimizer.state_dict(),
        "generator": torch.get_rng_state(),
    }
    store.save(model, folder, about=about, beside=lambda fresh: torch.save(kept, fresh / _STATE))


def _restore(path: Path, optimizer: torch.optim.Optimizer) -> _State:
    kept = torch.load(path, map_location="cpu", weights_only=True)
    optimizer.load_state_dict(kept["optimizer"])
    torch.set_rng_state(kept["generator"])
    return _State(kept["step"], kept["best"], kept["plateau"], kept["waits"])


def _cut_metrics(path: Path, step: int) -> None:
    """Forget lines of steps that came after the last save; they will be done again."""
    kept = [line for line in path.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= step]
    with atomic(path) as temporary:
        temporary.write_text("".join(kept))


def _fingerprint(model: MaskRCNN, trainable: Trainable) -> dict[str, str]:
    """A digest of every tensor that the policy freezes; batch statistics of training norms are none of them."""
    moving = {
        f"{name}.{vector}"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d) and module.training
        for vector in ("running_mean", "running_var", "num_batches_tracked")
    }
    return {
        name: hashlib.sha256(tensor.detach().cpu().numpy().tobytes()).hexdigest()
        for name, tensor in model.state_dict().items()
        if name not in trainable.names and name not in moving
    }


def _prove_frozen(model: MaskRCNN, trainable: Trainable, before: Mapping[str, str]) -> None:
    policy.set_norms(model, trainable.names, train_norms=False)
    after = _fingerprint(model, trainable)
    changed = [name for name, digest in before.items() if after[name] != digest]
    if changed:
        raise AssertionError(f"frozen tensors have changed: {', '.join(changed[:5])}")


def _memory(device: torch.device) -> int:
    """Peak memory in MB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def _write_json(path: Path, data: Any) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1))
