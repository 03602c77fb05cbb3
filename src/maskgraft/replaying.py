"""Old images mixed into a training, so that what they teach is not forgotten.

    mg.train(model, new, mg.Recipe(replay=0.25), out="runs/grown", replay=old)

A quarter of each batch comes from `old`. An epoch is a pass over the new images, and each draws other old ones.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from maskgraft.coco import Dataset, ImageRecord
from maskgraft.errors import Finding, UsageError
from maskgraft.recipe import Recipe


def records(data: Dataset, replay: Dataset | None, classes: Sequence[str]) -> tuple[tuple[ImageRecord, ...], int]:
    """What is trained on, new images first, and how many of the last are replayed ones.

    Labels of replayed images follow those of `data`. What is no instance of `classes`, the model's, is left out.
    """
    new = data.trainable()
    if replay is None:
        return new, 0
    old = []
    for image in replay.images:
        kept = [one for one in image.annotations if replay.classes[one.label] in classes]
        if any(not one.crowd for one in kept):
            shifted = tuple(replace(one, label=one.label + len(data.classes)) for one in kept)
            old.append(replace(image, annotations=shifted))
    return (*new, *old), len(old)


def labels(data: Dataset, replay: Dataset | None, classes: Sequence[str]) -> Tensor:
    """The model's label of each label of `records`, int64; -1 where the model lacks the class and none is left."""
    names = (*data.classes, *(replay.classes if replay else ()))
    return torch.tensor([classes.index(name) if name in classes else -1 for name in names])


def check(replay: Dataset | None, replayed: int, recipe: Recipe) -> None:
    """Raise `UsageError` when there is nothing to replay, or no room for it."""
    findings = []
    if replay is None and recipe.replay is not None:
        message = f"replay is {recipe.replay}, and there are no old images"
        fix = "mg.train(…, replay=old), or --replay-annotations and --replay-images"
        findings.append(Finding("spec.field", "error", message, ("replay",), fix=fix))
    if replay is not None and not replayed:
        message = f"{replay.path} has no instance of a class that the model knows: {', '.join(replay.classes[:8])}"
        findings.append(Finding("shape.classes", "error", message, replay.classes))
    if replay is not None and recipe.batch < 2:
        message = "a batch of 1 image has no room for a replayed one beside the new"
        findings.append(Finding("spec.field", "error", message, ("batch", "replay"), fix="batch=2, or more"))
    if findings:
        raise UsageError(findings)
