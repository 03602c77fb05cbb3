"""What stands for the classes and functions that a pickle names: their name and their data, and no behaviour."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from maskgraft.errors import Finding


@dataclass(slots=True, eq=False)
class Stub:
    """One object of a class, or one result of a function, that was named in a file and neither imported nor called.

        cfg = ckpt.about["cfg"]          # <yacs.config.CfgNode with MODEL, INPUT, …>
        cfg.get("MODEL").get("WEIGHTS")

    `called` is False for the class or function itself. `args` and `kwargs` are what it was to be called with, `state`
    what was to be put into it afterwards (usually a dict of attributes), `items` and `entries` what was to be appended
    to or set in it, for subclasses of list and dict.
    """

    module: str
    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    state: Any = None
    items: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)
    called: bool = False

    @property
    def qualified(self) -> str:
        """Module and name, joined by a dot."""
        return f"{self.module}.{self.name}"

    def get(self, name: str, default: Any = None) -> Any:
        """An entry, an attribute or a keyword argument of that name, in this order."""
        for place in (self.entries, self.state, self.kwargs):
            if isinstance(place, dict) and name in place:
                return place[name]
        return default

    def as_dict(self) -> dict[Any, Any]:
        """Keyword arguments, attributes and entries together; the later overrides the earlier."""
        state = self.state if isinstance(self.state, dict) else {}
        return {**self.kwargs, **state, **self.entries}

    def build(self, state: Any) -> None:
        """Takes what pickle calls the state: attributes, or the pair (attributes, slots)."""
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            first = state[0] if isinstance(state[0], dict) else {}
            state = {**first, **state[1]}
        self.state = state

    def __repr__(self) -> str:
        if not self.called:
            return f"<{self.qualified}>"
        names = [str(name) for name in self.as_dict()]
        if not names:
            return f"<{self.qualified}()>"
        return f"<{self.qualified} with {', '.join(names[:4])}{', …' if len(names) > 4 else ''}>"


class Odict(dict[Any, Any]):
    """A dict that remembers what was attached to it (`state`), such as the `_metadata` of a state dict.

    It stands for OrderedDict, defaultdict and Counter; an attribute cannot shadow a method here.
    """

    __slots__ = ("state",)

    def __init__(self, *args: Any) -> None:
        self.state: Any = None
        super().__init__(*args)

    def build(self, state: Any) -> None:
        """Takes the attached attributes."""
        self.state = state


_HARMLESS_STDLIB = frozenset(
    {
        "__future__", "__main__", "abc", "argparse", "array", "collections", "copyreg", "copy_reg", "dataclasses",
        "datetime", "decimal", "enum", "fractions", "functools", "logging", "numbers", "pathlib", "random", "re",
        "string", "time", "types.SimpleNamespace", "typing", "uuid", "zoneinfo",
    }
)  # fmt: skip
_HARMLESS_BUILTINS = frozenset(
    {
        "object", "type", "int", "float", "complex", "bool", "str", "unicode", "long", "bytes", "bytearray", "list",
        "tuple", "dict", "set", "frozenset", "slice", "range", "xrange", "property", "staticmethod", "classmethod",
        "Exception", "NotImplemented", "Ellipsis", "print", "len", "max", "min", "sum", "abs", "sorted", "zip",
    }
)  # fmt: skip
_PYTHON2_ONLY = frozenset({"commands", "popen2", "urllib2", "httplib", "cPickle", "thread", "posixfile", "new", "imp"})
_HARMLESS_CALLS = ("_rebuild", "_reconstruct", "_make", "_unpickle", "_new", "restore_type_tag", "build_")


def suspicious(module: str, name: str, called: bool) -> bool:
    """Whether a name in a pickle has no place in a checkpoint: `os.system`, `builtins.eval`, a function to be called.

    Classes of frameworks and of the user's own code, and functions that are only referred to, are not suspicious.
    """
    root = module.partition(".")[0]
    if root in ("builtins", "__builtin__"):
        return name not in _HARMLESS_BUILTINS
    if root in sys.stdlib_module_names or root in _PYTHON2_ONLY or root in ("nt", "posix"):
        return root not in _HARMLESS_STDLIB and f"{module}.{name}" not in _HARMLESS_STDLIB
    last = name.rpartition(".")[2]
    if not called or last.startswith(_HARMLESS_CALLS) or last.endswith("_ctor"):
        return False
    return last[:1].islower() or last.startswith("_")


def unsafe_pickle(names: Mapping[tuple[str, str], bool]) -> tuple[Finding, ...]:
    """`file.unsafe-pickle` for the names that became stubs: a warning when one has no place in a checkpoint.

    Nothing for no names.
    """
    if not names:
        return ()
    bad = [".".join(name)[:100] for name, called in names.items() if suspicious(*name, called)]
    everything = [".".join(name)[:100] for name in names]
    shown = bad or everything
    listed = ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")
    if bad:
        message = f"the pickle asks for {listed}, which has no place in a checkpoint; nothing was imported or called"
        fix = "do not open this file with torch.load(weights_only=False) or pickle.load"
    else:
        message = f"the pickle names classes that were read as plain data, not imported: {listed}"
        fix = ""
    evidence = {"names": sorted(everything), "suspicious": sorted(bad)}
    return (Finding("file.unsafe-pickle", "warning" if bad else "info", message, evidence=evidence, fix=fix),)
