"""Limits on what a pickle unfolds to, however small it is in the file."""

from typing import Any

from maskgraft.files.faults import damaged
from maskgraft.files.pickled_arrays import PickledArray
from maskgraft.files.stubs import Odict, Stub

MAX_DEPTH = 400
MAX_NODES = 50_000_000


def children(value: Any) -> list[Any]:
    """What a value of a pickle directly holds."""
    if isinstance(value, dict):
        own = [value.state] if isinstance(value, Odict) and value.state is not None else []
        return [*value.keys(), *value.values(), *own]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if isinstance(value, Stub):
        parts = (value.args, value.kwargs, value.state, value.items, value.entries)
        return [part for part in parts if part]
    if isinstance(value, PickledArray) and isinstance(value.values, list):
        return value.values
    return []


def check_size(root: Any) -> None:
    """Refuses what is small in the file and endless when walked: deep nesting, lists of one list of one list …"""
    sizes: dict[int, int] = {}
    open_: set[int] = set()
    walk: list[tuple[Any, list[Any] | None]] = [(root, None)]
    while walk:
        value, parts = walk.pop()
        if parts is None:
            if id(value) in sizes or id(value) in open_:
                continue
            parts = [part for part in children(value) if isinstance(part, _CONTAINERS)]
            open_.add(id(value))
            if len(open_) > MAX_DEPTH:
                raise damaged(f"the pickle nests deeper than {MAX_DEPTH}")
            walk.append((value, parts))
            walk.extend((part, None) for part in parts)
        else:
            open_.discard(id(value))
            nodes = 1 + len(children(value)) + sum(sizes.get(id(part), 1) for part in parts)
            if nodes > MAX_NODES:
                raise damaged(f"the pickle repeats itself so often that it unfolds to more than {MAX_NODES:,} values")
            sizes[id(value)] = nodes


_CONTAINERS = (dict, list, tuple, set, frozenset, Stub, PickledArray)
