"""Tensor tables that do not fit their family: what is missing, left over, renamed, mixed, or stands in another layout.

A cause is told by the repair that leaves nothing to complain of: blocks counted again, a prefix taken off, kernels
turned round. Tensors that no cause explains are listed at the end.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from maskgraft.causes.canonical import canonical_shape, rows
from maskgraft.causes.layouts import back, relaid, same_but_for_layout
from maskgraft.causes.reference import all_reference_names, era_names, eras, reference_names
from maskgraft.causes.renamed import renamed_whole, told_renamed
from maskgraft.errors import CheckpointError, Finding
from maskgraft.families import Identified, identify, other_network, unwrapped
from maskgraft.families.family import Family
from maskgraft.files import LazyArray, Tensors
from maskgraft.links import Link, Shape
from maskgraft.spec import COMPONENTS, Spec, component

_SLOTS = ("momentum", "momentum_buffer", "exp_avg", "exp_avg_sq", "Momentum", "Adam", "Adam_1", "RMSProp", "velocity")
_OF_MASKS = {"mask_head", "mask_predictor"}  # without them: another detector, which its family names
_MAY_BE_DAMAGE = ("a backbone that", "no mask head", "a pyramid of maps of")  # in a refusal: or names that were lost
_BARE = ("backbone.body.", "backbone.bottom_up.", "backbone.", "module.backbone.body.")

Mismatches = dict[str, tuple[Shape, Shape | None, Shape]]  # name → shape in the file, as moved, as it should be


def table_faults(known: Identified) -> list[Finding]:
    """Everything in the names and shapes of a recognised file that its family's links do not explain."""
    prefixed = _prefixed(known.tensors, reference_names(known.family))
    if prefixed is not None:
        plain, finding = prefixed
        again = _identified(plain)
        return [finding, *(table_faults(again) if again is not None else [])]
    spec = _with_all_blocks(known)
    links = tuple(known.family.links(spec, known.era))
    linked = {name for link in links for name in (link.theirs, *link.copies)}
    missing = [link.theirs for link in links if not link.optional and link.theirs not in known.tensors]
    extra = [name for name in known.tensors if name not in linked]
    turned = _turned(known, links, spec)
    if turned:
        return turned
    findings: list[Finding] = []
    extra = _told_copies(extra, linked, findings)
    extra = _told_slots(extra, findings)
    missing, extra = told_renamed(missing, extra, known, findings)
    extra = _told_foreign(extra, known, findings)
    ours = {link.theirs: link.ours for link in links}
    if missing:
        findings.append(_missing(missing, ours, known))
    if extra:
        message = f"{len(extra)} tensors have no place in a {known.family.title} Mask R-CNN, first {extra[0]}"
        effect = "a head or layer that maskgraft does not build would be left out"
        findings.append(Finding("names.unexpected", "error", message, names=tuple(extra), effect=effect))
    findings += _depth(spec, known)
    findings += _shape_causes(mismatched(known.tensors, links, spec), spec, ours)
    return findings


def mismatched(tensors: Mapping[str, LazyArray], links: Sequence[Link], spec: Spec) -> Mismatches:
    """The tensors whose shape is not what the architecture asks for."""
    found: Mismatches = {}
    for link in links:
        want = canonical_shape(link.ours, spec)
        if link.theirs not in tensors or want is None or link.ours.endswith("num_batches_tracked"):
            continue
        have = tensors[link.theirs].shape
        try:
            moved: Shape | None = link.shape(have)
        except (ValueError, IndexError):
            moved = None
        if moved != want:
            found[link.theirs] = (have, moved, want)
    return found


def unrecognised(tensors: Tensors, error: CheckpointError) -> list[Finding]:
    """What a file is that could not be identified: a part, a mixture, renamed, in another layout; else the error."""
    for turned in map(_identified, relaid(tensors)):
        if turned is not None and not mismatched(turned.tensors, turned.links, turned.spec):
            return [_layout(turned.tensors, len(turned.tensors), turned.family.title)]
    if other_network(tensors):
        return list(error.findings)
    refused = [one.message for one in error.findings if "architecture not supported" in one.message]
    if any(not any(damage in message for damage in _MAY_BE_DAMAGE) for message in refused):
        return list(error.findings)
    best = _best_share(tensors)
    foreign: list[str] = []
    if best is not None:
        foreign = [name for name in best.plain if best.bare + name not in best.names and not best.family.ignored(name)]
        if foreign and (prefixed := _prefixed(best.plain, best.names)):
            again = _identified(prefixed[0])
            return [prefixed[1], *(table_faults(again) if again is not None else [])]
        if foreign and best.share < 0.97 and (other := _family_of(foreign, besides=best.family.title)):
            return [_mixture(best.family.title, other, foreign, len(best.plain)), *error.findings]
        if not foreign and (mixed := era_fault(best.family, best.plain)):
            return [mixed]
    if foreign or best is None:
        renamed = renamed_whole(tensors)
        if renamed is not None:
            return [renamed]
    if best is not None and best.share >= 0.5:
        have = {component(best.names[best.bare + name]) for name in best.plain if best.bare + name in best.names}
        usual = {component(ours) for ours in best.names.values()}
        lacking = [part for part in COMPONENTS if part in usual - have]
        if lacking and not (refused and set(lacking) <= _OF_MASKS):
            return [_partial(best.family.title, sorted(have, key=COMPONENTS.index), lacking, best.bare, tensors)]
    return list(error.findings)


