"""Config files beside a checkpoint, read as data: nothing in them runs, whatever their tags say."""

import ast
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from maskgraft.errors import CheckpointError, Finding
from maskgraft.families.python_configs import parse_python
from maskgraft.spec import Learned

_MOST_BYTES = 4 << 20


class _InertLoader(yaml.SafeLoader):
    """YAML in which every Python tag is the plain data it stands on.

    Configs written by yacs, fvcore or `yaml.dump` hold tags such as `!!python/object/new:…CfgNode`, under which the
    values stand in `dictitems` and `listitems`, or `!!python/tuple`.
    """


def _inert(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        data = loader.construct_mapping(node, deep=True)
        for key in ("dictitems", "listitems", "state"):
            if key in data:
                return data[key]
        return data
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


_InertLoader.add_multi_constructor("tag:yaml.org,2002:python/", _inert)
_InertLoader.add_multi_constructor("!", _inert)


def read_config(path: Path) -> Mapping[str, Any]:
    """A config file as nested dicts: Python text where it is called so, YAML otherwise. Raises `CheckpointError`."""
    if path.suffix != ".py":
        return read_yaml(path)
    if path.stat().st_size > _MOST_BYTES:
        raise _refused(path, f"is {path.stat().st_size:,} bytes long, more than a config ever is")
    settings = parse_python(path.read_text(encoding="utf-8", errors="replace"))
    if not settings:
        raise _refused(path, "is no Python text of settings")
    return settings


def parse_yaml(text: str) -> Any:
    """The data in a YAML text. Raises `yaml.YAMLError`."""
    return yaml.load(text, Loader=_InertLoader)


def read_yaml(path: Path) -> Mapping[str, Any]:
    """A YAML config as nested dicts. Raises `CheckpointError` with line and column when it cannot be parsed."""
    if path.stat().st_size > _MOST_BYTES:
        raise _refused(path, f"is {path.stat().st_size:,} bytes long, more than a config ever is")
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
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
) -> dict[str, Any]:
    """The fields of `Numerics` that a config sets.

    `table` lists field, dotted key, and how a value reads; what was found is noted in `how`. Raises `CheckpointError`
    naming every key whose value cannot be read.
    """
    changes, faults = {}, []
    for name, key, convert in table:
        value = setting(config, key)
        if value is None:
            continue
        try:
            changes[name] = convert(value)
        except (TypeError, ValueError, IndexError, AttributeError):
            faults.append(Finding("config.mismatch", "error", f"config: {key} is {value!r}", names=(key,)))
        how[f"numerics.{name}"] = Learned("read", f"config: {key}")
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
