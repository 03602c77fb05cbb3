"""`Recipe`: the whole training configuration, what the user set and what was derived from data and model.

recipe = mg.Recipe(policy="heads", epochs=4, batch=2)
recipe = read("recipe.toml")
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maskgraft.errors import Finding, UsageError

REFERENCE_LR, REFERENCE_BATCH = 0.02, 16  # SGD for COCO on sixteen images (Goyal et al. 2017 §2.1, Detectron2)
ADAM_LR = 1e-4


class Recipe(BaseModel):
    """How to train. Every field has a default; `None` is derived from the dataset and the model, and said."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str = Field("heads", description="what trains: heads, all, 3+, 4+, 5+, predictors, components …")
    epochs: int = Field(12, ge=1)
    steps: int | None = Field(None, ge=1, description="stop after this many steps, whatever the epochs say")
    batch: int = Field(2, ge=1, description="images a step")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float | None = Field(None, gt=0, description="learning rate; SGD: 0.02 for 16 images, in proportion")
    multipliers: dict[str, float] = Field(default_factory=dict, description="component → multiple of lr")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0, description="not for norms and biases")
    schedule: Literal["constant", "step", "cosine", "plateau"] = "step"
    milestones: tuple[float, ...] = Field((0.67, 0.92), description="share of the steps after which lr × 0.1")
    patience: int = Field(2, ge=1, description="plateau: evaluations without progress before lr × 0.1")
    warmup: int | None = Field(None, ge=0, description="steps over which lr grows to its full value")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the whole gradient")
    clip_value: float | None = Field(None, gt=0, description="largest absolute value of a gradient's entry")
    loss_weights: dict[str, float] = Field(default_factory=dict, description="rpn_cls rpn_box cls box mask → factor")
    min_size: int | tuple[int, ...] | None = Field(None, description="short side in training; several: drawn per image")
    max_size: int | None = Field(None, ge=32)
    flip: float = Field(0.5, ge=0, le=1, description="probability of mirroring an image")
    train_norms: bool = Field(False, description="batch norms use and update batch statistics")
    workers: int = Field(2, ge=0, description="processes that load images; 0: none")
    evaluate_every: int = Field(1, ge=0, description="epochs between evaluations; 0: only at the end")
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Derived:
    """One value that the user did not set: what it became and why."""

    field: str
    value: Any
    why: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """A recipe without gaps, and what was filled in."""

    recipe: Recipe
    derived: tuple[Derived, ...]
    steps_per_epoch: int
    steps: int

    def as_json(self) -> dict[str, Any]:
        """The resolved recipe as plain JSON types."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "derived": [{"field": one.field, "value": one.value, "why": one.why} for one in self.derived],
            "steps_per_epoch": self.steps_per_epoch,
            "steps": self.steps,
        }


def recipe_from(values: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """A recipe from plain values. Raises `UsageError` with every field that is unknown or wrong."""
    try:
        return Recipe(**values)
    except ValidationError as error:
        findings = []
        for fault in error.errors():
            name = str(fault["loc"][0])
            near = get_close_matches(name, Recipe.model_fields, 1)
            if fault["type"] == "extra_forbidden":
                hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(Recipe.model_fields)}"
                findings.append(Finding("spec.field", "error", f"{source} has no field {name!r}", (name,), fix=hint))
            else:
                message = f"{source}: {name} is {fault['input']!r}: {fault['msg'].lower()}"
                findings.append(Finding("spec.field", "error", message, (name,)))
        raise UsageError(findings) from None


def read(path: str | Path) -> Recipe:
    """A recipe from a TOML or JSON file. Raises `UsageError` with line and column, or the wrong fields."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UsageError(
            Finding("spec.field", "error", f"the recipe {path} cannot be read: {error.strerror}")
        ) from None
    except ValueError as error:  # both decoders say where
        raise UsageError(Finding("spec.field", "error", f"the recipe {path} cannot be read: {error}")) from None
    return recipe_from(values.get("recipe", values), str(path))


def resolve(recipe: Recipe, *, images: int) -> Resolved:
    """Fill the gaps of a recipe for a training set of so many images, and say why each value is what it is."""
    steps_per_epoch = max(1, images // recipe.batch)
    steps = min(recipe.steps or recipe.epochs * steps_per_epoch, recipe.epochs * steps_per_epoch)
    derived = [
        Derived("steps", steps, f"{recipe.epochs} epochs of {steps_per_epoch}, {images} images by {recipe.batch}")
    ]
    changes: dict[str, Any] = {}
    if recipe.lr is None:
        if recipe.optimizer == "sgd":
            changes["lr"] = REFERENCE_LR * recipe.batch / REFERENCE_BATCH
            why = f"{REFERENCE_LR} × {recipe.batch} / {REFERENCE_BATCH}: in proportion to the batch (Goyal et al. 2017)"
        else:
            changes["lr"] = ADAM_LR
            why = "usual for AdamW on detectors, whatever the batch"
        derived.append(Derived("lr", changes["lr"], why))
    if recipe.warmup is None:
        changes["warmup"] = min(1000, max(1, steps // 10))
        derived.append(Derived("warmup", changes["warmup"], "a tenth of the steps, at most 1000"))
    return Resolved(recipe.model_copy(update=changes), tuple(derived), steps_per_epoch, steps)


def lr_factor(recipe: Recipe, step: int, steps: int) -> float:
    """What the learning rate is multiplied by at `step` (0-based) of `steps`.

    Linear growth from a thousandth over `warmup` steps, then constant, ×0.1 after each milestone, or half a cosine.
    """
    warmup = recipe.warmup or 0
    if step < warmup:
        return 1e-3 + (1 - 1e-3) * step / warmup
    if recipe.schedule == "step":
        return float(0.1 ** sum(step >= milestone * steps for milestone in recipe.milestones))
    if recipe.schedule == "cosine":
        from math import cos, pi

        return 0.5 * (1 + cos(pi * (step - warmup) / max(1, steps - warmup)))
    return 1.0
