"""The model as a graph of fixed shapes: what `predict` does, without a step of Python that looks at values."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskgraft.heads import Res5BoxHead
from maskgraft.model import MaskRCNN, Size
from maskgraft.ops import anchors as anchor_ops
from maskgraft.ops import boxes as box_ops
from maskgraft.ops.pooling import levels, placed
from maskgraft.ops.selection import decoded, scored
from maskgraft.preprocess import network_size, prepare, stack
from maskgraft.torchvision_ops import nms, roi_align

_COLUMNS = 10  # labels are laid out for suppression in rows of as many


class Exportable(nn.Module):
    """`MaskRCNN.predict` for photographs of one size, up to the pasting of masks.

    Where `predict` drops boxes on the way, this keeps their places and a mask of those that count: only suppression and
    the end of all give numbers of boxes that no shape tells.
    """

    def __init__(self, model: MaskRCNN, photograph: Size) -> None:
        super().__init__()
        self.model, self.photograph = model, photograph
        numerics = model.spec.numerics
        self.prepared = prepare(np.zeros((*photograph, 3), np.uint8), numerics)
        self.pixels = network_size(photograph, numerics)
        batch = stack([self.prepared], numerics.pad_multiple)
        self.padded: Size = (batch.shape[2], batch.shape[3])
        with torch.no_grad():
            maps = model.proposal_maps(model.features(batch))
            every = model.anchors(maps, self.padded)
        for name, anchors in zip(maps, every, strict=True):
            self.register_buffer(f"anchors_{name}", anchors)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`image` float32 [h, w, 3] RGB 0..255 to boxes [N, 4], scores [N], labels [N] and mask_probs [N, m, m]."""
        numerics = self.model.spec.numerics
        maps = self.model.features(self._normalised(image))
        regions, counts = self._proposals(maps)
        boxes, scores, labels, counts = self._detections(maps, regions, counts)
        there = numerics.detect_in != "input"
        inside = self.prepared.to_network(boxes) if there else boxes
        boxes = boxes if there else self.prepared.to_original(boxes)
        boxes = boxes if numerics.detect_padded else box_ops.clip(boxes, (0, 0, *self.photograph))
        whole = boxes.round()
        boxes = whole if numerics.box_rounding == "whole" else boxes
        sides = boxes if numerics.box_rounding == "none" else whole
        counts = counts & (sides[:, 2:] + numerics.inclusive_areas > sides[:, :2]).all(1)
        kept = torch.nonzero(counts).squeeze(1)
        column = labels * 0 if self.model.spec.arch.mask_rows == "agnostic" else labels
        inside = self.prepared.stretched(inside) if numerics.mask_regions == "stretched" else inside
        masks = self._mask_logits(maps, inside)[torch.arange(len(labels)), column].sigmoid()
        return boxes[kept], scores[kept], labels[kept], masks[kept]

    def _normalised(self, image: Tensor) -> Tensor:
        """[h, w, 3] to the network's input, [1, 3, H, W]."""
        numerics = self.model.spec.numerics
        pixels = image.permute(2, 0, 1)
        pixels = pixels.flip(0) if numerics.channel_order == "bgr" else pixels
        top, left = (int(side) for side in self.prepared.window[:2])
        height, width = self.pixels
        around = (left, self.padded[1] - width - left, top, self.padded[0] - height - top)
        pixels = F.pad(pixels, around) if numerics.pad_black else pixels
        pixels = pixels / 255 if numerics.pixel_scale == 1 / 255 else pixels * numerics.pixel_scale
        mean, std = torch.tensor(numerics.pixel_mean), torch.tensor(numerics.pixel_std)
        pixels = (pixels - mean[:, None, None]) / std[:, None, None]
        return (pixels if numerics.pad_black else F.pad(pixels, around))[None]

    # ---- proposals ---------------------------------------------------------------------------------------------------

    def _proposals(self, maps: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """`rpn_post_nms` regions [P, 4], and which of them count [P]."""
        numerics, model = self.model.spec.numerics, self.model
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for level, (name, map_) in enumerate(model.proposal_maps(maps).items()):
            logits, deltas = model.rpn(map_, level)
            flat = anchor_ops.per_anchor(logits, 1)[0, :, 0], anchor_ops.per_anchor(deltas, 4)[0]
            found.append((*flat, self.get_buffer(f"anchors_{name}")))
        if numerics.rpn_scope == "image":
            logits, deltas, anchors = (torch.cat(parts) for parts in zip(*found, strict=True))
            found = [(logits, deltas, anchors)]
        best = [self._candidates(*one) for one in found]
        boxes, scores = (torch.cat(parts) for parts in zip(*best, strict=True))
        level_of = torch.cat([torch.full((len(one),), level) for level, (one, _) in enumerate(best)])
        scores = scores.sigmoid() if numerics.rpn_rank == "probability" else scores
        counts = torch.ones_like(level_of, dtype=torch.bool)
        if numerics.rpn_score_threshold is not None:
            chances = scores.sigmoid() if numerics.rpn_rank == "logit" else scores
            counts = chances > numerics.rpn_score_threshold
        window = model.window((0, 0, *model.clip_size(self.prepared, self.padded)))
        least = numerics.rpn_min_size
        if least is not None and numerics.rpn_min_size_in == "photograph":
            least *= (self.prepared.scale[0] * self.prepared.scale[1]) ** 0.5
        if not numerics.clip_after_nms:
            boxes = box_ops.clip(boxes, window)
            counts = counts if least is None else counts & self._at_least(boxes, least)
        chosen, counts = self._suppressed(
            boxes,
            scores,
            level_of,
            counts,
            numerics.rpn_nms_threshold,
            most=numerics.rpn_post_nms,
            kinds=len(best),
            per_kind=numerics.rpn_level_post_nms,
        )
        regions = boxes[chosen]
        if numerics.clip_after_nms:
            regions = box_ops.clip(regions, window)
            counts = counts if least is None else counts & self._at_least(regions, least)
        if numerics.detect_filled:
            regions, counts = regions * counts[:, None], torch.ones_like(counts)
        return regions, counts

    def _candidates(self, logits: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """The best of a level, moved: boxes [k, 4] and what they are ranked by [k]."""
        numerics = self.model.spec.numerics
        most = numerics.rpn_post_nms if numerics.rpn_pre_nms == 0 else numerics.rpn_pre_nms
        ranked = logits.sigmoid() if numerics.rpn_rank == "probability-first" else logits
        scores, best = ranked.topk(len(logits) if most is None else min(most, len(logits)))
        moved = decoded(deltas[best], anchors[best], numerics.rpn_delta_weights, numerics)
        return moved[:, 0], scores

    def _at_least(self, boxes: Tensor, size: float) -> Tensor:
        """Which of boxes [..., 4] have sides of `size`, and some area."""
        sides = boxes[..., 2:] - boxes[..., :2] + self.model.spec.numerics.inclusive_areas
        return ((sides >= size) & (sides > 0)).all(-1)

    # ---- suppression -------------------------------------------------------------------------------------------------

    def _suppressed(
        self,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        counts: Tensor,
        threshold: float,
        *,
        most: int,
        kinds: int,
        per_kind: int | None = None,
        seen: Tensor | None = None,
        together: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The best `most` of what suppression within each of `kinds` labels leaves: indices [most], and which count.

        `seen`: which of them may stay; the others suppress too. `together`: labels are shifted apart as torchvision's
        `batched_nms` does it, with its rounding.
        """
        numerics = self.model.spec.numerics
        those = torch.nonzero(counts).squeeze(1)
        boxes, scores, labels = boxes[those], scores[those], labels[those]
        if numerics.inclusive_areas:
            boxes = boxes + torch.tensor((0.0, 0.0, 1.0, 1.0))
        if numerics.nms_at_threshold:
            threshold = float(np.nextafter(np.float32(threshold), np.float32(-1)))
        kept = nms(boxes + self._apart(boxes, labels, together=together), scores, threshold)
        stays = torch.ones_like(kept, dtype=torch.bool)
        of_kind = labels[kept][:, None] == torch.arange(kinds)
        if numerics.nms_flat_last:
            flat = (boxes[kept, 2:] <= boxes[kept, :2]).any(1)
            before = (of_kind & flat[:, None]).long()
            stays = ((before.cumsum(0) - before) * of_kind).sum(1) == 0
        if per_kind is not None:
            stays = stays & (((of_kind & stays[:, None]).long().cumsum(0) * of_kind).sum(1) <= per_kind)
        if seen is not None:
            stays = stays & seen[those][kept]
        kept = those[kept[torch.nonzero(stays).squeeze(1)]]
        none = torch.zeros(most, dtype=torch.long)
        return torch.cat((kept, none))[:most], torch.cat((torch.ones_like(kept), none))[:most] > 0

    def _apart(self, boxes: Tensor, labels: Tensor, *, together: bool) -> Tensor:
        """By how much boxes are to be moved so that those of unlike labels do not meet, [N, 4]."""
        if together:
            reach = torch.cat((boxes.reshape(-1), torch.zeros(1))).max() + 1
            return (labels.to(boxes.dtype) * reach)[:, None]
        # each label in a field of its own, in rows and columns: the nearer to the origin, the finer is float32
        side = 2.0 * max(*self.padded, *self.photograph)
        field = torch.stack((labels % _COLUMNS, torch.div(labels, _COLUMNS, rounding_mode="floor")), 1)
        return torch.cat((field, field), 1).to(boxes.dtype) * side

    # ---- regions -----------------------------------------------------------------------------------------------------

    def _detections(
        self, maps: dict[str, Tensor], regions: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`max_detections` boxes [D, 4], scores [D] and labels [D], and which of them count [D]."""
        numerics, model, prepared = self.model.spec.numerics, self.model, self.prepared
        decoded_there, suppressed_there = numerics.detect_in == "photograph", numerics.detect_in != "input"
        logits, deltas = model.box_predictor(model.box_head(self._pool(maps, regions, numerics.box_pool_size)))
        placed_there = prepared.to_original(regions) if decoded_there else regions
        moved = decoded(deltas, placed_there, numerics.box_delta_weights, numerics)
        window = model.window((0, 0, *prepared.original) if decoded_there else model.detection_window(prepared))
        moved = moved if numerics.clip_after_nms else box_ops.clip(moved, window)
        if suppressed_there and not decoded_there:
            moved = prepared.to_original(moved)
        probabilities = scored(logits / numerics.logit_scale, numerics.class_scores)
        scores = probabilities[:, :-1]
        if numerics.class_choice == "best":
            best = probabilities.argmax(1, keepdim=True) == torch.arange(scores.shape[1])
            passed = best & (scores >= numerics.score_threshold)
        else:
            passed = scores > numerics.score_threshold
        passed = passed & counts[:, None]
        places, classes = scores.shape
        agnostic = model.spec.arch.box_rows.startswith("agnostic")
        moved = moved[:, :1].expand(places, classes, 4) if agnostic else moved[:, :classes]
        if numerics.box_min_size > 0:
            passed = passed & self._at_least(moved, numerics.box_min_size)
        boxes = moved.reshape(-1, 4)
        labels = torch.arange(classes).repeat(places)
        scores = scores.reshape(-1)
        chosen, counts = self._suppressed(
            boxes,
            scores,
            labels,
            passed.reshape(-1),
            numerics.nms_threshold,
            most=numerics.max_detections,
            kinds=classes,
            per_kind=numerics.max_per_class,
            seen=(boxes[:, 2:].round() > boxes[:, :2].round()).all(1) if numerics.box_rounding == "drop" else None,
            together=not numerics.nms_apart,
        )
        boxes = boxes[chosen]
        if numerics.clip_after_nms:
            boxes = box_ops.clip(boxes, window)
            counts = counts & self._at_least(boxes, 0)
        return boxes, scores[chosen], labels[chosen], counts

    def _mask_logits(self, maps: dict[str, Tensor], boxes: Tensor) -> Tensor:
        model, numerics = self.model, self.model.spec.numerics
        if isinstance(model.box_head, Res5BoxHead):
            inner = model.box_head.maps(self._pool(maps, boxes, numerics.box_pool_size))
        else:
            inner = self._pool(maps, boxes, numerics.mask_pool_size)
        logits: Tensor = model.mask_predictor(model.mask_head(inner))
        return logits

    def _pool(self, maps: dict[str, Tensor], boxes: Tensor, size: int) -> Tensor:
        """Features of regions [N, 4]: [N, C, s, s]."""
        numerics, model = self.model.spec.numerics, self.model
        if numerics.roi_method == "crop":
            return model.pool(maps, [boxes], size, self.padded)
        names = list(model.proposal_maps(maps))
        names = names[:-1] if model.fpn else names
        regions = torch.cat((torch.zeros_like(boxes[:, :1]), boxes), 1)
        level = torch.zeros_like(boxes[:, 0], dtype=torch.long)
        if len(names) > 1:
            finest, coarsest = (model.stride(name).bit_length() - 1 for name in (names[0], names[-1]))
            level = levels(
                boxes,
                finest=finest,
                coarsest=coarsest,
                epsilon=numerics.level_epsilon,
                epsilon_value=numerics.level_epsilon_value,
                rounding=numerics.level_rounding,
                inclusive=numerics.inclusive_areas,
            )
            level = level - finest
        side = size
        pooled = torch.zeros(len(boxes), maps[names[0]].shape[1], side, side)
        for index, name in enumerate(names):
            stride = model.stride(name)
            those = torch.nonzero(level == index).squeeze(1)
            chosen = placed(
                regions[those],
                stride,
                aligned=numerics.roi_aligned,
                inclusive=numerics.roi_inclusive,
                any_size=numerics.roi_any_size,
            )
            aligned = numerics.roi_aligned or numerics.roi_any_size
            part = roi_align(maps[name], chosen, side, 1 / stride, numerics.roi_sampling, aligned)
            pooled = pooled.index_put((those,), part)
        return F.max_pool2d(pooled, *numerics.roi_max_pool) if numerics.roi_max_pool != (1, 1) else pooled
