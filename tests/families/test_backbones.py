"""Backbones trained on ImageNet: told by their names and first kernels, and computing what they compute at home."""

import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

import maskgraft as mg
from maskgraft.errors import CheckpointError
from maskgraft.families import identify, recognise
from maskgraft.families.imagenet_resnet import CAFFE, TORCH
from maskgraft.preprocess import prepare

HERE = Path(__file__).parent / "keras-resnet50"


def network(name: str, **options: int) -> torch.nn.Module:
    """A classifier of torchvision with norms whose statistics are not those of a new one."""
    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(weights=None, num_classes=3, **options).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.0)
    return net


def stages_of(net: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    x = net.maxpool(net.relu(net.bn1(net.conv1(pixels))))
    found = {}
    for stage in (2, 3, 4, 5):
        x = found[f"c{stage}"] = getattr(net, f"layer{stage - 1}")(x)
    return found


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet18", {}), ("resnet50", {}), ("resnet50", {"groups": 8, "width_per_group": 16}), ("wide_resnet50_2", {})],
)
@torch.inference_mode()
def test_torchvisions_networks(name: str, options: dict[str, int], tmp_path: Path) -> None:
    net = network(name, **options)
    torch.save(net.state_dict(), tmp_path / "resnet.pth")
    model = mg.load(tmp_path / "resnet.pth")
    assert model.spec.family == "imagenet-resnet"
    assert {name: getattr(model.spec.numerics, name) for name in TORCH} == TORCH
    pixels = torch.rand(1, 3, 64, 96)
    ours = model.backbone(pixels)
    for stage, theirs in stages_of(net, pixels).items():
        torch.testing.assert_close(ours[stage], theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    ignored = identify(mg.open(tmp_path / "resnet.pth")).ignored
    assert {reason for name, reason in ignored.items() if name.startswith("fc.")} == {"ImageNet classifier"}


def test_first_kernels_tell_the_input_that_they_were_trained_on(tmp_path: Path) -> None:
    state = network("resnet50").state_dict()
    state["conv1.weight"] *= 1 / 58
    torch.save(state, tmp_path / "resnet50_msra.pth")
    spec = identify(mg.open(tmp_path / "resnet50_msra.pth")).spec
    assert {name: getattr(spec.numerics, name) for name in CAFFE} == CAFFE
    assert "first kernels" in spec.learned["numerics.channel_order"].source


def deep(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names and shapes that timm's `resnet50d` has."""
    renamed = {}
    for name, tensor in state.items():
        name = name.replace("downsample.1.", "downsample.2.").replace("downsample.0.", "downsample.1.")
        renamed[name] = tensor
    del renamed["conv1.weight"]
    for index, (after, before) in enumerate(((32, 3), (32, 32), (64, 32))):
        renamed[f"conv1.{3 * index}.weight"] = torch.randn(after, before, 3, 3) * 0.1
    for vector in ("weight", "bias", "running_mean", "running_var"):
        renamed |= {f"conv1.{index}.{vector}": torch.ones(32) for index in (1, 4)}
    return renamed


def test_timms_deep_stem(tmp_path: Path) -> None:
    torch.save(deep(network("resnet50").state_dict()), tmp_path / "resnet50d.pth")
    model = mg.load(tmp_path / "resnet50d.pth")
    assert model.spec.arch.stem == "3x3" and model.spec.arch.stem_width == 64
    assert model.spec.numerics.stride_pooled
    assert model.backbone(torch.rand(1, 3, 64, 64))["c5"].shape == (1, 2048, 2, 2)


def test_squeeze_and_excitation_is_refused_by_name(tmp_path: Path) -> None:
    state = network("resnet50").state_dict() | {"layer1.0.se.fc1.weight": torch.ones(16, 256, 1, 1)}
    torch.save(state, tmp_path / "seresnet50.pth")
    with pytest.raises(CheckpointError, match="squeeze-and-excitation"):
        mg.load(tmp_path / "seresnet50.pth")


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("layer1.0.se_module.fc1.weight", "squeeze-and-excitation"),
        ("stage2.0.branches.0.0.conv1.weight", "HRNet"),
        ("", "group normalisation"),
    ],
)
def test_relatives_of_resnet_are_refused_by_name(extra: str, says: str, tmp_path: Path) -> None:
    state = network("resnet18").state_dict()
    kept = {name: tensor for name, tensor in state.items() if extra or "running" not in name}
    torch.save(kept | ({extra: torch.ones(4)} if extra else {}), tmp_path / "timm.pth")
    with pytest.raises(CheckpointError, match=says):
        mg.load(tmp_path / "timm.pth")


