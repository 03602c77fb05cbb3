"""What `inspect` says: folded names, damage, differences, and files that cannot be opened."""

from pathlib import Path

import numpy as np
import pytest
import torch

from maskgraft.files import LazyArray, open_checkpoint
from maskgraft.inspection import checkpoints_in, describe, difference, fold
from tests.test_graft import foreign_file
from tests.tiny import tiny_model


def arrays(**shapes: tuple[int, ...]) -> dict[str, LazyArray]:
    return {name.replace("__", "."): LazyArray.of(np.zeros(shape, np.float32)) for name, shape in shapes.items()}


def test_index_ranges_are_folded_and_gaps_are_told() -> None:
    tensors = arrays(
        layer3__0__conv2__weight=(4, 4),
        layer3__1__conv2__weight=(4, 4),
        layer3__2__conv2__weight=(4, 4),
        layer3__0__conv1__weight=(4, 8),
        head__fc6__bias=(3,),
        head__fc8__bias=(3,),
    )
    assert [(row.name, row.count) for row in fold(tensors)] == [
        ("layer3.{0…2}.conv2.weight", 3),
        ("layer3.0.conv1.weight", 1),
        ("head.fc{6,8}.bias", 2),
    ]


def test_every_tensor_is_in_one_row() -> None:
    tensors = {name: LazyArray.of(value.numpy()) for name, value in tiny_model().state_dict().items()}
    assert sum(row.count for row in fold(tensors)) == len(tensors)


def test_parts_of_a_file_of_no_family_begin_where_its_names_differ(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({f"net.{name}": torch.zeros(2) for name in ("trunk.0.weight", "trunk.1.weight", "head.weight")}, path)
    assert describe(path).components == {"net.trunk": (2, 4), "net.head": (1, 2)}


def test_a_detector_is_described(tmp_path: Path) -> None:
    path = foreign_file(tiny_model(), tmp_path / "model.pth")
    found = describe(path, values=True)
    assert found.family == "torchvision"
    assert set(found.components) == {
        "backbone",
        "fpn",
        "rpn",
        "box_head",
        "box_predictor",
        "mask_head",
        "mask_predictor",
    }
    assert sum(count for count, _ in found.components.values()) == len(found.tensors or ())
    data = found.as_json()
    assert data["format"] == "pytorch-zip"
    assert data["tensors"]["rpn.head.cls_logits.bias"] == {"shape": [3], "dtype": "float32"}


def test_damage_is_seen_in_values_only(tmp_path: Path) -> None:
    state = torch.load(foreign_file(tiny_model(), tmp_path / "model.pth"))
    state["rpn.head.cls_logits.weight"][0, 0] = float("nan")
    state["roi_heads.mask_predictor.mask_fcn_logits.weight"].fill_(0.01)
    torch.save(state, tmp_path / "model.pth")
    assert not [finding for finding in describe(tmp_path / "model.pth").findings if finding.severity == "error"]
    found = {finding.code: finding for finding in describe(tmp_path / "model.pth", values=True).findings}
    assert found["values.nan"].names == ("rpn.head.cls_logits.weight",)
    assert found["values.untrained"].names == ("roi_heads.mask_predictor.mask_fcn_logits.weight",)


def test_what_changed_between_two_files(tmp_path: Path) -> None:
    one = foreign_file(tiny_model(), tmp_path / "one.pth")
    state = torch.load(one)
    state["rpn.head.cls_logits.bias"] += 1
    state["rpn.head.bbox_pred.weight"] *= 1.01
    state["backbone.body.conv1.weight"] = torch.zeros(3, 3)
    state["extra"] = state.pop("backbone.body.bn1.bias")
    torch.save(state, tmp_path / "two.pth")
    found = difference(open_checkpoint(one), open_checkpoint(tmp_path / "two.pth"))
    assert [change.name for change in found.changed] == ["rpn.head.cls_logits.bias", "rpn.head.bbox_pred.weight"]
    assert found.changed[1].relative == pytest.approx(0.01, rel=1e-3)
    assert list(found.reshaped) == ["backbone.body.conv1.weight"]
    assert (found.only_first, found.only_second) == (("backbone.body.bn1.bias",), ("extra",))
    assert found.equal == len(state) - 4


def test_a_folder_gives_its_files_and_a_bad_file_its_reason(tmp_path: Path) -> None:
    foreign_file(tiny_model(), tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(b"")
    paths = checkpoints_in([tmp_path])
    assert [path.name for path in paths] == ["a.pth", "b.pth"]
    empty = describe(paths[1])
    assert empty.tensors is None
    assert empty.findings[0].severity == "error"
    assert empty.as_json()["format"] is None


def test_a_folder_leaves_out_documents_and_the_parts_of_a_tensorflow_checkpoint(tmp_path: Path) -> None:
    for name in ("LICENSE", "pipeline.config", "placeholder.pth", "README.md", "checkpoint"):
        (tmp_path / name).write_text("a few words")
    (tmp_path / "weights").write_bytes(b"\x00\xff\x80 of no known kind")
    for name in ("a.index", "a.meta", "a.data-00000-of-00001", "alone.data-00000-of-00001"):
        (tmp_path / name).write_bytes(b"\x00\xff\x80")
    kept = [path.name for path in checkpoints_in([tmp_path])]
    assert kept == ["a.index", "alone.data-00000-of-00001", "placeholder.pth", "weights"]
    assert checkpoints_in([tmp_path / "LICENSE"]) == [tmp_path / "LICENSE"]
