"""A training under way: what its steps change, and how that is saved and put back."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from maskgraft import optimizers, policy, precision, processes
from maskgraft import state as states
from maskgraft.averaging import Average
from maskgraft.balance import Balance
from maskgraft.errors import DataError, Finding
from maskgraft.evaluation import Metrics
from maskgraft.model import MaskRCNN
from maskgraft.policy import Trainable
from maskgraft.recipe import Recipe, Resolved
from maskgraft.schedules import lr_factor
from maskgraft.stages import Span
from maskgraft.state import Log, State

_MOST_ROLLBACKS = 5  # after so many, going back to the last save does not help


class Training:
    """A model, and what turns batches into updates of it.

    `span`, `trainable`, `optimizer` and `network` (the model, or what synchronises it with other processes) are those
    of the stage under way; `state` is how far it has come, `metrics` what the last evaluation gave.

    Raises `UsageError` for a policy or an optimizer that cannot be, before anything is written.
    """

    span: Span
    trainable: Trainable
    optimizer: Optimizer
    network: nn.Module

    def __init__(self, model: MaskRCNN, resolved: Resolved, folder: Path) -> None:
        self.model, self.resolved, self.folder = model, resolved, folder
        recipe = resolved.recipe
        self.scaler = precision.scaler(model.device, recipe.precision)
        self.balance = Balance(recipe.balance, model.device)
        self.average = Average(recipe.ema) if recipe.ema else None
        self.state = State()
        self.metrics: Metrics | None = None
        self._enter(0)

    @property
    def recipe(self) -> Recipe:
        """The recipe as it holds at present: its rate that of the stage, and what a doctor has changed."""
        return states.changed(self.resolved.recipe, self.span.lr, self.state)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer trains."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    @property
    def is_done(self) -> bool:
        """Whether all steps of the recipe are done."""
        return self.state.step >= self.resolved.steps

    @property
    def stage_is_done(self) -> bool:
        """Whether all steps of the stage are done."""
        return self.state.step >= self.span.end

    def begin(self) -> None:
        """Before the first step of all: note what is not to change."""
        states.note_frozen(self.model, self.trainable.names, self.state)
        self._follow()

    def restore(self) -> bool:
        """Put everything back to the last save; gives whether there is one. Raises as `states.restore`."""
        kept = states.restore(self.model, self.folder)
        if kept is None:
            return False
        self.state = kept.state
        self._enter(self.state.stage)
        self.optimizer.load_state_dict(kept.optimizer)
        self.scaler.load_state_dict(kept.scaler)
        self.balance.restore(kept.balance)
        if self.average:
            self.average.values = dict(kept.average)
        self._follow()
        return True

    def roll_back(self, findings: Sequence[Finding]) -> None:
        """Go back to the last save, for the reasons in `findings`, with which it raises where that does not help."""
        rollbacks = self.state.rollbacks + 1
        processes.wait()  # until the save has ended
        if rollbacks > _MOST_ROLLBACKS or not self.restore():
            raise DataError(findings) from None
        self.state.rollbacks = rollbacks

    def next_stage(self) -> None:
        """Prove that what was frozen has not changed, and let train what the next stage names."""
        states.prove_frozen(self.model, self.state)
        self.state.stage += 1
        before = self.optimizer
        self._enter(self.state.stage)
        optimizers.carry(before, self.optimizer)
        states.note_frozen(self.model, self.trainable.names, self.state)
        self._follow()

    def set_rates(self) -> float:
        """Give each group of parameters its rate for the next step; gives that of the recipe, in which multiples of
        components are not counted."""
        done, steps = self.state.step - self.span.first, self.span.end - self.span.first
        factor = lr_factor(self.resolved.recipe, done, steps=steps, warmup=self.span.warmup) * self.state.lr_factor
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        return factor * self.span.lr

    def averaged(self) -> AbstractContextManager[None]:
        """The model as it is judged inside: with the running mean of its weights, where the recipe has one."""
        return self.average.inside(self.model) if self.average else nullcontext()

    def save(self, log: Log) -> None:
        """Write `last/`, and before it the lines of the steps that it holds."""
        log.sync()
        if processes.leads():
            states.save(
                self.model,
                self.folder,
                self.state,
                optimizer=self.optimizer,
                scaler=self.scaler,
                balance=self.balance,
                average=self.average,
                about={"step": self.state.step, "metrics": self.metrics.as_json() if self.metrics else None},
            )

    def finish(self) -> None:
        """After the last step: prove what was frozen, and leave the model as it is to be used."""
        states.prove_frozen(self.model, self.state)
        if self.average:
            self.average.put_into(self.model)
        self.model.eval()

    def _enter(self, number: int) -> None:
        """Let train what a stage names."""
        recipe = self.resolved.recipe
        self.span = self.resolved.stages[number]
        self.trainable = policy.apply(self.model, self.span.policy, train_norms=recipe.train_norms)
        beside = self.balance.parameters()
        self.optimizer = optimizers.build(self.model, self.trainable, recipe, lr=self.span.lr, beside=beside)
        self.network = processes.network(self.model)

    def _follow(self) -> None:
        if self.average:
            self.average.follow(self.model, self.trainable)
