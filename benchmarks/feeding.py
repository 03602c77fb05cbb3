"""Photographs and masks to batches that a network can take, beside what torchvision's own training script does.

Theirs is the data path of its detection reference (https://github.com/pytorch/vision/tree/main/references/detection):
the dataset decodes polygons by pycocotools and mirrors, in worker processes; the model resizes and normalises images
and masks when they arrive. Ours does all of it in the workers; its masks are ready for the pooling of mask targets,
which takes them cut to their objects (`maskgraft.cutouts`).
"""

import contextlib
import copy
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.functional import to_tensor

import maskgraft as mg
from benchmarks import timing
from benchmarks.peers import SHARED, workplace
from benchmarks.timing import Row
from maskgraft import batches
from maskgraft.coco import Dataset
from maskgraft.preprocess import one_thread
from maskgraft.recipe import Recipe

BATCH = 2


def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    with workplace() as (folder, file):
        rows = loading(folder, file, workers=(2,) if quick else (0, 2), rounds=1 if quick else 3, bar="≥ 2×")
    timing.report("feeding", rows, quick=quick, out=out)


def loading(folder: Path, file: Path, *, workers: Sequence[int], rounds: int, bar: str) -> list[Row]:
    """An epoch of batches with each number of worker processes, the seconds being those of one image."""
    numerics = mg.load(file).spec.numerics
    annotations, photos = _data(folder)
    data = mg.read_coco(annotations, photos)
    reference = _Reference(data, annotations, photos)
    resize = GeneralizedRCNNTransform(
        numerics.min_size, numerics.max_size, list(numerics.pixel_mean), list(numerics.pixel_std)
    )
    told = _agreement(data, numerics, reference, resize)
    rows = []
    for number in workers:

        def ours(number: int = number) -> None:
            recipe = Recipe(batch=BATCH, workers=number, min_size=numerics.min_size, flip=0.5)
            for _ in batches.loader(data.images, numerics, recipe, epoch=0):
                pass

        def theirs(number: int = number) -> None:
            for images, targets in _theirs(reference, number):
                resize(images, targets)

        spent = timing.alternate(rounds, {"ours": ours, "theirs": theirs})
        many = len(data.images) // BATCH * BATCH
        work = f"decode, mirror, resize, masks ready: an image of 800 pixels, {number} workers"
        rows.append(Row(work, spent["ours"] / many, spent["theirs"] / many, "torchvision's reference", bar, told))
    return rows


def _data(folder: Path) -> tuple[Path, Path]:
    """COCO photographs with their truth where they are at hand, else shapes that are drawn into `folder`."""
    known = sorted(SHARED.rglob("coco_tiny/annotations/instances_train*.json"))
    if known:
        return known[0], known[0].parent.parent / "train2017"
    from maskgraft import shapes

    annotations = shapes.draw(folder / "shapes", images=24, seed=0, side=480)
    return annotations, annotations.parent


class _Reference(torch.utils.data.Dataset[tuple[Any, dict[str, Any]]]):
    """One image and its truth as torchvision's reference prepares them; `mirror` None: by lot."""

    def __init__(self, data: Dataset, annotations: Path, photos: Path) -> None:
        from pycocotools.coco import COCO

        with contextlib.redirect_stdout(io.StringIO()):
            self.api = COCO(str(annotations))
        self.ids = [image.id for image in data.images]
        self.photos = photos
        self.mirror: bool | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        from pycocotools import mask as coding

        known = self.api.loadImgs(self.ids[index])[0]
        image = Image.open(os.path.join(self.photos, known["file_name"])).convert("RGB")
        width, height = image.size
        truth = [one for one in self.api.loadAnns(self.api.getAnnIds(imgIds=[known["id"]])) if one["iscrowd"] == 0]
        boxes = torch.as_tensor([one["bbox"] for one in truth], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(min=0, max=width)
        boxes[:, 1::2].clamp_(min=0, max=height)
        drawn = []
        for one in truth:
            mask = coding.decode(coding.frPyObjects(one["segmentation"], height, width))
            mask = mask if mask.ndim == 3 else mask[..., None]
            drawn.append(torch.as_tensor(mask, dtype=torch.uint8).any(dim=2))
        masks = torch.stack(drawn) if drawn else torch.zeros((0, height, width), dtype=torch.uint8)
        pixels = to_tensor(image)
        if self.mirror if self.mirror is not None else torch.rand(()) < 0.5:
            pixels, masks = pixels.flip(-1), masks.flip(-1)
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        labels = torch.as_tensor([one["category_id"] for one in truth], dtype=torch.int64)
        return pixels, {"boxes": boxes, "labels": labels, "masks": masks}


def _theirs(reference: _Reference, workers: int) -> Iterator[tuple[list[Any], list[dict[str, Any]]]]:
    given = torch.utils.data.DataLoader(
        reference, BATCH, shuffle=True, drop_last=True, num_workers=workers, collate_fn=_apart
    )
    yield from given


def _apart(samples: list[tuple[Any, dict[str, Any]]]) -> tuple[list[Any], list[dict[str, Any]]]:
    return [pixels for pixels, _ in samples], [target for _, target in samples]


def _agreement(data: Dataset, numerics: Any, reference: _Reference, resize: Any) -> str:
    """Pixels and masks of the same images, not mirrored."""
    recipe = Recipe(batch=1, flip=0.0, min_size=numerics.min_size)
    apart, wrong, total = 0.0, 0, 0
    plain = copy.copy(reference)
    plain.mirror = False
    with one_thread():
        for index, record in enumerate(data.images[:8]):
            ours = batches.sample(record, numerics, recipe, 0)
            pixels, target = plain[index]
            images, targets = resize([pixels], [target])
            height, width = images.image_sizes[0]
            apart = max(apart, float((images.tensors[0, :, :height, :width] - ours.prepared.pixels).abs().max()))
            masks = np.asarray(targets[0]["masks"]).astype(bool)
            wrong += int((masks != ours.target.masks.planes()).sum())
            total += int(masks.sum())
    return f"pixels within {apart:.0e}, {wrong:,} of {total:,} mask pixels differ"
