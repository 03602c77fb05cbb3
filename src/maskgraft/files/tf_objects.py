"""The object graph of TensorFlow 2 checkpoints: which attribute of which object a tensor is.

Field numbers are those of tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from maskgraft.files.faults import damaged
from maskgraft.files.tf_values import message, number_in, text_in

GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
SLOT = "/.OPTIMIZER_SLOT/"

_MOST_NODES = 1_000_000
_DEEPEST = 100
_LONGEST = 2000
# Attributes that list what other attributes hold too, or belong to the training and not to the model.
_LISTS = frozenset(
    {
        "variables",
        "trainable_variables",
        "non_trainable_variables",
        "_variables",
        "_trainable_variables",
        "_non_trainable_variables",
        "_all_variables",
        "regularization_losses",
        "keras_api",
    }
)
_OPTIMIZERS = frozenset({"optimizer", "_optimizer"})


@dataclass(frozen=True, slots=True)
class ObjectGraph:
    """`children`: for every object, (local name, object number); `variables`: object number → (key, full name)."""

    children: tuple[tuple[tuple[str, int], ...], ...]
    variables: Mapping[int, tuple[str, str]]


def object_graph(proto: memoryview) -> ObjectGraph:
    """Read a `TrackableObjectGraph`. Raises `CheckpointError` (`file.damaged`) where it is none."""
    children: list[tuple[tuple[str, int], ...]] = []
    variables: dict[int, tuple[str, str]] = {}
    for node in message(proto).get(1, []):
        found = message(node)
        links = [message(link) for link in found.get(1, [])]
        for attribute in found.get(2, []):
            stored = message(attribute)
            if text_in(stored, 1) == "VARIABLE_VALUE":
                variables[len(children)] = (text_in(stored, 3), text_in(stored, 2))
        children.append(tuple((text_in(link, 2), number_in(link, 1)) for link in links))
        if len(children) > _MOST_NODES:
            raise damaged(f"an object graph of more than {_MOST_NODES:,} objects")
    return ObjectGraph(tuple(children), variables)


def names_of(keys: list[str], graph: ObjectGraph | None) -> dict[str, str]:
    """Readable, unique names for the tensors of a checkpoint by key.

        "model/conv/kernel/.ATTRIBUTES/VARIABLE_VALUE"   →  "model/conv/kernel"
        "variables/3/.ATTRIBUTES/VARIABLE_VALUE"         →  "model/conv/kernel", where the graph leads to it so
                                                         →  "conv/kernel", the variable's own name, where it does not

    A key is the attribute path that TensorFlow met first. It stays the name unless it goes through a mere list of
    variables or an optimizer; then the shortest path that does not is taken, and failing that the variable's own
    name, if no other tensor has it. Without the graph (its shard is missing) keys stay as they are.
    """
    names = {key: key.removesuffix(SUFFIX) for key in keys}
    if graph is None:
        return names
    parents = _plain_parents(graph)
    of_key = {key: node for node, (key, _) in graph.variables.items()}
    taken = set(names.values())
    for key, name in names.items():
        parts = set(name.split("/"))
        node = of_key.get(key)
        if node is None or SLOT in name or not (parts & _LISTS or parts & _OPTIMIZERS):
            continue
        own = graph.variables[node][1] if not parts & _OPTIMIZERS else ""
        better = next((text for text in (_path(parents, node), own) if text and text not in taken), "")
        if better:
            names[key] = better
            taken.add(better)
    return names


def _plain_parents(graph: ObjectGraph) -> dict[int, tuple[int, str]]:
    """For every object, (parent, name) on the first of the shortest paths that avoid lists and optimizers."""
    parents: dict[int, tuple[int, str]] = {}
    queue = deque([0] if graph.children else [])
    while queue:
        node = queue.popleft()
        for name, child in graph.children[node]:
            sound = 0 < child < len(graph.children) and name not in _LISTS and name not in _OPTIMIZERS
            if sound and child not in parents:
                parents[child] = (node, name)
                queue.append(child)
    return parents


def _path(parents: Mapping[int, tuple[int, str]], node: int) -> str:
    """The path to an object, "" when there is none or it is longer than any real one."""
    parts: list[str] = []
    while node in parents and len(parts) < _DEEPEST:
        node, name = parents[node]
        parts.append(name)
    return "/".join(reversed(parts)) if node == 0 and sum(map(len, parts)) < _LONGEST else ""


def belongs_to_training(name: str) -> bool:
    """Whether a tensor is an optimizer's or a metric's: its slots, its counters, its hyperparameters."""
    return SLOT in name or bool({*_OPTIMIZERS, "keras_api"} & set(name.split("/")))
