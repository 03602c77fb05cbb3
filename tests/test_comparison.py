"""The first stage that differs is where the changed convention acts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import maskgraft as mg
from maskgraft.comparison import compare, read_dump
from maskgraft.graft import rebuilt
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
        ({"rpn_delta_weights": (2.0, 2.0, 2.0, 2.0)}, "proposals"),
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
