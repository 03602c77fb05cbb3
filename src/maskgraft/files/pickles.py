"""A pickle interpreter that runs nothing: opcodes in, plain data and inert `Stub`s out.

Protocols 0 to 5 as `pickletools` in the standard library documents them. What the file names (GLOBAL, REDUCE,
BUILD …) is never imported and never called: a name that stands in the given table is answered by a plain function of
this package, every other one becomes a `Stub`.
"""

import codecs
import pickle as op
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from maskgraft.errors import CheckpointError
from maskgraft.files.cuts import Cut
from maskgraft.files.faults import damaged
from maskgraft.files.pickled_arrays import NUMPY, LatinText, PickledArray, expects_bytes
from maskgraft.files.pickled_builtins import BUILTINS, frozen, key
from maskgraft.files.pickled_trees import check_size
from maskgraft.files.stubs import Stub

Known = Mapping[tuple[str, str], Callable[..., object]]

MAX_STEPS = 10_000_000
MAX_TEXT = 1 << 28


@dataclass(frozen=True, slots=True)
class Pickle:
    """What one pickle holds.

    `value` is made of None, bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict,
    `Stub`, `PickledArray`, `LatinText` and whatever the functions of the table return. `names` are the (module, name)
    of classes and functions that became stubs, each with whether it was to be called. `end` is the byte after the
    pickle.
    """

    value: Any
    names: Mapping[tuple[str, str], bool]
    end: int


def load(
    buffer: memoryview, *, at: int = 0, known: Known | None = None, persistent: Callable[[Any], Any] | None = None
) -> Pickle:
    """Reads the pickle that begins at a byte.

        load(memoryview(b"\\x80\\x04]\\x94(K\\x01K\\x02e.")).value        # [1, 2]

    `known` maps (module, name) to a function that is called, with what the file gives, in place of the thing of that
    name (default `KNOWN`), and may return NotImplemented for what it leaves to be a stub; `persistent` turns a
    persistent id into an object.

    Raises `CheckpointError` (`file.damaged`) for everything that is not a pickle, goes past its end, has more than 10
    million instructions, nests too deep or unfolds to too much (`pickled_trees.check_size`).
    """
    machine = _Machine(buffer, at, KNOWN if known is None else known, persistent or _no_persistent)
    machine.run()
    check_size(machine.result)
    return Pickle(machine.result, machine.names, machine.at)


def load_cut(buffer: memoryview, *, known: Known | None = None) -> tuple[Pickle, Cut | None]:
    """The same for a pickle that may end too early: what was complete until then, and how much was meant at least."""
    machine = _Machine(buffer, 0, KNOWN if known is None else known, _no_persistent)
    try:
        machine.run()
        cut = None
    except CheckpointError:
        if not machine.wanted:
            raise
        machine.result = machine.gathered()
        cut = Cut(len(buffer), machine.wanted, exact=False)
    check_size(machine.result)
    return Pickle(machine.result, machine.names, machine.at), cut


@runtime_checkable
class _Buildable(Protocol):
    def build(self, state: Any) -> None: ...


def _no_persistent(_identity: Any) -> Any:
    raise damaged("the pickle refers to data outside itself, and this kind of file has none")


