"""The folder of a run as training writes it, with numbers that are known."""

import json
import math
from pathlib import Path
from typing import Any

from PIL import Image

from maskgraft.errors import Finding
from maskgraft.evaluation import SUMMARY

LOSSES = {"rpn_cls": 0.7, "rpn_box": 0.05, "cls": 1.4, "box": 0.3, "mask": 0.69}
HIGH = Finding("train.lr-high", "error", "the loss grew from 1.2 to <9e9>", effect="it diverges", fix="--lr 0.001")
DOUBT = Finding("train.batchnorm", "warning", "12 norms use batches of 2", names=("backbone.stem.norm",))


def write_run(folder: Path, *, steps: int = 200, done: int | None = None, torn: bool = False) -> Path:
    """A run of `steps` steps of which `done` are done; evaluated every 50 steps, with a finding after step 60."""
    (folder / "samples").mkdir(parents=True)
    part = {"component": "backbone", "training": 1200, "frozen": 34, "norms": "frozen"}
    recipe = {
        "recipe": {"policy": "heads", "batch": 2, "lr": None, "clip_norm": 5.0, "metric": "mask.AP", "flip": 0.5},
        "set": ["batch"],
        "derived": [{"field": "lr", "value": 0.0025, "why": "0.02 × 2 / 16"}],
        "steps_per_epoch": 50,
        "steps": steps,
        "stages": [
            {"policy": "heads", "first": 0, "end": 100, "lr": 0.0025, "warmup": 5},
            {"policy": "all", "first": 100, "end": steps, "lr": 0.0025, "warmup": 5},
        ],
        "usual_lr": 0.0025,
        "data": {"annotations": str(folder / "no.json"), "images": 100, "digest": "0"},
        "val": None,
        "trains": [{"policy": "heads", "first": 0, "end": 100, "parts": [part]}],
        "findings": [DOUBT.as_json()],
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    lines: list[dict[str, Any]] = []
    for step in range(1, (done or steps) + 1):
        losses = {name: value * math.exp(-step / 80) for name, value in LOSSES.items()}
        total = sum(losses.values())
        shares = {name: value / total for name, value in losses.items()}
        entry = {"step": step, "epoch": (step - 1) // 50, "lr": 0.0025, "total": total, "losses": losses}
        entry |= {"shares": shares, "gradient": 10.0 if step < 50 else 1.0}
        if step % 50 == 1:
            entry |= {"gradients": dict.fromkeys(LOSSES, 0.01), "cosines": {"cls box": -0.25, "box mask": 0.5}}
        lines.append(entry)
        if step in (10, 50, 100, 150):
            pulse = {
                "recall": 0.5,
                "correct": 0.25,
                "dead": {"c2": 0.0, "c5": step / 200},
                "largest": {"c5": 10.0 ** (step / 50)},
            }
            lines.append({"step": step - 1, "pulse": pulse})
            lines.append({"step": step, "updates": {"backbone": 0.001, "rpn": 0.004}, "rate": 1.0})
        if step == 60:
            told = [HIGH.as_json()]
            lines.append({"step": step, "action": "roll back", "findings": told, "changes": {"lr": 0.001}})
        if step % 50 == 0:
            scores = dict.fromkeys(SUMMARY, step / 400)
            seen = {"images": 4, "box": scores, "mask": scores, "per_class": {}, "unmatched": []}
            lines.append({"step": step, "epoch": entry["epoch"], "evaluation": seen})
            Image.new("RGB", (60, 40), (200, step % 250, 90)).save(folder / "samples" / f"step-{step:06d}.jpg")
    text = "".join(json.dumps(one) + "\n" for one in lines)
    (folder / "metrics.jsonl").write_text(text + ('{"step": 9' if torn else ""))
    times = [{"step": step, "data_s": 0.1, "step_s": 0.3, "memory_mb": 2048} for step in range(1, (done or steps) + 1)]
    (folder / "timing.jsonl").write_text("".join(json.dumps(one) + "\n" for one in times))
    return folder
