"""How a training goes, by its losses, its gradients, its times and its evaluations."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from maskgraft import clocks
from maskgraft.errors import Finding

Entries = Sequence[Mapping[str, Any]]

_WINDOW = 10
_EXPLODED, _BEYOND = 8.0, 1e6
_GROWN = 2.5  # times the least window: a loss that grows, and does not only tremble
_LN2 = math.log(2)
_FLAT = 0.03
_LONG = 120  # steps after which a loss that has not moved will not
_SHARE = 0.9
_OUTLIER = 8.0
_DISTURBED = 1.25  # times as long by the clock as a step computes
_WORSE, _WORSE_SHARE = 0.03, 0.15  # AP below the best that is more than chance


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a run beside its log: number of `classes`, the rate that is `usual`, the weights of losses."""

    classes: int
    usual: float | None
    weights: Mapping[str, float]


def judge(entries: Entries, timings: Entries, facts: Facts) -> list[Finding]:
    """Findings from the lines of steps so far, and their times."""
    return [
        *_growing(entries, facts),
        *_flat(entries, facts),
        *_dominated(entries, facts),
        *_slow(timings),
    ]


def _windows(values: Sequence[float]) -> list[float]:
    return [median(values[start : start + _WINDOW]) for start in range(0, len(values) - _WINDOW + 1, _WINDOW)]


def _growing(entries: Entries, facts: Facts) -> Iterator[Finding]:
    totals = [entry["total"] for entry in entries]
    windows = _windows(totals)
    if len(windows) < 2:
        return
    least, last = min(windows), median(totals[-_WINDOW:])
    if last < _GROWN * least or last < 1.3 * windows[0]:
        return
    lr, usual = entries[-1]["lr"], facts.usual
    beside = f" ({lr / usual:.3g} times what is usual)" if usual else ""
    yield Finding(
        "train.lr-high",
        "error",
        f"the losses grow: from {least:.3g} to {last:.3g} (medians of {_WINDOW} steps) at step {entries[-1]['step']}, "
        f"with lr {lr:g}{beside}",
        names=("lr",),
        evidence={"least": round(least, 4), "now": round(last, 4), "lr": lr, "usual": usual},
        effect="each step throws the weights further; NaN comes next",
        fix=f"lr={min(lr / 10, usual or math.inf):.3g}, clip_norm=10",
    )


def exploding(entries: Entries, facts: Facts) -> Finding | None:
    """Losses that have left all measure: two in a row far above all before, or one beyond what data can do."""
    totals = [entry["total"] for entry in entries]
    if len(totals) < 3:
        return None
    before = totals[:-2]
    far = min(totals[-2:]) > _EXPLODED * median(before) and min(totals[-2:]) > 3 * max(before)
    if not far and totals[-1] < _BEYOND * median(totals[:-1]):
        return None
    lr = entries[-1]["lr"]
    beside = f" ({lr / facts.usual:.3g} times what is usual)" if facts.usual else ""
    return Finding(
        "train.lr-high",
        "error",
        f"the losses explode: from {median(before):.3g} to {totals[-2]:.3g} and {totals[-1]:.3g} at step "
        f"{entries[-1]['step']}, with lr {lr:.3g}{beside}",
        names=("lr",),
        evidence={"before": round(median(before), 4), "now": round(totals[-1], 4), "lr": lr, "usual": facts.usual},
        effect="each step throws the weights further; NaN comes next",
        fix=f"lr={min(lr / 10, facts.usual or math.inf):.3g}, clip_norm=10",
    )


def _flat(entries: Entries, facts: Facts) -> Iterator[Finding]:
    fastest = max((entry["lr"] for entry in entries), default=0.0)
    entries = [entry for entry in entries if entry["lr"] >= 0.5 * fastest]  # a warm-up is no standstill
    if len(entries) < _LONG:
        return
    part = len(entries) // 4
    first, last = entries[:part], entries[-part:]
    before, after = (median([one["total"] for one in some]) for some in (first, last))
    undecided = math.log(facts.classes + 1)
    lost = {name: median([one["losses"][name] for one in last]) for name in last[-1]["losses"]}
    begun = {name: median([one["losses"][name] for one in first]) for name in last[-1]["losses"]}
    knows_nothing = lost.get("mask", 0.0) > 0.93 * _LN2 and lost.get("rpn_cls", 0.0) > 0.5 * _LN2
    if abs(after - before) < _FLAT * before and knows_nothing:
        lr = max(entry["lr"] for entry in entries)
        low = facts.usual is not None and lr < facts.usual / 20
        yield Finding(
            "train.lr-low" if low else "train.flat",
            "warning",
            f"nothing is learnt: the losses stand at {after:.3g} since the start ({before:.3g}), mask at "
            f"{lost['mask']:.3f} where ln 2 is that of an untrained one, after {len(entries)} steps at lr {lr:g}",
            names=("lr",),
            evidence={"before": round(before, 4), "now": round(after, 4), "undecided": round(undecided, 4), "lr": lr},
            effect="more steps will not change it",
            fix=f"lr={facts.usual:g}"
            if low
            else "maskgraft doctor with data, weights and recipe says what else it may be",
        )
    elif (
        0.97 * _LN2 < lost.get("mask", 0.0) < 1.03 * _LN2
        and lost["cls"] < 0.7 * begun["cls"]
        and begun["mask"] < 1.1 * _LN2
    ):
        yield Finding(
            "train.flat",
            "info",
            f"the mask loss still stands at {lost['mask']:.3f} after {len(entries)} steps, where ln 2 = "
            f"{_LN2:.3f} is that "
            f"of an untrained mask head; the class loss fell from {begun['cls']:.3g} to {lost['cls']:.3g}",
            names=("mask",),
            evidence={"mask": round(lost["mask"], 4), "cls": round(lost["cls"], 4)},
            effect="masks are not learnt yet",
            fix="does the mask head train, and do the instances have masks? `maskgraft data show`",
        )


