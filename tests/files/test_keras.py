"""Weights as Keras 1, 2 and 3 lay them out, and what a cut file still gives."""

import io
import json
import os
import zipfile
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest

from maskgraft.errors import CheckpointError
from maskgraft.files import open_checkpoint
from maskgraft.files.keras import archive_tensors, hdf5_tensors
from maskgraft.files.mapping import mapped

SHARED = Path(os.environ.get("MASKGRAFT_SHARED", Path(__file__).parents[3] / "shared"))
real_files = pytest.mark.skipif(not SHARED.exists(), reason=f"no folder {SHARED} (MASKGRAFT_SHARED) with real files")

LAYERS = {
    "input_image": {},
    "conv1": {"conv1/kernel:0": (7, 7, 3, 8), "conv1/bias:0": (8,)},
    "bn_conv1": {"bn_conv1/gamma:0": (8,), "bn_conv1/beta:0": (8,)},
    "rpn_model": {"rpn_conv_shared/kernel:0": (3, 3, 8, 16), "rpn_class_raw/bias:0": (6,)},
    "mrcnn_mask": {"mrcnn_mask/kernel:0": (1, 1, 8, 4)},
}
NAMES = [f"{layer}/{weight}" for layer, weights in LAYERS.items() for weight in weights]


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.resize(np.arange(len(name), dtype="<f4"), shape)


def save_weights(group, as_text=str, split=1, shapes=None):
    """The layout of `save_weights` in Keras 1 and 2."""
    layers = shapes or LAYERS
    names = [as_text(layer) for layer in layers]
    for number in range(split):
        key = "layer_names" if split == 1 else f"layer_names{number}"
        group.attrs[key] = names[number * len(names) // split : (number + 1) * len(names) // split]
    group.attrs["backend"] = as_text("tensorflow")
    group.attrs["keras_version"] = as_text("2.0.8")
    for layer, weights in layers.items():
        inside = group.create_group(layer)
        inside.attrs["weight_names"] = [as_text(weight) for weight in weights]
        for weight, shape in weights.items():
            inside[weight] = values(f"{layer}/{weight}", shape)


def opened(fill, salvage=False, cut=None):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
    return hdf5_tensors(memoryview(buffer.getvalue())[:cut], Path("weights.h5"), in_archive=True, salvage=salvage)


@pytest.mark.parametrize("as_text", [str, str.encode, np.bytes_])
@pytest.mark.parametrize("split", [1, 2, 3])
def test_saved_weights(as_text, split):
    found = opened(lambda file: save_weights(file, as_text, split))
    assert list(found) == NAMES
    assert found.format == "keras-h5" and not found.slots and not found.findings
    assert found.about == {
        "backend": "tensorflow",
        "keras_version": "2.0.8",
        "layers": list(LAYERS),
        "kernel_layout": "HWIO",
    }
    for name in NAMES:
        np.testing.assert_array_equal(found[name].read(), values(name, found[name].shape))


def test_a_whole_model_has_the_names_of_its_weights_and_the_optimizer_apart():
    config = {"class_name": "Model", "config": {"name": "mask_rcnn", "layers": []}}

    def fill(file):
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["training_config"] = json.dumps({"optimizer_config": {"class_name": "SGD"}})
        save_weights(file.create_group("model_weights"))
        file["optimizer_weights/SGD/conv1/kernel/momentum:0"] = np.zeros((7, 7, 3, 8), "f4")
        file["optimizer_weights"].attrs["weight_names"] = ["SGD/conv1/kernel/momentum:0"]

    found = opened(fill)
    assert list(found) == NAMES
    assert list(found.slots) == ["optimizer_weights/SGD/conv1/kernel/momentum:0"]
    assert found.about["model_config"] == config
    assert found.about["training_config"] == {"optimizer_config": {"class_name": "SGD"}}


def test_keras_3_weights():
    def fill(file):
        for layer, name, shapes in (
            ("layers/conv2d", "conv1", [(3, 3, 3, 8), (8,)]),
            ("layers/conv2d_1", "res2a", [(1, 1, 8, 8)] * 12),
            ("optimizer", "adam", [(), ()]),
        ):
            group = file.create_group(f"{layer}/vars")
            group.attrs["name"] = name
            for number, shape in enumerate(shapes):
                group[str(number)] = np.full(shape, number, "f4")

    found = opened(fill)
    assert found.format == "keras3-h5"
    assert list(found)[:2] == ["layers/conv2d/vars/0", "layers/conv2d/vars/1"]
    assert list(found)[2:] == [f"layers/conv2d_1/vars/{number}" for number in range(12)]
    assert list(found.slots) == ["optimizer/vars/0", "optimizer/vars/1"]
    assert found.about["layer_of"]["layers/conv2d_1"] == "res2a"
    assert (found["layers/conv2d_1/vars/11"].read() == 11).all()


def test_bfloat16_which_hdf5_does_not_know():
    array = np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3)

    def fill(file):
        file["layers/dense/vars/0"] = array
        file["layers/dense/vars/0"].attrs["dtype"] = "bfloat16"

    found = opened(fill)["layers/dense/vars/0"]
    assert found.dtype == ml_dtypes.bfloat16 and found.read().dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found.read().astype("f4"), array.astype("f4"))


