"""Recipes: what is wrong in one is told at once, what is derived is said, and optimizers go by name."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import maskgraft as mg
from maskgraft import optimizers, policy
from maskgraft.cli import app
from maskgraft.recipe import Recipe, read, recipe_from, resolve
from maskgraft.schedules import lr_factor
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


def factors(recipe: Recipe, *at: int, warmup: int = 0) -> list[float]:
    return [lr_factor(recipe, step, steps=100, warmup=warmup) for step in at]


def test_schedules() -> None:
    stepped = Recipe(schedule="step", milestones=(0.5, 0.75))
    assert factors(stepped, 0, 5, 10, 50, 75, warmup=10) == pytest.approx([1e-3, 0.5005, 1.0, 0.1, 0.01])
    assert factors(Recipe(schedule="cosine"), 0, 50, 100) == pytest.approx([1, 0.5, 0])
    assert factors(Recipe(schedule="constant"), 99) == [1.0]


def test_one_cycle_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=101, cycle_momentum=False)
    expected = []
    for _ in range(100):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    found = factors(Recipe(schedule="one-cycle"), *range(100))
    assert found == pytest.approx(expected, abs=0.06)  # theirs turns a step earlier
    assert max(found) == 1.0 and found[0] == pytest.approx(1 / 25)


def test_stages_come_from_one_line_or_from_a_table(tmp_path: Path) -> None:
    recipe = recipe_from({"stages": "heads:2ep@1e-3, fpn,backbone.res5.*:30st@3e-4, backbone:2:6ep", "batch": 2})
    assert [one.policy for one in recipe.stages] == ["heads", "fpn,backbone.res5.*", "backbone:2"]
    resolved = resolve(recipe, images=20)
    assert [(one.first, one.end) for one in resolved.stages] == [(0, 20), (20, 50), (50, 110)]
    assert [one.lr for one in resolved.stages] == pytest.approx([1e-3, 3e-4, 0.0025])
    assert [one.warmup for one in resolved.stages] == [2, 3, 6]
    assert resolved.steps == 110 and resolved.usual_lr == pytest.approx(0.0025)
    (tmp_path / "a.toml").write_text(
        '[[stages]]\npolicy = "heads"\nepochs = 2\nlr = 1e-3\n[[stages]]\npolicy = "all"\nsteps = 7\n'
    )
    assert [one.steps for one in read(tmp_path / "a.toml").stages] == [None, 7]
    assert [one.end for one in resolve(Recipe(policy="4+", epochs=3), images=20).stages] == [30]
    (tmp_path / "recipe.json").write_text(json.dumps(resolved.as_json()))
    assert read(tmp_path / "recipe.json").stages == recipe.stages


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("heads:2ep@fast", "'fast' is no learning rate"),
        ("heads@1e-3", "is no stage"),
        ("heads:2ep, all", "'all' is no stage"),
        ("heads:0ep", r"stages\[0\].*greater than or equal to 1"),
        ("heads", "is no stage"),
        ("backbone:2, all:3ep", "'backbone:2' has no length"),
        ("heads, all:3ep", "'heads' has no length"),
        ("heads:2ep@1e-3 4+:4ep", "a comma stands between stages"),
        ("heads:²ep", "is no stage"),
    ],
)
def test_a_stage_that_is_none_is_told(text: str, says: str) -> None:
    with pytest.raises(mg.UsageError, match=says):
        recipe_from({"stages": text})


def test_what_contradicts_itself_is_told() -> None:
    with pytest.raises(mg.UsageError, match="leave out policy and epochs"):
        recipe_from({"stages": "heads:1ep", "epochs": 3})
    with pytest.raises(mg.UsageError, match="accumulate = 3 equal parts"):
        recipe_from({"batch": 4, "accumulate": 3})
    with pytest.raises(mg.UsageError, match="so many epochs or so many steps"):
        recipe_from({"stages": [{"policy": "heads"}]})
    with pytest.raises(mg.UsageError, match="min_size, 800, is the short side"):
        recipe_from({"min_size": 800, "max_size": 512})
    with pytest.raises(mg.UsageError, match="momentum is of sgd"):
        recipe_from({"optimizer": "adamw", "momentum": 0.5})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"milestones": [8, 11]}, "epoch 8 of 12 is 0.67"),
        ({"optimizer_options": {"weight_decay": 0.05}}, "weight_decay would have no effect"),
        ({"multipliers": {"backbone": -0.1}}, "greater than or equal to 0"),
        ({"rpn_min_size": 8}, "--set rpn_min_size=…"),
        ({"multipliers": "gental"}, 'it is "gentle"'),
        ({"min_size": []}, "min_size"),
        ({"lr": float("inf")}, "finite number"),
        ({"stages": "heads:1ep@inf"}, "finite number"),
    ],
)
def test_what_would_train_wrongly_without_a_word_is_told(fields: dict[str, object], says: str) -> None:
    with pytest.raises(mg.UsageError, match=says):
        recipe_from(fields)


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


def test_a_recipe_that_is_written_in_python_is_told_as_well() -> None:
    with pytest.raises(mg.UsageError, match="did you mean policy"):
        mg.Recipe(**{"polcy": "heads"})
    with pytest.raises(mg.UsageError, match="lr is -1"):
        mg.Recipe(lr=-1)


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
    return optimizers.build(model, policy.apply(model, "heads"), recipe_from(fields), lr=0.1)


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


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["gentle", "backbone=-1"], r"multipliers\['backbone'\] is -1"),
        (["gental"], "--multiplier gental has no ="),
    ],
)
def test_the_preset_of_multiples_stands_beside_single_ones(words: list[str], says: str) -> None:
    given = [part for word in words for part in ("--multiplier", word)]
    line = ["train", "a.pth", "--annotations", "a.json", "--images", "a", "--out", "runs", *given]
    with pytest.raises(mg.UsageError, match=says):
        CliRunner().invoke(app, line, catch_exceptions=False)
