"""`mg.export`: a model as one ONNX graph, from pixels to detections, for photographs of one size."""

import copy
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from maskgraft.errors import Finding, UsageError
from maskgraft.exportable import Exportable
from maskgraft.files.writing import atomic
from maskgraft.model import MaskRCNN
from maskgraft.spec import Numerics

OUTPUTS = ("boxes", "scores", "labels", "mask_probs")
_NEEDED = ("onnx", "onnxscript")


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the file, and the (height, width) of the photographs and of the pixels that it takes."""

    file: Path
    photograph: tuple[int, int]
    pixels: tuple[int, int]

    def as_json(self) -> dict[str, Any]:
        """The export as plain JSON types; the keys are stable."""
        return {"file": str(self.file), "photograph": list(self.photograph), "pixels": list(self.pixels)}


def export(
    model: MaskRCNN, out: str | Path, *, size: tuple[int, int] | None = None, overwrite: bool = False
) -> Exported:
    """Write a model as ONNX, for photographs of `size` (height, width).

        mg.export(model, "model.onnx", size=(720, 1280))
        session = onnxruntime.InferenceSession("model.onnx")
        photo = resized(image, model.spec.numerics)              # maskgraft.preprocess
        boxes, scores, labels, mask_probs = session.run(None, {"image": photo})

    The graph takes `image`, float32 [h, w, 3] RGB 0..255: a photograph as its home framework resizes it, before
    anything is taken off or padded. It gives what `predict` gives, but for the pasting of masks: `boxes` [N, 4] xyxy in
    pixels of the photograph, `scores` [N] descending, `labels` int64 [N], `mask_probs` [N, m, m] inside the boxes.
    `maskgraft.ops.paste.paste` makes masks of them. The metadata of the file hold the spec, the class names and both
    sizes. Everything else is in the graph: norms, anchors, suppression, RoIAlign. Without `size`, photographs are as
    large as the network's input may be, and are not resized.

    Sums are taken in another order than in torch, and suppression shifts the classes of all families apart in float32
    (`docs/export.md`). Needs the extra `maskgraft[export]`. Raises `UsageError` without it, for a size of no pixels,
    and for a file that is there.
    """
    place, numerics = Path(out), model.spec.numerics
    size = size or numerics.fixed_size or (numerics.min_size, numerics.max_size)
    _refuse_tiles(numerics)
    _refuse(place, size, overwrite)
    own = copy.deepcopy(model).cpu().float().eval()
    graph = Exportable(own, size).eval()
    height, width = graph.pixels
    image = torch.zeros(height, width, 3)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own, about parts of torch that it does not use here
        program = torch.onnx.export(
            graph,
            (image,),
            input_names=["image"],
            output_names=list(OUTPUTS),
            dynamo=True,
            verbose=False,
            opset_version=18,
        )
    assert program is not None
    program.model.metadata_props.update(_about(own, graph))
    with atomic(place) as temporary:
        program.save(str(temporary), external_data=False)
    return Exported(place, size, graph.pixels)


def _refuse(place: Path, size: tuple[int, int], overwrite: bool) -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        fault = f"writing ONNX needs {' and '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed"
        raise UsageError(Finding("export.extra", "error", fault, fix="pip install 'maskgraft[export]'"))
    if min(size) < 1:
        raise UsageError(Finding("spec.field", "error", f"size is {size}; photographs have a height and a width"))
    if place.suffix != ".onnx":
        fault = f"{place} does not end with .onnx, the one format that export writes"
        raise UsageError(Finding("file.unknown-format", "error", fault, fix=str(place.with_suffix(".onnx"))))
    if place.exists() and not overwrite:
        fix = "choose another name, or say overwrite=True (--overwrite)"
        raise UsageError(Finding("file.exists", "error", f"{place} exists already", fix=fix))
    if not place.parent.is_dir():
        raise UsageError(Finding("config.path", "error", f"there is no folder {place.parent}", fix="make it first"))


def _refuse_tiles(numerics: Numerics) -> None:
    """The graph suppresses one by one, which below a half is not what tiles do (`ops.tiles`)."""
    low = [
        name
        for name, tiled in (("rpn_nms_threshold", numerics.rpn_nms_tiled), ("nms_threshold", numerics.nms_tiled))
        if tiled and getattr(numerics, name) < 0.5
    ]
    if low:
        fault = (
            f"suppression in tiles has no graph below 0.5: {', '.join(f'{n} is {getattr(numerics, n)}' for n in low)}"
        )
        told = ", ".join(f'"{name.removesuffix("threshold")}tiled": False' for name in low)
        raise UsageError(Finding("spec.field", "error", fault, tuple(low), fix=f"mg.load(path, numerics={{{told}}})"))


def _about(model: MaskRCNN, graph: Exportable) -> Mapping[str, str]:
    import maskgraft

    return {
        "maskgraft": maskgraft.__version__,
        "classes": json.dumps(model.spec.classes),
        "photograph": json.dumps(graph.photograph),
        "pixels": json.dumps(graph.pixels),
        "spec": json.dumps(model.spec.as_json()),
    }
