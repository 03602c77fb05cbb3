"""PyTorch files before the zip: the stream that begins with a magic number, and the tar of 2016 and 2017."""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskgraft.errors import CheckpointError
from maskgraft.files import pickles
from maskgraft.files.contents import Contents
from maskgraft.files.cuts import Cut
from maskgraft.files.faults import damaged
from maskgraft.files.pickled_arrays import LatinText
from maskgraft.files.stubs import Stub
from maskgraft.files.torch_tensors import STORAGES, TORCH, TorchStorage, strided

_RECORD = 10_240
MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")


def is_stream(data: memoryview) -> bool:
    """Whether the bytes begin with the pickled magic number."""
    return bytes(data[:1]) == b"\x80" and MAGIC in bytes(data[:32])


def is_tar(data: memoryview) -> bool:
    """Whether the bytes begin as the tar that PyTorch wrote until 2017."""
    return bytes(data[257:262]) == b"ustar" and (b"sys_info" in bytes(data[:2048]) or b"storages" in bytes(data[:2048]))


@dataclass(slots=True)
class _Stream:
    """Where each storage of a stream begins; known only after the pickle that refers to them."""

    data: memoryview
    storages: dict[str, TorchStorage] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def persistent(self, identity: Any) -> Any:
        if not isinstance(identity, tuple) or len(identity) < 2:
            raise damaged("the pickle refers to something by an id that is not PyTorch's")
        if identity[0] == "module" and isinstance(identity[1], Stub):
            if len(identity) > 2 and isinstance(identity[2], str):
                self.sources[identity[1].qualified] = identity[2]
            return identity[1]
        key, dtype, location, count = storage_identity(identity)
        root = self.storages.setdefault(
            key,
            TorchStorage(
                key,
                dtype,
                count * dtype.itemsize,
                lambda: self.bytes_of(self.storages[key]),
                lambda: self.holds(self.storages[key]),
                location,
            ),
        )
        part = identity[5] if len(identity) > 5 else None
        if part is None:
            return root
        if not isinstance(part, tuple) or len(part) != 3 or not all(isinstance(number, int) for number in part[1:]):
            raise damaged(f"the storage {key!r} is part of another one in a way that is not PyTorch's")
        return _part_of(root, str(part[0]), part[1], part[2])

    def holds(self, storage: TorchStorage) -> bool:
        start = self.starts.get(storage.name)
        return start is not None and start + storage.nbytes <= len(self.data)

    def bytes_of(self, storage: TorchStorage) -> memoryview:
        start = self.starts.get(storage.name)
        if start is None or not self.holds(storage):
            raise damaged(f"the file ends before the {storage.nbytes:,} bytes of storage {storage.name!r}")
        return self.data[start : start + storage.nbytes]


def storage_identity(identity: Any) -> tuple[str, np.dtype[Any], str, int]:
    """Key, dtype, device and number of elements from ("storage", class, key, device, elements, …)."""
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
        raise damaged("the pickle refers to something by an id that is not PyTorch's")
    _, kind, key, location, count = identity[:5]
    if not isinstance(kind, Stub) or kind.name not in STORAGES:
        raise damaged(f"the pickle has a storage of a class {str(kind)[:80]} that PyTorch does not have")
    if not isinstance(count, int) or not 0 <= count < 1 << 56:
        raise damaged(f"the storage {str(key)[:40]!r} has a size that is no count of elements")
    return str(key), STORAGES[kind.name], str(location), count


def _part_of(root: TorchStorage, name: str, offset: int, count: int) -> TorchStorage:
    start, size = offset * root.dtype.itemsize, count * root.dtype.itemsize
    if offset < 0 or count < 0 or start + size > root.nbytes:
        raise damaged(f"the storage {name!r} is no part of storage {root.name!r}")
    return TorchStorage(name, root.dtype, size, lambda: root.fetch()[start : start + size], root.whole, root.location)


