"""Frozen graphs and SavedModels."""

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from tensorflow_writer import CODES, field, node, shape_proto, tensor_proto, write_bundle

from maskgraft.errors import CheckpointError
from maskgraft.files.mapping import mapped
from maskgraft.files.tf_bundle import bundle_tensors
from maskgraft.files.tf_graph import graph_tensors, is_graph, is_saved_model, saved_model_tensors

SHARED = Path(os.environ.get("MASKGRAFT_SHARED", Path(__file__).parents[3] / "shared"))
real_files = pytest.mark.skipif(not SHARED.exists(), reason=f"no folder {SHARED} (MASKGRAFT_SHARED) with real files")

KERNEL = np.arange(12, dtype="f4").reshape(3, 4)
GRAPH = (
    node("image", "Placeholder")
    + node("Conv/weights", "Const", tensor=tensor_proto(KERNEL))
    + node("Conv/weights/read", "Identity", "Conv/weights")
    + node("Preprocessor/mean", "Const", tensor=tensor_proto(np.arange(3, dtype="f4")))
    + node("Reshape/shape", "Const", tensor=tensor_proto(np.arange(2, dtype="i4")))
    + node("label", "Const", tensor=field(1, 7) + field(8, b"person"))
)


def opened(graph: bytes):
    return graph_tensors(memoryview(graph), Path("frozen_inference_graph.pb"))


def test_weights_are_the_constants_that_were_variables():
    assert is_graph(memoryview(GRAPH))
    found = opened(GRAPH)
    assert found.format == "tf-graph" and list(found) == ["Conv/weights"] and found.about == {"constants": 2}
    np.testing.assert_array_equal(found["Conv/weights"].read(), KERNEL)


def test_variables_of_tensorflow_2_are_read_by_the_node_above():
    name = "StatefulPartitionedCall/model/conv/Conv2D/ReadVariableOp"
    graph = node(f"{name}/resource", "Const", tensor=tensor_proto(KERNEL)) + node(name, "Identity", f"{name}/resource")
    assert list(opened(graph)) == [f"{name}/resource"]


def test_without_reading_nodes_all_arrays_of_real_numbers_are_given():
    graph = GRAPH.replace(b"Identity", b"Identitx")
    assert list(opened(graph)) == ["Conv/weights", "Preprocessor/mean"]


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", ml_dtypes.bfloat16, "i4", "i8", "u1", "?"])
@pytest.mark.parametrize("content", [True, False])
def test_values_as_bytes_and_as_typed_fields(dtype, content):
    array = (np.arange(6).reshape(2, 3) % 2 - (dtype not in ("u1", "?"))).astype(dtype)
    graph = node("a", "Const", tensor=tensor_proto(array, content=content)) + node("a/read", "Identity", "a")
    found = opened(graph)["a"]
    assert found.read().dtype == array.dtype
    np.testing.assert_array_equal(found.read(), array)


def test_repeated_values_take_no_memory():
    tensor = field(1, CODES["float32"]) + field(2, shape_proto((1 << 20, 1 << 20)))
    one = tensor + field(5, np.float32(3).tobytes())
    some = tensor + field(5, np.arange(2, dtype="f4").tobytes())
    graph = b"".join(node(name, "Const", tensor=proto) for name, proto in (("a", one), ("b", tensor), ("c", some)))
    found = opened(graph)
    assert found["a"].read()[12345, 678] == 3 and found["a"].read().strides == (0, 0)
    assert found["b"].read()[5, 5] == 0
    with pytest.raises(CheckpointError, match="claim to be a tensor"):
        found["c"].read()


def test_the_last_value_is_repeated():
    tensor = field(1, CODES["float32"]) + field(2, shape_proto((2, 3))) + field(5, np.arange(3, dtype="f4").tobytes())
    np.testing.assert_array_equal(opened(node("a", "Const", tensor=tensor))["a"].read(), [[0, 1, 2], [2, 2, 2]])


