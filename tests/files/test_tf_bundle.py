"""Bundles as TensorFlow 1 and 2 write them, whole and not."""

import json
import os
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from tensorflow_writer import field, object_graph, part_key, slice_proto, table, write_bundle

from maskgraft.errors import CheckpointError
from maskgraft.files import tf_writing
from maskgraft.files.mapping import mapped
from maskgraft.files.tf_bundle import bundle_tensors, is_bundle_index
from maskgraft.files.tf_values import Slice

SHARED = Path(os.environ.get("MASKGRAFT_SHARED", Path(__file__).parents[3] / "shared"))
real_files = pytest.mark.skipif(not SHARED.exists(), reason=f"no folder {SHARED} (MASKGRAFT_SHARED) with real files")

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
WEIGHTS = {
    "Conv/biases": np.arange(8, dtype="f4"),
    "Conv/weights": np.arange(72, dtype="f4").reshape(3, 3, 1, 8),
}


def test_names_shapes_and_values(tmp_path):
    write_bundle(tmp_path / "model.ckpt", WEIGHTS)
    found = bundle_tensors(tmp_path / "model.ckpt.index")
    assert found.format == "tf-bundle" and list(found) == list(WEIGHTS) and not found.slots and not found.findings
    for name, array in WEIGHTS.items():
        assert found[name].shape == array.shape and found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name].read(), array)


def test_values_are_views_into_the_data_file(tmp_path):
    write_bundle(tmp_path / "model.ckpt", WEIGHTS)
    found = bundle_tensors(tmp_path / "model.ckpt.index")
    array = found["Conv/weights"].read()
    assert not array.flags.writeable and not array.flags.owndata


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("compress", [False, True])
def test_several_data_files_and_compressed_indexes(tmp_path, shards, compress):
    arrays = {
        f"layer_{number}/weights": np.full((4, number + 1), number).astype(dtype)
        for number, dtype in enumerate(["f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1", "?", ml_dtypes.bfloat16])
    }
    write_bundle(tmp_path / "model.ckpt", arrays, shards=shards, compress=compress, per_block=3)
    found = bundle_tensors(tmp_path / "model.ckpt.index")
    assert found.about["shards"] == shards and list(found) == sorted(arrays)
    for name, array in arrays.items():
        assert found[name].read().dtype == array.dtype
        np.testing.assert_array_equal(found[name].read(), array)


def test_slots_averages_and_counters_of_tensorflow_1(tmp_path):
    arrays = dict(WEIGHTS)
    for name, array in WEIGHTS.items():
        arrays[f"{name}/Momentum"] = np.zeros_like(array)
        arrays[f"{name}/ExponentialMovingAverage"] = array + 1
    arrays |= {"beta1_power": np.float32(0.9) + np.zeros((), "f4"), "global_step": np.array(200_000, "i8")}
    write_bundle(tmp_path / "model.ckpt", arrays)
    found = bundle_tensors(tmp_path / "model.ckpt.index")
    assert list(found) == list(WEIGHTS)
    assert found.about["global_step"] == 200_000
    assert found.about["slots"] == {"Momentum": 2, "ExponentialMovingAverage": 2, "optimizer": 1}
    assert len(found.slots) == 5
    (finding,) = found.findings
    assert finding.code == "names.optimizer-slots" and finding.severity == "info"
    assert finding.names == ("Conv/biases/ExponentialMovingAverage", "Conv/weights/ExponentialMovingAverage")


def test_averages_that_stand_alone_are_the_weights(tmp_path):
    write_bundle(tmp_path / "model.ckpt", {"Conv/weights/ExponentialMovingAverage": np.ones(3, "f4")})
    found = bundle_tensors(tmp_path / "model.ckpt.index")
    assert list(found) == ["Conv/weights/ExponentialMovingAverage"] and not found.slots


def partitioned():
    whole = np.arange(30, dtype="f4").reshape(10, 3)
    parts = [
        (part_key("embedding", (start, size), (0, 3)), slice_proto((start, size), (0, 3)), whole[start : start + size])
        for start, size in ((0, 4), (4, 3), (7, 3))
    ]
    return whole, parts


