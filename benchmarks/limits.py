"""The exported graph in ONNX Runtime and OpenVINO: what a processor's user would reach for who needs no training.

Both run the same ONNX file, made by `mg.export` from the same weights, on one photograph; decoding and resizing it
before, and pasting masks after, are done by our code and counted on both sides. OpenVINO is told to count in float32:
of itself it takes bfloat16 where the processor has it. A program that is not installed is not measured.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import maskgraft as mg
from benchmarks import timing
from benchmarks.peers import agreeing, photographs, workplace
from benchmarks.timing import Row
from maskgraft.images import load_image
from maskgraft.ops.paste import paste
from maskgraft.preprocess import resized

Answers = tuple[Any, Any, Any, Any]


@torch.inference_mode()
def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    rounds = 1 if quick else 5
    with workplace() as (folder, file):
        model = mg.load(file)
        path = photographs(folder, 2)[-1]
        image = load_image(path)
        size = (image.shape[0], image.shape[1])
        peers = {
            name: begin for name, begin in (("onnxruntime", _onnxruntime), ("openvino", _openvino)) if find_spec(name)
        }
        if peers:
            mg.export(model, folder / "model.onnx", size=size)
        rows = []
        for name in ("onnxruntime", "openvino"):
            work = "predict one photograph, 800 pixels, the graph exported"
            if name not in peers:
                rows.append(Row(work, None, None, name, "", f"not measured: pip install {name}"))
                continue
            answer = peers[name](folder / "model.onnx")

            def theirs(answer: Callable[[Any], Answers] = answer) -> tuple[Answers, torch.Tensor]:
                found = answer(resized(load_image(path), model.spec.numerics))
                numerics = model.spec.numerics
                masks = paste(
                    torch.from_numpy(found[3]),
                    torch.from_numpy(found[0]),
                    size,
                    method=numerics.mask_paste,
                    threshold=numerics.mask_threshold,
                )
                return found, masks

            mine, ((boxes, _, labels, _), masks) = model.predict([path])[0], theirs()
            agree = agreeing(mine, torch.from_numpy(boxes), torch.from_numpy(labels), masks)
            told = f"{agree} of {len(boxes)} detections and masks (ours has {len(mine.boxes)})"
            spent = timing.alternate(rounds, {"ours": lambda: model.predict([path]), "theirs": theirs})
            rows.append(Row(work, spent["ours"], spent["theirs"], name, "", told))
    timing.report("limits", rows, quick=quick, out=out)


def _onnxruntime(path: Path) -> Callable[[Any], Answers]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = ["boxes", "scores", "labels", "mask_probs"]
    return lambda pixels: tuple(session.run(names, {"image": pixels}))


def _openvino(path: Path) -> Callable[[Any], Answers]:
    import openvino

    compiled = openvino.compile_model(
        path, "CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    )
    names = ["boxes", "scores", "labels", "mask_probs"]

    def answer(pixels: Any) -> Answers:
        found = compiled({"image": np.asarray(pixels)})
        return tuple(np.array(found[name]) for name in names)

    return answer
