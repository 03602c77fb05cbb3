"""The page of `maskgraft diagnose --html`: what a file is, what is wrong with it, and the model down to its tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

import numpy as np

from maskgraft import diagnosis
from maskgraft.diagnosis import Report
from maskgraft.errors import CheckpointError, Finding
from maskgraft.families import Identified, identify
from maskgraft.files import LazyArray, open_checkpoint
from maskgraft.pages.shell import document, finding, plain, table
from maskgraft.pages.titles import TITLES
from maskgraft.spec import COMPONENTS, component

State = Literal["matched", "doubtful", "missing", "new"]

_MEANING: dict[State, str] = {
    "matched": "in the file",
    "doubtful": "in the file, and in a finding",
    "missing": "not in the file, or of another shape",
    "new": "starts from nothing",
}


@dataclass(frozen=True, slots=True)
class Line:
    """A tensor of the model: our name and theirs, how it stands, and its statistics where it is in the file."""

    ours: str
    theirs: str
    state: State
    shape: tuple[int, ...]
    dtype: str
    statistics: tuple[float, float, float, float] | None  # lowest, mean, highest, standard deviation


@dataclass(frozen=True, slots=True)
class ClassRow:
    """A class of the file and of what it is to become: None where one of them lacks it."""

    name: str
    before: int | None
    after: int | None


def page(
    path: str | Path,
    report: Report,
    *,
    config: str | Path | None = None,
    key: str | None = None,
    classes: Sequence[str] | None = None,
) -> str:
    """The page as text; values are read for their statistics.

        Path("report.html").write_text(page("model.pth", mg.diagnose("model.pth")))

    `config` and `key` are those that the report was made with. `classes` are the names that the model is to have.
    """
    known = _known(Path(path), config, key)
    lines = _lines(known, report.findings) if known else []
    parts = [_head(report), _findings(report.findings)]
    if known and report.spec is not None:
        parts += [_model(lines), _tensors(lines), _left_over(known), _conventions(report)]
        parts.append(_classes(class_rows(report.spec.classes, classes)))
    parts.append("<footer>Made by maskgraft; nothing on this page comes from a network.</footer>")
    return document(f"{report.path.name} · maskgraft", "\n".join(parts), _SEARCH)


def class_rows(before: Sequence[str], after: Sequence[str] | None) -> list[ClassRow]:
    """Which row of the file becomes which row of a model of the classes `after`; None: it keeps its own.

    class_rows(("person", "car"), ("car", "lorry"))     # car 1 → 0, lorry – → 1, person 0 → –
    """
    if after is None:
        return [ClassRow(name, index, index) for index, name in enumerate(before)]
    places = {name: index for index, name in enumerate(before)}
    kept = [ClassRow(name, places.get(name), index) for index, name in enumerate(after)]
    return kept + [ClassRow(name, index, None) for name, index in places.items() if name not in after]


def _known(path: Path, config: str | Path | None, key: str | None) -> Identified | None:
    try:
        return identify(open_checkpoint(path, key=key), config=config)
    except CheckpointError:
        return None


def _lines(known: Identified, findings: Sequence[Finding]) -> list[Line]:
    told = {name for finding in findings if finding.severity != "info" for name in finding.names}
    held = {component(link.ours) for link in known.links}
    lines = []
    for link in known.links:
        array = known.tensors.get(link.theirs)
        if array is None:
            if not link.optional:
                lines.append(Line(link.ours, link.theirs, "missing", (), "", None))
            continue
        names = {link.ours, link.theirs, known.prefix + link.theirs}
        state: State = "doubtful" if names & told else "matched"
        lines.append(Line(link.ours, link.theirs, state, array.shape, str(array.dtype), _statistics(array)))
    return lines + [Line(name, "", "new", (), "", None) for name in COMPONENTS if name not in held]


def _statistics(array: LazyArray) -> tuple[float, float, float, float] | None:
    if not array.size or array.dtype.kind not in "fiub":
        return None
    values = array.read().astype(np.float64)
    return float(values.min()), float(values.mean()), float(values.max()), float(values.std())


def _head(report: Report) -> str:
    verdict = "It loads." if report.loadable and report.spec else "It does not load as it is."
    what = "of no family that is known"
    if report.spec is not None:
        era = f", names of {report.era}" if report.era else ""
        what = f"{report.family}{era}: {diagnosis.summary(report.spec)}"
    form = f" · {report.format}" if report.format else ""
    return f"""<p class="mark">maskgraft diagnose</p>
