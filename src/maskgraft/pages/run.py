"""The report page of a run: how it went, what it can do now, what it loses and why, and how it was set up."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from maskgraft.forgetting import RETENTION
from maskgraft.histories import LOOKING_BACK, History, Told
from maskgraft.losses import LOSSES
from maskgraft.pages import charts
from maskgraft.pages.charts import Pin, Series, Times
from maskgraft.pages.shell import document, figure, finding, plain, table
from maskgraft.pages.titles import TITLES

_MOST_NAMES = 12
_LOSS_TITLES = {
    "rpn_cls": "rpn_cls · is it an object?",
    "rpn_box": "rpn_box · proposals",
    "cls": "cls · which class?",
    "box": "box",
    "mask": "mask",
}


def page(history: History, *, parts: Sequence[str] = ()) -> str:
    """The page of a run as text; `parts` are further sections, between the curves and the recipe."""
    times = Times(_last(history), _stages(history), _pins(history))
    sections = [
        _head(history),
        _findings(history),
        _curves(history, times),
        *parts,
        _retention(history.parsed(RETENTION)),
        _samples(history),
        _trains(history.recipe),
        _recipe(history),
        "<footer>Made by maskgraft; nothing on this page comes from a network.</footer>",
    ]
    return document(f"{history.folder.name} · maskgraft", "\n".join(one for one in sections if one), charts.SCRIPT)


def percent(value: float | None) -> str:
    """An AP or a share as people write it; "–" where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


# ---- at the top ------------------------------------------------------------------------------------------------------


def _last(history: History) -> int:
    return int(max([1, *(one["step"] for one in (*history.steps, *history.evaluations))]))


def _stages(history: History) -> dict[int, str]:
    spans = history.recipe["stages"]
    return {one["first"]: one["policy"] for one in spans} if len(spans) > 1 else {}


def _head(history: History) -> str:
    done, whole = (history.steps[-1]["step"] if history.steps else 0), history.recipe["steps"]
    state = "It has ended." if history.ended else f"It stands at step {done:,} of {whole:,}; --resume goes on there."
    spans = " → ".join(one["policy"] for one in history.recipe["stages"])
    data = history.recipe.get("data", {})
    lead = f"{whole:,} steps of {history.recipe['recipe']['batch']} images, {spans}; {data.get('images', '?')} images"
    name = history.recipe["recipe"]["metric"]
    kind, _, which = name.partition(".")
    scores = [(one["evaluation"][kind].get(which), one["step"]) for one in history.evaluations]
    known = [one for one in scores if one[0] is not None]
    tiles = []
    if known:
        best, step = max(known, key=lambda one: one[0])
        last = history.evaluations[-1]["evaluation"]
        tiles.append((f"best {kind} {which}", percent(best), f"after step {step:,}"))
        tiles.append(("last box AP", percent(last["box"]["AP"]), f"mask AP {percent(last['mask']['AP'])}"))
    if history.steps:
        first, final = _mean(history.steps[:20]), _mean(history.steps[-20:])
        tiles.append(("loss", f"{final:.3g}", f"{first:.3g} at the start; means of 20 steps"))
    if history.timing:
        spent = sum(one["step_s"] + one["data_s"] for one in history.timing)
        waiting = sum(one["data_s"] for one in history.timing) / spent if spent else 0.0
        memory = max(one.get("memory_mb", 0) for one in history.timing)
        note = f"{100 * waiting:.0f} % of it waiting for images; {memory / 1024:.1f} GB at most"
        tiles.append(("time in steps", _duration(spent), note))
    cells = "".join(f"<div><dt>{title}</dt><dd>{value}<small>{note}</small></dd></div>" for title, value, note in tiles)
    return f"""<p class="mark">maskgraft train</p>
<h1>{escape(history.folder.name)}</h1>
<p class="lead">{escape(lead)}</p>
<p class="verdict">{state}</p>
<dl class="tiles">{cells}</dl>"""


