"""What the doctor's watch costs a step of training: the time inside it, and the same training without it.

python -m benchmarks watching
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import maskgraft as mg
from benchmarks import timing
from benchmarks.timing import Row
from maskgraft import shapes
from maskgraft.attending import EVERY, Attendant
from maskgraft.evaluation import Metrics
from maskgraft.policy import Trainable
from maskgraft.recipe import Resolved
from maskgraft.watching import Moment, Verdict

_SIDE, _STEPS = 128, 2 * EVERY
_BAR = 0.03


def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    """Seconds of the processor, which other programs do not change much, in the mean over the steps of whole runs.

    What happens once, the examination before the first step, is measured by itself. TensorFlow is not needed.
    """
    steps, rounds = (12, 1) if quick else (_STEPS, 2)
    alone, watched, inside, same = list[float](), list[float](), list[float](), True
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = mg.read_coco(shapes.draw(place / "data", images=16, seed=1, side=_SIDE), place / "data")
        torch.manual_seed(0)
        numerics = {"min_size": _SIDE, "max_size": _SIDE}
        mg.save(mg.MaskRCNN.from_scratch("small", data.classes, numerics=numerics), place / "model")
        recipe = mg.Recipe(batch=2, workers=0, policy="all", steps=steps, evaluate_every=0, retention=0)
        for number in range(rounds):
            off, on, doctor = _Clock(), _Clock(), _Clocked(Attendant(data))
            model = place / "model"
            one = mg.train(mg.load(model), data, recipe, out=place / f"{number} off", watcher=off)
            two = mg.train(mg.load(model), data, recipe, out=place / f"{number} on", watcher=on, doctor=doctor)
            same &= one.losses == two.losses
            alone.append(off.step_seconds)
            watched.append(on.step_seconds)
            inside.append(doctor.spent / steps / (on.step_seconds - doctor.spent / steps))
    share, apart = statistics.median(inside), statistics.median(watched) / statistics.median(alone) - 1
    row = Row(
        f"a step of training, of {steps}, 2 images of {_SIDE} pixels, the doctor looking on",
        statistics.median(watched),
        statistics.median(alone),
        "without the doctor",
        f"at most {100 * _BAR:g} % more",
        f"{100 * share:.1f} % of a step are spent inside the doctor, {100 * apart:+.1f} % between the two runs; losses "
        f"{'are the same to the bit' if same else 'DIFFER'}",
    )
    more: dict[str, Any] = {
        "inside": [round(one, 4) for one in inside],
        "examination_s": round(doctor.examination, 2),
    }
    timing.report("watching", [row], quick=quick, out=out, more=more)


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


class _Clocked:
    """A doctor, and the seconds that it spent: in its examination, and in all that it did while the training went."""

    def __init__(self, doctor: Attendant) -> None:
        self.doctor, self.spent, self.examination = doctor, 0.0, 0.0

    def begin(
        self, model: mg.MaskRCNN, resolved: Resolved, trainable: Trainable, earlier: Sequence[Mapping[str, Any]]
    ) -> Verdict | None:
        start = time.process_time()
        verdict = self.doctor.begin(model, resolved, trainable, earlier)
        self.examination = time.process_time() - start
        return verdict

    def unlearnable(self, fault: mg.Finding) -> Verdict | None:
        return self._timed(lambda: self.doctor.unlearnable(fault))

    def before_backward(self, moment: Moment) -> Verdict | None:
        return self._timed(lambda: self.doctor.before_backward(moment))

    def before_update(self, moment: Moment) -> Verdict | None:
        return self._timed(lambda: self.doctor.before_update(moment))

    def step(self, number: int, entry: Mapping[str, Any]) -> Verdict | None:
        return self._timed(lambda: self.doctor.step(number, entry))

    def evaluated(self, step: int, metrics: Metrics) -> Verdict | None:
        return self._timed(lambda: self.doctor.evaluated(step, metrics))

    def _timed(self, ask: Callable[[], Verdict | None]) -> Verdict | None:
        start = time.process_time()
        verdict = ask()
        self.spent += time.process_time() - start
        return verdict