@pytest.mark.parametrize("shards", [1, 2])
def test_partitioned_variables_are_put_together(tmp_path, shards):
    whole, parts = partitioned()
    write_bundle(tmp_path / "model.ckpt", WEIGHTS, partitioned={"embedding": (whole, parts)}, shards=shards)
    found = bundle_tensors(tmp_path / "model.ckpt.index")
    assert list(found) == [*WEIGHTS, "embedding"]
    np.testing.assert_array_equal(found["embedding"].read(), whole)


def test_a_partitioned_variable_with_a_part_missing(tmp_path):
    whole, parts = partitioned()
    write_bundle(tmp_path / "model.ckpt", {}, partitioned={"embedding": (whole, parts[:2])})
    with pytest.raises(CheckpointError, match="do not make up its shape"):
        bundle_tensors(tmp_path / "model.ckpt.index")


def test_keys_of_slices_as_tensorflow_writes_them():
    # Numbers from 64 on take two bytes, and a whole axis has the length -1.
    assert Slice((0, 0), (4, 3)).key("part") == b"\0part\0\1\1\2\x80\x84\x80\x83"
    assert Slice((0,), (-1,)).key("a") == b"\0a\0\1\1\1\x80\x7f"
    assert Slice((64,), (300,)).key("a") == b"\0a\0\1\1\1\xc0\x40\xc1\x2c"
    assert Slice((8192,), (1 << 30,)).key("a") == b"\0a\0\1\1\1\xe0\x20\x00\xf8\x40\x00\x00\x00"


TF2 = {
    f"model/conv/kernel{VALUE}": np.arange(4, dtype="f4"),
    f"model/conv/kernel/.OPTIMIZER_SLOT/optimizer/momentum{VALUE}": np.zeros(4, "f4"),
    f"model/conv/kernel/.OPTIMIZER_SLOT/optimizer/average{VALUE}": np.ones(4, "f4"),
    f"optimizer/iter{VALUE}": np.array(7, "i8"),
    f"optimizer/_trainable_variables/0{VALUE}": np.arange(5, dtype="f4"),
    f"save_counter{VALUE}": np.array(3, "i8"),
    f"variables/1{VALUE}": np.arange(6, dtype="f4"),
    f"variables/2{VALUE}": np.arange(7, dtype="f4"),
}
GRAPH = object_graph(
    [
        ({"variables": 2, "model": 1, "optimizer": 6}, None),
        ({"conv": 3, "optimizer": 6, "variables": 2}, None),
        ({"0": 4, "1": 5, "2": 8}, None),
        ({"kernel": 4, "bias": 5, "gamma": 7}, None),
        ({}, ("conv1/kernel", f"model/conv/kernel{VALUE}")),
        ({}, ("conv1/bias", f"variables/1{VALUE}")),
        ({"iter": 9, "_trainable_variables": 10}, None),
        ({}, ("conv1/gamma", f"optimizer/_trainable_variables/0{VALUE}")),
        ({}, ("lost/kernel", f"variables/2{VALUE}")),
        ({}, ("SGD/iter", f"optimizer/iter{VALUE}")),
        ({"0": 7}, None),
    ]
)


def test_readable_names_from_the_object_graph(tmp_path):
    write_bundle(tmp_path / "ckpt-3", TF2, texts={"_CHECKPOINTABLE_OBJECT_GRAPH": GRAPH})
    found = bundle_tensors(tmp_path / "ckpt-3.index")
    # The path stays; a list of variables or an optimizer gives way to a path beside it, or to the variable's own name.
    assert {name: found[name].size for name in found} == {
        "model/conv/kernel": 4,
        "model/conv/gamma": 5,
        "model/conv/bias": 6,
        "lost/kernel": 7,
    }
    assert set(found.slots) == {
        "model/conv/kernel/.OPTIMIZER_SLOT/optimizer/momentum",
        "model/conv/kernel/.OPTIMIZER_SLOT/optimizer/average",
        "optimizer/iter",
    }
    assert found.about["save_counter"] == 3
    assert found.about["full_names"]["model/conv/bias"] == "conv1/bias"
    assert found.about["slots"] == {"momentum": 1, "average": 1, "optimizer": 1}
    assert [finding.code for finding in found.findings] == ["names.optimizer-slots"]


