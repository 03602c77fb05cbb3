"""Config files beside a checkpoint, read as data: nothing in them runs, whatever their tags say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from maskgraft.errors import CheckpointError, Finding

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


def read_yaml(path: Path) -> Mapping[str, Any]:
    """A YAML config as nested dicts. Raises `CheckpointError` with line and column when it cannot be parsed."""
    if path.stat().st_size > _MOST_BYTES:
        raise _refused(path, f"is {path.stat().st_size:,} bytes long, more than a config ever is")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_InertLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "an unknown place"
        raise _refused(path, f"is no YAML at {where}: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise _refused(path, f"is no YAML: {error}") from None
    if not isinstance(data, Mapping):
        raise _refused(path, f"holds {type(data).__name__}, not settings by name")
    return data


def find(checkpoint: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` that stands beside the checkpoint, or None."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _refused(path: Path, fault: str) -> CheckpointError:
    return CheckpointError(Finding("config.path", "error", f"{path} {fault}", fix="give the right file with --config"))
