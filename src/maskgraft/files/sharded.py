"""Checkpoints in several files with an index: `model.safetensors.index.json`, `pytorch_model.bin.index.json`, and
Keras's `model.weights.json`, whose entries are groups of tensors, each in one or more of the files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskgraft.errors import CheckpointError, Finding
from maskgraft.files.faults import damaged
from maskgraft.files.json_text import parsed_object
from maskgraft.files.mapping import beside
from maskgraft.files.tensors import LazyArray, Tensors

_MAX_INDEX = 100_000_000


def is_index(data: memoryview) -> bool:
    """Whether the bytes are JSON with a `weight_map`."""
    head = bytes(data[: 1 << 16])
    return (
        head.lstrip()[:1] == b"{"
        and len(data) < _MAX_INDEX
        and (b'"weight_map"' in head or b'"weight_map"' in bytes(data))
    )


def read(data: memoryview, path: Path, *, salvage: bool, open_shard: Callable[[Path], Tensors]) -> Tensors:
    """All tensors of the shards that an index lists, in the index's order; shards stand beside the index.

    `open_shard` opens one. Raises `CheckpointError` with every shard that is missing (`file.missing-shard`), cut or
    damaged, unless `salvage`, which takes what the others have.
    """
    index = parsed_object(data, path.name)
    places = _places(index.get("weight_map"))
    shards, faults = _opened(path, sorted({shard for of_name in places.values() for shard in of_name}), open_shard)
    arrays: dict[str, LazyArray] = {}
    for name, of_name in places.items():
        for shard in of_name:
            if shard not in shards:
                continue
            held = _held(shards[shard], name)
            arrays |= held
            if not held:
                message = f"{path.name} says that {name!r} is in {shard}, which lacks it"
                faults.append(Finding("file.damaged", "error", message, names=(name,)))
    if faults and not (salvage and arrays):
        raise CheckpointError(faults)
    about: dict[str, Any] = {"metadata": index.get("metadata", {})}
    forms = {tensors.format for tensors in shards.values()}
    # what the names of one shard begin with is that of no other
    told = tuple(one for tensors in shards.values() for one in tensors.findings if one.code != "names.prefix")
    softened = tuple(
        Finding(fault.code, "warning", fault.message, fault.names, fault.evidence, fault.effect, fault.fix)
        for fault in faults
    )
    return Tensors(path, f"sharded-{'+'.join(sorted(forms))}", arrays, about, findings=softened + told)


def _places(weight_map: Any) -> dict[str, list[str]]:
    """The files of each entry of the index: one in Hugging Face's, a list in Keras's."""
    if not isinstance(weight_map, dict):
        raise damaged("the index's weight_map does not say which file holds which tensor")
    places = {name: [shards] if isinstance(shards, str) else shards for name, shards in weight_map.items()}
    if not all(isinstance(one, list) and all(isinstance(shard, str) for shard in one) for one in places.values()):
        raise damaged("the index's weight_map does not say which file holds which tensor")
    return places


def _held(shard: Tensors, name: str) -> dict[str, LazyArray]:
    """The tensor of a name, or what stands under it: Keras lists "/layers/dense/vars", which holds "…/0" and "…/1"."""
    if name in shard:
        return {name: shard[name]}
    group = name.strip("/") + "/"
    return {inner: array for inner, array in shard.items() if inner.startswith(group)}


def _opened(
    path: Path, names: list[str], open_shard: Callable[[Path], Tensors]
) -> tuple[dict[str, Tensors], list[Finding]]:
    shards: dict[str, Tensors] = {}
    faults: list[Finding] = []
    for name in names:
        try:
            place = beside(path, name)
            if not place.is_file():
                message = f"{path.name} needs {name}, which is not beside it"
                fix = f"put {name} into {str(path.parent)!r}"
                faults.append(Finding("file.missing-shard", "error", message, evidence={"shard": name}, fix=fix))
                continue
            shards[name] = open_shard(place)
        except CheckpointError as error:
            faults.extend(error.findings)
    return shards, faults
