"""The `pipeline.config` and label maps of the TF Object Detection API, read without it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskgraft.errors import CheckpointError, Finding
from maskgraft.families.protobuf_text import NotText, entries, read_text, strays

_MOST_BYTES = 4 << 20
_MOST_CLASSES = 1 << 16
STRAYS = "words that have no place in it"  # in a pipeline.config: what was passed over


def read_pipeline(path: Path) -> Mapping[str, Any]:
    """A `pipeline.config` as nested dicts; under "label_map" the classes of the label map that it names, id → name.

    The label map is looked for at its own place and, by its name, beside the config. What was passed over as no part
    of it stands under `STRAYS`. Raises `CheckpointError` when the
    file is no pipeline config.
    """
    text = _text(path)
    config = dict(_parsed(path, text))
    if "model" not in config:
        raise _refused(
            path, f"is no pipeline.config: it has no `model`, but {', '.join(list(config)[:5]) or 'nothing'}"
        )
    found = _label_map(path, config)
    if found is not None:
        config["label_map"] = read_label_map(found)
    if passed_over := strays(text):
        config[STRAYS] = passed_over
    return config


def label_map_of(path: Path) -> Path | None:
    """The label map that a `pipeline.config` names, at its own place or beside the config; `None` without one."""
    return _label_map(path, _read(path))


def _label_map(path: Path, config: Mapping[str, Any]) -> Path | None:
    for reader in ("train_input_reader", "eval_input_reader"):
        for one in entries(config, reader):
            named = one.get("label_map_path") if isinstance(one, Mapping) else None
            if not isinstance(named, str):
                continue
            beside = path.with_name(named.replace("\\", "/").rpartition("/")[2] or "label_map.pbtxt")
            found = next((place for place in (Path(named), beside) if place.is_file()), None)
            if found is not None:
                return found
    return None


def read_label_map(path: Path) -> dict[int, str]:
    """The classes of a label map, id → name; the display name where there is one.

        read_label_map(Path("mscoco_label_map.pbtxt"))[1]       # "person"

    Raises `CheckpointError` when the file is no label map.
    """
    classes: dict[int, str] = {}
    for item in entries(_read(path), "item"):
        number = item.get("id") if isinstance(item, Mapping) else None
        name = (item.get("display_name") or item.get("name")) if isinstance(item, Mapping) else None
        if not isinstance(number, int) or not isinstance(name, str) or not 0 <= number < _MOST_CLASSES:
            raise _refused(path, f"is no label map: an item has id {number!r} and name {name!r}")
        classes[number] = name
    if not classes:
        raise _refused(path, "is no label map: it has no item")
    return classes


def write_label_map(classes: Sequence[str]) -> str:
    """A label map as text, class k - 1 under id k; ids that stand for nothing ("unused 12") are left out.

    write_label_map(["kite", "boat"])     # "item {\n  id: 1\n  name: \"kite\"\n}\n…"
    """
    items = [(number, name) for number, name in enumerate(classes, 1) if name != unused(number)]
    return "".join(
        f"item {{\n  id: {number}\n  name: {json.dumps(name, ensure_ascii=False)}\n}}\n" for number, name in items
    )


def unused(number: int) -> str:
    """The name of an id that a label map leaves out."""
    return f"unused {number}"


def _read(path: Path) -> Mapping[str, Any]:
    return _parsed(path, _text(path))


def _text(path: Path) -> str:
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise _refused(path, f"is {size:,} bytes long, more than a config ever is")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise _refused(path, "is no text") from None


def _parsed(path: Path, text: str) -> Mapping[str, Any]:
    try:
        return read_text(text)
    except NotText as error:
        raise _refused(path, f"is no protocol buffer text: {error}") from None


def _refused(path: Path, fault: str) -> CheckpointError:
    return CheckpointError(Finding("config.path", "error", f"{path} {fault}", fix="give the right file with --config"))
