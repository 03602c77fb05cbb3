"""Which detections are false and which objects are lost, each for one reason, and what each reason costs in AP.

Every false detection and every lost object of an image gets one of `KINDS`; a kind is then mended by itself and the AP
measured again, as TIDE does (Bolya et al. 2020), but with the stages of Mask R-CNN as kinds, and masks as what counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# In the order of the stages: where an object is lost, or what is wrong with a detection.
KINDS: dict[str, str] = {
    "proposals": "no proposal meets the object",
    "rejected": "a proposal is there, the classifier takes it for background",
    "class": "taken for another class",
    "box": "the class is right, the box is off",
    "suppression": "found, then suppressed beside a neighbour or cut off by max_detections",
    "mask": "class and box are right, the mask is off",
    "duplicate": "found more than once",
    "class and box": "wrong class, and the box is off",
    "background": "found where there is nothing",
}
# What to try where a kind costs much.
HELPS: dict[str, str] = {
    "proposals": "anchors that fit (maskgraft data anchors), more proposals (rpn_post_nms), larger images (min_size)",
    "rejected": "more images of this class, a longer training, a lower score_threshold",
    "class": "compare the labels of both classes: are they told apart? more images of both",
    "box": 'boxes that are drawn alike on all images, box_loss="giou"',
    "suppression": "a higher nms_threshold, more max_detections",
    "mask": 'outlines that are drawn with care, mask_loss="boundary", a longer training of the mask head',
    "duplicate": "a lower nms_threshold",
    "class and box": "the same as for class",
    "background": "look at them: often objects that nobody has labelled; else images without objects in the training",
}
NEAR = 0.1  # overlap below which a detection has nothing to do with an object
RECALLS = np.linspace(0, 1, 101)  # at which COCO reads precision


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """What the detections of one image have to do with its objects.

    `mask` and `box` float64 [D, G] are overlaps (IoU), `crowd` [D, C] the part of each detection inside each crowd, by
    masks and `crowd_box` by boxes; `labels` [D], `scores` [D] descending; `truth` [G] and `crowds` [C] are labels.
    """

    mask: Floats
    box: Floats
    crowd: Floats
    crowd_box: Floats
    labels: Ints
    scores: Floats
    truth: Ints
    crowds: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """Detections against objects by COCO's rule at one overlap: `of` [D] is the object, −1 none; `ignored` [D] lie in
    crowds; `found` [G] says which objects have a detection."""

    of: Ints
    ignored: Bools
    found: Bools


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One image: why each false detection is false (`kinds` [D], "" where it is right or ignored), which object it
    should have been (`at` [D], −1 none), and why each object is lost (`lost` [G], "" where it is found)."""

    overlaps: Overlaps
    matched: Matched
    kinds: tuple[str, ...]
    at: Ints
    lost: tuple[str, ...]


def match(overlaps: Overlaps, overlap: float, *, boxes: bool = False) -> Matched:
    """Match detections to objects, best score first, each to the free object of its class that it overlaps most.

    As COCO does: an overlap of `overlap` is enough; what finds no object, but lies in a crowd of its class, is ignored.
    """
    shared, inside = (overlaps.box, overlaps.crowd_box) if boxes else (overlaps.mask, overlaps.crowd)
    able = np.where(overlaps.labels[:, None] == overlaps.truth[None], shared, -1.0)
    in_crowd = ((overlaps.labels[:, None] == overlaps.crowds[None]) & (inside >= overlap)).any(1)
    of = np.full(len(overlaps.labels), -1, np.int64)
    found = np.zeros(len(overlaps.truth), np.bool_)
    for row in np.flatnonzero((able >= overlap).any(1)):
        free = np.where(found, -1.0, able[row])
        best = len(free) - 1 - int(free[::-1].argmax())  # of equals the last, as COCO's loop leaves it
        if free[best] >= overlap:
            of[row], found[best] = best, True
    return Matched(of, in_crowd & (of < 0), found)


def judge(overlaps: Overlaps, stages: Sequence[str], *, overlap: float = 0.5) -> Judged:
    """Why detections are false and objects lost.

    `stages` [G] is where the detector loses each object, one of the first five of `KINDS`, or "" where a box of the
    right class came out at the end.
    """
    matched = match(overlaps, overlap)
    kinds, at = [], np.full(len(overlaps.labels), -1, np.int64)
    own = overlaps.labels[:, None] == overlaps.truth[None]
    masks = {same: np.where(own == same, overlaps.mask, -1.0) for same in (True, False)}
    boxes = {same: np.where(own == same, overlaps.box, -1.0) for same in (True, False)}
    for row in range(len(overlaps.labels)):
        kind = ""
        if matched.of[row] < 0 and not matched.ignored[row]:
            kind, at[row] = _kind(
                {same: masks[same][row] for same in masks}, {same: boxes[same][row] for same in boxes}, matched, overlap
            )
        kinds.append(kind)
    reached = np.zeros(len(overlaps.truth), np.bool_)
    reached[[at[row] for row, kind in enumerate(kinds) if kind == "mask"]] = True
    lost = [
        "" if found else "mask" if reached[index] else stage or "suppression"
        for index, (found, stage) in enumerate(zip(matched.found, stages, strict=True))
    ]
    return Judged(overlaps, matched, tuple(kinds), at, tuple(lost))


