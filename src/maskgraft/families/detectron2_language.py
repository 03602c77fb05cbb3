"""`Language`: one of the two in which the settings of Detectron2 are written, and how values of both read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maskgraft.families.detectron_maths import quad
from maskgraft.families.family import Config
from maskgraft.spec import Arch

Required = tuple[tuple[str, tuple[Any, ...]], ...]  # keys, and the values that can be obeyed


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """Under which keys a config says what; keys are dotted.

    `settings`: field of `Numerics`, key, and how its value reads. `defaults` are the settings that Detectron2 takes
    where a config that builds a model with the neck of the `Arch` is silent, and none for a fragment of one.
    `required_of` are by neck. `called` are what a key may build. `pooling` are two keys each, for masks and for boxes,
    that have to say the same. `of_training` are the usual values of settings that a training does not take up, and
    `box_losses` keys of losses by the field that holds those that it does. `loss_weights` makes the five of `Numerics`
    of the values under `weighing`, 1 where there is none.
    """

    settings: tuple[tuple[str, str, Callable[[Any], Any]], ...]
    defaults: Callable[[Config, Arch], Mapping[str, Any]]
    anchor_sizes: str
    anchor_ratios: str
    classes: str
    required: Required
    required_of: Mapping[str, Required]
    called: tuple[tuple[str, tuple[str, ...]], ...] = ()
    pooling: tuple[tuple[str, str], ...]
    of_training: tuple[tuple[str, Any], ...]
    box_losses: tuple[tuple[str, str], ...]
    weighing: tuple[str, ...]
    loss_weights: Callable[[Sequence[Any]], tuple[float, ...]]


def levels(value: Any) -> list[tuple[float, ...]]:
    """Sizes or ratios of anchors, a list for each level; one for all of them may stand alone, and without its list."""
    return [quad(level) for level in value] if isinstance(value[0], list | tuple) else [quad(value)]


def box_loss(kind: str) -> str:
    """A loss of boxes; distance and complete IoU, which are not taken up, are told."""
    return "giou" if kind == "giou" else "smooth-l1"
