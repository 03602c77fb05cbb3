"""`.npy`, `.npz` and bare pickles against NumPy and the pickler."""

import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from maskgraft.errors import CheckpointError
from maskgraft.files import open_checkpoint
from maskgraft.files.numpy_files import is_pickle

ARRAYS = {
    "conv0/W:0": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "conv0/b": np.arange(3, dtype=">f4"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "half": np.arange(3, dtype=np.float16),
    "empty": np.zeros((0, 3), np.float32),
    "count": np.array([7], np.int64),
    "zeros": np.zeros(5000, np.float32),
}


def codes(path, **options):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, **options)
    return [finding.code for finding in caught.value.findings]


@pytest.mark.parametrize("save", (np.savez, np.savez_compressed))
def test_npz(tmp_path, save):
    save(tmp_path / "x.npz", **ARRAYS)
    ckpt = open_checkpoint(tmp_path / "x.npz")
    assert ckpt.format == "numpy-npz" and list(ckpt) == list(ARRAYS)
    for name, array in ARRAYS.items():
        values = ckpt[name].read()
        assert values.dtype == ckpt[name].dtype == array.dtype.newbyteorder("=")
        assert ckpt[name].shape == array.shape and np.array_equal(values, array)


def test_values_of_a_plain_npz_are_views(tmp_path):
    np.savez(tmp_path / "x.npz", **ARRAYS)
    assert not open_checkpoint(tmp_path / "x.npz")["zeros"].read().flags.owndata


def test_npz_with_objects_in_it(tmp_path):
    np.savez(tmp_path / "x.npz", w=np.ones(3), config=np.array({"lr": 0.1}, object), note=np.array("text"))
    ckpt = open_checkpoint(tmp_path / "x.npz")
    assert list(ckpt) == ["w"]
    assert ckpt.about["config"] == {"lr": 0.1} and ckpt.about["note"] == "text"


def test_npy_of_one_array_and_of_a_dict(tmp_path):
    np.save(tmp_path / "one.npy", np.arange(6).reshape(2, 3))
    assert open_checkpoint(tmp_path / "one.npy")["array"].read().tolist() == [[0, 1, 2], [3, 4, 5]]
    np.save(tmp_path / "dict.npy", {"conv1_1": {"weights": np.ones((3, 3)), "biases": np.zeros(3)}, "data": {}})
    ckpt = open_checkpoint(tmp_path / "dict.npy")
    assert {name: array.shape for name, array in ckpt.items()} == {"weights": (3, 3), "biases": (3,)}
    assert ckpt.key == "conv1_1"
    np.save(tmp_path / "flat.npy", {"w": np.ones(2), "epoch": 3})
    assert list(open_checkpoint(tmp_path / "flat.npy")) == ["w"]


def test_npy_of_literal_bytes(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + b"\x00\x00\x80?\x00\x00\x00@"
    (tmp_path / "x").write_bytes(data)
    assert open_checkpoint(tmp_path / "x")["array"].read().tolist() == [1, 2]
    for length in (9, 30, len(data) - 1):
        (tmp_path / "x").write_bytes(data[:length])
        assert set(codes(tmp_path / "x")) <= {"file.truncated", "file.damaged", "file.unknown-format"}
    for wrong in (b"'<f4'", b"False"):
        replaced = data.replace(wrong, b"__import__('os')"[: len(wrong)].ljust(len(wrong)))
        (tmp_path / "x").write_bytes(replaced)
        assert codes(tmp_path / "x") == ["file.damaged"]
    (tmp_path / "x").write_bytes(data.replace(b"(2,)", b"(9**9,)"))
    assert codes(tmp_path / "x") == ["file.damaged"]


def test_an_array_that_claims_terabytes(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,), }\n"
    (tmp_path / "x").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    assert codes(tmp_path / "x") == ["file.truncated"]


def test_an_npz_whose_array_is_not_as_large_as_it_says(tmp_path):
    np.savez(tmp_path / "x.npz", w=np.ones(3))
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        data = archive.read("w.npy")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("w.npy", data[:-8])
    assert codes(tmp_path / "x.npz") == ["file.damaged"]


def test_a_cut_npz(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **{f"w{place}": np.full(100, float(place)) for place in range(4)})
    path.write_bytes(path.read_bytes()[:2500])
    assert codes(path) == ["file.truncated"]
    ckpt = open_checkpoint(path, salvage=True)
    assert list(ckpt) == ["w0", "w1"] and ckpt["w1"].read().tolist() == [1] * 100


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_detectron2_zoo(tmp_path, protocol):
    model = {"backbone.conv1.weight": np.ones((4, 3, 7, 7), np.float32), "proposal_generator.bias": np.zeros(3)}
    value = {"model": model, "__author__": "Caffe2", "matching_heuristics": True}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(value, protocol))
    ckpt = open_checkpoint(tmp_path / "model_final.pkl")
    assert ckpt.format == "pickle" and ckpt.key == "model" and list(ckpt) == list(model)
    assert ckpt.about == {"__author__": "Caffe2", "matching_heuristics": True}
    assert ckpt.findings == ()
    assert ckpt["backbone.conv1.weight"].read().sum() == 588


