"""The first stage that differs is where the changed convention acts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import maskgraft as mg
from maskgraft.comparison import compare, read_dump
from maskgraft.graft import rebuilt
from maskgraft.spec import NUMERICS_FIELDS, Spec
from tests.tiny import tiny_model

IMAGE = np.random.default_rng(0).integers(0, 255, (80, 110, 3), dtype=np.uint8)


def test_a_model_agrees_with_itself() -> None:
    found = compare(tiny_model(), tiny_model(), IMAGE)
    assert found.first == ""
    assert found.suspects == {}
    assert {"input", "c2", "p6", "rpn.logits.p3", "proposals", "roi.mask_logits"} <= {one.name for one in found.stages}


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"channel_order": "bgr"}, "input"),
        ({"norm_eps": 0.5}, "c2"),
        ({"anchor_rounding": False, "anchor_sizes": ((9,), (17,), (33,), (65,), (129,))}, "anchors"),
        ({"rpn_delta_weights": (2.0, 2.0, 2.0, 2.0)}, "rpn.deltas.p2"),
        ({"inclusive_boxes": True}, "anchors"),
        ({"decoded_wider": True}, "proposals"),
        ({"roi_aligned": True}, "roi.pooled"),
    ],
)
def test_the_cause_is_among_the_suspects(change: dict[str, object], first: str) -> None:
    model = tiny_model()
    other = rebuilt(model, model.spec.with_numerics({**change, "score_threshold": 0.9}))
    found = compare(model, other, IMAGE)
    assert found.first == first
    assert set(change) <= set(found.suspects)
    assert "score_threshold" not in found.suspects, "it acts later"


def test_what_two_families_say_in_two_ways_is_no_difference(tmp_path: Path) -> None:
    """Rows of the background, the order of anchors, the scale of deltas, and colours, which the weights take up."""
    model = tiny_model()
    mg.save(model, tmp_path / "saved")
    mg.convert(tmp_path / "saved", to="detectron2", out=tmp_path / "model.pkl", accept=True)
    found = mg.load(tmp_path / "model.pkl")
    told = compare(model, rebuilt(found, found.spec.with_numerics(_but_for(found.spec, model.spec))), IMAGE)
    assert {stage.name for stage in told.stages if not stage.agrees} <= {"input"}
    assert (told.first, told.suspects) == ("", {})


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"rpn_nms_threshold": 0.3}, "proposals"),
        ({"roi_sampling": 1}, "roi.pooled"),
        ({"score_threshold": 0.4}, "detections"),
        ({"nms_apart": True, "nms_threshold": 0.1}, "detections"),
        ({"mask_threshold": 0.9}, "masks"),
    ],
)
def test_of_a_converted_pair_only_what_acts_there_is_suspected(
    change: dict[str, object], first: str, tmp_path: Path
) -> None:
    """Colours, the scale of deltas and the order of anchors differ too, and the stages that they act on agree."""
    model = tiny_model()
    mg.save(model, tmp_path / "saved")
    mg.convert(tmp_path / "saved", to="detectron2", out=tmp_path / "model.pkl", accept=True)
    found = mg.load(tmp_path / "model.pkl")
    spec = found.spec.with_numerics({**_but_for(found.spec, model.spec), **change})
    told = compare(model, rebuilt(found, spec), IMAGE)
    assert told.first == first
    assert set(told.suspects) == set(change)
    assert {"channel_order", "pixel_scale"} <= set(told.unseen)


def test_conventions_that_do_nothing_here_are_told() -> None:
    model = tiny_model()
    changes = {"max_per_class": 1000, "rpn_dilation": 1, "roi_samples": 7}
    found = compare(model, rebuilt(model, model.spec.with_numerics(changes)), IMAGE)
    assert (found.first, found.suspects) == ("", {})
    assert found.as_json()["unseen"] == {"max_per_class": [None, 1000]}


def _but_for(spec: Spec, other: Spec) -> dict[str, object]:
    """The conventions of another model, but for those that the weights take up."""
    restated = {"channel_order", "pixel_scale", "pixel_mean", "pixel_std", "norm_eps", "rpn_delta_weights"}
    restated |= {"box_delta_weights", "anchor_order"}
    return {name: getattr(other.numerics, name) for name in NUMERICS_FIELDS if name not in restated}


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"box_delta_weights": (5.0, 5.0, 5.0, 5.0)}, "roi.box_deltas"),
        ({"max_detections": 20}, "detections"),
        ({"mask_threshold": 0.9}, "masks"),
        ({"mask_paste": "grid-sample"}, "masks"),
    ],
)
def test_models_are_compared_to_the_end(change: dict[str, object], first: str) -> None:
    model = tiny_model()
    found = compare(model, rebuilt(model, model.spec.with_numerics({**change, "roi_samples": 32})), IMAGE)
    assert (found.first, set(found.suspects)) == (first, set(change))


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"channel_order": "bgr"}, "input"),
        ({"norm_eps": 1e-3}, "c2"),
        pytest.param({"inclusive_boxes": True}, "anchors", marks=pytest.mark.long),
        pytest.param({"decoded_wider": True}, "proposals", marks=pytest.mark.long),
        pytest.param({"roi_aligned": True}, "roi.pooled", marks=pytest.mark.long),
    ],
)
def test_a_dump_tells_which_convention_made_it(change: dict[str, object], first: str) -> None:
    model = tiny_model()
    made = rebuilt(model, model.spec.with_numerics(change))
    rois = made.trace(IMAGE)["proposals"][:4]
    found = compare(model, made.trace(IMAGE, rois) | {"rois": rois}, IMAGE)
    assert found.first == first
    assert {name: value for name, (_, value) in found.suspects.items()}.items() >= change.items()


def test_other_weights_are_no_convention() -> None:
    found = compare(tiny_model(), tiny_model(seed=1), IMAGE)
    assert found.first == "c2"
    assert found.suspects == {}


def test_against_a_stage_dump(tmp_path: Path) -> None:
    model = tiny_model()
    stages = {name: value.numpy() for name, value in model.trace(IMAGE).items()}
    np.savez(tmp_path / "same.npz", **stages)
    assert compare(model, read_dump(tmp_path / "same.npz"), IMAGE).first == ""
    stages["p3"] = stages["p3"] + 1
    np.savez(tmp_path / "other.npz", **stages)
    found = compare(model, read_dump(tmp_path / "other.npz"), IMAGE)
    assert found.first == "p3"
    assert found.suspects["norm_eps"] == (model.spec.numerics.norm_eps, None)
    assert not {"resize", "anchor_sizes"} & set(found.suspects)
    np.savez(tmp_path / "none.npz", x=np.zeros(3))
    with pytest.raises(mg.CheckpointError, match="holds no stages"):
        read_dump(tmp_path / "none.npz")


def test_another_shape_is_told() -> None:
    model = tiny_model()
    other = rebuilt(model, replace(model.spec, numerics=replace(model.spec.numerics, min_size=64)))
    found = compare(model, other, IMAGE)
    assert found.first == "input"
    assert "and" in found.stages[0].note
