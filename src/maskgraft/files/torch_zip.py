"""PyTorch's zip archives: `torch.save`, TorchScript and `torch.export`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np

from maskgraft.errors import CheckpointError
from maskgraft.files import pickles, zips
from maskgraft.files.contents import Contents
from maskgraft.files.cuts import Cut
from maskgraft.files.faults import damaged, unsupported
from maskgraft.files.json_text import parsed_object
from maskgraft.files.leaves import is_leaf
from maskgraft.files.pickled_trees import children
from maskgraft.files.stubs import Stub
from maskgraft.files.torch_legacy import KNOWN, storage_identity
from maskgraft.files.torch_tensors import DTYPES, TorchStorage, strided
from maskgraft.files.zips import Member

# torch.export numbers its dtypes in its schema (torch/_export/serde/schema.py, ScalarType).
_EXPORTED: Mapping[int, str] = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16", 29: "float8_e4m3fn", 30: "float8_e5m2",
    31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu", 34: "uint32", 35: "uint64",
}  # fmt: skip


def is_torch_zip(data: memoryview) -> bool:
    """Whether the bytes are an archive of PyTorch, whole or cut."""
    if not zips.is_zip(data):
        return False
    if not zips.is_whole(data):
        first = next(zips.scan(data, lambda _name, _start: 0), ("", 0))[0]
        return first.endswith("/data.pkl") or "/data/" in first
    names = zips.members(data)
    return any(_root_of(names, last) is not None for last in ("data.pkl", _CONFIG, _OLD_EXPORT))


_SMALL = 1 << 24
_CONFIG = "data/weights/model_weights_config.json"
_OLD_EXPORT = "serialized_state_dict.pt"


def read(data: memoryview) -> Contents:
    """The object in an archive; storages stay in the file.

    A file that ends too early gives what its header tells, with `cut` set.
    """
    if not zips.is_whole(data):
        return _read_cut(data)
    table = zips.members(data)
    root = _root_of(table, _CONFIG)
    if root is not None:
        return _read_export(data, table, root)
    root = _root_of(table, _OLD_EXPORT)
    if root is not None:
        inner = read(zips.read(data, table[root + _OLD_EXPORT]))
        return Contents("torch-export", inner.value, inner.names, inner.about, inner.cut)
    root = _root_of(table, "data.pkl")
    if root is None:
        raise damaged("the archive has no data.pkl")
    archive = _Archive(data, table, root, _byte_order(data, table, root))
    tree = archive.unpickled("data.pkl", "data/")
    script = isinstance(tree.value, Stub) and root + "constants.pkl" in table
    value, names = tree.value, dict(tree.names)
    if script and not _has_tensors(value):
        constants = archive.unpickled("constants.pkl", "constants/")
        value, names = {"constants": _numbered(constants.value)}, {**names, **constants.names}
    names = {name: called for name, called in names.items() if not name[0].startswith("__torch__")}
    return Contents("torchscript" if script else "pytorch-zip", value, names)


def _root_of(names: Mapping[str, Any], last: str) -> str | None:
    roots = [name.removesuffix(last) for name in names if name == last or name.endswith("/" + last)]
    return min(roots, key=len) if roots else None


def _byte_order(data: memoryview, table: Mapping[str, Member], root: str) -> Literal["<", ">"]:
    member = table.get(root + "byteorder")
    return ">" if member is not None and member.size < 16 and bytes(zips.read(data, member)) == b"big" else "<"


@dataclass(frozen=True, slots=True)
class _Archive:
    data: memoryview
    table: Mapping[str, Member]
    root: str
    order: Literal["<", ">"]

    def unpickled(self, name: str, folder: str) -> pickles.Pickle:
        member = self.table.get(self.root + name)
        if member is None:
            raise damaged(f"the archive has no {name}")
        if member.size > max(_SMALL, 20 * member.packed):
            raise damaged(f"{member.name!r} claims {member.size:,} bytes unpacked from {member.packed:,}")
        storages: dict[str, TorchStorage] = {}

        def persistent(identity: Any) -> TorchStorage:
            key, dtype, location, count = storage_identity(identity)
            if key not in storages:
                storages[key] = self.storage(folder + key, dtype.newbyteorder(self.order), count, location)
            return storages[key]

        return pickles.load(zips.read(self.data, member), known=KNOWN, persistent=persistent)

    def storage(self, name: str, dtype: np.dtype[Any], count: int, location: str) -> TorchStorage:
        member = self.table.get(self.root + name)
        size = count * dtype.itemsize
        if member is None:
            raise damaged(f"the archive has no member {self.root + name!r} for a storage of {size:,} bytes")
        if member.size < size:
            raise damaged(
                f"the pickle claims {size:,} bytes for {member.name!r}, the archive has {member.size:,}",
                claimed=size,
                archive=member.size,
            )
        return TorchStorage(name, dtype, size, lambda: zips.read(self.data, member)[:size], lambda: True, location)


def _has_tensors(root: Any) -> bool:
    seen: set[int] = set()
    walk = [root]
    while walk:
        value = walk.pop()
        if is_leaf(value):
            return True
        if id(value) not in seen:
            seen.add(id(value))
            walk.extend(children(value))
    return False


def _numbered(value: Any) -> dict[str, Any]:
    return {str(place): item for place, item in enumerate(value)} if isinstance(value, list | tuple) else {}


def _read_export(data: memoryview, table: Mapping[str, Member], root: str) -> Contents:
    config = parsed_object(zips.read(data, table[root + _CONFIG]), "the archive's list of weights").get("config")
    if not isinstance(config, dict):
        raise damaged("the archive's list of weights has no entry 'config'")
    archive = _Archive(data, table, root, _byte_order(data, table, root))
    value: dict[str, Any] = {}
    names: dict[tuple[str, str], bool] = {}
    for name, entry in config.items():
        try:
            path = f"data/weights/{entry['path_name']}"
            if entry["use_pickle"]:
                inner = read(zips.read(data, table[root + path]))
                value[name] = inner.value
                names.update(inner.names)
                continue
            meta = entry["tensor_meta"]
            shape = tuple(size["as_int"] for size in meta["sizes"])
            stride = tuple(step["as_int"] for step in meta["strides"])
            offset = meta["storage_offset"]["as_int"]
            kind = _EXPORTED.get(meta["dtype"])
        except (KeyError, TypeError):
            raise damaged(f"the archive's entry for {name!r} is not torch.export's") from None
        if kind is None:
            raise unsupported(f"{name!r} is of torch.export's dtype {meta['dtype']}, which is not read", names=(name,))
        dtype = DTYPES[kind]
        member = table.get(root + path)
        size = member.size if member is not None else prod(shape) * dtype.itemsize
        value[name] = strided(archive.storage(path, dtype, size // dtype.itemsize, "cpu"), offset, shape, stride)
    return Contents("torch-export", value, names)


@dataclass(slots=True)
class _CutArchive:
    """An archive without a directory: what its pickle asks for, and where members were found."""

    data: memoryview
    tree: pickles.Pickle | None = None
    storages: dict[str, TorchStorage] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)

    def size_of(self, name: str, start: int) -> int:
        """The least size of a member; reads the pickle when it comes by, which says how large the storages are."""
        if name.endswith("/data.pkl") and self.tree is None:
            try:
                self.tree = pickles.load(self.data, at=start, known=KNOWN, persistent=self.persistent)
            except CheckpointError:
                return 0
            return self.tree.end - start
        storage = self.storages.get(name.partition("/data/")[2])
        return storage.nbytes if storage is not None else 0

    def persistent(self, identity: Any) -> TorchStorage:
        key, dtype, location, count = storage_identity(identity)
        if key not in self.storages:
            size = count * dtype.itemsize
            self.storages[key] = TorchStorage(
                key, dtype, size, self.fetching(key, size), self.holding(key, size), location
            )
        return self.storages[key]

    def holding(self, key: str, size: int) -> Callable[[], bool]:
        return lambda: key in self.starts and self.starts[key] + size <= len(self.data)

    def fetching(self, key: str, size: int) -> Callable[[], memoryview]:
        def fetch() -> memoryview:
            if not self.holding(key, size)():
                raise damaged(f"the file ends before the {size:,} bytes of storage {key!r}")
            return self.data[self.starts[key] : self.starts[key] + size]

        return fetch


def _read_cut(data: memoryview) -> Contents:
    archive = _CutArchive(data)
    for name, start in zips.scan(data, archive.size_of):
        archive.starts[name.partition("/data/")[2]] = start
    if archive.tree is None:
        return Contents("pytorch-zip", None, cut=Cut(len(data)))
    least = archive.tree.end + sum(storage.nbytes for storage in archive.storages.values())
    cut = Cut(len(data), max(least, len(data) + 1), exact=False)
    return Contents("pytorch-zip", archive.tree.value, archive.tree.names, cut=cut)