def detectron2(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("fc.") or name.endswith("num_batches_tracked"):
            continue
        name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        for number in (1, 2, 3):
            name = name.replace(f"bn{number}.", f"conv{number}.norm.")
        name = f"stem.{name}" if name.startswith("conv1") else f"res{int(name[5]) + 1}{name[6:]}"
        renamed[name] = tensor.numpy()
    return renamed


@torch.inference_mode()
def test_detectron2s_names(tmp_path: Path) -> None:
    net = network("resnet50")
    document = {"model": detectron2(net.state_dict()), "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(document))
    model = mg.load(tmp_path / "R-50.pkl")
    assert (model.spec.family, model.spec.numerics.channel_order) == ("detectron2-backbone", "rgb")
    pixels = torch.rand(1, 3, 64, 64)
    theirs = stages_of(net, pixels)["c5"]
    torch.testing.assert_close(model.backbone(pixels)["c5"], theirs, rtol=1e-4, atol=1e-4 * float(theirs.max()))


def caffe2(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Detectron's blobs: statistics folded into scale and shift."""
    branches = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "downsample.0": "branch1"}
    norms = {"bn1": "branch2a", "bn2": "branch2b", "bn3": "branch2c", "downsample.1": "branch1"}
    blobs = {"conv1_w": state["conv1.weight"], "fc1000_w": state["fc.weight"], "conv1_b": torch.zeros(64)}
    places = {"bn1": "res_conv1_bn"}
    for stage in (2, 3, 4, 5):
        for block in range(6):
            for conv, branch in branches.items():
                if (name := f"layer{stage - 1}.{block}.{conv}.weight") in state:
                    blobs[f"res{stage}_{block}_{branch}_w"] = state[name]
            for norm, branch in norms.items():
                if f"layer{stage - 1}.{block}.{norm}.weight" in state:
                    places[f"layer{stage - 1}.{block}.{norm}"] = f"res{stage}_{block}_{branch}_bn"
    for theirs, blob in places.items():
        scale = state[f"{theirs}.weight"] * (state[f"{theirs}.running_var"] + 1e-5).rsqrt()
        blobs |= {f"{blob}_s": scale, f"{blob}_b": state[f"{theirs}.bias"] - state[f"{theirs}.running_mean"] * scale}
    return {name: tensor.numpy() for name, tensor in blobs.items()}


@torch.inference_mode()
def test_detectrons_blobs(tmp_path: Path) -> None:
    net = network("resnet50")
    for layer in (net.layer2, net.layer3, net.layer4):  # Caffe's networks have their stride in the first 1×1
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": caffe2(net.state_dict())}, protocol=2))
    model = mg.load(tmp_path / "R-50.pkl")
    assert (model.spec.family, model.spec.arch.norm) == ("caffe2-backbone", "affine")
    pixels = torch.rand(1, 3, 64, 64)
    theirs = stages_of(net, pixels)["c5"]
    torch.testing.assert_close(model.backbone(pixels)["c5"], theirs, rtol=1e-4, atol=1e-4 * float(theirs.max()))


@pytest.mark.parametrize("case", ["keras2-resnet50", "keras3-resnet50"])
@torch.inference_mode()
def test_keras_applications(case: str, tmp_path: Path) -> None:
    with tarfile.open(HERE / f"{case}.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    (file,) = tmp_path.iterdir()
    (first, _, *_), (second, *_) = recognise(mg.open(file))[:2]
    assert first == 0.9 > second
    model = mg.load(file)
    assert (model.spec.family, model.spec.arch.blocks) == ("keras-applications", (3, 4, 6, 3))
    with np.load(HERE / f"{case}.npz") as golden:
        image = golden["image"]
        numerics = mg.load(file, numerics={"min_size": image.shape[0]}).spec.numerics
        pixels = prepare(image, numerics).pixels[None]
        assert pixels.shape[2:] == image.shape[:2]
        maps = model.backbone(pixels)
        for stage in ("c2", "c3", "c4", "c5"):
            ours = maps[stage].permute(0, 2, 3, 1).reshape(-1)[golden[f"{stage}.index"]]
            theirs = torch.from_numpy(golden[stage])
            torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-4 * float(maps[stage].abs().max()))


def test_every_table_of_keras_names_every_tensor_once(tmp_path: Path) -> None:
    with tarfile.open(HERE / "keras2-resnet50.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    known = identify(mg.open(next(tmp_path.iterdir())))
    for era in known.family.eras:
        table = list(known.family.links(known.spec, era))
        assert [link.ours for link in table] == [link.ours for link in known.links]
        assert len({link.theirs for link in table}) == len(table)
