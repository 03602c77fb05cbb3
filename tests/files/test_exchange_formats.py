"""ONNX, Caffe and MXNet, written byte by byte as their definitions say."""

import struct

import ml_dtypes
import numpy as np
import pytest

from maskgraft.errors import CheckpointError
from maskgraft.files import open_checkpoint


def number(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def block(field, data):
    data = data.encode() if isinstance(data, str) else data
    return number(field << 3 | 2) + number(len(data)) + data


def plain(field, value):
    return number(field << 3) + number(value & (1 << 64) - 1)


def codes(path, **options):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, **options)
    return [finding.code for finding in caught.value.findings]


# ONNX


def tensor(name, dims, kind, *rest, packed_dims=False):
    sizes = block(1, b"".join(map(number, dims))) if packed_dims else b"".join(plain(1, size) for size in dims)
    return sizes + plain(2, kind) + b"".join(rest) + block(8, name)


def onnx(*tensors, extra=b""):
    graph = block(1, block(4, "Conv")) + block(2, "net") + b"".join(block(5, one) for one in tensors)
    graph += block(11, block(1, "image")) + block(12, block(1, "boxes")) + extra
    head = plain(1, 8) + block(2, "pytorch") + block(3, "2.1")
    return (
        head + block(7, graph) + block(8, block(1, "") + plain(2, 17)) + block(14, block(1, "task") + block(2, "mask"))
    )


def test_onnx(tmp_path):
    floats = np.arange(6, dtype="<f4").reshape(2, 3)
    half = np.array([1.5, -2], np.float16)
    (tmp_path / "x.onnx").write_bytes(
        onnx(
            tensor("raw", (2, 3), 1, block(9, floats.tobytes())),
            tensor("packed dims", (2, 3), 1, block(9, floats.tobytes()), packed_dims=True),
            tensor("floats", (6,), 1, block(4, floats.tobytes())),
            tensor("one by one", (2,), 1, *(number(4 << 3 | 5) + struct.pack("<f", value) for value in (1, 2))),
            tensor("doubles", (2,), 11, block(10, np.array([1.0, 2.0]).tobytes())),
            tensor("int64", (3,), 7, block(7, b"".join(number(value & (1 << 64) - 1) for value in (1, -2, 300)))),
            tensor("int8", (2,), 3, block(5, b"".join(number(value & (1 << 64) - 1) for value in (-128, 127)))),
            tensor("bool", (2,), 9, block(5, b"\x01\x00")),
            tensor("uint64", (1,), 13, block(11, number(2**64 - 1))),
            tensor("half", (2,), 10, block(5, b"".join(map(number, half.view(np.uint16).tolist())))),
            tensor("bf16", (1,), 16, block(9, b"\x80\x3f")),
            tensor("scalar", (), 1, block(9, struct.pack("<f", 3))),
            tensor("empty", (0,), 7),
            tensor("text", (1,), 8, block(6, "x")),
        )
    )
    ckpt = open_checkpoint(tmp_path / "x.onnx")
    assert ckpt.format == "onnx" and "text" not in ckpt
    for name in ("raw", "packed dims"):
        assert np.array_equal(ckpt[name].read(), floats) and not ckpt[name].read().flags.owndata
    assert np.array_equal(ckpt["floats"].read(), floats.reshape(-1))
    assert ckpt["one by one"].read().tolist() == ckpt["doubles"].read().tolist() == [1, 2]
    assert ckpt["int64"].read().tolist() == [1, -2, 300] and ckpt["int8"].read().tolist() == [-128, 127]
    assert ckpt["bool"].read().tolist() == [True, False] and ckpt["uint64"].read().tolist() == [2**64 - 1]
    assert ckpt["half"].read().tolist() == [1.5, -2] and ckpt["bf16"].dtype == ml_dtypes.bfloat16
    assert ckpt["scalar"].read() == 3 and ckpt["empty"].read().shape == (0,)
    for array in ckpt.values():
        assert array.read().shape == array.shape and array.read().dtype == array.dtype
    assert ckpt.about["producer"] == "pytorch" and ckpt.about["opsets"] == {"": 17}
    assert ckpt.about["inputs"] == ["image"] and ckpt.about["outputs"] == ["boxes"]
    assert ckpt.about["metadata"] == {"task": "mask"}


def test_onnx_weights_in_constant_nodes(tmp_path):
    floats = np.arange(6, dtype="<f4").reshape(2, 3)

    def constant(*attributes, kind="Constant"):
        return block(1, block(2, "conv1.weight") + block(4, kind) + b"".join(block(5, one) for one in attributes))

    value = block(1, "value") + block(5, tensor("", (2, 3), 1, block(9, floats.tobytes()))) + plain(20, 4)
    path = tmp_path / "x.onnx"
    path.write_bytes(onnx(extra=constant(value)))
    found = open_checkpoint(path)
    assert list(found) == ["conv1.weight"]
    np.testing.assert_array_equal(found["conv1.weight"].read(), floats)
    path.write_bytes(onnx(extra=constant(block(1, "value_float") + plain(20, 1))))
    assert codes(path) == ["file.no-weights"]
    path.write_bytes(onnx(extra=constant(value, kind="ConstantOfShape")))
    assert codes(path) == ["file.no-weights"]


