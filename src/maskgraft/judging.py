"""Evaluation inside a training: metrics, pictures beside the truth, the best model so far, and the plateau schedule."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from maskgraft import draw, evaluation, previews, processes, reporting, shortfalls, store
from maskgraft import state as states
from maskgraft.coco import Dataset, ImageRecord
from maskgraft.errors import DataError
from maskgraft.evaluation import Metrics
from maskgraft.files.writing import atomic
from maskgraft.model import MaskRCNN
from maskgraft.recipe import Recipe, Resolved
from maskgraft.spec import Numerics
from maskgraft.state import BEST, Log, State
from maskgraft.underway import Training

_SAMPLES = 4  # pictures after each evaluation
_AUGMENTED = 8  # pictures before the first step


def draw_augmented(data: Dataset, numerics: Numerics, recipe: Recipe, folder: Path) -> None:
    """Write what the first steps train on, with its truth, into a run's `samples/augmented.jpg`.

    An image that cannot be read is told by the step that meets it, with its batch; until then there is no picture.
    """
    path = folder / "samples" / "augmented.jpg"
    with suppress(DataError):
        picture = previews.preview_augmented(data, numerics, recipe, count=_AUGMENTED)
        path.parent.mkdir(exist_ok=True)
        with atomic(path) as temporary:
            picture.save(temporary, quality=90)


def is_due(state: State, resolved: Resolved) -> bool:
    """Whether the model is to be evaluated as it is: after every so many epochs, and at the end."""
    epochs, rest = divmod(state.step, resolved.steps_per_epoch)
    every = resolved.recipe.evaluate_every
    ended = state.step >= resolved.steps
    return state.step > state.evaluated and (ended or (rest == 0 and every > 0 and epochs % every == 0))


def judge(training: Training, data: Dataset, val: Dataset | None, log: Log, stop: threading.Event) -> Metrics | None:
    """Evaluate, draw samples, keep the best model, and let the plateau schedule look at the result.

    Without `val` nothing is evaluated, and the samples are training images. The last evaluation also says what the
    model gets wrong, for the report: from the same detections, so that no image is predicted twice for it. Raises
    `KeyboardInterrupt` between two images when `stop` is set.
    """
    model, state, folder, recipe = training.model, training.state, training.folder, training.recipe
    shown = val.images if val else data.trainable()

    def unless_stopped(images: Sequence[ImageRecord]) -> Iterator[ImageRecord]:
        for image in images:
            if stop.is_set():
                raise states.stopped(state, folder)
            yield image

    short, metrics = None, None
    if val and training.is_done and len(val.images) <= reporting.IMAGES and not processes.several():
        short = shortfalls.shortfall(model, val, progress=unless_stopped)
        metrics = short.metrics
    elif val:
        metrics = evaluation.evaluate(model, val, progress=unless_stopped, together=True)
    if processes.leads():
        path = folder / "samples" / f"step-{state.step:06d}.jpg"
        _draw_samples(model, shown[:_SAMPLES], (val or data).classes, path)
    state.evaluated = state.step
    if metrics is None:
        return None
    kind, name = recipe.metric.split(".")
    score = (metrics.box if kind == "box" else metrics.mask)[name] or 0.0
    if state.best is None or score > state.best:
        state.best, state.waits = score, 0
        if processes.leads():
            store.save(model, folder / BEST, about={"step": state.step, "metrics": metrics.as_json()})
        if short and val:
            reporting.keep_shortfall(folder, model, val, short, step=state.step)
    else:
        state.waits += 1
        if recipe.schedule == "plateau" and state.waits > recipe.patience:
            state.lr_factor, state.waits = state.lr_factor * 0.1, 0
    epoch = (state.step - 1) // training.resolved.steps_per_epoch
    log.write({"step": state.step, "epoch": epoch, "evaluation": metrics.as_json()})
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
