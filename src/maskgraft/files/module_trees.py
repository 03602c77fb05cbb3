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
    """A module's class and its plain settings (`eps`, `stride`, `padding` …), which no state dict has.

    Those of the plain objects that it holds stand below their names: {"box_coder": {"weights": (10, 10, 5, 5)}}.
    """
    state = module.state if isinstance(module.state, dict) else {}
    held = {
        str(name): {own: value for own, value in _plain(part.state) if not isinstance(value, dict)}
        for name, part in state.items()
        if isinstance(part, Stub) and isinstance(part.state, dict) and not is_module(part)
    }
    return {"class": module.qualified, **dict(_plain(state)), **{name: one for name, one in held.items() if one}}


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


def _plain(state: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """The settings among what an object holds: numbers and texts, short sequences and named numbers."""
    for name, value in state.items():
        if isinstance(name, str) and name not in _OF_EVERY_MODULE and _is_setting(value):
            yield name, value


_OF_EVERY_MODULE = ("training", "dump_patches", "_is_full_backward_hook")


def _is_setting(value: Any, deep: int = 2) -> bool:
    if isinstance(value, list | tuple):
        return deep > 0 and len(value) <= 16 and all(_is_setting(item, deep - 1) for item in value)
    if isinstance(value, dict):
        return 0 < len(value) <= 16 and all(
            isinstance(name, str) and isinstance(one, int | float) for name, one in value.items()
        )
    return isinstance(value, int | float) or (isinstance(value, str) and len(value) < 200)
