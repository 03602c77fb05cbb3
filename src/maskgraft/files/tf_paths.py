"""Which checkpoint a path means: TensorFlow spreads one over several files, and people name any of them."""

from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Literal

from maskgraft.errors import CheckpointError, Finding
from maskgraft.files import unreadable
from maskgraft.files.mapping import mapped
from maskgraft.files.protobuf import BYTES
from maskgraft.files.tensors import Tensors
from maskgraft.files.tf_bundle import bundle_tensors, is_bundle_index
from maskgraft.files.tf_graph import is_saved_model, saved_model_tensors
from maskgraft.files.tf_v1 import is_v1, v1_tensors
from maskgraft.files.tf_values import is_message_of

_STATE_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """What to read: the index of a bundle, a file of the first format, or a `saved_model.pb`.

    `finding` tells that the path given was another one than TensorFlow itself would take.
    """

    kind: Literal["bundle", "v1", "saved-model"]
    path: Path
    finding: Finding | None = None


def tensorflow_tensors(place: Place, *, salvage: bool = False) -> Tensors:
    """Read what a path was found to mean; the place's finding comes along. Raises as the readers do."""
    if place.kind == "bundle":
        found = bundle_tensors(place.path, salvage=salvage)
    elif place.kind == "v1":
        found = v1_tensors(place.path)
    else:
        found = saved_model_tensors(place.path, salvage=salvage)
    return replace(found, findings=(*found.findings, *([place.finding] if place.finding else [])))


def tensorflow_place(path: Path) -> Place | None:
    """The checkpoint that a path means; `None` when it means none of TensorFlow's.

        tensorflow_place(Path("training"))                         # a folder: what its `checkpoint` file names
        tensorflow_place(Path("training/checkpoint"))              # that file
        tensorflow_place(Path("training/model.ckpt-1295"))         # the prefix, as TensorFlow wants it
        tensorflow_place(Path("training/model.ckpt-1295.index"))   # or any file of it: .meta, .data-00000-of-00001

    Only files of the same folder are ever taken, whatever a `checkpoint` file says. Frozen graphs are one file, which
    its bytes tell (`tf_graph.is_graph`).

    Raises `CheckpointError`: `file.several-models` for a folder with several checkpoints and nothing that tells
    which, `file.missing-shard` when the index that belongs to the path is not there, and what is wrong with an index
    that is there and is none.
    """
    if path.is_dir():
        return _in_folder(path)
    if path.is_file() and _is_state(path):
        return _by_state(path, path)
    prefix = _prefix_of(path)
    if prefix != path.name or not path.exists():
        found = _by_prefix(path.with_name(prefix), path)
        if found or prefix == path.name:
            return found
        if path.is_file() and not path.name.endswith(".index") and _is_companion(path):
            raise CheckpointError(_without_index(path, f"{prefix}.index"))
    if path.is_file():
        return _by_content(path)
    return None


def _by_prefix(prefix: Path, given: Path) -> Place | None:
    """The checkpoint of a prefix: its index, or one file of that very name."""
    told = None if given == prefix else _told(given, prefix.name)
    index = prefix.with_name(f"{prefix.name}.index")
    if index.is_file():
        view = mapped(index)
        if is_bundle_index(view):
            return Place("bundle", index, told)
        if bytes(view[:2]) == b"\0\0" or any(prefix.parent.glob(f"{escape(prefix.name)}.data-*")):
            raise CheckpointError(_broken(index, view))
    if prefix.is_file() and is_v1(mapped(prefix)):
        return Place("v1", prefix, told)
    return None


def _by_content(path: Path) -> Place | None:
    view = mapped(path)
    if is_bundle_index(view):
        return Place("bundle", path)
    if is_v1(view):
        return Place("v1", path)
    return Place("saved-model", path) if is_saved_model(view) else None


def _in_folder(folder: Path) -> Place | None:
    state = folder / "checkpoint"
    if state.is_file() and _is_state(state):
        return _by_state(state, folder)
    if (folder / "saved_model.pb").is_file():
        return Place("saved-model", folder / "saved_model.pb")
    prefixes = [path.with_suffix("") for path in sorted(folder.glob("*.index")) if is_bundle_index(mapped(path))]
    if len(prefixes) == 1:
        return _by_prefix(prefixes[0], folder)
    if prefixes:
        names = tuple(prefix.name for prefix in prefixes)
        raise CheckpointError(
            Finding(
                "file.several-models",
                "error",
                f"{folder.name} holds {len(names)} checkpoints: {', '.join(names)}",
                names=names,
                fix=f"name one of them: {prefixes[-1]}",
            )
        )
    for inner in ("checkpoint", "saved_model", "variables"):
        if (folder / inner).is_dir() and (found := _in_folder(folder / inner)):
            return found
    return None


def _prefix_of(path: Path) -> str:
    """The name without what TensorFlow's writer puts behind a prefix."""
    stem, _, last = path.name.rpartition(".")
    if stem and (last in ("meta", "index") or _is_shard_suffix(last)):
        return stem
    return path.name


def _is_shard_suffix(text: str) -> bool:
    parts = text.split("-")
    return len(parts) == 4 and parts[0] == "data" and parts[2] == "of" and (parts[1] + parts[3]).isdigit()


def _is_companion(path: Path) -> bool:
    """Whether a file beside an index looks like one: values, which can be any bytes, or the graph of a training."""
    return path.suffix != ".meta" or is_message_of(mapped(path), (1, BYTES), (2, BYTES))


def _is_state(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(64).lstrip().startswith(b"model_checkpoint_path:")


def _by_state(state: Path, given: Path) -> Place:
    """What a `checkpoint` file names: the last part of its path, in the same folder."""
    with open(state, "rb") as file:
        text = file.read(_STATE_FILE).decode("utf-8", "replace")
    value = text.split("model_checkpoint_path:", 1)[1].split("\n", 1)[0].strip().strip("\"'")
    name = value.replace("\\", "/").rpartition("/")[2]
    found = _by_prefix(state.with_name(name), given) if name not in ("", ".", "..") and "\0" not in name else None
    if found:
        return found
    there = sorted(index.name.removesuffix(".index") for index in state.parent.glob("*.index"))
    raise CheckpointError(
        Finding(
            "file.missing-shard",
            "error",
            f"{state.name} names {value!r}, and there is no {name}.index beside it"
            + (f"; there are {', '.join(there)}" if there else ""),
            evidence={"named": value, "there": there},
            fix=f"name the checkpoint itself: {state.parent / there[-1]}" if there else f"put {name}.index there",
        )
    )


def _without_index(path: Path, index: str) -> Finding:
    return Finding(
        "file.missing-shard",
        "error",
        f"{path.name} holds {'a graph' if path.suffix == '.meta' else 'values without names'}; the names are in "
        f"{index}, which is not beside it",
        evidence={"file": index},
        fix=f"put {index} into the folder of {path.name}",
    )


def _broken(index: Path, view: memoryview) -> Finding:
    told = unreadable.told(index, view)
    if told.code == "file.lfs-pointer":
        return told
    return Finding(
        "file.truncated",
        "error",
        f"{index.name} ends after {len(view):,} bytes without the footer of a checkpoint index",
        evidence={"bytes": len(view)},
        fix=f"copy {index.name} again",
    )


def _told(path: Path, prefix: str) -> Finding:
    return Finding(
        "config.path",
        "info",
        f"{path.name} was taken to mean the checkpoint {prefix}; TensorFlow itself takes this prefix and no file name",
        evidence={"given": path.name, "prefix": prefix},
        fix=f'fine_tune_checkpoint: "…/{prefix}" in a pipeline.config',
    )