def era_fault(family: Family, tensors: Mapping[str, LazyArray]) -> Finding | None:
    """Names of two eras of one family in one file, where no era has all of them."""
    shares = {era: {name for name in tensors if name in era_names(family, era)} for era in eras(family)}
    if len(shares) < 2:
        return None
    most = max(shares, key=lambda era: len(shares[era]))
    others = [name for name in tensors if name not in shares[most]]
    second = next((era for era in shares if era != most and others and set(others) <= shares[era]), None)
    if second is None:
        return None
    return Finding(
        "era.mismatch",
        "error",
        f"names of two eras of {family.title} are mixed: {len(others)} are those of {second!r}, the others those of "
        f"{most!r}, first {others[0]}",
        names=tuple(others),
        evidence={"eras": [most, second]},
        effect="no version of the framework loads all of it",
        fix="save it again with one version of the framework, or rename these tensors",
    )


def _prefixed(tensors: Tensors, names: Mapping[str, str]) -> tuple[Tensors, Finding] | None:
    """The file without a prefix that only some of its names carry, and the finding that says so."""
    stripped: dict[str, dict[str, str]] = {}
    for name in tensors:
        if name in names:
            continue
        for start in range(1, len(name)):
            if name[start - 1] in "./" and name[start:] in names and name[start:] not in tensors:
                stripped.setdefault(name[:start], {})[name] = name[start:]
                break
    found = max(stripped.items(), key=lambda item: len(item[1]), default=("", {}))
    prefix, moved = found
    if len(moved) < 3:
        return None
    arrays = {moved.get(name, name): array for name, array in tensors.items()}
    first = next(iter(moved))
    return replace(tensors, arrays=arrays), Finding(
        "names.prefix",
        "error",
        f"{len(moved)} of {len(tensors)} names begin with {prefix!r} and the others do not, first {first}",
        names=tuple(moved),
        evidence={"prefix": prefix},
        effect="load_state_dict(strict=False) would leave these layers random without a word",
        fix=f'state = {{name.removeprefix("{prefix}"): tensor for name, tensor in state.items()}}',
    )


def _identified(tensors: Tensors) -> Identified | None:
    try:
        return identify(tensors)
    except (CheckpointError, ValueError, IndexError, ZeroDivisionError):
        return None


def _with_all_blocks(known: Identified) -> Spec:
    """The spec with the blocks that stand behind a gap: a file that lacks layer3.2 still has layer3.3."""
    arch = known.spec.arch
    if not arch.blocks:
        return known.spec
    names = reference_names(known.family)
    deepest = list(arch.blocks)
    placed = {link.theirs for link in known.links}  # the same number may mean another layer in a deeper network
    for name in known.tensors:
        if name in placed:
            continue
        stage, _, rest = names.get(name, "").removeprefix("backbone.").removeprefix("box_head.").partition(".")
        block = rest.split(".")[0]
        if stage in ("res2", "res3", "res4", "res5") and block.isdigit():
            deepest[int(stage[3]) - 2] = max(deepest[int(stage[3]) - 2], int(block) + 1)
    return replace(known.spec, arch=replace(arch, blocks=tuple(deepest)))


def _turned(known: Identified, links: Sequence[Link], spec: Spec) -> list[Finding]:
    """Kernels in another framework's order, where turning all of them leaves no fault."""
    found = mismatched(known.tensors, links, spec)
    faults = len(found)
    if 0 < faults < 12:
        for name in found:
            again = _identified(
                replace(known.tensors, arrays={**known.tensors.arrays, name: back(known.tensors[name])})
            )
            if again is not None and not mismatched(again.tensors, again.links, again.spec):
                return [_layout_of_one(name, known)]
    if faults < 8:
        return []
    for turned in relaid(known.tensors):
        again = _identified(turned)
        if again is not None and len(mismatched(again.tensors, again.links, again.spec)) * 8 < faults:
            return [_layout(turned, faults, known.family.title)]
    return []