def read_stream(data: memoryview) -> Contents:
    """The object in a stream: magic number, version, system, object, storage keys, then the storages themselves.

    A file that ends too early gives what its header tells, with `cut` set.
    """
    stream = _Stream(data)
    try:
        at = pickles.load(data, at=pickles.load(data).end).end
        system = pickles.load(data, at=at)
        root = pickles.load(data, at=system.end, known=KNOWN, persistent=stream.persistent)
        keys = pickles.load(data, at=root.end)
    except CheckpointError as error:
        if any("left" in finding.evidence or "bytes" in finding.evidence for finding in error.findings):
            return Contents("pytorch-legacy", None, cut=Cut(len(data)))
        raise
    end = _place(stream, keys.value, keys.end)
    cut = None if end <= len(data) else Cut(len(data), end)
    about: dict[str, Any] = {"sources": stream.sources} if stream.sources else {}
    return Contents("pytorch-legacy", root.value, root.names, about, cut)


def _place(stream: _Stream, keys: Any, at: int) -> int:
    if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
        raise damaged("the list of storages in the file is no list of names")
    for key in map(str, keys):
        storage = stream.storages.get(key)
        if storage is None:
            raise damaged(f"the file lists a storage {key[:40]!r} that no tensor refers to")
        head = stream.data[at : at + 8]
        if len(head) == 8 and struct.unpack("<q", head)[0] * storage.dtype.itemsize != storage.nbytes:
            raise damaged(
                f"storage {key!r} begins with the size {struct.unpack('<q', head)[0]:,}, the pickle says "
                f"{storage.nbytes // storage.dtype.itemsize:,}"
            )
        stream.starts[key] = at + 8
        at += 8 + storage.nbytes
    missing = sorted(set(stream.storages) - stream.starts.keys())
    if missing:
        raise damaged(f"the pickle refers to storages {', '.join(missing[:5])} that the file does not list")
    return at


def _nested(raw: Any) -> Any:
    """A storage that was pickled on its own holds a whole stream in its bytes."""
    if isinstance(raw, LatinText):
        raw = raw.bytes()
    if not isinstance(raw, bytes | memoryview) or not is_stream(memoryview(raw)):
        raise TypeError("bytes that are no stream of PyTorch")
    contents = read_stream(memoryview(raw))
    if contents.cut is not None:
        raise damaged("a storage inside the pickle is cut")
    return contents.value


KNOWN: pickles.Known = {**pickles.KNOWN, **TORCH, ("torch.storage", "_load_from_bytes"): _nested}


