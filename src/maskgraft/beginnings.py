"""What a recipe must be for random weights to converge: nothing frozen, clipped, and longer than usual."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# He et al. 2018, "Rethinking ImageNet pre-training", §4.1: from random weights COCO takes six times the usual schedule.
EPOCHS = 72
_LEAST_SEEN = 24_000  # images, however few there are: networks this young need thousands of steps all the same
_WARMUP, _CLIP = 500, 10.0
_OPTIMIZER, _LR = "adamw", 1e-3  # with a cosine; benchmarks/from_scratch.py measures it beside SGD's reference settings


@dataclass(frozen=True, slots=True)
class Needed:
    """A field that random weights ask for, and why."""

    field: str
    value: Any
    why: str


def needed(given: Mapping[str, Any], *, images: int, batch: int) -> list[Needed]:
    """What a recipe for random weights has where the user set nothing; `given` are the fields that were set."""
    least = -(-_LEAST_SEEN // images)
    epochs = max(EPOCHS, least)
    length = "6x the usual 12 (He et al. 2018)" if epochs == EPOCHS else f"{_LEAST_SEEN} images seen, from {images}"
    steps = given.get("steps") or given.get("epochs", epochs) * max(1, images // batch)
    warmup = max(1, min(_WARMUP, steps // 5))
    every = [
        Needed("policy", "all", "random weights must not be frozen"),
        Needed("epochs", epochs, length),
        Needed("warmup", warmup, f"random weights: {_WARMUP} steps, at most a fifth of all"),
        Needed("clip_norm", _CLIP, "random weights: early gradients are large"),
    ]
    if not {"optimizer", "lr"} & given.keys():
        every += [
            Needed("optimizer", _OPTIMIZER, "random weights: each weight finds a rate of its own"),
            Needed("lr", _LR, "for AdamW from random weights; 1e-4 is for weights that have learnt"),
            Needed("schedule", "cosine", "random weights: no step to place when nothing is known of the curve"),
        ]
    told = set(given) | ({"policy", "epochs", "warmup"} if given.get("stages") else set())
    told |= {"epochs"} if "steps" in given else set()
    return [one for one in every if one.field not in told]