def test_theano_kernel_order_is_told():
    layers = {
        "conv1": {"uniform1": (64, 3, 3, 3), "conv1_b": (64,)},
        "fire2/squeeze1x1": {"uniform2": (16, 64, 1, 1), "fire2/squeeze1x1_b": (16,)},
        "tiny": {"uniform3": (2, 2, 2, 2)},
    }
    found = opened(lambda file: save_weights(file, shapes=layers))
    assert list(found)[:3] == ["conv1/uniform1", "conv1/conv1_b", "fire2/squeeze1x1/uniform2"]
    assert found.about["kernel_layout"] == "OIHW"
    (finding,) = found.findings
    assert finding.code == "shape.layout"
    assert finding.names == ("conv1/uniform1", "fire2/squeeze1x1/uniform2")


def test_any_other_hdf5_file_gives_its_arrays():
    def fill(file):
        file["predictor/conv1/W"] = np.ones((4, 3, 3, 3), "f4")
        file["title"] = "a text"

    found = opened(fill)
    assert found.format == "hdf5" and list(found) == ["predictor/conv1/W"]
    assert found.about["not_read"] == {"title": "long text"}


def test_a_file_without_arrays():
    with pytest.raises(CheckpointError, match=r"no-weights.*weights\.h5"):
        opened(lambda file: file.create_group("a"))


def test_a_cut_file_says_what_is_whole_and_salvage_reads_it():
    def fill(file):
        save_weights(file)
        file["zzz_padding"] = np.zeros(50_000, "f4")

    with pytest.raises(CheckpointError) as error:
        opened(fill, cut=60_000)
    (finding,) = error.value.findings
    assert finding.code == "file.truncated" and finding.severity == "error"
    assert finding.evidence["bytes"] == 60_000 and finding.evidence["expected"] > 200_000
    assert finding.evidence["layers"] == list(LAYERS)
    assert set(finding.names) == set(NAMES)
    found = opened(fill, cut=60_000, salvage=True)
    assert set(found) == set(NAMES) and [item.code for item in found.findings] == ["file.truncated"]
    for name in NAMES:
        np.testing.assert_array_equal(found[name].read(), values(name, found[name].shape))


def test_a_nested_model_without_a_neighbour_behind_it_is_salvaged_without_its_layer():
    layers = {layer: weights for layer, weights in LAYERS.items() if layer != "mrcnn_mask"}

    def fill(file):
        save_weights(file, shapes=layers)
        file["zzz_padding"] = np.zeros(50_000, "f4")

    found = opened(fill, cut=60_000, salvage=True)
    assert {"conv1/conv1/bias:0", "rpn_class_raw/bias:0", "rpn_conv_shared/kernel:0"} < set(found)


def test_a_file_cut_before_its_first_tensor_cannot_be_salvaged():
    with pytest.raises(CheckpointError, match=r"file\.truncated.*ends after 2,000 of"):
        opened(save_weights, cut=2_000, salvage=True)


