"""Configs that are Python text, read as data: the text is parsed and never run.

Understood are assignments at the top (MMDetection), to attributes (Tensorpack) and in classes (Matterport): of
literals, `dict(...)`, `array([...])`, names assigned or imported before, sums of numbers or lists, `L(Thing)(...)` of
Detectron2, which is a dict whose `_target_` is the text of the thing, and what `model.merge(dict(...))` puts on top of
a setting. Whatever else stands in the text is left out; for attributes and classes, whose readers ask, it is an
`Unread`.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

_MOST_CHARACTERS = 2 << 20
_LARGEST = 1e15  # of a number that is calculated …
_LONGEST = 10_000  # … and of a list
_LEFT_OUT = object()


@dataclass(frozen=True, slots=True)
class Unread:
    """What a setting is that is no plain data: a piece of Python text."""

    text: str

    def __repr__(self) -> str:
        return f"{self.text}, which is no plain data"


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def parse_python(
    text: str, base: Mapping[str, Any] | None = None, imported: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    """What the assignments of a Python config hold, by name; empty for a text that is no Python.

        parse_python("norm = dict(type='BN')\\nmodel = dict(norm=norm)")["model"]     # {"norm": {"type": "BN"}}

    MMDetection 1 and 2 put the name of the file in front of the text; that line is skipped. `base` is what the text
    calls `_base_`, the settings of the files that it is written on top of; `imported` are the names that it takes from
    files beside it, which it may change. What else is imported is its name, "mmdet.models.FPN".
    """
    if len(text) > _MOST_CHARACTERS:
        return {}
    tree = _parsed(text) or _parsed("#" + text)
    found: dict[str, Any] = deepcopy(dict(imported or {}))
    outside: dict[str, Any] = {}
    below = {} if base is None else {"_base_": base}
    for statement in tree.body if tree else ():
        try:
            _follow(statement, found, outside, below)
        except RecursionError:
            continue
    return found


def _follow(statement: ast.stmt, found: dict[str, Any], outside: dict[str, Any], below: Mapping[str, Any]) -> None:
    """Do to the settings `found` what a statement does; `outside` and `below` are names that are none of them."""
    known = {**outside, **found, **below}
    match statement:
        case ast.ImportFrom(module=str(module), names=names):
            outside |= {one.asname or one.name: f"{module}.{one.name}" for one in names}
        case ast.Assign():
            value = _value(statement.value, known)
            for target in statement.targets:
                if isinstance(target, ast.Name) and value is not _LEFT_OUT:
                    found[target.id] = value
                elif isinstance(target, ast.Attribute):
                    _assign(found, target, _or_unread(value, statement.value))
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=holder, attr="merge" | "update"), args=[more])):
            before, value = _value(holder, found), _value(more, known)
            if isinstance(before, Mapping) and isinstance(value, Mapping):
                result = merged(before, value)
                if isinstance(holder, ast.Name):
                    found[holder.id] = result
                elif isinstance(holder, ast.Attribute):
                    _assign(found, holder, result)


def merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings on top of others; one that says `_delete_` (MMDetection) replaces what was there."""
    result = dict(base)
    for name, value in top.items():
        before = result.get(name)
        if isinstance(value, Mapping):
            inside = {key: one for key, one in value.items() if key != "_delete_"}
            result[name] = merged(before if isinstance(before, Mapping) and inside == value else {}, inside)
        else:
            result[name] = value
    return result


def imported_bases(text: str) -> list[tuple[str, Mapping[str, str]]]:
    """What a config takes from others (`with read_base():`, MMDetection since 3.1): the module as it stands, and names
    there → names here, none for all."""
    tree = _parsed(text) if len(text) <= _MOST_CHARACTERS else None
    within = [
        statement
        for node in (tree.body if tree else ())
        if isinstance(node, ast.With) and any("read_base" in ast.unparse(item) for item in node.items)
        for statement in node.body
    ]
    return [
        (
            "." * one.level + (one.module or ""),
            {alias.name: alias.asname or alias.name for alias in one.names if alias.name != "*"},
        )
        for one in within
        if isinstance(one, ast.ImportFrom)
    ]


def imported_beside(text: str) -> list[tuple[str, Mapping[str, str]]]:
    """What a config takes from files beside it (Detectron2's LazyConfig): path, and names there → names here.

    imported_beside("from ..common.optim import SGD as optimizer")     # [("../common/optim.py", {"SGD": "optimizer"})]
    """
    tree = _parsed(text) if len(text) <= _MOST_CHARACTERS else None
    return [
        (
            "../" * (one.level - 1) + one.module.replace(".", "/") + ".py",
            {alias.name: alias.asname or alias.name for alias in one.names},
        )
        for one in (tree.body if tree else ())
        if isinstance(one, ast.ImportFrom) and one.level and one.module
    ]