@pytest.mark.parametrize(
    "tensor, complaint",
    [
        (field(1, 1) + field(2, shape_proto((3,))) + field(4, bytes(8)), "8 are stored"),
        (field(1, 77) + field(2, shape_proto((3,))), "type 77"),
        (field(1, 1) + field(2, shape_proto((-3,))), "no values can have"),
    ],
)
def test_constants_that_contradict_themselves(tensor, complaint):
    with pytest.raises(CheckpointError, match=complaint):
        opened(node("a", "Const", tensor=tensor))


def test_a_graph_without_weights():
    with pytest.raises(CheckpointError, match=r"no-weights.*frozen_inference_graph\.pb"):
        opened(node("image", "Placeholder"))


def test_a_cut_graph():
    whole, path = memoryview(GRAPH), Path("frozen.pb")
    cut = whole[: GRAPH.index(b"Preprocessor") + 30]
    with pytest.raises(CheckpointError, match=r"file\.truncated.*at least .* bytes; 1 tensors are whole"):
        graph_tensors(cut, path)
    found = graph_tensors(cut, path, salvage=True)
    assert list(found) == ["Conv/weights"] and found.findings[0].code == "file.truncated"
    assert found.findings[0].severity == "warning"


def saved_model(graph: bytes) -> bytes:
    info = field(4, "serve") + field(5, "2.8.4")
    signature = field(5, field(1, "serving_default") + field(2, b""))
    return field(1, 1) + field(2, field(1, info) + field(2, graph) + signature)


def test_a_saved_model_with_its_variables(tmp_path):
    (tmp_path / "variables").mkdir()
    write_bundle(tmp_path / "variables/variables", {"conv/kernel": KERNEL})
    path = tmp_path / "saved_model.pb"
    path.write_bytes(saved_model(node("image", "Placeholder")))
    assert is_saved_model(mapped(path)) and not is_graph(mapped(path))
    found = saved_model_tensors(path)
    assert found.format == "tf-saved-model" and list(found) == ["conv/kernel"]
    assert found.about["tensorflow_version"] == "2.8.4" and found.about["tags"] == ["serve"]
    assert found.about["signatures"] == ["serving_default"]
    np.testing.assert_array_equal(found["conv/kernel"].read(), KERNEL)


def test_a_frozen_saved_model(tmp_path):
    path = tmp_path / "saved_model.pb"
    path.write_bytes(saved_model(GRAPH))
    np.testing.assert_array_equal(saved_model_tensors(path)["Conv/weights"].read(), KERNEL)


def test_a_saved_model_that_lost_its_variables(tmp_path):
    path = tmp_path / "saved_model.pb"
    path.write_bytes(saved_model(node("image", "Placeholder")))
    with pytest.raises(CheckpointError, match=r"missing-shard.*variables/variables\.index"):
        saved_model_tensors(path)


def test_variables_whose_graph_is_an_lfs_pointer(tmp_path):
    (tmp_path / "variables").mkdir()
    write_bundle(tmp_path / "variables/variables", {"conv/kernel": KERNEL})
    path = tmp_path / "saved_model.pb"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    found = saved_model_tensors(path)
    assert list(found) == ["conv/kernel"]
    assert [(finding.code, finding.severity) for finding in found.findings] == [("file.lfs-pointer", "warning")]


@real_files
def test_a_frozen_graph_has_the_weights_of_its_checkpoint(unpacked):
    folder = unpacked(SHARED / "oracles/tf1od-mask_rcnn_inception_v2_coco")
    path = folder / "frozen_inference_graph.pb"
    frozen, trained = graph_tensors(mapped(path), path), bundle_tensors(folder / "model.ckpt.index")
    assert set(frozen) == set(trained)
    for name in list(frozen)[::7]:
        np.testing.assert_array_equal(frozen[name].read(), trained[name].read())
