"""Backbones trained on ImageNet: told by their names and first kernels, and computing what they compute at home."""

import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torchvision

import maskgraft as mg
from maskgraft.errors import CheckpointError
from maskgraft.families import identify, recognise
from maskgraft.families.imagenet_resnet import CAFFE, TORCH
from maskgraft.files import LazyArray, Tensors
from maskgraft.graft import rebuilt
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


@pytest.mark.parametrize("era", ["keras-1", "keras-2-older"])
@torch.inference_mode()
def test_the_resnet50_that_keras_had_until_2018(era: str, tmp_path: Path) -> None:
    """`resnet50_weights_tf_dim_ordering_tf_kernels.h5`, from which Matterport starts: Keras 1 wrote its names."""
    with tarfile.open(HERE / "keras2-resnet50.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    newer = mg.load(next(tmp_path.iterdir()))
    known = identify(mg.open(next(tmp_path.iterdir())))
    names = {link.ours: link.theirs for link in known.links}
    with h5py.File(tmp_path / "older.h5", "w") as file:
        layers: dict[str, list[bytes]] = {}
        for link in known.family.links(known.spec, era):
            layer, _, weight = link.theirs.partition("/")
            file[link.theirs] = known.tensors[names[link.ours]].read()
            layers.setdefault(layer, []).append(weight.encode())
        for layer, weights in layers.items():
            file[layer].attrs["weight_names"] = weights
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        expected = {
            "keras-1": ("res4f_branch2b/res4f_branch2b_W:0", "bn5a_branch1/bn5a_branch1_running_std:0"),
            "keras-2-older": ("res4f_branch2b/res4f_branch2b/kernel:0", "bn_conv1/bn_conv1/moving_variance:0"),
        }[era]
        assert all(name in file for name in expected)
    model = mg.load(tmp_path / "older.h5")
    assert (model.spec.family, model.spec.arch.blocks) == ("keras-applications", (3, 4, 6, 3))
    assert (model.spec.numerics.norm_eps, newer.spec.numerics.norm_eps) == (1e-3, 1.001e-5)
    pixels = torch.rand(1, 3, 64, 64)
    model = rebuilt(model, model.spec.with_numerics({"norm_eps": 1.001e-5}))
    torch.testing.assert_close(model.backbone(pixels)["c5"], newer.backbone(pixels)["c5"], rtol=0, atol=0)


def named(*names: str) -> Tensors:
    return Tensors(Path("net"), "drawn", {name: LazyArray.of(np.zeros(1, np.float32)) for name in names})


@pytest.mark.parametrize(
    ("network", "title"),
    [
        ("vgg16", "VGG-16"),
        ("vgg19_bn", "VGG-19"),
        ("alexnet", "AlexNet"),
        ("mobilenet_v2", "MobileNet v2"),
        ("mobilenet_v3_large", "MobileNet v3"),
        ("efficientnet_b0", "EfficientNet"),
        ("convnext_tiny", "ConvNeXt"),
        ("vit_b_32", "vision transformer"),
        ("swin_t", "Swin transformer"),
        ("swin_v2_t", "Swin transformer"),
        ("densenet121", "DenseNet"),
        ("squeezenet1_1", "SqueezeNet"),
        ("shufflenet_v2_x0_5", "ShuffleNet v2"),
        ("mnasnet0_5", "MNASNet"),
        ("maxvit_t", "MaxViT"),
    ],
)
def test_classifiers_of_torchvision_that_are_no_backbone_are_refused_by_name(network: str, title: str) -> None:
    with torch.device("meta"):
        state = getattr(torchvision.models, network)(num_classes=3).state_dict()
    one = np.zeros(1, np.float32)
    arrays = {
        name: LazyArray.of(np.broadcast_to(one, tuple(tensor.shape) or (1,)))  # no memory behind it
        for name, tensor in state.items()
    }
    with pytest.raises(CheckpointError, match=f"recognised as {title} for classifying images"):
        identify(Tensors(Path("net.pth"), "drawn", arrays))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["cls_token", "pos_embed", "blocks.0.attn.qkv.weight"], "vision transformer"),
        (["module.stem.0.weight", "module.stages.0.blocks.0.conv_dw.weight"], "ConvNeXt"),
        (["conv1.weight", "bn1.running_mean", "layer1.0.convs.0.weight"], "Res2Net"),
        (["conv1.conv.weight", "inception3a.branch1.conv.weight"], "GoogLeNet"),
        (["Conv2d_1a_3x3.conv.weight", "Mixed_5b.branch1x1.conv.weight"], "Inception v3"),
        (["stem.0.weight", "trunk_output.block1.block1-0.f.a.0.weight"], "RegNet"),
        (["vit.embeddings.cls_token", "classifier.weight"], "vision transformer"),
        (["block1_conv1/block1_conv1/kernel:0", "block5_conv3/block5_conv3/kernel:0"], "VGG-16"),
        (["Conv1/Conv1/kernel", "block_1_expand/block_1_expand/kernel"], "MobileNet v2"),
        (["vgg_16/conv1/conv1_1/weights", "vgg_16/fc8/weights"], "VGG-16"),
        (["resnet_v2_50/conv1/weights", "resnet_v2_50/postnorm/gamma"], "ResNet-50 v2"),
        (["layers/conv2d/vars/0", "layers/depthwise_conv2d/vars/0"], "MobileNet or EfficientNet"),
        (["layers/dense/vars/0", "layers/functional/layers/conv2d/vars/0"], "a layer of another"),
        (["dense/kernel", "resnet50/conv1_conv/kernel"], "a layer of another"),
    ],
)
def test_other_classifiers_too(names: list[str], says: str) -> None:
    with pytest.raises(CheckpointError, match=f"recognised as .*{says}"):
        identify(named(*names))


def test_a_resnet_of_keras_whose_norms_stand_elsewhere_is_refused(tmp_path: Path) -> None:
    with tarfile.open(HERE / "keras3-resnet50.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    whole = mg.open(next(tmp_path.iterdir()))
    late = {name: array for name, array in whole.items() if not name.startswith("layers/batch_normalization_52/")}
    assert len(late) < len(whole)
    with pytest.raises(CheckpointError, match="v2 and DenseNet have other norms"):
        identify(replace(whole, arrays=late))


def test_a_stem_of_three_widths_is_refused_by_name(tmp_path: Path) -> None:
    state = deep(network("resnet50").state_dict()) | {"conv1.0.weight": torch.ones(24, 3, 3, 3)}
    torch.save(state, tmp_path / "resnet26t.pth")
    with pytest.raises(CheckpointError, match="tiered stem"):
        mg.load(tmp_path / "resnet26t.pth")
