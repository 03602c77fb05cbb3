"""Tensors under another name than their family has: pairs by what one replacement explains, or all by their sizes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from math import prod

from maskgraft.causes.reference import likely_architectures, reference_names
from maskgraft.errors import Finding
from maskgraft.families import Identified
from maskgraft.files import Tensors


def told_renamed(
    missing: list[str], extra: list[str], known: Identified, findings: list[Finding]
) -> tuple[list[str], list[str]]:
    """What is missing under one name and left over under another: told in `findings`; the rest of both is given."""
    if not extra:
        return missing, extra
    absent = [name for name in reference_names(known.family) if name not in known.tensors]
    pairs = _by_substitution(missing, extra) or _by_substitution(absent, extra)
    left = [name for name in missing if name not in pairs.values()]
    for name in extra:
        if name not in pairs and len(extra) <= 200:
            near = get_close_matches(name, [one for one in left if _leaf(one) == _leaf(name)], 1, 0.6)
            if near:
                pairs[name] = near[0]
                left.remove(near[0])
    if not pairs:
        return missing, extra
    first = next(iter(pairs))
    findings.append(
        Finding(
            "names.renamed",
            "error",
            f"{len(pairs)} tensors have another name than in {known.family.title}: {first} is probably {pairs[first]}",
            names=tuple(pairs),
            evidence={"renamed": pairs},
            effect="load_state_dict(strict=False) would leave these layers random without a word",
            fix=f"maskgraft diagnose {known.tensors.path} --into MODULE:FACTORY --plan plan.toml pairs them for review",
        )
    )
    taken = set(pairs.values())
    return [name for name in missing if name not in taken], [name for name in extra if name not in pairs]


def _leaf(name: str) -> str:
    return name.replace("/", ".").rpartition(".")[2]


def _by_substitution(missing: Sequence[str], extra: Sequence[str]) -> dict[str, str]:
    """Pairs that differ in one part of the name, where one replacement explains most of them."""
    holes: dict[tuple[int, str], list[str]] = {}
    for name in missing:
        for hole in _holes(name):
            holes.setdefault(hole, []).append(name)
    votes: Counter[tuple[str, str]] = Counter()
    candidates: dict[str, list[tuple[str, str, str]]] = {}
    for name in extra:
        parts = name.split(".")
        for hole in _holes(name):
            for other in holes.get(hole, ()):
                change = parts[hole[0]], other.split(".")[hole[0]]
                votes[change] += 1
                candidates.setdefault(name, []).append((*change, other))
    pairs: dict[str, str] = {}
    for name, options in candidates.items():
        old, new, other = max(options, key=lambda option: votes[option[0], option[1]])
        if other not in pairs.values() and (votes[old, new] > 1 or len(extra) <= 4):
            pairs[name] = other
    return pairs


def _holes(name: str) -> Iterator[tuple[int, str]]:
    """The name with each of its parts but the last left out."""
    parts = name.split(".")
    for index in range(len(parts) - 1):
        yield index, ".".join((*parts[:index], "", *parts[index + 1 :]))


def renamed_whole(tensors: Tensors) -> Finding | None:
    """A file of unknown names whose sizes are those of a usual Mask R-CNN."""
    sizes = Counter(prod(array.shape) for array in tensors.values() if len(array.shape) > 1)
    best: tuple[float, str, bool] = (0.0, "", False)
    for title, whole, trunk in likely_architectures():
        for wanted, is_whole in ((whole, True), (trunk, False)):
            shared = sum((sizes & wanted).values())
            share = shared / max(sum(wanted.values()), 0.9 * sum(size > 8192 for size in sizes.elements()), 1)
            if share > best[0]:
                best = share, title, is_whole
    share, title, is_whole = best
    if share < 0.8 or not is_whole:
        return None
    return Finding(
        "names.renamed",
        "error",
        f"{tensors.path.name}: no family names its tensors so, but {share:.0%} of the layers of {title} are there, by "
        f"their sizes; the names were changed, first {next(iter(tensors))}",
        names=tuple(tensors)[:20],
        evidence={"architecture": title, "share": round(share, 3)},
        effect="no framework finds a tensor in it",
        fix=f"maskgraft diagnose {tensors.path} --into MODULE:FACTORY --plan plan.toml pairs it with your model",
    )