def _mean(entries: Sequence[Mapping[str, Any]]) -> float:
    return float(sum(one["total"] for one in entries)) / len(entries)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


# ---- findings --------------------------------------------------------------------------------------------------------


def _numbered(history: History) -> list[tuple[int, Told, Any]]:
    every = [(told, one) for told in history.told for one in told.findings]
    return [(number, told, one) for number, (told, one) in enumerate(every, 1)]


def _pins(history: History) -> list[Pin]:
    return [
        Pin(number, told.step, one.severity, f"{one.code}: {one.message}") for number, told, one in _numbered(history)
    ]


def _findings(history: History) -> str:
    blocks = []
    for number, told, one in _numbered(history):
        back = told.action == LOOKING_BACK
        place = f"after step {told.step:,}" if told.step else "before the first step"
        place = "in the log as a whole" if back else place
        did = "" if back or told.action == "go on" else f"; then: {told.action}"
        changes = "; ".join(f"{name} became {value}" for name, value in told.changes.items())
        note = f"{place}{did}{f'; {changes}' if changes else ''}"
        blocks.append(finding(one, mark=f'<span class="pin {one.severity}">{number}</span> ', note=note, id_=number))
    if not blocks:
        return "<h2>Findings</h2>\n<p>None was told.</p>"
    return "<h2>Findings</h2>\n<p>Their numbers are pinned to the curves.</p>\n" + "\n".join(blocks)


# ---- curves ----------------------------------------------------------------------------------------------------------


def _curves(history: History, times: Times) -> str:
    steps, seen = history.steps, history.evaluations
    names = list(dict.fromkeys([*LOSSES, *(name for one in steps for name in one["losses"])]))
    pulled = [one for one in steps if "gradients" in one]
    parts = [
        charts.over_time(
            "Losses",
            [
                *(Series(_LOSS_TITLES.get(name, name), _values(steps, "losses", name)) for name in names),
                Series("total, weighted", [(one["step"], one["total"]) for one in steps]),
            ],
            times,
            log=True,
            note="on a logarithmic scale; a mask loss that stays at 0.693 learns nothing",
        ),
        charts.shares(
            "Shares of the losses",
            [Series(name, _values(steps, "shares", name)) for name in names],
            times,
            note="what part of the weighted sum each is",
        ),
        charts.over_time(
            "Average precision and recall",
            [
                Series(f"{kind} {name}", [(one["step"], one["evaluation"][kind].get(name)) for one in seen])
                for kind, name in (("mask", "AP"), ("box", "AP"), ("mask", "AP50"), ("mask", "AR100"), ("mask", "APs"))
            ],
            times,
            note="on the evaluation data, 0 to 1",
        ),
        charts.over_time("Learning rate", [Series("lr", [(one["step"], one["lr"]) for one in steps])], times),
        charts.over_time(
            "Gradient",
            [Series("norm of the whole gradient", [(one["step"], one.get("gradient")) for one in steps])],
            times,
            log=True,
            note="before clipping" + _clipping(history),
        ),
        charts.over_time(
            "Gradient balance",
            [Series(name, _values(pulled, "gradients", name)) for name in LOSSES],
            times,
            log=True,
            note="norm of each loss's gradient at the features that all heads share",
        ),
        *_measured(history, times),
        charts.over_time(
            "Time of a step",
            [
                Series("computing", [(one["step"], one["step_s"]) for one in history.timing]),
                Series("waiting for images", [(one["step"], one["data_s"]) for one in history.timing]),
            ],
            times,
            note="seconds",
        ),
        _cosines(pulled),
    ]
    shown = "\n".join(one for one in parts if one)
    return f"<h2>Curves</h2>\n{shown}" if shown else "<h2>Curves</h2>\n<p>No step is done yet.</p>"


def _values(entries: Sequence[Mapping[str, Any]], group: str, name: str) -> list[tuple[float, float | None]]:
    return [(one["step"], one.get(group, {}).get(name)) for one in entries]


