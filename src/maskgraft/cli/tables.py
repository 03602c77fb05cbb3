"""Results as tables for people."""

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from maskgraft.cli.show import table
from maskgraft.evaluation import SUMMARY, Metrics
from maskgraft.misses import HELPS, KINDS

if TYPE_CHECKING:
    from maskgraft.forgetting import Retention
    from maskgraft.shortfalls import Shortfall

_MOST_CLASSES = 20
_DEAR = 0.005  # of AP50, from which it is said what helps


def percent(value: float | None) -> str:
    """An AP as people write it: 0.379 → "37.9"; "–" where there was nothing to find."""
    return "–" if value is None else f"{100 * value:.1f}"


def shortfall_tables(short: "Shortfall") -> list[RenderableType]:
    """What each kind of error costs, dearest first, and below what helps against those that cost something."""
    ranked = sorted(short.kinds.items(), key=lambda item: -item[1].points)
    rows = [
        (kind, f"+{100 * one.points:.1f}", one.objects or "–", one.detections or "–", KINDS[kind])
        for kind, one in ranked
        if one.objects or one.detections
    ]
    title = (
        f"why mask AP50 is {percent(short.ap)} and not 100: what mending each kind by itself would add, "
        f"of {short.objects:,} objects"
    )
    columns = ("kind", "AP50", "lost", "false", "what happens")
    helps = Table.grid(padding=(0, 3, 0, 0))
    for kind, one in ranked:
        if one.points >= _DEAR:
            helps.add_row(kind, Text(HELPS[kind], "green"))
    costs = table(title, columns, rows, right=(1, 2, 3))
    return [costs, "what helps:", helps] if helps.rows else [costs]


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


def retention_tables(report: "Retention") -> list[RenderableType]:
    """How far each component moved, how alike the features are, and the AP of old classes or the agreement."""
    rows = [
        (name, f"{100 * one.change:.2f} %", f"{one.moved} of {one.tensors}") for name, one in report.components.items()
    ]
    title = f"kept of the start, on {report.images} images"
    told: list[RenderableType] = [table(title, ("component", "weights moved by", "tensors"), rows, right=(1, 2))]
    alike = "  ".join(f"{name} {value:.3f}" for name, value in report.features.items())
    told.append(f"features alike (CKA): {alike}")
    found = {name: one for name, one in report.classes.items() if one.box[0] is not None}
    ranked = sorted(found.items(), key=lambda item: (item[1].mask[1] or 0.0) - (item[1].mask[0] or 0.0))[:_MOST_CLASSES]
    if ranked:
        lines = [(name, *map(percent, (*one.box, *one.mask))) for name, one in ranked]
        columns = ("old class", "box AP before", "after", "mask AP before", "after")
        told.append(table("", columns, lines, right=(1, 2, 3, 4)))
    if report.agreement.kept is not None:
        overlap = f", masks overlap by {percent(report.agreement.mask_iou)} %" if report.agreement.mask_iou else ""
        told.append(f"of {report.agreement.found} found before, {percent(report.agreement.kept)} % are found{overlap}")
    return told
