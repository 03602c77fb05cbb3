"""Causes before their consequences."""

from collections.abc import Iterable

from maskgraft.errors import Finding, worst_first

_INPUT = ("train.pixel-scale", "numerics.channel-order", "numerics.norm-eps", "values.nan")
_ANNOTATED = (
    "train.labels",
    "train.boxes",
    "train.masks-empty",
    "train.masks-flipped",
    "train.masks-inverted",
    "data.box-format",
    "data.category-unknown",
)
_FROZEN = ("train.frozen-random", "train.nothing-trainable", "train.batchnorm")
_RATES = ("train.lr-high", "train.lr-low", "train.weight-decay", "train.loss-dominates", "train.held")
_FED = ("train.anchors-miss", "train.rpn-starved", "train.heads-starved", "train.input-small")

# What is a consequence, and of what: it is told after its cause, where that is found too.
_FOLLOWS: dict[str, tuple[str, ...]] = {
    "train.nan": ("values.diverged", *_INPUT, *_ANNOTATED, *_RATES, *_FROZEN, "train.outlier"),
    "train.diverging": (*_INPUT, *_ANNOTATED, *_RATES, *_FROZEN),
    "train.flat": (*_INPUT, *_ANNOTATED, *_RATES, *_FROZEN, *_FED, "train.head-random"),
    "train.dead": (*_INPUT, *_RATES, *_FROZEN, "train.nan"),
    "train.rpn-recall": ("values.diverged", *_INPUT, *_ANNOTATED, *_RATES, *_FROZEN, *_FED),
    "train.outlier": (*_INPUT, *_RATES),
    "train.head-random": (*_INPUT, "train.labels"),
    "values.diverged": (*_INPUT, *_ANNOTATED, "train.batchnorm", "values.untrained", "train.loss-dominates"),
    "train.unlabelled": (*_INPUT, *_ANNOTATED),
    "values.untrained": (*_INPUT, *_ANNOTATED),
    "train.forgetting": (*_INPUT, *_ANNOTATED, *_RATES, *_FROZEN, "train.nan", "train.dead"),
    "train.overfitting": ("data.leak", "train.lr-high"),
    "train.frozen-random": ("values.nan",),
    "train.pixel-scale": ("values.nan",),
    "train.lr-high": ("train.pixel-scale", "values.diverged"),
    "data.box-mask": ("train.boxes", "train.masks-empty"),
    "data.box-outside": ("train.boxes", "data.box-format"),
    "data.box-tiny": ("train.boxes", "data.box-format", "train.input-small"),
    "data.box-huge": ("train.boxes", "data.box-format"),
    "data.box-small": ("train.boxes", "train.input-small", "train.anchors-miss"),
    "data.class-empty": ("train.labels", "data.category-unknown"),
    "data.class-unlearnt": ("train.labels", "data.class-empty", "data.category-unknown"),
    "data.duplicate-image": ("data.leak",),
    "train.loader-slow": ("train.loader-stalled", "train.loader-died"),
}


def causes_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Worst first, what follows from another finding behind all causes; of the same finding the first stays."""
    once: dict[tuple[str, tuple[str, ...]], Finding] = {}
    for one in worst_first(findings):
        once.setdefault((one.code, one.names), one)
    told = {one.code for one in once.values() if one.severity != "info"}
    follows = [one for one in once.values() if _follows(one, told)]
    return (*(one for one in once.values() if one not in follows), *worst_first(follows))


def _follows(finding: Finding, told: set[str]) -> bool:
    return finding.severity != "info" and any(cause in told for cause in _FOLLOWS.get(finding.code, ()))
