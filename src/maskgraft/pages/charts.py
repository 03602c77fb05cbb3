"""Charts as HTML and inline SVG: lines over the steps of a run, stacked shares, curves, bars and matrices.

Plots stretch with the page and lines keep their width; what is written stands in HTML beside them, so that it can be
read on a telephone. No chart needs colour: lines have dashes of their own, matrices their numbers.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

Point = tuple[float, float | None]

_POINTS = 240  # of a line; more steps are drawn as means of so many buckets, with a band from lowest to highest
_DASHES = ("", "7 3", "2 3", "10 3 2 3", "4 2", "14 4", "2 2 6 2", "1 4")
_USUAL = 0.97  # of the highest values are in sight; a single spike must not press the rest to the bottom
_DECADES = 4  # that a logarithmic scale shows at most; what is lower lies at its bottom
_FEW = 24  # points of a line that are marked one by one
_NEAR = 0.018  # of the width: pins that are nearer to each other become one


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name and its points (step or x, value); None and what is not finite is a gap."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Pin:
    """A finding on the time axis: its number in the list below, its step, and what is read when it is pointed at."""

    number: int
    step: float
    severity: str
    text: str


@dataclass(frozen=True, slots=True)
class Times:
    """The time axis that all charts of a run share: its last step, the first steps of stages by name, and the pins."""

    steps: int
    stages: Mapping[int, str] = field(default_factory=dict)
    pins: Sequence[Pin] = ()

    def place(self, step: float) -> float:
        """Where a step lies, 0..1."""
        return min(max(step / max(self.steps, 1), 0.0), 1.0)


def over_time(title: str, series: Sequence[Series], times: Times, *, log: bool = False, note: str = "") -> str:
    """Lines over the steps of a run, with the findings pinned to them; nothing where there is no value."""
    drawn = [(one, _bucketed(one.points)) for one in series]
    drawn = [(one, points) for one, points in drawn if points]
    if not drawn:
        return ""
    means = [mean for _, points in drawn for _, mean, _, _ in points]
    highs = sorted(high for _, points in drawn for *_, high in points)
    scale = _Scale.of([*means, highs[int(_USUAL * (len(highs) - 1))]], log=log)
    paths = []
    for index, (_, points) in enumerate(drawn):
        band = [(times.place(x), scale.place(low), scale.place(high)) for x, _, low, high in points]
        if any(low != high for _, low, high in band):
            paths.append(f'<path class="band s{index % 8}" d="{_band(band)}"/>')
        line = [(times.place(x), scale.place(mean)) for x, mean, _, _ in points]
        paths.append(_line(line, index))
    dots = "".join(_dots(points, index, times, scale) for index, (_, points) in enumerate(drawn) if len(points) <= _FEW)
    told = {one.name: [(x, mean) for x, mean, _, _ in points] for one, points in drawn}
    return _figure(title, note, _plot("".join(paths), dots, scale.ticks(), times), told, scale.text)


def shares(title: str, series: Sequence[Series], times: Times, *, note: str = "") -> str:
    """What part of a whole each series is, stacked from the first at the bottom; values 0..1."""
    buckets = {one.name: _bucketed(one.points) for one in series if one.points}
    steps = sorted({x for points in buckets.values() for x, *_ in points})
    if not steps:
        return ""
    values = {name: {x: mean for x, mean, _, _ in points} for name, points in buckets.items()}
    base = dict.fromkeys(steps, 0.0)
    paths = []
    for index, name in enumerate(values):
        top = {x: min(base[x] + max(values[name].get(x, 0.0), 0.0), 1.0) for x in steps}
        area = [(times.place(x), base[x], top[x]) for x in steps]
        paths.append(f'<path class="share s{index % 8}" d="{_band(area)}"/>')
        paths.append(_line([(times.place(x), top[x]) for x in steps], index))
        base = top
    ticks = [(place, f"{100 * place:.0f} %") for place in (0.0, 0.25, 0.5, 0.75, 1.0)]
    told = {name: sorted(found.items()) for name, found in reversed(values.items())}
    order = {name: index for index, name in enumerate(values)}
    return _figure(title, note, _plot("".join(paths), "", ticks, times), told, _percent, order=order)


def curves(title: str, series: Sequence[Series], *, across: str, up: str, note: str = "") -> str:
    """Curves in a square from 0 to 1 both ways, such as precision over recall."""
    drawn = [one for one in series if one.points]
    if not drawn:
        return ""
    paths = []
    for index, one in enumerate(drawn):
        paths.append(_line([(x, y) for x, y in one.points if y is not None], index))
    ticks = [(place, f"{place:g}") for place in (0.0, 0.25, 0.5, 0.75, 1.0)]
    body = frame("".join(paths), "", ticks, ticks)
    keys = "".join(f"<li>{_swatch(index)}<span>{escape(one.name)}</span></li>" for index, one in enumerate(drawn))
    told = f"{escape(up)} upward, {escape(across)} to the right" + (f"; {escape(note)}" if note else "")
    return (
        f'<figure class="chart square"><figcaption><b>{escape(title)}</b> <small>{told}</small></figcaption>\n'
        f'{body}<ul class="legend">{keys}</ul></figure>'
    )


def bars(title: str, rows: Sequence[tuple[str, float, str]], *, note: str = "") -> str:
    """Horizontal bars: name, length (of the longest), and what is written at its end."""
    longest = max((value for _, value, _ in rows), default=0.0) or 1.0
    lines = "".join(
        f'<div><dt>{escape(name)}</dt><dd><i style="--part:{value / longest:.4f}"></i>'
        f"<span>{escape(text)}</span></dd></div>"
        for name, value, text in rows
    )
    told = f" <small>{escape(note)}</small>" if note else ""
    head = f"<figcaption><b>{escape(title)}</b>{told}</figcaption>"
    return f'<figure class="chart">{head}<dl class="rows">{lines}</dl></figure>'


def columns(title: str, counts: Sequence[int], edges: Sequence[str], *, note: str = "") -> str:
    """A histogram: the count of each bin over the name of its lower edge."""
    highest = max(counts, default=0) or 1
    cells = "".join(
        f'<div><b>{count:,}</b><i style="height:{100 * count / highest:.1f}%"></i><small>{escape(edge)}</small></div>'
        for count, edge in zip(counts, edges, strict=True)
    )
    told = f" <small>{escape(note)}</small>" if note else ""
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b>{told}</figcaption>'
        f'<div class="columns">{cells}</div></figure>'
    )


def matrix(rows: Sequence[str], heads: Sequence[str], counts: Sequence[Sequence[int]], *, corner: str) -> str:
    """A table of counts, each shaded by its share of its row."""
    lines = []
    for name, line in zip(rows, counts, strict=True):
        whole = sum(line) or 1
        cells = "".join(f'<td class="n" style="--part:{count / whole:.3f}">{count or "·"}</td>' for count in line)
        lines.append(f"<tr><th scope='row'>{escape(name)}</th>{cells}</tr>")
    head = "".join(f'<th class="n" scope="col">{escape(name)}</th>' for name in heads)
    body = "\n".join(lines)
    return f'<div class="scroll"><table class="matrix"><tr><th>{escape(corner)}</th>{head}</tr>\n{body}</table></div>'


# ---- the parts of a plot ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to heights, 0 at the bottom and 1 at the top."""

    low: float
    high: float
    log: bool

    @staticmethod
    def of(values: Sequence[float], *, log: bool) -> "_Scale":
        positive = [value for value in values if value > 0]
        if log and positive and max(positive) / min(positive) > 5:
            low, high = math.floor(math.log10(min(positive)) * 3) / 3, math.ceil(math.log10(max(positive)) * 3) / 3
            return _Scale(max(low, high - _DECADES), high, log=True)
        low, high = min(0.0, *values), max(0.0, *values)
        step = _step(low, high)
        return _Scale(math.floor(low / step) * step, math.ceil(high / step) * step or step, log=False)

    def place(self, value: float) -> float:
        if self.log:
            value = math.log10(value) if value > 0 else self.low
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        if not self.log:
            step = _step(self.low, self.high)
            count = round((self.high - self.low) / step)
            return [(index / count, self.text(self.low + index * step)) for index in range(count + 1)]
        every = [
            factor * 10.0**power
            for power in range(math.floor(self.low), math.ceil(self.high) + 1)
            for factor in ((1, 2, 5) if self.high - self.low < 2 else (1,))
        ]
        inside = [value for value in every if self.low - 1e-9 <= math.log10(value) <= self.high + 1e-9]
        return [(self.place(value), self.text(value)) for value in inside[:: -(-len(inside) // 6)]]

    @staticmethod
    def text(value: float) -> str:
        return f"{value:.3g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")


def _step(low: float, high: float) -> float:
    """A round step between ticks, about five of them."""
    rough = (high - low) / 5 or 0.2
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)


def _bucketed(points: Sequence[Point]) -> list[tuple[float, float, float, float]]:
    """Step, mean, lowest and highest of each bucket; a bucket is one point where these are few."""
    known = [(x, value) for x, value in points if value is not None and math.isfinite(value)]
    size = -(-len(known) // _POINTS) or 1
    found = []
    for start in range(0, len(known), size):
        part = [value for _, value in known[start : start + size]]
        found.append((known[min(start + size, len(known)) - 1][0], math.fsum(part) / len(part), min(part), max(part)))
    return found


def _line(points: Sequence[tuple[float, float]], index: int) -> str:
    if not points:
        return ""
    path = "M" + "L".join(f"{1000 * x:.4g} {1000 * (1 - y):.4g}" for x, y in points)
    dash = f' stroke-dasharray="{_DASHES[index % 8]}"' if index % 8 else ""
    return f'<path class="line s{index % 8}"{dash} d="{path}"/>'


def _band(points: Sequence[tuple[float, float, float]]) -> str:
    there = [f"{1000 * x:.4g} {1000 * (1 - high):.4g}" for x, _, high in points]
    back = [f"{1000 * x:.4g} {1000 * (1 - low):.4g}" for x, low, _ in reversed(points)]
    return f"M{'L'.join(there + back)}Z"


def _dots(points: Sequence[tuple[float, float, float, float]], index: int, times: Times, scale: _Scale) -> str:
    """Points that are few are marked, so that one alone can be seen."""
    return "".join(
        f'<i class="dot s{index % 8}" style="left:{100 * times.place(x):.2f}%;bottom:{100 * scale.place(y):.2f}%"></i>'
        for x, y, _, _ in points
    )


def _plot(paths: str, dots: str, ticks: Sequence[tuple[float, str]], times: Times) -> str:
    step = _step(0, times.steps)
    across = [(times.place(x), f"{x:g}") for x in _multiples(max(step, 1), times.steps)]
    lines = "".join(
        f'<i class="stage" style="left:{100 * times.place(first):.2f}%"><small>{escape(name)}</small></i>'
        for first, name in times.stages.items()
    )
    return frame(paths, dots + lines + _pins(times), ticks, across, f' data-steps="{times.steps}"')


def _multiples(step: float, last: float) -> list[float]:
    return [index * step for index in range(int(last / step + 1e-9) + 1)]


def _pins(times: Times) -> str:
    groups: list[list[Pin]] = []
    for pin in sorted(times.pins, key=lambda pin: (pin.step, pin.number)):
        if groups and times.place(pin.step) - times.place(groups[-1][0].step) < _NEAR:
            groups[-1].append(pin)
        else:
            groups.append([pin])
    return "".join(_pin(group, times.place(group[0].step)) for group in groups)


def _pin(group: Sequence[Pin], place: float) -> str:
    numbers = [pin.number for pin in group]
    shown = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}+{len(numbers) - 1}"
    worst = min((pin.severity for pin in group), key=("error", "warning", "info").index)
    text = "; ".join(f"step {pin.step:g}: {pin.text}" for pin in group)
    late = " late" if place > 0.95 else ""
    return (
        f'<a class="pin {worst}{late}" href="#finding-{numbers[0]}" style="left:{100 * place:.2f}%" '
        f'title="{escape(text)}" aria-label="{escape(text)}">{shown}</a>'
    )


def frame(
    paths: str, over: str, ticks: Sequence[tuple[float, str]], across: Sequence[tuple[float, str]], data: str = ""
) -> str:
    """A plot: `paths` of an SVG of 1000 × 1000, HTML `over` it, and what is written at the heights and along the foot.

    `data` are further attributes of the area.
    """
    grid = "".join(f'<path class="grid" d="M0 {1000 * (1 - y):.4g}H1000"/>' for y, _ in ticks)
    up = "".join(f'<span style="bottom:{100 * y:.2f}%">{text}</span>' for y, text in ticks)
    along = "".join(f'<span style="left:{100 * x:.2f}%">{text}</span>' for x, text in across)
    return (
        f'<div class="plot"><div class="up" aria-hidden="true">{up}</div><div class="area"{data}>'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">{grid}{paths}</svg>{over}</div>'
        f'<div class="along" aria-hidden="true">{along}</div></div>\n'
    )


def _swatch(index: int) -> str:
    dash = f' stroke-dasharray="{_DASHES[index % 8]}"' if index % 8 else ""
    line = f'<path class="line s{index % 8}"{dash} d="M0 4H30"/>'
    return f'<svg class="swatch" viewBox="0 0 30 8" aria-hidden="true">{line}</svg>'


def _figure(
    title: str,
    note: str,
    plot: str,
    told: Mapping[str, Sequence[tuple[float, float]]],
    text: Callable[[float], str],
    *,
    order: Mapping[str, int] | None = None,
) -> str:
    """A chart with a legend that gives the last values, and with its numbers for its script and for who reads them."""
    places = order or {name: index for index, name in enumerate(told)}
    keys = "".join(
        f"<li>{_swatch(places[name])}<span>{escape(name)}</span> <output>{text(points[-1][1])}</output></li>"
        for name, points in told.items()
    )
    numbers = json.dumps([[[round(x, 3), float(f"{y:.4g}")] for x, y in points] for points in told.values()])
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td class='n'>{text(points[0][1])}</td>"
        f"<td class='n'>{text(min(y for _, y in points))}</td><td class='n'>{text(max(y for _, y in points))}</td>"
        f"<td class='n'>{text(points[-1][1])}</td></tr>"
        for name, points in told.items()
    )
    heads = "".join(f"<th class='n'>{head}</th>" for head in ("first", "lowest", "highest", "last"))
    note = f" <small>{escape(note)}</small>" if note else ""
    return (
        f'<figure class="chart timed" tabindex="0" aria-label="{escape(title)}: arrow keys walk along the steps">'
        f"<figcaption><b>{escape(title)}</b>{note}<small class='at'></small></figcaption>\n{plot}"
        f'<ul class="legend">{keys}</ul><script type="application/json">{numbers}</script>'
        f"<details><summary>as numbers</summary><table><tr><th></th>{heads}</tr>{rows}</table></details></figure>"
    )


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


