"""Another list of classes: which row of which file each class keeps, and how new ones start."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor

from maskgraft.errors import Finding, UsageError, worst_first
from maskgraft.families.class_names import COCO_80, COCO_90
from maskgraft.grafted import Row
from maskgraft.model import MaskRCNN
from maskgraft.spec import Arch, Learned, component

# What a class may be called elsewhere: one name, or several.
Synonyms = Mapping[str, str | Sequence[str]]

# Tensors with one entry (or four) a class, and how a missing row starts (Mask R-CNN as in Detectron2's predictors).
CLASS_TENSORS = {
    "box_predictor.cls.weight": 0.01,
    "box_predictor.cls.bias": 0.0,
    "box_predictor.deltas.weight": 0.001,
    "box_predictor.deltas.bias": 0.0,
    "mask_predictor.logits.weight": 0.001,
    "mask_predictor.logits.bias": 0.0,
}

# COCO's classes by contiguous label, and by category id with a dead row for each id that COCO 2017 leaves out.
NAMED = {"coco-80": COCO_80, "coco-91": COCO_90}


def rows_per_class(name: str, arch: Arch) -> int:
    """How many rows of a tensor each class has: 4 of box deltas, else 1; 0 of a tensor that all classes share."""
    part = name.rpartition(".")[0]
    shared = {"box_predictor.deltas": arch.box_rows, "mask_predictor.logits": arch.mask_rows}
    if name not in CLASS_TENSORS or shared.get(part, "").startswith("agnostic"):
        return 0
    return 4 if part == "box_predictor.deltas" else 1


def with_classes(
    model: MaskRCNN,
    classes: Sequence[str] | str,
    *,
    synonyms: Synonyms | None = None,
    others: Sequence[MaskRCNN] = (),
) -> MaskRCNN:
    """The model for another list of classes: rows of shared names are kept, new ones initialised.

        grown = with_classes(model, ["person", "forklift"])
        grown = with_classes(model, "coco-80")                        # from the 90 rows of the other id space
        grown = with_classes(model, ["human"], synonyms={"human": ["person", "pedestrian"]})
        grown = with_classes(model, ["person", "forklift"], others=[warehouse])    # forklift's rows from there

    A class is looked for under its name and then its `synonyms`, in `model` and then in `others`: models of the same
    network, all of whose other tensors must be equal, since a row fits only the features that it was trained on.
    Class logits start from a normal of std 0.01, box and mask rows from 0.001, biases from 0 (Detectron2
    `FastRCNNOutputLayers`, `MaskRCNNConvUpsampleHead`). `graft.rows` of the result tells where each row comes from.

    Raises `UsageError` for repeated, empty or no names, synonyms of classes that are not asked for, and others that are
    not the same network.
    """
    names = _named(classes)
    _check(names, synonyms or {}, model, others)
    rows = tuple(_found(name, synonyms or {}, (model, *others)) for name in names)
    arch = replace(model.spec.arch, classes=len(names))
    learned = {**model.spec.learned, "classes": Learned("read", "given by the caller")}
    spec = replace(model.spec, arch=arch, classes=names, learned=learned)
    with torch.device("meta"):
        fresh = MaskRCNN(spec)
    state, wanted = dict(model.state_dict()), fresh.state_dict()
    states = {_path(one): one.state_dict() for one in others} | {None: model.state_dict()}
    old = len(model.spec.classes)
    for name, std in CLASS_TENSORS.items():
        source, shape, per_row = state[name], wanted[name].shape, rows_per_class(name, arch)
        if not per_row:
            continue
        blocks = (torch.zeros(shape) if std == 0 else torch.randn(shape) * std).to(source)
        blocks = blocks.view(-1, per_row, *shape[1:])
        for index, row in enumerate(rows):
            if row.source is not None:
                blocks[index] = _rows(states[row.path][name], per_row)[row.source]
        if source.shape[0] // per_row == old + 1:
            blocks[len(names)] = _rows(source, per_row)[old]  # the background's row
        state[name] = blocks.view(shape)
    fresh.load_state_dict(state, strict=True, assign=True)
    for parameter in fresh.parameters():
        parameter.requires_grad_()
    if model.graft:
        kept = {row.called or row.name for row in rows if row.source is not None and row.path is None}
        dropped = tuple(name for name in model.spec.classes if name not in kept)
        findings = worst_first((*model.graft.findings, *_nearly_the_same(rows, model.spec.classes)))
        fresh.graft = replace(model.graft, rows=rows, dropped=dropped, findings=findings)
    return fresh.train(model.training)


def _rows(tensor: Tensor, per_row: int) -> Tensor:
    return tensor.reshape(-1, per_row, *tensor.shape[1:])


def _path(model: MaskRCNN) -> Path | None:
    return model.graft.path if model.graft else None


def _named(classes: Sequence[str] | str) -> tuple[str, ...]:
    if not isinstance(classes, str):
        return tuple(classes)
    if classes in NAMED:
        return NAMED[classes]
    message = f"classes is the string {classes!r}, and no list that has a name ({', '.join(NAMED)})"
    raise UsageError(Finding("shape.classes", "error", message, fix=f"classes=[{classes!r}]"))


def _found(name: str, synonyms: Synonyms, models: Sequence[MaskRCNN]) -> Row:
    """The row of a class: under its own name wherever there is one, and then under a synonym."""
    also = synonyms.get(name, ())
    for called in (name, *([also] if isinstance(also, str) else also)):
        for index, model in enumerate(models):
            if called in model.spec.classes:
                path = _path(model) if index else None
                return Row(name, model.spec.classes.index(called), called if called != name else "", path)
    return Row(name, None)


def _check(names: Sequence[str], synonyms: Synonyms, model: MaskRCNN, others: Sequence[MaskRCNN]) -> None:
    findings = []
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        fault = f"class names are given twice: {', '.join(repeated)}" if repeated else "no class names are given"
        findings.append(Finding("shape.classes", "error", fault, names=tuple(repeated)))
    if strange := [name for name in synonyms if name not in names]:
        message = f"synonyms of {', '.join(strange[:5])}, which are not among the classes"
        findings.append(Finding("shape.classes", "error", message, tuple(strange), fix="new name → name in the file"))
    findings += [finding for other in others if (finding := _another_network(model, other))]
    paths = [_path(one) for one in others]
    if None in paths or len(set(paths)) < len(paths):
        message = "models that give rows must come from files, each from its own"
        findings.append(Finding("shape.classes", "error", message))
    if findings:
        raise UsageError(findings)


def _another_network(model: MaskRCNN, other: MaskRCNN) -> Finding | None:
    """Where two models differ in more than their class rows."""
    ours, theirs = model.state_dict(), other.state_dict()
    differing = {
        name
        for name in (ours.keys() | theirs.keys()) - CLASS_TENSORS.keys()
        if name not in ours or name not in theirs or not torch.equal(ours[name], theirs[name])
    }
    if not differing:
        return None
    parts = ", ".join(sorted({component(name) for name in differing}))
    return Finding(
        "family.mismatch",
        "error",
        f"{_path(other)} is another network than {_path(model)}: {len(differing)} tensors differ ({parts})",
        names=tuple(sorted(differing)[:20]),
        effect="its rows were trained on other features, and would tell nothing here",
        fix="take rows of files that were trained from the same weights with everything but the predictors frozen",
    )


def _nearly_the_same(rows: Sequence[Row], known: Sequence[str]) -> list[Finding]:
    there = {plain(name): name for name in known}
    new = [row.name for row in rows if row.source is None]
    near = {name: there[match[0]] for name in new if (match := get_close_matches(plain(name), there, 1, 0.8))}
    if not near:
        return []
    pairs = ", ".join(f"{name} (file: {match})" for name, match in near.items())
    return [
        Finding(
            "names.renamed",
            "warning",
            f"new classes are nearly called like classes of the file, and start from nothing: {pairs}",
            names=tuple(near),
            evidence={"nearest": near},
            effect="their rows must be learned again",
            fix=f"did you mean it? use the file's name, or synonyms={near}",
        )
    ]


def plain(name: str) -> str:
    """A class name without what spellings differ in: "Traffic_Light" and "traffic light" are one."""
    return "".join(one for one in name.casefold() if one.isalnum()) or name
