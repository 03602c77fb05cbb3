"""What a model gets wrong, as sections of a page: the cost of each kind of error, curves, confusion, pictures."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from maskgraft import exhibits
from maskgraft.misses import HELPS, KINDS, RECALLS
from maskgraft.pages import charts
from maskgraft.pages.charts import Series
from maskgraft.pages.shell import figure, table

_MOST_CLASSES = 7  # curves in one picture
_MOST_ROWS = 24  # classes in the table of confusions
_BINS = [f"{index / 10:.1f}" for index in range(10)]


def sections(short: Mapping[str, Any], pictures: Path) -> list[str]:
    """The sections of a shortfall, as `Shortfall.as_json` tells it; `pictures` is the folder that `exhibits` wrote."""
    parts = [_costs(short), _proposals(short), _curves(short), _confusion(short)]
    return [one for one in (*parts, _examples(short, pictures), _worst(short, pictures)) if one]


def _costs(short: Mapping[str, Any]) -> str:
    ranked = sorted(short["kinds"].items(), key=lambda item: -item[1]["points"])
    shown = [(kind, one) for kind, one in ranked if one["objects"] or one["detections"]]
    lead = (
        f"<p>Mask AP at an overlap of {short['overlap']:g} is <b>{100 * short['ap']:.1f}</b>, over "
        f"{short['objects']:,} objects of {short['images']:,} images. Each kind of error is mended "
        "by itself and AP measured again; the points need not add up.</p>"
    )
    if not shown:
        return f"<h2>Why not 100?</h2>\n{lead}\n<p>Nothing is lost and nothing is false.</p>"
    bars = charts.bars(
        "Points of AP that mending would add",
        [(kind, max(one["points"], 0.0), f"+{100 * one['points']:.1f}") for kind, one in shown],
    )
    rows = [
        [
            f'<span class="whole">{escape(kind)}</span>',
            f"{one['objects']:,}",
            f"{one['detections']:,}",
            f"{escape(KINDS.get(kind, ''))}<small>{escape(HELPS.get(kind, ''))}</small>",
        ]
        for kind, one in shown
    ]
    told = table(["kind", "lost", "false", "what happens, and what helps"], rows, right=(1, 2))
    return f"<h2>Why not 100?</h2>\n{lead}\n{bars}\n{told}"


def _proposals(short: Mapping[str, Any]) -> str:
    if not short["objects"]:
        return ""
    note = f"{100 * short['proposal_recall']:.1f} % are met by half; below: where each bin begins"
    return charts.columns("Objects by their best proposal", short["proposals"], _BINS, note=note)


def _curves(short: Mapping[str, Any]) -> str:
    counted = {name: values for name, values in short["curves"].items() if "overlap" in name}
    classes = {name: values for name, values in short["curves"].items() if name not in counted}
    mean = {name: sum(values) / len(values) for name, values in classes.items()}
    ranked = sorted(classes, key=lambda name: mean[name])
    half = _MOST_CLASSES // 2
    shown = ranked if len(ranked) <= _MOST_CLASSES else [*ranked[:half], *ranked[-half:]]
    note = "" if len(shown) == len(ranked) else f"the {half} worst and the {half} best of {len(ranked)} classes"

    def square(title: str, names: Sequence[str], values: Mapping[str, Sequence[float]], note: str = "") -> str:
        lines = [
            Series(f"{name} · {100 * sum(values[name]) / len(values[name]):.1f}", _points(values[name]))
            for name in names
        ]
        return charts.curves(title, lines, across="recall", up="precision", note=note)

    pair = square("All classes", list(counted), counted), square("By class, masks", shown, classes, note)
    return f'<h2>Precision and recall</h2>\n<div class="pair">{"".join(pair)}</div>'


def _points(values: Sequence[float]) -> list[tuple[float, float | None]]:
    """Up to the recall that is reached: what lies beyond is no precision."""
    last = max((index for index, value in enumerate(values) if value > 0), default=-1)
    return [(float(RECALLS[index]), values[index]) for index in range(last + 1)]


def _confusion(short: Mapping[str, Any]) -> str:
    classes, counts = list(short["classes"]), short["confusion"]
    busy = [index for index in range(len(classes)) if sum(counts[index]) or any(row[index] for row in counts)]
    dropped = len(busy) - _MOST_ROWS
    if dropped > 0:
        busy = sorted(busy, key=lambda index: -sum(counts[index]))[:_MOST_ROWS]
    order = [*busy, len(classes)]
    names = [classes[index] for index in busy]
    told = [[counts[row][column] for column in order] for row in order]
    more = f" {dropped} classes with fewer objects are left out." if dropped > 0 else ""
    return (
        "<h2>Which classes are confused</h2>\n<p>Rows are objects, columns what was found there with a score of at "
        f"least 0.5, whatever its class.{more}</p>\n"
        + charts.matrix([*names, "background"], [*names, "nothing"], told, corner="object ↓ found →")
    )


def _examples(short: Mapping[str, Any], pictures: Path) -> str:
    blocks = []
    for kind, meaning in KINDS.items():
        shown = []
        for number, one in enumerate(short["examples"]):
            path = pictures / exhibits.example_name(number)
            if one["kind"] == kind and path.is_file():
                score = f", score {one['score']:.2f}" if one["score"] is not None else ""
                shown.append(figure(path, f"image {one['image']}, {one['label']}{score}", width=420))
        if shown:
            heads = f"<h3>{escape(kind)} <small>{escape(meaning)}</small></h3>"
            blocks.append(f'{heads}\n<div class="pictures small">{"".join(shown)}</div>')
    if not blocks:
        return ""
    return (
        "<h2>Typical errors</h2>\n<p>Truth on the left, what was found on the right.</p>\n<div>"
        + "\n".join(blocks)
        + "</div>"
    )


def _worst(short: Mapping[str, Any], pictures: Path) -> str:
    shown = [
        figure(path, f"image {image}", width=900)
        for image in short["worst"]
        if (path := pictures / exhibits.worst_name(image)).is_file()
    ]
    if not shown:
        return ""
    lead = "<p>Those with the most objects lost and confident false detections, worst first.</p>"
    return f'<h2>Worst images</h2>\n{lead}\n<div class="pictures">{"".join(shown)}</div>'
