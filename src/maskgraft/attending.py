"""The doctor of a training under way: looks at every step, takes the pulse now and then, and says what is wrong.

mg.train(model, data, recipe, out="runs/first", doctor="warn")     # or "stop", "fix"
"""

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor

from maskgraft import processes, pulse
from maskgraft.ailments import courses, knowledge, not_finite, pulses, rates
from maskgraft.ailments.courses import Facts
from maskgraft.ailments.order import causes_first
from maskgraft.coco import Dataset
from maskgraft.errors import Finding, UsageError
from maskgraft.evaluation import Metrics
from maskgraft.examining import Progress, examine, pulses_of
from maskgraft.first_steps import FirstSteps
from maskgraft.model import MaskRCNN
from maskgraft.policy import Trainable
from maskgraft.recipe import Recipe, Resolved
from maskgraft.spec import component
from maskgraft.watching import Doctor, Moment, Verdict

Mode = Literal["warn", "stop", "fix"]
MODES = ("warn", "stop", "fix")

EVERY = 50  # steps between pulses, of a third of a step each
_EARLY = (10, 25)
_JUDGED = 10  # steps between looks at the course
_RECENT, _REMEMBERED = 50, 1000  # steps that are looked back on
_OF_ONE_IMAGE = ("train.outlier", "data.pixels", "train.boxes", "train.labels")
_LIGHTER = {"clip_norm": 10.0}
_LOW = 0.35  # AP50 of the first evaluation, below which it is asked whether validation names the classes otherwise