def _layout(tensors: Tensors, count: int, title: str) -> Finding:
    return Finding(
        "shape.layout",
        "error",
        f"{tensors.path.name}: the names are {title}'s, the kernels stand in another framework's order of axes",
        evidence={"tensors": count},
        effect="convolutions of square shape would load without an error and compute noise",
        fix="transpose the kernels back where they were converted: TensorFlow's HWIO is (3, 2, 0, 1) of PyTorch's OIHW",
    )


def _layout_of_one(name: str, known: Identified) -> Finding:
    shape = known.tensors[name].shape
    return Finding(
        "shape.layout",
        "error",
        f"{name} is {list(shape)}: its axes stand in another order than in {known.family.title}'s files, "
        f"{list(back(known.tensors[name]).shape)}",
        names=(name,),
        evidence={"shape": list(shape)},
        effect="the layer cannot be loaded as it is",
        fix="transpose it back where it was converted",
    )


def _told_copies(extra: list[str], linked: set[str], findings: list[Finding]) -> list[str]:
    """A second copy of the whole model under a prefix: a moving average, or a teacher."""
    by_prefix: dict[str, list[str]] = {}
    for name in extra:
        for start in range(1, len(name)):
            if name[start - 1] in "._/" and name[start:] in linked:
                by_prefix.setdefault(name[:start], []).append(name)
                break
    for prefix, copies in by_prefix.items():
        if len(copies) * 2 > len(linked):
            findings.append(
                Finding(
                    "file.several-models",
                    "warning",
                    f"{len(copies)} tensors stand a second time under {prefix!r}: a moving average or a teacher",
                    names=tuple(copies),
                    evidence={"prefix": prefix},
                    effect="the two copies give different detections; only one of them was evaluated",
                    fix=f"save the copy that is meant, without {prefix!r}",
                )
            )
            taken = set(copies)
            extra = [name for name in extra if name not in taken]
    return extra


def _told_slots(extra: list[str], findings: list[Finding]) -> list[str]:
    slots = [name for name in extra if name.replace("/", ".").rpartition(".")[2] in _SLOTS]
    slots += [name for name in extra if name.startswith(("optimizer.", "optimizer_state", "state."))]
    if not slots:
        return extra
    message = f"{len(slots)} tensors are an optimizer's and no part of the model, first {slots[0]}"
    findings.append(Finding("names.optimizer-slots", "warning", message, names=tuple(slots)))
    return [name for name in extra if name not in set(slots)]


def _told_foreign(extra: list[str], known: Identified, findings: list[Finding]) -> list[str]:
    other = _family_of(extra, besides=known.family.title) if len(extra) > 3 else ""
    if not other:
        return extra
    findings.append(_mixture(known.family.title, other, extra, len(known.tensors)))
    return []


def _mixture(title: str, other: str, foreign: Sequence[str], count: int) -> Finding:
    return Finding(
        "family.mismatch",
        "error",
        f"two frameworks' names are mixed: {len(foreign)} of {count} tensors are named as in {other}, first "
        f"{foreign[0]}, the others as in {title}",
        names=tuple(foreign),
        evidence={"families": [title, other]},
        effect="no framework loads all of it, and the halves expect other inputs (channel order, scale, boxes)",
        fix="load each part from the checkpoint that it comes from",
    )


def _family_of(names: Sequence[str], *, besides: str) -> str:
    """The family that has nearly all of these names, other than one."""
    for family, reference in all_reference_names():
        if family.title != besides and sum(name in reference for name in names) >= 0.9 * len(names):
            return family.title
    return ""


@dataclass(frozen=True, slots=True)
class Best:
    """The family that has most of a file's names, and what those lack in front."""

    share: float
    family: Family
    names: Mapping[str, str]
    plain: Tensors
    bare: str


def _best_share(tensors: Tensors) -> Best | None:
    best: Best | None = None
    for family, names in all_reference_names():
        for _, plain in unwrapped(tensors):
            if not len(plain):
                continue
            for bare in ("", *_BARE):
                share = sum(bare + name in names for name in plain) / len(plain)
                if share > (best.share if best else 0.1):
                    best = Best(share, family, names, plain, bare)
    return best