def _kind(
    masks: Mapping[bool, Floats], boxes: Mapping[bool, Floats], matched: Matched, overlap: float
) -> tuple[str, int]:
    """Why one detection is false, and the object it should have been; overlaps with objects of its own class or not."""
    if not masks[True].size:
        return "background", -1
    if masks[True].max() >= overlap:
        return "duplicate", -1  # it is good enough, but another one has the object
    nearest = int(boxes[True].argmax())
    if boxes[True][nearest] >= overlap:
        return ("duplicate", -1) if matched.found[nearest] else ("mask", nearest)
    other = int(masks[False].argmax())
    if masks[False][other] >= overlap:
        return "class", other
    if boxes[True][nearest] >= NEAR:
        return "box", nearest
    return ("class and box" if boxes[False].max() >= NEAR else "background"), -1


# ---- average precision, as it is and mended --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """The detections of a class over all images, `scores` [N] and which are `right` [N], and how many `objects` there
    are to find."""

    scores: Floats
    right: Bools
    objects: int

    def precision(self) -> Floats:
        """Precision at each of `RECALLS`, made to fall, as COCO reads it; float64 [101], 0 where it is not reached."""
        if not self.objects:
            return np.full(len(RECALLS), np.nan)
        order = np.argsort(-self.scores, kind="stable")
        right = self.right[order].cumsum()
        precision = right / np.arange(1, len(right) + 1) if len(right) else np.zeros(0)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        # the recall itself, not a product: COCO compares it so, and the last bit decides
        places = np.searchsorted(right / self.objects, RECALLS, side="left")
        return np.append(precision, 0.0)[np.minimum(places, len(right))]


def rankings(images: Sequence[tuple[Overlaps, Matched]], classes: int) -> list[Ranking]:
    """All detections by class, those that are ignored left out."""
    scores = np.concatenate([np.zeros(0), *(one.scores[~matched.ignored] for one, matched in images)])
    labels = np.concatenate([np.zeros(0, np.int64), *(one.labels[~matched.ignored] for one, matched in images)])
    right = np.concatenate([np.zeros(0, np.bool_), *(matched.of[~matched.ignored] >= 0 for _, matched in images)])
    truth = np.concatenate([np.zeros(0, np.int64), *(one.truth for one, _ in images)])
    return _by_class(scores, labels, right, np.bincount(truth, minlength=classes))


def mended(images: Sequence[Judged], kinds: Sequence[str], classes: int) -> list[Ranking]:
    """The same as if nothing of these kinds had gone wrong.

    A false detection becomes that of the object it should have been, where this is still free, the best-scored first;
    otherwise it is dropped. Objects lost for these reasons that nobody has found then do not count.
    """
    scores, labels, right, objects = [], [], [], np.zeros(classes, np.int64)
    for one in images:
        label, correct = one.overlaps.labels.copy(), one.matched.of >= 0
        kept, found = ~one.matched.ignored, one.matched.found.copy()
        for row in np.flatnonzero([kind in kinds for kind in one.kinds]):
            place = one.at[row]
            if place >= 0 and not found[place]:
                label[row], correct[row], found[place] = one.overlaps.truth[place], True, True
            else:
                kept[row] = False
        counted = found | ~np.array([kind in kinds for kind in one.lost], np.bool_)
        objects += np.bincount(one.overlaps.truth[counted], minlength=classes)
        scores.append(one.overlaps.scores[kept])
        labels.append(label[kept])
        right.append(correct[kept])
    if not images:
        return []
    return _by_class(np.concatenate(scores), np.concatenate(labels), np.concatenate(right), objects)


def _by_class(scores: Floats, labels: Ints, right: Bools, objects: Ints) -> list[Ranking]:
    return [Ranking(scores[labels == label], right[labels == label], int(count)) for label, count in enumerate(objects)]


def mean_precision(ranked: Sequence[Ranking], among: Sequence[int]) -> Floats:
    """Precision at each of `RECALLS`, the mean over the classes `among`.

    A class of which no object counts any more has nothing left to lose: 1.
    """
    rows = [np.nan_to_num(ranked[label].precision(), nan=1.0) for label in among]
    return np.mean(rows, 0) if rows else np.zeros(len(RECALLS))


def confusion(images: Sequence[Judged], classes: int, *, score: float = 0.5, overlap: float = 0.5) -> Ints:
    """Objects (rows, last: background) against what is found there (columns, last: nothing), int64 [K + 1, K + 1].

    Detections that score at least `score`, matched to objects by masks whatever their class, best overlap first.
    """
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for one in images:
        overlaps = one.overlaps
        rows = np.flatnonzero((overlaps.scores >= score) & ~one.matched.ignored)
        shared = overlaps.mask[rows]
        taken, met = np.zeros(len(rows), np.bool_), np.zeros(len(overlaps.truth), np.bool_)
        for flat in np.argsort(-shared, axis=None, kind="stable"):
            row, column = np.unravel_index(flat, shared.shape)
            if shared[row, column] < overlap:
                break
            if not taken[row] and not met[column]:
                taken[row] = met[column] = True
                counts[overlaps.truth[column], overlaps.labels[rows[row]]] += 1
        counts[classes] += np.bincount(overlaps.labels[rows[~taken]], minlength=classes + 1)
        counts[:, classes] += np.bincount(overlaps.truth[~met], minlength=classes + 1)
    return counts