# All charts show the values at the step that is pointed at in one of them, or walked to with the arrow keys.
SCRIPT = """
const charts = [...document.querySelectorAll(".timed")].map(figure => ({
  figure, area: figure.querySelector(".area"), at: figure.querySelector(".at"),
  outputs: [...figure.querySelectorAll("output")], last: [...figure.querySelectorAll("output")].map(o => o.textContent),
  series: JSON.parse(figure.querySelector("script").textContent),
  shares: figure.querySelector(".share") !== null,
  cursor: figure.querySelector(".area").appendChild(document.createElement("i")),
}));
const shortly = v => Math.abs(v) >= 1e-3 || v === 0 ? String(+v.toPrecision(3)) : v.toExponential(0);
let here = null;
function nearest(points, step) {
  let best = points[0];
  for (const point of points) if (Math.abs(point[0] - step) < Math.abs(best[0] - step)) best = point;
  return best;
}
function show(step) {
  here = step;
  for (const chart of charts) {
    const whole = +chart.area.dataset.steps;
    chart.cursor.className = "cursor";
    chart.cursor.hidden = step === null;
    chart.cursor.style.left = step === null ? "" : 100 * Math.min(step / whole, 1) + "%";
    chart.at.textContent = step === null ? "" : "step " + Math.round(step);
    chart.outputs.forEach((output, i) => {
      if (step === null) { output.textContent = chart.last[i]; return; }
      const value = nearest(chart.series[i], step)[1];
      output.textContent = chart.shares ? Math.round(100 * value) + " %" : shortly(value);
    });
  }
}
for (const chart of charts) {
  const whole = +chart.area.dataset.steps;
  chart.area.addEventListener("pointermove", event => {
    const box = chart.area.getBoundingClientRect();
    show(Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * whole);
  });
  chart.area.addEventListener("pointerleave", () => show(null));
  chart.figure.addEventListener("keydown", event => {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
    if (event.key === "Escape") { show(null); return; }
    if (!by) return;
    event.preventDefault();
    const size = Math.max(whole / 100, 1);
    show(Math.min(Math.max((here === null ? whole : here) + by * size, 0), whole));
  });
  chart.figure.addEventListener("blur", () => show(null));
}
"""
