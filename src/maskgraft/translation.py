"""A model in another family's conventions: what can be restated is, what its config can say is, the rest is found."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from math import isclose
from pathlib import Path
from typing import Any

import yaml

from maskgraft import restating
from maskgraft.errors import CheckpointError, Finding
from maskgraft.families import mmdet_settings
from maskgraft.families.configs import parse_yaml
from maskgraft.families.family import Family, Reading
from maskgraft.families.homes import Home
from maskgraft.families.pipeline_config import write_label_map
from maskgraft.families.protobuf_text import entries, read_text, write_text
from maskgraft.files import LazyArray, Tensors
from maskgraft.links import Array, Link
from maskgraft.restating import Arrays
from maskgraft.spec import NUMERICS_FIELDS, Arch, Numerics, Spec

# The part of `Numerics` from whose first field on conventions are of one kind, and the code of a difference in it.
_CODES = (
    ("channel_order", "numerics.channel-order"),
    ("pixel_scale", "numerics.pixel-scale"),
    ("resize", "numerics.resize"),
    ("norm_eps", "numerics.norm-eps"),
    ("stride_in", "numerics.stride"),
    ("anchor_sizes", "numerics.anchors"),
    ("inclusive_boxes", "numerics.boxes"),
    ("rpn_activation", "numerics.proposals"),
    ("level_epsilon", "numerics.pooling"),
    ("box_delta_weights", "numerics.detections"),
    ("mask_paste", "numerics.masks"),
    ("rpn_pre_nms_train", "numerics.training"),
)
_SAME_GREY = 1e-3  # grey levels within which two means are one


@dataclass(frozen=True, slots=True)
class Translated:
    """The tensors under the names of their new home, and what goes with them.

    `config` is the text of the config beside the file, `labels` that of the label map, `about` what else stands in the
    file. `settings` are those that the user must give the home framework, `numerics` the same for `mg.load`.
    """

    arrays: Arrays
    spec: Spec
    config: str
    about: Mapping[str, Any]
    settings: Mapping[str, Any]
    numerics: Mapping[str, Any]
    findings: tuple[Finding, ...]
    labels: str = ""


def translate(spec: Spec, arrays: Mapping[str, Array], there: Family, home: Home) -> Translated:
    """Canonical float32 `arrays` of `spec` as the family `there` holds them.

    A finding of severity "error" is a convention that acts on results and that the family cannot express; those of
    training are "info". Raises `CheckpointError` for an architecture that the family does not have.
    """
    arch = home.arch(spec.arch)
    aimed = replace(spec, family=there.name, arch=arch)
    table, held = _held(spec, aimed, arrays, there, home)
    usual = _read(there, table, held, None, {}).spec
    _same_arch(arch, usual.arch, there)
    settable = {name for name, _, _ in there.settings} | set(home.told) | home.sets
    held, wanted = _restated(held, aimed, usual.numerics, settable)
    aimed = replace(aimed, numerics=wanted)
    flat = _flat(there, home, aimed)
    settings: Mapping[str, Any] = {}
    about: Mapping[str, Any] = {}
    if home.printed:
        common = _flat(there, home, replace(aimed, numerics=usual.numerics))
        settings = {key: value for key, value in flat.items() if value != common.get(key)}
        flat = {}
    text = _text(flat, home)
    if there.name == "mmdet":
        about = {"meta": mmdet_settings.meta(aimed)}
    elif text and not home.config:
        about = {"cfg": text}
    text = text if home.config else ""
    labels = write_label_map(spec.classes) if home.labels else ""
    got = _read(there, table, held, _nested(settings) if settings else _parsed(text, labels, home), about).spec
    told = {name: getattr(wanted, name) for name in home.told if getattr(wanted, name) != getattr(got.numerics, name)}
    if told:
        got = got.with_numerics(told)
        settings = {home.told[name]: value for name, value in told.items()}
    changed = [name for name in NUMERICS_FIELDS if getattr(got.numerics, name) != getattr(usual.numerics, name)]
    theirs = _theirs(table, held)
    return Translated(
        arrays=theirs | {also: array for name, array in theirs.items() if (also := home.unread(name))},
        spec=replace(got, classes=spec.classes),
        config=text,
        about=about,
        settings=settings,
        numerics={name: getattr(got.numerics, name) for name in changed} if settings else {},
        findings=(*_differences(wanted, got.numerics, arch, there), *_names_of_classes(spec, got, there)),
        labels=labels,
    )


def _held(
    spec: Spec, aimed: Spec, arrays: Mapping[str, Array], there: Family, home: Home
) -> tuple[tuple[Link, ...], Arrays]:
    """The links of `aimed` in the family's names, and canonical tensors for them."""
    arch = aimed.arch
    era = home.era(arch) if home.era else there.eras[0]
    table = tuple(link for link in there.links(aimed, era) if not link.ours.endswith(home.lacks))
    faults = [
        Finding("family.unknown", "error", _unlike(name, getattr(arch, name), among), names=(f"arch.{name}",))
        for name, among in home.holds.items()
        if getattr(arch, name) not in among
    ]
    held: Arrays = {}
    try:
        held = restating.restate(arrays, spec.arch, arch, [link.ours for link in table], spec.numerics.norm_eps)
        if not faults:
            _complete(arrays, held, table)
    except CheckpointError as error:
        faults += error.findings
    if faults:
        raise CheckpointError([_located(finding, there) for finding in faults])
    return table, held


