"""Settings of a recipe and of a model that undo each other, or the training."""

from collections.abc import Mapping, Sequence

from maskgraft.errors import Finding
from maskgraft.losses import LOSSES
from maskgraft.recipe import Recipe, Resolved
from maskgraft.spec import Spec

_UNEQUAL = 20.0  # times the weight of another loss
_HELD = 100.0  # times what is usual of a pull to the start, above which nothing moves


def examine(spec: Spec, resolved: Resolved, losses: Mapping[str, float]) -> list[Finding]:
    """Findings about loss weights, precision, the pull to the start, and how results are made."""
    recipe, numerics = resolved.recipe, spec.numerics
    found = [*_weights(resolved, losses), *_sided(spec.classes, recipe)]
    if recipe.precision == "fp16" and numerics.norm_eps < 1e-7 and spec.arch.norm in ("batch", "frozen"):
        found.append(
            Finding(
                "numerics.norm-eps",
                "error",
                f"norms have eps {numerics.norm_eps:g}, and precision is fp16, whose smallest number is 6e-8: "
                "variances "
                "below it become nought and are divided by",
                names=("precision", "norm_eps"),
                evidence={"norm_eps": numerics.norm_eps, "precision": recipe.precision},
                effect="NaN in the first steps",
                fix='precision="bf16", or float32',
            )
        )
    for name, value, usual in (("l2sp", recipe.l2sp, 0.01), ("distil", recipe.distil, 1.0)):
        if value > _HELD * usual:
            found.append(
                Finding(
                    "train.held",
                    "warning",
                    f"{name} is {value:g}: the pull to the start is far above that of the losses; {usual:g} is usual",
                    names=(name,),
                    evidence={name: value},
                    effect="the model stays what it was",
                    fix=f"{name}={usual:g}",
                )
            )
    if numerics.score_threshold > 0.6:
        found.append(
            Finding(
                "train.thresholds",
                "warning",
                f"score_threshold is {numerics.score_threshold:g}: evaluations count what scores more, and AP "
                "wants all "
                "detections; 0.05 is usual",
                names=("score_threshold",),
                evidence={"score_threshold": numerics.score_threshold},
                effect="AP is nought or far too low, whatever is learnt",
                fix="numerics={score_threshold = 0.05}",
            )
        )
    if not 0.2 <= numerics.nms_threshold <= 0.9:
        found.append(
            Finding(
                "train.thresholds",
                "warning",
                f"nms_threshold is {numerics.nms_threshold:g}; 0.5 is usual",
                names=("nms_threshold",),
                evidence={"nms_threshold": numerics.nms_threshold},
                effect="neighbours suppress each other, or every object is found many times",
                fix="numerics={nms_threshold = 0.5}",
            )
        )
    return found


def _sided(classes: Sequence[str], recipe: Recipe) -> list[Finding]:
    """Classes that are each other's mirror image, in images that are mirrored."""
    names = {name.lower() for name in classes}
    pairs = [name for name in classes if "left" in name.lower() and name.lower().replace("left", "right") in names]
    if not pairs or not recipe.flip:
        return []
    return [
        Finding(
            "train.flip",
            "warning",
            f"flip is {recipe.flip:g}, and {', '.join(pairs[:4])} {'has' if len(pairs) == 1 else 'have'} a right "
            "counterpart among the classes: a mirrored image shows the one under the name of the other",
            names=("flip",),
            evidence={"classes": pairs, "flip": recipe.flip},
            effect="left and right cannot be told apart",
            fix="flip=0",
        )
    ]


def _weights(resolved: Resolved, losses: Mapping[str, float]) -> list[Finding]:
    weights = {**dict.fromkeys(LOSSES, 1.0), **resolved.recipe.weights}
    none = [name for name in LOSSES if weights[name] == 0]
    found = []
    if none:
        found.append(
            Finding(
                "train.loss-off",
                "warning",
                f"loss_weights sets {', '.join(none)} to nought: these outputs are not trained",
                names=tuple(none),
                effect="they stay as they are while the features below them change; new rows stay random",
                fix="loss_weights={}, or policy= what is to train",
            )
        )
    counted = {name: weight for name, weight in weights.items() if weight > 0}
    if not counted:
        message = "loss_weights sets all five losses to nought"
        return [Finding("train.nothing-trainable", "error", message, ("loss_weights",), fix="loss_weights={}")]
    middle = sorted(counted.values())[len(counted) // 2]
    for name, weight in counted.items():
        if weight >= _UNEQUAL * middle:
            whole = sum(losses.get(one, 0.0) * weights[one] for one in LOSSES)
            share = losses.get(name, 0.0) * weight / whole if whole else 0.0
            found.append(
                Finding(
                    "train.loss-dominates",
                    "warning",
                    f"loss_weights {name} = {weight:g} is {weight / middle:.3g} times that of the others: it makes "
                    f"{100 * share:.0f} % of the sum at the start",
                    names=(name,),
                    evidence={"weight": weight, "others": middle, "share": round(share, 4)},
                    effect="the shared features serve this loss alone; the others stay where they are",
                    fix=f"loss_weights={{{name}=1}}, or balance=gradient-norm",
                )
            )
        elif weight <= middle / _UNEQUAL:
            found.append(
                Finding(
                    "train.loss-faint",
                    "warning",
                    f"loss_weights {name} = {weight:g} is a {middle / weight:.3g}th of the others'",
                    names=(name,),
                    evidence={"weight": weight, "others": middle},
                    effect="this output hardly learns",
                    fix=f"loss_weights={{{name}=1}}",
                )
            )
    return found
