"""Which tensors of a TensorFlow checkpoint are the optimizer's and not the model's."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from maskgraft.errors import CheckpointError, Finding
from maskgraft.files.tensors import LazyArray
from maskgraft.files.tf_objects import SLOT, belongs_to_training

_COUNTERS = ("global_step", "save_counter")
_AVERAGES = ("ExponentialMovingAverage", "average")
_POWERS = ("beta1_power", "beta2_power")


@dataclass(frozen=True, slots=True)
class Sorted:
    """A checkpoint's tensors, sorted: the model's, the training's, and what there is to say about the latter.

    `about` has the counters `global_step` and `save_counter` (`None` when their values are not there), and under
    "slots" how many tensors there are of each kind.
    """

    weights: Mapping[str, LazyArray]
    slots: Mapping[str, LazyArray]
    about: Mapping[str, Any]
    findings: tuple[Finding, ...]


def sort_out(arrays: Mapping[str, LazyArray]) -> Sorted:
    """Tell the model's tensors from the optimizer's, from moving averages and from counters."""
    about: dict[str, Any] = {name: _number(arrays[name]) for name in _COUNTERS if name in arrays}
    kinds = slot_kinds(name for name in arrays if name not in about)
    if kinds:
        about["slots"] = dict(Counter(kinds.values()).most_common())
    weights = {name: array for name, array in arrays.items() if name not in kinds and name not in about}
    return Sorted(weights, {name: arrays[name] for name in arrays if name in kinds}, about, _averages(kinds))


def _number(array: LazyArray) -> int | None:
    """The value of a counter, `None` when its data file is not there or it is no whole number."""
    if array.size != 1 or array.dtype.kind not in "iu":
        return None
    try:
        return int(array.read().reshape(()))
    except CheckpointError:
        return None


def slot_kinds(names: Iterable[str]) -> dict[str, str]:
    """The names that are no part of the model, each with what it is.

        slot_kinds(["conv/weights", "conv/weights/Momentum", "beta1_power"])
        # {"conv/weights/Momentum": "Momentum", "beta1_power": "optimizer"}

    TensorFlow names a slot after its variable, so a name below another tensor's name is a slot. TensorFlow 2 marks
    slots in the path, and keeps the rest of the optimizer and metrics under their own attributes.
    """
    known = dict.fromkeys(names)
    kinds = {}
    for name in known:
        parent, _, last = name.rpartition("/")
        if parent in known or SLOT in name:
            kinds[name] = last
        elif belongs_to_training(name) or last.rstrip("_0123456789") in _POWERS:
            kinds[name] = "optimizer"
    return kinds


def _averages(kinds: Mapping[str, str]) -> tuple[Finding, ...]:
    """What to know about moving-average copies of the weights, if there are any."""
    names = tuple(sorted(name for name, kind in kinds.items() if kind in _AVERAGES))
    if not names:
        return ()
    told = Finding(
        "names.optimizer-slots",
        "info",
        f"{len(names):,} weights have a moving-average copy beside them (…/{names[0].rpartition('/')[2]})",
        names=names,
        evidence={"averages": len(names)},
        effect="TensorFlow evaluated and exported with the averages if its config says so, else the plain weights",
    )
    return (told,)
