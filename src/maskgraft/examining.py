"""The examination of a training before anything is spent on it.

found = mg.doctor("model.pth", data, mg.Recipe(policy="heads"), val=held_out)
found.findings[0]                  # the worst cause first: code, both values, what it does, what to type
found.measured["anchors"]          # recall of anchors, first losses, gradients, times …
mg.doctor(run="runs/first")        # the same for a run that has begun or ended
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from maskgraft import admission, batches, clocks, first_batches, policy, processes
from maskgraft.ailments import annotations, inputs, knowledge, not_finite, unlabelled, weights
from maskgraft.ailments import data as data_ailments
from maskgraft.ailments.order import causes_first
from maskgraft.clocks import Seconds
from maskgraft.coco import Dataset
from maskgraft.errors import DataError, Finding, UsageError
from maskgraft.first_batches import Seen
from maskgraft.model import MaskRCNN
from maskgraft.pulse import Pulse, as_in_training, take
from maskgraft.recipe import Recipe, Resolved, resolve
from maskgraft.targets import Batch

Progress = Callable[[str], None]

_IMAGES, _BATCHES = 8, 4  # what is drawn for measuring
_COMPARED, _PATIENCE = 24, 20.0  # images, fewer where their forward passes would take more seconds than that
_LOOKED_AT = 32  # images whose annotations are held against their pictures


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found, worst cause first, and what was measured (JSON types only)."""

    findings: tuple[Finding, ...]
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether nothing above `info` was found."""
        return all(finding.severity == "info" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """The examination as plain JSON types; the keys are stable."""
        return {"findings": [one.as_json() for one in self.findings], "measured": dict(self.measured)}


def doctor(
    model: MaskRCNN | str | Path | None = None,
    data: Dataset | None = None,
    recipe: Recipe | None = None,
    *,
    run: str | Path | None = None,
    val: Dataset | None = None,
    progress: Progress | None = None,
) -> Examination:
    """Say why a training will not work, or why it does not: a cause, evidence and a fix, worst first.

    With `model` (or where `mg.load` finds it) and `data`: everything that shows before the first step, from the data's
    findings to the time that it will take; a few batches are drawn and computed, nothing is changed or written. A model
    of other classes gets those of the data, as in `maskgraft train`. With `run`: what the folder of a run tells about
    how it went; what it kept of the model that it began with is measured, where it has not told that. `progress` is
    told what is looked at next, as it can take minutes.

    Returns an examination for everything that can be examined; raises `UsageError` for arguments that are wrong
    themselves, and `CheckpointError` for a file that cannot be loaded.
    """
    if run is not None:
        if model is not None or data is not None or recipe is not None:
            raise UsageError(Finding("spec.field", "error", "doctor takes a run, or a model with data, not both"))
        from maskgraft.runs import examine_run

        return examine_run(Path(run), compare=True)
    if model is None or data is None:
        raise UsageError(Finding("spec.field", "error", "doctor takes a run, or a model and data", fix='run="runs/…"'))
    ready = model if isinstance(model, MaskRCNN) else _loaded(model, data)
    return examine(ready, data, recipe or Recipe(), val=val, progress=progress)


def _loaded(path: str | Path, data: Dataset) -> MaskRCNN:
    from maskgraft.class_surgery import with_classes
    from maskgraft.graft import load

    model = load(path)
    return model if tuple(model.spec.classes) == data.classes else with_classes(model, data.classes)


def examine(
    model: MaskRCNN, data: Dataset, recipe: Recipe, *, val: Dataset | None = None, progress: Progress | None = None
) -> Examination:
    """The examination of a model that is about to train on `data`; the model is as it was afterwards."""
    tell = progress or _silently
    records = data.trainable()
    if not records:
        message = f"{data.path} has no instance that can be trained on: {len(data.images)} images"
        fix = "check that class names and images are those of the annotations"
        return Examination(causes_first([Finding("train.no-instances", "error", message, fix=fix), *data.findings]))
    found = list(_refusals(model, data, val, recipe))
    if fault := data_ailments.impossible(data):
        finite = all(math.isfinite(side) for image in data.images for one in image.instances for side in one.box)
        looked_at = data_ailments.spread(records, _LOOKED_AT) if finite else ()
        read, _, _ = annotations.examine(looked_at, path=str(data.path))
        return Examination(causes_first([*found, *(read or [fault])]))
    try:
        spec = admission.trained(model.spec, recipe)
        resolved = resolve(recipe, images=len(records), left_out=len(data.images) - len(records))
    except UsageError as error:
        return Examination(causes_first([*found, *error.findings]))
    with _borrowed(model):
        model.spec = spec
        try:
            doubts = admission.doubts(model, resolved)
            trainable = policy.apply(model, resolved.stages[0].policy, train_norms=recipe.train_norms)
        except UsageError as error:
            return Examination(causes_first([*found, *error.findings]))
        every = frozenset[str]().union(*(policy.chosen_by(span.policy, model) for span in resolved.stages))
        tell("the weights")
        found += [*doubts, *weights.examine(model, every)]
        tell(f"{len(data.images)} images of {data.path.name} and their annotations")
        found += data_ailments.examine(model, data, val, resolved.recipe)
        if {one.code for one in found if one.severity == "error"} & {"shape.classes", "values.nan"}:
            return Examination(causes_first(found))
        tell("outlines of annotations on their pictures")
        aligned, alignment, shapes = annotations.examine(data_ailments.spread(records, _LOOKED_AT), path=str(data.path))
        measured: dict[str, Any] = {
            "trains": {part.component: [part.training, part.frozen] for part in trainable.parts},
            "annotations": {
                "outlines": asdict(alignment) if alignment else None,
                "shapes": asdict(shapes) if shapes else None,
            },
        }
        found += aligned
        if processes.several():  # what they measure would be the work of all of them, in step
            return Examination(causes_first(found), measured)
        more, told = _measured(model, data, val, resolved, tell)
        return Examination(causes_first([*found, *more]), {**measured, **told})


def _refusals(model: MaskRCNN, data: Dataset, val: Dataset | None, recipe: Recipe) -> Iterator[Finding]:
    """What `train` would refuse."""
    try:
        admission.check(model, data, val, recipe, Path(), resume=True)
    except UsageError as error:
        yield from error.findings


@contextmanager
def _borrowed(model: MaskRCNN) -> Iterator[None]:
    """The model, to be brought into any state inside."""
    spec = model.spec
    modes = {module: module.training for module in model.modules()}
    trains = {parameter: (parameter.requires_grad, parameter.grad) for parameter in model.parameters()}
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            model.spec = spec
            for module, mode in modes.items():
                module.training = mode
            for parameter, (wanted, grad) in trains.items():
                parameter.requires_grad_(wanted)
                parameter.grad = grad


def _measured(
    model: MaskRCNN, data: Dataset, val: Dataset | None, resolved: Resolved, tell: Progress
) -> tuple[list[Finding], dict[str, Any]]:
    """Findings that need batches, and what was measured on them."""
    recipe, found, seen = resolved.recipe, list[Finding](), Seen()
    tell("first batches, their losses and gradients")
    drawn, load, faults = _drawn(model, data, recipe)
    found += faults
    if not drawn:
        return found, {}
    steps = list[Seconds]()
    for number, batch in enumerate(drawn):
        if fault := not_finite.unlearnable(batch, len(model.spec.classes)):
            return [*found, fault], {}
        pulse, begin = take(model, batch), Seconds.now()
        values, gradients = _step(model, batch, backward=number in (0, len(drawn) - 1))
        steps.append(Seconds.now().since(begin))
        seen.add(batch, pulse, values)
        if not seen.gradients:
            seen.measure(model, gradients)
        if not all(map(math.isfinite, values.values())):
            found += not_finite.explain(model, batch, values, step=1, recipe=recipe, history=())
            break
    tell(f"anchors and boxes, sampling, rates: {fmean(one.clock for one in steps):.1f} s were a step")
    more, measured = first_batches.judge(model, data, resolved, seen)
    found += more
    if val is not None and knowledge.known(model):
        tell("labels of validation")
        there = pulses_of(model, val, recipe)
        found += knowledge.exchanged(model, there, f"of validation ({val.path.name})", of=knowledge.known(model))
    # a head that had more classes takes what they were for those that are left: its answers are no evidence
    dropped = model.graft is not None and bool(model.graft.dropped)
    if len(knowledge.known(model)) == len(model.spec.classes) and not dropped:
        tell("objects that have no annotation")
        found += unlabelled.examine(model, data, images=_affordable(seen, steps))
    parts = knowledge.trained(model)
    if parts and len(data.trainable()) >= inputs.ENOUGH:
        count = _affordable(seen, steps)
        tell(f"{count} images with red and blue exchanged")
        compared = _drawn(model, data, recipe, images=count)[0]
        found += inputs.by_losses(model, [pair for one in compared for pair in inputs.both_ways(model, one, parts)])
    step = steps[-1] if model.device.type == "cpu" else replace(steps[-1], busy=steps[-1].clock)
    found += _times(resolved, step, load)
    times = {"step": round(step.clock, 4), "load": round(load.clock / max(1, recipe.workers), 4)}
    return found, {**measured, "seconds": times}


def pulses_of(model: MaskRCNN, data: Dataset, recipe: Recipe) -> list[Pulse]:
    """The pulses of a model on some images of a dataset, as the recipe would show them in training."""
    return [take(model, batch) for batch in _drawn(model, data, recipe, images=_COMPARED)[0]]


def _affordable(seen: Seen, steps: Sequence[Seconds]) -> int:
    """How many images can be looked at in the time that there is."""
    each = max(fmean(one.clock for one in steps), 1e-3)
    return min(_COMPARED, max(_IMAGES, int(_PATIENCE / each) * len(seen.batches[0].targets)))


def _drawn(
    model: MaskRCNN, data: Dataset, recipe: Recipe, *, images: int | None = None
) -> tuple[list[Batch], Seconds, list[Finding]]:
    """The first batches of the training, labels as the model's, and the seconds that one takes to load."""
    names = model.spec.classes
    records = [one for one in data.trainable() if all(data.classes[each.label] in names for each in one.instances)]
    labels = torch.tensor([names.index(name) if name in names else -1 for name in data.classes])
    if not records:
        return [], Seconds(0, 0), []
    few = -(-images // recipe.batch) if images else min(_BATCHES, max(1, -(-_IMAGES // recipe.batch)))
    here = recipe.model_copy(update={"workers": 0, "batch": min(recipe.batch, _IMAGES), "accumulate": 1})
    drawn, begin = [], Seconds.now()
    try:
        for batch in islice(batches.loader(records, model.spec.numerics, here, epoch=0), few):
            drawn.append(batch.relabelled(labels).to(model.device))
    except DataError as error:
        return drawn, Seconds(0, 0), list(error.findings)
    return drawn, Seconds.now().since(begin).times(recipe.batch / here.batch / len(drawn)), []


def _step(model: MaskRCNN, batch: Batch, *, backward: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Losses of a batch, and norms of the gradient by component, without an update."""
    for parameter in model.parameters():
        parameter.grad = None
    with as_in_training(model), torch.set_grad_enabled(backward):
        losses = model(batch)
        if backward:
            torch.autograd.backward(torch.stack(list(losses.values())).sum())
    values = {name: loss.item() for name, loss in losses.items()}
    return values, first_batches.norms(model, lambda parameter: parameter.grad) if backward else {}


def _silently(_: str) -> None:
    """Nobody wants to know."""


def _times(resolved: Resolved, step: Seconds, load: Seconds) -> Iterator[Finding]:
    """How long it will take, and whether it waits for images."""
    workers = resolved.recipe.workers
    loads = load.clock / max(1, workers)
    each = max(step.clock, loads)
    yield Finding(
        "train.time",
        "info",
        f"about {_spoken(each * resolved.steps)} for {resolved.steps} steps: {step.clock:.2f} s a step, {loads:.2f} s "
        f"to load a batch with {workers} workers",
        evidence={"step_s": round(step.clock, 4), "load_s": round(loads, 4), "steps": resolved.steps},
    )
    waits, learns = clocks.undisturbed(load, step)
    waits /= max(1, workers)
    if waits > 2 * learns and waits > 0.2:
        wanted = min(32, math.ceil(waits * max(1, workers) / max(learns, 1e-3)))
        yield Finding(
            "train.loader-slow",
            "warning",
            f"a batch takes {waits:.2f} s to load with {workers} workers, and {learns:.2f} s to learn from",
            names=("workers",),
            evidence={"step_s": round(learns, 4), "load_s": round(waits, 4)},
            effect=f"the network waits {100 * (1 - learns / waits):.0f} % of the time",
            fix=f"workers={wanted}, or smaller images on disk",
        )


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{int(minutes // 60)} h {int(minutes % 60):02d} min"
