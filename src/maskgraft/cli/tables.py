"""Results as tables for people."""

from typing import TYPE_CHECKING

from rich.table import Table

from maskgraft.cli.show import table
from maskgraft.evaluation import SUMMARY, Metrics
from maskgraft.misses import KINDS

if TYPE_CHECKING:
    from maskgraft.shortfalls import Shortfall

_MOST_CLASSES = 20


def percent(value: float | None) -> str:
    """An AP as people write it: 0.379 → "37.9"; "–" where there was nothing to find."""
    return "–" if value is None else f"{100 * value:.1f}"


def shortfall_table(short: "Shortfall") -> Table:
    """What each kind of error costs, dearest first."""
    ranked = sorted(short.kinds.items(), key=lambda item: -item[1].points)
    rows = [
        (kind, f"+{100 * one.points:.1f}", one.objects or "–", one.detections or "–", KINDS[kind])
        for kind, one in ranked
        if one.objects or one.detections
    ]
    title = (
        f"why mask AP50 is {percent(short.ap)} and not 100: what mending each by itself would add, "
        f"of {short.objects:,} objects"
    )
    return table(title, ("", "AP50", "lost", "false", ""), rows, right=(1, 2, 3))


def metrics_tables(metrics: Metrics) -> list[Table]:
    """Box and mask AP in COCO's terms, then by class, best first."""
    shown = [name for name in SUMMARY if name not in ("AR1", "AR10")]
    rows = [
        (kind, *(percent(values.get(name)) for name in shown))
        for kind, values in (("box", metrics.box), ("mask", metrics.mask))
    ]
    tables = [table(f"{metrics.images} images", ("", *shown), rows, right=range(1, len(shown) + 1))]
    known = {name: pair for name, pair in metrics.per_class.items() if pair != (None, None)}
    if len(known) > 1:
        ranked = sorted(known.items(), key=lambda item: -(item[1][1] or 0.0))[:_MOST_CLASSES]
        rows = [(name, percent(box), percent(mask)) for name, (box, mask) in ranked]
        tables.append(table("", ("class", "box AP", "mask AP"), rows, right=(1, 2)))
    return tables
