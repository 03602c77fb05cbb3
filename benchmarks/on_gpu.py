"""The same works on a GPU, where there is one; where there is none, the table says `not measured`.

Both sides count in tf32 where the GPU has it, keep their weights on it, and are waited for before and after each turn
(`torch.cuda.synchronize`). That both count the same is measured before that, in whole float32: torch lets convolutions
count in tf32 unless it is told otherwise. What bf16 does to the losses is measured apart.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

import maskgraft as mg
from benchmarks import predicting, timing, training_step
from benchmarks.peers import photographs, theirs_with, workplace
from benchmarks.timing import Row
from maskgraft.precision import Precision

PREDICT = (
    ("predict, one photograph at a time", "≥ 2×", 1),
    ("predict, 8 photographs of mixed sizes at once", "≥ 2.5×", 8),
)
TRAIN: tuple[tuple[str, str, Precision], ...] = (
    ("float32, tf32 on both sides", "≥ 1.5×", "float32"),
    ("bf16, beside float32 with tf32", "≥ 2.5×", "bf16"),
)


def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    if torch.cuda.is_available():
        rows = measured("cuda", images=16, side=800, rounds=1 if quick else 10)
    else:
        told = "not measured: torch sees no GPU here"
        rows = [Row(f"{work}, GPU", None, None, "torchvision", bar, told) for work, bar, _ in PREDICT]
        rows += [
            Row(f"training step, 16 images, {work}, GPU", None, None, "torchvision", bar, told)
            for work, bar, _ in TRAIN
        ]
    timing.report("on-gpu", rows, quick=quick, out=out)


def measured(device: str, *, images: int, side: int, rounds: int) -> list[Row]:
    """Predictions of photographs, and training steps of that many images, of `side` pixels."""
    settle: Callable[[], Any] = torch.cuda.synchronize if device == "cuda" else lambda: None
    with workplace() as (folder, file):
        paths = photographs(folder, 8)
        rows = _predicting(file, paths, device, side=side, rounds=rounds, settle=settle)
        for work, bar, precision in TRAIN:
            with tf32(False):
                told = training_step.agreement(file, device, side=side, precision=precision)
            with tf32(True):
                both = training_step.steps(file, device=device, images=images, side=side, precision=precision)
                spent = timing.alternate(rounds, both, settle=settle)
            name = f"training step, {images} images, {work}, GPU"
            rows.append(Row(name, spent["ours"], spent["theirs"], "torchvision", bar, told))
    return rows


@torch.inference_mode()
def _predicting(
    file: Path, paths: list[Path], device: str, *, side: int, rounds: int, settle: Callable[[], Any]
) -> list[Row]:
    ours = mg.load(file, numerics={"min_size": side}).to(device)
    theirs = theirs_with(file, min_size=side).eval().to(device)

    def torchvision_finds(batch: list[Path]) -> Any:
        found = theirs([to_tensor(Image.open(path).convert("RGB")).to(device) for path in batch])
        return [(one, (one["masks"][:, 0] > 0.5).cpu()) for one in found]

    with tf32(False):
        told = predicting.agreement(ours, theirs, paths[:2])
    rows = []
    with tf32(True):
        for work, bar, together in PREDICT:
            batches = [paths[first : first + together] for first in range(0, len(paths), together)]
            works: dict[str, Callable[[], Any]] = {
                "ours": lambda batches=batches: [ours.predict(batch) for batch in batches],
                "theirs": lambda batches=batches: [torchvision_finds(batch) for batch in batches],
            }
            spent = {name: one / len(paths) for name, one in timing.alternate(rounds, works, settle=settle).items()}
            rows.append(Row(f"{work}, GPU", spent["ours"], spent["theirs"], "torchvision", bar, told))
    return rows


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Products and convolutions of float32 in tf32 or, where that is not `allowed`, in whole float32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
