"""Images that are the same, or nearly: what must not stand on both sides of a split."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

_SIDE = 8
_BITS = 2 * _SIDE * _SIDE
_BAND = 16  # bits; images apart by fewer bits than there are bands agree in one band at least
NEAR = 6  # of 128 bits: recompressed, resized or a little brighter, not another photograph
_FLATTEST = 4.0  # grey levels of deviation below which a picture has no structure to compare


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """`exact` is a digest of the file; `shape` 128 bits of where it brightens, None for flat or unreadable ones."""

    exact: str
    shape: int | None


def fingerprint(path: Path) -> Fingerprint | None:
    """The fingerprint of an image file, or None when there is no such file.

    The bits say, for each of 8 × 8 places, whether the picture grows brighter to the right and downwards.
    """
    try:
        exact = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
    try:
        with Image.open(path) as image:
            image.draft("L", (64, 64))
            small = image.convert("L").resize((_SIDE + 1, _SIDE + 1), Image.Resampling.BOX)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return Fingerprint(exact, None)
    grey = np.asarray(small, np.int16)
    if grey.std() < _FLATTEST:
        return Fingerprint(exact, None)
    rises = np.concatenate(
        ((np.diff(grey, axis=1)[:_SIDE] > 0).ravel(), (np.diff(grey, axis=0)[:, :_SIDE] > 0).ravel())
    )
    return Fingerprint(exact, int.from_bytes(np.packbits(rises).tobytes(), "big"))


def alike(prints: Sequence[Fingerprint | None]) -> list[tuple[int, int, bool]]:
    """Pairs of images that are alike: two indices, and whether their files are the same bytes."""
    found: dict[tuple[int, int], bool] = {}
    same, bands = defaultdict[str, list[int]](list), defaultdict[tuple[int, int], list[int]](list)
    for index, one in enumerate(prints):
        if one is None:
            continue
        same[one.exact].append(index)
        if one.shape is not None:
            for band in range(_BITS // _BAND):
                bands[(band, one.shape >> (band * _BAND) & ((1 << _BAND) - 1))].append(index)
    for group in same.values():
        found |= dict.fromkeys(combinations(group, 2), True)
    for group in bands.values():
        for pair in combinations(group, 2):
            if pair not in found:
                first, second = prints[pair[0]], prints[pair[1]]
                if first is None or second is None or first.shape is None or second.shape is None:
                    continue
                if (first.shape ^ second.shape).bit_count() <= NEAR:
                    found[pair] = False
    return [(*pair, exact) for pair, exact in sorted(found.items())]
