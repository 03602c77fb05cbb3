"""What the pulse of a network in training says: recall of proposals, positives, dead units, updates."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from maskgraft.errors import Finding

_DEAD = 0.97
_LATE = 150  # steps after which proposals should meet something
_BLIND = 0.25
_STILL, _WILD = 2e-7, 0.1  # of a component's norm in one step


def judge(pulses: Sequence[Mapping[str, Any]], *, lr: float, usual: float | None) -> list[Finding]:
    """Findings from the pulses so far, each as `Pulse.as_json` with "step", "rate" (of lr now by its full value) and
    perhaps "updates"."""
    return [*_blind(pulses), *_dead(pulses), *_updates(pulses, lr, usual)]


def _blind(pulses: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    late = [one for one in pulses if one["step"] >= _LATE and one["recall"] is not None]
    if len(late) < 2 or any(one["truths"] == 0 for one in late[-2:]):
        return
    now = mean(one["recall"] for one in late[-2:])
    earlier = [one["recall"] for one in pulses if one["recall"] is not None][:2]
    if now < _BLIND and now < mean(earlier) + 0.1:
        last = late[-1]
        yield Finding(
            "train.rpn-recall",
            "warning",
            f"proposals meet {100 * now:.0f} % of the objects by half at step {last['step']}, and met "
            f"{100 * mean(earlier):.0f} % at the start: {last['proposals']:.0f} proposals and "
            f"{last['positives']:.1f} positive "
            "anchors an image",
            names=("rpn",),
            evidence={name: last[name] for name in ("recall", "anchored", "positives", "negatives", "proposals")},
            effect="what is not proposed is never found, whatever the heads learn",
            fix="does the rpn train (policy), at a rate that moves it? do anchors meet the boxes (`maskgraft data "
            "anchors`)?",
        )


def _dead(pulses: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    if len(pulses) < 2:
        return
    first, last = pulses[0], pulses[-1]
    for name, share in last["dead"].items():
        if share >= _DEAD and first["dead"].get(name, 0.0) < 0.8:
            yield Finding(
                "train.dead",
                "error" if share == 1 else "warning",
                f"{100 * share:.0f} % of the channels of {name} are nought everywhere at step {last['step']}, and "
                f"{100 * first['dead'].get(name, 0.0):.0f} % were at step {first['step']}",
                names=(name,),
                evidence={"now": share, "before": first["dead"].get(name)},
                effect="nothing passes, and no gradient comes back: this part cannot learn any more",
                fix="start again from the last good weights with a tenth of the lr, a longer warmup and clip_norm=10",
            )


def _updates(pulses: Sequence[Mapping[str, Any]], lr: float, usual: float | None) -> Iterator[Finding]:
    told = [one for one in pulses if one.get("updates") and one.get("rate", 0.0) > 0.5]
    if len(told) < 2:
        return
    recent = told[-2:]
    parts = {part: mean(one["updates"].get(part, 0.0) for one in recent) for part in recent[-1]["updates"]}
    # rows of new classes start at next to nought, so that a healthy step is a large part of them
    wild = {part: value for part, value in parts.items() if value > _WILD and not part.endswith("predictor")}
    beside = f", where {usual:g} is usual" if usual else ""
    evidence = {part: float(f"{value:.3g}") for part, value in parts.items()}
    if wild:
        part = max(wild, key=lambda one: wild[one])
        yield Finding(
            "train.lr-high",
            "warning",
            f"each step moves the {part} by {100 * wild[part]:.2g} % of its norm; a tenth of a per cent is usual. "
            "lr is "
            f"{lr:g}{beside}",
            names=("lr",),
            evidence=evidence,
            effect="what the weights knew is gone in some dozen steps",
            fix=f"lr={usual or lr / 10:g}",
        )
    elif parts and max(parts.values()) < _STILL:
        yield Finding(
            "train.lr-low",
            "warning",
            f"no part moves by more than {max(parts.values()):.2g} of its norm in a step; a thousandth is usual. lr is "
            f"{lr:g}{beside}",
            names=("lr",),
            evidence=evidence,
            effect="the weights stay where they are",
            fix=f"lr={usual or lr * 100:g}",
        )
