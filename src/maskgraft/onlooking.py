"""The watchers and the doctor of a training under way: what each is told, and what becomes of what they say."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from maskgraft import processes, watching
from maskgraft import state as states
from maskgraft.errors import DataError, Finding
from maskgraft.evaluation import Metrics
from maskgraft.state import Log
from maskgraft.underway import Training
from maskgraft.watching import Doctor, Moment, Stopped, Verdict, Watcher


class Skip(Exception):
    """A doctor leaves out the step under way."""


class RollBack(DataError):
    """A doctor sends the run back to its last save; where there is none yet, this ends it."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.findings)
        self.verdict = verdict


class Onlookers:
    """All who look on. `findings` is what they found, `altered` whether they changed the recipe in the last step.

    A doctor's verdict is carried out at once: each method may raise `Skip`, `RollBack`, or, where the doctor stops the
    run, `Stopped` with what was found.
    """

    def __init__(self, training: Training, log: Log, watchers: Sequence[Watcher], doctor: Doctor | None) -> None:
        self.training, self.log, self.watchers, self.doctor = training, log, watchers, doctor
        self.findings: list[Finding] = []
        self.altered = False
        self._measured: dict[str, Any] = {}  # by the doctor, since the last step

    def begin(self, findings: Sequence[Finding] = (), earlier: Sequence[Mapping[str, Any]] = ()) -> None:
        """Before the first step of each stage; `earlier` are the lines of the steps that a resumed run has done."""
        resolved, trainable = self.training.resolved, self.training.trainable
        for one in self.watchers:
            one.begin(resolved, trainable, findings)
        if self.doctor:
            self._heed(self.doctor.begin(self.training.model, resolved, trainable, earlier))

    def unlearnable(self, fault: Finding) -> None:
        """A batch that no step can be made of."""
        if self.doctor and not processes.several():  # the others do not know of it
            self._heed(self.doctor.unlearnable(fault))

    def before_backward(self, moment: Moment) -> None:
        """The losses of a batch, or of its part, are known."""
        if self.doctor:
            self._heed(self.doctor.before_backward(moment))

    def before_update(self, moment: Moment, norm: float) -> None:
        """The gradients are known, and their norm."""
        if self.doctor:
            self._heed(self.doctor.before_update(replace(moment, norm=norm)))

    def step(self, entry: Mapping[str, Any]) -> None:
        """A step is done."""
        number = self.training.state.step
        for one in self.watchers:
            one.step(number, {**entry, **self._measured})
        self._measured.clear()
        if self.doctor:
            self._heed(self.doctor.step(number, entry))

    def evaluated(self, metrics: Metrics) -> None:
        """The model was evaluated."""
        number = self.training.state.step
        for one in self.watchers:
            one.evaluated(number, metrics)
        if self.doctor:
            self._heed(self.doctor.evaluated(number, metrics))

    def waits_long(self, finding: Finding) -> None:
        """The loader gives no batch; told from a thread of its own, while the training waits."""
        states.note_findings(self.training.state, (finding,), self.log)
        self._tell((finding,))

    def _heed(self, verdict: Verdict | None) -> None:
        """Carry out what the doctors of all processes agree on."""
        verdict = watching.agreed(verdict)
        if verdict is None:
            return
        self._measured.update(verdict.measured)
        self._tell(verdict.findings)
        if verdict.action == "stop":
            raise Stopped(verdict.findings)
        if verdict.action == "roll back":
            raise RollBack(verdict)
        states.note_verdict(self.training.state, self.training.span.lr, verdict, self.log)
        if verdict.action == "skip":
            raise Skip
        self.altered |= bool(verdict.changes)

    def _tell(self, found: Sequence[Finding]) -> None:
        self.findings += found
        for one in self.watchers if found else ():
            one.found(self.training.state.step, found)
