"""PyTorch files against `torch.load`, and against literal bytes."""

import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from io import BytesIO

import numpy as np
import pytest
import torch

from maskgraft.errors import CheckpointError
from maskgraft.files import open_checkpoint, torch_legacy, torch_zip
from maskgraft.files.mapping import mapped
from maskgraft.files.stubs import Stub

DTYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.int16, torch.int32),
    *(torch.int64, torch.bool, torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu),
]


def read(path):
    data = mapped(path)
    if torch_zip.is_torch_zip(data):
        return torch_zip.read(data)
    return torch_legacy.read_stream(data) if torch_legacy.is_stream(data) else torch_legacy.read_tar(data)


def saved(tmp_path, value, legacy):
    path = tmp_path / "x.pth"
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def same_bits(ours, tensor):
    lazy = ours.lazy()
    values = lazy.read()
    assert values.shape == lazy.shape == tuple(tensor.shape)
    assert values.dtype == lazy.dtype
    assert values.dtype.itemsize == tensor.element_size()
    assert (
        values.tobytes() == tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else True
    )
    assert str(values.dtype) == str(tensor.dtype).removeprefix("torch.")


@pytest.mark.parametrize("legacy", (False, True), ids=("zip", "stream"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(tmp_path, dtype, legacy):
    bits = torch.arange(64, dtype=torch.uint8).repeat(4) % (2 if dtype == torch.bool else 113)
    tensor = bits.view(dtype).reshape(4, -1)
    path = saved(tmp_path, {"w": tensor}, legacy)
    # PyTorch 2.15 itself cannot read these from a stream that it wrote.
    if not (legacy and (dtype in (torch.uint16, torch.uint32, torch.uint64) or "float8" in str(dtype))):
        assert torch.equal(torch.load(path, weights_only=True)["w"].view(torch.uint8), tensor.view(torch.uint8))
    same_bits(read(path).value["w"], tensor)


@pytest.mark.parametrize("legacy", (False, True), ids=("zip", "stream"))
def test_views_and_shared_storages(tmp_path, legacy):
    base = torch.arange(120, dtype=torch.float32)
    tensors = {
        "base": base,
        "tail": base[100:],
        "matrix": base.reshape(10, 12),
        "transposed": base.reshape(10, 12).T,
        "every other": base[::2],
        "block": base.reshape(4, 5, 6)[1:3, ::2, 2:5],
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "expanded": torch.randn(3, 1).expand(3, 50),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }
    contents = read(saved(tmp_path, tensors, legacy))
    assert contents.names == {} and contents.cut is None
    for name, tensor in tensors.items():
        same_bits(contents.value[name], tensor)
    assert contents.value["scalar"].lazy().read() == 3.5
    assert contents.value["tail"].storage is contents.value["base"].storage


@pytest.mark.parametrize("legacy", (False, True), ids=("zip", "stream"))
def test_values_are_views_of_the_file(tmp_path, legacy):
    path = saved(tmp_path, {"w": torch.zeros(1000)}, legacy)
    array = read(path).value["w"].lazy().read()
    assert not array.flags.owndata and not array.flags.writeable


@pytest.mark.parametrize("legacy", (False, True), ids=("zip", "stream"))
def test_what_stands_beside_tensors(tmp_path, legacy):
    value = {
        "state_dict": torch.nn.BatchNorm2d(2).state_dict(),
        "epoch": 12,
        "dtype": torch.float16,
        "size": torch.Size([1, 2]),
        "device": torch.device("cuda", 1),
        "mean": np.array([0.485, 0.456]),
    }
    got = read(saved(tmp_path, value, legacy)).value
    assert got["epoch"] == 12 and got["size"] == (1, 2) and got["device"] == "cuda:1"
    assert got["mean"].lazy().read().tolist() == [0.485, 0.456]
    assert repr(got["dtype"]) == "<torch.float16>"
    assert got["state_dict"].state["_metadata"] == {"": {"version": 2}}


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x):
        return self.norm(self.conv(x - self.mean[:, None, None]))


@pytest.mark.parametrize("legacy", (False, True), ids=("zip", "stream"))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_whole_module_is_a_stub_with_its_tensors(tmp_path, legacy):
    net = Net()
    contents = read(saved(tmp_path, net, legacy))
    module = contents.value
    assert isinstance(module, Stub) and module.name == "Net"
    same_bits(module.get("_modules")["conv"].get("_parameters")["weight"], net.conv.weight)
    same_bits(module.get("_modules")["norm"].get("_buffers")["running_var"], net.norm.running_var)
    assert ("torch.nn.modules.conv", "Conv2d") in contents.names


@pytest.mark.filterwarnings("ignore")
def test_torchscript(tmp_path):
    net = Net().eval()
    script = torch.jit.script(net)
    script.save(tmp_path / "script.pt")
    contents = read(tmp_path / "script.pt")
    assert contents.format == "torchscript" and contents.names == {}
    same_bits(contents.value.get("conv").get("weight"), net.conv.weight)
    torch.jit.freeze(script).save(tmp_path / "frozen.pt")
    constants = read(tmp_path / "frozen.pt").value["constants"]
    assert (4, 3, 3, 3) in {constant.shape for constant in constants.values()}


@pytest.mark.filterwarnings("ignore")
def test_torch_export(tmp_path):
    net = Net().eval()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), tmp_path / "x.pt2")
    contents = read(tmp_path / "x.pt2")
    assert contents.format == "torch-export"
    for name, tensor in net.state_dict().items():
        same_bits(contents.value[name], tensor)


