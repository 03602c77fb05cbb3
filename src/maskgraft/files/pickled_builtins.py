"""Containers and other harmless builtins that pickles call by name, answered by functions of our own."""

from collections.abc import Callable, Mapping
from typing import Any

from maskgraft.files.faults import damaged
from maskgraft.files.pickled_arrays import LatinText
from maskgraft.files.stubs import Odict, Stub


def key(value: Any, depth: int = 0) -> Any:
    """The value, if it can be a key of a dict or a member of a set: a plain value, a stub, a shallow tuple of them."""
    if isinstance(value, tuple | frozenset):
        # Hashing recurses in C without a limit, so deep tuples would end the process.
        if depth == 8:
            raise damaged("the pickle has a key that is nested deeper than 8")
        for item in value:
            key(item, depth + 1)
    elif isinstance(value, LatinText | memoryview):
        raise damaged("the pickle has a key that is raw data")
    elif isinstance(value, int) and abs(value) >= 1 << 63:
        # Python hashes integers by a remainder, so that large ones can be chosen to fall on one place.
        raise damaged("the pickle has a key above 64 bits")
    elif value is not None and not isinstance(value, str | int | float | bytes | Stub):
        raise damaged(f"the pickle has a {type(value).__name__} for a key")
    return value


def _ordered(*args: Any) -> Odict:
    entries = Odict()
    if args and isinstance(args[0], dict):
        entries.update(args[0])
    elif args and isinstance(args[0], list | tuple):
        for name, value in args[0]:
            entries[key(name)] = value
    return entries


def _defaulting(*_factory: Any) -> Odict:
    return _ordered(*_factory[1:])


def _set(items: Any = ()) -> set[Any]:
    return set(map(key, items))


def frozen(items: Any = ()) -> frozenset[Any]:
    """A frozenset of what may be a member."""
    return frozenset(map(key, items))


def _list(*items: Any) -> list[Any]:
    return list(*(_sequence(item) for item in items[:1]))


def _tuple(*items: Any) -> tuple[Any, ...]:
    return tuple(*(_sequence(item) for item in items[:1]))


def _sequence(value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"a {type(value).__name__} where a list belongs")
    return value


def _bytes(value: Any = b"", encoding: Any = None) -> bytes:
    if isinstance(value, str) and encoding is not None:
        return value.encode("latin-1")
    if isinstance(value, list):
        return bytes(item for item in value if isinstance(item, int))
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"a {type(value).__name__} where bytes belong")
    return bytes(value)


def _bytearray(value: Any = b"", encoding: Any = None) -> bytearray:
    return bytearray(_bytes(value, encoding))


def _complex(real: Any = 0.0, imaginary: Any = 0.0) -> complex:
    return complex(float(real), float(imaginary))


def _path(*parts: Any) -> str:
    return "/".join(str(part) for part in parts if isinstance(part, str)).replace("//", "/", 1)


def _reconstructor(cls: Any, _base: Any = None, state: Any = None) -> Stub:
    if not isinstance(cls, Stub):
        raise TypeError("a class that has no name")
    built = Stub(cls.module, cls.name, called=True)
    if isinstance(state, dict):
        built.entries.update(state)
    elif isinstance(state, list | tuple):
        built.items.extend(state)
    return built


def _attribute(owner: Any, name: Any) -> Any:
    """A method that is only named, `getattr(HistoryBuffer, "mean")`; of results of calls nothing is answered."""
    if not isinstance(owner, Stub) or owner.called or not isinstance(name, str) or len(name) > 200:
        return NotImplemented
    return Stub(owner.module, f"{owner.name}.{name}")


BUILTINS: Mapping[tuple[str, str], Callable[..., object]] = {
    ("collections", "OrderedDict"): _ordered,
    ("collections", "Counter"): _ordered,
    ("collections", "defaultdict"): _defaulting,
    ("collections", "deque"): lambda *items: _list(*items[:1]),
    ("builtins", "set"): _set,
    ("builtins", "frozenset"): frozen,
    ("builtins", "list"): _list,
    ("builtins", "tuple"): _tuple,
    ("builtins", "dict"): _ordered,
    ("builtins", "bytes"): _bytes,
    ("builtins", "bytearray"): _bytearray,
    ("builtins", "complex"): _complex,
    ("builtins", "getattr"): _attribute,
    ("copyreg", "_reconstructor"): _reconstructor,
    **{
        (module, name): _path
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "Path", "PurePosixPath", "PureWindowsPath")
    },
}
