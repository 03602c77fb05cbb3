"""Which tensors of a TensorFlow checkpoint are the optimizer's and not the model's."""

from collections import Counter
from collections.abc import Iterable, Mapping

from maskgraft.errors import Finding
from maskgraft.files.tf_objects import SLOT, belongs_to_training

_AVERAGES = ("ExponentialMovingAverage", "average")
_POWERS = ("beta1_power", "beta2_power")


def slot_kinds(names: Iterable[str]) -> dict[str, str]:
    """The names that are no part of the model, each with what it is.

        slot_kinds(["conv/weights", "conv/weights/Momentum", "beta1_power"])
        # {"conv/weights/Momentum": "Momentum", "beta1_power": "optimizer"}

    TensorFlow names a slot after its variable, so a name below another tensor's name is a slot. TensorFlow 2 marks
    slots in the path, and keeps the rest of the optimizer and metrics under their own attributes.
    """
    known = set(names)
    kinds = {}
    for name in known:
        parent, _, last = name.rpartition("/")
        if parent in known or SLOT in name:
            kinds[name] = last
        elif belongs_to_training(name) or last.rstrip("_0123456789") in _POWERS:
            kinds[name] = "optimizer"
    return kinds


def slot_counts(kinds: Mapping[str, str]) -> dict[str, int]:
    """How many tensors there are of each kind, the most frequent first."""
    return dict(Counter(kinds.values()).most_common())


def averages(kinds: Mapping[str, str]) -> Finding | None:
    """What to know about moving-average copies of the weights; `None` when there are none."""
    names = tuple(sorted(name for name, kind in kinds.items() if kind in _AVERAGES))
    if not names:
        return None
    return Finding(
        "names.optimizer-slots",
        "info",
        f"{len(names):,} weights have a moving-average copy beside them (…/{names[0].rpartition('/')[2]})",
        names=names,
        evidence={"averages": len(names)},
        effect="TensorFlow evaluated and exported with the averages if its config says so; the plain weights are read",
    )
