"""maskgraft's own form of a model: a folder of `model.safetensors` and `spec.json`, bit for bit."""

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import maskgraft
from maskgraft.errors import CheckpointError, Finding, UsageError
from maskgraft.files.writing import sync_folder
from maskgraft.grafted import Grafted, Row
from maskgraft.model import MaskRCNN
from maskgraft.saved import SPEC as SPEC
from maskgraft.saved import WEIGHTS as WEIGHTS
from maskgraft.saved import is_saved as is_saved
from maskgraft.saved import read_spec as read_spec


def save(
    model: MaskRCNN,
    folder: str | Path,
    *,
    about: dict[str, Any] | None = None,
    beside: Callable[[Path], None] | None = None,
) -> Path:
    """Write a model into a folder that `mg.load` reads back bit for bit.

    The folder appears whole or not at all; a folder of an earlier `save` is replaced. `about` is any JSON that should
    travel with the weights (metrics, provenance). `beside` writes further files into the new folder before it appears.
    Raises `UsageError` when `folder` holds something else, and `OSError` when it cannot be written.
    """
    target = Path(folder)
    if target.exists() and not (target.is_dir() and (is_saved(target) or not any(target.iterdir()))):
        fault = f"{target} exists and is no folder that maskgraft saved"
        raise UsageError(Finding("file.exists", "error", fault, fix="choose another folder, or remove it first"))
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = target.with_name(f".{target.name}.{secrets.token_hex(4)}"), _old(target)
    try:
        fresh.mkdir()
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        try:
            save_file(state, fresh / WEIGHTS)
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(f"{target} cannot be written: {error}") from error
        header = {"format": 1, "maskgraft": maskgraft.__version__, "about": about or {}, "spec": model.spec.as_json()}
        (fresh / SPEC).write_text(json.dumps(header, indent=1))
        if beside is not None:
            beside(fresh)
        for path in fresh.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        try:
            fresh.rename(target)
        except OSError:
            recover(target)
            raise
        sync_folder(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def recover(folder: Path) -> None:
    """Put `folder` in order when a process was killed while it saved there: the model of before is back in its place.

    What the killed process had begun to write beside it is removed. Without such remains nothing happens.
    """
    if not folder.exists() and _old(folder).exists():
        _old(folder).rename(folder)
    for remains in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(remains, ignore_errors=True)


def _old(folder: Path) -> Path:
    """Where the model of before waits while a new one takes its place."""
    return folder.with_name(f".{folder.name}.old")


def load(folder: Path) -> MaskRCNN:
    """Read back what `save` wrote. Raises `CheckpointError` when a file is missing or does not fit its spec."""
    spec = read_spec(folder)
    with torch.device("meta"):
        model = MaskRCNN(spec)
    try:
        state = load_file(folder / WEIGHTS)
        model.load_state_dict(state, strict=True, assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        fault = f"{folder / WEIGHTS} does not hold the model of its {SPEC}: {error}"
        raise CheckpointError(Finding("file.truncated", "error", fault, fix="copy the folder again")) from None
    for parameter in model.parameters():
        parameter.requires_grad_()
    model.graft = Grafted(
        path=folder,
        family=spec.family,
        era="",
        prefix="",
        moved={name: name for name in state},
        rows=tuple(Row(name, index) for index, name in enumerate(spec.classes)),
        dropped=(),
        ignored={},
        findings=(),
    )
    return model.eval()