def test_without_the_object_graph_keys_are_the_names(tmp_path):
    write_bundle(tmp_path / "ckpt-3", TF2, texts={"other": b"a text"})
    found = bundle_tensors(tmp_path / "ckpt-3.index")
    assert list(found) == ["model/conv/kernel", "variables/1", "variables/2"]
    assert found.about["texts"] == {"other": "a text"} and "full_names" not in found.about


def test_a_missing_data_file_leaves_names_and_shapes(tmp_path):
    write_bundle(tmp_path / "model.ckpt", {**WEIGHTS, "global_step": np.array(5, "i8")}, shards=2)
    (tmp_path / "model.ckpt.data-00001-of-00002").unlink()
    found = bundle_tensors(tmp_path / "model.ckpt.index")
    (finding,) = found.findings
    assert finding.code == "file.missing-shard" and "model.ckpt.data-00001-of-00002" in finding.message
    assert list(found) == list(WEIGHTS) and found["Conv/weights"].shape == (3, 3, 1, 8)
    np.testing.assert_array_equal(found["Conv/biases"].read(), WEIGHTS["Conv/biases"])
    with pytest.raises(CheckpointError, match="data-00001-of-00002"):
        found["Conv/weights"].read()


def test_a_data_file_that_is_an_lfs_pointer(tmp_path):
    write_bundle(tmp_path / "model.ckpt", {**WEIGHTS, "global_step": np.array(5, "i8")})
    (tmp_path / "model.ckpt.data-00000-of-00001").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 241915174\n"
    )
    found = bundle_tensors(tmp_path / "model.ckpt.index")
    (finding,) = found.findings
    assert finding.code == "file.lfs-pointer" and "241,915,174" in finding.message
    assert finding.evidence["expected"] == 241_915_174
    assert list(found) == list(WEIGHTS) and found.about["global_step"] is None
    with pytest.raises(CheckpointError, match="LFS pointer"):
        found["Conv/weights"].read()


def test_a_cut_data_file(tmp_path):
    write_bundle(tmp_path / "model.ckpt", WEIGHTS)
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="after 200 of 320 bytes") as error:
        bundle_tensors(tmp_path / "model.ckpt.index")
    assert error.value.findings[0].code == "file.truncated" and error.value.findings[0].names == ("Conv/biases",)
    found = bundle_tensors(tmp_path / "model.ckpt.index", salvage=True)
    assert list(found) == ["Conv/biases"] and found.findings[0].code == "file.truncated"
    np.testing.assert_array_equal(found["Conv/biases"].read(), WEIGHTS["Conv/biases"])


