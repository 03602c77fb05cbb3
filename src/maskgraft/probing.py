"""Which conventions fit: the alternatives to what was assumed, tried on a few photographs, with their scores."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from maskgraft import coco
from maskgraft.detections import Detections
from maskgraft.errors import DataError, Finding, UsageError
from maskgraft.graft import load, rebuilt
from maskgraft.images import load_image
from maskgraft.model import MaskRCNN
from maskgraft.ops.boxes import iou
from maskgraft.spec import Learned, Numerics, Spec

_BEST = 10  # detections of an image that count where nothing is labelled
_CLEARLY = 1.05  # an alternative must be so many times as good as what was assumed

# What pixels become before the network sees them, in RGB: by whom, scale, mean, deviation.
_PIXELS: tuple[tuple[str, float, tuple[float, ...], tuple[float, ...]], ...] = (
    ("torchvision", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("Caffe", 1.0, (123.675, 116.28, 103.53), (1.0, 1.0, 1.0)),
    ("MMDetection", 1.0, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ("-1 to 1", 1 / 127.5, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    ("0 to 1", 1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
)
_EPS = (0.0, 1e-5, 1e-3)


@dataclass(frozen=True, slots=True)
class Trial:
    """One alternative: which convention, the fields of `Numerics` that it changes, and how well it did.

    `score` is 0..1: with labels, the mean over labelled objects of score × overlap of the best detection of their
    class; without, the mean score of the ten best detections of each image.
    """

    convention: str
    name: str
    changes: Mapping[str, Any]
    score: float
    assumed: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """The answer of `probe`: every trial, and the `spec` with what fits best, each field with how it was learned."""

    spec: Spec
    trials: tuple[Trial, ...]
    labelled: bool
    images: int
    model: MaskRCNN = field(repr=False)

    @property
    def chosen(self) -> Mapping[str, Trial]:
        """The best trial of each convention."""
        best: dict[str, Trial] = {}
        for trial in self.trials:
            held = best.get(trial.convention)
            if held is None or trial.score > held.score * (_CLEARLY if held.assumed else 1):
                best[trial.convention] = trial
        return best

    def as_json(self) -> dict[str, Any]:
        """The answer as plain JSON types; the keys are stable."""
        chosen = self.chosen
        return {
            "labelled": self.labelled,
            "images": self.images,
            "trials": [
                {
                    "convention": trial.convention,
                    "name": trial.name,
                    "changes": dict(trial.changes),
                    "score": trial.score,
                    "assumed": trial.assumed,
                    "fits": chosen[trial.convention] is trial,
                }
                for trial in self.trials
            ],
        }


def probe(
    path: str | Path,
    images: str | Path,
    annotations: str | Path | None = None,
    *,
    config: str | Path | None = None,
    key: str | None = None,
    numerics: Mapping[str, Any] | None = None,
    limit: int = 4,
    every: bool = False,
    progress: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> Probe:
    """Try the alternatives to every convention that no file states, on `limit` photographs, one convention at a time.

        found = mg.probe("model.pth", "photos/", "labels.json")
        found.chosen["channel order"].name, found.chosen["channel order"].score
        mg.save(found.model, "model")                 # with what fits

    With COCO `annotations`, whose class names are those of the file, the labelled objects judge; without, the
    detector's own confidence does, which a wrong input lowers. What was assumed stays unless another is better by a
    twentieth. `numerics` are settled, as in `load`; a small `min_size` makes it quick. `every` also tries what the
    file's family implies or a config states. Raises `DataError` without a photograph, and `UsageError` where the labels
    have no class of the file.
    """
    if limit < 1:
        raise UsageError(Finding("spec.field", "error", f"limit is {limit}; it is a number of photographs, 1 at least"))
    model = load(path, config=config, key=key, numerics=numerics)
    shown = _shown(Path(images), annotations, limit)
    if annotations is not None:
        _check_classes(model.spec, shown, annotations)
    open_questions = [
        (convention, options)
        for convention, fields, options in _conventions(model.spec.numerics)
        if every or any(_how(model.spec, name) == "assumed" for name in fields)
    ]
    settled = model.spec
    trials: list[Trial] = []
    for convention in progress([name for name, _ in open_questions]):
        options = dict(open_questions)[convention]
        mine = [
            Trial(convention, name, changes, _score(model, settled, changes, shown), not changes)
            for name, changes in options
        ]
        trials += mine
        found = Probe(settled, tuple(mine), annotations is not None, len(shown), model).chosen[convention]
        source = f"probed on {len(shown)} photographs: {found.score:.3f}, others up to {_second(mine, found):.3f}"
        if found.changes:
            settled = settled.with_numerics(found.changes, source)
        else:
            fields = {name for _, changes in options for name in changes}
            learned = {**settled.learned, **{f"numerics.{name}": Learned("implied", source) for name in fields}}
            settled = replace(settled, learned=learned)
    return Probe(settled, tuple(trials), annotations is not None, len(shown), rebuilt(model, settled))


def _how(spec: Spec, name: str) -> str:
    learned = spec.learned.get(f"numerics.{name}")
    return learned.how if learned else "read"


def _second(trials: Sequence[Trial], best: Trial) -> float:
    return max((trial.score for trial in trials if trial is not best), default=0.0)


def _conventions(given: Numerics) -> list[tuple[str, tuple[str, ...], list[tuple[str, dict[str, Any]]]]]:
    """Each convention: its fields, and the alternatives by name; the first, without changes, is what is taken now."""
    other = "bgr" if given.channel_order == "rgb" else "rgb"
    swapped = {
        "channel_order": other,
        "pixel_mean": given.pixel_mean[::-1],
        "pixel_std": given.pixel_std[::-1],
    }
    pixels: list[tuple[str, dict[str, Any]]] = [("as it is", {})]
    turn = slice(None, None, -1 if given.channel_order == "bgr" else 1)
    for name, scale, mean, std in _PIXELS:
        changes = {"pixel_scale": scale, "pixel_mean": mean[turn], "pixel_std": std[turn]}
        if any(_differ(getattr(given, field), value) for field, value in changes.items()):
            pixels.append((name, changes))
    stride = "3x3" if given.stride_in == "1x1" else "1x1"
    eps = [(f"{value:g}", {"norm_eps": value}) for value in _EPS if value != given.norm_eps]
    return [
        ("pixel scale", ("pixel_scale", "pixel_mean", "pixel_std"), pixels),
        ("channel order", ("channel_order",), [(given.channel_order, {}), (other, swapped)]),
        ("stride", ("stride_in",), [(given.stride_in, {}), (stride, {"stride_in": stride})]),
        ("norm eps", ("norm_eps",), [(f"{given.norm_eps:g}", {}), *eps]),
        (
            "region alignment",
            ("roi_aligned",),
            [
                ("aligned" if given.roi_aligned else "not aligned", {}),
                ("not aligned" if given.roi_aligned else "aligned", {"roi_aligned": not given.roi_aligned}),
            ],
        ),
    ]


def _differ(one: Any, other: Any) -> bool:
    ones, others = (value if isinstance(value, tuple) else (value,) for value in (one, other))
    return any(abs(a - b) > 0.02 * max(abs(a), abs(b), 1e-3) for a, b in zip(ones, others, strict=True))


@dataclass(frozen=True, slots=True)
class _Shown:
    image: Any
    names: tuple[str, ...]
    boxes: torch.Tensor


def _shown(images: Path, annotations: str | Path | None, limit: int) -> list[_Shown]:
    if annotations is not None:
        data = coco.read(annotations, images)
        records = data.trainable()[:limit]
        if not records:
            raise DataError(Finding("train.no-instances", "error", f"{annotations} labels no object"))
        found = []
        for record in records:
            truth = coco.truth(record)
            names = tuple(data.classes[label] for label in truth.labels)
            found.append(_Shown(record.load(), names, torch.from_numpy(truth.boxes)))
        return found
    files = sorted(one for one in images.iterdir() if one.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp"))
    if not files:
        raise DataError(Finding("data.folder", "error", f"{images} holds no pictures"))
    return [_Shown(load_image(one), (), torch.zeros(0, 4)) for one in files[:limit]]


def _check_classes(spec: Spec, shown: Sequence[_Shown], annotations: str | Path) -> None:
    labelled = {name for one in shown for name in one.names}
    if not labelled & set(spec.classes):
        message = (
            f"none of the classes labelled in {annotations} ({', '.join(sorted(labelled)[:5])}) is one of the file's "
            f"({', '.join(spec.classes[:5])} …)"
        )
        raise UsageError(Finding("shape.classes", "error", message, fix="probe without --annotations"))


def _score(model: MaskRCNN, spec: Spec, changes: Mapping[str, Any], shown: Sequence[_Shown]) -> float:
    tried = rebuilt(model, spec.with_numerics({**changes, "score_threshold": 0.0}))
    scores: list[float] = []
    for one in shown:
        found = tried.predict([one.image])[0]
        scores += _of_labels(found, one, spec.classes) if one.names else [_confidence(found)]
    return sum(scores) / len(scores)


def _of_labels(found: Detections, one: _Shown, classes: Sequence[str]) -> list[float]:
    """For each labelled object of a class of the file, score × overlap of the detection that tells it best."""
    result = []
    for name, box in zip(one.names, one.boxes, strict=True):
        if name in classes:
            same = found.labels == classes.index(name)
            told = found.scores[same] * iou(box[None], found.boxes[same])[0]
            result.append(float(told.max()) if len(told) else 0.0)
    return result


def _confidence(found: Detections) -> float:
    best = found.scores[:_BEST]
    return float(best.mean()) if len(best) else 0.0
