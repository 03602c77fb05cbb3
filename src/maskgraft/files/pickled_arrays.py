"""NumPy's arrays, dtypes and scalars as they stand in a pickle, without calling what the pickle names."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from maskgraft.files.faults import damaged
from maskgraft.files.stubs import Stub
from maskgraft.files.tensors import Array, LazyArray

_DTYPE = re.compile(r"[<>|=]?[?bBhHiIlLqQefdgFDGcuSUVaOMm][0-9]{0,8}")
_ML_DTYPES = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
}


@dataclass(frozen=True, slots=True)
class LatinText:
    """Text in a pickle that is really bytes: Python 3 writes bytes so in protocols 0 to 2. Decoded when asked."""

    utf8: memoryview

    def bytes(self) -> bytes:
        """The bytes that the text stands for."""
        try:
            return str(self.utf8, "utf-8").encode("latin-1")
        except UnicodeError:
            raise damaged("bytes written as text hold characters above 255") from None


@dataclass(slots=True, eq=False)
class PickledDtype:
    """A NumPy dtype between its construction and its state (byte order, fields)."""

    dtype: np.dtype[Any]

    def build(self, state: Any) -> None:
        """Takes (version, byte order, subarray, names, fields, …) as NumPy writes it."""
        if not isinstance(state, tuple) or len(state) < 5:
            raise damaged("a dtype in the pickle has a state that is not NumPy's")
        order, names, fields = state[1], state[3], state[4]
        if isinstance(names, tuple) and isinstance(fields, dict):
            self.dtype = _structured(names, fields, self.dtype.itemsize)
        elif order in ("<", ">", "="):
            self.dtype = self.dtype.newbyteorder(order)


def _structured(names: tuple[Any, ...], fields: dict[Any, Any], itemsize: int) -> np.dtype[Any]:
    formats, offsets = [], []
    for name in names:
        kind, offset = fields[name][:2]
        if not isinstance(kind, PickledDtype) or not isinstance(offset, int) or kind.dtype.hasobject:
            raise damaged(f"the field {name!r} of a structured dtype is not NumPy's")
        formats.append(kind.dtype)
        offsets.append(offset)
    layout: Any = {"names": [str(name) for name in names], "formats": formats, "offsets": offsets, "itemsize": itemsize}
    kind_of_all: np.dtype[Any] = np.dtype(layout)
    return kind_of_all


@dataclass(slots=True, eq=False)
class PickledArray:
    """A NumPy array in a pickle: its shape and dtype, and where its values are."""

    shape: tuple[int, ...] = (0,)
    dtype: np.dtype[Any] = np.dtype(np.uint8)  # noqa: RUF009
    column_major: bool = False
    values: bytes | bytearray | memoryview | LatinText | list[Any] = b""
    is_built: bool = False

    def build(self, state: Any) -> None:
        """Takes (version, shape, dtype, is Fortran, values); old files have no version."""
        if not isinstance(state, tuple) or len(state) < 4:
            raise damaged("an array in the pickle has a state that is not NumPy's")
        shape, dtype, column_major, values = state[-4:]
        self.place(shape, dtype, column_major, values)

    def place(self, shape: Any, dtype: Any, column_major: Any, values: Any) -> None:
        """Sets everything at once, after checking that the values are as many as the shape says."""
        if not isinstance(dtype, PickledDtype):
            raise damaged("an array in the pickle has no dtype")
        if isinstance(values, str):
            values = _latin(values)
        if not isinstance(values, bytes | bytearray | memoryview | LatinText | list):
            raise damaged("an array in the pickle has no values")
        self.shape, self.dtype = checked_shape(shape), dtype.dtype
        self.column_major, self.values = bool(column_major), values
        self.is_built = True
        have = len(values) if not isinstance(values, LatinText) else len(values.utf8)
        element: int = 1 if isinstance(values, list) else self.dtype.itemsize
        need = prod(self.shape) * element
        if self.dtype.itemsize == 0 and prod(self.shape) > 0:
            raise damaged("an array in the pickle has elements of no size")
        if self.dtype.hasobject != isinstance(values, list):
            raise damaged("an array of Python objects in the pickle holds plain bytes, or the other way round")
        most = 2 * need if isinstance(values, LatinText) else need
        if not need <= have <= most:
            raise damaged(f"an array {self.shape} of {self.dtype} needs {need:,} bytes, the pickle holds {have:,}")

    def lazy(self) -> LazyArray:
        """The array, not yet decoded; byte order becomes the machine's."""
        return LazyArray(self.shape, self.dtype.newbyteorder("="), self.read)

    def read(self) -> Array:
        """The values, without a copy where the pickle holds them as they are."""
        if isinstance(self.values, list):
            array = np.empty(len(self.values), object)
            array[:] = self.values
            return array.reshape(self.shape)
        raw = self.values.bytes() if isinstance(self.values, LatinText) else self.values
        if len(raw) != prod(self.shape) * self.dtype.itemsize:
            raise damaged(f"an array {self.shape} of {self.dtype} in the pickle decodes to {len(raw):,} bytes")
        flat = np.frombuffer(raw, self.dtype) if len(raw) else np.empty(0, self.dtype)
        array = flat.reshape(self.shape, order="F" if self.column_major else "C")
        return array if self.dtype.isnative else array.astype(self.dtype.newbyteorder("="))


