"""File side meets model side: a checked plan puts checkpoint tensors into a model, all or nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskgraft import links, store
from maskgraft.causes.conventions import anchor_faults
from maskgraft.class_surgery import CLASS_TENSORS, Synonyms
from maskgraft.class_surgery import with_classes as with_classes
from maskgraft.errors import CheckpointError, Finding, UsageError, worst_first
from maskgraft.families import Identified, identify, of_file
from maskgraft.fields import checked_fields
from maskgraft.files import LazyArray, open_checkpoint
from maskgraft.files.mapping import forget
from maskgraft.grafted import Grafted, Row
from maskgraft.init import initialise
from maskgraft.links import Link
from maskgraft.model import MaskRCNN
from maskgraft.spec import COMPONENTS, Arch, Spec, component


def load(
    path: str | Path,
    *,
    config: str | Path | None = None,
    numerics: Mapping[str, Any] | None = None,
    classes: Sequence[str] | str | None = None,
    synonyms: Synonyms | None = None,
    rows_from: Sequence[str | Path] = (),
    arch: Mapping[str, Any] | None = None,
    family: str | None = None,
    key: str | None = None,
) -> MaskRCNN:
    """Load any checkpoint into the one model, in evaluation mode, with the numbers of its home framework.

        model = mg.load("model_final.pkl")
        model = mg.load("model_final.pkl", config="config.yaml", numerics={"score_threshold": 0.5, "min_size": 480})
        model = mg.load("model_final.pkl", classes=["person", "forklift"])   # rows kept by name, new ones initialised
        model = mg.load("model_final.pkl", classes=["human"], synonyms={"human": "person"}, rows_from=["other.pkl"])
        model = mg.load("efficientnet-lite0.pth", classes=["coin"], arch={"neck_channels": 64})    # only a backbone

    `path` is a file of any family, or a folder that `mg.save` wrote. `numerics` overrides conventions by name. With
    `classes`, the class, box and mask rows of the classes that the file has are kept and others are initialised;
    everything else must fit; "coco-80" and "coco-91" name COCO's. `synonyms` says what a class may be called in a file,
    `rows_from` are further files of the same network, whose rows are taken for classes that the first lacks
    (`class_surgery.with_classes`). `arch` overrides shapes by name, where the file leaves them open: a file that holds
    only a backbone gets a new pyramid and new heads. `model.graft` tells what came from where. Raises `CheckpointError`
    with everything that stands in the way, and then changes nothing.
    """
    if store.is_saved(Path(path)):
        model = store.load(Path(path))
        if numerics:
            model = rebuilt(model, model.spec.with_numerics(numerics))
        return _for_classes(model, classes, synonyms, rows_from, family)
    known = identify(open_checkpoint(path, key=key), config=config, family_name=family)
    spec = known.spec
    if arch:
        spec = replace(spec, arch=replace(spec.arch, **checked_fields(Arch, arch, where="arch")))
    spec = spec.with_numerics(numerics) if numerics else spec
    return _for_classes(assemble(known, spec), classes, synonyms, rows_from, family)


def _for_classes(
    model: MaskRCNN,
    classes: Sequence[str] | str | None,
    synonyms: Synonyms | None,
    rows_from: Sequence[str | Path],
    family: str | None,
) -> MaskRCNN:
    if classes is None:
        if synonyms or rows_from:
            message = "synonyms and rows_from say where rows of classes come from, and no classes are given"
            raise UsageError(Finding("shape.classes", "error", message, fix="classes=[…]"))
        return model
    others = [load(path, family=family) for path in rows_from]
    return with_classes(model, classes, synonyms=synonyms, others=others)


def assemble(known: Identified, spec: Spec) -> MaskRCNN:
    """The model of `spec`, holding the tensors of an identified checkpoint.

    Components of which a backbone file has nothing are initialised. Raises `CheckpointError` listing every tensor that
    is missing, left over, or of another shape.
    """
    if known.family.whole and (faults := anchor_faults(spec)):
        raise CheckpointError([_located(finding, known) for finding in faults])
    with torch.device("meta"):
        model = MaskRCNN(spec)
    table = tuple(known.family.links(spec, known.era))
    new = set() if known.family.whole else set(COMPONENTS) - {component(link.ours) for link in table}
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {name: array.shape for name, array in known.tensors.items()}
    from_file = {name: shape for name, shape in ours.items() if component(name) not in new}
    findings = links.check(table, from_file, theirs)
    if any(finding.code != "names.unexpected" for finding in findings):
        raise CheckpointError([_located(finding, known) for finding in findings])
    if any(finding.code == "names.unexpected" for finding in findings):
        raise CheckpointError([_located(replace(finding, severity="error"), known) for finding in findings])
    state: dict[str, Tensor] = {}
    if new:
        fresh = MaskRCNN(spec)
        initialise(fresh, new)
        state |= {name: tensor for name, tensor in fresh.state_dict().items() if component(name) in new}
    for link in table:
        if link.theirs in known.tensors:
            state[link.ours] = as_tensor(link, known.tensors[link.theirs])
        else:  # only optional links can lack their source here
            state[link.ours] = torch.zeros(ours[link.ours], dtype=torch.int64)
    model.load_state_dict(state, strict=True, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_()
    model.graft = Grafted(
        path=known.tensors.path,
        family=known.family.name,
        era=known.era,
        prefix=known.prefix,
        moved={link.ours: link.theirs for link in table if link.theirs in known.tensors},
        rows=tuple(Row(name, index if known.family.whole else None) for index, name in enumerate(spec.classes)),
        dropped=(),
        ignored=known.ignored,
        findings=worst_first((*of_file(known, known.tensors), *known.findings)),
    )
    return model.eval()


def as_tensor(link: Link, array: LazyArray) -> Tensor:
    """The canonical tensor of a link: float32 (int64 for counters), contiguous, and writable.

    Halves and bfloat16 are widened, which is exact.
    """
    read = array.read()
    values = link.forward(read)
    kind = np.int64 if values.dtype.kind in "iu" else np.float32
    values = np.ascontiguousarray(values, dtype=kind).reshape(values.shape)
    values = values if values.flags.writeable else values.copy()
    forget(read)
    return torch.from_numpy(values)


def _located(finding: Finding, known: Identified) -> Finding:
    where = f"{known.tensors.path} ({known.family.title}): "
    return replace(
        finding, message=where + finding.message, fix=finding.fix or f"maskgraft diagnose {known.tensors.path}"
    )


def rebuilt(model: MaskRCNN, spec: Spec) -> MaskRCNN:
    """The same weights under another spec of the same shapes."""
    with torch.device("meta"):
        fresh = MaskRCNN(spec)
    fresh.load_state_dict(model.state_dict(), strict=True, assign=True)
    for parameter in fresh.parameters():
        parameter.requires_grad_()
    fresh.graft = model.graft
    return fresh.train(model.training)


def moved_parameters(model: MaskRCNN) -> dict[str, tuple[int, int]]:
    """Per component: how many of its numbers came from the file, and how many it has."""
    counts: dict[str, tuple[int, int]] = {}
    moved = model.graft.moved if model.graft else {}
    for name, tensor in model.state_dict().items():
        part = component(name)
        have, of = counts.get(part, (0, 0))
        size = tensor.numel()
        if name in moved and model.graft and name in CLASS_TENSORS:
            rows = model.graft.rows
            size = int(size * sum(row.source is not None for row in rows) / max(len(rows), 1))
        counts[part] = (have + (size if name in moved else 0), of + tensor.numel())
    return counts