<h1>{escape(report.path.name)}</h1>
<p class="lead">{escape(what)}{escape(form)}</p>
<p class="verdict">{verdict}</p>"""


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return "<h2>Findings</h2>\n<p>None.</p>"
    return "<h2>Findings</h2>\n" + "\n".join(finding(one) for one in findings)


def _model(lines: Sequence[Line]) -> str:
    keys = "".join(f'<span><i class="key {state}"></i>{meaning}</span>' for state, meaning in _MEANING.items())
    parts = "\n".join(_part(name, [line for line in lines if component(line.ours) == name]) for name in COMPONENTS)
    return f'<h2>The model</h2>\n<p class="keys">{keys}</p>\n<div class="model">\n{parts}\n</div>'


def _part(name: str, lines: Sequence[Line]) -> str:
    if not lines:
        return ""
    counts = {state: sum(line.state == state for line in lines) for state in _MEANING}
    bar = "".join(
        f'<i class="{state}" style="width:{100 * number / len(lines):.2f}%"></i>'
        for state, number in counts.items()
        if number
    )
    told = ", ".join(
        f"{number} {state}" for state, number in counts.items() if number and not (state == "new" and len(lines) == 1)
    )
    return (
        f'<a class="part {name}" href="#part-{name}"><b>{TITLES[name]}</b><span class="bar">{bar}</span>'
        f"<small>{told or 'starts from nothing'}</small></a>"
    )


def _tensors(lines: Sequence[Line]) -> str:
    blocks = []
    for name in COMPONENTS:
        own = [line for line in lines if component(line.ours) == name and line.theirs]
        if own:
            blocks.append(_component(name, own))
    search = '<p><input type="search" id="search" placeholder="search tensors by either name" aria-label="search"></p>'
    return f'<h2>Tensors</h2>\n{search}\n<p id="found" hidden></p>\n' + "\n".join(blocks)


def _component(name: str, lines: Sequence[Line]) -> str:
    wrong = sum(line.state in ("doubtful", "missing") for line in lines)
    note = f", {wrong} to look at" if wrong else ""
    rows = "\n".join(_row(line) for line in lines)
    heads = "".join(f"<th>{head}</th>" for head in ("in the model", "in the file", "shape there", "type"))
    heads += "".join(f'<th class="n">{head}</th>' for head in ("lowest", "mean", "highest", "deviation"))
    return (
        f'<details class="component" id="part-{name}"{" open" if wrong else ""}><summary>{TITLES[name]} '
        f"<small>{len(lines)} tensors{note}</small></summary>\n"
        f'<div class="scroll"><table><tr>{heads}</tr>\n{rows}\n</table></div></details>'
    )


def _row(line: Line) -> str:
    numbers = line.statistics or ()
    cells = [f"<code>{escape(line.ours)}</code>", f"<code>{escape(line.theirs)}</code>"]
    cells += [" × ".join(map(str, line.shape)) or ("" if line.state == "missing" else "single"), escape(line.dtype)]
    figures = "".join(f'<td class="n">{number:.4g}</td>' for number in numbers) or '<td colspan="4"></td>'
    return f'<tr class="{line.state}">' + "".join(f"<td>{cell}</td>" for cell in cells) + figures + "</tr>"


def _left_over(known: Identified) -> str:
    taken = {name for link in known.links for name in (link.theirs, *link.copies)}
    unknown = [name for name in known.tensors if name not in taken]
    reasons: dict[str, list[str]] = {}
    for name, reason in known.ignored.items():
        reasons.setdefault(reason, []).append(name)
    if unknown:
        reasons["of no part that is known"] = unknown
    if not reasons:
        return ""
    blocks = [
        f'<details class="component"><summary>{escape(reason)} <small>{len(names)} tensors</small></summary>'
        f"<p>{', '.join(f'<code>{escape(name)}</code>' for name in names)}</p></details>"
        for reason, names in reasons.items()
    ]
    return "<h2>In the file, and not in the model</h2>\n" + "\n".join(blocks)


def _conventions(report: Report) -> str:
    spec = report.spec
    assert spec is not None
    order = {"assumed": 0, "read": 1, "implied": 2}
    learned = sorted(
        ((name, one) for name, one in spec.learned.items() if name.startswith("numerics.")),
        key=lambda item: (order[item[1].how], item[0]),
    )
    rows = []
    for name, one in learned:
        field = name.removeprefix("numerics.")
        badge = f'<span class="how {one.how}">{one.how}</span>'
        rows.append([f"<code>{field}</code>", plain(getattr(spec.numerics, field)), badge, escape(one.source)])
    return "<h2>Conventions, and how each was learned</h2>\n" + table(["convention", "value", "how", "source"], rows)


def _classes(rows: Sequence[ClassRow]) -> str:
    cells = []
    for row in rows:
        fate = "new" if row.before is None else "dropped" if row.after is None else "kept"
        places = ["–" if place is None else str(place) for place in (row.before, row.after)]
        cells.append([escape(row.name), *places, fate])
    return "<h2>Class rows</h2>\n" + table(["class", "row in the file", "row in the model", ""], cells, right=(1, 2))


# A search lasts in the address, so that it can be sent to somebody; a component that is pointed at opens.
_SEARCH = """
const search = document.getElementById("search"), found = document.getElementById("found");
function look() {
  const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const part of document.querySelectorAll("details.component[id]")) {
    let here = 0;
    for (const row of part.querySelectorAll("tr[class]")) {
      const text = row.cells[0].textContent + " " + row.cells[1].textContent;
      row.hidden = !words.every(word => text.toLowerCase().includes(word));
      here += row.hidden ? 0 : 1;
    }
    part.hidden = here === 0;
    if (words.length) part.open = here > 0;
    shown += here;
  }
  found.hidden = words.length === 0;
  found.textContent = shown + (shown === 1 ? " tensor" : " tensors");
  history.replaceState(null, "", words.length ? "#search=" + encodeURIComponent(search.value) : "#");
}
function go() {
  const place = decodeURIComponent(location.hash.slice(1));
  if (search && place.startsWith("search=")) { search.value = place.slice(7); look(); }
  const part = document.getElementById(place);
  if (part && part.tagName === "DETAILS") part.open = true;
}
if (search) search.addEventListener("input", look);
addEventListener("hashchange", go);
go();
"""
