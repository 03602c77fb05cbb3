"""Home frameworks: what a file is, told from its tensor names, and the exact links into the one model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from maskgraft.errors import CheckpointError, Finding, UsageError
from maskgraft.families import (
    caffe2_resnet,
    chainer,
    configs,
    detectron2,
    detectron_caffe2,
    efficientnet_lite,
    imagenet_resnet,
    keras_applications,
    maskrcnn_benchmark,
    matterport,
    mmdet,
    model_garden,
    other_detectors,
    other_networks,
    paddle,
    tensorpack,
    tf1_object_detection,
    tf2_object_detection,
    tf_extractors,
    torchvision,
)
from maskgraft.families.family import Config, Family
from maskgraft.files import LazyArray, Tensors
from maskgraft.links import Link
from maskgraft.spec import Spec

FAMILIES: tuple[Family, ...] = (
    torchvision.FAMILY,
    detectron2.FAMILY,
    maskrcnn_benchmark.FAMILY,
    detectron_caffe2.FAMILY,
    mmdet.FAMILY,
    matterport.FAMILY,
    tensorpack.FAMILY,
    chainer.FAMILY,
    paddle.FAMILY,
    tf1_object_detection.FAMILY,
    tf2_object_detection.FAMILY,
    model_garden.FAMILY,
    efficientnet_lite.FAMILY,
    imagenet_resnet.FAMILY,
    imagenet_resnet.DETECTRON2,
    caffe2_resnet.FAMILY,
    keras_applications.FAMILY,
    tf_extractors.FAMILY,
)

_MOST = 0.9  # of the names begin with a wrapper's prefix; what is left is the wrapper's own
# What training wrappers put before every name: DataParallel and DDP, Lightning and plain attributes, torch.compile.
WRAPPERS = ("module.", "_orig_mod.", "model.", "detector.", "net.", "student.", "ema.")
# What PyTorch puts between the parts of a name, where a part of a model was compiled, sharded or checkpointed.
INNER_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")

_ENOUGH = 0.5  # of a family's landmarks make a file one of it


@dataclass(frozen=True, slots=True)
class Identified:
    """A checkpoint whose family is known.

    `tensors` are those of the file under the family's own names: wrapper prefixes are taken off (`prefix`), and what
    is no part of the model is in `ignored`, name → reason.
    """

    family: Family
    era: str
    spec: Spec
    tensors: Tensors
    prefix: str
    ignored: Mapping[str, str]
    findings: tuple[Finding, ...]

    @property
    def links(self) -> tuple[Link, ...]:
        """One link a tensor."""
        return tuple(self.family.links(self.spec, self.era))


def of_file(known: Identified, tensors: Tensors) -> tuple[Finding, ...]:
    """What was found in the file itself, but for the prefix of a wrapper, which is told of the model."""
    return tuple(one for one in tensors.findings if one.code != "names.prefix" or not known.prefix)


def family(name: str) -> Family:
    """The family called `name`. Raises `CheckpointError` with the nearest name."""
    for one in FAMILIES:
        if one.name == name:
            return one
    known = [one.name for one in FAMILIES]
    near = get_close_matches(name, known, 1)
    message = f"there is no family {name!r}; known are {', '.join(known)}"
    raise CheckpointError(Finding("family.unknown", "error", message, fix=f"did you mean {near[0]}?" if near else ""))


def unwrapped(tensors: Tensors) -> Iterator[tuple[str, Tensors]]:
    """The tensors as they are, then with each wrapper prefix that all names share taken off: (prefix, tensors).

    A few that do not share a wrapper's prefix are its own, counters of an average or metrics, and are left out. What
    wraps a part of the model is taken out of every name.
    """
    prefix = ""
    yield prefix, _without_inner(tensors)
    while len(tensors):
        first = next((w for w in WRAPPERS if _wraps(w, tensors)), _shared_part(tensors))
        if not first:
            return
        prefix += first
        shorter: dict[str, LazyArray] = {
            name.removeprefix(first): array for name, array in tensors.items() if name.startswith(first)
        }
        tensors = replace(tensors, arrays=shorter)
        yield prefix, _without_inner(tensors)


def _without_inner(tensors: Tensors) -> Tensors:
    inside = [f".{wrapper}." for wrapper in INNER_WRAPPERS]
    if not any(part in name for name in tensors for part in inside):
        return tensors
    arrays = {}
    for name, array in tensors.items():
        for part in inside:
            name = name.replace(part, ".")
        arrays[name] = array
    return replace(tensors, arrays=arrays) if len(arrays) == len(tensors) else tensors


def _wraps(prefix: str, tensors: Tensors) -> bool:
    return sum(name.startswith(prefix) for name in tensors) >= max(1, _MOST * len(tensors))


def _shared_part(tensors: Tensors) -> str:
    """The first part of all names, with its separator, where they share one and something follows it in each."""
    name = next(iter(tensors))
    for mark in (".", "/"):
        first = name[: name.find(mark) + 1]
        if first and all(one.startswith(first) and len(one) > len(first) for one in tensors):
            return first
    return ""


def _misshapen(tensors: Tensors, found: Family, error: Exception) -> Finding:
    message = (
        f"{tensors.path}: recognised as {found.title}, but a shape in it, or a value of its config, is none that such "
        f"a model has ({error})"
    )
    return Finding("shape.other", "error", message, fix=f"maskgraft inspect {tensors.path} shows all shapes")


def recognise(tensors: Tensors, *, on_request: bool = False) -> list[tuple[float, Family, str, Tensors]]:
    """Likeness of the file to each family, best first: (0..1, family, prefix, tensors without it).

    A detector that a file has most landmarks of comes before the backbone that is in it, of which it may have all.
    `on_request`: to those too that are taken only by name.
    """
    candidates = [
        (family.likeness(plain.arrays), family, prefix, plain)
        for prefix, plain in unwrapped(tensors)
        for family in FAMILIES
        if on_request or not family.on_request
    ]
    return sorted(candidates, key=lambda one: (not (one[1].whole and one[0] >= _ENOUGH), -one[0]))


def identify(tensors: Tensors, *, config: str | Path | None = None, family_name: str | None = None) -> Identified:
    """Say what a checkpoint is.

    `config` is the file that states what the weights do not; without it the family's usual names are looked for beside
    the checkpoint. `family_name` skips the guess. Raises `CheckpointError` (`family.unknown`) for a file of no family,
    or one whose architecture maskgraft cannot build.
    """
    candidates = recognise(tensors, on_request=family_name is not None)
    if family_name is not None:
        wanted = family(family_name)
        candidates = [candidate for candidate in candidates if candidate[1] is wanted]
    likeness, found, prefix, plain = candidates[0]
    if likeness < _ENOUGH and family_name is None:
        other = other_network(tensors)
        raise CheckpointError(_another(tensors, other) if other else _unknown(tensors, likeness, found))
    path = Path(config) if config is not None else configs.find(tensors.path, found.configs)
    if path is not None and not path.is_file():
        raise CheckpointError(Finding("config.path", "error", f"there is no config file {path}", fix="check --config"))
    if path is not None and found.read_config is None:
        message = f"{found.title} has no config file, and {path} would not be looked at"
        fix = "leave the config out; numerics={…} sets conventions"
        raise CheckpointError(Finding("config.mismatch", "error", message, fix=fix))
    settings: Config | None = found.read_config(path) if path is not None and found.read_config is not None else None
    try:
        reading = found.read(plain, settings)
    except (IndexError, ValueError, ZeroDivisionError, UsageError) as error:  # axes that are not there, or of no length
        raise CheckpointError(_misshapen(plain, found, error)) from error
    plain = reading.tensors or plain
    findings = list(reading.findings)
    if prefix:
        message = f"every name begins with {prefix!r}, which a training wrapper put there; it is taken off"
        findings.append(Finding("names.prefix", "info", message, evidence={"prefix": prefix}))
    inner = [one for one in INNER_WRAPPERS if any(f".{one}." in name.removeprefix(prefix) for name in tensors)]
    if inner:
        message = f"{' and '.join(inner)} stands within names, where a part of the model was wrapped; it is taken out"
        findings.append(Finding("names.prefix", "info", message, evidence={"inner": inner}))
    beside = [name for name in tensors if not name.startswith(prefix)]
    if beside:
        message = f"beside the model, and no part of it: {', '.join(beside[:3])}{' …' * (len(beside) > 3)}"
        findings.append(Finding("names.unexpected", "info", message, names=tuple(beside[:20])))
    ignored = {name: reason for name in plain if (reason := found.ignored(name))}
    kept = {name: array for name, array in plain.items() if name not in ignored}
    return Identified(
        family=found,
        era=reading.era,
        spec=reading.spec,
        tensors=replace(plain, arrays=kept),
        prefix=prefix,
        ignored=ignored,
        findings=tuple(findings),
    )


def other_network(tensors: Tensors) -> str:
    """What a file of no family is when it is another detector from one of their homes, or a classifier, or ""."""
    for _, names in unwrapped(tensors):
        if told := other_detectors.told(names) or other_networks.told(names):
            return told
    return ""


def extractor_offer(tensors: Tensors) -> str:
    """What to type to have the feature extractor of another detector as a backbone, or "" where it is none here."""
    for _, plain in unwrapped(tensors):
        if tf_extractors.FAMILY.likeness(plain.arrays) > 0:
            try:
                tf_extractors.FAMILY.read(plain, None)
            except CheckpointError:  # of a network that is no backbone of maskgraft
                return ""
            name = tf_extractors.FAMILY.name
            return f'mg.load("{tensors.path.name}", family="{name}") takes its feature extractor as a backbone'
    return ""


def _another(tensors: Tensors, told: str) -> Finding:
    fix = extractor_offer(tensors) or f"maskgraft inspect {tensors.path} shows what is in it"
    return Finding("family.unknown", "error", f"{tensors.path}: recognised as {told}", fix=fix)


def _unknown(tensors: Tensors, likeness: float, nearest: Family) -> Finding:
    names = list(tensors)
    sample = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return Finding(
        "family.unknown",
        "error",
        f"{tensors.path}: its {len(names)} tensors ({sample}) belong to no family that maskgraft knows; nearest is "
        f"{nearest.title}, of which it has {likeness:.0%} of the landmarks",
        names=tuple(names[:20]),
        evidence={"nearest": nearest.name, "likeness": likeness},
        fix=f"maskgraft inspect {tensors.path}",
    )
