"""A checkpoint in another home framework's names, layouts and container, and what that framework will do otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from maskgraft.errors import CheckpointError, Finding, UsageError, worst_first
from maskgraft.families import Identified, configs, family, identify, unwrapped
from maskgraft.families.family import Family
from maskgraft.families.homes import HOMES, Home
from maskgraft.families.pipeline_config import label_map_of
from maskgraft.files import LazyArray, Tensors, open_checkpoint
from maskgraft.files.containers import CONTAINERS
from maskgraft.files.writing import atomic
from maskgraft.links import check
from maskgraft.restating import Arrays
from maskgraft.saved import WEIGHTS, is_saved, read_spec
from maskgraft.spec import Spec
from maskgraft.translation import canonical_dtype, translate


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was written, and what is to know of it.

    `files` are the files. `spec` is the model as its new home runs it. `settings` are those that the home framework
    must be given where no file tells it, by the names that it has for them, and `numerics` the same for `mg.load`.
    `findings` tell what was folded into the weights, and what the home framework does otherwise.
    """

    files: tuple[Path, ...]
    family: str
    spec: Spec
    settings: Mapping[str, Any] = field(default_factory=dict)
    numerics: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The conversion as plain JSON types; the keys are stable."""
        return {
            "files": [str(path) for path in self.files],
            "family": self.family,
            "settings": dict(self.settings),
            "numerics": dict(self.numerics),
            "findings": [finding.as_json() for finding in self.findings],
        }


class NotExpressible(CheckpointError):
    """The other family cannot express all of the model; nothing was written."""


def convert(
    src: str | Path,
    *,
    to: str,
    out: str | Path,
    accept: bool = False,
    overwrite: bool = False,
    config: str | Path | None = None,
    key: str | None = None,
) -> Conversion:
    """Write a checkpoint in the names, layouts and container of the family `to`.

        mg.convert("mask_rcnn_coco.h5", to="detectron2", out="out.pkl", accept=True)
        mg.convert("model.ckpt-22500.index", to="tf1_object_detection_api", out="copy.ckpt")
        mg.convert("run/best", to="torchvision", out="best.pth")       # a folder that mg.save wrote

    Into its own family a checkpoint keeps every tensor byte for byte. Into another, what both can say is restated:
    softmax pairs become one logit and the reverse, rows of the background come and go, channels, anchors and box
    coordinates change their order, norms and biases are folded. What the target's config can say is written
    beside `out`, or into it.

    Each convention that the target cannot express is a finding of severity "error"; unless `accept`ed, they are raised
    as `NotExpressible` and nothing is written. Raises `CheckpointError` for an architecture that the target does not
    have, `UsageError` for an existing file (unless `overwrite`) or an ending of `out` that it does not read.
    """
    there = family(to)
    if to not in HOMES:
        fault = f"{there.title} is only a backbone; a detector cannot become one"
        raise UsageError(Finding("family.unknown", "error", fault, fix=f"one of: {', '.join(HOMES)}"))
    home, place = HOMES[to], Path(out)
    container = _container(home, there, place)
    source, opened = _source(Path(src), config, key)
    if isinstance(source, Identified) and source.family is there:
        return _same(source, opened, place, container, config=config, overwrite=overwrite)
    if isinstance(source, Identified):
        spec, arrays, findings = _canonical(source)
    else:
        spec, findings = source, []
        arrays = {name: canonical_dtype(array.read()) for name, array in opened.items()}
    written = translate(spec, arrays, there, home)
    findings += written.findings
    if not accept and any(finding.severity == "error" for finding in written.findings):
        raise NotExpressible(findings)
    if accept:
        findings = [replace(one, severity="warning") if one.severity == "error" else one for one in findings]
    texts = {home.config: written.config, home.labels: written.labels}
    beside = {place.with_name(name): text.encode() for name, text in texts.items() if name}
    steps = {"global_step": np.array(0, np.int64)} if container == "bundle" else {}  # TF1's exporter asks for it
    files = _write(container, place, written.arrays | steps, written.about, beside, overwrite=overwrite)
    return Conversion(files, to, written.spec, written.settings, written.numerics, worst_first(findings))


def _container(home: Home, there: Family, place: Path) -> str:
    for name in home.containers:
        if place.suffix in CONTAINERS[name][2] or "" in CONTAINERS[name][2]:
            return name
    endings = [ending for name in home.containers for ending in CONTAINERS[name][2]]
    fault = f"{there.title} keeps its weights in {' or '.join(endings)}, not in {place.suffix or 'a file of no ending'}"
    raise UsageError(Finding("file.unknown-format", "error", fault, fix=f"--out {place.with_suffix(endings[0])}"))


def _write(
    container: str,
    place: Path,
    arrays: Arrays,
    about: Mapping[str, Any],
    beside: Mapping[Path, bytes],
    *,
    overwrite: bool,
) -> tuple[Path, ...]:
    """The weights, and before them what lies beside them; where they cannot be written, neither stays.

    Raises `UsageError` for a place that cannot be written to.
    """
    write, places, _ = CONTAINERS[container]
    files = (*places(place), *beside)
    _make_room(files, overwrite)
    fresh = [path for path in beside if not path.exists()]
    try:
        for path, content in beside.items():
            with atomic(path) as temporary:
                temporary.write_bytes(content)
        write(place, arrays, about)
    except OSError as error:
        for path in fresh:
            path.unlink(missing_ok=True)
        fault = f"{place} cannot be written: {error.strerror or error}"
        raise UsageError(Finding("config.path", "error", fault, fix="choose another --out")) from None
    return files


def _make_room(files: tuple[Path, ...], overwrite: bool) -> None:
    there = [path for path in files if path.exists()]
    if there and not overwrite:
        fault = f"{', '.join(map(str, there))} exists already"
        fix = "choose another name, or say overwrite=True (--overwrite)"
        raise UsageError(Finding("file.exists", "error", fault, fix=fix))
    try:
        files[0].parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fault = f"the folder {files[0].parent} cannot be made: {error.strerror}"
        raise UsageError(Finding("config.path", "error", fault, fix="choose another --out")) from None


def _source(src: Path, config: str | Path | None, key: str | None) -> tuple[Identified | Spec, Tensors]:
    if is_saved(src):
        return read_spec(src), open_checkpoint(src / WEIGHTS)
    opened = open_checkpoint(src, key=key)
    return identify(opened, config=config), opened


# ---- the same family ------------------------------------------------------------------------------------------------


def _same(
    known: Identified, opened: Tensors, out: Path, container: str, *, config: str | Path | None, overwrite: bool
) -> Conversion:
    """Every tensor of the file as it is, and its config; what of the training cannot go along is said."""
    findings = []
    plain = next(tensors for prefix, tensors in unwrapped(opened) if prefix == known.prefix)
    if not set(known.tensors) <= set(plain):  # read under the names of a checkpoint: a SavedModel
        plain = known.tensors
    arrays = {name: array.read() for name, array in plain.items()}
    left: dict[str, LazyArray] = dict(opened.slots)
    if container.startswith("bundle"):
        arrays |= {name: array.read() for name, array in opened.slots.items()}
        counters = {name: opened.about.get(name) for name in ("global_step", "save_counter")}
        arrays |= {name: np.array(count, np.int64) for name, count in counters.items() if count is not None}
        left = {}
    if left:
        message = f"{len(left):,} tensors of the optimizer are not written"
        findings.append(Finding("names.optimizer-slots", "info", message, names=tuple(left)[:20]))
    if known.prefix:
        message = f"the prefix {known.prefix!r} of every name is not written"
        findings.append(Finding("names.prefix", "info", message, evidence={"prefix": known.prefix}))
    entries = {name: value for name, value in opened.about.items() if name != "_metadata"}  # it hangs on a state dict
    about = {name: value for name, value in entries.items() if _is_plain(value)}
    lost = sorted(set(entries) - set(about)) if container.startswith(("torch", "pickle")) else []
    if lost:
        message = f"entries of the file that are no plain data are not written: {', '.join(lost)}"
        findings.append(Finding("names.unexpected", "info", message, names=tuple(lost)))
    beside = {
        place: path.read_bytes()
        for path, place in _companions(opened.path, known.family, config, out)
        if path.resolve() != place.resolve()
    }
    files = _write(container, out, arrays, about, beside, overwrite=overwrite)
    return Conversion(files, known.family.name, known.spec, findings=worst_first(findings))


def _companions(checkpoint: Path, there: Family, config: str | Path | None, out: Path) -> list[tuple[Path, Path]]:
    """The config of a checkpoint, and the label map that it names, each with its place beside `out`.

    A config that was given has the name there by which it is found.
    """
    found = Path(config) if config is not None else configs.find(checkpoint, there.configs)
    if found is None:
        return []
    endings = {Path(name).suffix: name for name in reversed(there.configs)}
    called = found.name if found.name in there.configs else endings.get(found.suffix, found.name)
    labels = label_map_of(found) if called == "pipeline.config" else None
    return [(found, out.with_name(called)), *([(labels, out.with_name(labels.name))] if labels is not None else [])]


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


# ---- another family -------------------------------------------------------------------------------------------------


def _canonical(known: Identified) -> tuple[Spec, Arrays, list[Finding]]:
    """The model in canonical names, and what its own reader said of it. Raises `CheckpointError` for one not whole."""
    if not known.family.whole:
        fault = f"{known.tensors.path} holds only a backbone ({known.family.title}), not a detector"
        raise CheckpointError(Finding("family.unknown", "error", fault))
    table = known.links
    theirs = {name: array.shape for name, array in known.tensors.items()}
    faults = check(table, {}, theirs)
    if faults:
        raise CheckpointError([replace(finding, severity="error") for finding in faults])
    arrays = {
        link.ours: canonical_dtype(link.forward(known.tensors[link.theirs].read()))
        for link in table
        if link.theirs in known.tensors
    }
    findings = list(known.findings)
    if known.ignored or known.tensors.slots:
        names = (*known.ignored, *known.tensors.slots)
        message = f"{len(names):,} tensors that are no part of the model are not written, such as {names[0]}"
        findings.append(Finding("names.unexpected", "info", message, names=names[:20]))
    return known.spec, arrays, findings