class Attendant:
    """A `Doctor`. In the `mode` "warn" it tells what it finds; "stop" ends the run at the first error; "fix" changes
    rates, clipping, weights of losses and workers, rolls back after a loss that is not finite, and leaves out what it
    was due to where that is one image. Without `examines` nothing is drawn or opened before the first step, and the
    first dozen of steps are judged instead. `progress` is told what the examination looks at next."""

    def __init__(
        self,
        data: Dataset,
        *,
        val: Dataset | None = None,
        mode: Mode = "warn",
        every: int = EVERY,
        examines: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self.data, self.val, self.mode, self.every = data, val, mode, every
        self.examines, self.progress = examines, progress
        self.first: FirstSteps | None = None
        self.told: set[tuple[str, tuple[str, ...]]] = set()
        self.entries: list[Mapping[str, Any]] = []
        self.timings: list[Mapping[str, Any]] = []
        self.pulses: list[dict[str, Any]] = []
        self.metrics: list[tuple[int, float]] = []
        self.images: tuple[int, ...] = ()
        self.facts = Facts(1, None, {})
        self.metric, self.lr, self.workers = "mask.AP", 0.0, 0
        self.model: MaskRCNN | None = None
        self.recipe: Recipe | None = None
        self.before: dict[str, Tensor] = {}  # weights as they were before the step whose update is measured

    def begin(
        self, model: MaskRCNN, resolved: Resolved, trainable: Trainable, earlier: Sequence[Mapping[str, Any]]
    ) -> Verdict | None:
        """Before the first step of each stage: the examination, where the run is new."""
        recipe = resolved.recipe
        first = self.model is None
        self.model, self.recipe, self.metric = model, recipe, recipe.metric
        self.facts = Facts(len(model.spec.classes), rates.usual(recipe, resolved), recipe.weights)
        if not first or earlier:
            self.entries += earlier
            return None
        self.workers = recipe.workers
        if not self.examines or processes.several():
            self.first = FirstSteps(model, self.data, resolved, whole=not self.examines)
        if not self.examines:
            return None
        found = examine(model, self.data, recipe, val=self.val, progress=self.progress)
        return self._verdict(found.findings, recipe.lr, {"examination": dict(found.measured)})

    def unlearnable(self, fault: Finding) -> Verdict | None:
        """A batch of boxes that are none: left out where things are fixed, and the end of the run elsewhere."""
        return Verdict((fault,), "skip") if self.mode == "fix" and not processes.several() else None

    def before_backward(self, moment: Moment) -> Verdict | None:
        """Losses that are not finite are explained; now and then the pulse is taken."""
        self.images = moment.batch.ids
        updates = self._updates(moment.model)
        values = {name: moment.values[name] for name in moment.losses}
        found, measured = self.first.before_backward(moment) if self.first else ([], {})
        if self.first and self.first.done:
            self.first = None
        if not all(map(math.isfinite, values.values())):
            found += not_finite.explain(
                moment.model,
                moment.batch,
                values,
                step=moment.step,
                recipe=moment.recipe,
                history=[entry["total"] for entry in self.entries],
            )
            return self._broken(found, moment)
        if updates and self.pulses:
            self.pulses[-1]["updates"] = measured["updates"] = updates
            measured["rate"] = self.pulses[-1]["rate"]
        if self._is_due(moment.step) and not (self.pulses and self.pulses[-1]["step"] == moment.step):
            taken, rate = pulse.take(moment.model, moment.batch).as_json(), moment.optimizer.param_groups[0]
            share = rate["lr"] / max(rate.get("base_lr", rate["lr"]), 1e-30)
            self.pulses.append({"step": moment.step, "rate": share, **taken})
            self.lr, measured["pulse"] = moment.recipe.lr or 0.0, taken
            found += pulses.judge(self.pulses, lr=self.lr, usual=self.facts.usual)
        return self._verdict(found, self.lr, measured) if found or measured else None

    def before_update(self, moment: Moment) -> Verdict | None:
        """Weights are kept where the next step is to say how far this one moved them."""
        if moment.norm is not None and not math.isfinite(moment.norm) and moment.recipe.precision != "fp16":
            values = {**{name: moment.values[name] for name in moment.losses}, "gradient": moment.norm}
            history = [entry["total"] for entry in self.entries]
            found = not_finite.explain(
                moment.model, moment.batch, values, step=moment.step, recipe=moment.recipe, history=history
            )
            return self._broken(found, moment)
        if self._is_due(moment.step):
            self.before = {
                name: parameter.detach().clone()
                for name, parameter in moment.model.named_parameters()
                if parameter.requires_grad
            }
        return self._verdict(self.first.before_update(moment), moment.recipe.lr) if self.first else None

    def step(self, number: int, entry: Mapping[str, Any]) -> Verdict | None:
        """After each step: its line in metrics.jsonl, with its times."""
        while self.entries and self.entries[-1]["step"] >= number:  # these were rolled back
            self.entries.pop()
        odd = courses.outlier(entry, self.entries, self.images)
        self.entries.append(entry)
        self.timings.append({name: value for name, value in entry.items() if name.endswith("_s")})
        del self.entries[:-_REMEMBERED], self.timings[:-_REMEMBERED]
        burst = courses.exploding(self.entries[-_RECENT:], self.facts)
        found, measured = [one for one in (burst, odd) if one], dict[str, Any]()
        if burst and self.first:  # it will not come to a dozen steps: what has passed by may say why
            causes, measured = self.first.judge()
            found, self.first = [*causes, *found], None
        if number % _JUDGED == 0:
            found += courses.judge(self.entries, self.timings, self.facts)
        return self._verdict(found, entry["lr"], measured)

    def evaluated(self, step: int, metrics: Metrics) -> Verdict | None:
        """After each evaluation."""
        kind, name = self.metric.split(".")
        self.metrics.append((step, (metrics.box if kind == "box" else metrics.mask)[name] or 0.0))
        found = list(courses.evaluations(self.metrics, self.metric))
        low = len(self.metrics) == 1 and (metrics.box["AP50"] or 0.0) < _LOW
        if low and self.model is not None and self.recipe is not None and self.val is not None:
            every = frozenset(range(len(self.model.spec.classes)))
            asked = pulses_of(self.model, self.val, self.recipe)
            found += knowledge.exchanged(self.model, asked, f"of validation ({self.val.path.name})", of=every)
        return self._verdict(found, self.lr)

    def _is_due(self, step: int) -> bool:
        return self.every > 0 and (step % self.every == 0 or step in _EARLY)

    @torch.no_grad()
    def _updates(self, model: MaskRCNN) -> dict[str, float]:
        """How far the last step moved each component, by its norm; empty where it was not kept."""
        if not self.before:
            return {}
        moved: dict[str, list[float]] = {}
        now = dict(model.named_parameters())
        for name, was in self.before.items():
            sums = moved.setdefault(component(name), [0.0, 0.0])
            sums[0] += float((now[name] - was).float().square().sum())
            sums[1] += float(was.float().square().sum())
        self.before = {}
        return {part: (change / norm) ** 0.5 if norm else 0.0 for part, (change, norm) in moved.items()}

    def _broken(self, found: list[Finding], moment: Moment) -> Verdict:
        """What is done about a loss that is not finite."""
        found = list(causes_first(found))
        if self.mode != "fix" or any(one.code == "values.nan" for one in found):
            return Verdict(tuple(found), "stop")
        if any(one.code in _OF_ONE_IMAGE for one in found):
            return Verdict(tuple(found), "skip")
        lower = (moment.recipe.lr or 0.0) / 10
        return Verdict(tuple(found), "roll back", {"lr": lower, **_LIGHTER})

    def _verdict(
        self, found: Sequence[Finding], lr: float | None, measured: Mapping[str, Any] | None = None
    ) -> Verdict | None:
        """New findings and what is done about them; each is told once."""
        fresh = [one for one in found if (one.code, one.names) not in self.told]
        self.told |= {(one.code, one.names) for one in fresh}
        fresh = list(causes_first(fresh))
        if not fresh and not measured:
            return None
        if self.mode == "stop" and any(one.severity == "error" for one in fresh):
            return Verdict(tuple(fresh), "stop")
        changes = self._remedies(fresh, lr) if self.mode == "fix" else {}
        back = any(one.code == "train.lr-high" and one.severity == "error" for one in fresh) and len(self.entries) > 0
        if back and changes:
            self.told = {one for one in self.told if one[0] != "train.lr-high"}  # a tenth of the rate may not be enough
            return Verdict(tuple(fresh), "roll back", changes, measured or {})
        return Verdict(tuple(fresh), "go on", changes, measured or {})

    def _remedies(self, found: Sequence[Finding], lr: float | None) -> dict[str, Any]:
        """Changes that are safe while a run is under way."""
        changes: dict[str, Any] = {}
        for one in found:
            if one.severity == "info":
                continue
            match one.code:
                case "train.lr-high":
                    now = lr or self.lr
                    changes |= {"lr": min(now / 10, self.facts.usual or math.inf), **_LIGHTER}
                case "train.lr-low" if self.facts.usual:
                    changes["lr"] = self.facts.usual
                case "train.outlier":
                    changes |= _LIGHTER
                case "train.loss-dominates":
                    changes["loss_weights"] = {name: min(weight, 1.0) for name, weight in self.facts.weights.items()}
                case "train.loader-slow":
                    changes["workers"] = max(2, 2 * self.workers)
        return changes


def attendant(
    doctor: Doctor | str, data: Dataset, val: Dataset | None, *, progress: Progress | None = None
) -> Doctor | None:
    """The doctor that is meant by "warn", "stop" or "fix", or the one that is given; None for "off"."""
    match doctor:
        case "off":
            return None
        case "warn" | "stop" | "fix":
            return Attendant(data, val=val, mode=doctor, progress=progress)
        case str():
            near = get_close_matches(doctor, (*MODES, "off"), 1)
            fix = f"did you mean {near[0]}?" if near else f"one of {', '.join(MODES)}, off"
            raise UsageError(Finding("spec.field", "error", f"there is no doctor {doctor!r}", fix=fix))
    return doctor
