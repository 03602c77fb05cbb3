"""The folder that `mg.save` writes, as far as it can be read without torch: whether it is one, and its spec."""

import json
from pathlib import Path

from maskgraft.errors import CheckpointError, Finding, MaskgraftError
from maskgraft.spec import Spec

WEIGHTS, SPEC = "model.safetensors", "spec.json"


def is_saved(path: Path) -> bool:
    """Whether `path` is a folder that `save` wrote."""
    return (path / SPEC).is_file()


def read_spec(folder: Path) -> Spec:
    """The spec of what `save` wrote, without its weights. Raises `CheckpointError` when it cannot be read."""
    try:
        return Spec.from_json(json.loads((folder / SPEC).read_text())["spec"])
    except (OSError, ValueError, KeyError, TypeError, MaskgraftError) as error:
        fault = f"{folder / SPEC} is not what maskgraft saves: {error}"
        raise CheckpointError(Finding("file.unknown-format", "error", fault)) from None