def _unlike(name: str, value: Any, among: tuple[Any, ...]) -> str:
    return f"{name} is {value!r}, where it has {' or '.join(map(repr, among))}"


def _located(finding: Finding, there: Family) -> Finding:
    return replace(finding, message=f"{there.title} cannot hold this model: {finding.message}")


def _complete(arrays: Mapping[str, Array], held: Arrays, table: tuple[Link, ...]) -> None:
    """Every tensor of either side has its place on the other."""
    names = {link.ours for link in table}
    lacks = [link.ours for link in table if not link.optional and link.ours not in held]
    surplus = [name for name in arrays if name not in names and not _absorbed(name, names)]
    faults = [
        f"it {does} {len(which)} tensors{that}, such as {which[0]}"
        for does, that, which in (("has no place for", "", surplus), ("needs", " that the model lacks", lacks))
        if which
    ]
    if faults:
        message = " and ".join(faults)
        raise CheckpointError(Finding("family.unknown", "error", message, names=(*surplus[:10], *lacks[:10])))


def _absorbed(name: str, names: set[str]) -> bool:
    """Whether a norm or a bias was folded into the layer that it belongs to, or a layer left out that said nothing."""
    if name.startswith(("rpn.norms.", "fpn.coarsest.")):
        return True
    if name.startswith("rpn."):
        return False
    before, _, vector = name.rpartition(".")
    if vector == "bias" and f"{before}.weight" in names:
        return True
    layer = before.replace("mask_head.norm", "mask_head.upsample").replace(".fc_norms.", ".fcs.")
    layer = f"{layer.removesuffix('.norm')}.conv" if layer.endswith(".norm") else layer
    return layer != before and f"{layer}.weight" in names


def _theirs(table: tuple[Link, ...], held: Arrays) -> Arrays:
    result: Arrays = {}
    for link in table:
        if link.ours in held:
            array = link.back(held[link.ours])
            result |= {name: array for name in (link.theirs, *link.copies)}
    return result


def _read(
    there: Family, table: tuple[Link, ...], held: Arrays, config: Mapping[str, Any] | None, about: Mapping[str, Any]
) -> Reading:
    """What the family's own reader makes of the tensors, and of the settings that go with them."""
    lazy = {name: LazyArray.of(array) for name, array in _theirs(table, held).items()}
    return there.read(Tensors(Path("converted"), "memory", lazy, about), config)


def _parsed(text: str, labels: str, home: Home) -> Mapping[str, Any] | None:
    """A config and the label map that it names, read back."""
    if not text:
        return None
    parsed = dict(read_text(text) if home.language == "protobuf" else parse_yaml(text))
    if labels:
        parsed["label_map"] = {item["id"]: item["name"] for item in entries(read_text(labels), "item")}
    return parsed


def _same_arch(wanted: Arch, got: Arch, there: Family) -> None:
    idle = set()
    if wanted.box_head == "res5":
        idle |= {"box_fcs", "box_fc_width", "box_convs", "box_conv_channels", "box_norm", "fc_norm", "fc_bias"}
    if not wanted.box_convs:
        idle |= {"box_norm", "box_conv_channels"}
    if not wanted.mask_convs:
        idle |= {"mask_norm"}
    if wanted.neck != "fpn":
        idle |= {"neck_channels", "neck_norm", "neck_norm_after"}
    if wanted.conv_bias:
        idle |= {"stem_bias"}
    findings = [
        Finding(
            "family.unknown",
            "error",
            _unlike(one.name, getattr(wanted, one.name), (getattr(got, one.name),)),
            names=(f"arch.{one.name}",),
        )
        for one in fields(Arch)
        if one.name not in idle and getattr(wanted, one.name) != getattr(got, one.name)
    ]
    if findings:
        raise CheckpointError([_located(finding, there) for finding in findings])


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _restated(held: Arrays, spec: Spec, usual: Numerics, settable: set[str]) -> tuple[Arrays, Numerics]:
    """The tensors, and the conventions under which they now give the same results: as many as can be are the usual."""
    numerics = spec.numerics
    held, numerics = _pixels(held, numerics, usual, settable)
    if restating.has_eps(held):
        held = restating.with_eps(held, numerics.norm_eps, usual.norm_eps)
    of_heads, arch = numerics.eps_of_heads, spec.arch
    if arch.norm != "group":
        numerics = replace(numerics, norm_eps=usual.norm_eps)
    grouped = "group" in (arch.neck_norm, arch.box_norm, arch.mask_norm, arch.fc_norm)
    as_usual = replace(numerics, head_norm_eps=usual.head_norm_eps)
    numerics = replace(as_usual, head_norm_eps=of_heads) if grouped and as_usual.eps_of_heads != of_heads else as_usual
    for part, name in (("rpn.deltas", "rpn_delta_weights"), ("box_predictor.deltas", "box_delta_weights")):
        mine, theirs = getattr(numerics, name), getattr(usual, name)
        held = restating.scaled_rows(held, part, tuple(b / a for a, b in zip(mine, theirs, strict=True)))
        numerics = replace(numerics, **{name: theirs})
    return _anchors(held, spec.arch, numerics, usual)


