"""A reviewable plan that puts a checkpoint's tensors into any `nn.Module`: all or nothing, and verified after.

plan = mg.plan(mg.open("weights.h5"), my_model)
plan.save("plan.toml")                                    # read it, edit it
report = mg.read_plan("plan.toml", ckpt, my_model).apply()
report.percent                                            # {"backbone": 100.0, "rpn": 100.0, "head": 0.0}
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maskgraft.causes.targets import Target, target_faults
from maskgraft.errors import CheckpointError, Finding, UsageError
from maskgraft.families import Identified, identify
from maskgraft.files import LazyArray, Tensors, open_checkpoint
from maskgraft.files.writing import atomic
from maskgraft.links import Link, Reorder, Reshape, Shape, Step, Transpose
from maskgraft.model import MaskRCNN
from maskgraft.pairing import SURE, Pair, moves, pair
from maskgraft.spec import COMPONENTS, component


@dataclass(frozen=True, slots=True)
class Applied:
    """What `Plan.apply` did: per component the percent of its parameters that came from the file."""

    percent: Mapping[str, float]
    tensors: int
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Which tensor of a checkpoint goes where in a module.

    `pairs` are all that were found, `chosen` the targets of those that `apply` will put in: at first the ones whose
    confidence is at least 0.75. `part` maps each of the module's tensors to its component.
    """

    tensors: Tensors
    module: nn.Module
    pairs: tuple[Pair, ...]
    chosen: frozenset[str]
    part: Mapping[str, str]

    @property
    def doubtful(self) -> tuple[Pair, ...]:
        """Pairs that are not applied unless asked for."""
        return tuple(one for one in self.pairs if one.target not in self.chosen)

    @property
    def unmatched(self) -> tuple[str, ...]:
        """Tensors of the module that no pair fills; counters of batches are left out."""
        filled = {one.target for one in self.pairs}
        return tuple(n for n in self.module.state_dict() if n not in filled and not n.endswith("num_batches_tracked"))

    @property
    def unused(self) -> tuple[str, ...]:
        """Tensors of the file that go nowhere."""
        used = {one.source for one in self.pairs}
        return tuple(name for name in self.tensors if name not in used)

    def percent(self, components: Sequence[str] | None = None) -> dict[str, float]:
        """Percent of each component's parameters that the chosen pairs fill."""
        whole: dict[str, int] = {}
        have: dict[str, int] = {}
        for name, tensor in self.module.state_dict().items():
            part = self.part[name]
            if name.endswith("num_batches_tracked") or (components is not None and part not in components):
                continue
            whole[part] = whole.get(part, 0) + tensor.numel()
            have[part] = have.get(part, 0) + tensor.numel() * (name in self.chosen)
        return {part: 100 * have[part] / count if count else 100.0 for part, count in whole.items()}

    def with_doubtful(self) -> "Plan":
        """The plan with every pair chosen, however doubtful."""
        return replace(self, chosen=frozenset(one.target for one in self.pairs))

    def apply(self, *, components: Sequence[str] | None = None) -> Applied:
        """Put the chosen tensors into the module, all or nothing, and read each of them again.

            plan.apply(components=["backbone", "rpn"])      # to find the part that breaks

        Raises `UsageError` for a component that the module does not have, and `CheckpointError` when a tensor cannot
        be read, does not fit, or is not there afterwards; the module is then as it was.
        """
        parts = set(self.part.values())
        wrong = [one for one in components or () if one not in parts]
        if wrong:
            message = f"the module has no component {', '.join(wrong)}; it has {', '.join(sorted(parts))}"
            raise UsageError(Finding("names.missing", "error", message, names=tuple(wrong)))
        state = self.module.state_dict()
        chosen = [
            one
            for one in self.pairs
            if one.target in self.chosen and (components is None or self.part[one.target] in components)
        ]
        ready = self._values(chosen, state)
        before = {name: state[name].detach().clone() for name in ready}
        with torch.no_grad():
            for name, values in ready.items():
                state[name].copy_(values)
        again = self.module.state_dict()
        lost = [name for name, values in ready.items() if not _same(again[name], values)]
        if lost:
            with torch.no_grad():
                for name, values in before.items():
                    state[name].copy_(values)
            message = f"{len(lost)} tensors are not in the module after they were written, first {lost[0]}"
            raise CheckpointError(Finding("names.missing", "error", message, names=tuple(lost)))
        done = replace(self, chosen=frozenset(ready))
        return Applied(done.percent(components), len(ready), tuple(n for n in state if n not in ready))

    def _values(self, chosen: Sequence[Pair], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ready: dict[str, Tensor] = {}
        findings: list[Finding] = []
        for one in chosen:
            try:
                values = moved(np.asarray(self.tensors[one.source].read()), one.steps)
                kind = state[one.target].dtype
                tensor = torch.from_numpy(np.array(values, dtype=np.float32 if kind.is_floating_point else np.int64))
            except CheckpointError as error:
                findings += error.findings
                continue
            except (ValueError, IndexError) as error:
                findings.append(Finding("shape.layout", "error", f"{one.source} → {one.target}: {error}"))
                continue
            if tuple(tensor.shape) != tuple(state[one.target].shape):
                message = (
                    f"{one.source} is {list(tensor.shape)} after its steps, {one.target} is "
                    f"{list(state[one.target].shape)}"
                )
                findings.append(Finding("shape.other", "error", message, names=(one.source, one.target)))
                continue
            ready[one.target] = tensor.to(kind)
        if findings:
            raise CheckpointError(findings)
        return ready

    def save(self, path: str | Path) -> None:
        """Write the plan as TOML: one `[[pair]]` a tensor, doubtful ones first, each with `apply = true` or false."""
        lines = [
            f"# {self.tensors.path.name} → {type(self.module).__name__}",
            "# Edit `source`, `steps` or `apply`, and give the file back. Doubtful pairs stand first.",
            f"checkpoint = {_quoted(str(self.tensors.path))}",
            f"unmatched = {_quoted(list(self.unmatched))}",
            f"unused = {_quoted(list(self.unused))}",
        ]
        for one in sorted(self.pairs, key=lambda one: one.target in self.chosen):
            lines += [
                "",
                "[[pair]]",
                f"target = {_quoted(one.target)}",
                f"source = {_quoted(one.source)}",
                *([f"steps = {json.dumps([written(step) for step in one.steps])}"] if one.steps else []),
                f"confidence = {one.confidence}",
                f"why = {_quoted(one.why)}",
                f"apply = {'true' if one.target in self.chosen else 'false'}",
            ]
        with atomic(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _quoted(value: str | list[str]) -> str:
    """Text, or a list of it, in TOML, which takes what JSON writes but for surrogates and U+007F."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def plan(checkpoint: "Tensors | str | Path", module: nn.Module, *, components: Sequence[str] | None = None) -> Plan:
    """Pair a checkpoint's tensors with any module's, from names, shapes, order and structure.

        plan = mg.plan("weights.h5", my_model)
        plan.pairs[0].target, plan.pairs[0].source, plan.pairs[0].confidence, plan.pairs[0].why

    Where both sides are of known families the pairs are exact. Nothing is changed until `Plan.apply`; with
    `components` only those are planned. Raises `CheckpointError` for a file that cannot be opened.
    """
    tensors = checkpoint if isinstance(checkpoint, Tensors) else open_checkpoint(checkpoint)
    state = module.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    file, target = _known(tensors), _known_module(module)
    exact = _exact(file, target, shapes) if file is not None and target is not None else []
    left = {name: shape for name, shape in shapes.items() if name not in {one.target for one in exact}}
    pairs = exact or pair({name: array.shape for name, array in tensors.items()}, left)
    part = _parts(shapes, target)
    if components is not None:
        pairs = [one for one in pairs if part[one.target] in components]
    chosen = frozenset(one.target for one in pairs if one.confidence >= SURE)
    return Plan(tensors, module, tuple(pairs), chosen, part)


def read_plan(path: str | Path, checkpoint: "Tensors | str | Path", module: nn.Module) -> Plan:
    """A plan that `Plan.save` wrote, as it was edited.

    Raises `UsageError` with every fault: no TOML, unknown tensors on either side, a target twice, steps of no kind.
    """
    tensors = checkpoint if isinstance(checkpoint, Tensors) else open_checkpoint(checkpoint)
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # of the decoders of UTF-8 and TOML, which say where
        raise UsageError(Finding("config.path", "error", f"{path}: {error}")) from None
    listed = data.get("pair", [])
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise UsageError(Finding("config.path", "error", f"{path}: pair is {listed!r}", fix="[[pair]] before each"))
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    pairs: list[Pair] = []
    chosen: set[str] = set()
    findings: list[Finding] = []
    for entry in listed:
        target, source = str(entry.get("target")), str(entry.get("source"))
        fault = ""
        if target not in shapes:
            fault = f"the module has no tensor {target}"
        elif source not in tensors:
            fault = f"{tensors.path.name} has no tensor {source}"
        elif target in {one.target for one in pairs}:
            fault = f"{target} stands twice"
        else:
            try:
                steps = tuple(read_step(str(text)) for text in _kind_of(list, entry, "steps", []))
                if not steps:
                    steps = moves(tensors[source].shape, shapes[target]) or ()
                confidence = float(_kind_of((int, float), entry, "confidence", 1.0))
                applies = _kind_of(bool, entry, "apply", True)
            except ValueError as error:
                fault = f"{target}: {error}"
        if fault:
            findings.append(Finding("names.unexpected", "error", f"{path}: {fault}", names=(target, source)))
            continue
        pairs.append(Pair(target, source, steps, confidence, str(entry.get("why", "edited"))))
        if applies:
            chosen.add(target)
    if findings:
        raise UsageError(findings)
    return Plan(tensors, module, tuple(pairs), frozenset(chosen), _parts(shapes, _known_module(module)))


def _kind_of(kind: type | tuple[type, ...], entry: Mapping[str, Any], name: str, default: Any) -> Any:
    """A field of an entry. Raises ValueError when it is of another kind."""
    value = entry.get(name, default)
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {value!r}, and should be like {default!r}")
    return value


def module_faults(tensors: Tensors, module: nn.Module) -> list[Finding]:
    """Why a checkpoint does not fit a module, or would be worse in it."""
    file, target = _known(tensors), _known_module(module)
    where = type(module).__name__
    if file is not None and target is not None:
        return target_faults(file, Target(where, target.spec))
    made = plan(tensors, module)
    findings = []
    percent = made.percent()
    filled = ", ".join(f"{part} {share:.0f} %" for part, share in percent.items())
    exact = sum(one.source == one.target for one in made.pairs)
    if exact < len(made.pairs):
        findings.append(
            Finding(
                "names.renamed",
                "warning",
                f"{len(made.pairs) - exact} of {len(made.pairs)} pairs have other names in {where}; it would be filled "
                f"so: {filled}",
                names=tuple(one.source for one in made.pairs if one.source != one.target),
                evidence={"percent": {part: round(share, 2) for part, share in percent.items()}},
                effect="load_state_dict(strict=False) would leave these layers random without a word",
                fix=f"mg.plan({str(tensors.path)!r}, module).apply()",
            )
        )
    if made.doubtful:
        findings.append(
            Finding(
                "names.renamed",
                "warning",
                f"{len(made.doubtful)} pairs are doubtful and not applied unasked, first {made.doubtful[0].source} → "
                f"{made.doubtful[0].target} ({made.doubtful[0].confidence:.0%}: {made.doubtful[0].why})",
                names=tuple(one.target for one in made.doubtful),
                fix="--plan plan.toml writes them down for review",
            )
        )
    if made.unmatched:
        message = f"{len(made.unmatched)} tensors of {where} have no source, first {made.unmatched[0]}"
        effect = "they would stay as they were initialised"
        findings.append(Finding("names.missing", "error", message, names=made.unmatched, effect=effect))
    if made.unused:
        message = f"{len(made.unused)} tensors of the file have no place in {where}, first {made.unused[0]}"
        findings.append(Finding("names.unexpected", "warning", message, names=made.unused))
    return findings


def moved(array: np.ndarray[Any, Any], steps: Sequence[Step]) -> np.ndarray[Any, Any]:
    """An array after its steps."""
    for step in steps:
        array = step.forward(array)
    return array


def written(step: Step) -> str:
    """A step as text that people can read and edit; runs of rows as "1-90"."""
    if isinstance(step, Transpose):
        return f"transpose {' '.join(map(str, step.axes))}"
    if isinstance(step, Reshape):
        return f"reshape {' '.join(map(str, step.before))} to {' '.join(map(str, step.after))}"
    runs: list[list[int]] = []
    for row in step.order:
        if runs and row == runs[-1][1] + 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    return f"rows of axis {step.axis}: " + " ".join(f"{a}-{b}" if a != b else f"{a}" for a, b in runs)


def read_step(text: str) -> Step:
    """The inverse of `written`. Raises ValueError for text that is no step."""
    kind, _, rest = text.partition(" ")
    if kind == "transpose":
        return Transpose(tuple(map(int, rest.split())))
    if kind == "reshape":
        before, _, after = rest.partition(" to ")
        return Reshape(tuple(map(int, before.split())), tuple(map(int, after.split())))
    if text.startswith("rows of axis "):
        axis, _, runs = text.removeprefix("rows of axis ").partition(":")
        order: list[int] = []
        for run in runs.split():
            first, _, last = run.partition("-")
            order += range(int(first), int(last or first) + 1)
        return Reorder(int(axis), tuple(order))
    raise ValueError(f"{text!r} is no step: transpose 3 2 0 1, reshape 4 9 to 36, or rows of axis 0: 1-80 0")


def _known(tensors: Tensors) -> Identified | None:
    try:
        return identify(tensors)
    except CheckpointError:
        return None


def _known_module(module: nn.Module) -> Identified | None:
    """What a module is, from the names and shapes in its state; maskgraft's own model knows it."""
    arrays = {
        name: LazyArray(tuple(tensor.shape), np.dtype(np.float32), lambda tensor=tensor: _numbers(tensor))  # type: ignore[misc]
        for name, tensor in module.state_dict().items()
    }
    tensors = Tensors(path=Path(type(module).__name__), format="module", arrays=arrays)
    if isinstance(module, MaskRCNN):
        return _own(module, tensors)
    return _known(tensors)


def _numbers(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().cpu().numpy()


def _own(module: MaskRCNN, tensors: Tensors) -> Identified | None:
    from maskgraft.families import torchvision

    family = replace(
        torchvision.FAMILY, name="maskgraft", title="maskgraft", links=lambda spec, era: map(_identity, tensors)
    )
    return Identified(family, "", module.spec, tensors, "", {}, ())


def _identity(name: str) -> Link:
    return Link(name, name)


def _exact(file: Identified, target: Identified, shapes: Mapping[str, Shape]) -> list[Pair]:
    """Pairs through the canonical names, where both sides are known."""
    theirs = {link.ours: link for link in file.links if link.theirs in file.tensors}
    pairs = []
    for link in target.links:
        name = target.prefix + link.theirs
        source = theirs.get(link.ours)
        if name not in shapes or source is None:
            continue
        steps = simplified((*source.steps, *map(inverse, reversed(link.steps))))
        try:
            shape = file.tensors[source.theirs].shape
            for step in steps:
                shape = step.shape(shape)
        except (ValueError, IndexError):
            continue
        if shape == shapes[name]:
            why = f"exact: {file.family.title} → {link.ours} → {target.family.title}"
            pairs.append(Pair(name, file.prefix + source.theirs, steps, 1.0, why))
    return pairs


def inverse(step: Step) -> Step:
    """The step that undoes another."""
    if isinstance(step, Transpose):
        return Transpose(tuple(int(axis) for axis in np.argsort(step.axes)))
    if isinstance(step, Reshape):
        return Reshape(step.after, step.before)
    return Reorder(step.axis, tuple(int(row) for row in np.argsort(step.order)))


def simplified(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps without those that undo each other."""
    left: list[Step] = []
    for step in steps:
        if left and left[-1] == inverse(step):
            left.pop()
        elif not (isinstance(step, Reorder) and step.order == tuple(range(len(step.order)))):
            left.append(step)
    return tuple(left)


def _parts(shapes: Mapping[str, Shape], target: Identified | None) -> dict[str, str]:
    """The component of each tensor of a module: canonical where it is known, else the first part of its name."""
    ours = {target.prefix + link.theirs: component(link.ours) for link in target.links} if target else {}
    depth = 0
    names = [name.split(".") for name in shapes]
    while names and all(len(parts) > depth + 2 and parts[depth] == names[0][depth] for parts in names):
        depth += 1
    return {name: ours.get(name, _first(name, depth)) for name in shapes}


def _first(name: str, depth: int) -> str:
    return next((part for part in COMPONENTS if f".{part}." in f".{name}"), name.split(".")[depth])


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.cpu(), other) or bool(torch.allclose(one.cpu(), other, rtol=0, atol=0, equal_nan=True))
