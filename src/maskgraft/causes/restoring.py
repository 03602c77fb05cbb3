"""What the TF Object Detection API itself would restore from a checkpoint, and why a pipeline.config does not fit it.

`fine_tune_checkpoint_type`: research/object_detection `meta_architectures/faster_rcnn_meta_arch.py`, `restore_map` and
`restore_from_objects`: for a Mask R-CNN "detection" restores the two feature extractors and nothing else,
"classification" what an ImageNet checkpoint has of the first, "full" (TensorFlow 2) everything.
"""

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from maskgraft.errors import Finding
from maskgraft.families.configs import setting
from maskgraft.files import LazyArray, Tensors

_EXTRACTORS = ("FirstStageFeatureExtractor/", "SecondStageFeatureExtractor/", "model/_feature_extractor")
_TYPES = ("classification", "detection", "full", "fine_tune")


def restored(tensors: Mapping[str, LazyArray], *, era: str) -> dict[str, float]:
    """Share of the parameters, 0..1, that each `fine_tune_checkpoint_type` restores; `era` is "TF1" or "TF2"."""
    whole = sum(prod(array.shape) for array in tensors.values()) or 1
    extractors = sum(prod(array.shape) for name, array in tensors.items() if name.startswith(_EXTRACTORS))
    shares = {"classification": 0.0, "detection": extractors / whole}
    return {**shares, "full": 1.0} if era == "TF2" else {**shares, "detection, load_all_detection_checkpoint_vars": 1.0}


def pipeline_faults(tensors: Tensors, config: Mapping[str, Any], path: Path) -> Iterator[Finding]:
    """Where a pipeline.config, as what a checkpoint is to be loaded into, stands against it."""
    era = _era(tensors)
    said_era = _config_era(config)
    if era and said_era and era != said_era:
        yield Finding(
            "config.era",
            "error",
            f"{tensors.path.name} is a {era} checkpoint, {path.name} a {said_era} config",
            evidence={"file": era, "config": said_era},
            effect="the home framework would restore nothing: no variable has the same name",
            fix=f"take the {era} config of the same model, or convert: maskgraft convert {tensors.path} --to …",
        )
    yield from _paths(tensors, config, path)
    yield from _types(tensors, config, era, path)


def _era(tensors: Tensors) -> str:
    if any(name.startswith(_EXTRACTORS[:2]) or name.startswith("FeatureExtractor/") for name in tensors):
        return "TF1"
    return "TF2" if any(name.startswith("model/_") for name in tensors) else ""


def _config_era(config: Mapping[str, Any]) -> str:
    for kind in ("faster_rcnn", "ssd"):
        said = setting(config, f"model.{kind}.feature_extractor.type")
        if isinstance(said, str):
            return "TF2" if said.endswith("_keras") else "TF1"
    return ""


def _paths(tensors: Tensors, config: Mapping[str, Any], path: Path) -> Iterator[Finding]:
    said = setting(config, "train_config.fine_tune_checkpoint")
    if not isinstance(said, str) or not said:
        return
    last = said.replace("\\", "/").rpartition("/")[2]
    folder = said[: len(said) - len(last)]
    fault, prefix, severity = "", last, "error"
    for ending in (".index", ".meta"):
        if last.endswith(ending):
            fault, prefix = f"ends in {ending}", last.removesuffix(ending)
    if ".data-" in last:
        fault, prefix = "names the file of values", last.split(".data-")[0]
    if not last:
        fault, prefix = "names a folder", "model.ckpt"
    if "PATH_TO_BE_CONFIGURED" in said:
        fault, severity = "is still the sample's placeholder", "warning"
        folder, prefix = f"{tensors.path.parent}/", tensors.path.name.removesuffix(".index")
    if fault:
        yield Finding(
            "config.path",
            severity,  # type: ignore[arg-type]
            f"{path.name}: fine_tune_checkpoint {said!r} {fault}; TensorFlow wants the prefix of its files",
            evidence={"fine_tune_checkpoint": said},
            effect="training stops with “not found”, or starts from nothing",
            fix=f'fine_tune_checkpoint: "{folder}{prefix}"',
        )


def _types(tensors: Tensors, config: Mapping[str, Any], era: str, path: Path) -> Iterator[Finding]:
    if not era:
        return
    kind = setting(config, "train_config.fine_tune_checkpoint_type")
    shares = restored(tensors, era=era)
    if setting(config, "train_config.load_all_detection_checkpoint_vars") is True and kind in (None, "detection"):
        kind = "detection, load_all_detection_checkpoint_vars"
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    best = "full" if era == "TF2" else "detection"
    extra = "" if era == "TF2" else "\nload_all_detection_checkpoint_vars: true"
    if kind is None or kind == "":
        if setting(config, "train_config") is None:
            return
        share, severity = shares["classification"] if era == "TF2" else shares["detection"], "warning"
        message = f"{path.name} has no fine_tune_checkpoint_type"
    elif kind not in shares:
        share, severity = 0.0, "error"
        message = f"{path.name}: fine_tune_checkpoint_type {kind!r} is none of {era}'s for a Mask R-CNN"
    else:
        share, severity = shares[kind], "info" if shares[kind] == 1 else "warning"
        message = f"{path.name}: fine_tune_checkpoint_type {kind!r} restores {share:.0%} of the parameters"
    yield Finding(
        "config.fine-tune-type",
        severity,  # type: ignore[arg-type]
        f"{message} (of {tensors.path.name}: {told})",
        names=("fine_tune_checkpoint_type",),
        evidence={"type": kind, "restored": {name: round(one, 4) for name, one in shares.items()}},
        effect="" if share == 1 else "RPN, box and mask heads start from nothing, whatever the log says",
        fix="" if share == 1 else f'fine_tune_checkpoint_type: "{best}"{extra}',
    )
