"""A made-up training as a watcher is told of it: `python -m tests.watched_run STEPS SECONDS`."""

import math
import sys
import time
from typing import Any

from maskgraft.cli.progress import Watch
from maskgraft.cli.show import console
from maskgraft.errors import Finding
from maskgraft.evaluation import SUMMARY, Metrics
from maskgraft.policy import Part, Trainable
from maskgraft.recipe import Recipe, resolve


def entry(step: int) -> dict[str, Any]:
    """The lines of one step, whose losses fall by half every forty steps."""
    starts = {"rpn_cls": 0.7, "rpn_box": 0.05, "cls": 1.4, "box": 0.3, "mask": 0.69}
    losses = {name: value * math.exp2(-step / 40) for name, value in starts.items()}
    total = sum(losses.values())
    shares = {name: value / total for name, value in losses.items()}
    found = {"step": step, "epoch": 0, "lr": 0.0025, "total": total, "losses": losses, "shares": shares}
    pulse = {"pulse": {"recall": min(0.2 + step / 100, 0.9)}} if step % 10 == 0 else {}
    return {**found, "gradient": 2.5, "data_s": 0.01, "step_s": 0.2, "memory_mb": 2048, **pulse}


def told(watch: Watch, steps: int, seconds: float) -> None:
    """Tell a watch of a whole training."""
    resolved = resolve(Recipe(steps=steps, batch=2), images=100)
    trainable = Trainable("heads", frozenset(), (Part("rpn", 1000, 0, "–"),))
    watch.begin(resolved, trainable, ())
    for step in range(1, steps + 1):
        watch.step(step, entry(step))
        if step == steps // 2:
            watch.found(step, (Finding("train.lr-low", "warning", "the loss falls too slowly", fix="--lr 0.01"),))
            scores = dict.fromkeys(SUMMARY, 0.361)
            watch.evaluated(step, Metrics(scores, scores, {}, 4))
        time.sleep(seconds / steps)
    watch.ended(None)


if __name__ == "__main__":
    with Watch(console()) as watch:
        told(watch, int(sys.argv[1]), float(sys.argv[2]))
