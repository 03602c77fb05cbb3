"""What a network knows of these classes before it learns, by what it answers at true boxes, and by its first losses."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean

from torch import Tensor

from maskgraft.ailments.weights import fresh_layers, is_fresh
from maskgraft.errors import Finding
from maskgraft.model import MaskRCNN
from maskgraft.pulse import Pulse
from maskgraft.spec import component

_BEGUN = 6  # true boxes that tell how a head began
_FEW = 12  # answers below which nothing is said
_ODDS, _SURE, _SEEN = 0.4, 0.35, 0.5  # right less often, surer, and with better masks: labels at odds
_OUTPUTS, _UNSAID = ("mask_predictor", "rpn.objectness"), 1.0  # logits that say nothing: 27 to 73 %
_ABSURD = 8.0  # times the first losses of random weights
_TAUGHT = "of training"
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


def drawn_parts(model: MaskRCNN) -> dict[str, list[str]]:
    """The layers of backbone and pyramid that are as an initialisation draws them, where nearly all of a part are."""
    return {part: layers for part in ("backbone", "fpn") if (layers := fresh_layers(model, part))}


def examine(
    model: MaskRCNN,
    pulses: Sequence[Pulse],
    losses: Mapping[str, float],
    *,
    drawn: Mapping[str, Sequence[str]] | None = None,
) -> list[Finding]:
    """Findings from the first pulses, and from the first losses (means over the same batches).

    `drawn` is what `drawn_parts` gave before a training that has moved them since.
    """
    answers = _together(pulses)
    count = sum(answers.values())
    classes, heads = model.spec.classes, known(model)
    found = exchanged(model, pulses, _TAUGHT, of=heads)
    if found or count < _FEW or len(heads) < len(classes):
        return found
    correct = sum(times for (label, best), times in answers.items() if label == best) / count
    undecided = math.log(len(classes) + 1)
    largest = {name: max(one.largest.get(name, 0.0) for one in pulses) for name in _OUTPUTS}
    if model.graft:
        found += _lost_parts(model, losses, largest, correct, drawn_parts(model) if drawn is None else drawn)
    unsure = _unsure(pulses)
    mask_iou = mean([one.mask_iou for one in pulses if one.mask_iou is not None] or [0.0])
    given = Counter[int]()
    for (_, best), times in answers.items():
        given[best] += times
    tells_apart = max(given.values()) < _MOSTLY * count  # what calls everything by one name knows nothing
    if not found and tells_apart and correct < _ODDS and unsure < _SURE and mask_iou > _SEEN and count >= 2 * _FEW:
        found.append(
            Finding(
                "train.labels",
                "warning",
                f"labels of training are at odds with what the network knows: at {count} true boxes it is right in "
                f"{100 * correct:.0f} %, though it is sure that objects are there ({100 * (1 - unsure):.0f} %) and "
                f"finds their masks (overlap {mask_iou:.2f}); no exchange of classes explains it",
                names=classes,
                evidence={"correct": round(correct, 4), "unsure": round(unsure, 4), "mask_iou": round(mask_iou, 4)},
                effect="the class head unlearns what it knew; labels without a rule cannot be learnt",
                fix="look at some images with their labels: `maskgraft data show`; were rows of a table mixed up?",
            )
        )
    begun = _unsure(_beginning(pulses))
    if losses.get("cls", 0) > 0.85 * undecided and abs(begun - 1 / (len(classes) + 1)) < 0.3 / (len(classes) + 1):
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


def _lost_parts(
    model: MaskRCNN,
    losses: Mapping[str, float],
    largest: Mapping[str, float],
    correct: float,
    drawn: Mapping[str, Sequence[str]],
) -> list[Finding]:
    """Parts that a file gave, and that answer or look as drawn at random; `largest` are their largest logits."""
    where = model.graft.path if model.graft else "a file"
    found = []
    for output, part, loss, what in (
        ("mask_predictor", "mask_head", "mask", "masks"),
        ("rpn.objectness", "rpn", "rpn_cls", "proposals"),
    ):
        undecided = abs(losses.get(loss, 0.0) - math.log(2)) < 0.03 * math.log(2)
        if undecided and largest.get(output, 0.0) < _UNSAID:
            found.append(
                Finding(
                    "train.head-random",
                    "warning",
                    f"the {part} came from {where}, and answers as if it knew nothing: the {loss} loss is "
                    f"{losses[loss]:.3f} where ln 2 = {math.log(2):.3f} is that of a random one",
                    names=(part,),
                    evidence={loss: round(losses[loss], 4), "random": round(math.log(2), 4)},
                    effect=f"{what} are learnt from nothing; if that was not meant, the file's own were lost before",
                    fix="maskgraft inspect says what the file holds",
                )
            )
    if correct >= 0.5:
        return found
    norms = [one for one in model.backbone.modules() if isinstance(getattr(one, "running_var", None), Tensor)]
    unset = [
        one for one in norms if not one.get_buffer("running_mean").any() and _is_one(one.get_buffer("running_var"))
    ]
    if norms and len(unset) == len(norms) and "backbone" not in drawn:
        found.append(
            Finding(
                "train.batchnorm",
                "error",
                f"all {len(norms)} norms of the backbone have the statistics that norms begin with (mean 0, variance "
                f"1), under weights that have been trained; {100 * correct:.0f} % of the true boxes are right",
                names=("backbone",),
                evidence={"norms": len(norms), "correct": round(correct, 4)},
                effect="every activation has the wrong scale: what the weights know cannot be seen",
                fix="load running_mean and running_var too; where they are lost, train_norms=true with large batches",
            )
        )
    for part, layers in drawn.items():
        found.append(
            Finding(
                "values.untrained",
                "warning",
                f"{len(layers)} layers of the {part}, first {layers[0]}, hold values as they are drawn at random, "
                f"where the heads above have learnt; {100 * correct:.0f} % of the true boxes are right",
                names=(part,),
                evidence={"layers": len(layers), "correct": round(correct, 4)},
                effect="what the heads know is of no use without the features that they learnt it on",
                fix="maskgraft inspect says what the file holds; from nothing, a training needs from_scratch=true",
            )
        )
    return found


def _is_one(values: Tensor) -> bool:
    return bool((values == 1).all())


def diverged(losses: Mapping[str, float], classes: int) -> list[Finding]:
    """First losses that no sound weights have, trained or not."""
    usual, total = 2 * math.log(2) + math.log(classes + 1) + 1, sum(losses.values())
    if total < _ABSURD * usual:
        return []
    return [
        Finding(
            "values.diverged",
            "error",
            f"the losses begin at {total:.3g}, where random weights begin at about {usual:.2g}",
            names=tuple(name for name, value in losses.items() if value > usual),
            evidence={name: float(f"{value:.4g}") for name, value in losses.items()},
            effect="the first steps throw the weights to infinity",
            fix="start from a checkpoint that was saved before its training diverged; are the weights those of this "
            "architecture?",
        )
    ]


def _unsure(pulses: Sequence[Pulse]) -> float:
    """The mean probability of background at true boxes."""
    return sum((one.unsure or 0) * one.truths for one in pulses) / max(1, sum(one.truths for one in pulses))


def _beginning(pulses: Sequence[Pulse]) -> Sequence[Pulse]:
    """The first pulses with enough true boxes: a head that starts from nothing calls all background a few steps later,
    so that later ones, of a training that goes on, say nothing of how it began."""
    seen = 0
    for number, one in enumerate(pulses, 1):
        seen += one.truths
        if seen >= _BEGUN:
            return pulses[:number]
    return pulses


def _together(pulses: Sequence[Pulse]) -> Counter[tuple[int, int]]:
    return sum((Counter(dict(one.answers)) for one in pulses), Counter[tuple[int, int]]())


def exchanged(model: MaskRCNN, pulses: Sequence[Pulse], whose: str, *, of: frozenset[int]) -> list[Finding]:
    """Labels `of` classes that the network knows, and answers consistently with another class."""
    classes = model.spec.classes
    answers = {pair: times for pair, times in _together(pulses).items() if pair[0] in of}
    given: dict[int, Counter[int]] = defaultdict(Counter)
    for (label, best), times in answers.items():
        given[label][best] += times
    asked = sum(sum(found.values()) for found in given.values())
    agreed = sum(found.most_common(1)[0][1] for found in given.values())
    clear = {
        label: found.most_common(1)[0][0]
        for label, found in given.items()
        if sum(found.values()) >= 3 and found.most_common(1)[0][1] >= _MOSTLY * sum(found.values())
    }
    moved = {label: best for label, best in clear.items() if best != label}
    right = sum(found[label] for label, found in given.items())
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
            effect="the class head unlearns what it knew, and learns names that are wrong"
            if whose == _TAUGHT
            else "right answers count as wrong: AP stays low, whatever is learnt",
            fix="compare category ids and names of the annotations with the classes of the checkpoint, one by one",
        )
    ]
