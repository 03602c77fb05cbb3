"""Seconds by the clock, and those of them in which a thread computed: what other programs take away shows between."""

import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Seconds:
    """Seconds by the clock, and of the processor in the thread that asks. Of two readings the difference counts."""

    clock: float
    busy: float

    @staticmethod
    def now() -> "Seconds":
        """A reading of both."""
        return Seconds(time.perf_counter(), time.thread_time())

    def since(self, earlier: "Seconds") -> "Seconds":
        """What went by after an earlier reading."""
        return Seconds(self.clock - earlier.clock, self.busy - earlier.busy)

    def times(self, factor: float) -> "Seconds":
        """So many times as long."""
        return Seconds(factor * self.clock, factor * self.busy)


def undisturbed(data: Seconds, step: Seconds) -> tuple[float, float]:
    """About how long a batch and a step would take on this machine if it had nothing else to do.

    A step on the processor never waits, so that its time by the clock over its time of the processor is how much
    other programs slow this one down. Loading is as much slower where it computes; where it waits for a disk it is not.
    """
    slower = max(1.0, step.clock / step.busy) if step.busy > 0 else 1.0
    return data.busy + max(0.0, data.clock - slower * data.busy), step.clock / slower


def entry(data: Seconds, step: Seconds, device: str) -> dict[str, float]:
    """Batch and step as timing.jsonl has them; times of the processor say something of a training there alone."""
    told = {"data_s": data.clock, "step_s": step.clock}
    if device == "cpu":
        told |= {"data_busy_s": data.busy, "step_busy_s": step.busy}
    return {name: round(value, 4) for name, value in told.items()}


def of_entry(entry: Mapping[str, float]) -> tuple[Seconds, Seconds]:
    """Batch and step of a line of timing.jsonl; without times of the processor (on a GPU) nothing disturbs them."""
    data, step = entry["data_s"], entry["step_s"]
    return Seconds(data, entry.get("data_busy_s", 0.0)), Seconds(step, entry.get("step_busy_s", step))
