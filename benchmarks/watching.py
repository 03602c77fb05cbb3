"""What the doctor's watch costs a step of training: the same training with it and without, taking turns.

python -m benchmarks watching
"""

import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

import maskgraft as mg
from benchmarks import timing
from benchmarks.timing import Row
from maskgraft import shapes
from maskgraft.attending import EVERY

_SIDE, _STEPS = 192, 2 * EVERY
_BAR = 0.03


def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    """Seconds of the processor for a step, which other programs do not change, in the mean of a whole run.

    What happens once, the examination before the first step, is measured by itself. TensorFlow is not needed.
    """
    steps, rounds = (10, 1) if quick else (_STEPS, 5)
    spent: dict[Mode, list[float]] = {"off": [], "warn": []}
    losses: dict[Mode, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = mg.read_coco(shapes.draw(place / "data", images=16, seed=1, side=_SIDE), place / "data")
        torch.manual_seed(0)
        numerics = {"min_size": _SIDE, "max_size": _SIDE}
        mg.save(mg.MaskRCNN.from_scratch("resnet18", data.classes, numerics=numerics), place / "model")
        recipe = mg.Recipe(batch=2, workers=0, policy="all", steps=steps, evaluate_every=0, retention=0)
        orders: tuple[tuple[Mode, Mode], ...] = (("off", "warn"), ("warn", "off"))
        for number in range(rounds):
            for mode in orders[number % 2]:  # what drifts falls on both alike
                clock = _Clock()
                run = mg.train(
                    mg.load(place / "model"), data, recipe, out=place / f"{number} {mode}", watcher=clock, doctor=mode
                )
                spent[mode].append(clock.step_seconds)
                losses[mode] = run.losses
        begin = time.process_time()
        mg.doctor(mg.load(place / "model"), data, recipe)
        examination = time.process_time() - begin
    apart = [watched / alone - 1 for alone, watched in zip(spent["off"], spent["warn"], strict=True)]
    same = "losses are the same to the bit" if losses["off"] == losses["warn"] else "LOSSES DIFFER"
    row = Row(
        f"a step of training, of {steps}, ResNet-18, 2 images of {_SIDE} pixels",
        statistics.median(spent["warn"]),
        statistics.median(spent["off"]),
        "without the doctor",
        f"at most {100 * _BAR:g} % more",
        f"{100 * statistics.median(apart):+.1f} % in the median of {len(apart)} pairs; {same}",
    )
    more: dict[str, Any] = {"pairs": [round(one, 4) for one in apart], "examination_s": round(examination, 2)}
    timing.report("watching", [row], quick=quick, out=out, more=more)


Mode = Literal["off", "warn"]


class _Clock:
    """A watcher that reads the clock of the processor after each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    @property
    def step_seconds(self) -> float:
        """Of one step, in the mean of all but the first."""
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)

    def begin(self, *_: object) -> None: ...

    def examines(self, what: str) -> None: ...

    def step(self, number: int, entry: Mapping[str, Any]) -> None:
        self.times.append(time.process_time())

    def evaluated(self, *_: object) -> None: ...

    def found(self, *_: object) -> None: ...
