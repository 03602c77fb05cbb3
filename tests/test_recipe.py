"""Recipes: what is wrong in one is told at once, what is derived is said, and optimizers go by name."""

import json
from pathlib import Path

import pytest
import torch

import maskgraft as mg
from maskgraft import optimizers, policy
from maskgraft.recipe import Recipe, lr_factor, read, recipe_from, resolve
from tests.tiny import tiny_model


def test_what_is_derived_is_said() -> None:
    resolved = resolve(Recipe(batch=4), images=10, left_out=3)
    assert (resolved.steps, resolved.recipe.epochs) == (24, 12)
    assert resolved.recipe.lr == pytest.approx(0.005)
    why = {one.field: one.why for one in resolved.derived}
    assert set(why) == {"epochs", "steps", "lr", "warmup"}
    assert "0.02 × 4 / 16" in why["lr"]
    assert "3 have no instance" in why["steps"]
    assert resolved.given == ("batch",)
    assert resolve(Recipe(optimizer="AdamW"), images=10).recipe.lr == pytest.approx(1e-4)


def test_length_is_epochs_or_steps_or_the_shorter_of_both() -> None:
    assert resolve(Recipe(batch=2, epochs=3), images=10).steps == 15
    assert resolve(Recipe(batch=2, steps=1000), images=10).steps == 1000
    assert resolve(Recipe(batch=2, epochs=3, steps=1000), images=10).steps == 15
    assert resolve(Recipe(batch=2, epochs=3, steps=7), images=10).steps == 7
    assert resolve(Recipe(batch=16, epochs=3), images=10).steps == 3


def test_schedules() -> None:
    stepped = Recipe(warmup=10, schedule="step", milestones=(0.5, 0.75))
    assert lr_factor(stepped, 0, 100) == pytest.approx(1e-3)
    assert lr_factor(stepped, 5, 100) == pytest.approx(0.5005)
    assert lr_factor(stepped, 10, 100) == 1.0
    assert lr_factor(stepped, 50, 100) == pytest.approx(0.1)
    assert lr_factor(stepped, 75, 100) == pytest.approx(0.01)
    cosine = Recipe(warmup=0, schedule="cosine")
    assert lr_factor(cosine, 50, 100) == pytest.approx(0.5)
    assert lr_factor(cosine, 100, 100) == pytest.approx(0)
    assert lr_factor(Recipe(warmup=0, schedule="constant"), 99, 100) == 1.0


def test_every_wrong_field_is_told_with_its_place() -> None:
    with pytest.raises(mg.UsageError) as caught:
        recipe_from(
            {
                "polcy": "heads",
                "epochs": 0,
                "lr": -1,
                "min_size": [640, 8],
                "multipliers": {"backbone": "slow"},
                "loss_weights": {"clss": 1.0},
            },
            "mine.toml",
        )
    text = str(caught.value)
    assert "did you mean policy?" in text
    for part in ("epochs is 0", "lr is -1", "min_size[1] is 8", "multipliers['backbone'] is 'slow'", "'rpn_cls'"):
        assert f"{part}" in text
    assert len(caught.value.findings) == 6


def test_recipes_are_read_from_toml_and_json_and_from_a_run(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('policy = ["fpn", "rpn"]\nlr = 0.01\nmin_size = [480, 512]\n')
    assert read(tmp_path / "a.toml") == Recipe(policy="fpn,rpn", lr=0.01, min_size=(480, 512))
    (tmp_path / "a.json").write_text('{"epochs": 3}')
    assert read(tmp_path / "a.json") == Recipe(epochs=3)
    resolved = resolve(Recipe(policy="4+", min_size=(96, 128), loss_weights={"mask": 2.0}), images=30)
    (tmp_path / "recipe.json").write_text(json.dumps(resolved.as_json()))
    assert read(tmp_path / "recipe.json") == resolved.recipe


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.toml", "policy = heads", "line 1, column 10"),
        ("a.json", '{"policy": "heads",}', "line 1 column"),
        ("b.json", "[1, 2]", "holds a list"),
        ("c.json", '{"recipe": 3}', "holds a int"),
        ("d.toml", "epcohs = 3", "did you mean epochs"),
        ("missing.toml", None, "No such file"),
    ],
)
def test_a_recipe_that_cannot_be_read_says_where(tmp_path: Path, name: str, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(mg.UsageError, match=says) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)


def build(**fields: object) -> torch.optim.Optimizer:
    model = tiny_model()
    return optimizers.build(model, policy.apply(model, "heads"), recipe_from({"lr": 0.1, **fields}))


def test_optimizers_go_by_their_name_in_torch() -> None:
    assert isinstance(build(), torch.optim.SGD)
    assert build(momentum=0.5).param_groups[0]["momentum"] == 0.5
    nesterov = build(optimizer_options={"nesterov": True})
    assert nesterov.param_groups[0]["nesterov"] and nesterov.param_groups[0]["momentum"] == 0.9
    assert isinstance(build(optimizer="AdamW"), torch.optim.AdamW)
    assert isinstance(build(optimizer="rmsprop"), torch.optim.RMSprop)
    assert build(optimizer="adamw", optimizer_options={"betas": [0.8, 0.9]}).param_groups[0]["betas"] == (0.8, 0.9)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"optimizer": "admaw"}, "did you mean adamw"),
        ({"optimizer": "lbfgs"}, "several times a step"),
        ({"optimizer": "sdg"}, "did you mean sgd"),
        ({"optimizer_options": {"betas": [0.9, 0.99]}}, r"torch\.optim\.SGD says.*betas"),
        ({"optimizer_options": {"dampening": 1.0, "nesterov": True}}, "Nesterov"),
    ],
)
def test_an_optimizer_that_cannot_be_is_told(fields: dict[str, object], says: str) -> None:
    with pytest.raises(mg.UsageError, match=says):
        build(**fields)


def test_an_optimizer_without_a_usual_rate_needs_one() -> None:
    with pytest.raises(mg.UsageError, match="no usual learning rate"):
        resolve(Recipe(optimizer="rmsprop"), images=10)
