"""Values by name, as a file or a caller gives them, made arguments of a frozen dataclass or refused by name.

checked_fields(Arch, {"classes": 3, "blocks": [3, 4, 6, 3]}, where="arch")   # blocks is a tuple now
"""

import json
import types
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

from maskgraft.errors import Finding, UsageError


def checked_fields(kind: type, values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """`values` as arguments of the dataclass `kind`: names known, types right, lists made tuples.

    Raises `UsageError` with one finding per wrong entry.
    """
    hints = typing.get_type_hints(kind)
    findings, result = [], {}
    for name, value in values.items():
        if name not in hints:
            near = get_close_matches(name, hints, 1)
            hint = f"did you mean {near[0]}?" if near else f"one of: {', '.join(hints)}"
            findings.append(field_fault(where, f"has no field {name!r}", [name], fix=hint))
            continue
        converted = _frozen(value)
        if isinstance(converted, float) and converted.is_integer() and _accepts(hints[name], int(converted)):
            converted = int(converted)
        if _accepts(hints[name], converted):
            result[name] = float(converted) if hints[name] is float else converted
        else:
            wanted = _readable(hints[name])
            findings.append(field_fault(where, f"{name} is {json.dumps(value, default=str)}, not {wanted}", [name]))
    if findings:
        raise UsageError(findings)
    return result


def field_fault(where: str, fault: str, names: Sequence[str], fix: str = "") -> Finding:
    """What is wrong with fields of `where`, as every refusal of one says it (`spec.field`)."""
    return Finding("spec.field", "error", f"{where}: {fault}", names=tuple(names), fix=fix)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def _accepts(hint: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(_accepts(arguments[0], item) for item in value)
        return len(value) == len(arguments) and all(map(_accepts, arguments, value))
    if origin in (typing.Union, types.UnionType):
        return any(_accepts(one, value) for one in arguments)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _readable(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    return getattr(hint, "__name__", str(hint)) if typing.get_origin(hint) is None else str(hint)
