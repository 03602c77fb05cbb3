"""Checkpoints in several files with an index: `model.safetensors.index.json`, `pytorch_model.bin.index.json`."""

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
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise damaged("the index's weight_map does not say which file holds which tensor")
    shards, faults = _opened(path, sorted(set(places.values())), open_shard)
    for name, shard in places.items():
        if shard in shards and name not in shards[shard]:
            faults.append(
                Finding(
                    "file.damaged",
                    "error",
                    f"{path.name} says that {name!r} is in {shard}, which lacks it",
                    names=(name,),
                )
            )
    arrays: dict[str, LazyArray] = {
        name: shards[shard][name] for name, shard in places.items() if shard in shards and name in shards[shard]
    }
    if faults and not (salvage and arrays):
        raise CheckpointError(faults)
    about: dict[str, Any] = {"metadata": index.get("metadata", {})}
    forms = {tensors.format for tensors in shards.values()}
    told = tuple(finding for tensors in shards.values() for finding in tensors.findings)
    softened = tuple(
        Finding(fault.code, "warning", fault.message, fault.names, fault.evidence, fault.effect, fault.fix)
        for fault in faults
    )
    return Tensors(path, f"sharded-{'+'.join(sorted(forms))}", arrays, about, findings=softened + told)


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