def test_onnx_constants_that_were_not_learnt(tmp_path):
    def constant(name):
        value = block(1, "value") + block(5, tensor("", (2,), 1, block(9, bytes(8))))
        return block(1, block(2, name) + block(4, "Constant") + block(5, value))

    def conv(weight):
        return block(1, block(1, "image") + block(1, weight) + block(2, "y") + block(4, "Conv"))

    path = tmp_path / "x.onnx"
    initializer = tensor("w", (2,), 1, block(9, bytes(8)))
    path.write_bytes(onnx(initializer, extra=conv("w") + constant("prior boxes")))
    assert list(open_checkpoint(path)) == ["w"]
    path.write_bytes(onnx(initializer, extra=conv("v") + constant("v") + constant("bias added")))
    assert list(open_checkpoint(path)) == ["w", "v", "bias added"]


def external(location, offset=None, length=None):
    entries = {"location": location, "offset": offset, "length": length}
    pairs = (block(13, block(1, name) + block(2, str(value))) for name, value in entries.items() if value is not None)
    return b"".join(pairs) + plain(14, 1)


def test_onnx_with_values_beside_it(tmp_path):
    (tmp_path / "x.data").write_bytes(bytes(16) + np.arange(4, dtype="<f4").tobytes())
    (tmp_path / "x.onnx").write_bytes(
        onnx(tensor("w", (2, 2), 1, external("x.data", 16, 16)), tensor("rest", (2,), 1, external("x.data", length=8)))
    )
    ckpt = open_checkpoint(tmp_path / "x.onnx")
    assert ckpt["w"].read().tolist() == [[0, 1], [2, 3]] and ckpt["rest"].read().tolist() == [0, 0]
    (tmp_path / "x.data").unlink()
    assert codes(tmp_path / "x.onnx") == ["file.missing-shard"]


@pytest.mark.parametrize("location", ("../x.data", "/etc/passwd", "sub/../../x.data", ""))
def test_onnx_reads_no_file_outside_its_folder(tmp_path, location):
    (tmp_path / "model").mkdir()
    (tmp_path / "x.data").write_bytes(bytes(16))
    (tmp_path / "model" / "x.onnx").write_bytes(onnx(tensor("w", (4,), 1, external(location))))
    assert codes(tmp_path / "model" / "x.onnx") == ["file.outside"]


@pytest.mark.parametrize(
    ("one", "code"),
    [
        (tensor("w", (2, 3), 1, block(9, bytes(23))), "file.damaged"),
        (tensor("w", (10**13,), 1, block(9, bytes(8))), "file.damaged"),
        (tensor("w", (10**13,), 1, block(4, bytes(8))), "file.damaged"),
        (tensor("w", (-1,), 1), "file.damaged"),
        (tensor("w", (4,), 22, block(9, bytes(2))), "file.unsupported"),
        (tensor("w", (4,), 99, block(9, bytes(2))), "file.unsupported"),
        (tensor("w", (4,), 1, external("y.data", "abc")), "file.damaged"),
        (tensor("w", (4,), 1, external("y.data", 10**15)), "file.damaged"),
        (tensor("w", (4,), 1, external("y.data", 4, 12)), "file.damaged"),
    ],
)
def test_onnx_checks_what_it_is_told(tmp_path, one, code):
    (tmp_path / "y.data").write_bytes(bytes(16))
    (tmp_path / "x.onnx").write_bytes(onnx(one))
    assert codes(tmp_path / "x.onnx") == [code]


def test_onnx_names_twice_or_sparse(tmp_path):
    one = tensor("w", (1,), 1, block(9, bytes(4)))
    (tmp_path / "x.onnx").write_bytes(onnx(one, one))
    assert codes(tmp_path / "x.onnx") == ["file.damaged"]
    (tmp_path / "x.onnx").write_bytes(onnx(one, extra=block(15, b"")))
    assert codes(tmp_path / "x.onnx") == ["file.unsupported"]


def test_a_cut_onnx(tmp_path):
    data = onnx(*(tensor(f"w{place}", (100,), 1, block(9, bytes(400))) for place in range(4)))
    (tmp_path / "x.onnx").write_bytes(data[:1000])
    assert codes(tmp_path / "x.onnx") == ["file.truncated"]
    assert list(open_checkpoint(tmp_path / "x.onnx", salvage=True)) == ["w0", "w1"]


# Caffe