def checked_shape(shape: Any) -> tuple[int, ...]:
    """A shape from a file as a tuple of sizes; at most 64 dimensions, none negative."""
    if isinstance(shape, int):
        shape = (shape,)
    if not isinstance(shape, tuple | list) or len(shape) > 64:
        raise damaged("a shape in the file is not a short row of numbers")
    for size in shape:
        if not isinstance(size, int) or not 0 <= size < 1 << 62:
            raise damaged("a shape in the file has a size that is no count of elements")
    sizes: list[int] = [size or 1 for size in shape]
    if prod(sizes) >= 1 << 56:
        raise damaged("a shape in the file has more elements than any memory")
    return tuple(shape)


def dtype_named(name: Any) -> np.dtype[Any]:
    """The dtype of a short name such as "<f4", or of a list of (field, name) pairs.

    Raises `CheckpointError` for every other name: NumPy's own parser takes more than belongs into a file.
    """
    kind: np.dtype[Any] | None = _ML_DTYPES.get(name) if isinstance(name, str) else None
    if kind is not None:
        return kind
    if isinstance(name, list) and all(isinstance(field, tuple) and len(field) == 2 for field in name):
        layout: Any = [(str(label), dtype_named(inner)) for label, inner in name if isinstance(inner, str)]
        if len(layout) == len(name):
            kind = np.dtype(layout)
            return kind
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        raise damaged(f"the file names a dtype {str(name)[:60]!r} that NumPy does not have")
    try:
        kind = np.dtype(name.replace("a", "S"))
    except TypeError:
        raise damaged(f"the file names a dtype {name!r} that NumPy does not have") from None
    return kind


def expects_bytes(stack: Sequence[Any], callee: Any) -> bool:
    """Whether the next string of the pickle is an array's or a scalar's raw values, by what stands before it.

    `stack` is what was pushed since the last mark, `callee` the object pushed before (also before the mark).
    Python 2 wrote text and bytes alike; and large values need not be copied to be recognised.
    """
    if isinstance(callee, PickledDtype):
        return True
    if len(stack) >= 3 and isinstance(stack[-2], PickledDtype) and isinstance(stack[-1], int):
        return True
    return isinstance(callee, Stub) and not callee.called and callee.name in ("_frombuffer", "_load_from_bytes")


def _latin(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeError:
        raise damaged("bytes written as text hold characters above 255") from None


def _dtype(kind: Any = None, *_flags: Any) -> PickledDtype:
    if isinstance(kind, PickledDtype):
        return PickledDtype(kind.dtype)
    if isinstance(kind, Stub) and kind.name in _ML_DTYPES:
        return PickledDtype(_ML_DTYPES[kind.name])
    if isinstance(kind, Stub) and kind.module == "numpy" and kind.name.rstrip("_") in _SCALARS:
        return PickledDtype(np.dtype(kind.name.rstrip("_")))
    return PickledDtype(dtype_named(kind.decode("latin-1") if isinstance(kind, bytes) else kind))


_SCALARS = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
     "complex64", "complex128"}
)  # fmt: skip


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    if isinstance(raw, LatinText):
        raw = raw.bytes()
    if isinstance(raw, str):
        raw = _latin(raw)
    if not isinstance(dtype, PickledDtype) or not isinstance(raw, bytes | memoryview):
        raise damaged("a NumPy scalar in the pickle has no dtype or no value")
    kind = dtype.dtype
    if kind.hasobject or len(raw) != kind.itemsize or kind.itemsize == 0:
        raise damaged(f"a NumPy scalar of {kind} in the pickle has {len(raw):,} bytes")
    return np.frombuffer(raw, kind, 1)[0].item()


def _new_array(*_subtype_shape_kind: Any) -> PickledArray:
    return PickledArray()


def _from_buffer(values: Any, dtype: Any, shape: Any, order: Any = "C") -> PickledArray:
    array = PickledArray()
    array.place(shape, dtype, order == "F", values)
    return array


def _encode(text: Any, encoding: Any = "latin1", _errors: Any = None) -> LatinText | bytes:
    if isinstance(text, LatinText):
        return text if len(text.utf8) > 4096 else text.bytes()
    if not isinstance(text, str):
        raise damaged("the pickle encodes something that is not text")
    return text.encode("utf-8") if str(encoding).lower().replace("-", "") == "utf8" else _latin(text)


NUMPY: Mapping[tuple[str, str], Callable[..., object]] = {
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): _new_array,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _new_array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}
