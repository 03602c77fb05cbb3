"""A dataset in two or three parts, of which none knows what another holds.

mg.split_data("instances.json", "photos/", out="parts/", val=0.2)     # parts/instances_train.json, instances_val.json
"""

import json
import os
import secrets
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from maskgraft import coco, similarity
from maskgraft.coco import Dataset, ImageRecord
from maskgraft.errors import Finding, UsageError

Grouping = Literal["auto", "prefix", "folder", "none"]
_LARGEST = 0.1  # share of the images that one group may have for names to be taken as groups unasked
_FEWEST_GROUPS = 10


@dataclass(frozen=True, slots=True)
class Split:
    """What was written: by part the instances file, and how many images and instances of each class it has.

    `groups` is how many sets of images were kept together, `alike` how many pairs of images are alike, `grouping` by
    what else they were grouped.
    """

    annotations: dict[str, Path]
    images: dict[str, int]
    instances: dict[str, dict[str, int]]
    groups: int
    alike: int
    grouping: Grouping

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        return {
            "annotations": {part: str(path) for part, path in self.annotations.items()},
            "images": self.images,
            "instances": self.instances,
            "groups": self.groups,
            "alike": self.alike,
            "grouping": self.grouping,
        }


def split_data(
    annotations: str | Path,
    images: str | Path,
    *,
    out: str | Path,
    val: float = 0.2,
    test: float = 0.0,
    group: Grouping = "auto",
    seed: int = 0,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Split:
    """Split a COCO file by images into train, val and test; `val` and `test` are shares of the images.

    Images that are alike stay on one side, whatever they are called; so do those of one `group`: "prefix" (names
    without their last number: frames of one video), "folder", or "none" for neither. "auto" takes prefixes where they
    make ten groups or more of which none has over a tenth of the images. Each class is shared out as the images are,
    the rarest first (iterative stratification, Sechidis et al. 2011). The outcome depends on the data and `seed` alone.

    The instances files appear in the new folder `out` together or not at all. Raises `UsageError` when `out` exists or
    the shares leave nothing to train on, `DataError` as `mg.read_coco` does.
    """
    folder = Path(out)
    if folder.exists():
        raise UsageError(Finding("file.exists", "error", f"{folder} exists", fix="choose another folder"))
    if group not in (known := get_args(Grouping)):
        raise UsageError(
            Finding("spec.field", "error", f"group is {group!r}", ("group",), fix=f"one of {', '.join(known)}")
        )
    if not 0 <= val < 1 or not 0 <= test < 1 or not 0 < val + test < 1:
        message = f"val is {val} and test is {test}: shares between 0 and 1 that leave something to train on"
        raise UsageError(Finding("spec.field", "error", message, ("val", "test")))
    data = coco.read(annotations, images)
    prints = [similarity.fingerprint(image.path) for image in progress(data.images)]
    pairs = similarity.alike(prints)
    grouping, keys = _keys(data, Path(images), group)
    groups = _joined(len(data.images), [(one, other) for one, other, _ in pairs], keys)
    shares = {"train": 1 - val - test, "val": val, "test": test}
    parts = _shared_out(data, groups, {part: share for part, share in shares.items() if share > 0}, seed)
    if empty := [part for part, chosen in parts.items() if not chosen]:
        message = f"{len(data.images)} images in {len(groups)} groups leave {', '.join(empty)} without an image"
        fix = "larger shares" if len(groups) == len(data.images) else "larger shares, or --group none"
        raise UsageError(Finding("data.split", "error", message, tuple(empty), fix=fix))
    files = _write(
        Path(annotations), folder, {part: [data.images[i] for i in chosen] for part, chosen in parts.items()}
    )
    counts = {
        part: Counter(data.classes[one.label] for index in chosen for one in data.images[index].instances)
        for part, chosen in parts.items()
    }
    return Split(
        files,
        {part: len(chosen) for part, chosen in parts.items()},
        {part: {name: counts[part][name] for name in data.classes} for part in parts},
        len(groups),
        len(pairs),
        grouping,
    )


def _keys(data: Dataset, root: Path, group: Grouping) -> tuple[Grouping, list[str]]:
    """A key for each image, equal where images belong together; "" belongs to nothing."""
    prefixes = [image.path.stem.rstrip("0123456789").rstrip(" _-.") for image in data.images]
    if group == "auto":
        sizes = Counter(prefixes)
        usable = "" not in sizes and len(sizes) >= _FEWEST_GROUPS and max(sizes.values()) <= _LARGEST * len(prefixes)
        group = "prefix" if usable else "none"
    if group == "prefix":
        return group, [
            f"{image.path.parent}/{name}" if name else "" for image, name in zip(data.images, prefixes, strict=True)
        ]
    if group == "folder":
        return group, [str(image.path.parent) if image.path.parent != root else "" for image in data.images]
    return group, [""] * len(prefixes)


def _joined(count: int, pairs: Sequence[tuple[int, int]], keys: Sequence[str]) -> list[list[int]]:
    """Sets of images that are joined by pairs or by equal keys, by their first image."""
    root = list(range(count))

    def find(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    first: dict[str, int] = {}
    equal = [(first.setdefault(key, index), index) for index, key in enumerate(keys) if key]
    for one, other in [*pairs, *equal]:
        low, high = sorted((find(one), find(other)))
        root[high] = low
    groups = defaultdict[int, list[int]](list)
    for index in range(count):
        groups[find(index)].append(index)
    return list(groups.values())


def _shared_out(
    data: Dataset, groups: Sequence[list[int]], shares: dict[str, float], seed: int
) -> dict[str, list[int]]:
    """Groups given to parts, the rarest class first, each to the part that lacks most instances of it."""
    random = np.random.default_rng(seed)
    counts = np.zeros((len(groups), len(data.classes) + 1))
    for number, group in enumerate(groups):
        counts[number, -1] = len(group)
        for index in group:
            for one in data.images[index].instances:
                counts[number, one.label] += 1
    wanted = np.outer(list(shares.values()), counts.sum(0))
    waiting = random.permutation(len(groups)).tolist()
    parts: dict[str, list[int]] = {part: [] for part in shares}
    names = list(shares)
    while waiting:
        left = counts[waiting].sum(0)
        left[-1] = np.inf if left[:-1].any() else 1  # images without instances come last
        label = int(np.where(left > 0, left, np.inf).argmin())
        # large groups first: small ones can still balance what they upset
        chosen = sorted((one for one in waiting if counts[one, label]), key=lambda one: -counts[one, label])
        for number in chosen:
            # in instances and not in shares: of a class with a single one, that is in training
            part = max(range(len(names)), key=lambda one: (wanted[one, label], wanted[one, -1], -one))
            wanted[part] -= counts[number]
            parts[names[part]] += groups[number]
        given = set(chosen)
        waiting = [one for one in waiting if one not in given]
    return {part: sorted(chosen) for part, chosen in parts.items()}


def _write(source: Path, folder: Path, parts: dict[str, list[ImageRecord]]) -> dict[str, Path]:
    """The entries of the file as they are, those of each part's images."""
    entries = json.loads(source.read_text(encoding="utf-8-sig"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        temporary.mkdir()
        for part, images in parts.items():
            ids = {image.id for image in images}
            chosen = {
                **entries,
                "images": [one for one in entries["images"] if int(one["id"]) in ids],
                "annotations": [one for one in entries["annotations"] if int(one["image_id"]) in ids],
            }
            (temporary / f"instances_{part}.json").write_text(json.dumps(chosen), encoding="utf-8")
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {part: folder / f"instances_{part}.json" for part in parts}