def _clipping(history: History) -> str:
    at = history.recipe["recipe"].get("clip_norm")
    norms = [one["gradient"] for one in history.steps if one.get("gradient") is not None]
    if not at or not norms:
        return ""
    return f"; clipped at {at:g} in {100 * sum(norm > at for norm in norms) / len(norms):.0f} % of the steps"


_PULSE = {
    "recall": "objects that a proposal meets by half",
    "anchored": "objects that an anchor meets",
    "foreground_share": "sampled regions that are objects",
    "correct": "true boxes whose class is right",
    "mask_iou": "overlap of masks",
}


def _measured(history: History, times: Times) -> list[str]:
    """What a doctor measured beside the losses, where one looked: proposals, steps of the weights, activations."""
    every = (*history.steps, *history.others)
    pulses = [one for one in every if isinstance(one.get("pulse"), Mapping)]
    moved = [one for one in every if isinstance(one.get("updates"), Mapping)]

    def named(entries: Sequence[Mapping[str, Any]], group: str) -> list[Series]:
        names = dict.fromkeys(name for one in entries for name in one.get(group) or ())
        return [Series(TITLES.get(name, name), _values(entries, group, name)) for name in names]

    inside = [{"step": one["step"], **one["pulse"]} for one in pulses]
    return [
        charts.over_time(
            "Proposals",
            [Series(what, _values(pulses, "pulse", name)) for name, what in _PULSE.items()],
            times,
            note="shares, on the batches that were looked at",
        ),
        charts.over_time(
            "Update by weight",
            named(moved, "updates"),
            times,
            log=True,
            note="how far a step moves each part, of its norm: about a thousandth is usual, a tenth forgets everything",
        ),
        charts.over_time(
            "Dead channels",
            named(inside, "dead"),
            times,
            note="share of channels that are nought everywhere: at 1 nothing passes, and no gradient comes back",
        ),
        charts.over_time(
            "Largest activations",
            named(inside, "largest"),
            times,
            log=True,
            note="absolute values; what grows without end explodes",
        ),
    ]


def _cosines(pulled: Sequence[Mapping[str, Any]]) -> str:
    """How often two losses pull apart: a table, where it was measured."""
    measured = [one["cosines"] for one in pulled if one.get("cosines")]
    if not measured:
        return ""
    rows = []
    for pair in measured[0]:
        values = [one[pair] for one in measured if one.get(pair) is not None]
        mean, apart = sum(values) / len(values), sum(value < 0 for value in values) / len(values)
        rows.append((mean, [escape(pair.replace(" ", " and ")), f"{mean:+.2f}", f"{100 * apart:.0f} %"]))
    cells = [row for _, row in sorted(rows, key=lambda row: row[0])]
    return (
        "<h3>Which losses pull apart</h3>\n<p>Cosine of two losses' gradients at the shared features: 1 they want the "
        "same, −1 the opposite.</p>\n" + table(["losses", "mean cosine", "pulling apart"], cells, right=(1, 2))
    )


# ---- what was kept, pictures, the set-up -----------------------------------------------------------------------------


def _retention(kept: Any) -> str:
    """The table of what was kept and lost."""
    if not isinstance(kept, Mapping):
        return ""
    blocks = ["<h2>Kept or lost</h2>", "<p>The model before and after this run, on the same images.</p>"]
    if classes := kept.get("classes"):
        rows = []
        for name, one in classes.items():
            box, mask = one["box"], one["mask"]
            change = None if None in mask else mask[1] - mask[0]
            word = "" if change is None else "kept" if change > -0.02 else "lost"
            rows.append(
                [
                    escape(name),
                    *(percent(value) for value in (*box, *mask)),
                    f"{100 * change:+.1f} {word}" if change is not None else "–",
                ]
            )
        heads = ["class", "box AP before", "after", "mask AP before", "after", "change"]
        blocks.append(table(heads, rows, right=(1, 2, 3, 4, 5)))
    agreement = kept.get("agreement") or {}
    if agreement.get("found"):
        blocks.append(
            f"<p>Of {agreement['found']:,} things that the start model found, {percent(agreement.get('kept'))} % are "
            f"found still; their masks overlap by {percent(agreement.get('mask_iou'))} %.</p>"
        )
    if components := kept.get("components"):
        rows = [
            [TITLES.get(name, name), f"{100 * one['change']:.2f} %", f"{one['moved']} of {one['tensors']}"]
            for name, one in components.items()
        ]
        blocks.append(table(["component", "weights moved by", "tensors changed"], rows, right=(1, 2)))
    if features := kept.get("features"):
        lines = [(name, float(value), f"{value:.3f}") for name, value in features.items()]
        note = "linear CKA: 1 is the same but for turning and scaling"
        blocks.append(charts.bars("Similarity of features", lines, note=note))
    return "\n".join(blocks)


