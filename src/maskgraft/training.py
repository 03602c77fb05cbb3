"""Training: one loop that reads from top to bottom.

run = train(model, read_coco("train.json", "photos"), Recipe(policy="heads", epochs=4), out="runs/first", val=held_out)
run.best, run.folder        # the best mask AP, and where everything stands

What a step does is told in `stepping`, what is saved and put back in `underway`, who looks on in `onlooking`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from maskgraft import (
    attending,
    batches,
    boards,
    clocks,
    completing,
    forgetting,
    interrupts,
    judging,
    keeping,
    preparing,
    processes,
    reporting,
    stepping,
)
from maskgraft import state as states
from maskgraft.ailments.order import causes_first
from maskgraft.clocks import Seconds
from maskgraft.coco import Dataset
from maskgraft.errors import DataError, Finding
from maskgraft.evaluation import Metrics
from maskgraft.forgetting import Retention
from maskgraft.model import MaskRCNN
from maskgraft.onlooking import Onlookers, RollBack, Skip
from maskgraft.recipe import Recipe
from maskgraft.state import Log
from maskgraft.underway import Training
from maskgraft.watching import Doctor, Retainer, Watcher


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
    progress = watcher.examines if watcher else None
    attendant = attending.attendant(doctor, data, val, progress=progress)
    plan = preparing.prepare(
        model,
        data,
        recipe,
        folder=Path(out),
        val=val,
        replay=replay,
        resume=resume,
        treated=doctor == "fix",
        progress=progress,
    )
    folder, resolved, recipe = plan.folder, plan.resolved, plan.resolved.recipe
    training = Training(model, resolved, folder)

    model.spec = plan.spec  # until here everything may be refused, and nothing is written
    if processes.leads():
        folder.mkdir(parents=True, exist_ok=True)
    if not resume:  # first of all, so that the folder is known for a run
        states.write_recipe(folder, resolved, plan.data, plan.labelled, model=model, val=val, findings=plan.findings)
    completing.keep(plan.given, plan.added, folder)
    restored = resume and training.restore()
    kept = keeping.begin(model, recipe, folder, fresh=not restored)
    retainers = [one for one in (retainer, kept) if one is not None]
    if not restored:
        training.begin()
    earlier = states.cut_log(folder, training.state)
    losses = [entry["total"] for entry in earlier]

    if resume:
        states.write_recipe(folder, resolved, plan.data, plan.labelled, model=model, val=val, findings=plan.findings)
    with (
        states.Log(folder) as log,
        interrupts.noted() as stop,
        boards.opened(folder, recipe, training.state.step) as board,
        _end_noted(training, log),
    ):
        watchers = [one for one in (watcher, board) if one is not None]
        onlookers = Onlookers(training, log, watchers, attendant)
        if training.state.step == 0:
            training.save(log)
            if processes.leads():
                judging.draw_augmented(plan.data, model.spec.numerics, recipe, folder)
        onlookers.begin(plan.findings, earlier)
        while True:
            try:
                if judging.is_due(training.state, resolved):
                    with training.averaged():
                        training.metrics = judging.judge(training, plan.data, val, log, stop)
                    if training.metrics:
                        onlookers.evaluated(training.metrics)
                        training.save(log)
                if training.is_done:
                    break
                if training.stage_is_done:
                    training.next_stage()
                    onlookers.begin()

                epoch, start = divmod(training.state.step, resolved.steps_per_epoch)
                waited = Seconds.now()
                loader = batches.loader(
                    plan.records,
                    model.spec.numerics,
                    training.recipe,
                    epoch=epoch,
                    start=start,
                    replayed=plan.replayed,
                    pin=model.device.type == "cuda",
                    told=onlookers.waits_long,
                )
                for parts in zip(*[loader] * recipe.accumulate, strict=True):
                    if stop.is_set() and not processes.several():
                        break
                    loaded = Seconds.now()
                    onlookers.altered = False
                    entry = stepping.step(
                        training, parts, epoch=epoch, labels=plan.labels, retainers=retainers, onlookers=onlookers
                    )
                    done = Seconds.now()
                    timing = {
                        "step": training.state.step,
                        **clocks.entry(loaded.since(waited), done.since(loaded), model.device.type),
                        "memory_mb": _memory(model.device),
                    }
                    waited = done
                    losses.append(entry["total"])
                    log.write(entry)
                    log.write(timing, states.TIMING)
                    onlookers.step({**entry, **timing})
                    if processes.mean(float(stop.is_set()), model.device) > 0:
                        stop.set()
                    if training.stage_is_done or stop.is_set():
                        break
                    if onlookers.altered or (recipe.save_every and training.state.step % recipe.save_every == 0):
                        training.save(log)
                training.save(log)
                if stop.is_set():
                    raise states.stopped(training.state, folder)
            except Skip:
                training.state.step += 1
                training.save(log)
            except RollBack as back:
                training.roll_back(back.findings)
                losses = [entry["total"] for entry in log.cut(training.state)]
                states.note_verdict(training.state, training.span.lr, back.verdict, log)
                training.save(log)

    training.finish()
    run = Run(
        folder,
        training.state.step,
        metrics=training.metrics,
        best=training.state.best,
        losses=losses,
        frozen=len(training.state.untouched),
        findings=causes_first((*plan.findings, *onlookers.findings)),
    )
    try:
        if recipe.retention and processes.leads():
            run.retention = forgetting.of_run(model, folder, replay or val or data, limit=recipe.retention)
        if processes.leads():
            reporting.report(folder, data=plan.data, val=val, device=model.device)
    except OSError as error:  # the training is done and saved: it must not be lost for want of a page
        run.findings += (reporting.left_out(error, folder),)
        if watcher:
            watcher.found(run.steps, run.findings[-1:])
    return run


@contextmanager
def _end_noted(training: Training, log: Log) -> Iterator[None]:
    """However a run ends inside, its folder tells why."""
    try:
        yield
    except DataError as error:
        states.note_findings(training.state, error.findings, log, action="stop")
        reporting.attempt(training.folder)
        raise
    except KeyboardInterrupt:
        reporting.attempt(training.folder)
        raise
    except RuntimeError as error:
        if (death := batches.worker_death(str(error))) is None:
            raise
        states.note_findings(training.state, (death,), log, action="stop")
        reporting.attempt(training.folder)
        raise DataError(death) from error
    except OSError as error:
        raise states.unwritten(error, training.state, training.folder) from error


def _memory(device: torch.device) -> int:
    """Peak memory in MB: of the GPU, or of this process; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)
