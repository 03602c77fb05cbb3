"""What a run has come to: what its model gets wrong, and what it forgot of the model that it began with."""

from collections.abc import Iterator, Mapping
from statistics import mean
from typing import Any

from maskgraft.errors import Finding
from maskgraft.misses import HELPS, KINDS

_DEAR = 0.02  # points of AP50, 0..1, from which a kind of error is worth a word
_KNEW = 0.2  # mask AP from which a class is known
_LOST, _SHARE_LOST = 0.1, 0.25  # AP below what it was, and as a part of it, that is more than chance on many images
_LOST_OF_FEW, _SHARE_OF_FEW = 0.2, 0.6  # and on fewer than `_MANY`
_MANY = 24
_FEW, _HALF = 10, 0.5  # things found before, and the part of them that should be found still


def misses(short: Mapping[str, Any]) -> Iterator[Finding]:
    """The dearest kind of error, of a shortfall as `Shortfall.as_json` tells it."""
    ranked = sorted(short["kinds"].items(), key=lambda item: -item[1]["points"])
    dear = [(kind, one) for kind, one in ranked if one["points"] > _DEAR][:3]
    if not dear:
        return
    told = "; ".join(f"{kind} +{100 * one['points']:.1f} ({KINDS.get(kind, kind)})" for kind, one in dear)
    yield Finding(
        "train.misses",
        "info",
        f"mask AP50 is {100 * short['ap']:.1f} over {short['objects']} objects; mending each kind of error would add: "
        f"{told}",
        names=tuple(kind for kind, _ in dear),
        evidence={kind: round(one["points"], 4) for kind, one in dear},
        fix=HELPS.get(dear[0][0], ""),
    )


def forgotten(kept: Mapping[str, Any]) -> Iterator[Finding]:
    """What was lost, of a retention as `Retention.as_json` tells it: by the AP of old classes, where the images have
    them, else by what the start model found."""
    pairs = {name: one["mask"] for name, one in kept["classes"].items() if None not in one["mask"]}
    # by either score: chosen by the first alone, classes that were lucky before would seem to have lost
    knew = {name: pair for name, pair in pairs.items() if max(pair) >= _KNEW}
    agreement, on = kept["agreement"], f"on {kept['images']} images"
    fix = "distil=1 and l2sp=0.01 in the recipe, old images mixed in (--replay-annotations), policy=heads, a lower lr"
    effect = "what the model could do before it does no more, or less well"
    if knew:
        before, after = (mean(pair[index] for pair in knew.values()) for index in (0, 1))
        lost = before - after
        least, share = (_LOST, _SHARE_LOST) if kept["images"] >= _MANY else (_LOST_OF_FEW, _SHARE_OF_FEW)
        grave = lost > least and lost > share * before
        worst = sorted(knew, key=lambda name: knew[name][1] - knew[name][0])[:5]
        shown = ", ".join(f"{name} {100 * knew[name][0]:.0f} → {100 * knew[name][1]:.0f}" for name in worst)
        yield Finding(
            "train.forgetting",
            "warning" if grave else "info",
            f"mask AP of {len(knew)} classes that the model knew before was {100 * before:.1f} and is "
            f"{100 * after:.1f} {on} ({shown})",
            names=tuple(worst),
            evidence={"before": round(before, 4), "after": round(after, 4), "classes": len(knew)},
            effect=effect if grave else "",
            fix=fix if grave else "",
        )
    elif agreement["found"] >= _FEW and not pairs:
        grave = agreement["kept"] < _HALF
        yield Finding(
            "train.forgetting",
            "warning" if grave else "info",
            f"of {agreement['found']} things that the start model found {on}, {100 * agreement['kept']:.0f} % are "
            "found still",
            names=("agreement",),
            evidence=dict(agreement),
            effect=effect if grave else "",
            fix=fix if grave else "",
        )
