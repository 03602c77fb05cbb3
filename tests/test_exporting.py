"""The exported graph: its steps against `predict` in every family, and the ONNX file in onnxruntime."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import maskgraft as mg
from maskgraft import exporting
from maskgraft.detections import Detections
from maskgraft.errors import UsageError
from maskgraft.exportable import Exportable
from maskgraft.families import identify
from maskgraft.graft import assemble, rebuilt
from maskgraft.preprocess import resized
from maskgraft.spec import Spec
from tests.families.slim import SLIM
from tests.families.test_every_family import arrays_of, in_memory, slim_settings
from tests.test_cli import Run
from tests.test_cli import maskgraft as maskgraft
from tests.tiny import tiny_model

SIZE = (60, 90)
ONNX = ("onnx", "onnxruntime", "onnxscript")
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ONNX), reason=f"{', '.join(ONNX)} are not all installed"
)


def photograph(size: tuple[int, int] = SIZE) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (size[0] // 6, size[1] // 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def slim_model(name: str, **changes: Any) -> mg.MaskRCNN:
    """A model that finds something: nothing is background, and classes depend on what regions look like."""
    known = identify(in_memory(arrays_of(name)))
    model = assemble(known, known.spec)
    # what the graph does not do: keep others than the best, and choose among equal boxes of no area as a heap does
    settings = {**slim_settings(known.spec), "max_detections": 20, "max_by": "score", "detect_filled": False}
    if known.spec.numerics.nms_flat_last:
        settings |= {"rpn_min_size": 0.0, "nms_flat_last": False}
    model = rebuilt(model, known.spec.with_numerics({**settings, **changes})).eval()
    weight = model.box_predictor.cls.weight
    with torch.no_grad():
        model.box_predictor.cls.bias[-1] = -20
        weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) / 2
    return model


def assert_alike(
    found: Detections, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, masks: np.ndarray
) -> None:
    """One to one, in any order among equals; of 20, one may be lost to a tie in suppression."""
    free, alone = set(range(len(boxes))), 0
    for box, score, label, mask in zip(found.boxes, found.scores, found.labels, found.mask_probs, strict=True):
        near = [
            other
            for other in free
            if labels[other] == label
            and np.abs(boxes[other] - box.numpy()).max() < 1e-2
            and abs(scores[other] - score) < 1e-4
            and np.abs(masks[other] - mask.numpy()).max() < 1e-3
        ]
        if near:
            free.remove(near[0])
        else:
            alone += 1
    assert alone <= 1
    assert len(free) <= 1
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("name", list(SLIM))
def test_its_steps_find_what_predict_finds(name: str) -> None:
    model, image = slim_model(name), photograph()
    found = model.predict([image])[0]
    with torch.inference_mode():
        outputs = Exportable(model, SIZE)(torch.from_numpy(resized(image, model.spec.numerics)))
    assert len(found) > 0
    assert_alike(found, *(one.numpy() for one in outputs))


MANY = {"rpn_pre_nms": 400, "rpn_post_nms": 400, "rpn_nms_threshold": 0.2, "max_detections": 300}


def test_nothing_comes_after_a_box_of_no_area() -> None:
    model, image = slim_model("matterport", **MANY, nms_flat_last=True), photograph()
    found = model.predict([image])[0]
    with torch.inference_mode():
        outputs = Exportable(model, SIZE)(torch.from_numpy(resized(image, model.spec.numerics)))
    assert 0 < len(found) < 100
    assert_alike(found, *(one.numpy() for one in outputs))


def test_missing_proposals_are_made_up_for() -> None:
    image, counts = photograph(), []
    for filled in (False, True):
        model = slim_model("matterport", **MANY, detect_filled=filled)
        with torch.inference_mode():
            boxes, *_ = Exportable(model, SIZE)(torch.from_numpy(resized(image, model.spec.numerics)))
        counts.append(len(boxes))
    assert counts[0] < 210  # of some 200 proposals
    assert counts[1] == len(model.predict([image])[0]) == 300


def test_nothing_found_is_no_box() -> None:
    model = tiny_model()
    model = rebuilt(model, model.spec.with_numerics({"score_threshold": 2.0})).eval()
    with torch.inference_mode():
        outputs = Exportable(model, SIZE)(torch.from_numpy(resized(photograph(), model.spec.numerics)))
    assert [tuple(one.shape) for one in outputs] == [(0, 4), (0,), (0,), (0, 28, 28)]


def in_onnxruntime(file: Path, model: mg.MaskRCNN, image: np.ndarray) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    outputs = session.run(list(exporting.OUTPUTS), {"image": resized(image, model.spec.numerics)})
    return [np.asarray(one) for one in outputs]


@needs_onnx
def test_onnxruntime_finds_what_predict_finds(tmp_path: Path, maskgraft: Run) -> None:
    import onnxruntime

    model = tiny_model()
    mg.save(model, tmp_path / "saved")
    out = tmp_path / "model.onnx"
    done = maskgraft("export", tmp_path / "saved", "--out", out, "--size", "90x120", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"file": str(out), "photograph": [90, 120], "pixels": [96, 128]}
    image = photograph((90, 120))
    found = model.predict([image])[0]
    assert len(found) > 10
    assert_alike(found, *in_onnxruntime(out, model, image))
    about = onnxruntime.InferenceSession(out).get_modelmeta().custom_metadata_map
    assert Spec.from_json(json.loads(about["spec"])) == model.spec
    assert json.loads(about["classes"]) == list(model.spec.classes)
    again = maskgraft("export", tmp_path / "saved", "--out", out)
    assert again.returncode == 2
    assert "exists already" in again.stderr


@needs_onnx
@pytest.mark.long
@pytest.mark.parametrize("name", list(SLIM))
def test_onnxruntime_runs_every_family(name: str, tmp_path: Path) -> None:
    model, image = slim_model(name), photograph()
    done = mg.export(model, tmp_path / "model.onnx", size=SIZE)
    assert_alike(model.predict([image])[0], *in_onnxruntime(done.file, model, image))


def test_what_cannot_be_written_is_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "find_spec", lambda name: None)
        with pytest.raises(UsageError, match="onnx and onnxscript, which are not installed") as raised:
            mg.export(model, tmp_path / "model.onnx")
    assert raised.value.findings[0].fix == "pip install 'maskgraft[export]'"
    monkeypatch.setattr(exporting, "find_spec", lambda name: True)
    for out, size, said in (
        ("model.engine", SIZE, "does not end with .onnx"),
        ("model.onnx", (0, 90), "a height and a width"),
        ("nowhere/model.onnx", SIZE, "no folder"),
    ):
        with pytest.raises(UsageError, match=said):
            mg.export(model, tmp_path / out, size=size)
    assert not list(tmp_path.iterdir())


def test_suppression_in_tiles_below_a_half_is_refused(tmp_path: Path) -> None:
    model = slim_model("model garden", rpn_nms_threshold=0.4)
    with pytest.raises(UsageError, match=r"rpn_nms_threshold is 0\.4") as raised:
        mg.export(model, tmp_path / "model.onnx", size=SIZE)
    assert '"rpn_nms_tiled": False' in raised.value.findings[0].fix
    assert not list(tmp_path.iterdir())


def test_a_size_that_is_none_is_refused(maskgraft: Run, tmp_path: Path) -> None:
    done = maskgraft("export", tmp_path, "--out", tmp_path / "model.onnx", "--size", "large")
    assert done.returncode == 2
    assert "--size 720x1280" in done.stderr
