"""What Keras leaves in HDF5: weights of Keras 1, 2 and 3, whole models, and what a cut file still has.

Names are the paths inside the file, counted from the group that holds the weights:

    Keras 1, 2   layer/weight name      "conv1/conv1/kernel:0", "rpn_model/rpn_conv_shared/bias:0"
    Keras 3      path of the variable   "layers/batch_normalization_1/vars/0"; the layer's own name is in
                                        `about["layer_of"]`: {"layers/batch_normalization_1": "conv2_block1_0_bn"}
    other HDF5   path of the dataset

So `model_weights/` of a saved model is not part of a name, and the same weights have the same names whether
saved by `save_weights` or by `save`.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from maskgraft.errors import CheckpointError, Finding, Severity
from maskgraft.files import zips
from maskgraft.files.cuts import Cut, salvaged, truncated
from maskgraft.files.hdf5 import Node, Tree, walk
from maskgraft.files.tensors import Array, LazyArray, Tensors

_JSON_ATTRIBUTES = ("model_config", "training_config")
_OPTIMIZER_GROUPS = ("optimizer_weights", "optimizer")
_ARCHIVE_PARTS = ("metadata.json", "config.json", "model.weights.h5")
_MOST_NAMED = 20


def hdf5_tensors(view: memoryview, path: Path, *, in_archive: bool = False, salvage: bool = False) -> Tensors:
    """Everything in an HDF5 file, whoever wrote it.

        hdf5_tensors(mapped(path), path)["conv1/conv1/kernel:0"].read()

    `view` holds the bytes of the file, `path` is where they come from (of an archive, when `in_archive`). `format` is
    "keras-h5" (Keras 1 and 2), "keras3-h5" or "hdf5". With `salvage`, tensors that are whole come from a file that
    is cut or damaged.

    Raises `CheckpointError` with everything that is wrong: `file.truncated` (its `names` are the tensors that are
    whole, its evidence has `bytes`, `expected` and the `layers` that the file lists), `file.damaged`,
    `file.outside` for links, storage and datasets that lead out of the file, `file.no-weights`.
    """
    tree = walk(view, file=None if in_archive else path)
    tree = _with_orphans_named(tree)
    root = "model_weights/" if _layers(tree, "model_weights") else ""
    layers = _layers(tree, root.rstrip("/"))
    whole = {
        name: _as_stored(node)
        for name in _in_order(tree, root, layers)
        if (node := tree.nodes[name]).array is not None and name not in tree.faults
    }
    slots = {name: array for name, array in whole.items() if name.split("/")[0] in _OPTIMIZER_GROUPS}
    arrays = {name.removeprefix(root): array for name, array in whole.items() if name not in slots}
    findings = _faults(tree, path, list(arrays), _known(tree, root, layers), layers, salvage=salvage)
    modern = any("/vars/" in f"/{name}" for name in arrays)
    about = _about(tree, layers, modern)
    order = _kernel_order(arrays) if layers else None
    if order is not None:
        about["kernel_layout"] = "OIHW" if order.names else "HWIO"
        findings += (order,) if order.names else ()
    if not arrays:
        raise CheckpointError(
            Finding(
                "file.no-weights", "error", f"{path.name} is an HDF5 file of {len(tree.nodes)} groups and no arrays"
            )
        )
    form = "keras-h5" if layers else "keras3-h5" if modern else "hdf5"
    return Tensors(path, form, arrays, about, slots=slots, findings=findings)


def _attributes(tree: Tree, path: str) -> Mapping[str, Any]:
    node = tree.nodes.get(path)
    return node.attributes if node else {}


def is_archive(view: memoryview) -> bool:
    """Whether the bytes are a Keras 3 archive, whole or cut."""
    if not zips.is_zip(view):
        return False
    if not zips.is_whole(view):
        return next(zips.scan(view, lambda _name, _start: 0), ("", 0))[0] in _ARCHIVE_PARTS
    return _ARCHIVE_PARTS[-1] in zips.members(view)


def archive_tensors(view: memoryview, path: Path, *, salvage: bool = False) -> Tensors:
    """The weights in a Keras 3 `.keras` archive, read where they stand; `about` has its metadata and `model_config`.

    Raises `CheckpointError` as `hdf5_tensors` does; in an archive that is cut, byte counts are those of the member
    `model.weights.h5`.
    """
    if zips.is_whole(view):
        members = zips.members(view)
        parts = {name: zips.read(view, members[name]) for name in _ARCHIVE_PARTS if name in members}
    else:
        found_at = list(zips.scan(view, lambda name, _: len(view) if name == _ARCHIVE_PARTS[-1] else 0))
        ends = [*(start for _, start in found_at[1:]), len(view)]
        parts = {name: view[start:end] for (name, start), end in zip(found_at, ends, strict=False)}
    if "model.weights.h5" not in parts:
        raise CheckpointError(
            Finding("file.no-weights", "error", f"{path.name}: no model.weights.h5 in the archive, so no weights")
        )
    found = hdf5_tensors(parts["model.weights.h5"], path, in_archive=True, salvage=salvage)
    about = dict(found.about)
    if "metadata.json" in parts:
        metadata = _json(bytes(parts["metadata.json"]).decode("utf-8", "replace"))
        about |= metadata if isinstance(metadata, dict) else {}
    if "config.json" in parts:
        about["model_config"] = _json(bytes(parts["config.json"]).decode("utf-8", "replace"))
    return replace(found, format="keras3-zip", about=about)


def _layers(tree: Tree, path: str) -> list[str]:
    return _names(_attributes(tree, path), "layer_names")


def _names(attributes: Mapping[str, Any], name: str) -> list[str]:
    """A list of names from an attribute, or from its pieces `name0`, `name1` … when it was too long for one."""
    pieces = [attributes[name]] if name in attributes else []
    while not pieces and f"{name}0" in attributes:
        pieces = [attributes[key] for number in range(len(attributes)) if (key := f"{name}{number}") in attributes]
    return [text for piece in pieces if isinstance(piece, list) for text in piece if isinstance(text, str)]


def _with_orphans_named(tree: Tree) -> Tree:
    """The tree, with groups that were found without their parent put where they belong, as far as that is known.

    Keras 1 and 2 write layers in the order of their list, and begin a weight's name with its layer's, except in
    models inside models: those get the name that the list has left between their neighbours, or none. Keras 3
    leaves the layer's name at the variables, and the path ("layers/conv2d_7") is lost with the parent; there the
    layer's name stands in its place.
    """
    orphans = [path for path in tree.nodes if path.startswith("@") and "/" not in path]
    if not orphans:
        return tree
    renamed = {path: "model_weights" for path in orphans if _layers(tree, path)}
    layers = [layer for path in ("", "model_weights", *renamed) for layer in _layers(tree, path)]
    weights = {path: _names(tree.nodes[path].attributes, "weight_names") for path in orphans}
    for path in orphans:
        modern = _attributes(tree, f"{path}/vars").get("name")
        if isinstance(modern, str):
            renamed.setdefault(path, f"layers/{modern}")
        elif (own := _own_layer(weights[path], set(layers))) is not None:
            renamed.setdefault(path, own)
    listed = [path for path in orphans if "weight_names" in tree.nodes[path].attributes]
    renamed |= _between_neighbours(listed, renamed, layers)
    nameless = {path: "" for path in orphans if weights[path] and path not in renamed}
    renamed |= nameless
    nodes = {_moved(path, renamed): node for path, node in tree.nodes.items() if path not in nameless}
    faults = {_moved(path, renamed): fault for path, fault in tree.faults.items()}
    notes = {_moved(path, renamed): note for path, note in tree.notes.items()}
    return Tree(nodes, faults, notes, tree.present, tree.expected)


def _own_layer(weights: list[str], layers: set[str]) -> str | None:
    """The layer whose name a weight's name begins with."""
    parts = weights[0].split("/") if weights else []
    beginnings = ("/".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((name for name in beginnings if name in layers), None)


def _between_neighbours(groups: list[str], known: Mapping[str, str], layers: list[str]) -> dict[str, str]:
    """Names for unnamed groups where the list has as many layers between two named neighbours as groups stand there."""
    places = {layer: place for place, layer in enumerate(layers)}
    found: dict[str, str] = {}
    run: list[str] = []
    left = -1
    for group in groups:
        place = places.get(known.get(group, ""))
        if place is None:
            run.append(group)
            continue
        if place - left - 1 == len(run):
            found |= dict(zip(run, layers[left + 1 : place], strict=True))
        run, left = [], place
    return found


def _moved(path: str, renamed: Mapping[str, str]) -> str:
    top, _, rest = path.partition("/")
    return "/".join(part for part in (renamed[top], rest) if part) if top in renamed else path


def _in_order(tree: Tree, root: str, layers: list[str]) -> list[str]:
    """Paths of all datasets: by the file's own lists of layers and weights first, then as they stand.

    The variables of one Keras 3 layer are numbered, and come in the order of their numbers.
    """
    first = dict.fromkeys(path for path in _listed(tree, root, layers) if path in tree.nodes)
    rest = [path for path in tree.nodes if path not in first and not path.startswith("@")]
    places: dict[str, int] = {}
    for path in rest:
        places.setdefault(path.rpartition("/")[0], len(places))
    rest.sort(key=lambda path: (places[path.rpartition("/")[0]], _number(path.rpartition("/")[2])))
    return [path for path in (*first, *rest) if tree.nodes[path].kind == "dataset"]


def _listed(tree: Tree, root: str, layers: list[str]) -> list[str]:
    """The paths of all weights that the file's own lists name, there or not."""
    return [
        f"{root}{layer}/{weight}"
        for layer in layers
        for weight in _names(_attributes(tree, f"{root}{layer}"), "weight_names")
    ]


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0


def _as_stored(node: Node) -> LazyArray:
    """The array of a dataset; bfloat16, which HDF5 keeps as plain bytes beside an attribute, as itself."""
    assert node.array is not None
    array = node.array
    if node.attributes.get("dtype") != "bfloat16" or array.dtype.itemsize != 2:
        return array

    def read() -> Array:
        return np.ascontiguousarray(array.read()).view(ml_dtypes.bfloat16)

    return LazyArray(array.shape, np.dtype(ml_dtypes.bfloat16), read)


def _known(tree: Tree, root: str, layers: list[str]) -> set[str]:
    """The names of all weights that the file speaks of, whole or not."""
    there = {path for path, node in tree.nodes.items() if node.array is not None and not path.startswith("@")}
    names = {name.removeprefix(root) for name in (*there, *_listed(tree, root, layers))}
    return {name for name in names if name.split("/")[0] not in _OPTIMIZER_GROUPS}


def _faults(
    tree: Tree, path: Path, whole: list[str], known: set[str], layers: list[str], *, salvage: bool
) -> tuple[Finding, ...]:
    """What is wrong with the file, as findings; raised unless the rest was asked for or nothing is missing."""
    notes = tuple(finding for error in tree.notes.values() for finding in error.findings)
    readable = bool(salvage and whole) or not tree.faults
    if tree.cut:
        cut = Cut(tree.present, tree.expected)
        missing = sorted(known - set(whole))
        if not readable:
            told = truncated(path, cut, whole, len(whole) + len(missing))
            raise CheckpointError(replace(told, evidence={**told.evidence, "layers": layers}))
        return (salvaged(path, cut, len(whole), missing), *notes)
    severity: Severity = "warning" if readable else "error"
    kept = [
        replace(finding, severity=severity, names=(place,))
        for place, error in list(tree.faults.items())[:_MOST_NAMED]
        for finding in error.findings
    ]
    if kept and not readable:
        raise CheckpointError(kept)
    return (*kept, *notes)


def _about(tree: Tree, layers: list[str], modern: bool) -> dict[str, Any]:
    about: dict[str, Any] = {}
    for path in ("", "model_weights") if layers else ("",):
        for name, value in _attributes(tree, path).items():
            if value is not None and not name.startswith("layer_names"):
                about[name] = _json(value) if name in _JSON_ATTRIBUTES and isinstance(value, str) else value
    if modern and not layers:
        about["layer_of"] = {
            path.removesuffix("/vars"): node.attributes["name"]
            for path, node in tree.nodes.items()
            if path.endswith("/vars") and isinstance(node.attributes.get("name"), str)
        }
    if layers or modern:
        about["layers"] = layers or list(about["layer_of"].values())
    skipped = {path: node.what for path, node in tree.nodes.items() if node.kind == "dataset" and node.what}
    if skipped:
        about["not_read"] = skipped
    return about


def _json(text: str) -> Any:
    """The JSON that a text begins with as plain Python, or the text itself when it begins with none."""
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return text


def _kernel_order(arrays: Mapping[str, LazyArray]) -> Finding | None:
    """In which order convolution kernels stand: a finding whose names are those in Theano's; `None` without kernels.

    Channels outnumber the positions of a kernel in nearly every layer, so the kernels vote.
    """
    votes = {
        name: shape[0] * shape[1] - shape[2] * shape[3]
        for name, array in arrays.items()
        if len(shape := array.shape) == 4 and shape[0] * shape[1] != shape[2] * shape[3]
    }
    if not votes:
        return None
    theano = tuple(name for name, vote in votes.items() if vote > 0)
    if 2 * len(theano) <= len(votes):
        theano = ()
    return Finding(
        "shape.layout",
        "warning",
        f"{len(theano)} convolution kernels stand as (out, in, height, width): Theano's order of Keras 1, "
        "whose kernels may also be turned by 180°",
        names=theano,
        evidence={name: list(arrays[name].shape) for name in theano[:3]},
        effect="taken as (height, width, in, out) no kernel fits, and a turned kernel fits and computes nonsense",
    )
