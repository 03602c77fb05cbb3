"""Verbs that run a model: predict, evaluate, train, demo. torch is imported when one of them is called."""

import json
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from maskgraft.cli import options
from maskgraft.cli.show import bar, console, print_json, table
from maskgraft.errors import DataError, Finding, UsageError

_PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"}


def load_model(
    checkpoint: Path,
    config: Path | None,
    key: str | None,
    family: str | None,
    settings: list[str] | None,
    classes: str | None,
    device: str = "cpu",
) -> Any:
    """The model that a verb is given, on the device. Raises `UsageError` for a device that is not there."""
    import torch

    from maskgraft.graft import load

    try:
        place = torch.device(device)
    except RuntimeError:
        raise UsageError(Finding("spec.field", "error", f"--device {device} is none that torch knows")) from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(Finding("spec.field", "error", f"--device {device}: torch sees no GPU", fix="--device cpu"))
    model = load(
        checkpoint,
        config=config,
        key=key,
        family=family,
        numerics=options.numerics(settings),
        classes=options.names(classes),
    )
    return model.to(place)


def _images(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in _PICTURES) if path.is_dir() else [path]
        if not inside:
            raise DataError(Finding("data.folder", "error", f"{path} holds no pictures"))
        found += inside
    missing = [path for path in found if not path.is_file()]
    if missing:
        raise DataError([Finding("data.image-missing", "error", f"there is no image {path}") for path in missing])
    return found


def predict(
    checkpoint: options.Checkpoint,
    images: Annotated[list[Path], typer.Argument(help="Image files or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures and detections.json.")] = Path("predictions"),
    threshold: Annotated[float, typer.Option(help="Draw what scores at least this.")] = 0.5,
    config: options.Config = None,
    key: options.Key = None,
    family: options.FamilyName = None,
    settings: options.Set = None,
    classes: options.Classes = None,
    device: options.Device = "cpu",
    as_json: options.Json = False,
) -> None:
    """Find instances in images; write a picture of each and all detections as JSON."""
    paths = _images(images)
    model = load_model(checkpoint, config, key, family, settings, classes, device)

    from maskgraft import draw
    from maskgraft.files.writing import atomic
    from maskgraft.images import load_image

    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for path in bar(paths, "predict", quiet=as_json):
        image = load_image(path)
        found = model.predict([image])[0]
        picture = out / f"{path.stem}.jpg"
        with atomic(picture) as temporary:
            draw.detections(image, found, model.spec.classes, threshold=threshold).save(temporary, quality=92)
        entries.append({"image": str(path), "picture": str(picture), "detections": found.as_json(model.spec.classes)})
    with atomic(out / "detections.json") as temporary:
        temporary.write_text(json.dumps(entries, indent=1))
    if as_json:
        print_json(entries)
        return
    rows = []
    for entry in entries:
        shown = [one for one in entry["detections"] if one["score"] >= threshold]
        counts = {name: sum(one["class"] == name for one in shown) for name in dict.fromkeys(o["class"] for o in shown)}
        what = ", ".join(f"{count} {name}" for name, count in counts.items()) or f"nothing above {threshold}"
        rows.append((Path(entry["image"]).name, what, entry["picture"]))
    console().print(table("", ("image", "found", "picture"), rows))


def evaluate(
    checkpoint: options.Checkpoint,
    annotations: Annotated[Path, typer.Option(help="COCO instances JSON.")],
    images: Annotated[Path, typer.Option(help="Folder of the images.")],
    limit: Annotated[int | None, typer.Option(help="Only the first images.")] = None,
    results: Annotated[Path | None, typer.Option(help="Write the detections here, in COCO's results format.")] = None,
    why: Annotated[
        bool, typer.Option("--why", help="Also which stage loses the objects, and what mending each would add.")
    ] = False,
    config: options.Config = None,
    key: options.Key = None,
    family: options.FamilyName = None,
    settings: options.Set = None,
    classes: options.Classes = None,
    device: options.Device = "cpu",
    as_json: options.Json = False,
) -> None:
    """Box and mask AP of a checkpoint on a COCO-format dataset."""
    from maskgraft import coco

    dataset = coco.read(annotations, images)
    model = load_model(checkpoint, config, key, family, settings, classes, device)

    from maskgraft import evaluation, shortfalls
    from maskgraft.cli.tables import metrics_tables, shortfall_tables

    def watched(all_: Sequence[Any]) -> Iterable[Any]:
        return bar(all_, "evaluate", quiet=as_json)

    short = None
    if why:
        short = shortfalls.shortfall(model, dataset, limit=limit, results=results, progress=watched)
    metrics = (
        short.metrics if short else evaluation.evaluate(model, dataset, limit=limit, results=results, progress=watched)
    )
    if as_json:
        print_json({**metrics.as_json(), **({"shortfall": short.as_json()} if short else {})})
        return
    for one in [*metrics_tables(metrics), *(shortfall_tables(short) if short else ())]:
        console().print(one)
    if metrics.unmatched:
        console().print(f"not in the dataset: {', '.join(metrics.unmatched[:10])}", style="dim")


