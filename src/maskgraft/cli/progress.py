"""A training as people watch it: what trains, a bar with losses and times, and AP as it comes."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from maskgraft.cli.show import print_findings, table
from maskgraft.cli.tables import metrics_tables, percent
from maskgraft.errors import Finding
from maskgraft.evaluation import Metrics
from maskgraft.losses import LOSSES
from maskgraft.policy import Part, Trainable
from maskgraft.recipe import Resolved

_SMOOTHING = 0.9  # the losses shown are running means over about ten steps


def parts_table(parts: tuple[Part, ...]) -> Any:
    """What trains: a row for each component, with its numbers and what its norms do."""
    rows = [
        (
            part.component,
            f"{part.training:,}",
            f"{part.frozen:,}",
            part.norms,
        )
        for part in parts
    ]
    whole = sum(part.training for part in parts), sum(part.frozen for part in parts)
    rows.append(("all", f"{whole[0]:,}", f"{whole[1]:,}", ""))
    return table("", ("component", "trains", "frozen", "norms"), rows, right=(1, 2))


class Watch:
    """Shows a training on a terminal; also the `Watcher` of `training.train`. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.means: dict[str, float] = {}
        self.bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self.task = self.bar.add_task("", total=None)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def begin(self, resolved: Resolved, trainable: Trainable, findings: Sequence[Finding]) -> None:
        """Before the first step of each stage."""
        out = self.bar.console
        if self.bar.live.is_started:
            out.print(f"from here on: {trainable.policy}")
        out.print(parts_table(trainable.parts))
        if self.bar.live.is_started:
            return
        print_findings(findings, to=out)
        for one in resolved.derived:
            value = f"{one.value:.4g}" if isinstance(one.value, float) else one.value
            out.print(f"{one.field} = {value}  ({one.why})", style="dim")
        for stage in resolved.stages:
            usual = f", where {resolved.usual_lr:.4g} is usual for the batch" if resolved.usual_lr else ""
            out.print(
                f"steps {stage.first + 1} to {stage.end}: {stage.policy} at lr {stage.lr:.4g}{usual}", style="dim"
            )
        self.bar.update(self.task, total=resolved.steps)
        self.bar.start()

    def step(self, number: int, entry: Mapping[str, Any]) -> None:
        """After each step."""
        values = {**entry["losses"], "total": entry["total"], "data": entry["data_s"], "step": entry["step_s"]}
        for name, value in values.items():
            self.means[name] = self.means.get(name, value) * _SMOOTHING + value * (1 - _SMOOTHING)
        losses = " ".join(f"{name} {self.means[name]:.3f}" for name in LOSSES)
        times = f"data {self.means['data']:.2f} s  step {self.means['step']:.2f} s"
        place = f"lr {entry['lr']:.2g}  {entry['memory_mb'] / 1024:.1f} GB"
        text = f"loss {self.means['total']:.3f} ({losses})  {times}  {place}"
        self.bar.update(self.task, completed=number, description=text)

    def evaluated(self, number: int, metrics: Metrics) -> None:
        """After each evaluation."""
        line = f"step {number}: box AP {percent(metrics.box['AP'])}, mask AP {percent(metrics.mask['AP'])}"
        self.bar.console.print(line)

    def found(self, number: int, findings: Sequence[Finding]) -> None:
        """What a doctor has found, above the bar."""
        print_findings([one for one in findings if one.severity != "info"], to=self.bar.console)

    def ended(self, metrics: Metrics | None) -> None:
        """At the end: the last evaluation in full."""
        self.bar.stop()
        for one in metrics_tables(metrics) if metrics else []:
            self.console.print(one)
