"""A file whose proposal head has other anchors than its family's usual ones, with nothing beside it that says which."""

from dataclasses import replace
from pathlib import Path

import pytest

import maskgraft as mg
from maskgraft.errors import CheckpointError, UsageError
from maskgraft.families import identify
from tests.families.containers import CONTAINERS
from tests.families.drawn import drawn
from tests.families.slim import SLIM
from tests.families.test_variants import arrays_of


@pytest.mark.parametrize("name", ["detectron2 one class", "model garden"])
@pytest.mark.parametrize("anchors", [1, 5])
def test_it_is_told_and_not_loaded_until_they_are_given(name: str, anchors: int, tmp_path: Path) -> None:
    spec, era = SLIM[name]
    spec = replace(spec, arch=replace(spec.arch, anchors_per_cell=anchors, blocks=(1, 1, 1, 1)))
    file = CONTAINERS[spec.family](tmp_path, arrays_of(spec, era))
    (finding,) = [one for one in mg.diagnose(file).findings if one.severity == "error"]
    assert finding.code == "numerics.assumed"
    assert f"there are {anchors} anchors a cell, and anchor_sizes × anchor_ratios are 1 × 3" in finding.message
    with pytest.raises(CheckpointError, match=f"{anchors} anchors a cell"):
        mg.load(file)
    ratios = tuple(0.5 + 0.25 * number for number in range(anchors))
    assert mg.load(file, numerics={"anchor_ratios": ratios}).spec.numerics.anchor_ratios == ratios


def test_conventions_of_other_anchors_than_the_head_has_are_refused() -> None:
    spec = identify(drawn(*SLIM["detectron2 one class"])).spec
    with pytest.raises(UsageError, match="3 anchors a cell, and anchor_sizes × anchor_ratios are 1 × 2"):
        spec.with_numerics({"anchor_ratios": (1.0, 2.0)})
    with pytest.raises(UsageError, match="5 maps that propose, and anchor_sizes for 4"):
        spec.with_numerics({"anchor_sizes": ((8.0,),) * 4})
    assert spec.with_numerics({"anchor_sizes": ((8.0, 16.0, 32.0),) * 5, "anchor_ratios": (1.0,)})
