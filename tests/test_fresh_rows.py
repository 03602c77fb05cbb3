"""Class rows that start from nothing take longer steps."""

from collections.abc import Callable

import pytest
import torch

from maskgraft import optimizers, policy
from maskgraft.class_surgery import CLASS_TENSORS, with_classes
from maskgraft.fresh_rows import fresh_classes
from maskgraft.model import MaskRCNN
from maskgraft.recipe import Recipe
from tests.test_keeping import NEW, grown, start

STAR = NEW.index("star")


def stepped(model: MaskRCNN, recipe: Recipe, steps: int = 1) -> dict[str, torch.Tensor]:
    """How far each tensor of the predictors goes, with the same gradients whatever the recipe."""
    trainable = policy.apply(model, "all")
    optimizer = optimizers.build(model, trainable, recipe, lr=0.01)
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    for step in range(steps):
        for number, parameter in enumerate(model.parameters()):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(97 * step + number))
        optimizer.step()
    return {name: one.detach() - before[name] for name, one in model.named_parameters()}


def rows(name: str, moved: torch.Tensor) -> torch.Tensor:
    return moved.reshape(-1, 4 if ".deltas." in name else 1, *moved.shape[1:])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_fresh_rows_go_as_far_as_at_a_higher_rate(optimizer: str) -> None:
    recipe = Recipe(optimizer=optimizer, fresh_rows=10)
    plain = stepped(grown(), recipe.model_copy(update={"fresh_rows": 1.0}))
    hastened = stepped(grown(), recipe)
    for name, moved in plain.items():
        if name not in CLASS_TENSORS:
            assert torch.equal(moved, hastened[name]), name
            continue
        one, other = rows(name, moved), rows(name, hastened[name])
        others = [row for row in range(len(one)) if row != STAR]
        assert torch.equal(one[others], other[others]), name
        torch.testing.assert_close(other[STAR], 10 * one[STAR], rtol=1e-3, atol=1e-7)


def test_the_same_as_sgd_of_that_rate() -> None:
    """Over several steps with momentum and decay, as a tensor of its own would go at ten times the rate."""
    recipe = Recipe(fresh_rows=10, weight_decay=0.1)
    hastened = stepped(grown(), recipe, steps=4)
    faster = stepped(grown(), recipe.model_copy(update={"fresh_rows": 1.0, "multipliers": {"box_predictor": 10.0}}), 4)
    name = "box_predictor.cls.weight"
    torch.testing.assert_close(hastened[name][STAR], faster[name][STAR], rtol=1e-3, atol=1e-6)
    assert not torch.allclose(hastened[name][0], faster[name][0], rtol=0.5)


@pytest.mark.parametrize(
    "model", [start, lambda: with_classes(start(), ["moon", "star"])], ids=["no fresh row", "all rows fresh"]
)
def test_nothing_is_hastened_where_all_rows_are_alike(model: Callable[[], MaskRCNN]) -> None:
    assert fresh_classes(model()) == ()
    plain, same = (stepped(one, Recipe(fresh_rows=factor)) for one, factor in ((start(), 1.0), (start(), 10.0)))
    assert all(torch.equal(moved, same[name]) for name, moved in plain.items())


def test_what_does_not_train_stays() -> None:
    model = grown()
    trainable = policy.apply(model, "mask_head")
    optimizer = optimizers.build(model, trainable, Recipe(fresh_rows=10), lr=0.01)
    before = model.box_predictor.cls.weight.detach().clone()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert torch.equal(model.box_predictor.cls.weight, before)
