"""From the object that was saved to the weights in it: which entry is the model, which its optimizer and its copies.

Names are kept as the file has them. Where a file holds several models, all are listed and none is chosen.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from maskgraft.errors import CheckpointError, Finding
from maskgraft.files import module_trees
from maskgraft.files.contents import Contents
from maskgraft.files.cuts import Cut, salvaged, truncated
from maskgraft.files.faults import named
from maskgraft.files.leaves import Leaf, is_leaf, is_numeric, is_whole, lazy, refusal
from maskgraft.files.pickled_arrays import PickledArray
from maskgraft.files.plain import plain
from maskgraft.files.stubs import Odict, Stub, unsafe_pickle
from maskgraft.files.tensors import Array, LazyArray, Tensors

_TRAINING = frozenset(
    {
        "optimizer", "optimizers", "optimizer_state", "optimizer_states", "optimizer_state_dict", "optimizer_dict",
        "optim", "optim_state", "optim_state_dict", "opt", "opt_state", "opt_state_dict", "last_optimizer_state",
        "scheduler", "schedulers", "scheduler_state_dict", "lr_scheduler", "lr_schedulers", "lr_scheduler_state_dict",
        "param_schedulers", "scaler", "amp", "grad_scaler", "amp_scaler", "loss_scaler", "scaler_state_dict",
        "native_amp_scaling_state", "criterion", "loss", "dino_loss",
    }
)  # fmt: skip
_SETTINGS = frozenset(
    {
        "args", "meta", "cfg", "config", "hyper_parameters", "message_hub", "callbacks", "loops", "trainer", "iterator",
        "sampler", "rng_state", "rng_states", "cuda_rng_state", "torch_rng_state", "random_state", "optimizer_history",
        "extra_state", "task_state",
    }
)  # fmt: skip
_COPIES = frozenset(
    {
        "ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "ema_state", "ema_params", "params_ema",
        "ema_weights", "averaged_model", "avg_model", "swa_model", "shadow", "shadow_params", "ema_model_state_dict",
        "model_ema_state_dict", "ema_shadow",
    }
)  # fmt: skip
_TWINS = frozenset(
    {
        frozenset({"student", "teacher"}),
        frozenset({"modelStudent", "modelTeacher"}),
        frozenset({"online", "target"}),
        frozenset({"model", "ema"}),
        frozenset({"model", "model_ema"}),
        frozenset({"model", "ema_model"}),
    }
)
_MAX_DEPTH = 8
_TRIFLE = 4  # a mean, a deviation and the like beside a model are no second model


@dataclass(frozen=True, slots=True)
class Model:
    """Weights found under a path of keys: name → tensor, and what stood among them that is none.

    `nested` weights stood one layer to an entry; their names are joined by dots.
    """

    path: tuple[str, ...]
    tensors: Mapping[str, Leaf]
    rest: Mapping[str, Any] = field(default_factory=dict)
    nested: bool = False

    @property
    def key(self) -> str:
        """The path as it is typed."""
        return ".".join(self.path)

    @property
    def nbytes(self) -> int:
        """Size in bytes of all values."""
        return sum(lazy(leaf).nbytes for leaf in self.tensors.values())

    @property
    def is_copy(self) -> bool:
        """Whether a key of the path says that this is a moving average of another model."""
        return any(name.lower() in _COPIES for name in self.path)


def tensors(contents: Contents, path: Path, *, key: str | None = None, salvage: bool = False) -> Tensors:
    """The weights in what a file holds, with optimizer state and moving averages apart.

    `key` is the path of entries ("model", "ema.state_dict") where the weights stand, for files with several models;
    "" takes all of them, with their keys in front of the names.

    Raises `CheckpointError`: `file.truncated` (unless `salvage`), `file.no-weights`, `file.several-models`,
    `file.no-key`, `file.unsupported` for sparse and quantised weights (`salvage` leaves them out, with a warning).
    """
    models = list(_models(contents.value))
    if contents.cut is not None and not salvage:
        raise CheckpointError(_truncated(path, contents.cut, models))
    model = _chosen(path, contents, models, key)
    left_out = _refused(path, model)
    if left_out is not None:
        model = replace(model, tensors={name: leaf for name, leaf in model.tensors.items() if not refusal(leaf)})
        if not salvage or not model.tensors:
            raise CheckpointError(left_out)
    arrays, slots, missing = _sorted(path, model)
    slots.update(_beside(contents.value, models, model))
    findings = [*contents.findings, *unsafe_pickle(contents.names), *_prefix(path, arrays)]
    if contents.cut is not None:
        if not arrays:
            raise CheckpointError(_truncated(path, contents.cut, models))
        findings.append(salvaged(path, contents.cut, len(arrays), missing))
    if left_out is not None:
        findings.append(replace(left_out, severity="warning"))
    about = _about(contents, models, model)
    return Tensors(path, contents.format, arrays, about, model.key, slots, tuple(findings))


def _truncated(path: Path, cut: Cut, models: list[Model]) -> Finding:
    whole = [name for model in models for name, leaf in model.tensors.items() if is_whole(leaf)]
    return truncated(path, cut, whole, sum(len(model.tensors) for model in models))


# Which entries are models


def _models(root: Any) -> Iterator[Model]:
    seen: set[int] = set()
    yield from _search(root, (), seen)


def _search(value: Any, path: tuple[str, ...], seen: set[int]) -> Iterator[Model]:
    if id(value) in seen or len(path) > _MAX_DEPTH:
        return
    seen.add(id(value))
    if module_trees.is_module(value):
        found = {name: leaf for name, leaf in module_trees.tensors(value).items() if is_numeric(leaf)}
        if found:
            yield Model(path, found, {"modules": _settings(value), "class": value.qualified})
        return
    entries = _entries(value)
    direct = {name: leaf for name, leaf in entries.items() if is_leaf(leaf) and is_numeric(leaf)}
    inner = [
        model
        for name, entry in entries.items()
        if not is_leaf(entry) and name.lower() not in _TRAINING | _SETTINGS
        for model in _search(entry, (*path, name), seen)
    ]
    if _is_tree(inner):
        nested = {
            ".".join((*model.path[len(path) :], name)): leaf for model in inner for name, leaf in model.tensors.items()
        }
        yield Model(path, {**direct, **nested}, nested=True)
        return
    twins = _twins(direct)
    if twins:
        yield from (Model((*path, name), tensors) for name, tensors in twins.items())
    elif any(lazy(leaf).shape for leaf in direct.values()) and (len(direct) > _TRIFLE or not inner):
        rest = {name: entry for name, entry in entries.items() if name not in direct}
        if isinstance(value, Odict) and isinstance(value.state, dict):
            rest.update((str(name), entry) for name, entry in value.state.items())
        yield Model(path, direct, rest)
    yield from inner


def _twins(direct: Mapping[str, Leaf]) -> dict[str, dict[str, Leaf]]:
    """Two models of the same names in one state dict, "teacher.conv.weight" and "student.conv.weight"; {} for one."""
    groups: dict[str, dict[str, Leaf]] = {}
    for name, leaf in direct.items():
        first, _, rest = name.partition(".")
        groups.setdefault(first, {})[rest] = leaf
    is_pair = frozenset(groups) in _TWINS and len({frozenset(group) for group in groups.values()}) == 1
    return groups if is_pair else {}


def _is_tree(inner: list[Model]) -> bool:
    """Weights that stand one layer to an entry, {"conv1": {"weight": …}, …}, are one model and not many."""
    if len(inner) < 2 or any(model.is_copy or not (model.nested or len(model.tensors) <= _TRIFLE) for model in inner):
        return False
    distinct = {(model.nested, frozenset(model.tensors)) for model in inner if model.nested}
    return len(distinct) == sum(model.nested for model in inner) and (bool(distinct) or len(inner) > 2)


def _entries(value: Any) -> dict[str, Any]:
    if isinstance(value, Stub):
        value = value.as_dict()
    if isinstance(value, PickledArray) and isinstance(value.values, list) and value.shape == ():
        return _entries(value.values[0]) if value.values else {}
    if isinstance(value, dict):
        return {_name(name): entry for name, entry in value.items()}
    if isinstance(value, list | tuple) and len(value) <= 100_000:
        return {str(place): entry for place, entry in enumerate(value)}
    return {}


def _name(name: Any) -> str:
    if isinstance(name, bytes):
        return name.decode("utf-8", "replace")
    return name if isinstance(name, str) else str(name) if isinstance(name, int | float) else repr(type(name))


def _settings(module: Stub) -> dict[str, Any]:
    return {name: module_trees.attributes(part) for name, part in module_trees.walk(module)}


# Which model is meant


def _chosen(path: Path, contents: Contents, models: list[Model], key: str | None) -> Model:
    if not models:
        raise CheckpointError(_no_weights(path, contents))
    if key is not None:
        return _asked_for(path, models, key)
    main = _without_trifles([model for model in models if not _is_copy_of_another(model, models)])
    if len(main) == 1:
        return main[0]
    raise CheckpointError(_several(path, main))


def _asked_for(path: Path, models: list[Model], key: str) -> Model:
    exact = [model for model in models if model.key == key]
    if not exact and key == "":
        joined = {f"{model.key}.{name}": leaf for model in models for name, leaf in model.tensors.items()}
        return Model((), joined)
    below = [model for model in models if model.key.startswith(f"{key}.")]
    if len(exact or below) == 1:
        return (exact or below)[0]
    if below:
        raise CheckpointError(_several(path, below))
    finding = Finding(
        "file.no-key",
        "error",
        f"{path.name}: no weights under {key!r}; there are weights under {_listed(models)}",
        evidence={"asked": key, "models": [model.key for model in models]},
        fix=_how_to_ask(models[0]),
    )
    raise CheckpointError(finding)


def _is_copy_of_another(model: Model, models: list[Model]) -> bool:
    return any(_is_average_of(model, other) for other in models)


def _is_average_of(model: Model, other: Model) -> bool:
    """Whether one is, by its key and names, the moving average of the other; some keep no buffers, some no names."""
    if not model.is_copy or other.is_copy:
        return False
    own, theirs = _bare_names(model), _bare_names(other)
    return own <= theirs or theirs <= own or all(name.isdigit() for name in own)


def _bare_names(model: Model) -> set[str]:
    return {name.removeprefix("module.") for name in model.tensors}


def _without_trifles(models: list[Model]) -> list[Model]:
    """A mean and a deviation beside a model are no second model."""
    most = max((model.nbytes for model in models), default=0)
    large = [model for model in models if len(model.tensors) > _TRIFLE or model.nbytes * 1000 > most]
    return large or models


def _several(path: Path, models: list[Model]) -> Finding:
    return Finding(
        "file.several-models",
        "error",
        f"{path.name} holds {len(models)} models: {_listed(models)}",
        names=tuple(model.key for model in models),
        evidence={"models": {model.key: {"tensors": len(model.tensors), "bytes": model.nbytes} for model in models}},
        fix=_how_to_ask(models[0]),
    )


def _how_to_ask(model: Model) -> str:
    typed = model.key or '""'
    together = '; key="" takes all of them together' if model.key else ""
    return f'say which one: key="{model.key}" in Python, --key {typed} on the command line{together}'


def _listed(models: list[Model]) -> str:
    return ", ".join(
        f"{model.key or 'the top level'!r} ({len(model.tensors):,} tensors, {model.nbytes / 1e6:,.1f} MB)"
        for model in models[:12]
    )


def _no_weights(path: Path, contents: Contents) -> Finding:
    entries = _entries(contents.value)
    if entries:
        said = ", ".join(f"{name} is {_said(entry)}" for name, entry in list(entries.items())[:8])
        message = f"{path.name} opens, and no entry of it holds weights: {said}"
    else:
        message = f"{path.name} opens, and holds no weights: it is {_said(contents.value)}"
    empty = [name for name, entry in entries.items() if entry is None]
    evidence = {"entries": list(entries)[:50], "empty": empty[:50]}
    fix = "save the model again with model.state_dict(), not the result of load_state_dict()" if empty else ""
    return Finding("file.no-weights", "error", message, evidence=evidence, fix=fix)


def _said(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float):
        return str(value)[:40]
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, Stub):
        return f"an object of {value.qualified[:80]}"
    if isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__.removeprefix('O')} of {len(value):,}"
    return "one tensor without a name" if is_leaf(value) else f"a {type(value).__name__}"


# What belongs to it


def _refused(path: Path, model: Model) -> Finding | None:
    """The finding that names the weights of a model which cannot be read as plain arrays, if there are any."""
    refused = {name: refusal(leaf) for name, leaf in model.tensors.items() if refusal(leaf)}
    if not refused:
        return None
    kinds = ", ".join(sorted(set(refused.values())))
    return Finding(
        "file.unsupported",
        "error",
        f"{path.name}: {len(refused)} of {len(model.tensors)} weights are {kinds}, first {next(iter(refused))!r}",
        names=tuple(refused),
        evidence={"refused": refused},
        fix="write the file again from a model with dense, unquantised parameters, or read the others: "
        "salvage=True (--salvage)",
    )


def _sorted(path: Path, model: Model) -> tuple[dict[str, LazyArray], dict[str, LazyArray], list[str]]:
    copies = _flat_copies(model.tensors)
    arrays: dict[str, LazyArray] = {}
    slots: dict[str, LazyArray] = {}
    missing: list[str] = []
    for name, leaf in model.tensors.items():
        if not is_whole(leaf):
            missing.append(name)
        else:
            (slots if name in copies else arrays)[name] = _placed(lazy(leaf), f"{path.name}, {name}")
    return arrays, slots, missing


def _placed(array: LazyArray, place: str) -> LazyArray:
    """The array, whose errors say which one of which file it is."""

    def read() -> Array:
        try:
            return array.read()
        except CheckpointError as error:
            raise named(error, place) from None

    return LazyArray(array.shape, array.dtype, read)


def _flat_copies(names: Mapping[str, Any]) -> set[str]:
    """Moving averages and momenta that stand among the weights themselves.

    MMDetection before 3 keeps the average of `a.b` as `ema_a_b`, Detectron the momentum of `a_w` as `a_w_momentum`. Of
    a snapshot of Chainer's trainer the model stands under `updater/model:`, and all else is the training's.
    """
    model = [name for name in names if name.startswith("updater/model:")]
    if model:
        return {*names}.difference(model)
    averages = {"ema_" + name.replace(".", "_") for name in names}
    momenta = {f"{name}_momentum" for name in names}
    return {name for name in names if name in averages or name in momenta}


def _beside(root: Any, models: list[Model], chosen: Model) -> dict[str, LazyArray]:
    """Tensors of the optimizer, and of models that are moving averages of the chosen one."""
    slots: dict[str, LazyArray] = {}
    for model in models:
        if _is_average_of(model, chosen):
            slots.update(
                (f"{model.key}.{name}", lazy(leaf)) for name, leaf in model.tensors.items() if not refusal(leaf)
            )
    seen: set[int] = set()
    for name, entry in _entries(root).items():
        if name.lower() in _TRAINING:
            slots.update((label, lazy(leaf)) for label, leaf in _leaves(entry, name, seen))
    return slots


def _leaves(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Leaf]]:
    pending = [(name, value)]
    while pending:
        label, part = pending.pop()
        if is_leaf(part):
            if is_numeric(part) and not refusal(part):
                yield label, part
        elif id(part) not in seen:
            seen.add(id(part))
            pending.extend(reversed([(f"{label}.{own}", entry) for own, entry in _entries(part).items()]))


def _about(contents: Contents, models: list[Model], chosen: Model) -> dict[str, Any]:
    about: dict[str, Any] = {str(name): plain(value) for name, value in contents.about.items()}
    drop = frozenset(id(leaf) for model in models for leaf in model.tensors.values())
    for name, entry in _entries(contents.value).items() if not module_trees.is_module(contents.value) else ():
        if id(entry) in drop or module_trees.is_module(entry):
            continue
        kept = plain(entry, tensors=name.lower() not in _TRAINING, without=drop)
        if kept is not None or entry is None:
            about[name] = kept
    about.update((name, plain(value, without=drop)) for name, value in chosen.rest.items() if name not in about)
    return about


def _prefix(path: Path, names: Mapping[str, Any]) -> tuple[Finding, ...]:
    shared = ""
    rest = [name for name in names if name]
    while len(rest) > 1:
        first, dot, _ = rest[0].partition(".")
        if not dot or not all(name.startswith(first + dot) for name in rest):
            break
        shared += first + dot
        rest = [name.removeprefix(first + dot) for name in rest]
    if not shared:
        return ()
    message = f"every name in {path.name} begins with {shared!r}"
    return (Finding("names.prefix", "info", message, evidence={"prefix": shared, "names": len(names)}),)
