"""TensorFlow graphs that carry their weights: frozen GraphDefs, and SavedModel folders.

Names are those of the graph's nodes, or, where a SavedModel keeps its variables beside the graph, of its bundle.
Field numbers are those of tensorflow/core/framework/{graph,node_def,attr_value}.proto and
tensorflow/core/protobuf/{saved_model,meta_graph}.proto.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from maskgraft.errors import CheckpointError, Finding
from maskgraft.files import unreadable
from maskgraft.files.cuts import Cut, salvaged, truncated
from maskgraft.files.faults import damaged
from maskgraft.files.mapping import mapped
from maskgraft.files.protobuf import BYTES, VARINT, claimed, fields
from maskgraft.files.tensors import LazyArray, Tensors
from maskgraft.files.tf_bundle import bundle_tensors, is_bundle_index
from maskgraft.files.tf_values import Message, is_message_of, message, tensor_in, text_in, texts_in, view_of

_MOST_NODES = 2_000_000


def is_graph(view: memoryview) -> bool:
    """Whether the bytes are a GraphDef: messages of nodes, which begin with a name and an operation."""
    return is_message_of(view, (1, BYTES)) and is_message_of(_first(view), (1, BYTES), (2, BYTES))


def is_saved_model(view: memoryview) -> bool:
    """Whether the bytes are a `saved_model.pb`: its version, then graphs that begin with what they are for."""
    if not is_message_of(view, (1, VARINT), (2, BYTES)):
        return False
    inner = next((value for number, _, value in fields(view, cut=True) if number == 2), 0)
    return isinstance(inner, memoryview) and is_message_of(inner, (1, BYTES))


def _first(view: memoryview) -> memoryview:
    value = next(fields(view, cut=True))[2]
    return value if isinstance(value, memoryview) else memoryview(b"")


def graph_tensors(view: memoryview, path: Path, *, salvage: bool = False) -> Tensors:
    """The weights of a frozen graph: constants that were variables before it was frozen.

        graph_tensors(mapped(path), path)["Conv/weights"].read()

    Freezing leaves behind each constant the node that read the variable ("Conv/weights/read"), which tells weights
    from other constants. A graph whose reading nodes were optimised away gives all its arrays of real numbers.
    `about["constants"]` counts the constants that are left out.

    Raises `CheckpointError`: `file.damaged`, `file.no-weights`, `file.truncated` for a file that ends inside a node
    (with `salvage`, the nodes before it are read).
    """
    expected = claimed(view)
    cut = Cut(len(view), expected, exact=False) if expected > len(view) else None
    arrays, left_out = _constants(view, cut=cut is not None)
    if cut and not (salvage and arrays):
        raise CheckpointError(truncated(path, cut, list(arrays), len(arrays)))
    if not arrays:
        raise CheckpointError(
            Finding("file.no-weights", "error", f"{path.name} is a TensorFlow graph without weights in it")
        )
    findings = (salvaged(path, cut, len(arrays), ()),) if cut else ()
    return Tensors(path, "tf-graph", arrays, {"constants": left_out}, findings=findings)


def _constants(graph: memoryview, *, cut: bool = False) -> tuple[dict[str, LazyArray], int]:
    constants: dict[str, LazyArray] = {}
    readers: set[str] = set()
    count = 0
    for number, _, value in fields(graph, cut=cut):
        if number != 1 or (cut and claimed(view_of(value)) > len(view_of(value))):
            continue
        count += 1
        if count > _MOST_NODES:
            raise damaged(f"a graph of more than {_MOST_NODES:,} nodes")
        node = message(value)
        name, operation = text_in(node, 1), text_in(node, 2)
        if operation == "Const":
            tensor = _constant(node)
            if name in constants:
                raise damaged(f"the graph has two nodes {name!r}")
            if tensor is not None:
                constants[name] = tensor
        elif operation == "Identity":
            source = next(iter(texts_in(node, 3)), "")
            if name.startswith(f"{source}/") or source.startswith(f"{name}/"):
                readers.add(source)
    found = {name: array for name, array in constants.items() if name in readers} or {
        name: array for name, array in constants.items() if array.shape and not _is_whole_number(array.dtype)
    }
    return found, len(constants) - len(found)


def _is_whole_number(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iub"


def _constant(node: Message) -> LazyArray | None:
    for attribute in node.get(5, []):
        found = message(attribute)
        if text_in(found, 1) == "value" and 2 in found:
            tensors = message(found[2][-1]).get(8)
            return tensor_in(tensors[-1]) if tensors else None
    return None


def saved_model_tensors(path: Path, *, salvage: bool = False) -> Tensors:
    """The weights of a SavedModel by its `saved_model.pb`.

    They are its variables in the folder beside it, or the constants of its graph when it was saved frozen.

    `about` has the bundle's, and `tags`, `tensorflow_version` and `signatures`. Raises `CheckpointError` as the
    readers of bundles and graphs do.
    """
    index = path.with_name("variables") / "variables.index"
    view = mapped(path)
    graph: memoryview | None = None
    about: dict[str, Any] = {}
    findings: tuple[Finding, ...] = ()
    if is_saved_model(view):
        graph, about = _described(view)
    else:
        findings = (replace(unreadable.told(path, view), severity="warning"),)
    if index.is_file() and is_bundle_index(mapped(index)):
        found = bundle_tensors(index, salvage=salvage)
        return replace(
            found,
            path=path,
            format="tf-saved-model",
            about={**found.about, **about},
            findings=(*findings, *found.findings),
        )
    if graph is None:
        raise CheckpointError(unreadable.told(path, view))
    arrays, left_out = _constants(graph)
    if not arrays:
        raise CheckpointError(
            Finding(
                "file.missing-shard",
                "error",
                f"{path.name} holds a graph without weights, and no variables/variables.index beside it",
                evidence={"file": "variables/variables.index"},
                fix="copy the folder `variables` too",
            )
        )
    return Tensors(path, "tf-saved-model", arrays, {**about, "constants": left_out})


def _described(view: memoryview) -> tuple[memoryview | None, dict[str, Any]]:
    """The first graph of a SavedModel, and what it says of itself."""
    models = message(view).get(2, [])
    model = message(models[0])
    info = message(model[1][-1]) if 1 in model else {}
    signatures = [text_in(message(signature), 1) for signature in model.get(5, [])]
    about: dict[str, Any] = {"tags": texts_in(info, 4), "signatures": signatures}
    if version := text_in(info, 5):
        about["tensorflow_version"] = version
    if len(models) > 1:
        about["graphs"] = len(models)
    graph = model[2][-1] if 2 in model else None
    return (graph if isinstance(graph, memoryview) else None), about