def blob(values, *, shape=None, old=None):
    sizes = block(7, block(1, b"".join(map(number, shape)))) if shape else b"".join(map(plain, (1, 2, 3, 4), old))
    return sizes + block(5, np.asarray(values, "<f4").tobytes())


def test_caffe_of_both_eras(tmp_path):
    blobs = (blob(range(6), shape=(2, 3)), blob(range(2), shape=(2,)))
    new = block(1, "ResNet") + block(100, block(1, "data") + block(2, "Input"))
    new += block(100, block(1, "fc") + block(2, "InnerProduct") + b"".join(block(7, one) for one in blobs))
    (tmp_path / "new").write_bytes(new)
    ckpt = open_checkpoint(tmp_path / "new")
    assert ckpt.format == "caffe" and ckpt["fc.0"].read().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert ckpt["fc.1"].read().tolist() == [0, 1]
    assert ckpt.about == {"name": "ResNet", "layers": {"data": "Input", "fc": "InnerProduct"}}
    old = block(1, "VGG") + block(2, block(4, "conv1") + plain(5, 4) + block(6, blob(range(4), old=(1, 1, 2, 2))))
    (tmp_path / "old").write_bytes(old)
    ckpt = open_checkpoint(tmp_path / "old")
    assert ckpt["conv1.0"].shape == (1, 1, 2, 2) and ckpt.about["layers"] == {"conv1": "4"}
    (tmp_path / "cut").write_bytes(new + new[-60:-10])
    assert set(codes(tmp_path / "cut")) <= {"file.damaged", "file.truncated", "file.unknown-format"}
    (tmp_path / "cut").write_bytes(new[:-10])
    assert codes(tmp_path / "cut") in (["file.truncated"], ["file.no-weights"])


def test_caffe_checks_sizes(tmp_path):
    layer = block(1, "fc") + block(2, "InnerProduct") + block(7, blob([1.0], shape=(10**12,)))
    (tmp_path / "x").write_bytes(block(1, "net") + block(100, layer))
    assert codes(tmp_path / "x") == ["file.damaged"]


# MXNet


def mxnet(arrays, names, magic=0xF993FAC9):
    body = b""
    for array in arrays:
        if magic:
            body += struct.pack("<I", magic) + (struct.pack("<i", 0) if magic != 0xF993FAC8 else b"")
            body += struct.pack(f"<I{array.ndim}q", array.ndim, *array.shape)
        else:
            body += struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape)
        flag = {"float32": 0, "float16": 2, "int64": 6}[str(array.dtype)]
        body += struct.pack("<iii", 1, 0, flag) + array.tobytes()
    listed = b"".join(struct.pack("<Q", len(name)) + name.encode() for name in names)
    return struct.pack("<QQQ", 0x112, 0, len(arrays)) + body + struct.pack("<Q", len(names)) + listed


@pytest.mark.parametrize("magic", (0, 0xF993FAC8, 0xF993FAC9, 0xF993FACA))
def test_mxnet(tmp_path, magic):
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.float16), np.array([5])]
    names = ["arg:fc_weight", "aux:bn_moving_mean", "arg:count"]
    (tmp_path / "x.params").write_bytes(mxnet(arrays, names, magic))
    ckpt = open_checkpoint(tmp_path / "x.params")
    assert ckpt.format == "mxnet" and list(ckpt) == names
    for name, array in zip(names, arrays, strict=True):
        assert np.array_equal(ckpt[name].read(), array) and ckpt[name].dtype == array.dtype
    (tmp_path / "y.params").write_bytes(mxnet(arrays, [], magic))
    assert list(open_checkpoint(tmp_path / "y.params")) == ["0", "1", "2"]


def test_mxnet_cut_and_wrong(tmp_path):
    arrays = [np.full(100, place, np.float32) for place in range(4)]
    data = mxnet(arrays, list("abcd"))
    path = tmp_path / "x.params"
    path.write_bytes(data[:1000])
    assert codes(path) == ["file.truncated"]
    ckpt = open_checkpoint(path, salvage=True)
    assert list(ckpt) == ["0", "1"] and ckpt["1"].read().tolist() == [1] * 100
    path.write_bytes(mxnet(arrays, list("aacd")))
    assert codes(path) == ["file.damaged"]
    path.write_bytes(struct.pack("<QQQ", 0x112, 0, 10**15))
    assert codes(path) == ["file.damaged"]
    path.write_bytes(struct.pack("<QQQIiI", 0x112, 0, 1, 0xF993FAC9, 1, 2))
    assert codes(path) == ["file.unsupported"]
    path.write_bytes(struct.pack("<QQQIiIqiii", 0x112, 0, 1, 0xF993FAC9, 0, 1, 10**13, 1, 0, 0) + bytes(100))
    assert codes(path) == ["file.truncated"]
