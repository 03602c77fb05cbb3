"""Checkpoints of TensorFlow's first format."""

import numpy as np
import pytest
from tensorflow_writer import part_key, slice_proto, table, write_bundle, write_v1

from maskgraft.errors import CheckpointError
from maskgraft.files.mapping import mapped
from maskgraft.files.tf_bundle import is_bundle_index
from maskgraft.files.tf_v1 import is_v1, v1_tensors

ARRAYS = {
    "conv/weights": np.arange(24, dtype="f4").reshape(2, 3, 4) / 8,
    "conv/weights/Momentum": np.zeros((2, 3, 4), "f4"),
    "doubles": np.linspace(0, 1, 5),
    "global_step": np.array(1234, "i8"),
    "negative": np.array([-5, 7, 300], "i4"),
    "scalar": np.array(2.5, "f4"),
    "truth": np.array([True, False, True]),
    "half": np.array([1.5, -2], "f2"),
    "empty": np.zeros((0, 3), "f4"),
}


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("per_block", [1, 3, 100])
def test_names_shapes_and_values(tmp_path, compress, per_block):
    path = tmp_path / "model.ckpt-1234"
    write_v1(path, ARRAYS, compress=compress, per_block=per_block)
    found = v1_tensors(path)
    assert found.format == "tf-v1" and set(found) == set(ARRAYS) - {"global_step", "conv/weights/Momentum"}
    assert list(found.slots) == ["conv/weights/Momentum"]
    assert found.about == {"global_step": 1234, "slots": {"Momentum": 1}}
    for name, array in found.items():
        assert array.shape == ARRAYS[name].shape and array.dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(array.read(), ARRAYS[name])


def test_variables_stored_in_slices(tmp_path):
    whole = np.arange(30, dtype="f4").reshape(10, 3)
    extents = [(0, 4), (4, 3), (7, 3)]
    parts = [
        (part_key("part", (start, size), (0, 3)), slice_proto((start, size), (0, 3)), whole[start : start + size])
        for start, size in extents
    ]
    write_v1(tmp_path / "a", {"part": whole}, sliced={"part": parts})
    np.testing.assert_array_equal(v1_tensors(tmp_path / "a")["part"].read(), whole)
    write_v1(tmp_path / "b", {"part": whole}, sliced={"part": parts[1:]})
    with pytest.raises(CheckpointError, match="do not make up its shape"):
        v1_tensors(tmp_path / "b")["part"].read()


def test_the_two_formats_are_told_apart(tmp_path):
    write_v1(tmp_path / "old", ARRAYS)
    write_bundle(tmp_path / "new", {"a": np.zeros(3, "f4")})
    old, new = mapped(tmp_path / "old"), mapped(tmp_path / "new.index")
    assert is_v1(old) and not is_bundle_index(old)
    assert is_bundle_index(new) and not is_v1(new)
    assert not is_v1(memoryview(table({b"a": b"b"}))) and not is_v1(memoryview(b"nothing"))


def test_a_shape_larger_than_the_file_is_refused(tmp_path):
    write_v1(tmp_path / "a", {"w": np.broadcast_to(np.float32(0), (1 << 20, 1 << 20))[:1, :1]})
    data = (tmp_path / "a").read_bytes()
    assert v1_tensors(tmp_path / "a")["w"].shape == (1, 1) and data
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, "f4"), (1 << 40,), (0,))
    write_v1(
        tmp_path / "b", {"w": huge}, sliced={"w": [(part_key("w", (0, 1)), slice_proto((0, 1)), np.zeros(1, "f4"))]}
    )
    with pytest.raises(CheckpointError, match="cannot stand in"):
        v1_tensors(tmp_path / "b")
