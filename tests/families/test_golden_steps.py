"""A training step of every family against what its home framework's own targets and losses make of it.

What a network says is made up (`tests/golden/steps`), so that nothing but conventions decides: which anchors and
regions are sampled, what they should answer, and how the losses are weighed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from maskgraft.families import matterport
from maskgraft.spec import Numerics
from tests.golden.flips import TRAINING, others
from tests.golden.steps.ours import Golden, Step, faults, step

# Why no other value of a convention changes a step.
WHY = {
    "rpn_straddle_closed": "all anchors may be sampled",
    "rpn_outside": "all anchors may be sampled",
    "rpn_rescue": "every object is overlapped, and has one best anchor, at more than rpn_negative_iou",
    "rpn_positive_iou": "",
    "rpn_pre_nms_train": "",
}


@dataclass(frozen=True)
class Home:
    """A family's conventions, the `spread` of the deltas that its proposals are made of, its architecture as far as
    it decides a step, and what its step does not tell of its conventions."""

    numerics: Numerics
    spread: float
    arch: dict[str, Any] = field(default_factory=dict)
    untold: tuple[str, ...] = ()


HOMES = {
    "matterport": Home(matterport.NUMERICS, 0.5, untold=("rpn_outside", "rpn_straddle_closed")),
}


@pytest.fixture(scope="module", params=list(HOMES))
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def golden(name: str) -> Golden:
    return Golden.read(name)


@pytest.fixture(scope="module")
def ours(name: str) -> Iterator[Step]:
    home = HOMES[name]
    yield step(name, home.numerics, spread=home.spread, arch=home.arch)


def test_the_five_losses_agree(ours: Step, golden: Golden) -> None:
    assert faults(golden, ours.losses()) == []


def test_the_same_regions_are_sampled(ours: Step, golden: Golden) -> None:
    ours.losses()
    found = ours.regions[0].numpy()
    assert found.shape == golden.regions.shape
    assert np.abs(found - golden.regions).max() < 1e-3


def test_slopes_agree(ours: Step, golden: Golden) -> None:
    """By what the proposal network says, and by the three heads' outputs as a whole."""
    for what, slope in ours.slopes().items():
        assert np.abs(slope - golden.slopes[what]).max() < 1e-5 * np.abs(golden.slopes[what]).max(), what


@pytest.mark.long
def test_every_training_convention_is_told(name: str, ours: Step, golden: Golden) -> None:
    """With any of them turned into another, some loss leaves the golden one by ten times what rounding explains."""
    untold = [
        convention
        for convention in TRAINING
        if not any(
            faults(golden, ours.losses({convention: other}), 2e-4)
            for other in others(convention, getattr(HOMES[name].numerics, convention))
        )
    ]
    assert untold == sorted(HOMES[name].untold, key=TRAINING.index)
