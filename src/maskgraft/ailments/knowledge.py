"""What a network knows of these classes before it learns, by what it answers at true boxes, and by its first losses."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from maskgraft.ailments.weights import is_fresh
from maskgraft.errors import Finding
from maskgraft.model import MaskRCNN
from maskgraft.pulse import Pulse
from maskgraft.spec import component

_FEW = 12  # answers below which nothing is said
_MOSTLY = 0.6  # share of the answers that agree with another order of the classes


def known(model: MaskRCNN) -> frozenset[int]:
    """The labels whose rows came from a file, or have been trained since the model was made."""
    if model.graft is None:  # it may have been trained in this process
        return (
            frozenset()
            if is_fresh(model.box_predictor.cls.weight.detach())
            else frozenset(range(len(model.spec.classes)))
        )
    return frozenset(index for index, row in enumerate(model.graft.rows) if row.source is not None)


def trained(model: MaskRCNN) -> tuple[str, ...]:
    """The losses that say what a model knows: those of the parts that came from a file whole."""
    if model.graft is None:
        return ()
    moved = {component(name) for name in model.graft.moved}
    rows = len(known(model)) == len(model.spec.classes)
    heads = ("cls", "box", "mask") if rows and {"box_predictor", "mask_predictor"} <= moved else ()
    return (*(("rpn_cls", "rpn_box") if "rpn" in moved else ()), *heads)


def examine(model: MaskRCNN, pulses: Sequence[Pulse], losses: Mapping[str, float]) -> list[Finding]:
    """Findings from the first pulses, and from the first losses (means over the same batches)."""
    answers = _together(pulses)
    count = sum(answers.values())
    classes, heads = model.spec.classes, known(model)
    found = exchanged(model, pulses, "of training")
    if found or count < _FEW or len(heads) < len(classes):
        return found
    correct = sum(times for (label, best), times in answers.items() if label == best) / count
    undecided = math.log(len(classes) + 1)
    unsure = sum((one.unsure or 0) * one.truths for one in pulses) / max(1, sum(one.truths for one in pulses))
    if losses.get("cls", 0) > 0.85 * undecided and abs(unsure - 1 / (len(classes) + 1)) < 0.3 / (len(classes) + 1):
        found.append(
            Finding(
                "train.head-random",
                "warning",
                f"the class head came from {model.graft.path if model.graft else 'a file'}, and answers as if it knew "
                f"nothing: loss {losses['cls']:.2f} where ln {len(classes) + 1} = {undecided:.2f} is that of a random "
                f"one, and {100 * correct:.0f} % of the true boxes right",
                names=("box_predictor",),
                evidence={"cls": round(losses["cls"], 4), "random": round(undecided, 4), "correct": round(correct, 4)},
                effect="the head starts from nothing; if that was not meant, the file's own head was lost before",
                fix="maskgraft inspect says what the file holds",
            )
        )
    return found


def _together(pulses: Sequence[Pulse]) -> Counter[tuple[int, int]]:
    return sum((Counter(dict(one.answers)) for one in pulses), Counter[tuple[int, int]]())


def exchanged(model: MaskRCNN, pulses: Sequence[Pulse], whose: str) -> list[Finding]:
    """Labels that the network knows, and answers consistently with another class."""
    classes, heads = model.spec.classes, known(model)
    answers = {pair: times for pair, times in _together(pulses).items() if pair[0] in heads}
    of: dict[int, Counter[int]] = defaultdict(Counter)
    for (label, best), times in answers.items():
        of[label][best] += times
    asked = sum(sum(found.values()) for found in of.values())
    agreed = sum(found.most_common(1)[0][1] for found in of.values())
    clear = {
        label: found.most_common(1)[0][0]
        for label, found in of.items()
        if sum(found.values()) >= 3 and found.most_common(1)[0][1] >= _MOSTLY * sum(found.values())
    }
    moved = {label: best for label, best in clear.items() if best != label}
    right = sum(found[label] for label, found in of.items())
    if (
        asked < _FEW
        or len(set(moved.values())) < len(moved)
        or len(moved) < max(2, 0.5 * len(clear))
        or agreed < _MOSTLY * asked
        or right > 0.35 * asked
    ):
        return []
    by = {(best - label) for label, best in moved.items()}
    shift = f", all by {by.pop():+d}" if len(by) == 1 else ""
    pairs = ", ".join(f"{classes[label]} is answered as {classes[best]}" for label, best in list(moved.items())[:5])
    return [
        Finding(
            "train.labels",
            "error",
            f"labels {whose} are exchanged{shift}: at the true boxes the network is right in "
            f"{100 * right / asked:.0f} %, and agrees with another order of the classes in "
            f"{100 * agreed / asked:.0f} % ({pairs})",
            names=tuple(classes[label] for label in moved),
            evidence={classes[label]: classes[best] for label, best in moved.items()} | {"boxes": asked},
            effect="the class head unlearns what it knew, and learns names that are wrong",
            fix="compare category ids and names of the annotations with the classes of the checkpoint, one by one",
        )
    ]
