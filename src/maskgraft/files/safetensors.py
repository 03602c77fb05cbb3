"""safetensors: a JSON header, then the values (https://github.com/huggingface/safetensors#format)."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from maskgraft.errors import CheckpointError, Finding
from maskgraft.files.cuts import Cut, salvaged, truncated
from maskgraft.files.faults import damaged, unsupported
from maskgraft.files.json_text import parsed_object
from maskgraft.files.pickled_arrays import checked_shape
from maskgraft.files.tensors import Array, LazyArray, Tensors

MAX_HEADER = 100_000_000

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def is_safetensors(data: memoryview, path: Path | None = None) -> bool:
    """Whether the bytes begin with a header size that can be, and an opening brace."""
    size = int.from_bytes(data[:8], "little")
    return 2 <= size <= MAX_HEADER and bytes(data[8:9]) == b"{"


def read(data: memoryview, path: Path, key: str | None = None, salvage: bool = False) -> Tensors:
    """The tensors as views of the file; `about` is the header's `__metadata__`.

    Raises `CheckpointError`: `file.truncated` (unless `salvage`), `file.damaged` where the header is not what the
    format asks for (offsets that overlap, leave holes or disagree with shapes), `file.unsupported` for dtypes below
    8 bits, `file.no-key` for any `key` but "".
    """
    if key:
        raise no_key(path, key)
    size = int.from_bytes(data[:8], "little")
    if 8 + size > len(data):
        cut = Cut(len(data), 8 + size, exact=False)
        raise CheckpointError(truncated(path, cut, (), 0))
    entries, metadata = _header(data[8 : 8 + size])
    values = data[8 + size :]
    arrays = {entry.name: _lazy(path, values, entry) for entry in entries if entry.end <= len(values)}
    findings: tuple[Finding, ...] = ()
    end = max((entry.end for entry in entries), default=0)
    if end > len(values):
        cut = Cut(len(data), 8 + size + end)
        if not salvage or not arrays:
            raise CheckpointError(truncated(path, cut, tuple(arrays), len(entries)))
        missing = [entry.name for entry in entries if entry.name not in arrays]
        findings = (salvaged(path, cut, len(arrays), missing),)
    elif end < len(values):
        raise damaged(f"{len(values) - end:,} bytes after the last tensor belong to none", left=len(values) - end)
    if not arrays:
        raise CheckpointError(Finding("file.no-weights", "error", f"{path.name} is a safetensors file of no tensors"))
    return Tensors(path, "safetensors", arrays, metadata, findings=findings)


def no_key(path: Path, key: str) -> CheckpointError:
    """`file.no-key` for a format that has no entries above its tensors."""
    message = f"{path.name} holds one set of tensors and nothing under {key!r}"
    return CheckpointError(Finding("file.no-key", "error", message, evidence={"asked": key}, fix="leave key away"))


def _header(text: memoryview) -> tuple[list[_Entry], dict[str, Any]]:
    header = parsed_object(text, "the header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise damaged("the header's __metadata__ is no JSON object")
    entries = sorted(
        (_entry(name, entry) for name, entry in header.items()), key=lambda entry: (entry.begin, entry.end)
    )
    at = 0
    for entry in entries:
        if entry.begin != at:
            kind = (
                "overlaps the one before" if entry.begin < at else f"leaves {entry.begin - at:,} bytes unused before it"
            )
            raise damaged(f"{entry.name!r} at {entry.begin:,} {kind}")
        at = entry.end
    by_name = {entry.name: entry for entry in entries}
    return [by_name[name] for name in header], metadata


def _entry(name: str, entry: Any) -> _Entry:
    if not isinstance(entry, dict):
        raise damaged(f"the header's entry for {name!r} is no JSON object")
    kind, offsets = entry.get("dtype"), entry.get("data_offsets")
    shape = checked_shape(entry.get("shape"))
    if not isinstance(kind, str) or kind not in DTYPES:
        raise unsupported(f"{name!r} is of dtype {str(kind)[:40]!r}, which is not read", names=(name,))
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(isinstance(offset, int) for offset in offsets):
        raise damaged(f"the header gives {name!r} no place")
    begin, end = offsets
    size = prod(shape) * DTYPES[kind].itemsize
    if not 0 <= begin <= end or end - begin != size:
        raise damaged(f"the header gives {name!r} {kind} {list(shape)} {end - begin:,} bytes; it needs {size:,}")
    return _Entry(name, DTYPES[kind], shape, begin, end)


def _lazy(path: Path, values: memoryview, entry: _Entry) -> LazyArray:
    def read() -> Array:
        if entry.begin == entry.end:
            return np.empty(entry.shape, entry.dtype)
        count = (entry.end - entry.begin) // entry.dtype.itemsize
        return np.frombuffer(values, entry.dtype, count, entry.begin).reshape(entry.shape)

    return LazyArray(entry.shape, entry.dtype, read)