def keras_archive(fill, packed=zipfile.ZIP_STORED) -> memoryview:
    weights, archive = io.BytesIO(), io.BytesIO()
    with h5py.File(weights, "w") as file:
        fill(file)
    with zipfile.ZipFile(archive, "w", packed) as file:
        file.writestr("metadata.json", json.dumps({"keras_version": "3.12.4", "date_saved": "2026-11-21@03:27:13"}))
        file.writestr("config.json", json.dumps({"class_name": "Functional", "config": {"name": "resnet50"}}))
        file.writestr("model.weights.h5", weights.getvalue())
    return memoryview(archive.getvalue())


def modern_weights(file):
    for number in range(20):
        group = file.create_group(f"layers/conv2d_{number}/vars")
        group.attrs["name"] = f"conv{number}"
        group["0"] = np.full((1, 1, 4, 5), number, "f4")


@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_keras_3_archives(packed):
    found = archive_tensors(keras_archive(modern_weights, packed), Path("model.keras"))
    assert found.format == "keras3-zip" and len(found) == 20
    assert found.about["keras_version"] == "3.12.4" and found.about["model_config"]["config"]["name"] == "resnet50"
    assert found.about["layer_of"]["layers/conv2d_7"] == "conv7"
    assert (found["layers/conv2d_7/vars/0"].read() == 7).all()


