"""`Family`: what maskgraft knows of one home framework, and the pieces that its link generators share."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskgraft.errors import CheckpointError, Finding
from maskgraft.families.configs import read_config as read_any_config
from maskgraft.families.configs import setting
from maskgraft.files import Tensors
from maskgraft.links import Link, Shape, Step
from maskgraft.spec import Arch, Learned, NormKind, Numerics, Spec

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a family makes of a file: the model it holds, in which era's names, and what was odd about it.

    `tensors` are those of the model where they are not the file's own: averages that its config asks for.
    """

    spec: Spec
    era: str = ""
    findings: tuple[Finding, ...] = ()
    tensors: Tensors | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """A home framework with its names, layouts and conventions.

    `landmarks` are tensor names that every file of the family has and hardly any other. `read` makes a `Spec` of a file
    and its config, and raises `CheckpointError` for an architecture that cannot be built. `links` yields one link a
    tensor for a spec and an era. `ignored` gives the reason why a tensor of the file is no part of the model, or "".
    `eras` names the ways in which the family has named its tensors, the newest first. `configs` are the file names
    under which its configuration is found beside a checkpoint, and `read_config` reads it, or one that is given; None:
    there is none. `whole`: the file holds a detector and not only a backbone. `older_landmarks` are those of eras in
    which every name was another. `settings` are the fields of `Numerics` that its config sets: field, dotted key, and
    how a value reads.
    `on_request`: no file is taken for one of it unless it is asked for by name.
    """

    name: str
    title: str
    landmarks: tuple[str, ...]
    read: Callable[[Tensors, Config | None], Reading]
    links: Callable[[Spec, str], Iterator[Link]]
    ignored: Callable[[str], str]
    eras: tuple[str, ...] = ("",)
    configs: tuple[str, ...] = ()
    read_config: Callable[[Path], Config] | None = read_any_config
    whole: bool = True
    older_landmarks: tuple[tuple[str, ...], ...] = ()
    settings: tuple[tuple[str, str, Callable[[Any], Any]], ...] = ()
    on_request: bool = False

    def likeness(self, names: Mapping[str, Any]) -> float:
        """Share of the landmarks that a file has, 0..1; of a backbone at most 0.9, as detectors may hold it too."""
        share = max(sum(name in names for name in era) / len(era) for era in (self.landmarks, *self.older_landmarks))
        return share if self.whole else 0.9 * share


NO_SUPPRESSION = 2.0  # a threshold of overlap that no two boxes reach
NORM_VECTORS = {"weight": "weight", "bias": "bias", "running_mean": "running_mean", "running_var": "running_var"}


def conv_links(ours: str, theirs: str, *, bias: bool, steps: tuple[Step, ...] = ()) -> Iterator[Link]:
    """A convolution or linear layer: the weight, moved by `steps`, and the bias where there is one."""
    yield Link(f"{ours}.weight", f"{theirs}.weight", steps)
    if bias:
        yield Link(f"{ours}.bias", f"{theirs}.bias")


def norm_links(ours: str, theirs: str, kind: NormKind, vectors: Mapping[str, str] = NORM_VECTORS) -> Iterator[Link]:
    """The vectors of a normalisation layer; `vectors` maps ours to their names."""
    if kind == "none":
        return
    has_statistics = kind in ("frozen", "batch", "sync")
    for mine, name in vectors.items():
        if has_statistics or not mine.startswith("running_"):
            yield Link(f"{ours}.{mine}", f"{theirs}.{name}")
    if kind in ("batch", "sync"):
        # torch counts batches since 0.4.1; older files lack the counter, and nothing but momentum=None reads it
        yield Link(f"{ours}.num_batches_tracked", f"{theirs}.num_batches_tracked", optional=True)


def norm_kind(names: Mapping[str, Any], theirs: str) -> NormKind:
    """What kind of norm a PyTorch file has at `theirs`: told from which vectors are there."""
    if f"{theirs}.weight" not in names:
        return "none"
    if f"{theirs}.running_mean" not in names:
        return "group"
    return "batch" if f"{theirs}.num_batches_tracked" in names else "frozen"