def parse_classes(text: str) -> Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]]:
    """The classes of a Python text, wherever in it: name → (names of their bases, what is assigned in them).

    parse_classes("class Mine(Config):\\n  STEPS = 2 * 50")     # {"Mine": (("Config",), {"STEPS": 100})}
    """
    tree = _parsed(text) if len(text) <= _MOST_CHARACTERS else None
    outside = parse_python(text)
    found: dict[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {}
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.ClassDef):
            said: dict[str, Any] = {}
            for statement in node.body:
                if isinstance(statement, ast.Assign):
                    value = _or_unread(_value(statement.value, {**outside, **said}), statement.value)
                    said |= {target.id: value for target in statement.targets if isinstance(target, ast.Name)}
            bases = (base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases)
            found[node.name] = tuple(bases), said
    return found


def _or_unread(value: Any, node: ast.expr) -> Any:
    return Unread(ast.unparse(node)) if value is _LEFT_OUT else value


def _assign(found: dict[str, Any], target: ast.Attribute, value: Any) -> None:
    """Put the value of `root.one.two = value` into nested dicts."""
    names = [target.attr]
    holder = target.value
    while isinstance(holder, ast.Attribute):
        names.append(holder.attr)
        holder = holder.value
    if not isinstance(holder, ast.Name):
        return
    within = found
    for name in (holder.id, *reversed(names[1:])):
        inner = within.setdefault(name, {})
        if not isinstance(inner, dict):
            return
        within = inner
    within[names[0]] = value


def _parsed(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr | None, known: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return known.get(node.id, _LEFT_OUT)
        case ast.Attribute():
            return _entry(_value(node.value, known), node.attr)
        case ast.Set(elts=[ast.Set(elts=[inner])]):  # "{{_base_.name}}"
            return _value(inner, known)
        case ast.List():
            return _items(node.elts, known)
        case ast.Tuple():
            return tuple(_items(node.elts, known))
        case ast.Dict():
            keys = [None if key is None else _value(key, known) for key in node.keys]
            return _pairs(list(zip(keys, node.values, strict=True)), known)
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            return _pairs([(one.arg, one.value) for one in node.keywords], known)
        case ast.Call(func=ast.Call(func=ast.Name(id="L" | "LazyCall"), args=[target]), args=[]):
            return {"_target_": ast.unparse(target), **_pairs([(one.arg, one.value) for one in node.keywords], known)}
        case ast.Call(func=ast.Attribute(attr="array") | ast.Name(id="array"), args=[ast.List() as inner]):
            return _value(inner, known)
        case ast.UnaryOp(op=ast.USub()):
            value = _value(node.operand, known)
            return -value if _is_number(value) else _LEFT_OUT
        case ast.BinOp():
            return _arithmetic(node, known)
    return _LEFT_OUT


def _entry(holder: Any, name: str) -> Any:
    return holder.get(name, _LEFT_OUT) if isinstance(holder, Mapping) else _LEFT_OUT


def _items(nodes: list[ast.expr], known: Mapping[str, Any]) -> list[Any]:
    return [value for node in nodes if (value := _value(node, known)) is not _LEFT_OUT]


def _pairs(nodes: list[tuple[Any, ast.expr]], known: Mapping[str, Any]) -> dict[Any, Any]:
    """A dict of keys and values; those of `**other`, which has no key, are its own."""
    found: dict[Any, Any] = {}
    for key, node in nodes:
        value = _value(node, known)
        if key is None and isinstance(value, Mapping):
            found |= value
        elif isinstance(key, str | int) and value is not _LEFT_OUT:
            found[key] = value
    return found


def _arithmetic(node: ast.BinOp, known: Mapping[str, Any]) -> Any:
    left, right = _value(node.left, known), _value(node.right, known)
    if isinstance(left, list) and isinstance(right, list) and isinstance(node.op, ast.Add):
        return left + right if len(left) + len(right) <= _LONGEST else _LEFT_OUT
    apply = _ARITHMETIC.get(type(node.op))
    if apply is None or not (_is_number(left) and _is_number(right)):
        return _LEFT_OUT
    try:
        result = apply(left, right)
    except ArithmeticError:
        return _LEFT_OUT
    return result if abs(result) <= _LARGEST else _LEFT_OUT


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
