"""Config files beside a checkpoint, read as data: nothing in them runs, whatever their tags say."""

import ast
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from maskgraft.errors import CheckpointError, Finding
from maskgraft.families.python_configs import imported_bases, imported_beside, merged, parse_python
from maskgraft.spec import Learned

_MOST_BYTES = 4 << 20
_MOST_BASES = 10  # one on top of the other
NOT_READ = "files that are not there"  # in a config: those that it is written on top of


class _InertLoader(yaml.SafeLoader):
    """YAML in which every Python tag is the plain data it stands on.

    Configs written by yacs, fvcore or `yaml.dump` hold tags such as `!!python/object/new:…CfgNode`, under which the
    values stand in `dictitems` and `listitems`, or `!!python/tuple`.
    """


def _inert(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        data = loader.construct_mapping(node, deep=True)
        if suffix.endswith(":numpy.dtype"):
            return f"{data['state'][1]}{data['args'][0]}"
        if suffix.endswith(".multiarray._reconstruct"):
            _, shape, kind, columns_first, raw = data["state"]
            return _numbers(raw, kind).reshape(shape, order="F" if columns_first else "C").tolist()
        for key in ("dictitems", "listitems", "state"):
            if key in data:
                return data[key]
        return data
    if isinstance(node, yaml.SequenceNode):
        items = loader.construct_sequence(node, deep=True)
        return _numbers(items[1], items[0])[0].item() if suffix.endswith(".multiarray.scalar") else items
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


def _numbers(raw: Any, kind: Any) -> npt.NDArray[Any]:
    """The numbers of an array, or of a single one, as NumPy pickles them into YAML (Detectron's `cfg`)."""
    numbers: npt.NDArray[Any] = np.frombuffer(raw, np.dtype(kind))
    if numbers.dtype.kind not in "biuf":
        raise yaml.YAMLError(f"an array of {kind}")
    return numbers


_InertLoader.add_multi_constructor("tag:yaml.org,2002:python/", _inert)
_InertLoader.add_multi_constructor("!", _inert)


def read_config(path: Path) -> Mapping[str, Any]:
    """A config file as nested dicts: Python text where it is called so, YAML otherwise.

    The files that it is written on top of are read first: `_BASE_` of Detectron2 and PaddleDetection, `_base_` of
    MMDetection and what it imports under `read_base()`, and what a LazyConfig of Detectron2 imports, by their place
    beside it. Those that are not there stay under `NOT_READ`. Raises `CheckpointError`.
    """
    return _with_bases(path, ())


def _with_bases(path: Path, above: tuple[Path, ...], *, may_be_empty: bool = False) -> Mapping[str, Any]:
    lacking: list[str] = []

    def below(one: str, place: Path | None, *, may_be_empty: bool) -> Mapping[str, Any]:
        """The settings of a file that this one is written on top of."""
        every = (*above, path.resolve())
        if place is None or not place.is_file() or len(above) == _MOST_BASES or place.resolve() in every:
            lacking.append(one)
            return {}
        found = _with_bases(place, every, may_be_empty=may_be_empty)
        lacking.extend(found.get(NOT_READ, ()))
        return {name: value for name, value in found.items() if name != NOT_READ}

    python, key = path.suffix == ".py", "_BASE_"
    base: dict[str, Any] = {}
    imported: dict[str, Any] = {}
    if python:
        script, key = read_text(path), "_base_"
        for one, names in imported_bases(script):
            found = below(one, _place(one, path), may_be_empty=True)
            imported |= {here: found[there] for there, here in names.items() if there in found} if names else found
        for one, names in imported_beside(script):
            found = below(one, path.parent / one, may_be_empty=True)  # of schedules and the like nothing is understood
            imported |= {here: found[there] for there, here in names.items() if there in found}
        text = parse_python(script, imported=imported)
        if not (text or lacking or may_be_empty):
            raise _refused(path, "is no Python text of settings")
    else:
        text = read_yaml(path)
    named = text.get(key, ())
    for one in [named] if isinstance(named, str) else named if isinstance(named, list | tuple) else ():
        base = merged(base, below(str(one), path.parent / Path(str(one)).expanduser(), may_be_empty=False))
    if python and base:
        text = parse_python(script, base, imported)
    whole = merged(base, {name: value for name, value in text.items() if name != key})
    return whole | {NOT_READ: lacking} if lacking else whole


def _place(module: str, path: Path) -> Path | None:
    """Where the module of an import stands: by its place beside the config, or below the package both are part of."""
    steps, parents = module.lstrip(".").split("."), path.resolve().parents
    level = len(module) - len(module.lstrip("."))
    if level:
        folder = parents[level - 1] if level <= len(parents) else None
    else:
        folder = next((one.parent for one in parents if one.name == steps[0]), None)
    return folder and folder.joinpath(*steps).with_suffix(".py")


def read_text(path: Path) -> str:
    """The text of a config that is Python. Raises `CheckpointError` for one longer than any is."""
    if path.stat().st_size > _MOST_BYTES:
        raise _refused(path, f"is {path.stat().st_size:,} bytes long, more than a config ever is")
    return path.read_text(encoding="utf-8-sig", errors="replace")


def base_fault(config: Mapping[str, Any], fix: str) -> list[Finding]:
    """What to say of files that a config is written on top of, and that are not where it says."""
    lacking = config.get(NOT_READ)
    if not lacking:
        return []
    verb = "are" if len(lacking) > 1 else "is"
    message = (
        f"the config is written on top of {', '.join(map(str, lacking))}, which {verb} not read: "
        "what it does not say itself is assumed"
    )
    return [Finding("numerics.assumed", "warning", message, evidence={"base": list(lacking)}, fix=fix)]


def parse_yaml(text: str) -> Any:
    """The data in a YAML text. Raises `yaml.YAMLError`."""
    try:
        return yaml.load(text, Loader=_InertLoader)
    except (KeyError, IndexError, TypeError, ValueError) as error:  # a tag that does not hold what it says
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from None


def read_yaml(path: Path) -> Mapping[str, Any]:
    """A YAML config as nested dicts. Raises `CheckpointError` with line and column when it cannot be parsed."""
    if path.stat().st_size > _MOST_BYTES:
        raise _refused(path, f"is {path.stat().st_size:,} bytes long, more than a config ever is")
    try:
        data = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "an unknown place"
        raise _refused(path, f"is no YAML at {where}: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise _refused(path, f"is no YAML: {error}") from None
    if not isinstance(data, Mapping):
        raise _refused(path, f"holds {type(data).__name__}, not settings by name")
    return data


def setting(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key of a nested config, or None.

        setting(config, "MODEL.RPN.NMS_THRESH")     # 0.7

    Text that yacs would take for a Python literal is one: "(32, 64)" and "1e-05" are a tuple and a number.
    """
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    if isinstance(value, str):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)  # "100abc" is text
                return ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return value
    return value


def changes_from(
    config: Mapping[str, Any],
    table: Iterable[tuple[str, str, Callable[[Any], Any]]],
    how: dict[str, Learned],
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The fields of `Numerics` that a config sets, and those that it leaves to `defaults`.

    `table` lists field, dotted key, and how a value reads; what was found is noted in `how`. Raises `CheckpointError`
    naming every key whose value cannot be read.
    """
    changes, faults = {}, []
    for name, key, convert in table:
        value, learned = setting(config, key), Learned("read", f"config: {key}")
        if value is None and defaults:
            value, learned = (
                setting(defaults, key),
                Learned("implied", f"default of {key}, which the config leaves"),
            )
        if value is None:
            continue
        try:
            changes[name] = convert(value)
        except (TypeError, ValueError, IndexError, AttributeError):
            faults.append(Finding("config.mismatch", "error", f"config: {key} is {value!r}", names=(key,)))
        how[f"numerics.{name}"] = learned
    if faults:
        raise CheckpointError(faults)
    return changes


def find(checkpoint: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` that stands beside the checkpoint, or None."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    places = (Path(os.path.normpath(folder / name)) for name in names)
    return next((place for place in places if place.is_file()), None)


def _refused(path: Path, fault: str) -> CheckpointError:
    return CheckpointError(Finding("config.path", "error", f"{path} {fault}", fix="give the right file with --config"))
