"""ONNX models: their initializers, also those that stand in files beside the model.

Numbers of fields and dtypes: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from maskgraft.errors import CheckpointError, Finding
from maskgraft.files import protobuf
from maskgraft.files.contents import Contents
from maskgraft.files.cuts import Cut
from maskgraft.files.faults import damaged, unsupported
from maskgraft.files.mapping import beside, mapped
from maskgraft.files.pickled_arrays import checked_shape
from maskgraft.files.protobuf import BYTES, VARINT, fields, integer, signed, text, view
from maskgraft.files.tensors import Array, LazyArray

_MODEL_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_DTYPES: Mapping[int, np.dtype[Any]] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.uint8),
    3: np.dtype(np.int8),
    4: np.dtype(np.uint16),
    5: np.dtype(np.int16),
    6: np.dtype(np.int32),
    7: np.dtype(np.int64),
    9: np.dtype(np.bool_),
    10: np.dtype(np.float16),
    11: np.dtype(np.float64),
    12: np.dtype(np.uint32),
    13: np.dtype(np.uint64),
    14: np.dtype(np.complex64),
    15: np.dtype(np.complex128),
    16: np.dtype(ml_dtypes.bfloat16),
    17: np.dtype(ml_dtypes.float8_e4m3fn),
    18: np.dtype(ml_dtypes.float8_e4m3fnuz),
    19: np.dtype(ml_dtypes.float8_e5m2),
    20: np.dtype(ml_dtypes.float8_e5m2fnuz),
    24: np.dtype(ml_dtypes.float8_e8m0fnu),
}
_STRING = 8
# Operators that hold what was learnt, and the first of their inputs that does.
_LEARNT_FROM = {
    "BatchNormalization": 1,
    "Conv": 1,
    "ConvTranspose": 1,
    "Gemm": 1,
    "GRU": 1,
    "InstanceNormalization": 1,
    "LayerNormalization": 1,
    "LSTM": 1,
    "MatMul": 1,
    "PRelu": 1,
}


def is_onnx(data: memoryview) -> bool:
    """Whether the bytes are a ModelProto: a small version number first, a graph among the known fields."""
    if bytes(data[:1]) != b"\x08":
        return False
    has_graph = False
    try:
        for number, wire, value in fields(data, cut=True):
            if number not in _MODEL_FIELDS or (number == 1 and not (isinstance(value, int) and value < 100)):
                return False
            has_graph |= number == 7 and wire == BYTES
    except CheckpointError:
        return has_graph
    return has_graph


@dataclass(slots=True)
class _Tensor:
    """One TensorProto as its fields come."""

    name: str = ""
    dims: list[int] = field(default_factory=list)
    kind: int = 0
    raw: memoryview | None = None
    numbers: list[tuple[int, memoryview | int]] = field(default_factory=list)
    external: dict[str, str] = field(default_factory=dict)
    is_external: bool = False


def read(data: memoryview, path: Path) -> Contents:
    """The initializers and constants by name; `about` tells producer, opsets, inputs, outputs and metadata.

    Raises `CheckpointError`: `file.missing-shard` with every external file that is missing, `file.outside` for one
    that is not in the model's folder, `file.unsupported` for dtypes below 8 bits.
    """
    expected = protobuf.claimed(data)
    cut = Cut(len(data), expected, exact=False) if expected > len(data) else None
    about: dict[str, Any] = {"opsets": {}, "metadata": {}, "inputs": [], "outputs": []}
    tensors: list[_Tensor] = []
    for number, wire, value in fields(data, cut=cut is not None):
        if number == 7 and wire == BYTES:
            tensors += _graph(view(value), about, cut is not None)
        elif number in (2, 3):
            about["producer" if number == 2 else "producer_version"] = text(value)
        elif number == 1:
            about["ir_version"] = integer(value)
        elif number == 8:
            domain, version = _opset(view(value))
            about["opsets"][domain] = version
        elif number == 14:
            name, entry = _pair(view(value))
            about["metadata"][name] = entry
    arrays = _arrays(tensors, path)
    return Contents("onnx", arrays, about=about, cut=cut)


def _graph(graph: memoryview, about: dict[str, Any], cut: bool) -> list[_Tensor]:
    """The initializers, and the constants where there is nothing else or an operator learnt one of them.

    Some exporters keep their weights in Constant nodes, and then all of them. Others keep only shapes, prior boxes
    and scales there: those were never learnt.
    """
    tensors: list[_Tensor] = []
    constants: list[_Tensor] = []
    learnt: set[str] = set()
    sparse = 0
    for number, wire, value in fields(graph, cut=cut):
        if number == 1 and wire == BYTES:
            node = view(value)
            if not cut or protobuf.claimed(node) <= len(node):
                constants += _node(node, learnt)
        elif number == 5:
            tensor = view(value)
            # Only the very last tensor can be the one that the file's end cuts.
            if not cut or protobuf.claimed(tensor) <= len(tensor):
                tensors.append(_tensor(tensor))
        elif number == 2 and wire == BYTES:
            about["graph"] = text(value)
        elif number in (11, 12):
            about["inputs" if number == 11 else "outputs"].append(_first_text(view(value)))
        elif number == 15:
            sparse += 1
    if sparse:
        raise unsupported(f"{sparse} initializers of the graph are sparse", fix="export the model with dense weights")
    if not tensors or any(constant.name in learnt for constant in constants):
        tensors += constants
    return tensors


def _node(node: memoryview, learnt: set[str]) -> list[_Tensor]:
    """The tensor of a Constant node by the name of its output; another operator adds what it learnt to `learnt`.

    A constant may be given in other ways than as a tensor, but only as single numbers, texts and lists of them.
    """
    inputs, outputs, kind, attributes = [], [], "", []
    for number, wire, value in fields(node):
        if number == 1 and wire == BYTES:
            inputs.append(text(value))
        elif number == 2 and wire == BYTES:
            outputs.append(text(value))
        elif number == 4 and wire == BYTES:
            kind = text(value)
        elif number == 5 and wire == BYTES:
            attributes.append(view(value))
    if kind in _LEARNT_FROM:
        learnt.update(inputs[_LEARNT_FROM[kind] :])
    if kind != "Constant" or len(outputs) != 1:
        return []
    found = [
        _tensor(view(value))
        for attribute in attributes
        for number, wire, value in fields(attribute)
        if number == 5 and wire == BYTES
    ]
    for tensor in found:
        tensor.name = outputs[0]
    return found


def _tensor(message: memoryview) -> _Tensor:
    tensor = _Tensor()
    for number, wire, value in fields(message):
        if number == 1:
            tensor.dims += [value] if isinstance(value, int) else protobuf.integers(value)
        elif number == 2:
            tensor.kind = integer(value)
        elif number in (4, 10):
            tensor.numbers.append((number, protobuf.floats(value, wire, 4 if number == 4 else 8)))
        elif number in (5, 7, 11):
            tensor.numbers.append((number, value))
        elif number == 8:
            tensor.name = text(value)
        elif number == 9:
            tensor.raw = view(value)
        elif number == 13:
            name, entry = _pair(view(value))
            tensor.external[name] = entry
        elif number == 14 and wire == VARINT:
            tensor.is_external = value == 1
    return tensor


def _arrays(tensors: list[_Tensor], path: Path) -> dict[str, LazyArray]:
    arrays: dict[str, LazyArray] = {}
    files: dict[str, memoryview] = {}
    missing: list[Finding] = []
    for tensor in tensors:
        if tensor.kind == _STRING:
            continue
        if tensor.kind not in _DTYPES:
            raise unsupported(
                f"{tensor.name!r} is of ONNX dtype {tensor.kind}, which is not read", names=(tensor.name,)
            )
        if tensor.name in arrays:
            raise damaged(f"the graph has two initializers of the name {tensor.name!r}")
        shape, dtype = checked_shape(tensor.dims), _DTYPES[tensor.kind]
        if not tensor.is_external:
            arrays[tensor.name] = _inner(tensor, shape, dtype)
            continue
        location = tensor.external.get("location", "")
        if location not in files:
            place = beside(path, location)
            if not place.is_file():
                if not any(finding.evidence["shard"] == location for finding in missing):
                    missing.append(_missing(path, location, tensor.name))
                continue
            files[location] = mapped(place)
        arrays[tensor.name] = _outer(tensor, shape, dtype, files[location], location)
    if missing:
        raise CheckpointError(missing)
    return arrays


def _missing(path: Path, location: str, name: str) -> Finding:
    message = f"{path.name} keeps {name!r} and others in {location}, which is not beside it"
    fix = f"put {location} into {str(path.parent)!r}"
    return Finding("file.missing-shard", "error", message, evidence={"shard": location}, fix=fix)


def _outer(
    tensor: _Tensor, shape: tuple[int, ...], dtype: np.dtype[Any], values: memoryview, location: str
) -> LazyArray:
    size = prod(shape) * dtype.itemsize
    offset = _count(tensor.external.get("offset", "0"), tensor.name)
    length = _count(tensor.external.get("length", str(size)), tensor.name)
    if length != size or offset + size > len(values):
        raise damaged(
            f"{tensor.name!r} {list(shape)} of {dtype} needs {size:,} bytes; "
            f"the model says {length:,} at {offset:,} of {location}, which has {len(values):,}"
        )
    return _of_bytes(values[offset : offset + size], shape, dtype)


def _count(digits: str, name: str) -> int:
    if not digits.isdigit() or len(digits) > 18:
        raise damaged(f"the place of {name!r} is given as {digits[:40]!r}")
    return int(digits)


def _inner(tensor: _Tensor, shape: tuple[int, ...], dtype: np.dtype[Any]) -> LazyArray:
    size = prod(shape) * dtype.itemsize
    if tensor.raw is not None:
        if len(tensor.raw) != size:
            raise damaged(
                f"{tensor.name!r} {list(shape)} of {dtype} needs {size:,} bytes, the model has {len(tensor.raw):,}"
            )
        return _of_bytes(tensor.raw, shape, dtype)
    have = sum(len(value) if isinstance(value, memoryview) else 8 for _, value in tensor.numbers)
    # A packed number has one byte at least, and there are two to a complex one.
    if prod(shape) > have:
        raise damaged(f"{tensor.name!r} {list(shape)} of {dtype} has {have:,} bytes of values in the model")
    return LazyArray(shape, dtype, lambda: _of_numbers(tensor, shape, dtype))


def _of_bytes(raw: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any]) -> LazyArray:
    def read_values() -> Array:
        return np.frombuffer(raw, dtype).reshape(shape) if len(raw) else np.empty(shape, dtype)

    return LazyArray(shape, dtype, read_values)


def _of_numbers(tensor: _Tensor, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    parts = [_numbers(number, value, dtype) for number, value in tensor.numbers]
    flat = np.concatenate(parts) if parts else np.empty(0, dtype)
    if flat.size != prod(shape):
        raise damaged(f"{tensor.name!r} {list(shape)} has {flat.size:,} values in the model")
    return flat.reshape(shape)


def _numbers(number: int, value: memoryview | int, dtype: np.dtype[Any]) -> Array:
    if number in (4, 10):
        raw = protobuf.view(value)
        if len(raw) % dtype.itemsize or dtype.kind not in "fc":
            raise damaged(f"a tensor of {dtype} is stored as {len(raw):,} bytes of floats")
        return np.frombuffer(raw, dtype)
    numbers = [signed(item) for item in protobuf.integers(value)]
    if number == 5 and dtype.itemsize <= 2 and dtype.kind not in "bui":
        # Halves and smaller are stored as the integer of the same bits.
        bits = np.array([item & (1 << 8 * dtype.itemsize) - 1 for item in numbers], f"<u{dtype.itemsize}")
        return bits.view(dtype)
    if dtype.kind not in "bui":
        raise damaged(f"a tensor of {dtype} is stored as integers")
    low, high = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    if number == 11:
        numbers = [item & 0xFFFF_FFFF_FFFF_FFFF for item in numbers]
    if any(not low <= item <= high for item in numbers):
        raise damaged(f"a tensor of {dtype} has values that it cannot hold")
    return np.array(numbers, dtype)


def _opset(message: memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for number, _, value in fields(message):
        if number == 1:
            domain = text(value)
        elif number == 2:
            version = signed(value)
    return domain, version


def _pair(message: memoryview) -> tuple[str, str]:
    parts = {number: text(value) for number, wire, value in fields(message) if wire == BYTES}
    return parts.get(1, ""), parts.get(2, "")


def _first_text(message: memoryview) -> str:
    return next((text(value) for number, wire, value in fields(message) if number == 1 and wire == BYTES), "")