class _Machine:
    """The stack machine that a pickle is a program for."""

    __slots__ = (
        "at",
        "buffer",
        "end",
        "known",
        "memo",
        "metastack",
        "names",
        "persistent",
        "result",
        "stack",
        "wanted",
    )

    def __init__(self, buffer: memoryview, at: int, known: Known, persistent: Callable[[Any], Any]) -> None:
        self.buffer, self.at, self.end = buffer, at, len(buffer)
        self.known, self.persistent = known, persistent
        self.stack: list[Any] = []
        self.metastack: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.names: dict[tuple[str, str], bool] = {}
        self.result: Any = None
        self.wanted = 0  # the size that the file must have had at least, once it is found to be cut

    def run(self) -> None:
        steps = 0
        start = self.at
        try:
            while True:
                if self.at >= self.end:
                    self.wanted = self.end + 1
                    raise damaged(f"the pickle is cut at byte {self.end:,}, before its end", bytes=self.end)
                code = self.buffer[self.at]
                self.at += 1
                if code == _STOP:
                    self.result = self.stack.pop()
                    return
                step = _STEPS.get(code)
                if step is None:
                    raise damaged(f"byte {self.at - 1:,} is {code:#04x}, which is no pickle instruction")
                step(self)
                steps += 1
                if steps > MAX_STEPS:
                    raise damaged(f"the pickle has more than {MAX_STEPS:,} instructions")
        except (IndexError, KeyError):
            raise damaged(
                f"the pickle that begins at byte {start:,} takes, at byte {self.at:,}, what it never stored"
            ) from None
        except CheckpointError:
            raise
        except (TypeError, ValueError, OverflowError, AttributeError, SyntaxError, RecursionError) as error:
            raise damaged(f"the pickle instruction at byte {self.at:,} makes no sense ({error})") from None

    # Bytes

    def take(self, size: int) -> memoryview:
        if size > self.end - self.at:
            self.wanted = self.at + size + 1
            raise damaged(
                f"the pickle claims {size:,} bytes at byte {self.at:,}, {self.end - self.at:,} are left",
                claimed=size,
                left=self.end - self.at,
            )
        start = self.at
        self.at += size
        return self.buffer[start : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> bytes:
        start, step = self.at, 256
        while start < self.end:
            found = bytes(self.buffer[start : start + step]).find(b"\n")
            if found >= 0:
                line = bytes(self.buffer[self.at : start + found])
                self.at = start + found + 1
                return line
            start += step
            step *= 2
        self.wanted = self.end + 1
        raise damaged(f"a line of the pickle at byte {self.at:,} does not end")

    def gathered(self) -> Any:
        """What a pickle that ends too early has built: containers get the items that were still waiting for them."""
        levels = [*self.metastack, self.stack]
        for outer, waiting in zip(reversed(levels[:-1]), reversed(levels[1:]), strict=True):
            target = outer[-1] if outer else None
            while waiting and not _is_complete(waiting[-1]):
                waiting.pop()
            if isinstance(target, dict):
                for place in range(0, len(waiting) - 1, 2):
                    target[key(waiting[place])] = waiting[place + 1]
            elif isinstance(target, list):
                target.extend(waiting)
        bottom = [value for value in levels[0] if isinstance(value, dict | list)]
        return bottom[0] if bottom else None

    def frame(self) -> None:
        size = self.number(8)
        if size > self.end - self.at:
            # The writer puts large strings outside of frames, so that a frame is seldom above 64 KB.
            if size > 1 << 32:
                raise damaged(f"the pickle claims a frame of {size:,} bytes", claimed=size)
            self.wanted = self.at + size

    # Strings

    def callee(self) -> Any:
        if self.stack:
            return self.stack[-1]
        return self.metastack[-1][-1] if self.metastack and self.metastack[-1] else None

    def push_bytes(self, size: int) -> None:
        raw = self.take(size)
        self.stack.append(raw if expects_bytes(self.stack, self.callee()) else _copied(raw))

    def push_bytearray(self, size: int) -> None:
        raw = self.take(size)
        self.stack.append(raw if expects_bytes(self.stack, self.callee()) else bytearray(_copied(raw)))

    def push_old_string(self, size: int) -> None:
        raw = self.take(size)
        self.stack.append(raw if expects_bytes(self.stack, self.callee()) else _old_text(_copied(raw)))

    def push_text(self, size: int) -> None:
        raw = self.take(size)
        callee = self.callee()
        if isinstance(callee, Stub) and (callee.module, callee.name) == ("_codecs", "encode"):
            self.stack.append(LatinText(raw))
        else:
            self.stack.append(_printable(str(_copied(raw), "utf-8", "surrogatepass")))

    # Objects

    def popmark(self) -> list[Any]:
        items = self.stack
        self.stack = self.metastack.pop()
        return items

    def push_marked(self, kind: Callable[[list[Any]], Any]) -> None:
        items = self.popmark()
        self.stack.append(kind(items))

    def named(self, module: Any, name: Any) -> Stub:
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > 1000:
            raise damaged("the pickle names a class by something that is not a name")
        module = _PYTHON3_MODULES.get(module, module)
        stub = Stub(module, name)
        if (module, name) not in self.known and (module, name) not in _REFERENCES:
            self.names.setdefault((module, name), False)
        return stub

    def called(self, target: Any, args: Any, kwargs: Any = None, *, is_class: bool = False) -> Any:
        if not isinstance(target, Stub):
            raise damaged(f"the pickle calls a {type(target).__name__}")
        if not isinstance(args, tuple):
            raise damaged(f"the pickle calls {target.qualified} without arguments")
        model = None if target.called else self.known.get((target.module, target.name))
        if model is not None and not kwargs:
            try:
                result = model(*args)
            except (TypeError, ValueError, KeyError, IndexError, OverflowError, AttributeError) as error:
                raise damaged(f"the pickle gives {target.qualified} what it does not take ({error})") from None
            if result is not NotImplemented:
                return result
        name = f"{target.name}()" if target.called else target.name
        self.names[target.module, target.name.removesuffix("()")] = not is_class
        return Stub(target.module, name, args, dict(kwargs or {}), called=True)

    def build(self) -> None:
        state = self.stack.pop()
        instance = self.stack[-1]
        if isinstance(instance, _Buildable):
            instance.build(state)
        elif not isinstance(instance, dict | list | set):
            raise damaged(f"the pickle attaches attributes to a {type(instance).__name__}")

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Stub):
            target.items.extend(items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise damaged(f"the pickle appends to a {type(target).__name__}")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Stub) else target
        if not isinstance(entries, dict) or len(items) % 2:
            raise damaged(f"the pickle sets entries of a {type(target).__name__}")
        for place in range(0, len(items), 2):
            entries[key(items[place])] = items[place + 1]

    def add_items(self) -> None:
        items = self.popmark()
        target = self.stack[-1]
        if isinstance(target, Stub):
            target.items.extend(items)
        elif isinstance(target, set):
            target.update(map(key, items))
        else:
            raise damaged(f"the pickle adds members to a {type(target).__name__}")

    def memoize(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def mark(self) -> None:
        self.metastack.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.popmark()

    def tuple_of(self, size: int) -> None:
        if len(self.stack) < size:
            raise IndexError
        items = tuple(self.stack[len(self.stack) - size :])
        del self.stack[len(self.stack) - size :]
        self.stack.append(items)

    def instance(self, target: Any, items: list[Any]) -> None:
        self.stack.append(self.called(target, tuple(items)))

    def reduce(self) -> None:
        args = self.stack.pop()
        self.stack.append(self.called(self.stack.pop(), args))

    def new(self) -> None:
        args = self.stack.pop()
        self.stack.append(self.called(self.stack.pop(), args, is_class=True))

    def new_with_keywords(self) -> None:
        kwargs = self.stack.pop()
        args = self.stack.pop()
        if not isinstance(kwargs, dict) or not all(isinstance(name, str) for name in kwargs):
            raise damaged("the pickle gives keyword arguments that are not a dict of names")
        self.stack.append(self.called(self.stack.pop(), args, kwargs, is_class=True))

    def stack_named(self) -> None:
        name = self.stack.pop()
        self.stack.append(self.named(self.stack.pop(), name))

    def long(self, size: int) -> None:
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def text_number(self) -> None:
        line = self.line().strip()
        self.stack.append({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line.rstrip(b"L")))

    def dict_from_mark(self) -> None:
        items = self.popmark()
        self.stack.append({})
        self.set_items(items)

    def refused(self) -> None:
        raise damaged("the pickle wants buffers from outside the file")


def _is_complete(value: Any) -> bool:
    """Whether nothing more was to be done to the last value before a cut, as far as that can be known."""
    if isinstance(value, PickledArray):
        return value.is_built
    return isinstance(value, dict | list) and len(value) > 0


def _copied(raw: memoryview) -> bytes:
    if len(raw) > MAX_TEXT:
        raise damaged(f"the pickle holds {len(raw):,} bytes in one string that belongs to no array")
    return bytes(raw)


def _old_text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeError:
        return raw.decode("latin-1")


def _quoted(machine: _Machine) -> None:
    line = machine.line().strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b'"', b"'"):
        raise damaged("a string of the pickle is not in quotes")
    raw = codecs.escape_decode(line[1:-1])[0]
    wanted = expects_bytes(machine.stack, machine.callee())
    machine.stack.append(raw if wanted else _old_text(raw))