def _pixels(held: Arrays, numerics: Numerics, usual: Numerics, settable: set[str]) -> tuple[Arrays, Numerics]:
    flipped = numerics.channel_order != usual.channel_order
    step = -1 if flipped else 1
    ratio = usual.pixel_scale / numerics.pixel_scale
    mean = tuple(value * ratio for value in numerics.pixel_mean[::step])
    std = tuple(value * ratio for value in numerics.pixel_std[::step])
    greys = [abs(a - b) / usual.pixel_scale for a, b in zip(mean, usual.pixel_mean, strict=True)]
    mean = usual.pixel_mean if max(greys) < _SAME_GREY else mean
    new_std = std if "pixel_std" in settable else usual.pixel_std
    factors = tuple(b / a for a, b in zip(std, new_std, strict=True))
    factors = tuple(1.0 if isclose(factor, 1, rel_tol=1e-7) else factor for factor in factors)
    held = restating.with_pixels(held, flipped=flipped, factors=factors)
    changes: dict[str, Any] = {
        "channel_order": usual.channel_order,
        "pixel_scale": usual.pixel_scale,
        "pixel_mean": mean,
        "pixel_std": new_std,
    }
    return held, replace(numerics, **changes)


def _anchors(held: Arrays, arch: Arch, numerics: Numerics, usual: Numerics) -> tuple[Arrays, Numerics]:
    """Ratios and sizes in the order of the other family, where it has the same ones."""
    ratios = _as_usual(numerics.anchor_ratios, usual.anchor_ratios)
    levels = tuple(
        _as_usual(mine, theirs) for mine, theirs in zip(numerics.anchor_sizes, usual.anchor_sizes, strict=False)
    )
    sizes = levels if len(levels) == len(numerics.anchor_sizes) else numerics.anchor_sizes
    before = _cell(numerics.anchor_sizes[0], numerics.anchor_ratios, numerics.anchor_order)
    after = _cell(sizes[0], ratios, usual.anchor_order)
    order = [next(i for i, one in enumerate(before) if _close(one, anchor)) for anchor in after]
    if order != list(range(len(order))):
        held = restating.reordered_anchors(held, order, arch.objectness)
    changes: dict[str, Any] = {"anchor_sizes": sizes, "anchor_ratios": ratios, "anchor_order": usual.anchor_order}
    return held, replace(numerics, **changes)


def _as_usual(mine: tuple[float, ...], theirs: tuple[float, ...]) -> tuple[float, ...]:
    same = len(mine) == len(theirs) and all(map(isclose, sorted(mine), sorted(theirs)))
    return theirs if same else mine


def _cell(sizes: tuple[float, ...], ratios: tuple[float, ...], order: str) -> list[tuple[float, float]]:
    if order == "size":
        return [(size, ratio) for size in sizes for ratio in ratios]
    return [(size, ratio) for ratio in ratios for size in sizes]


def _close(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return isclose(one[0], other[0]) and isclose(one[1], other[1])


# ---- what the config says --------------------------------------------------------------------------------------------


def _flat(there: Family, home: Home, spec: Spec) -> dict[str, Any]:
    """The settings of the other family, by dotted key."""
    flat: dict[str, Any] = {}
    for key in dict.fromkeys(key for _, key, _ in there.settings):
        readers = [(name, convert) for name, one, convert in there.settings if one == key]
        flat[key] = _said(readers, spec.numerics, whole=key in home.whole)
    flat |= home.settings(spec)
    return {key: _listed(value) for key, value in flat.items() if value is not None}


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        within = nested
        for parent in parents:
            within = within.setdefault(parent, {})
        within[last] = value
    return nested


def _text(flat: Mapping[str, Any], home: Home) -> str:
    if not flat:
        return ""
    nested = _nested(flat)
    return write_text(nested) if home.language == "protobuf" else yaml.safe_dump(nested, sort_keys=False)


def _said(readers: list[tuple[str, Callable[[Any], Any]]], numerics: Numerics, *, whole: bool) -> Any:
    """The value of a key that is read as what `numerics` has, or None: the forms that numbers have are tried.

    Words and switches are none of them; `Home.settings` says those. `whole`: the key takes an integer and nothing else.
    """
    values = [getattr(numerics, name) for name, _ in readers]
    if any(isinstance(value, str | bool) for value in values):
        return None
    tried = [int(value) if whole and isinstance(value, float) else value for value in values]
    for form in _forms(tried):
        try:
            if all(convert(form) == value for (_, convert), value in zip(readers, values, strict=True)):
                return form
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, ArithmeticError):
            continue
    return None