def read_tar(data: memoryview) -> Contents:
    """The object in the tar of 2016 and 2017, whose pickle refers to a table of tensors, and they to storages."""
    parts, expected = _tar_members(data)
    # A tar ends with two empty blocks and is filled up to a whole number of records.
    whole = (expected + 511) // 512 * 512 + 1024
    cut = Cut(len(data), (whole + _RECORD - 1) // _RECORD * _RECORD) if expected > len(data) else None
    if not {"pickle", "tensors", "storages"} <= parts.keys():
        if cut is None:
            raise damaged(f"the tar holds {', '.join(parts) or 'nothing'} and not the pickle, tensors and storages")
        return Contents("pytorch-tar", None, cut=cut)
    storages = _tar_storages(parts["storages"], cut is not None)
    objects = _tar_tensors(parts["tensors"], storages)

    def persistent(identity: Any) -> Any:
        if isinstance(identity, tuple) and identity and isinstance(identity[0], Stub):
            return identity[0]
        if not isinstance(identity, str | int) or str(identity) not in objects:
            raise damaged("the pickle refers to a tensor that the file does not have")
        return objects[str(identity)]

    root = pickles.load(parts["pickle"], known=KNOWN, persistent=persistent)
    return Contents("pytorch-tar", root.value, root.names, cut=cut)


def _tar_members(data: memoryview) -> tuple[Mapping[str, memoryview], int]:
    found: dict[str, memoryview] = {}
    at, end = 0, 0
    while at + 512 <= len(data):
        header = bytes(data[at : at + 512])
        if not any(header):
            break
        digits = header[124:136].rstrip(b"\0 ")
        if header[257:262] != b"ustar" or digits.strip(b"01234567"):
            raise damaged(f"no member of the tar begins at byte {at:,}")
        size = int(digits or b"0", 8)
        name = header[:100].rstrip(b"\0").decode("utf-8", "replace")
        if header[156:157] in (b"0", b"\0"):
            found[name] = data[at + 512 : at + 512 + size]
        end = at + 512 + size
        at += 512 + (size + 511) // 512 * 512
    return found, end


def _tar_storages(data: memoryview, cut: bool) -> Mapping[str, TorchStorage]:
    storages: dict[str, TorchStorage] = {}
    count = pickles.load(data)
    at = count.end
    for _ in range(_count(count.value, len(data))):
        if cut and at >= len(data):
            break
        try:
            identity = pickles.load(data, at=at, known=KNOWN)
        except CheckpointError:
            if cut:
                break
            raise
        storage, at = _tar_storage(data, identity.value, identity.end, cut)
        storages[storage.name] = storage
    if not cut:
        _tar_parts(pickles.load(data, at=at).value, storages)
    return storages


def _tar_storage(data: memoryview, identity: Any, at: int, cut: bool) -> tuple[TorchStorage, int]:
    if not isinstance(identity, tuple) or len(identity) != 3:
        raise damaged("a storage in the tar has no key, device and class")
    key, location, kind = identity
    if len(data) - at < 8 and not cut:
        raise damaged(f"the storage {str(key)[:40]!r} in the tar has no size")
    count = int.from_bytes(data[at : at + 8], "little")
    name, dtype, where, _ = storage_identity(("storage", kind, key, location, count))
    start, size = at + 8, count * dtype.itemsize
    if start + size > len(data) and not cut:
        raise damaged(f"the storage {name!r} claims {size:,} bytes, the tar has {len(data) - start:,} left")
    raw = data[start : start + size]
    fetch = _view_of(raw, size, name)
    return TorchStorage(name, dtype, size, fetch, lambda: len(raw) == size, where), start + size


def _view_of(raw: memoryview, size: int, name: str) -> Callable[[], memoryview]:
    def fetch() -> memoryview:
        if len(raw) < size:
            raise damaged(f"the file ends after {len(raw):,} of {size:,} bytes of storage {name!r}")
        return raw

    return fetch


def _tar_parts(parts: Any, storages: dict[str, TorchStorage]) -> None:
    if not isinstance(parts, list):
        raise damaged("the tar's list of shared storages is no list")
    for part in parts:
        if not isinstance(part, tuple) or len(part) != 4 or str(part[1]) not in storages:
            raise damaged("a shared storage in the tar is part of none")
        target, root, offset, count = part
        if not isinstance(offset, int) or not isinstance(count, int):
            raise damaged("a shared storage in the tar has no place")
        storages[str(target)] = _part_of(storages[str(root)], str(target), offset, count)


def _tar_tensors(data: memoryview, storages: Mapping[str, TorchStorage]) -> Mapping[str, Any]:
    tensors: dict[str, Any] = {}
    count = pickles.load(data)
    at = count.end
    for _ in range(_count(count.value, len(data))):
        identity = pickles.load(data, at=at, known=KNOWN)
        at = identity.end
        if not isinstance(identity.value, tuple) or len(identity.value) != 3:
            raise damaged("a tensor in the tar has no key, storage and class")
        key, storage_key, kind = identity.value
        rank = int.from_bytes(data[at : at + 4], "little")
        if rank > 64 or at + 16 * rank + 16 > len(data):
            raise damaged(f"the tensor {str(key)[:40]!r} in the tar has no shape")
        numbers = struct.unpack(f"<{2 * rank + 1}q", data[at + 8 : at + 16 * rank + 16])
        at += 16 * rank + 16
        storage = storages.get(str(storage_key)) or _absent(str(storage_key), kind, numbers, rank)
        tensors[str(key)] = strided(storage, numbers[-1], tuple(numbers[:rank]), tuple(numbers[rank : 2 * rank]))
    return tensors


def _absent(name: str, kind: Any, numbers: tuple[int, ...], rank: int) -> TorchStorage:
    # A cut tar still has the table of tensors; a storage that is missing is as large as its tensor needs.
    stub_name = kind.name.replace("Tensor", "Storage") if isinstance(kind, Stub) else ""
    dtype = STORAGES.get(stub_name, np.dtype(np.float32))
    shape, stride = numbers[:rank], numbers[rank : 2 * rank]
    if any(size < 0 for size in numbers):
        raise damaged(f"the storage {name!r} in the tar has a tensor of no shape")
    last = numbers[-1] + sum((size - 1) * step for size, step in zip(shape, stride, strict=True) if size)
    return TorchStorage(name, dtype, (last + 1) * dtype.itemsize, _view_of(memoryview(b""), 1, name), lambda: False)


def _count(value: Any, limit: int) -> int:
    if not isinstance(value, int) or not 0 <= value <= limit:
        raise damaged("the tar begins with a number of entries that cannot be")
    return value