def _partial(title: str, have: Sequence[str], lacking: Sequence[str], bare: str, tensors: Tensors) -> Finding:
    only = f"only the {', the '.join(have)}" if len(have) <= len(lacking) else "not the whole"
    named = f" without {bare!r} in front" if bare else ""
    return Finding(
        "names.missing",
        "error",
        f"{tensors.path.name} holds {only} of a Mask R-CNN in {title}'s names{named}: no {', no '.join(lacking)}",
        names=tuple(lacking),
        evidence={"have": list(have), "lacking": list(lacking)},
        effect="what is missing would stay random, and a model with a random part detects nothing",
        fix="train with the missing parts initialised, or load the checkpoint that was saved with the whole model",
    )


def _missing(missing: Sequence[str], ours: Mapping[str, str], known: Identified) -> Finding:
    parts = Counter(component(ours[name]) for name in missing)
    whole = Counter(component(one) for one in ours.values())
    gone = [part for part, count in parts.items() if count >= 0.9 * whole[part]]
    where = ", ".join(f"all of the {part}" if part in gone else f"{parts[part]} of the {part}" for part in parts)
    return Finding(
        "names.missing",
        "error",
        f"{len(missing)} of {len(ours)} tensors are not in the file ({where}), first {missing[0]}",
        names=tuple(missing),
        evidence={"components": dict(parts)},
        effect="what is missing would stay random, and a model with a random part detects nothing",
        fix=f"look for the whole file; maskgraft inspect {known.tensors.path} lists what this one has",
    )


_STANDARD = ((2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3))


def _depth(spec: Spec, known: Identified) -> list[Finding]:
    """A trunk that is a published one but for a block or two at the end of a stage."""
    blocks = spec.arch.blocks
    if blocks in _STANDARD or len(blocks) != 4 or sum(blocks) < 12:
        return []
    for standard in _STANDARD:
        short = [i for i in range(4) if blocks[i] < standard[i]]
        if len(short) == 1 and sum(a != b for a, b in zip(blocks, standard, strict=True)) == 1:
            stage = short[0]
            if standard[stage] - blocks[stage] > 2:
                continue
            lost = f"res{stage + 2}.{blocks[stage]}"
            return [
                Finding(
                    "names.missing",
                    "warning",
                    f"{known.tensors.path.name} has {'/'.join(map(str, blocks))} blocks; the published ResNet has "
                    f"{'/'.join(map(str, standard))}: {lost} is probably lost",
                    names=(lost,),
                    evidence={"file": list(blocks), "published": list(standard)},
                    effect="a trunk without one of its blocks gives other features to everything behind it",
                    fix="look for the whole file",
                )
            ]
    return []


def _shape_causes(faults: Mismatches, spec: Spec, ours: Mapping[str, str]) -> list[Finding]:
    findings: list[Finding] = []
    laid = {name for name, (have, moved, want) in faults.items() if same_but_for_layout(have, moved, want)}
    classes = {name for name in faults if "predictor" in ours[name] and name not in laid}
    groups = {
        name
        for name, (_, moved, want) in faults.items()
        if name not in laid | classes and moved and len(moved) == 4 and _only_axis(moved, want, 1) and want[2] == 3
    }
    rest = {name for name in faults if name not in laid | classes | groups}
    for code, names, told in (
        ("shape.layout", laid, "stand in another order of axes than the family's"),
        ("shape.classes", classes, "have another number of class rows than the class logits"),
        ("shape.groups", groups, "have another number of groups than the first block"),
        ("shape.width" if _vectors_agree(rest, faults) else "shape.other", rest, "have another shape than the others"),
    ):
        if not names:
            continue
        first = next(name for name in faults if name in names)
        have, _, want = faults[first]
        message = f"{len(names)} tensors {told}: {first} is {list(have)}, canonical {list(want)} is asked for"
        if code == "shape.classes":
            message += f" ({spec.arch.classes} classes, {rows(spec.arch.mask_rows, spec.arch.classes)} mask rows)"
        evidence = {"shapes": {name: [list(faults[name][0]), list(faults[name][2])] for name in sorted(names)[:50]}}
        effect = "the layers cannot be loaded as they are"
        ordered = tuple(name for name in faults if name in names)
        findings.append(Finding(code, "error", message, names=ordered, evidence=evidence, effect=effect))
    return findings


def _only_axis(one: Shape, other: Shape, axis: int) -> bool:
    return len(one) == len(other) and all(
        (a == b) != (i == axis) for i, (a, b) in enumerate(zip(one, other, strict=True))
    )


def _vectors_agree(names: set[str], faults: Mismatches) -> bool:
    """Whether whole layers differ, and not one tensor alone: their weights and vectors do so together."""
    return (
        sum(len(faults[name][0]) == 1 for name in names) >= 1 and sum(len(faults[name][0]) > 1 for name in names) >= 1
    )
