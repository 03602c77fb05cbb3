import dataclasses
import json

import pytest

from maskgraft.errors import UsageError
from maskgraft.families import detectron2, torchvision
from maskgraft.spec import Arch, Learned, Spec, differences

SPEC = Spec(
    family="torchvision",
    arch=Arch(classes=2),
    numerics=torchvision.NUMERICS,
    classes=("cat", "dog"),
    learned={"numerics.norm_eps": Learned("assumed", "nowhere")},
)


def test_json_round_trip_is_exact() -> None:
    assert Spec.from_json(json.loads(json.dumps(SPEC.as_json()))) == SPEC


def test_overrides_keep_types_and_say_who_set_them() -> None:
    changed = SPEC.with_numerics({"score_threshold": 1, "anchor_sizes": [[8], [16], [32], [64], [128]]})
    assert changed.numerics.score_threshold == 1.0
    assert isinstance(changed.numerics.score_threshold, float)
    assert changed.numerics.anchor_sizes == ((8,), (16,), (32,), (64,), (128,))
    assert changed.learned["numerics.score_threshold"].how == "read"


def test_every_wrong_override_is_named_at_once_with_its_neighbour() -> None:
    with pytest.raises(UsageError) as caught:
        SPEC.with_numerics({"score_treshold": 0.5, "min_size": "big", "channel_order": "grb", "max_size": True})
    text = str(caught.value)
    assert "did you mean score_threshold?" in text
    assert 'min_size is "big", not int' in text
    assert "one of 'rgb', 'bgr'" in text
    assert "max_size is true, not int" in text


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("rpn_positive_iou", 2, "from 0 to 1"),
        ("rpn_negative_iou", 0.8, "an anchor would be both"),
        ("nms_threshold", float("nan"), "from 0 to 1"),
        ("rpn_min_size", -1, "0 or more"),
        ("max_detections", 0, "1 or more"),
        ("anchor_sizes", [[8], [16], [32], [64], [-1]], "above 0"),
        ("anchor_sizes", [[8]], "for 1"),
        ("anchor_ratios", [1], "are 1 × 1"),
        ("delta_clip", float("inf"), "a finite number"),
    ],
)
def test_values_that_nothing_can_be_computed_with_are_refused(name: str, value: object, says: str) -> None:
    with pytest.raises(UsageError, match=f"{name}.*{says}"):
        SPEC.with_numerics({name: value})


def test_class_names_and_rows_must_agree() -> None:
    with pytest.raises(UsageError, match="3 class names for an architecture of 2"):
        dataclasses.replace(SPEC, classes=("a", "b", "c"))


def test_a_spec_file_that_lacks_fields_is_refused() -> None:
    data = SPEC.as_json()
    del data["numerics"]["norm_eps"]
    with pytest.raises(UsageError, match="norm_eps"):
        Spec.from_json(data)
    with pytest.raises(UsageError, match="lacks arch, numerics, classes"):
        Spec.from_json({"family": "x"})


def test_differences_name_each_field() -> None:
    other = dataclasses.replace(SPEC, numerics=detectron2.NUMERICS)
    found = differences(SPEC, other)
    assert found["numerics.channel_order"] == ("rgb", "bgr")
    assert found["numerics.roi_aligned"] == (False, True)
    assert not differences(SPEC, SPEC)
