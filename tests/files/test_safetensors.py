"""safetensors against the library that defines it, and against literal bytes."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from maskgraft.errors import CheckpointError
from maskgraft.files import open_checkpoint


def literal(header, values=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def entry(dtype="F32", shape=(2,), begin=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def codes(path, **options):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, **options)
    return [finding.code for finding in caught.value.findings]


def test_literal_bytes(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(
        b"\x59\x00\x00\x00\x00\x00\x00\x00"
        b'{"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}\x20'
        b"\x80\x3f\x00\x40"
    )
    ckpt = open_checkpoint(path)
    assert ckpt.format == "safetensors" and ckpt.about == {"format": "pt"} and ckpt.key == ""
    assert ckpt["w"].shape == (1, 2) and ckpt["w"].dtype == ml_dtypes.bfloat16
    assert ckpt["w"].read().tolist() == [[1, 2]]


def test_every_dtype_that_the_library_writes(tmp_path):
    dtypes = [
        *(
            torch.float64,
            torch.float32,
            torch.float16,
            torch.bfloat16,
            torch.int64,
            torch.int32,
            torch.int16,
            torch.int8,
        ),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64),
        *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu),
    ]
    bits = torch.arange(64, dtype=torch.uint8)
    tensors = {str(dtype): (bits % 2 if dtype == torch.bool else bits).view(dtype).clone() for dtype in dtypes}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 3)}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", {"step": "7"})
    ckpt = open_checkpoint(tmp_path / "x.safetensors")
    assert ckpt.about == {"step": "7"} and set(ckpt) == set(tensors)
    for name, tensor in tensors.items():
        values = ckpt[name].read()
        assert values.shape == ckpt[name].shape == tuple(tensor.shape)
        assert values.tobytes() == (
            tensor.view(torch.uint8).numpy().tobytes() if tensor.dim() else tensor.numpy().tobytes()
        )
        assert f"torch.{values.dtype}" == str(tensor.dtype)
    assert not ckpt["torch.float32"].read().flags.owndata


@pytest.mark.parametrize(
    ("header", "values"),
    [
        (b"{", b""),
        (b'["w"]', b""),
        (b"{" * 5000, b""),
        ({"w": 3}, b""),
        ({"w": entry() | {"data_offsets": [0]}}, bytes(8)),
        ({"w": entry() | {"data_offsets": [0.5, 8]}}, bytes(8)),
        ({"w": entry() | {"shape": "2"}}, bytes(8)),
        ({"w": entry(shape=(-2,))}, bytes(8)),
        ({"w": entry(shape=(1 << 60, 1 << 60))}, bytes(8)),
        ({"w": entry(end=4)}, bytes(8)),
        ({"w": entry(begin=8, end=0)}, bytes(8)),
        ({"w": entry(begin=4, end=12)}, bytes(12)),  # a hole
        ({"w": entry(), "v": entry(begin=4, end=12)}, bytes(12)),  # an overlap
        ({"w": entry()}, bytes(9)),  # bytes of no tensor
        ({"w": entry(), "__metadata__": 3}, bytes(8)),
    ],
)
def test_headers_that_are_wrong(tmp_path, header, values):
    (tmp_path / "x").write_bytes(literal(header, values))
    assert set(codes(tmp_path / "x")) <= {"file.damaged", "file.unknown-format", "file.placeholder"}


def test_dtypes_below_a_byte_are_refused_by_name(tmp_path):
    (tmp_path / "x").write_bytes(literal({"w": entry("F4", (16,))}, bytes(8)))
    assert codes(tmp_path / "x") == ["file.unsupported"]


def test_claims_of_terabytes_take_no_memory(tmp_path):
    (tmp_path / "x").write_bytes(literal({"w": entry("U8", (10**13,), 0, 10**13)}, bytes(100)))
    assert codes(tmp_path / "x") == ["file.truncated"]
    (tmp_path / "y").write_bytes((10**7).to_bytes(8, "little") + b'{"w":')
    assert codes(tmp_path / "y") == ["file.truncated"]


def test_no_tensors(tmp_path):
    (tmp_path / "x").write_bytes(literal({"__metadata__": {}}))
    assert codes(tmp_path / "x") == ["file.no-weights"]


def test_a_cut_file(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({f"w{place}": torch.full((100,), float(place)) for place in range(4)}, path)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size - 500])
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    (finding,) = caught.value.findings
    assert finding.code == "file.truncated" and len(finding.names) == 2
    assert finding.evidence == {"bytes": size - 500, "expected": size, "exact": True, "tensors": 4}
    ckpt = open_checkpoint(path, salvage=True)
    assert set(ckpt) == set(finding.names) == {"w0", "w1"}
    assert ckpt["w1"].read().tolist() == [1] * 100
    assert set(ckpt.findings[0].names) == {"w2", "w3"}


def test_a_key_is_answered(tmp_path):
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / "x")
    assert codes(tmp_path / "x", key="model") == ["file.no-key"]


def shards(folder, suffix="safetensors"):
    places = {}
    for number in (1, 2):
        name = f"model-0000{number}-of-00002.{suffix}"
        tensors = {f"layer{number}.weight": torch.full((3,), float(number)), f"layer{number}.bias": torch.zeros(1)}
        if suffix == "bin":
            torch.save(tensors, folder / name)
        else:
            safetensors.torch.save_file(tensors, folder / name)
        places |= dict.fromkeys(tensors, name)
    index = folder / f"{'pytorch_model' if suffix == 'bin' else 'model'}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": places}))
    return index


@pytest.mark.parametrize("suffix", ("safetensors", "bin"))
def test_shards_are_read_through_their_index(tmp_path, suffix):
    index = shards(tmp_path, suffix)
    for path in (index, tmp_path):
        ckpt = open_checkpoint(path)
        assert list(ckpt) == ["layer1.weight", "layer1.bias", "layer2.weight", "layer2.bias"]
        assert ckpt["layer2.weight"].read().tolist() == [2, 2, 2]
        assert ckpt.format.startswith("sharded-") and ckpt.about["metadata"] == {"total_size": 32}


def test_every_missing_shard_is_told(tmp_path):
    index = shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(index)
    assert [finding.evidence["shard"] for finding in caught.value.findings] == ["model-00002-of-00002.safetensors"]
    ckpt = open_checkpoint(index, salvage=True)
    assert list(ckpt) == ["layer1.weight", "layer1.bias"] and ckpt.findings[0].severity == "warning"
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    assert codes(index) == ["file.missing-shard"] * 2


def test_a_shard_that_lacks_a_tensor_is_told(tmp_path):
    index = shards(tmp_path)
    listed = json.loads(index.read_text())
    listed["weight_map"]["layer3.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(listed))
    assert codes(index) == ["file.damaged"]


def test_an_index_that_leads_out_is_refused(tmp_path):
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / "secret.safetensors")
    (tmp_path / "model").mkdir()
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "../secret.safetensors"}}))
    assert codes(index) == ["file.outside"]


def test_maskgrafts_own_folder_opens(tmp_path):
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    assert np.array_equal(open_checkpoint(tmp_path)["w"].read(), [1])