def count(names: Mapping[str, Any], template: str, start: int = 0) -> int:
    """How many of `template` with {} = start, start + 1, … are there without a gap.

    count(names, "backbone.body.layer1.{}.conv1.weight")     # 3
    """
    index = start
    while template.format(index) in names:
        index += 1
    return index - start


def shape(tensors: Tensors, name: str) -> Shape:
    """The shape of a tensor that must be there. Raises `CheckpointError` naming it."""
    if name not in tensors:
        raise CheckpointError(Finding("names.missing", "error", f"{tensors.path}: has no tensor {name}", names=(name,)))
    return tensors[name].shape


def unsupported(tensors: Tensors, title: str, what: str) -> CheckpointError:
    """The refusal of a variant that is recognised and cannot be built."""
    return CheckpointError(
        Finding(
            "family.unknown",
            "error",
            f"{tensors.path}: recognised as {title}, architecture not supported: {what}",
            fix=f"maskgraft inspect {tensors.path} shows what is in it",
        )
    )


def refuse_what_cannot_be_obeyed(
    tensors: Tensors, config: Config, required: tuple[tuple[str, tuple[Any, ...]], ...], title: str
) -> None:
    """Raises `CheckpointError` for a setting that has none of the values which the model can obey."""
    for key, allowed in required:
        value = setting(config, key)
        value = tuple(value) if isinstance(value, list) else value
        if value is not None and value not in allowed:
            raise unsupported(tensors, title, f"{key} is {value!r}, not {' or '.join(map(str, allowed))}")


def refuse_other_pooling(tensors: Tensors, config: Config, keys: tuple[str, str], title: str) -> None:
    """Raises `CheckpointError` where regions are pooled for masks in another way than for boxes; `keys` say how."""
    masks, boxes = (setting(config, key) for key in keys)
    if None not in (masks, boxes) and masks != boxes:
        raise unsupported(tensors, title, f"{keys[0]} is {masks!r}, and {keys[1]} {boxes!r}")


def not_taken_up(config: Config, usual: Iterable[tuple[str, Any]]) -> Iterator[Finding]:
    """What to say of settings of trainings alone that are not `usual`, and that a training here does not take up."""
    said = {key: value for key, one in usual if (value := setting(config, key)) not in (None, one)}
    if said:
        yield idle_settings(said)


def idle_settings(said: Mapping[str, Any]) -> Finding:
    """What to say of settings, by key, that a training here does not take up."""
    return Finding(
        "numerics.training",
        "info",
        "settings that a training here does not take up: "
        + ", ".join(f"{key} {value!r}" for key, value in said.items()),
        names=tuple(said),
        evidence=said,
        effect="none on results; losses of a training differ from those at home",
    )


def limited(numerics: Numerics, arch: Arch, *, least: int) -> Numerics:
    """The same, but where fewer than `least` detections are asked for with as many as there are: all classes of all
    proposals."""
    every = numerics.rpn_post_nms * arch.classes
    return replace(numerics, max_detections=every) if numerics.max_detections < least else numerics


def class_count_fault(tensors: Tensors, classes: int, said: Any, key: str) -> list[Finding]:
    """What to say when a config states another number of foreground classes than the file has rows for."""
    if said is None or said == classes:
        return []
    return [
        Finding(
            "shape.classes",
            "warning",
            f"{tensors.path.name} has {classes} classes, its config says {said} ({key}); the file is followed",
            evidence={"file": classes, "config": said},
            effect="the home framework would leave the class-dependent layers random with this config",
        )
    ]


def learned(source: str, how: str, fields: Sequence[str]) -> dict[str, Learned]:
    """One `Learned` for many fields."""
    return {name: Learned(how, source) for name in fields}  # type: ignore[arg-type]