def train(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint of any family, or a folder that maskgraft saved; with --from-scratch resnet50, "
            "resnet101, resnet18 or small."
        ),
    ],
    annotations: Annotated[Path, typer.Option(help="COCO instances JSON to train on.")],
    images: Annotated[Path, typer.Option(help="Folder of the images.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; must not exist, unless --resume.")],
    val_annotations: options.ValAnnotations = None,
    val_images: options.ValImages = None,
    recipe: Annotated[Path | None, typer.Option(help="Recipe file, TOML or JSON; the options below win.")] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Random weights, nothing frozen, and the recipe that they need.")
    ] = False,
    from_backbone: Annotated[
        bool, typer.Option("--from-backbone", help="The recipe for a file of which only the backbone has learnt.")
    ] = False,
    norm: Annotated[str | None, typer.Option(help="With --from-scratch: gn, syncbn or bn.")] = None,
    init: Annotated[str | None, typer.Option(help="With --from-scratch: kaiming or xavier.")] = None,
    policy: Annotated[str | None, typer.Option(help="What trains: heads, all, 3+, 4+, 5+, predictors …")] = None,
    stages: Annotated[
        str | None, typer.Option(help='One after the other, such as "heads:2ep@1e-3, 4+:4ep@3e-4, all:600st".')
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images.")] = None,
    steps: Annotated[int | None, typer.Option(help="Stop after so many steps.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step, over all processes.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Parts of a batch, for want of memory.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, bf16 or fp16.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of a running mean of the weights, which is kept.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; else derived, and said.")] = None,
    multiplier: Annotated[
        list[str] | None,
        typer.Option(metavar="COMPONENT=FACTOR", help="Multiple of lr, such as backbone=0.1; or gentle, a preset."),
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, adamw, or another of torch.optim.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, step, cosine, one-cycle or plateau.")] = None,
    min_size: Annotated[int | None, typer.Option(help="Short side of the images in training, pixels.")] = None,
    max_size: Annotated[int | None, typer.Option(help="Longest side, pixels.")] = None,
    clip_norm: Annotated[float | None, typer.Option(help="Largest norm of the gradient.")] = None,
    l2sp: Annotated[float | None, typer.Option(help="Pull of the weights towards their start, such as 0.01.")] = None,
    distil: Annotated[
        float | None, typer.Option(help="Weight of answering as the start model does on the new images, such as 1.")
    ] = None,
    complete: Annotated[
        float | None,
        typer.Option(help="Least score of what the start model finds of classes that are not labelled, such as 0.5."),
    ] = None,
    fresh_rows: Annotated[
        float | None, typer.Option(help="Multiple of lr of class rows that start from nothing, such as 10.")
    ] = None,
    replay_annotations: Annotated[
        Path | None, typer.Option(help="COCO instances JSON of old images to mix in, so that they are not forgotten.")
    ] = None,
    replay_images: Annotated[Path | None, typer.Option(help="Their folder; else that of --images.")] = None,
    replay: Annotated[float | None, typer.Option(help="Part of each batch that is replayed; else a quarter.")] = None,
    retention: Annotated[
        int | None, typer.Option(help="Images on which the end tells what was kept: 8; 0 does not tell.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that load images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything that is drawn.")] = None,
    doctor: Annotated[
        str, typer.Option(help="warn: looks on and tells; stop: ends at an error; fix: changes what is safe; off.")
    ] = "warn",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Event files in the run's folder too.")] = False,
    fields: Annotated[
        list[str] | None,
        typer.Option("--field", metavar="NAME=VALUE", help="Any other field of a recipe, such as flip=0. Repeatable."),
    ] = None,
    classes: options.Classes = None,
    synonyms: Annotated[
        Path | None, typer.Option(help='TOML or JSON of classes that a file calls otherwise: human = ["person"].')
    ] = None,
    rows_from: Annotated[
        list[Path] | None, typer.Option(help="Further checkpoints of the same network, for rows that it lacks.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last saved step.")] = False,
    config: options.Config = None,
    key: options.Key = None,
    family: options.FamilyName = None,
    settings: options.Set = None,
    device: options.Device = "cpu",
    as_json: options.Json = False,
) -> None:
    """Train a checkpoint on a COCO-format dataset. Class rows are kept by name, new classes start afresh.

    The model gets the classes of the dataset, with --complete those of the checkpoint too, or those of --classes. At
    the end, a table tells what was kept of what it knew.
    """
    from maskgraft import coco
    from maskgraft import recipe as recipes

    values = recipes.read(recipe).model_dump(exclude_unset=True) if recipe else {}
    given = {
        "policy": policy,
        "from_scratch": from_scratch or None,
        "from_backbone": from_backbone or None,
        "l2sp": l2sp,
        "distil": distil,
        "complete": complete,
        "fresh_rows": fresh_rows,
        "replay": replay,
        "retention": retention,
        "stages": stages,
        "accumulate": accumulate,
        "precision": precision,
        "ema": ema,
        "tensorboard": tensorboard or None,
        "epochs": epochs,
        "steps": steps,
        "batch": batch,
        "lr": lr,
        "optimizer": optimizer,
        "schedule": schedule,
        "min_size": min_size,
        "max_size": max_size,
        "clip_norm": clip_norm,
        "workers": workers,
        "seed": seed,
        "multipliers": _multipliers(multiplier),
        **(options.numerics(fields, "--field") or {}),
    }
    chosen = recipes.recipe_from({**values, **{name: value for name, value in given.items() if value is not None}})
    wanted = options.names(classes)
    completes = chosen.complete is not None
    # classes that this file does not list may be in another, or in the checkpoint
    partly = completes or chosen.distil > 0 or replay_annotations is not None
    data = coco.read(annotations, images, classes=_listed(annotations, wanted) if partly else wanted)
    val = None
    if val_annotations:
        every = wanted if completes else wanted or data.classes
        judged = _listed(val_annotations, every) if partly else data.classes
        val = coco.read(val_annotations, val_images or images, classes=judged)
    old = coco.read(replay_annotations, replay_images or images) if replay_annotations else None

    import torch

    from maskgraft import processes
    from maskgraft.class_surgery import with_classes
    from maskgraft.graft import load

    with processes.joined(device) as place:
        torch.manual_seed(chosen.seed)  # random weights are drawn too
        names = tuple(wanted or data.classes)
        if chosen.from_scratch:
            model = _random(checkpoint, names, norm, init, settings).to(place)
        else:
            _check_scratch_options(norm, init)
            model = load_model(checkpoint, config, key, family, settings, None, place)
            if completes and wanted is None:
                names = tuple(dict.fromkeys((*model.spec.classes, *data.classes)))
            _check_known(names, [*data.classes, *(old.classes if old else ()), *model.spec.classes], annotations)
        if tuple(model.spec.classes) != names:
            torch.manual_seed(chosen.seed)  # and new rows
            others = [load(path, family=family) for path in rows_from or ()]
            model = with_classes(model, names, synonyms=options.synonyms(synonyms), others=others).to(place)
        _train(
            model,
            data,
            val,
            chosen,
            out,
            replay=old,
            resume=resume,
            doctor=doctor,
            quiet=as_json or not processes.leads(),
            as_json=as_json,
        )


def _multipliers(given: Sequence[str] | None) -> Any:
    """Multiples of lr by component: the preset, single ones, or the preset with single ones beside it."""
    from maskgraft.recipe import GENTLE

    own = options.numerics([one for one in given or () if one != "gentle"], "--multiplier")
    if given and "gentle" in given:
        return {**GENTLE, **own} if own else "gentle"
    return own


def _listed(path: Path, wanted: Sequence[str] | None) -> Sequence[str] | None:
    """Of some classes those that a file lists; all of them where it lists none, which the reading then tells."""
    from maskgraft import coco

    known = coco.class_names(path) if wanted else ()
    return [name for name in wanted or () if name in known] or wanted


def _check_known(names: Sequence[str], known: Sequence[str], annotations: Path) -> None:
    if unknown := [name for name in names if name not in known]:
        near = get_close_matches(unknown[0], known, 1)
        message = f"neither {annotations} nor the checkpoint knows {', '.join(unknown[:8])}"
        fix = f"did you mean {near[0]}?" if near else f"of {', '.join(dict.fromkeys(known))}"
        raise UsageError(Finding("data.classes-unknown", "error", message, tuple(unknown), fix=fix))


def _random(name: Path, classes: Sequence[str], norm: str | None, init: str | None, settings: list[str] | None) -> Any:
    """A model of random weights, of the architecture that stands where a checkpoint would."""
    from maskgraft.scratch import ARCHS, from_scratch

    if str(name) not in ARCHS:
        message = f"--from-scratch takes an architecture, and {name} is none"
        fix = f"one of {', '.join(ARCHS)}; or leave --from-scratch out to begin from the file"
        raise UsageError(Finding("spec.field", "error", message, fix=fix))
    kinds: dict[str, Any] = {key: value for key, value in (("norm", norm), ("init", init)) if value is not None}
    return from_scratch(str(name), classes, numerics=options.numerics(settings), **kinds)


def _check_scratch_options(norm: str | None, init: str | None) -> None:
    given = [name for name, value in (("--norm", norm), ("--init", init)) if value is not None]
    if given:
        message = f"{' and '.join(given)} can only stand beside --from-scratch; a checkpoint has its own"
        raise UsageError(Finding("spec.field", "error", message))


def _train(
    model: Any,
    data: Any,
    val: Any,
    recipe: Any,
    out: Path,
    *,
    replay: Any,
    resume: bool,
    doctor: Any,
    quiet: bool,
    as_json: bool,
) -> None:
    from maskgraft import processes
    from maskgraft.cli.progress import Watch
    from maskgraft.cli.tables import retention_tables
    from maskgraft.training import train as run_training
    from maskgraft.watching import Stopped

    out_console = console(quiet=quiet)
    _print_rows(model, out_console)
    with Watch(out_console) as watch:
        try:
            run = run_training(
                model, data, recipe, out=out, val=val, replay=replay, resume=resume, watcher=watch, doctor=doctor
            )
        except Stopped:
            if processes.leads():
                raise
            raise typer.Exit(2) from None
        except KeyboardInterrupt as stopped:
            watch.stop()
            told = str(stopped) or f"stopped at once; the last saved step is in {out / 'last'}"
            out_console.print(f"{told}: go on with --resume")
            raise
        watch.ended(run.metrics)
    if as_json and processes.leads():
        metrics = run.metrics.as_json() if run.metrics else None
        print_json(
            {
                "run": str(out),
                "steps": run.steps,
                "best_mask_ap": run.best,
                "metrics": metrics,
                "frozen": run.frozen,
                "findings": [finding.as_json() for finding in run.findings],
                "retention": run.retention.as_json() if run.retention else None,
            }
        )
    else:
        out_console.print(
            f"{run.steps} steps; weights in {out / 'last'}" + (f", best in {out / 'best'}" if val else "")
        )
        if run.frozen:
            out_console.print(f"{run.frozen} frozen tensors are the same as before, byte for byte")
        for one in retention_tables(run.retention) if run.retention else ():
            out_console.print(one)


def _print_rows(model: Any, out: Any) -> None:
    """Which class rows were kept and which start afresh."""
    if model.graft is None:
        total = sum(one.numel() for one in model.parameters())
        out.print(f"random weights: {total:,} numbers, none frozen, norms of the kind {model.spec.arch.norm!r}")
        return
    kept = [
        row.name + (f" (there: {row.called})" if row.called else "") + (f" (from {row.path.name})" if row.path else "")
        for row in model.graft.rows
        if row.source is not None
    ]
    new = [row.name for row in model.graft.rows if row.source is None]
    for what, names in (("kept", kept), ("new", new), ("dropped", model.graft.dropped)):
        if names:
            out.print(f"{len(names)} classes {what}: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}")
