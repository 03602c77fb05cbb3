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
from benchmarks import elsewhere, timing
from benchmarks.elsewhere import HOMES
from benchmarks.peers import agreeing, photographs, theirs_with, workplace
from benchmarks.timing import Row

Found = tuple[dict[str, torch.Tensor], torch.Tensor]


@torch.inference_mode()
def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    with workplace() as (folder, file):
        theirs, ours = theirs_with(file).eval(), mg.load(file)
        paths = photographs(folder, 2 if quick else 8)
        told = agreement(ours, theirs, paths)

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
        rows += [elsewhere.beside(home, rows[0].work, file, folder, paths[:4], 1 if quick else 3) for home in HOMES]
        limit, more = _limit(ours, paths[0], rows[0].ours)
        rows.append(limit)
    timing.report("predicting", rows, quick=quick, out=out, more=more)


@torch.inference_mode()
def agreement(ours: Any, theirs: Any, paths: list[Path]) -> str:
    """How many of torchvision's detections ours has too."""
    agree = total = 0
    for path in paths:
        pixels = to_tensor(Image.open(path).convert("RGB")).to(ours.device)
        wanted = {name: one.cpu() for name, one in theirs([pixels])[0].items()}
        masks = wanted["masks"][:, 0] > 0.5
        total += len(masks)
        agree += agreeing(ours.predict([path])[0], wanted["boxes"], wanted["labels"] - 1, masks)
    return f"{agree} of {total} detections and masks"


def _limit(ours: Any, path: Path, seconds: float | None) -> tuple[Row, dict[str, Any]]:
    """The multiply-adds of one photograph at the rate of this machine's largest products of matrices."""
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
    told = f"{operations / 2e9:.0f} G multiply-adds at {peak / 2e9:.0f} G a second"
    row = Row("predict, one photograph, 800 pixels", seconds, operations / peak, "its multiply-adds alone", "", told)
    more = {"multiply_adds": operations // 2, "peak_per_second": round(peak / 2), "share_of_peak": row.ratio}
    return row, more