def test_a_data_file_that_is_a_link_to_elsewhere_is_refused(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir(), outside.mkdir()
    write_bundle(inside / "model.ckpt", WEIGHTS)
    data = inside / "model.ckpt.data-00000-of-00001"
    shutil.move(data, outside / "secret")
    data.symlink_to(outside / "secret")
    with pytest.raises(CheckpointError, match=r"file\.outside"):
        bundle_tensors(inside / "model.ckpt.index")


def test_links_of_index_and_data_to_one_folder_are_followed(tmp_path):
    blobs, names = tmp_path / "blobs", tmp_path / "names"
    blobs.mkdir(), names.mkdir()
    write_bundle(names / "model.ckpt", WEIGHTS)
    for number, path in enumerate(sorted(names.iterdir())):
        shutil.move(path, blobs / str(number))
        path.symlink_to(blobs / str(number))
    assert (bundle_tensors(names / "model.ckpt.index")["Conv/biases"].read() == WEIGHTS["Conv/biases"]).all()


@pytest.mark.parametrize(
    "entry, complaint",
    [
        (field(1, 1) + field(2, field(2, field(1, 4))) + field(5, 12), "has 12 bytes"),
        (field(1, 1) + field(2, field(2, field(1, 1 << 40))) + field(5, 4), "has 4 bytes"),
        (field(1, 1) + field(2, field(2, field(1, 1 << 60))) + field(5, 4), "more elements than any memory"),
        (field(1, 1) + field(2, field(2, field(1, -4))) + field(5, 4), "no values can have"),
        (field(1, 1) + field(3, 9), "data file 9 of 1"),
        (field(1, 99), "type 99"),
        (field(1, 20), "resource"),
        (field(1, 1) + field(2, field(3, 1)), "no values can have"),
    ],
)
def test_an_index_that_contradicts_itself(tmp_path, entry, complaint):
    (tmp_path / "a.index").write_bytes(table({b"": field(1, 1), b"w": entry}))
    (tmp_path / "a.data-00000-of-00001").write_bytes(bytes(16))
    with pytest.raises(CheckpointError, match=complaint):
        bundle_tensors(tmp_path / "a.index")


def test_an_index_is_known_by_its_bytes(tmp_path):
    write_bundle(tmp_path / "model.ckpt", WEIGHTS, compress=True)
    assert is_bundle_index(mapped(tmp_path / "model.ckpt.index"))
    assert not is_bundle_index(mapped(tmp_path / "model.ckpt.data-00000-of-00001"))
    assert not is_bundle_index(memoryview(table({b"a": b"b"})))


INDEXES = {
    "tf1_mask_rcnn_inception_v2/training/model.ckpt-1295.index": (360, 222, "file.missing-shard"),
    "tf2_zoo_index/inference_graph/checkpoint/ckpt-0.index": (914, 0, "file.lfs-pointer"),
    "tf2_zoo_index/inference_graph/saved_model/variables/variables.index": (914, 0, "file.lfs-pointer"),
    "tf2_zoo_index/ssd_mobilenet_v1_fpn_640x640_coco17_tpu-8/checkpoint/ckpt-0.index": (333, 0, "file.lfs-pointer"),
}


@real_files
@pytest.mark.parametrize("path", INDEXES)
def test_published_indexes_without_their_data(path):
    weights, slots, code = INDEXES[path]
    found = bundle_tensors(SHARED / "checkpoints" / path)
    assert (len(found), len(found.slots)) == (weights, slots)
    assert [finding.code for finding in found.findings] == [code]


@real_files
def test_a_published_bundle_has_the_values_of_its_pytorch_twin():
    folder = SHARED / "checkpoints/odd/ultralight_face"
    found = bundle_tensors(folder / "variables.index")
    assert len(found) == 209
    assert found.about["full_names"]["layer_with_weights-0/kernel"] == "basenet.0.0_conv/kernel"
    assert found["layer_with_weights-0/kernel"].read().shape == (3, 3, 3, 16)


CASES = {
    "tf1od-mask_rcnn_inception_v2_coco": "model.ckpt.index",
    "tf2od-mask_rcnn_resnet50_keras": "checkpoint/ckpt-0.index",
    "modelgarden-maskrcnn_resnet50fpn": "ckpt-22500.index",
    "diag-tf1od-ssd_mobilenet_v1_coco": "model.ckpt.index",
    "diag-tf2od-ssd_resnet50_v1_fpn_keras": "checkpoint/ckpt-0.index",
}


@real_files
@pytest.mark.parametrize("case", CASES)
def test_names_and_shapes_of_checkpoints_that_the_frameworks_wrote(case, unpacked):
    folder = SHARED / "oracles" / case
    found = bundle_tensors(unpacked(folder) / CASES[case])
    listed = {row["name"]: row for row in json.loads((folder / "names.json").read_text())}
    counters = {"global_step", "save_counter"} & set(found.about)
    names = {name.removesuffix(VALUE) for name, row in listed.items() if row["dtype"] != "string"}
    assert {*found, *found.slots, *counters} == names
    for name, array in {**found.arrays, **found.slots}.items():
        row = listed.get(name) or listed[name + VALUE]
        assert list(array.shape) == row["shape"] and str(array.dtype) == row["dtype"], name
    assert all(np.isfinite(array.read()).all() for array in list(found.values())[:20])


def test_a_model_of_one_layer_is_found_before_it_is_built(tmp_path):
    """An unbuilt `Sequential` has a "layer-0", and no "layer_with_weights-0" yet; a built one of several has both."""
    kernel = np.ones((1, 1, 2, 2), "f4")
    one, several = "model/first_conv/layer_with_weights-0/kernel", "model/trunk/layer_with_weights-{}/kernel"
    arrays = {name: kernel for name in (one, several.format(0), several.format(1))}
    tf_writing.write_bundle(tmp_path / "ckpt-0", arrays, objects=True)
    assert (tmp_path / "ckpt-0.data-00000-of-00001").read_bytes().count(b"layer-0") == 1
    assert list(bundle_tensors(tmp_path / "ckpt-0.index")) == sorted(arrays)
