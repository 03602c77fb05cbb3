"""What a recipe must be for weights that have not learnt: all of them random, or all but an ImageNet backbone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# He et al. 2018, "Rethinking ImageNet pre-training", §4.1: from random weights COCO takes six times the usual schedule.
EPOCHS = 72
_BACKBONE_EPOCHS = 36  # Detectron2's 3x schedule, from an ImageNet backbone
# images, however few there are: networks this young need thousands of steps all the same
_LEAST_SEEN, _BACKBONE_LEAST_SEEN = 24_000, 12_000
_WARMUP, _CLIP = 500, 10.0
_OPTIMIZER, _LR = "adamw", 1e-3  # with a cosine; benchmarks/from_scratch.py measures it beside SGD's reference settings


@dataclass(frozen=True, slots=True)
class Needed:
    """A field that young weights ask for, and why."""

    field: str
    value: Any
    why: str


def needed(given: Mapping[str, Any], *, images: int, batch: int, batch_norms: bool = False) -> list[Needed]:
    """What a recipe for random weights has where the user set nothing; `given` are the fields that were set.

    `batch_norms`: the model has norms that must gather statistics.
    """
    every = [
        Needed("policy", "all", "random weights must not be frozen"),
        *_length(given, images, batch, (EPOCHS, _LEAST_SEEN), "6x the usual 12 (He et al. 2018)", "random weights"),
        Needed("clip_norm", _CLIP, "random weights: early gradients are large"),
    ]
    if batch_norms:
        every.append(Needed("train_norms", True, "batch norms of random weights have no statistics yet"))
    if not {"optimizer", "lr"} & given.keys():
        every += [
            Needed("optimizer", _OPTIMIZER, "random weights: each weight finds a rate of its own"),
            Needed("lr", _LR, "for AdamW from random weights; 1e-4 is for weights that have learnt"),
            Needed("schedule", "cosine", "random weights: no step to place when nothing is known of the curve"),
        ]
    return _unset(every, given)


def needed_above_backbone(given: Mapping[str, Any], *, images: int, batch: int) -> list[Needed]:
    """The same for a model of which only the backbone has learnt, from ImageNet, as Detectron2's models begin."""
    length = (_BACKBONE_EPOCHS, _BACKBONE_LEAST_SEEN)
    every = [
        Needed("policy", "3+", "stem and C2 of an ImageNet backbone stay (Detectron2's FREEZE_AT 2)"),
        *_length(given, images, batch, length, "Detectron2's 3x schedule", "random heads"),
        Needed("clip_norm", _CLIP, "random heads: early gradients are large"),
    ]
    return _unset(every, given)


def _length(
    given: Mapping[str, Any], images: int, batch: int, usual: tuple[int, int], why: str, whose: str
) -> list[Needed]:
    """Epochs and warm-up."""
    epochs = max(usual[0], -(-usual[1] // images))
    told = why if epochs == usual[0] else f"{usual[1]} images seen, from {images}"
    steps = given.get("steps") or given.get("epochs", epochs) * max(1, images // batch)
    warmup = max(1, min(_WARMUP, steps // 5))
    return [
        Needed("epochs", epochs, told),
        Needed("warmup", warmup, f"{whose}: {_WARMUP} steps, at most a fifth of all"),
    ]


def _unset(every: list[Needed], given: Mapping[str, Any]) -> list[Needed]:
    told = set(given) | ({"policy", "epochs", "warmup"} if given.get("stages") else set())
    told |= {"epochs"} if "steps" in given else set()
    return [one for one in every if one.field not in told]