def test_torch_export_before_2_8(tmp_path):
    inner = BytesIO()
    torch.save(OrderedDict(w=torch.arange(3.0)), inner)
    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", inner.getvalue())
    assert read(tmp_path / "x.pt2").value["w"].lazy().read().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (lambda: torch.eye(3).to_sparse_csr(), "sparse"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantised"),
        (lambda: torch.empty(3, device="meta"), "meta"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_without_plain_values_are_refused(tmp_path, value, kind):
    contents = read(saved(tmp_path, {"odd": value(), "w": torch.ones(2)}, legacy=False))
    assert kind in contents.value["odd"].refusal
    with pytest.raises(CheckpointError, match=kind):
        contents.value["odd"].lazy().read()
    assert contents.value["w"].lazy().read().tolist() == [1, 1]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_tensors_in_a_bare_pickle(protocol):
    from maskgraft.files import pickles

    weight = torch.arange(6.0).reshape(2, 3)
    data = memoryview(pickle.dumps({"w": weight, "t": weight.T, "p": torch.nn.Parameter(weight)}, protocol))
    got = pickles.load(data, known=torch_legacy.KNOWN).value
    same_bits(got["w"], weight)
    same_bits(got["t"], weight.T)
    same_bits(got["p"], weight)


def test_a_stream_of_literal_bytes(tmp_path):
    # torch.save(OrderedDict(w=torch.tensor([1., 2.])), f) as PyTorch 0.4 wrote it on a GPU, Python 2 strings and all
    data = (
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x01U\rlittle_endianq\x02\x88s."
        b"\x80\x02ccollections\nOrderedDict\nq\x01)Rq\x02U\x01wq\x03ctorch._utils\n_rebuild_tensor_v2\nq\x04((U\x07storageq\x05"
        b"ctorch\nFloatStorage\nq\x06U\x0894214976q\x07U\x06cuda:0q\x08K\x02Ntq\tQK\x00K\x02\x85q\nK\x01\x85q\x0b\x89ccollections\n"
        b"OrderedDict\nq\x0c)Rq\rtq\x0eRq\x0fs.\x80\x02]q\x01U\x0894214976q\x02a."
        b"\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80?\x00\x00\x00@"
    )  # fmt: skip
    path = tmp_path / "old.pth"
    path.write_bytes(data)
    tensor = read(path).value["w"]
    assert tensor.storage.location == "cuda:0"
    assert tensor.lazy().read().tolist() == [1, 2]
    assert torch.load(path, map_location="cpu", weights_only=True)["w"].tolist() == [1, 2]


def test_storages_that_are_parts_of_one(tmp_path):
    data = (
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x01."
        b"\x80\x02}U\x01wctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\nIntStorage\nU\x011U\x03cpuK\x04"
        b"U\x012K\x01K\x02\x87tQK\x00K\x02\x85K\x01\x85tRs.\x80\x02]U\x011a."
        b"\x04\x00\x00\x00\x00\x00\x00\x00" + struct.pack("<4i", 1, 2, 3, 4)
    )  # fmt: skip
    (tmp_path / "x").write_bytes(data)
    assert read(tmp_path / "x").value["w"].lazy().read().tolist() == [2, 3]


def tar_of_2017(path):
    """An OrderedDict of one parameter and one transposed tensor over the same storage, as PyTorch 0.1.7 wrote it."""
    storages = b"".join(
        (
            pickle.dumps(1, 2),
            b"\x80\x02K\x07U\x03cpuctorch\nFloatStorage\n\x87.",
            struct.pack("<q6f", 6, *range(6)),
            pickle.dumps([], 2),
        )
    )
    tensors = b"".join(
        (
            pickle.dumps(2, 2),
            b"\x80\x02K\x08K\x07ctorch\nFloatTensor\n\x87.",
            struct.pack("<i", 2) + bytes(4) + struct.pack("<5q", 2, 3, 3, 1, 0),
            b"\x80\x02K\x09K\x07ctorch\nFloatTensor\n\x87.",
            struct.pack("<i", 1) + bytes(4) + struct.pack("<3q", 2, 2, 1),
        )
    )
    root = (
        b"\x80\x02ccollections\nOrderedDict\n)R(U\x01wctorch.nn.parameter\nParameter\n)\x81(U\x018QNN\x88\x89tb"
        b"U\x01tU\x019Qu."
    )
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as tar:
        for name, data in (("sys_info", b"\x80\x02}."), ("pickle", root), ("tensors", tensors), ("storages", storages)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), 1.5
            tar.addfile(entry, BytesIO(data))


def test_the_tar_of_2017(tmp_path):
    tar_of_2017(tmp_path / "x.pth")
    contents = read(tmp_path / "x.pth")
    assert contents.format == "pytorch-tar" and contents.names == {}
    assert contents.value["w"].lazy().read().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert contents.value["t"].lazy().read().tolist() == [1, 3]
    whole = torch.load(tmp_path / "x.pth", weights_only=False)
    assert whole["t"].tolist() == [1, 3]


@pytest.mark.parametrize("legacy", (False, True), ids=("zip", "stream"))
def test_a_cut_file_tells_what_is_whole(tmp_path, legacy):
    tensors = {f"w{number}": torch.full((1000,), float(number)) for number in range(8)}
    path = saved(tmp_path, tensors, legacy)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size * 6 // 10])
    contents = read(path)
    whole = [name for name, tensor in contents.value.items() if tensor.whole]
    assert 2 <= len(whole) <= 5
    for name in whole:
        same_bits(contents.value[name], tensors[name])
    for name in tensors.keys() - set(whole):
        with pytest.raises(CheckpointError, match="ends before"):
            contents.value[name].lazy().read()
    assert contents.cut.present == size * 6 // 10
    assert contents.cut.expected == size if legacy else 0.9 * size < contents.cut.expected <= size
    assert contents.cut.exact == legacy


def test_a_cut_tar_tells_what_was_meant(tmp_path):
    path = tmp_path / "x.pth"
    tar_of_2017(path)
    data = path.read_bytes()
    start = data.index(struct.pack("<6f", *range(6)))
    path.write_bytes(data[: start + 7])
    contents = read(path)
    assert contents.cut.expected > contents.cut.present == start + 7
    assert not contents.value["w"].whole
    with pytest.raises(CheckpointError):
        contents.value["w"].lazy().read()


@pytest.mark.parametrize("legacy", (False, True), ids=("zip", "stream"))
def test_every_cut_is_told(tmp_path, legacy):
    path = saved(tmp_path, {"w": torch.arange(50.0), "b": torch.ones(3)}, legacy)
    data = path.read_bytes()
    for end in range(40, len(data) - 1, 7):
        path.write_bytes(data[:end])
        try:
            assert read(path).cut is not None
        except CheckpointError as error:
            assert error.findings[0].severity == "error"


def hostile(size=2, stride=1, offset=0, count=2):
    """A stream with one tensor of these numbers over a storage that says it has `count` floats and has two."""

    def number(value):
        return b"\x8a\x08" + struct.pack("<q", value)

    return (
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
        b"\x80\x02}U\x01wctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\nFloatStorage\nU\x011U\x03cpu"
        + number(count) + b"tQ" + number(offset) + number(size) + b"\x85" + number(stride) + b"\x85tRs."
        b"\x80\x02]U\x011a." + struct.pack("<q", count) + b"\x00\x00\x80?\x00\x00\x00@"
    )  # fmt: skip


def test_numbers_of_a_tensor_are_checked(tmp_path):
    def opened(**numbers):
        return torch_legacy.read_stream(memoryview(hostile(**numbers)))

    assert opened().value["w"].lazy().read().tolist() == [1, 2]
    for numbers in (
        {"size": 3},
        {"offset": 1},
        {"stride": 2},
        {"size": 10**13, "stride": 0},
        {"size": -1},
        {"stride": -1},
    ):
        with pytest.raises(CheckpointError):
            opened(**numbers)
    for numbers in ({"count": 10**13}, {"count": 10**13, "size": 10**13}):
        contents = opened(**numbers)
        assert contents.cut is not None and not contents.value["w"].whole
    for count in (-1, 2**62):
        with pytest.raises(CheckpointError):
            opened(count=count)


def test_a_zip_that_claims_more_than_it_holds(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(4)}, legacy=False)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    claimed = members["x/data.pkl"].replace(b"cpuq\x06K\x04", b"cpuq\x06J\xff\xff\xff\x7f")
    assert claimed != members["x/data.pkl"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (members | {"x/data.pkl": claimed}).items():
            archive.writestr(name, data)
    with pytest.raises(CheckpointError, match="claims 8,589,934,588 bytes"):
        read(path)


def test_deflated_archives(tmp_path):
    path = saved(tmp_path, {"w": torch.arange(100.0)}, legacy=False)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    same_bits(read(path).value["w"], torch.arange(100.0))


def rewritten(path, changes):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (members | changes).items():
            archive.writestr(name, data)


def test_values_of_a_big_endian_machine(tmp_path):
    path = saved(tmp_path, {"w": torch.tensor([1.0, 2.0])}, legacy=False)
    rewritten(path, {"x/byteorder": b"big", "x/data/0": struct.pack(">2f", 1, 2)})
    tensor = read(path).value["w"]
    assert tensor.lazy().dtype == np.float32 and tensor.lazy().read().tolist() == [1, 2]
    assert tensor.lazy().read().dtype.isnative


def test_sizes_above_4_gb_stand_in_the_extra_field(tmp_path):
    path = saved(tmp_path, {"w": torch.tensor([1.0, 2.0])}, legacy=False)
    rewritten(path, {})
    data = path.read_bytes()
    at = data.index(b"PK\x01\x02", data.index(b"x/data/0", data.index(b"PK\x01\x02")) - 46)
    name = data[at + 46 :].index(b"x/data/0")
    assert name == 0
    extra = struct.pack("<HHQQ", 1, 16, 8, 8)
    entry = (
        data[at : at + 20]
        + b"\xff" * 8
        + data[at + 28 : at + 30]
        + struct.pack("<H", len(extra))
        + data[at + 32 : at + 54]
    )
    changed = data[:at] + entry + extra + data[at + 54 :]
    end = changed.index(b"PK\x05\x06")
    size, start = struct.unpack("<II", changed[end + 12 : end + 20])
    record = struct.pack(
        "<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 99, changed[end + 10], size + len(extra), start
    )
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    closing = changed[end : end + 10] + b"\xff" * 10 + changed[end + 20 :]
    path.write_bytes(changed[:end] + record + locator + closing)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("x/data/0") == struct.pack("<2f", 1, 2)
    assert read(path).value["w"].lazy().read().tolist() == [1, 2]
    path.write_bytes(path.read_bytes().replace(b"PK\x06\x06", b"PK\x06\x05"))
    with pytest.raises(CheckpointError):
        read(path)


def test_an_error_of_reading_says_file_and_tensor(tmp_path):
    path = saved(tmp_path, {"w": torch.arange(100.0)}, legacy=False)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    data = bytearray(path.read_bytes())
    at = data.index(b"x/data/0") + len("x/data/0") + 20
    data[at : at + 20] = bytes(20)
    path.write_bytes(data)
    ckpt = open_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"x\.pth, w: 'x/data/0' "):
        ckpt["w"].read()


def test_members_that_lead_out_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({}))
        archive.writestr("x/../../evil", b"")
    with pytest.raises(CheckpointError) as caught:
        torch_zip.is_torch_zip(mapped(tmp_path / "x.pth"))
    assert caught.value.findings[0].code == "file.outside"


def test_no_torch_is_imported(tmp_path):
    path = saved(tmp_path, {"w": torch.arange(3.0)}, legacy=False)
    code = (
        "import sys; from pathlib import Path; from maskgraft.files import torch_zip, torch_legacy, mapping;"
        f"print(torch_zip.read(mapping.mapped(Path({str(path)!r}))).value['w'].lazy().read().sum(),"
        "'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3.0", "False"]