def _forms(values: list[Any]) -> Iterator[Any]:
    """A number as it is, in a list, as −1 for none; several as a list, nested, or inverted."""
    value = values[0]
    yield values if len(values) > 1 else value
    if isinstance(value, tuple):
        yield from (list(value), [list(value)], [[list(value)]])
        if all(isinstance(one, int | float) and one for one in value):
            yield [1 / one for one in value]
    yield from ([value], -1)


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, list | tuple) else value


# ---- what cannot be said ---------------------------------------------------------------------------------------------


def _differences(wanted: Numerics, got: Numerics, arch: Arch, there: Family) -> Iterator[Finding]:
    training = NUMERICS_FIELDS.index("rpn_pre_nms_train")
    for place, name in enumerate(NUMERICS_FIELDS):
        mine, theirs = _in_effect(name, wanted), _in_effect(name, got)
        if _alike(mine, theirs) or not _acts(name, arch, wanted, got):
            continue
        code = next(code for first, code in reversed(_CODES) if NUMERICS_FIELDS.index(first) <= place)
        what = "trains" if place >= training else "runs"
        effect = "results differ from those of the source" + (" where scores are equal" if name == "nms_ties" else "")
        yield Finding(
            code,
            "info" if place >= training or name == "nms_ties" else "error",
            f"{name} is {mine!r} in the source; {there.title} {what} it with {theirs!r}",
            names=(f"numerics.{name}",),
            evidence={"source": mine, "target": theirs},
            effect="" if place >= training else effect,
        )


def _in_effect(name: str, numerics: Numerics) -> Any:
    """The value of a convention; 0 candidates are as many as there may be proposals."""
    value = getattr(numerics, name)
    proposed = {"rpn_pre_nms": numerics.rpn_post_nms, "rpn_pre_nms_train": numerics.rpn_post_nms_train}
    return proposed.get(name, value) if value == 0 else value


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return isclose(one, other, rel_tol=1e-6) if numbers else one == other


def _acts(name: str, arch: Arch, mine: Numerics, theirs: Numerics) -> bool:
    """Whether a convention does anything in a model of `arch`."""
    crops = mine.roi_method == theirs.roi_method == "crop"
    idle = {
        "c4_stride": arch.neck != "c4",
        "res5_stride": arch.box_head != "res5",
        "res5_padded": arch.box_head != "res5",
        "mask_pool_size": arch.box_head == "res5",
        "mask_size": arch.mask_upsample == "deconv",
        "norm_behind_relu": {arch.box_norm, arch.mask_norm} == {"none"},
        "level_epsilon": arch.neck != "fpn",
        "level_epsilon_value": arch.neck != "fpn",
        "level_rounding": arch.neck != "fpn",
        "roi_aligned": crops,
        "roi_sampling": crops,
        "fixed_fit": mine.fixed_size is None and theirs.fixed_size is None,
        "min_size": mine.fixed_size is not None and theirs.fixed_size is not None,
        "max_size": mine.fixed_size is not None and theirs.fixed_size is not None,
        "stride_in": arch.block == "basic",
        "rpn_min_size_in": not mine.rpn_min_size and not theirs.rpn_min_size,
        "rpn_nms_tiled": min(mine.rpn_nms_threshold, theirs.rpn_nms_threshold) >= 0.5,
        "nms_tiled": min(mine.nms_threshold, theirs.nms_threshold) >= 0.5,
    }
    return not idle.get(name, False)


def _names_of_classes(spec: Spec, got: Spec, there: Family) -> Iterator[Finding]:
    if got.classes != spec.classes:
        message = f"a {there.title} file has no class names; its rows are: {', '.join(spec.classes)}"
        yield Finding("numerics.class-order", "info", message, evidence={"classes": list(spec.classes)})


def canonical_dtype(array: Array) -> Array:
    """float32, and int64 for counters: what models compute in."""
    return array.astype("int64" if array.dtype.kind in "iu" else "float32")
