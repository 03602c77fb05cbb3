"""Parts of the heads that take another way for speed give what the plain way gives."""

import pytest
import torch

from maskgraft.families.torchvision import NUMERICS
from maskgraft.heads import FPN, MaskPredictor
from maskgraft.spec import Arch


def arch(**changed: object) -> Arch:
    return Arch(classes=5, neck_channels=8, mask_channels=8, **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", [1, 3])
def test_one_row_of_each_mask_is_that_row_of_all_of_them(kernel: int) -> None:
    torch.manual_seed(0)
    head = MaskPredictor(arch(mask_kernel=kernel))
    features = torch.randn(6, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    rows, slopes = torch.tensor([4, 0, 0, 3, 4, 1]), torch.randn(6, 4, 4)
    gradients = []
    for logits in (head(features)[torch.arange(6), rows], head(features, rows)[:, 0]):
        head.zero_grad()
        (logits * slopes).sum().backward()
        gradients.append((logits, head.logits.weight.grad, head.logits.bias.grad))
    for plain, short in zip(*gradients, strict=True):
        torch.testing.assert_close(short, plain, rtol=1e-5, atol=1e-5)
    assert head(features[:0], rows[:0]).shape == (0, 1, 4, 4)


@pytest.mark.parametrize("size", [(16, 24), (15, 23)])
def test_a_pyramid_is_the_same_to_the_bit_where_no_gradient_can_be_asked_for(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    fpn = FPN(arch(), NUMERICS, {"c2": 4, "c3": 4, "c4": 4})
    maps = {}
    for level in (2, 3, 4):
        maps[f"c{level}"] = torch.randn(2, 4, *size).contiguous(memory_format=torch.channels_last)
        size = -(-size[0] // 2), -(-size[1] // 2)
    plain = fpn(maps)
    with torch.inference_mode():
        short = fpn(maps)
    assert {name: torch.equal(one, short[name]) for name, one in plain.items()} == dict.fromkeys(plain, True)
