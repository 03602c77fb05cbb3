"""Event files for TensorBoard: the same numbers as in metrics.jsonl."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskgraft import processes
from maskgraft.errors import Finding, UsageError
from maskgraft.evaluation import Metrics
from maskgraft.policy import Trainable
from maskgraft.recipe import Recipe, Resolved

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class Board:
    """A `Watcher` that writes event files."""

    def __init__(self, writer: "SummaryWriter") -> None:
        self.writer = writer

    def begin(self, resolved: Resolved, trainable: Trainable, findings: Sequence[Finding]) -> None:
        """Before the first step of each stage."""

    def examines(self, what: str) -> None:
        """Nothing that a board keeps."""

    def step(self, number: int, entry: Mapping[str, Any]) -> None:
        """After each step."""
        values = {"total": entry["total"], "lr": entry["lr"], "gradient": entry["gradient"]}
        for group in ("losses", "shares", "weights", "gradients"):
            values |= {f"{group}/{name}": value for name, value in entry.get(group, {}).items()}
        self._write(values, number)

    def evaluated(self, number: int, metrics: Metrics) -> None:
        """After each evaluation."""
        for kind, found in (("box", metrics.box), ("mask", metrics.mask)):
            self._write({f"{kind}/{name}": value for name, value in found.items()}, number)

    def found(self, number: int, findings: Sequence[Finding]) -> None:
        """What a doctor has found: as text."""
        for one in findings:
            self.writer.add_text(one.code, str(one), number)

    def _write(self, values: Mapping[str, float | None], number: int) -> None:
        for name, value in values.items():
            if value is not None:
                self.writer.add_scalar(name, value, number)


@contextmanager
def opened(folder: Path, recipe: Recipe, step: int) -> Iterator[Board | None]:
    """A board in the run's folder, when the recipe wants one; what it has beyond `step` is hidden from now on.

    Raises `UsageError` when TensorBoard is not installed.
    """
    if not recipe.tensorboard or not processes.leads():
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        message = "tensorboard is set, but TensorBoard is not installed"
        raise UsageError(
            Finding("spec.field", "error", message, ("tensorboard",), fix='pip install "maskgraft[tensorboard]"')
        ) from None
    writer = SummaryWriter(str(folder / FOLDER), purge_step=step + 1)
    try:
        yield Board(writer)
    finally:
        writer.close()
