"""From a file to masks, one photograph and eight of mixed sizes at a time, and how far the processor's limit is."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms.functional import to_tensor

import maskgraft as mg
from benchmarks import timing
from benchmarks.peers import agreeing, photographs, theirs_with, workplace
from benchmarks.timing import Row

Found = tuple[dict[str, torch.Tensor], torch.Tensor]


@torch.inference_mode()
def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    with workplace() as (folder, file):
        theirs, ours = theirs_with(file).eval(), mg.load(file)
        paths = photographs(folder, 2 if quick else 8)
        told = _agreement(ours, theirs, paths)

        def torchvision_finds(batch: list[Path]) -> list[Found]:
            return [
                (found, found["masks"][:, 0] > 0.5)
                for found in theirs([to_tensor(Image.open(path).convert("RGB")) for path in batch])
            ]

        def ours_finds(batch: list[Path]) -> Any:
            return ours.predict(batch)

        rows = []
        for work, bar, rounds, batches in (
            ("predict, one photograph at a time, 800 pixels", "≥ 1.5×", 3, [[path] for path in paths[:4]]),
            (f"predict, {len(paths)} photographs of mixed sizes at once", "≥ 1.6×", 2, [paths]),
        ):
            works: dict[str, Callable[[], Any]] = {
                "ours": lambda batches=batches: [ours_finds(batch) for batch in batches],
                "theirs": lambda batches=batches: [torchvision_finds(batch) for batch in batches],
            }
            spent = timing.alternate(1 if quick else rounds, works)
            many = sum(map(len, batches))
            rows.append(Row(work, spent["ours"] / many, spent["theirs"] / many, "torchvision", bar, told))
        more = _limit(ours, paths[0], rows[0].ours)
    timing.report("predicting", rows, quick=quick, out=out, more=more)


def _agreement(ours: Any, theirs: Any, paths: list[Path]) -> str:
    """How many of torchvision's detections ours has too."""
    agree = total = 0
    for path in paths:
        wanted = theirs([to_tensor(Image.open(path).convert("RGB"))])[0]
        masks = wanted["masks"][:, 0] > 0.5
        total += len(masks)
        agree += agreeing(ours.predict([path])[0], wanted["boxes"], wanted["labels"] - 1, masks)
    return f"{agree} of {total} detections and masks"


def _limit(ours: Any, path: Path, seconds: float | None) -> dict[str, Any]:
    """Multiply-adds of one photograph, by what this machine does at most (a large product of matrices)."""
    with FlopCounterMode(display=False) as counter:
        ours.predict([path])
    operations = counter.get_total_flops()
    factor = torch.rand(2048, 2048)
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        factor @ factor
        best = min(best, time.perf_counter() - begin)
    peak = 2 * 2048**3 / best
    share = operations / peak / seconds if seconds else None
    return {"multiply_adds": operations // 2, "peak_per_second": round(peak / 2), "share_of_peak": share}