def _dominated(entries: Entries, facts: Facts) -> Iterator[Finding]:
    if len(entries) < 30:
        return
    last = entries[-30:]
    for name in last[-1]["shares"]:
        share = median([one["shares"].get(name, 0.0) for one in last])
        if share > _SHARE:
            weight = facts.weights.get(name, 1.0)
            pulls = [entry["gradients"] for entry in entries if "gradients" in entry]
            yield Finding(
                "train.loss-dominates",
                "warning" if weight > 1 else "info",
                f"{name} makes {100 * share:.0f} % of the loss over the last 30 steps, with a weight of {weight:g}",
                names=(name,),
                evidence={"share": round(share, 4), "weight": weight, "gradients": pulls[-1] if pulls else None},
                effect="the shared features serve this loss alone",
                fix=f"loss_weights={{{name}=1}}" if weight > 1 else "balance=gradient-norm",
            )


def _slow(timings: Entries) -> Iterator[Finding]:
    if len(timings) < 15:
        return
    recent = timings[-100:]
    data, step = map(median, zip(*(clocks.undisturbed(*clocks.of_entry(one)) for one in recent), strict=True))
    if data > 1.5 * step and data > 0.1:
        clock = {name: round(median([one[name] for one in recent]), 4) for name in ("data_s", "step_s")}
        disturbed = clock["step_s"] > _DISTURBED * step
        beside = f" (by the clock {clock['data_s']:.2f} and {clock['step_s']:.2f} s: other programs are at work)"
        yield Finding(
            "train.loader-slow",
            "warning",
            f"half of the batches take {data:.2f} s to come and {step:.2f} s to learn from: the network waits "
            f"{100 * data / (data + step):.0f} % of the time{beside if disturbed else ''}",
            names=("workers",),
            evidence={**clock, "data_undisturbed_s": round(data, 4), "step_undisturbed_s": round(step, 4)},
            effect="the training takes as long as the loading of images",
            fix="more workers, smaller images on disk, or a faster disk",
        )


def outlier(entry: Mapping[str, Any], earlier: Entries, images: Sequence[int]) -> Finding | None:
    """A step whose loss is far from all others."""
    recent = [one["total"] for one in earlier[-30:]]
    if len(recent) < 10 or entry["total"] < _OUTLIER * median(recent) or entry["total"] < 2 * max(recent):
        return None
    worst = max(entry["losses"], key=lambda name: entry["losses"][name])
    return Finding(
        "train.outlier",
        "warning",
        f"step {entry['step']}: the loss is {entry['total']:.3g}, and {median(recent):.3g} in the steps before "
        "(most of it "
        f"{worst}) on images {', '.join(map(str, images))}",
        names=tuple(map(str, images)),
        evidence={"loss": round(entry["total"], 4), "before": round(median(recent), 4), "of": worst},
        effect="one such step moves the weights as far as ten others",
        fix="look at the annotations of these images; clip_norm=10 holds such steps back",
    )


def evaluations(found: Sequence[tuple[int, float]], metric: str) -> Iterator[Finding]:
    """Findings from the metric of each evaluation (step, value)."""
    if len(found) < 3:
        return
    step, best = max(found, key=lambda one: one[1])
    later = [value for at, value in found if at > step]
    if len(later) >= 2 and all(best - value > max(_WORSE, _WORSE_SHARE * best) for value in later[-2:]):
        yield Finding(
            "train.overfitting",
            "warning",
            f"{metric} was best at step {step} with {best:.3f}, and was {later[-1]:.3f} at step {found[-1][0]}, after "
            f"{len(later)} more evaluations",
            names=(metric,),
            evidence={"best": round(best, 4), "best_step": step, "last": round(later[-1], 4)},
            effect="the network learns its training images by heart; best/ holds what it was before",
            fix="take best/; train shorter, augment more (scale_jitter, photometric, copy_paste), freeze more "
            "(policy=heads)",
        )


def ending(entries: Entries) -> Iterator[Finding]:
    """Whether the losses still fall at the end."""
    if len(entries) < 60:
        return
    third = entries[-len(entries) // 3 :]
    half = len(third) // 2
    before, after = (median([one["total"] for one in some]) for some in (third[:half], third[half:]))
    falls = (before - after) / before if before else 0.0
    text = (
        "the losses still fall"
        if falls > 0.05
        else "the losses have come to rest"
        if falls > -0.05
        else "the losses rise"
    )
    yield Finding(
        "train.course",
        "info",
        f"{text}: from {before:.3g} to {after:.3g} over the last {len(third)} of {entries[-1]['step']} steps",
        evidence={"before": round(before, 4), "after": round(after, 4)},
        fix="train longer: --resume with more epochs" if falls > 0.05 else "",
    )