def _samples(history: History) -> str:
    pictures = history.samples
    if not pictures:
        return ""
    steps = [int(one.stem.removeprefix("step-")) for one in pictures]
    score = {one["step"]: one["evaluation"]["mask"]["AP"] for one in history.evaluations}
    known = {step: value for step, value in score.items() if value is not None and step in steps}
    best = {"best": max(known, key=lambda step: known[step])} if known else {}
    blocks: list[str] = []
    for title, step in {**best, "last": steps[-1], "first": steps[0]}.items():
        if any(f"step {step:,}<" in block for block in blocks):
            continue
        path = pictures[steps.index(step)]
        blocks.append(figure(path, f"{title}: after step {step:,}", width=760, wide=True))
    of = "evaluated on" if history.evaluations else "trained on"
    return f"<h2>What it draws</h2>\n<p>On the first of the images that it was {of}.</p>\n" + "\n".join(blocks)


def _trains(recipe: Mapping[str, Any]) -> str:
    blocks = []
    for stage in recipe.get("trains", ()):
        rows = [
            [TITLES.get(one["component"], one["component"]), f"{one['training']:,}", f"{one['frozen']:,}", one["norms"]]
            for one in stage["parts"]
        ]
        whole = [sum(one[name] for one in stage["parts"]) for name in ("training", "frozen")]
        rows.append(["<b>all</b>", f"<b>{whole[0]:,}</b>", f"<b>{whole[1]:,}</b>", ""])
        place = f"steps {stage['first'] + 1:,} to {stage['end']:,}"
        blocks.append(f"<h3>{escape(stage['policy'])} <small>{place}</small></h3>")
        blocks.append(table(["component", "trains", "frozen", "batch norms"], rows, right=(1, 2)))
    return "<h2>What trained</h2>\n" + "\n".join(blocks) if blocks else ""


def _recipe(history: History) -> str:
    recipe = history.recipe
    changed: dict[str, tuple[Any, int]] = {}
    for told in history.told:
        changed |= {name: (value, told.step) for name, value in told.changes.items()}
    why = {one["field"]: one for one in recipe["derived"]}
    values = dict(recipe["recipe"])
    values |= {name: one["value"] for name, one in why.items() if values.get(name) is None}
    rows, rest = [], []
    for name, value in values.items():
        row = [f"<code>{escape(name)}</code>", plain(value)]
        if name in recipe["set"]:
            rows.append([*row, '<span class="how">set</span>', "by you"])
        elif name in why:
            rows.append([*row, '<span class="how implied">derived</span>', escape(why[name]["why"])])
        elif value not in (None, {}, []):
            rest.append(row)
        if name in changed:
            later, step = changed[name]
            reason = f"changed after step {step:,}, see the findings"
            rows.append([row[0], plain(later), '<span class="how assumed">changed</span>', reason])
    usual = recipe.get("usual_lr")
    note = f"<p>For this batch a learning rate of {usual:.4g} is usual.</p>" if usual else ""
    blocks = ["<h2>Recipe</h2>", note, table(["field", "value", "", "why"], rows)]
    blocks.append(
        f'<details class="component"><summary>{len(rest)} fields at their defaults</summary>'
        f"{table(['field', 'value'], rest)}</details>"
    )
    return "\n".join(blocks)