def _escaped_text(machine: _Machine) -> None:
    machine.stack.append(_printable(machine.line().decode("raw-unicode-escape")))


def _printable(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair, which no encoding takes."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


KNOWN: Known = {**NUMPY, **BUILTINS}

_REFERENCES = frozenset({("builtins", name) for name in ("object", "int", "float", "str", "bool", "dict", "list")})
_PYTHON3_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "UserDict": "collections", "Queue": "queue"}

_STOP = op.STOP[0]
_STEPS: Mapping[int, Callable[[_Machine], None]] = {
    code[0]: step
    for code, step in (
        (op.PROTO, lambda m: _protocol(m.number(1))),
        (op.FRAME, _Machine.frame),
        (op.MARK, _Machine.mark),
        (op.POP, _Machine.pop),
        (op.POP_MARK, lambda m: _drop(m.popmark())),
        (op.DUP, lambda m: m.stack.append(m.stack[-1])),
        (op.NONE, lambda m: m.stack.append(None)),
        (op.NEWTRUE, lambda m: m.stack.append(True)),
        (op.NEWFALSE, lambda m: m.stack.append(False)),
        (op.INT, _Machine.text_number),
        (op.LONG, _Machine.text_number),
        (op.FLOAT, lambda m: m.stack.append(float(m.line()))),
        (op.BININT, lambda m: m.long(4)),
        (op.BININT1, lambda m: m.stack.append(m.number(1))),
        (op.BININT2, lambda m: m.stack.append(m.number(2))),
        (op.LONG1, lambda m: m.long(m.number(1))),
        (op.LONG4, lambda m: m.long(m.number(4))),
        (op.BINFLOAT, lambda m: m.stack.append(struct.unpack(">d", m.take(8))[0])),
        (op.STRING, _quoted),
        (op.BINSTRING, lambda m: m.push_old_string(m.number(4))),
        (op.SHORT_BINSTRING, lambda m: m.push_old_string(m.number(1))),
        (op.UNICODE, _escaped_text),
        (op.BINUNICODE, lambda m: m.push_text(m.number(4))),
        (op.SHORT_BINUNICODE, lambda m: m.push_text(m.number(1))),
        (op.BINUNICODE8, lambda m: m.push_text(m.number(8))),
        (op.BINBYTES, lambda m: m.push_bytes(m.number(4))),
        (op.SHORT_BINBYTES, lambda m: m.push_bytes(m.number(1))),
        (op.BINBYTES8, lambda m: m.push_bytes(m.number(8))),
        (op.BYTEARRAY8, lambda m: m.push_bytearray(m.number(8))),
        (op.EMPTY_LIST, lambda m: m.stack.append([])),
        (op.EMPTY_TUPLE, lambda m: m.stack.append(())),
        (op.EMPTY_DICT, lambda m: m.stack.append({})),
        (op.EMPTY_SET, lambda m: m.stack.append(set())),
        (op.LIST, lambda m: m.push_marked(list)),
        (op.TUPLE, lambda m: m.push_marked(tuple)),
        (op.DICT, _Machine.dict_from_mark),
        (op.FROZENSET, lambda m: m.push_marked(frozen)),
        (op.TUPLE1, lambda m: m.tuple_of(1)),
        (op.TUPLE2, lambda m: m.tuple_of(2)),
        (op.TUPLE3, lambda m: m.tuple_of(3)),
        (op.APPEND, lambda m: m.append([m.stack.pop()])),
        (op.APPENDS, lambda m: m.append(m.popmark())),
        (op.SETITEM, lambda m: m.set_items([m.stack.pop(-2), m.stack.pop()])),
        (op.SETITEMS, lambda m: m.set_items(m.popmark())),
        (op.ADDITEMS, _Machine.add_items),
        (op.GET, lambda m: m.stack.append(m.memo[int(m.line())])),
        (op.BINGET, lambda m: m.stack.append(m.memo[m.number(1)])),
        (op.LONG_BINGET, lambda m: m.stack.append(m.memo[m.number(4)])),
        (op.PUT, lambda m: m.memoize(int(m.line()))),
        (op.BINPUT, lambda m: m.memoize(m.number(1))),
        (op.LONG_BINPUT, lambda m: m.memoize(m.number(4))),
        (op.MEMOIZE, lambda m: m.memoize(len(m.memo))),
        (op.GLOBAL, lambda m: m.stack.append(m.named(_old_text(m.line()), _old_text(m.line())))),
        (op.STACK_GLOBAL, _Machine.stack_named),
        (op.EXT1, lambda m: m.stack.append(m.named("copyreg", f"extension {m.number(1)}"))),
        (op.EXT2, lambda m: m.stack.append(m.named("copyreg", f"extension {m.number(2)}"))),
        (op.EXT4, lambda m: m.stack.append(m.named("copyreg", f"extension {m.number(4)}"))),
        (op.INST, lambda m: m.instance(m.named(_old_text(m.line()), _old_text(m.line())), m.popmark())),
        (op.OBJ, lambda m: _object(m, m.popmark())),
        (op.REDUCE, _Machine.reduce),
        (op.NEWOBJ, _Machine.new),
        (op.NEWOBJ_EX, _Machine.new_with_keywords),
        (op.BUILD, _Machine.build),
        (op.PERSID, lambda m: m.stack.append(m.persistent(_old_text(m.line())))),
        (op.BINPERSID, lambda m: m.stack.append(m.persistent(m.stack.pop()))),
        (op.NEXT_BUFFER, _Machine.refused),
        (op.READONLY_BUFFER, _Machine.refused),
    )
}


def _protocol(version: int) -> None:
    if version > op.HIGHEST_PROTOCOL:
        raise damaged(f"the pickle is of protocol {version}; Python has 0 to {op.HIGHEST_PROTOCOL}")


def _drop(_items: list[Any]) -> None:
    pass


def _object(machine: _Machine, items: list[Any]) -> None:
    machine.instance(items[0], items[1:])