def test_a_cut_keras_3_archive():
    data = keras_archive(modern_weights)
    with pytest.raises(CheckpointError, match=r"file\.truncated.*model\.keras.*tensors are whole"):
        archive_tensors(data[: len(data) // 2], Path("model.keras"))
    found = archive_tensors(data[: len(data) // 2], Path("model.keras"), salvage=True)
    assert 0 < len(found) < 20 and found.about["keras_version"] == "3.12.4"
    assert all((array.read() == array.read().flat[0]).all() for array in found.values())


def test_a_cut_archive_that_names_a_member_twice_or_ends_in_its_first():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("config.jsox", "config.json", "other.txt"):
            file.writestr(name, "{}")
    twice = archive.getvalue().replace(b"config.jsox", b"config.json")
    for broken in (twice[: twice.rindex(b"PK")], b"PK\3\4", twice[:40]):
        with pytest.raises(CheckpointError):
            archive_tensors(memoryview(broken), Path("model.keras"))


def test_an_archive_without_weights():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("config.json", "{}")
    with pytest.raises(CheckpointError, match=r"no model\.weights\.h5"):
        archive_tensors(memoryview(archive.getvalue()), Path("model.keras"))


@real_files
@pytest.mark.parametrize("stem, whole", [("mask_rcnn_coco.juciny.4079616", 114)])
def test_the_published_cut_matterport_file(stem, whole):
    folder = SHARED / "checkpoints/matterport_coco_prefix"
    path = folder / f"{stem}.h5"
    with pytest.raises(CheckpointError, match="ends after 4,079,616 of 257,557,808 bytes") as error:
        hdf5_tensors(mapped(path), path)
    assert len(error.value.findings[0].names) == whole
    found = hdf5_tensors(mapped(path), path, salvage=True)
    with np.load(folder / "recovered_coco_tensors.npz") as archive:
        carved = dict(archive)
    assert {name.split("/", 1)[1].removesuffix(":0").replace("/", "__") for name in found} == set(carved)
    for name in found:
        np.testing.assert_array_equal(
            found[name].read(), carved[name.split("/", 1)[1].removesuffix(":0").replace("/", "__")]
        )


@real_files
@pytest.mark.parametrize(
    "name, whole, layers", [("mask_rcnn_cucumber_0018.h5", 12, 407), ("mask_rcnn_shapes_0500.h5", 96, 406)]
)
def test_other_cut_files(name, whole, layers):
    path = SHARED / "checkpoints/odd/truncated" / name
    with pytest.raises(CheckpointError) as error:
        hdf5_tensors(mapped(path), path)
    finding = error.value.findings[0]
    assert finding.code == "file.truncated" and len(finding.names) == whole
    assert len(finding.evidence["layers"]) == layers


@real_files
def test_one_network_in_both_kernel_orders():
    folder = SHARED / "checkpoints/keras_squeezenet_imagenet"
    ours, theirs = (
        hdf5_tensors(mapped(path), path)
        for path in (
            folder / f"squeezenet_weights_{order}_dim_ordering_{order}_kernels_notop.h5" for order in ("tf", "th")
        )
    )
    assert ours.about["kernel_layout"] == "HWIO" and theirs.about["kernel_layout"] == "OIHW"
    assert list(ours) == list(theirs) and len(ours) == 50
    kernel = "fire2/squeeze1x1/uniform2"
    np.testing.assert_array_equal(ours[kernel].read(), theirs[kernel].read().transpose(2, 3, 1, 0))


@real_files
def test_a_keras_3_file_with_its_optimizer():
    path = SHARED / "checkpoints/odd/keras3_weights_h5/model.weights.h5"
    found = hdf5_tensors(mapped(path), path)
    assert len(found) == 6 and len(found.slots) == 14
    with h5py.File(path) as file:
        for name in (*found, *found.slots):
            array = found[name] if name in found else found.slots[name]
            np.testing.assert_array_equal(array.read(), file[name][()])


ORACLES = {
    "matterport-r50-c4/mask_rcnn_shapes_0010.h5": ("datasets", ""),
    "matterport-tf2port-alsombra-r50-c81/mask_rcnn_coco_tf2port.h5": ("datasets", ""),
    "keras2-resnet50/resnet50_full.h5": ("resnet50_full.h5", "model_weights/"),
    "keras3-resnet50/resnet50.weights.h5": ("resnet50.weights.h5", ""),
    "keras3-resnet50/resnet50_full_legacy.h5": ("resnet50_full_legacy.h5", "model_weights/"),
    "keras3-resnet50/resnet50.keras": ("resnet50.weights.h5", ""),
}


@real_files
@pytest.mark.parametrize("case", ORACLES)
def test_names_and_shapes_of_files_that_keras_wrote(case, unpacked):
    folder, _, name = case.partition("/")
    key, prefix = ORACLES[case]
    path = unpacked(SHARED / "oracles" / folder) / name
    found = (archive_tensors if name.endswith(".keras") else hdf5_tensors)(mapped(path), path)
    listed = json.loads((SHARED / "oracles" / folder / "names.json").read_text())[key]
    assert {(name, array.shape, str(array.dtype)) for name, array in found.items()} == {
        (row["name"].removeprefix(prefix), tuple(row["shape"]), row["dtype"]) for row in listed
    }
    assert not found.slots and not found.findings
    if not name.endswith(".keras"):
        with h5py.File(path) as file:
            for name in list(found)[::40]:
                np.testing.assert_array_equal(found[name].read(), file[prefix + name][()])


def test_weights_of_keras_3_in_several_files(tmp_path):
    values = np.arange(8, dtype=np.float32)
    for shard, group in (("m_00000.weights.h5", "layers/dense"), ("m_00001.weights.h5", "layers/dense_1")):
        with h5py.File(tmp_path / shard, "w") as file:
            file[f"{group}/vars/0"] = values.reshape(2, 4)
            file[f"{group}/vars/1"] = values[:4]
    entries = {
        "/layers/dense/vars": ["m_00000.weights.h5"],
        "/layers/dense_1/vars": ["m_00001.weights.h5"],
    }
    index = tmp_path / "m.weights.json"
    index.write_text(json.dumps({"metadata": {"total_size": 96.0}, "weight_map": entries}))
    found = open_checkpoint(index)
    assert sorted(found) == [f"layers/{layer}/vars/{number}" for layer in ("dense", "dense_1") for number in (0, 1)]
    np.testing.assert_array_equal(found["layers/dense_1/vars/0"].read(), values.reshape(2, 4))
    (tmp_path / "m_00001.weights.h5").unlink()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(index)
    assert [finding.code for finding in caught.value.findings] == ["file.missing-shard"]
