"""`Recipe`: the whole training configuration, what the user set and what was derived from data and model.

recipe = mg.Recipe(policy="heads", epochs=4, batch=2)
recipe = read("recipe.toml")
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from maskgraft import beginnings
from maskgraft import stages as stage_texts
from maskgraft.errors import Finding, UsageError
from maskgraft.evaluation import SUMMARY
from maskgraft.spec import NUMERICS_FIELDS
from maskgraft.stages import Span, Stage

REFERENCE_LR, REFERENCE_BATCH = 0.02, 16  # SGD for COCO on sixteen images (Goyal et al. 2017 §2.1, Detectron2)
ADAM_LR = 1e-4
ADAMS = ("adam", "adamw", "nadam", "radam")
EPOCHS = 12  # Detectron's 1x schedule
GENTLE = {"backbone": 0.1, "fpn": 0.2, "rpn": 0.2}  # what has learnt from many images moves less than the new heads

_REPLAY = 0.25
_MOMENTUM = 0.9

Side = Annotated[int, Field(ge=32)]
Factor = Annotated[float, Field(ge=0)]
Scale = Annotated[float, Field(ge=0.05, le=10)]
LossName = Literal["rpn_cls", "rpn_box", "cls", "box", "mask"]


class Recipe(BaseModel):
    """How to train. Every field has a default; `None` is derived from the dataset and the model, and said.

    Raises `UsageError` with every field that is unknown or wrong.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    policy: str = Field("heads", description="what trains: heads, all, 3+, 4+, 5+, predictors, components …")
    from_scratch: bool = Field(False, description="random weights: all of them train, longer, clipped, warmed up")
    from_backbone: bool = Field(False, description="only the backbone has learnt, from ImageNet: 3+, longer, clipped")
    stages: tuple[Stage, ...] = Field((), description='instead of policy and length: "heads:2ep@1e-3, all:6ep@1e-4"')
    epochs: int | None = Field(None, ge=1, description="passes over the images; 12 where steps are not given either")
    steps: int | None = Field(None, ge=1, description="stop after so many steps, whatever the epochs say")
    batch: int = Field(2, ge=1, description="images a step, over all processes")
    accumulate: int = Field(1, ge=1, description="parts of a batch whose gradients are added up, for want of memory")
    precision: Literal["float32", "bf16", "fp16"] = Field("float32", description="of convolutions and products")
    optimizer: str = Field("sgd", description="sgd, adamw, or any other of torch.optim by its name")
    optimizer_options: dict[str, Any] = Field(default_factory=dict, description="further arguments of the optimizer")
    lr: float | None = Field(None, gt=0, description="learning rate; SGD: 0.02 for 16 images, in proportion")
    multipliers: dict[str, Factor] | Literal["gentle"] = Field(
        default_factory=dict, description="component → multiple of lr; gentle: backbone 0.1, fpn and rpn 0.2"
    )
    layer_decay: float | None = Field(None, gt=0, le=1, description="multiple of lr per stage from fpn to stem")
    momentum: float = Field(_MOMENTUM, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(1e-4, ge=0, description="not for norms and biases")
    schedule: Literal["constant", "step", "cosine", "one-cycle", "plateau"] = Field(
        "step", description="of the learning rate; with stages, of each by itself"
    )
    milestones: tuple[float, ...] = Field((0.67, 0.92), description="share of the steps after which lr × 0.1")
    metric: str = Field("mask.AP", description="what best/ and plateau go by: mask.AP, box.AP50, mask.APs …")
    patience: int = Field(2, ge=1, description="plateau: evaluations without progress before lr × 0.1")
    warmup: int | None = Field(None, ge=0, description="steps over which lr grows to its full value")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the whole gradient")
    clip_value: float | None = Field(None, gt=0, description="largest absolute value of a gradient's entry")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of a running mean of the weights: what is kept")
    l2sp: float = Field(0.0, ge=0, description="pull of the weights towards their start, such as 0.01")
    distil: float = Field(0.0, ge=0, description="weight of answering as the start model does on the new images")
    complete: float | None = Field(
        None, gt=0, le=1, description="least score of what the start model finds of classes that are not labelled"
    )
    fresh_rows: float = Field(1.0, gt=0, description="multiple of lr of class rows that start from nothing")
    replay: float | None = Field(None, gt=0, lt=1, description="part of each batch from replayed data; else a quarter")
    retention: int = Field(8, ge=0, description="images on which a run tells what the model kept; 0: it does not tell")
    loss_weights: dict[LossName, Factor] = Field(
        default_factory=dict, description="rpn_cls rpn_box cls box mask → factor"
    )
    balance: Literal["fixed", "uncertainty", "gradient-norm"] = Field("fixed", description="of losses while training")
    gradient_norms: int = Field(50, ge=0, description="steps between gradient norms of each loss in the log; 0: never")
    box_loss: Literal["smooth-l1", "l1", "giou"] | None = Field(None, description="else that of the model's home")
    mask_loss: Literal["bce", "boundary", "dice", "bce-dice"] | None = Field(None, description="else cross-entropy")
    numerics: dict[str, Any] = Field(
        default_factory=dict, description="proposals and sampling: rpn_min_size, rpn_positive_fraction …"
    )
    min_size: Side | Annotated[tuple[Side, ...], Field(min_length=1)] | None = Field(
        None, description="short side in training; several: one is drawn"
    )
    max_size: Side | None = Field(None, description="longest side in training")
    flip: float = Field(0.5, ge=0, le=1, description="probability of mirroring an image")
    flip_vertical: float = Field(0.0, ge=0, le=1, description="probability of turning an image upside down")
    rotate: float = Field(0.0, ge=0, le=180, description="degrees by which an image is turned at most, either way")
    scale_jitter: tuple[Scale, Scale] | None = Field(
        None, description="an image is grown and cut, or shrunk on a page of its size: least and most, such as 0.1, 2"
    )
    crop: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="least share of each side that is kept")
    photometric: float = Field(0.0, ge=0, le=1, description="strength of changes of colour and brightness; 1: SSD's")
    copy_paste: float = Field(0.0, ge=0, le=1, description="probability of pasting instances of another image")
    train_norms: bool = Field(False, description="batch norms use and update batch statistics")
    by_shape: bool = Field(True, description="wide and tall images in batches of their own, so that little is padded")
    workers: int = Field(2, ge=0, description="processes that load images; 0: none")
    evaluate_every: int = Field(1, ge=0, description="epochs between evaluations; 0: only at the end")
    save_every: int | None = Field(None, ge=1, description="steps between saves, beside those after each epoch")
    tensorboard: bool = Field(False, description="write event files for TensorBoard into the run's folder too")
    seed: int = Field(0, ge=0)

    @property
    def rates(self) -> dict[str, float]:
        """The multiple of lr of each component that has one."""
        return GENTLE if isinstance(self.multipliers, str) else self.multipliers

    @property
    def weights(self) -> dict[str, float]:
        """The factor of each loss that has one."""
        return {str(name): weight for name, weight in self.loss_weights.items()}

    @field_validator("policy", mode="before")
    @classmethod
    def _joined(cls, value: Any) -> Any:
        """A list of components and globs is the text with commas between them."""
        return ",".join(value) if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value) else value

    @field_validator("multipliers", mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "gentle":
            raise ValueError('it is "gentle", or multiples by component, as in {backbone = 0.1}')
        return value

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        kind, _, name = value.partition(".")
        if kind not in ("box", "mask") or name not in SUMMARY:
            raise ValueError(f"it is box or mask, a dot, and one of {', '.join(SUMMARY)}")
        return value

    @field_validator("stages", mode="before")
    @classmethod
    def _parsed(cls, value: Any) -> Any:
        return stage_texts.parse(value) if isinstance(value, str) else value

    @field_validator("milestones")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= one <= 1 for one in value):
            raise ValueError("they are shares of the steps, from 0 to 1: epoch 8 of 12 is 0.67")
        return value

    @field_validator("optimizer_options")
    @classmethod
    def _of_the_optimizer(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted({"lr", "weight_decay"} & value.keys()):
            raise ValueError(f"{' and '.join(taken)} would have no effect: the recipe has fields of that name")
        return value

    @field_validator("scale_jitter")
    @classmethod
    def _ascending(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError("the least scale stands before the most")
        return value

    @model_validator(mode="after")
    def _parts_and_stages(self) -> "Recipe":
        if self.batch % self.accumulate:
            told = f"a batch of {self.batch} images cannot be computed in accumulate = {self.accumulate} equal parts"
            raise ValueError(told)
        if isinstance(self.min_size, int) and self.max_size is not None and self.min_size > self.max_size:
            raise ValueError(
                f"min_size, {self.min_size}, is the short side, and is more than max_size, {self.max_size}"
            )
        if self.momentum != _MOMENTUM and self.optimizer.lower() != "sgd":
            told = f"momentum is of sgd, and the optimizer is {self.optimizer}: its own stands in optimizer_options"
            raise ValueError(told)
        if self.from_scratch and self.from_backbone:
            raise ValueError("from_scratch is for random weights, from_backbone for a backbone that has learnt")
        if self.stages and (self.epochs is not None or self.policy != "heads"):
            raise ValueError("stages say what trains and for how long; leave out policy and epochs")
        return self

    @model_validator(mode="wrap")  # the last one, around all others
    @classmethod
    def _told(cls, values: Any, handler: ModelWrapValidatorHandler["Recipe"], info: ValidationInfo) -> "Recipe":
        try:
            return handler(values)
        except ValidationError as error:
            raise UsageError(_findings(error, values, (info.context or {}).get("source", "recipe"))) from None


@dataclass(frozen=True, slots=True)
class Derived:
    """One value that the user did not set: what it became and why."""

    field: str
    value: Any
    why: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """A recipe without gaps: `given` are the fields that the user set, `derived` what was filled in.

    `stages` follow one another from the first to the last of the `steps`; a recipe without stages has one.
    `usual_lr` is what linear scaling gives for the batch, where the optimizer is SGD.
    """

    recipe: Recipe
    given: tuple[str, ...]
    derived: tuple[Derived, ...]
    steps_per_epoch: int
    steps: int
    stages: tuple[Span, ...]
    usual_lr: float | None

    def as_json(self) -> dict[str, Any]:
        """The resolved recipe as plain JSON types."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "set": list(self.given),
            "derived": [{"field": one.field, "value": one.value, "why": one.why} for one in self.derived],
            "steps_per_epoch": self.steps_per_epoch,
            "steps": self.steps,
            "stages": [asdict(one) for one in self.stages],
            "usual_lr": self.usual_lr,
        }


def recipe_from(values: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """A recipe from plain values of a `source`, which is named in what `Recipe` raises."""
    return Recipe.model_validate(dict(values), context={"source": source})


def _findings(error: ValidationError, values: Mapping[str, Any], source: str) -> list[Finding]:
    deepest: dict[str, Any] = {}  # where a field may be of two kinds, the fault that is nearest to its cause
    for fault in error.errors():
        name = str(fault["loc"][0]) if fault["loc"] else fault["type"]  # a custom fault of several fields is named
        if name not in deepest or len(fault["loc"]) > len(deepest[name]["loc"]):
            deepest[name] = fault
    return [_finding(fault, values, source) for fault in deepest.values()]


def _finding(fault: Mapping[str, Any], values: Mapping[str, Any], source: str) -> Finding:
    if not fault["loc"]:
        return Finding("spec.field", "error", f"{source}: {fault['msg'].removeprefix('Value error, ')}")
    name, *inside = fault["loc"]
    if fault["type"] == "extra_forbidden" and not inside:
        near = get_close_matches(name, Recipe.model_fields, 1)
        if name in NUMERICS_FIELDS:
            fix = f"it stands under numerics: [numerics] in a recipe file, or --set {name}=…"
            return Finding("spec.field", "error", f"{source} has no field {name!r}", (name,), fix=fix)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(Recipe.model_fields)}"
        return Finding("spec.field", "error", f"{source} has no field {name!r}", (name,), fix=hint)
    # between the field and its entry stand names of types, which say nothing to people
    keys = values[name].keys() if isinstance(values[name], Mapping) else ()
    place = "".join(f"[{part!r}]" for part in inside if isinstance(part, int) or part in keys)
    says = fault["msg"].removeprefix("Value error, ")
    says = says[0].lower() + says[1:]
    return Finding("spec.field", "error", f"{source}: {name}{place} is {fault['input']!r}: {says}", (name,))


def read(path: str | Path) -> Recipe:
    """A recipe from a TOML or JSON file, or from the `recipe.json` of a run.

    Raises `UsageError` with line and column, or every field that is unknown or wrong.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}") from None
    except ValueError as error:  # both decoders say where
        raise _unreadable(path, f"cannot be read: {error}") from None
    values = values.get("recipe", values) if isinstance(values, dict) else values
    if not isinstance(values, dict):
        raise _unreadable(path, f"holds a {type(values).__name__}, not fields with values")
    return recipe_from(values, str(path))


def _unreadable(path: Path, fault: str) -> UsageError:
    return UsageError(Finding("spec.field", "error", f"the recipe {path} {fault}"))


def resolve(
    recipe: Recipe, *, images: int, left_out: int = 0, replayed: int = 0, batch_norms: bool = False
) -> Resolved:
    """Fill the gaps of a recipe for a training set of so many images, and say why each value is what it is.

    `left_out` images had nothing to learn from, `replayed` others are mixed in, and `batch_norms` says whether the
    model has norms that can gather statistics. Raises `UsageError` where no value can be derived.
    """
    derived: list[Derived] = []
    changes: dict[str, Any] = {}
    if replayed and recipe.replay is None:
        changes["replay"] = _REPLAY
        derived.append(Derived("replay", _REPLAY, f"a quarter of each batch from the {replayed} replayed images"))
    new = recipe.batch - replayed_in(recipe.batch, recipe.replay or _REPLAY) if replayed else recipe.batch
    steps_per_epoch = max(1, images // new)
    given = tuple(sorted(name for name in recipe.model_fields_set if getattr(recipe, name) is not None))
    if recipe.from_scratch or recipe.from_backbone:
        values = {name: getattr(recipe, name) for name in given}
        if recipe.from_scratch:
            needed = beginnings.needed(values, images=images, batch=new, batch_norms=batch_norms)
        else:
            needed = beginnings.needed_above_backbone(values, images=images, batch=new)
        derived += [Derived(one.field, one.value, one.why) for one in needed]
        recipe = recipe.model_copy(update={one.field: one.value for one in needed})
    by = f"of {steps_per_epoch}, {images} images by {new}"
    stages, why = _length(recipe, steps_per_epoch, by, derived, changes)
    steps = sum(one.steps or 0 for one in stages)
    steps = min(steps, recipe.steps) if recipe.steps else steps
    less = f"; {left_out} have no instance to learn from and are left out" if left_out else ""
    stopped = f"; stopped after {steps}" if steps < sum(one.steps or 0 for one in stages) else ""
    derived.append(Derived("steps", steps, why + less + stopped))
    lr = recipe.lr
    sgd = recipe.optimizer.lower() == "sgd"
    usual = REFERENCE_LR * recipe.batch / REFERENCE_BATCH if sgd else None
    if lr is None and any(one.lr is None for one in stages):
        lr, why = _rate(recipe, usual)
        changes["lr"] = lr
        derived.append(Derived("lr", lr, why))
    spans, first = [], 0
    for one in stages:
        end = min(first + (one.steps or 0), steps)
        warmup = min(1000, max(1, (end - first) // 10)) if recipe.warmup is None else recipe.warmup
        if end > first:
            spans.append(Span(one.policy, first, end, one.lr or lr or 0.0, warmup))
        first = end
    if recipe.warmup is None and recipe.schedule != "one-cycle":
        if len(spans) == 1:
            changes["warmup"] = spans[0].warmup
        each = " of each stage" if len(spans) > 1 else ""
        told = [one.warmup for one in spans] if len(spans) > 1 else spans[0].warmup
        derived.append(Derived("warmup", told, f"a tenth of the steps{each}, at most 1000"))
    return Resolved(
        recipe.model_copy(update=changes), given, tuple(derived), steps_per_epoch, steps, tuple(spans), usual
    )


def _length(
    recipe: Recipe, steps_per_epoch: int, by: str, derived: list[Derived], changes: dict[str, Any]
) -> tuple[list[Stage], str]:
    """The stages, each with its length in steps, and how the whole length comes about."""
    if recipe.stages:
        stages = [
            Stage(policy=one.policy, steps=one.steps or (one.epochs or 0) * steps_per_epoch, lr=one.lr)
            for one in recipe.stages
        ]
        return stages, f"{' and '.join(str(one.steps) for one in stages)} in {len(stages)} stages; epochs {by}"
    epochs = recipe.epochs
    if epochs is None:
        changes["epochs"] = epochs = ceil(recipe.steps / steps_per_epoch) if recipe.steps else EPOCHS
        why = (
            f"for {recipe.steps} steps of {recipe.batch} images" if recipe.steps else "neither epochs nor steps are set"
        )
        derived.append(Derived("epochs", epochs, why))
    length = f"{epochs} {'epoch' if epochs == 1 else 'epochs'} {by}"
    return [Stage(policy=recipe.policy, steps=epochs * steps_per_epoch)], length


def replayed_in(batch: int, share: float) -> int:
    """How many images of a batch are replayed ones: the share, but one at least of each kind."""
    return min(max(1, round(batch * share)), batch - 1)


def _rate(recipe: Recipe, usual: float | None) -> tuple[float, str]:
    if usual is not None:
        why = f"{REFERENCE_LR} × {recipe.batch} / {REFERENCE_BATCH}: in proportion to the batch (Goyal et al. 2017)"
        return usual, why
    if recipe.optimizer.lower() in ADAMS:
        return ADAM_LR, "usual for Adam and its kin on detectors, whatever the batch"
    message = f"there is no usual learning rate for detectors under {recipe.optimizer}"
    raise UsageError(Finding("spec.field", "error", message, fix="set lr in the recipe, or --lr"))
