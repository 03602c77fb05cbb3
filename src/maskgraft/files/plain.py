"""What stands beside the weights, as data that can be printed and compared."""

from typing import Any

from maskgraft.errors import CheckpointError
from maskgraft.files import leaves
from maskgraft.files.leaves import Leaf, is_leaf
from maskgraft.files.pickled_arrays import LatinText, PickledArray
from maskgraft.files.stubs import Stub
from maskgraft.files.torch_tensors import TorchStorage

_SMALL = 4096
_MAX_DEPTH = 60
_DROPPED = object()


def plain(value: Any, *, tensors: bool = True, without: frozenset[int] = frozenset()) -> Any:
    """A copy made of None, bool, int, float, str, list, dict, `Stub`, small arrays and `LazyArray`s.

    Tuples and sets become lists; bytes become text, or a note of their length; a value that contains itself becomes
    "…", as does what is nested deeper than 60. Arrays up to 4096 elements are read. Without `tensors`, entries that
    are tensors are left out, and containers that held nothing else; so are, always, the objects of the given ids.
    """
    copied = _Copy(tensors, without).of(value)
    return None if copied is _DROPPED else copied


class _Copy:
    def __init__(self, tensors: bool, without: frozenset[int]) -> None:
        self.tensors, self.without = tensors, without
        self.done: dict[int, Any] = {}
        self.depth = 0

    def of(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if id(value) in self.without:
            return _DROPPED
        if id(value) in self.done:
            return self.done[id(value)]
        if self.depth > _MAX_DEPTH:
            return "…"
        self.done[id(value)] = "…"
        self.depth += 1
        copy = self.fresh(value)
        self.depth -= 1
        self.done[id(value)] = copy
        return copy

    def fresh(self, value: Any) -> Any:
        if is_leaf(value):
            return _array(value, self) if self.tensors else _DROPPED
        if isinstance(value, dict):
            return self.entries(value)
        if isinstance(value, list | tuple | set | frozenset):
            return self.items(list(value))
        if isinstance(value, Stub):
            return self.stub(value)
        if isinstance(value, bytes | bytearray):
            return _text(bytes(value))
        if isinstance(value, memoryview | LatinText | TorchStorage):
            size = value.nbytes if not isinstance(value, LatinText) else len(value.utf8)
            return f"<{size:,} bytes>"
        return str(value)

    def entries(self, value: dict[Any, Any]) -> Any:
        copies = ((_key(name), self.of(entry)) for name, entry in value.items())
        kept = {name: copy for name, copy in copies if copy is not _DROPPED}
        return kept if kept or not value else _DROPPED

    def items(self, value: list[Any]) -> Any:
        kept = [copy for copy in map(self.of, value) if copy is not _DROPPED]
        return kept if kept or not value else _DROPPED

    def stub(self, value: Stub) -> Stub:
        def part(inner: Any, empty: Any) -> Any:
            copy = self.of(inner)
            return empty if copy is _DROPPED or copy is None or (copy == "…" and empty is not None) else copy

        return Stub(
            value.module,
            value.name,
            tuple(part(value.args, ())),
            part(value.kwargs, {}),
            part(value.state, None),
            part(value.items, []),
            part(value.entries, {}),
            value.called,
        )


def _array(value: Leaf, copy: _Copy) -> Any:
    if isinstance(value, PickledArray) and isinstance(value.values, list):
        inner = [copy.of(item) for item in value.values]
        kept = [item for item in inner if item is not _DROPPED]
        return kept[0] if value.shape == () and kept else kept
    if leaves.refusal(value) or not leaves.is_whole(value):
        return f"<tensor {leaves.refusal(value) or 'cut off'}>"
    lazy = leaves.lazy(value)
    if lazy.size > _SMALL:
        return lazy
    try:
        array = lazy.read()
    except CheckpointError:
        return "<array that cannot be read>"
    return array.item() if array.shape == () else array.copy()


def _key(name: Any) -> Any:
    if isinstance(name, tuple | frozenset):
        return str(tuple(map(_key, name)))
    if isinstance(name, bytes):
        return _text(name)
    return name if name is None or isinstance(name, str | int | float) else str(name)


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeError:
        return f"<{len(value):,} bytes>"