def test_detectron_blobs(tmp_path):
    blobs = {"conv1_w": np.ones((4, 3, 7, 7), np.float32), "conv1_w_momentum": np.zeros((4, 3, 7, 7), np.float32)}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"blobs": blobs, "cfg": "MODEL:\n  TYPE: generalized_rcnn\n"}, 2))
    ckpt = open_checkpoint(tmp_path / "x.pkl")
    assert list(ckpt) == ["conv1_w"] and list(ckpt.slots) == ["conv1_w_momentum"]
    assert ckpt.key == "blobs" and ckpt.about["cfg"].startswith("MODEL:")


def test_a_pickle_of_python_2_with_bytes_for_names(tmp_path):
    data = (
        b"\x80\x02}q\x01U\x05blobsq\x02}q\x03U\x07conv1_wq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06"
        b"K\x00\x85U\x01b\x87Rq\x07(K\x01K\x02\x85cnumpy\ndtype\nq\x08U\x02f4K\x00K\x01\x87Rq\t(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80\xbf\x00\x00\x00@tbss."
    )  # fmt: skip
    (tmp_path / "x.pkl").write_bytes(data)
    assert open_checkpoint(tmp_path / "x.pkl")["conv1_w"].read().tolist() == [-1, 2]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_cut_pickle(tmp_path, protocol):
    model = {f"w{place}": np.full(1000, float(place)) for place in range(8)}
    data = pickle.dumps({"model": model, "__author__": "x"}, protocol)
    path = tmp_path / "half.pkl"
    path.write_bytes(data[: len(data) * 45 // 100])
    assert codes(path) == ["file.truncated"]
    ckpt = open_checkpoint(path, salvage=True)
    assert list(ckpt) in (["w0", "w1", "w2"], ["w0", "w1", "w2", "w3"])
    for name in ckpt:
        assert np.array_equal(ckpt[name].read(), model[name])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_cut_of_a_pickle_is_told(tmp_path, protocol):
    data = pickle.dumps({"model": {"w": np.arange(9.0), "b": np.ones(2)}, "lr": 0.1}, protocol)
    for end in range(1, len(data)):
        (tmp_path / "x").write_bytes(data[:end])
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path / "x")
        try:
            ckpt = open_checkpoint(tmp_path / "x", salvage=True)
        except CheckpointError:
            continue
        for name in ckpt:
            assert ckpt[name].read().size in (9, 2)


def test_bfloat16_in_a_pickle(tmp_path):
    (tmp_path / "x").write_bytes(pickle.dumps({"w": np.ones(3, ml_dtypes.bfloat16)}))
    assert open_checkpoint(tmp_path / "x")["w"].dtype == ml_dtypes.bfloat16


def test_text_is_no_pickle():
    for text in (b"(see the README)\n.", b"copyright\n", b"[]", b"config.", b"]", b"}"):
        assert not is_pickle(memoryview(text))


def tensor_of_paddle(values):
    """What `paddle.save` has the pickler write for a tensor, through `eval("data", {"data": …})`."""

    class Tensor:
        def __reduce__(self):
            return eval, ("data", {"data": values})

    return Tensor()


def test_paddle(tmp_path):
    names = {"conv.weight": "conv2d_0.w_0"}
    value = {"conv.weight": np.ones((2, 3)), "conv.bias": ("b_0", np.zeros(2)), "StructuredToParameterName@@": names}
    for protocol in (2, 4):
        (tmp_path / "x.pdparams").write_bytes(pickle.dumps(value, protocol))
        ckpt = open_checkpoint(tmp_path / "x.pdparams")
        assert ckpt.format == "paddle" and list(ckpt) == ["conv.weight", "conv.bias"]
        assert ckpt.about["parameter_names"] == names
    (tmp_path / "y.pdparams").write_bytes(pickle.dumps({"w": tensor_of_paddle(np.arange(3.0))}))
    ckpt = open_checkpoint(tmp_path / "y.pdparams")
    assert ckpt["w"].read().tolist() == [0, 1, 2] and ckpt.findings == ()


def test_paddle_joins_what_it_sliced(tmp_path):
    value = {
        "big@@.0": np.arange(4.0),
        "big@@.1": np.arange(4.0, 6.0),
        "UnpackBigParamInfor@@": {"big": {"OriginShape": (2, 3), "slices": ["big@@.0", "big@@.1"]}},
    }
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(value))
    ckpt = open_checkpoint(tmp_path / "x.pdparams")
    assert list(ckpt) == ["big"] and ckpt["big"].read().tolist() == [[0, 1, 2], [3, 4, 5]]
    value["UnpackBigParamInfor@@"]["big"]["OriginShape"] = (2, 4)
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(value))
    assert codes(tmp_path / "x.pdparams") == ["file.damaged"]
