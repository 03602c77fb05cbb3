import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskgraft.families import FAMILIES, detectron2, torchvision
from maskgraft.links import Link, Reorder, Reshape, Transpose, background_last, check
from maskgraft.spec import Arch, Spec


@given(st.permutations(range(4)), st.permutations(range(6)), st.sampled_from([np.float32, np.float16, np.int64]))
def test_steps_undo_themselves_to_the_byte(axes: list[int], order: list[int], dtype: type) -> None:
    array = np.random.default_rng(0).integers(-9, 9, (6, 4, 2, 2)).astype(dtype)
    moved_first = Reorder(0, tuple(order)).forward(array)
    shape = Transpose(tuple(axes)).shape(array.shape)
    link = Link(
        "ours", "theirs", (Reorder(0, tuple(order)), Transpose(tuple(axes)), Reshape(shape, (shape[0], 96 // shape[0])))
    )
    moved = link.forward(array)
    assert moved.shape == link.shape(array.shape)
    assert np.array_equal(np.sort(moved.ravel()), np.sort(array.ravel()))
    assert np.array_equal(moved_first[0], array[order[0]])
    assert link.back(moved).tobytes() == array.tobytes()


def test_background_goes_last() -> None:
    rows = np.arange(4)
    assert background_last(4).forward(rows).tolist() == [1, 2, 3, 0]
    quads = np.arange(12)
    assert background_last(12, 4).forward(quads).tolist() == [4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3]


def test_half_precision_survives() -> None:
    array = np.array([[1.0, 2.0]], ml_dtypes.bfloat16)
    link = Link("ours", "theirs", (Transpose((1, 0)),))
    assert link.back(link.forward(array)).dtype == array.dtype


def test_check_tells_every_kind_of_fault_at_once() -> None:
    links = [Link("a", "A"), Link("b", "B"), Link("c", "C", (Transpose((1, 0)),)), Link("c", "D")]
    ours = {"a": (2,), "b": (3,), "c": (2, 3), "e": (1,)}
    theirs = {"A": (2,), "C": (2, 3), "BB": (3,), "D": (2, 3)}
    found = {finding.code: finding for finding in check(links, ours, theirs)}
    assert found["names.renamed"].names == ("c",)
    assert found["names.unexpected"].names == ("BB",)
    assert found["shape.other"].names == ("C",)
    missing = [finding for finding in check(links, ours, theirs) if finding.code == "names.missing"]
    assert missing[0].names == ("B",)
    assert missing[0].evidence["nearest"] == {}
    assert missing[1].names == ("e",)


def test_a_clean_table_has_no_findings() -> None:
    assert check([Link("a", "A")], {"a": (2, 3)}, {"A": (2, 3)}) == []


@pytest.mark.parametrize("family", [torchvision, detectron2])
@pytest.mark.parametrize("blocks", [(3, 4, 6, 3), (3, 4, 23, 3), (2, 2, 2, 2)])
@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_links_are_one_to_one_for_every_variant(family: object, blocks: tuple[int, ...], norm: str) -> None:
    from maskgraft.model import MaskRCNN

    rows = "with-background" if family is torchvision else "foreground"
    arch = Arch(
        classes=5,
        blocks=blocks,
        block="basic" if blocks == (2, 2, 2, 2) else "bottleneck",
        norm=norm,
        neck_norm="none" if norm == "frozen" else norm,
        box_convs=0 if norm == "frozen" else 4,
        box_fcs=2 if norm == "frozen" else 1,
        box_norm="none" if norm == "frozen" else norm,
        mask_norm="none" if norm == "frozen" else norm,
        box_rows=rows,
        mask_rows=rows,
    )
    spec = Spec(family="x", arch=arch, numerics=family.NUMERICS, classes=tuple("abcde"))
    import torch

    with torch.device("meta"):
        ours = set(MaskRCNN(spec).state_dict())
    for era in family.FAMILY.eras:
        links = list(family.links(spec, era))
        assert len({link.ours for link in links}) == len({link.theirs for link in links}) == len(links)
        assert {link.ours for link in links} == ours


def test_families_are_a_plain_tuple() -> None:
    assert isinstance(FAMILIES, tuple)
