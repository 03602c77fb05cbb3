"""A training step of every family against what its home framework's own targets and losses make of it.

What a network says is made up (`tests/golden/steps`), so that nothing but conventions decides: which anchors and
regions are sampled, what they should answer, and how the losses are weighed.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest

from maskgraft.families import matterport, paddle, tensorpack, tf_object_detection
from maskgraft.spec import Numerics
from tests.golden.flips import TRAINING, others
from tests.golden.steps.ours import Golden, Step, faults, step


@dataclass(frozen=True)
class Home:
    """A family's conventions, the `spread` of the deltas that its proposals are made of, its architecture as far as
    it decides a step, and what its scenes do not tell.

    Where all anchors may be sampled, none is outside and none ends where they end; and a positive of four leaves as
    many negatives by "ratio" as fill the sample.
    """

    numerics: Numerics
    spread: float
    arch: dict[str, Any] = field(default_factory=dict)
    untold: tuple[str, ...] = ()
    scenes: tuple[str, str] = ("crowded", "small")


# Told in every run of the tests; all others by the long ones.
FIRST = ("rpn_normaliser", "rpn_box_mean", "roi_truth", "roi_filled", "box_mean", "mask_targets")

HOMES = {
    "paddledetection": Home(paddle.NUMERICS, 0.05, untold=("rpn_outside", "rpn_straddle_closed", "roi_negatives")),
    "tf_object_detection": Home(
        tf_object_detection.NUMERICS,
        0.5,
        {"neck": "c4", "anchors_per_cell": 12, "box_head": "res5", "mask_upsample": "resize"},
        scenes=("crowded-c4", "small-c4"),
    ),
    "tensorpack": Home(tensorpack.NUMERICS, 0.05, scenes=("crowded", "corner")),
    "matterport": Home(matterport.NUMERICS, 0.5, untold=("rpn_outside", "rpn_straddle_closed")),
}

CASES = [(name, scene) for name, home in HOMES.items() for scene in home.scenes]


@cache
def ours(name: str, scene: str) -> Step:
    home = HOMES[name]
    return step(name, scene, home.numerics, spread=home.spread, arch=home.arch)


@pytest.mark.parametrize(("name", "scene"), CASES)
def test_the_five_losses_agree(name: str, scene: str) -> None:
    assert faults(Golden.read(name, scene), ours(name, scene).losses()) == []


@pytest.mark.parametrize(("name", "scene"), CASES)
def test_the_same_regions_are_sampled(name: str, scene: str) -> None:
    made, golden = ours(name, scene), Golden.read(name, scene)
    made.losses()
    found = made.regions[0].numpy()
    assert found.shape == golden.regions.shape
    apart = np.abs(found[:, None] - golden.regions[None]).max(2)
    assert apart.min(0).max() < 1e-3
    assert apart.min(1).max() < 1e-3


@pytest.mark.parametrize(("name", "scene"), CASES)
def test_slopes_agree(name: str, scene: str) -> None:
    """By what the proposal network says, and by the three heads' outputs as a whole."""
    golden = Golden.read(name, scene)
    for what, slope in ours(name, scene).slopes().items():
        assert np.abs(slope - golden.slopes[what]).max() <= 1e-5 * np.abs(golden.slopes[what]).max(), what


def told(name: str, convention: str) -> bool:
    """Whether some loss leaves the golden one, by ten times what rounding explains, when a convention is another."""
    return any(
        faults(Golden.read(name, scene), ours(name, scene).losses({convention: other}), 2e-4)
        for family, scene in reversed(CASES)
        if family == name
        for other in others(convention, getattr(HOMES[name].numerics, convention))
    )


@pytest.mark.parametrize("name", list(HOMES))
def test_what_is_counted_is_told(name: str) -> None:
    assert [one for one in FIRST if not told(name, one)] == []


@pytest.mark.long
@pytest.mark.parametrize("name", list(HOMES))
def test_every_training_convention_is_told(name: str) -> None:
    assert {one for one in TRAINING if not told(name, one)} == set(HOMES[name].untold)
