"""Who may look on while a model trains, and what each may do: watchers see, retainers add losses, doctors act."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor
from torch.optim import Optimizer

from maskgraft import processes
from maskgraft.errors import DataError, Finding
from maskgraft.evaluation import Metrics
from maskgraft.model import MaskRCNN
from maskgraft.policy import Trainable
from maskgraft.recipe import Recipe, Resolved
from maskgraft.targets import Batch

_GRAVITY = ("go on", "skip", "roll back", "stop")
CHANGEABLE = ("lr", "clip_norm", "clip_value", "loss_weights", "workers")


class Watcher(Protocol):
    """What is told of a training as it goes; `maskgraft train` shows it as a progress bar."""

    def begin(self, resolved: Resolved, trainable: Trainable, findings: Sequence[Finding]) -> None:
        """Before the first step: the recipe without gaps, what trains, and what is doubtful about it."""

    def examines(self, what: str) -> None:
        """Before the first step: what a doctor looks at next."""

    def step(self, number: int, entry: Mapping[str, Any]) -> None:
        """After each step: its lines in metrics.jsonl and timing.jsonl."""

    def evaluated(self, number: int, metrics: Metrics) -> None:
        """After each evaluation."""

    def found(self, number: int, findings: Sequence[Finding]) -> None:
        """What a doctor has found, or the loader that gives no batch, at the step that is under way."""


class Retainer(Protocol):
    """What holds a model to what it knew, by losses of its own beside the five."""

    def losses(self, model: MaskRCNN, batch: Batch) -> Mapping[str, Tensor]:
        """Further losses of a batch, already weighted, each a scalar under a name of its own ("l2sp", "distilled" …).

        Called in each step after the five losses of the same batch; the sum of all goes backward at once.
        """


def added(retainers: Sequence[Retainer], model: MaskRCNN, batch: Batch) -> dict[str, Tensor]:
    """The further losses of all retainers."""
    return {name: loss for one in retainers for name, loss in one.losses(model, batch).items()}


@dataclass(frozen=True, slots=True)
class Moment:
    """One step in the middle, for a doctor to look at; what is asked of it is up to the doctor, and costs its time.

    `step` is the number of the step under way, from 1, `recipe` what holds at present, its `lr` that of the stage.
    `losses` are not weighted yet and carry their graphs before the backward pass; `total` is what goes backward.
    `values` are the numbers of both, read already: `.item()` would wait for the device once more. With
    `accumulate` there is a moment before the backward pass of each part of a batch. `norm` is that of the whole
    gradient before clipping, None before the backward pass.
    """

    step: int
    epoch: int
    model: MaskRCNN
    batch: Batch
    losses: Mapping[str, Tensor]
    values: Mapping[str, float]
    weights: Mapping[str, float]
    total: Tensor
    optimizer: Optimizer
    recipe: Recipe
    norm: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a doctor answers: findings, and what is to be done.

        Verdict((finding,), "roll back", {"lr": moment.recipe.lr / 10})

    "go on": the step is done; "skip": it is counted, but its gradient is not applied; "stop": the run ends with a
    `DataError` of the findings, its last save untouched; "roll back": it goes on from its last save. `changes` are new
    values of `CHANGEABLE` fields of the recipe; they hold from the next step on, or from the last save, and over a
    resume. `measured` (JSON types) becomes part of a line of metrics.jsonl.
    """

    findings: tuple[Finding, ...] = ()
    action: Literal["go on", "skip", "roll back", "stop"] = "go on"
    changes: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)


def agreed(verdict: Verdict | None) -> Verdict | None:
    """The verdict that all processes take: the gravest of theirs, of equal ones the first."""
    if not processes.several():
        return verdict
    given = [one for one in processes.gathered([verdict]) if one is not None]
    return max(given, key=lambda one: _GRAVITY.index(one.action), default=None)


class Stopped(DataError):
    """A doctor ends the run: every process raises it with the same findings, and the first one is to tell them."""


class Doctor(Protocol):
    """What looks at each step of a training and may interfere. None as an answer: all is well."""

    def begin(
        self, model: MaskRCNN, resolved: Resolved, trainable: Trainable, earlier: Sequence[Mapping[str, Any]]
    ) -> Verdict | None:
        """Before the first step; `earlier` are the lines of metrics.jsonl that a resumed run has behind it.

        With several stages it is called when each begins.
        """

    def unlearnable(self, fault: Finding) -> Verdict | None:
        """A batch that no step can be made of, before it is computed; the run ends with the fault unless it is left
        out."""

    def before_backward(self, moment: Moment) -> Verdict | None:
        """When the losses are known, finite or not."""

    def before_update(self, moment: Moment) -> Verdict | None:
        """When the gradients are known, finite or not, and neither clipped nor applied."""

    def step(self, number: int, entry: Mapping[str, Any]) -> Verdict | None:
        """After each step: its lines in metrics.jsonl and timing.jsonl."""

    def evaluated(self, step: int, metrics: Metrics) -> Verdict | None:
        """After each evaluation."""
