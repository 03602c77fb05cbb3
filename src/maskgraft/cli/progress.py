"""A training as people watch it: on a terminal a picture that stays in place, elsewhere a line now and then."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from maskgraft.cli.show import print_findings, table
from maskgraft.cli.sparklines import Course
from maskgraft.cli.tables import metrics_tables, percent
from maskgraft.errors import Finding
from maskgraft.evaluation import Metrics
from maskgraft.policy import Part, Trainable
from maskgraft.recipe import Resolved

_SMOOTHING = 0.9  # what is shown are running means over about ten steps
_LINES = 50  # that a training prints where nobody's terminal shows it
_PULSE = {"recall": "proposals meet", "correct": "class right", "mask_iou": "mask overlap"}


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
    """Shows a training; also the `Watcher` of `training.train`. Use as a context manager.

    On a terminal: losses, gradient, recall and AP as courses over all steps, with the time that is left; findings and
    evaluations stand above them as they come. Elsewhere, in a file or a log, some fifty plain lines.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.width = max(12, min(48, console.width - 42))
        self.courses: dict[str, Course] = {}
        self.means: dict[str, float] = {}
        self.shares: Mapping[str, float] = {}
        self.steps, self.done, self.first, self.began = 0, 0, 0, 0.0
        self.now = ""
        self.policy = ""
        shown = console.is_terminal and not console.is_dumb_terminal and not console.quiet
        self.live = Live(console=console, get_renderable=self._picture, refresh_per_second=4) if shown else None

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """The picture stays as it is, and nothing is drawn any more."""
        if self.live and self.live.is_started:
            self.live.stop()

    def begin(self, resolved: Resolved, trainable: Trainable, findings: Sequence[Finding]) -> None:
        """Before the first step of each stage."""
        out, again = self.console, bool(self.steps)
        self.policy, self.steps = trainable.policy, resolved.steps
        if again:
            out.print(f"from here on: {trainable.policy}")
        out.print(parts_table(trainable.parts))
        if again:
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
        if rates := resolved.recipe.rates:
            out.print(f"of that, {', '.join(f'{name} × {rate:g}' for name, rate in rates.items())}", style="dim")
        if self.live:
            self.live.start()

    def examines(self, what: str) -> None:
        """What the doctor looks at next: in the picture, or a line on standard error."""
        self.now = f"looking at {what}"
        if self.live is None or not self.live.is_started:
            examining(what, quiet=self.console.quiet)

    def step(self, number: int, entry: Mapping[str, Any]) -> None:
        """After each step."""
        if not self.began:
            self.began, self.first = time.monotonic(), number
        self.done, self.shares = number, entry.get("shares", {})
        self._follow("loss", entry["total"])
        for name, value in entry["losses"].items():
            self._follow(name, value)
        self._follow("gradient", entry.get("gradient"))
        for name, title in _PULSE.items():
            if (value := entry.get("pulse", {}).get(name)) is not None:
                self._follow(title, value)
        for name in ("data_s", "step_s"):
            self.means[name] = _mixed(self.means.get(name), entry[name])
        times = f"{self.means['step_s']:.2f} s a step and {self.means['data_s']:.2f} s waiting for images"
        memory = f", {entry['memory_mb'] / 1024:.1f} GB" if entry["memory_mb"] else ""
        self.now = f"{self.policy} at lr {entry['lr']:.3g}; {times}{memory}"
        if self.live is None and (number in (1, self.first, self.steps) or number % max(1, self.steps // _LINES) == 0):
            losses = " ".join(f"{name} {self.means[name]:.3f}" for name in entry["losses"])
            total = f"loss {self.means['loss']:.3f} ({losses})"
            self.console.print(f"step {number}/{self.steps}  {total}  {self.now}; {self._left()}", soft_wrap=True)

    def evaluated(self, number: int, metrics: Metrics) -> None:
        """After each evaluation."""
        for name, value in (("mask AP", metrics.mask["AP"]), ("mask recall", metrics.mask["AR100"])):
            self._follow(name, value)
        line = f"step {number}: box AP {percent(metrics.box['AP'])}, mask AP {percent(metrics.mask['AP'])}"
        self.console.print(line)

    def found(self, number: int, findings: Sequence[Finding]) -> None:
        """What a doctor has found, above the picture."""
        print_findings([one for one in findings if one.severity != "info"], to=self.console)

    def ended(self, metrics: Metrics | None) -> None:
        """At the end: the last evaluation in full."""
        self.stop()
        for one in metrics_tables(metrics) if metrics else []:
            self.console.print(one)

    def _follow(self, name: str, value: float | None) -> None:
        self.courses.setdefault(name, Course(self.width)).add(value)
        if value is not None:
            self.means[name] = _mixed(self.means.get(name), value)

    def _left(self) -> str:
        """The time that is left, from the steps that are done, evaluations and saves with them."""
        done = self.done - self.first
        if done < 1:
            return "time left not known yet"
        seconds = (time.monotonic() - self.began) / done * (self.steps - self.done)
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{rest:02} left" if minutes >= 60 else f"{minutes}:{rest:02} left"

    def _picture(self) -> RenderableType:
        plain = self.console.options.ascii_only
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=max(self.steps, 1), completed=self.done, width=24)
        head.add_row(Text(f"step {self.done}/{self.steps}", "bold"), bar, Text(self._left()))
        rows = Table.grid(padding=(0, 2))
        for _ in range(4):
            rows.add_column(no_wrap=True)
        for name, course in self.courses.items():
            if course.last is None:
                continue
            of_one = name.startswith("mask ") or name in _PULSE.values()
            value = f"{100 * course.last:.1f}" if of_one else f"{self.means[name]:.3g}"
            note = f"{100 * self.shares[name]:.0f} %" if name in self.shares else ""
            if name == "loss":
                note = f"{course.first:.3g} at first"
            rows.add_row(name, Text(course.line(log=not of_one, plain=plain), "cyan"), Text(value, "bold"), note)
        return Group(head, rows, Text(self.now, "dim", no_wrap=True, overflow="ellipsis"))


def examining(what: str, *, quiet: bool = False) -> None:
    """A line on standard error, which tells that something is done about a training that has not begun."""
    Console(stderr=True, highlight=False, markup=False, quiet=quiet, soft_wrap=True).print(
        f"looking at {what}", style="dim"
    )


def _mixed(before: float | None, value: float) -> float:
    return value if before is None else before * _SMOOTHING + value * (1 - _SMOOTHING)
