# ruff: noqa: E501
"""Pickles that run code, read files or use up memory when an ordinary unpickler opens them.

Those of `code` write a canary file, in one way or another, as soon as the named function is called. Those of `bombs` are
small and cost an ordinary unpickler, or whoever walks its result, much memory or time or the process. Those of `broken`
are nonsense.
"""

import os
import pickle
import struct


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _global(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def _call(module: str, name: str, *arguments: bytes) -> bytes:
    return _global(module, name) + b"(" + b"".join(arguments) + b"tR"


class _Reduced:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def code(canary: str) -> dict[str, bytes]:
    """Name → a pickle that would create the canary file, or import or fetch something, if it were run."""
    write = f"open({canary!r}, 'w').close()"
    touch = f"touch {canary}"
    nested = _Reduced(getattr, _Reduced(__import__, "os"), "system")
    return {
        "os.system": pickle.dumps(_Reduced(os.system, touch)),
        "os.system protocol 0": b"cos\nsystem\n(S'" + touch.encode() + b"'\ntR.",
        "posix.system": _call("posix", "system", _text(touch)) + b".",
        "nt.system": _call("nt", "system", _text(touch)) + b".",
        "os.popen": _call("os", "popen", _text(touch)) + b".",
        "subprocess.Popen": _call("subprocess", "Popen", _text("touch"), b"]" + _text(canary) + b"a") + b".",
        "subprocess by name of list": _call("subprocess", "check_output", b"](" + _text("touch") + _text(canary) + b"e") + b".",
        "eval": _call("builtins", "eval", _text(write)) + b".",
        "exec": _call("builtins", "exec", _text(write)) + b".",
        "python 2 eval": _call("__builtin__", "eval", _text(write)) + b".",
        "open for writing": _call("builtins", "open", _text(canary), _text("w")) + b".",
        "io.open": _call("_io", "open", _text(canary), _text("w")) + b".",
        "pathlib write through getattr": _call("builtins", "getattr", _call("pathlib", "Path", _text(canary)), _text("touch"))
        + b")R.",
        "nested reduce": pickle.dumps(_Reduced(map, nested, [touch])),
        "reduce of a reduce": _call("builtins", "getattr", _call("builtins", "__import__", _text("os")), _text("system"))
        + b"("
        + _text(touch)
        + b"tR.",
        "stack global": b"\x80\x04" + _text("os") + _text("system") + b"\x93(" + _text(touch) + b"tR.",
        "stack global with a dotted name": b"\x80\x04" + _text("os") + _text("path.os.system") + b"\x93(" + _text(touch) + b"tR.",
        "inst opcode": b"(" + _text(touch) + b"ios\nsystem\n.",
        "obj opcode": b"(" + _global("os", "system") + _text(touch) + b"o.",
        "newobj opcode": b"\x80\x02" + _global("subprocess", "Popen") + b"(" + _text(touch) + b"t\x81.",
        "newobj_ex opcode": b"\x80\x04" + _global("subprocess", "Popen") + b"(" + _text(touch) + b"t}" + _text("shell") + b"\x88s\x92.",
        "build calls setstate": _call("types", "SimpleNamespace") + b"}" + _text("__setstate__") + _global("os", "system") + b"s"
        b"b" + _text(touch) + b"b.",
        "build replaces a method": _call("collections", "OrderedDict") + b"}" + _text("keys") + _global("os", "system") + b"sb.",
        "memo hides the callee": _global("os", "system") + b"q\x050h\x05(" + _text(touch) + b"tR.",
        "pop leaves nothing behind": _call("os", "system", _text(touch)) + b"0N.",
        "run before the stream ends badly": _call("os", "system", _text(touch)),
        "list built by a callable": _global("os", "system") + b"q\x00(" + _text(touch) + b"tR(lp0\n0h\x00.",
        "extension registry": b"\x80\x02\x82\x01(" + _text(touch) + b"tR.",
        "runpy": _call("runpy", "run_path", _text(canary)) + b".",
        "code.interact": _call("code", "InteractiveInterpreter") + b".",
        "importlib": _call("importlib", "import_module", _text("antigravity")) + b".",
        "module imported by global alone": _global("antigravity", "fly") + b".",
        "pip": _call("pip", "main", b"](" + _text("install") + _text("x") + b"e") + b".",
        "webbrowser": _call("webbrowser", "open", _text("file://" + canary)) + b".",
        "socket": _call("socket", "create_connection", _text("127.0.0.1"), b"K\x01") + b".",
        "urllib": _call("urllib.request", "urlopen", _text("file://" + canary)) + b".",
        "torch.load": _call("torch", "load", _text(canary)) + b".",
        "torch.serialization.load": _call("torch.serialization", "load", _text(canary)) + b".",
        "torch.hub.load": _call("torch.hub", "load", _text(canary), _text("x")) + b".",
        "torch config gadget": _call("torch.utils._config_module", "ConfigModule.load_config", _text("x")) + b".",
        "torch.utils.bottleneck gadget": _call("torch.utils.bottleneck.__main__", "run_autograd_prof", _text(write), b"}") + b".",
        "torch collect_env gadget": _call("torch.utils.collect_env", "run", _text(touch)) + b".",
        "torch inductor gadget": _call("torch._inductor.codecache", "compile_file", _text(touch), _text("a"), _text("b")) + b".",
        "torch cpp_extension": _call("torch.utils.cpp_extension", "load_inline", _text("x"), _text(write)) + b".",
        "torch.jit gadget": _call("torch.jit.unsupported_tensor_ops", "execWrapper", _text(write), b"}", b"}") + b".",
        "numpy runstring": _call("numpy.testing._private.utils", "runstring", _text(write), b"}") + b".",
        "numpy.load of a pickle": _call("numpy", "load", _text(canary)) + b".",
        "pickle in a pickle": _call("pickle", "loads", b"C\x1a" + b"cos\nsystem\n(S'touch xx'\ntR.") + b".",
        "dill": _call("dill._dill", "_eval_repr", _text(write)) + b".",
        "cloudpickle": _call("cloudpickle.cloudpickle", "subimport", _text("antigravity")) + b".",
        "joblib": _call("joblib", "load", _text(canary)) + b".",
        "marshalled code": _call("types", "FunctionType", _call("marshal", "loads", b"C\x01N"), b"}") + b".",
        "timeit": _call("timeit", "timeit", _text(write)) + b".",
        "cProfile": _call("cProfile", "run", _text(write)) + b".",
        "pdb": _call("pdb", "run", _text(write)) + b".",
        "asyncio": _call("asyncio.unix_events", "_UnixSubprocessTransport._start", _text(touch)) + b".",
        "idlelib": _call("idlelib.autocomplete", "AutoComplete", _text(write)) + b".",
        "operator.methodcaller": _call("operator", "methodcaller", _text("system"), _text(touch)) + b".",
        "functools.partial of system": _global("functools", "partial") + b"(" + _global("os", "system") + b"tR}b.",
    }  # fmt: skip


def bombs() -> dict[str, bytes]:
    """Name → a small pickle that must be refused, or stay small, in a moment."""
    laughs = b"\x80\x04](" + b"K\x01" * 10 + b"e\x94"
    for level in range(30):
        laughs += b"](" + b"h" + bytes([level]) + (b"h" + bytes([level])) * 9 + b"e\x94"
    nested_key = b"\x80\x04}" + b")" + b"\x85" * 200_000 + b"K\x01s."
    return {
        "billion laughs": laughs + b".",
        "deep list": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "deep tuple": b"\x80\x04)" + b"\x85" * 100_000 + b".",
        "deep key": nested_key,
        "bytes of 10 TB": b"\x80\x04\x8e" + struct.pack("<Q", 10**13) + b"abc.",
        "text of 4 GB": b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"abc.",
        "bytearray of 10 TB": b"\x80\x05\x96" + struct.pack("<Q", 10**13) + b".",
        "frame of 10 TB": b"\x80\x04\x95" + struct.pack("<Q", 10**13) + b"N.",
        "long of 2 GB": b"\x80\x02\x8b" + struct.pack("<I", 2**31 - 1) + b"\x01.",
        "number with a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
        "bytearray(10**12)": _call("builtins", "bytearray", b"\x8a\x06" + (10**12).to_bytes(6, "little")) + b".",
        "bytes(10**12)": _call("builtins", "bytes", b"\x8a\x06" + (10**12).to_bytes(6, "little")) + b".",
        "array of 10 TB": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
        + b"\x8a\x06" + (10**13).to_bytes(6, "little") + b"\x85cnumpy\ndtype\n" + _text("u1") + b"\x85R\x89C\x02abtb.",
        "array of nothing": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
        + b"\x8a\x06" + (10**13).to_bytes(6, "little") + b"\x85cnumpy\ndtype\n" + _text("V0") + b"\x85R\x89C\x00tb.",
        "scalar of 80 MB": b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n" + _text("V80000000") + b"\x85RC\x01a\x86R.",
    }  # fmt: skip


def broken() -> dict[str, bytes]:
    """Name → bytes that are no sound pickle."""
    return {
        "nothing": b"",
        "only a protocol": b"\x80\x04",
        "protocol 9": b"\x80\x09N.",
        "empty stack": b".",
        "pop of nothing": b"0.",
        "mark without a list": b"t.",
        "reduce of nothing": b"R.",
        "build of nothing": b"b.",
        "memo never filled": b"h\x07.",
        "text memo": b"gxyz\n.",
        "negative memo": b"g-1\n.",
        "setitem on a number": b"K\x01K\x02K\x03s.",
        "odd setitems": b"}(K\x01u.",
        "append to a number": b"K\x01K\x02a.",
        "call of a number": b"K\x01)R.",
        "call with a list": b"cos\nsystem\n]R.",
        "call of text": _text("os.system") + b")R.",
        "list as a key": b"}]K\x01s.",
        "set of lists": b"\x80\x04\x8f(]\x90.",
        "unknown opcode": b"\xff.",
        "no end of line": b"cos",
        "bad string": b"Sabc\n.",
        "bad float": b"Fabc\n.",
        "bad unicode": b"X\x02\x00\x00\x00\xff\xff.",
        "out of band buffer": b"\x80\x05\x97.",
        "persistent id": b"P1\n.",
        "build on a number": b"K\x01}b.",
        "name that is a number": b"\x80\x04K\x01K\x02\x93.",
        "dtype that is code": b"\x80\x02cnumpy\ndtype\n" + _text("__import__('os')") + b"\x85R.",
        "dtype with fields out of reach": b"\x80\x02cnumpy\ndtype\n" + _text("V4") + b"\x85R(K\x03" + _text("|") + b"N" + _text("a") + b"\x85}tb.",
        "huge name": b"c" + b"a" * 5000 + b"\nb\n.",
    }  # fmt: skip
