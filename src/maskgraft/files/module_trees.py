"""Whole models that were pickled: from the stubs of modules to the names that `state_dict()` would give."""

from collections.abc import Iterator
from typing import Any

from maskgraft.files.faults import damaged
from maskgraft.files.leaves import is_leaf
from maskgraft.files.stubs import Stub

MAX_NAMES = 500_000


def is_module(value: Any) -> bool:
    """Whether a stub was an `nn.Module`, or an object of a TorchScript archive."""
    if not isinstance(value, Stub) or not isinstance(value.state, dict):
        return False
    return isinstance(value.state.get("_modules"), dict) or value.module.startswith("__torch__")


def tensors(module: Stub) -> dict[str, Any]:
    """Name → tensor, as `state_dict()` orders them: parameters and buffers of a module, then its children.

    Buffers that the module calls not persistent are left out. Raises `CheckpointError` for a module that contains
    itself, or more than half a million tensors.
    """
    found: dict[str, Any] = {}
    for name, part in walk(module):
        for own, tensor in _own_tensors(part):
            found[f"{name}.{own}" if name else own] = tensor
        if len(found) > MAX_NAMES:
            raise damaged(f"the pickled module has more than {MAX_NAMES:,} tensors")
    return found


def walk(module: Stub) -> Iterator[tuple[str, Stub]]:
    """Every module inside a module with its dotted name, itself first under ""."""
    pending: list[tuple[str, Stub, frozenset[int]]] = [("", module, frozenset())]
    seen = 0
    while pending:
        name, part, above = pending.pop()
        seen += 1
        if id(part) in above or seen > MAX_NAMES:
            raise damaged(f"the pickled module {part.qualified} contains itself")
        yield name, part
        inside = above | {id(part)}
        children = [(f"{name}.{own}" if name else own, child, inside) for own, child in _children(part)]
        pending.extend(reversed(children))


def attributes(module: Stub) -> dict[str, Any]:
    """A module's class and its plain settings (`eps`, `stride`, `padding` …), which no state dict has."""
    state = module.state if isinstance(module.state, dict) else {}
    settings = {str(name): value for name, value in state.items() if _is_setting(name, value)}
    return {"class": module.qualified, **settings}


def _own_tensors(module: Stub) -> Iterator[tuple[str, Any]]:
    if module.module.startswith("__torch__"):
        yield from ((str(name), value) for name, value in module.state.items() if is_leaf(value))
        return
    transient = module.state.get("_non_persistent_buffers_set")
    for place in ("_parameters", "_buffers"):
        entries = module.state.get(place)
        for name, value in entries.items() if isinstance(entries, dict) else ():
            if is_leaf(value) and not (isinstance(transient, set) and name in transient):
                yield str(name), value


def _children(module: Stub) -> Iterator[tuple[str, Stub]]:
    entries = module.state if module.module.startswith("__torch__") else module.state.get("_modules")
    for name, value in entries.items() if isinstance(entries, dict) else ():
        if is_module(value):
            yield str(name), value


def _is_setting(name: Any, value: Any) -> bool:
    if not isinstance(name, str) or name.startswith("_") or name in ("training", "dump_patches"):
        return False
    if isinstance(value, tuple):
        return len(value) <= 8 and all(isinstance(item, int | float | str) for item in value)
    return isinstance(value, int | float) or (isinstance(value, str) and len(value) < 200)
