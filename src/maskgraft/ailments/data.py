"""What the check of a dataset finds, as it matters to a training of this model."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from maskgraft import similarity
from maskgraft.ailments.knowledge import known
from maskgraft.class_surgery import plain
from maskgraft.coco import Dataset, ImageRecord
from maskgraft.data_checking import check_data
from maskgraft.errors import Finding
from maskgraft.model import MaskRCNN
from maskgraft.recipe import Recipe

_OPENED = 400  # images that are opened; of more, so many evenly spread
_PATIENCE = 15.0  # seconds for opening them
_ELSEWHERE = {"data.anchors", "data.box-small"}  # measured at the size of the training
_PER_INSTANCE = (
    "data.box-tiny data.box-huge data.box-mask data.box-outside data.box-empty data.mask-crossing "
    "data.duplicate-instance data.duplicate-id"
).split()
# worth knowing of a dataset, but what every real one has, and no training is stuck for
_HARMLESS = ("data.class-imbalance", "data.crowds", "data.many-instances", "data.duplicate-image", "data.area")
_COPIES = 0.3  # share of images beyond which copies of each other are no chance
_SLIPS = 0.02  # share of instances: fewer are slips, which training survives


def examine(model: MaskRCNN, data: Dataset, val: Dataset | None, recipe: Recipe) -> list[Finding]:
    """Findings about the annotations, the images and the classes."""
    images = spread(data.images, _OPENED)
    opened = replace(data, images=images) if len(images) < len(data.images) else data
    few = val is None or len(data.images) + len(val.images) <= _OPENED
    report = check_data(data, val=val, spec=model.spec)
    deep = check_data(opened, val=val if few else None, open_images=True, progress=_for_a_while)
    found = [one for one in report.findings if one.code not in _ELSEWHERE]
    told = {(one.code, one.message) for one in found}
    found += [
        one
        for one in deep.findings
        if (one.code, one.message) not in told
        and one.code.startswith(("data.image", "data.leak", "data.exif", "data.duplicate"))
    ]
    if val is not None and not few:
        found += _same_files(data, val)
    instances = sum(len(image.instances) for image in data.images)
    found = [_weighed(one, instances, len(data.images)) for one in found]
    return [*found, *_absent(model, data, recipe), *_spelt(model)]


def impossible(data: Dataset) -> Finding | None:
    """Instances of which no target can be made: boxes not finite or without area, labels beyond the classes."""
    odd = {}
    for image in data.images:
        for one in image.instances:
            x1, y1, x2, y2 = one.box
            if not all(map(math.isfinite, one.box)) or x2 <= x1 or y2 <= y1:
                odd[image.path.name] = f"box {x1:g} {y1:g} {x2:g} {y2:g}"
            elif not 0 <= one.label < len(data.classes):
                odd[image.path.name] = f"label {one.label} of {len(data.classes)} classes"
    if not odd:
        return None
    told = "; ".join(f"{name}: {what}" for name, what in list(odd.items())[:5])
    of_labels = all("label" in what for what in odd.values())
    return Finding(
        "train.labels" if of_labels else "train.boxes",
        "error",
        f"{data.path}: {len(odd)} images have instances that are none: {told}{' …' if len(odd) > 5 else ''}",
        names=tuple(odd),
        evidence=dict(list(odd.items())[:20]),
        effect="the loss is NaN in the step that meets them",
        fix="correct or leave out these annotations",
    )


def spread(images: Sequence[ImageRecord], most: int) -> tuple[ImageRecord, ...]:
    """At most so many images, evenly spread over all."""
    step = max(1, -(-len(images) // most))
    return tuple(images[::step])


def _for_a_while(things: Iterable[Any]) -> Iterator[Any]:
    """The things, as many as come in `_PATIENCE` seconds: from a slow disk not all images are opened."""
    begin = time.monotonic()
    for one in things:
        yield one
        if time.monotonic() - begin > _PATIENCE:
            return


def _weighed(finding: Finding, instances: int, images: int) -> Finding:
    """A finding as grave as what it does to a training: slips are information, and a class without images is none."""
    count = finding.evidence.get("count", 0)
    if finding.code == "data.class-empty":
        return replace(
            finding,
            severity="warning",
            effect="their rows learn only that they are never there; the model will not find them, or forget them",
            fix="leave them out: --classes with the names that have instances",
        )
    if finding.code in _HARMLESS and not (finding.code == "data.duplicate-image" and count > _COPIES * images):
        return replace(finding, severity="info")
    if finding.severity == "warning" and finding.code in _PER_INSTANCE and count < max(2, _SLIPS * instances):
        return replace(finding, severity="info")
    return finding


def _same_files(data: Dataset, val: Dataset) -> Iterator[Finding]:
    """Files of training and validation that are the same to the byte, found by their sizes first."""
    sizes: dict[int, list[ImageRecord]] = {}
    for image in data.images:
        if image.path.is_file():
            sizes.setdefault(image.path.stat().st_size, []).append(image)
    same = []
    for image in val.images:
        near = sizes.get(image.path.stat().st_size, []) if image.path.is_file() else []
        mine = similarity.fingerprint(image.path) if near else None
        for one in near:
            other = similarity.fingerprint(one.path)
            if mine is not None and other is not None and mine.exact == other.exact:
                same.append(f"{one.path.name} = {image.path.name}")
    if same:
        yield Finding(
            "data.leak",
            "warning",
            f"{data.path}: {len(same)} × images are the same file, once for training and once for validation: "
            f"{'; '.join(same[:5])}",
            names=tuple(same),
            evidence={"count": len(same)},
            fix="`maskgraft data split` keeps them on one side",
        )


def _absent(model: MaskRCNN, data: Dataset, recipe: Recipe) -> Iterator[Finding]:
    """Classes that the model has learnt and the data never shows: they are forgotten unless something holds them."""
    seen = Counter(data.classes[one.label] for image in data.images for one in image.instances)
    rows = known(model)
    lost = [name for index, name in enumerate(model.spec.classes) if index in rows and not seen[name]]
    present = [name for name in data.classes if seen[name]]
    if not lost or recipe.distil or not present or set(lost) <= set(data.classes):
        return
    held = recipe.l2sp > 0
    yield Finding(
        "train.forgetting",
        "info" if held else "warning",
        f"{len(lost)} of the {len(model.spec.classes)} classes that the model knows have no instance in {data.path}: "
        f"{', '.join(lost[:6])}{' …' if len(lost) > 6 else ''}",
        names=tuple(lost),
        evidence={"known": len(rows), "absent": len(lost), "l2sp": recipe.l2sp, "distil": recipe.distil},
        effect="where they stand in the new images they are taught as background: the model forgets them",
        fix="distil=1 (and l2sp=0.01) in the recipe, or images of the old classes among the new; `mg.retention` "
        "measures",
    )


def _spelt(model: MaskRCNN) -> Iterator[Finding]:
    """Classes that start afresh, though the file has them under a name that is spelt a little otherwise."""
    if model.graft is None:
        return
    there = {plain(name): name for name in model.graft.dropped}
    meant = {
        row.name: there[plain(row.name)] for row in model.graft.rows if row.source is None and plain(row.name) in there
    }
    if meant:
        told = ", ".join(f"{new} (there: {old})" for new, old in list(meant.items())[:8])
        yield Finding(
            "data.class-names",
            "warning",
            f"{len(meant)} classes start afresh that {model.graft.path} has in another spelling: {told}",
            names=tuple(meant),
            evidence=meant,
            effect="what the file knows of them is thrown away",
            fix="name the categories as the checkpoint does",
        )
