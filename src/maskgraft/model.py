"""`MaskRCNN(spec)`: the one model, which obeys every convention of its `Spec`. Here the stages are joined and named."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskgraft import losses, targets
from maskgraft.backbones import build
from maskgraft.detections import Detections
from maskgraft.grafted import Grafted
from maskgraft.heads import FPN, RPN, BoxPredictor, ConvBoxHead, MaskHead, MaskPredictor, Res5BoxHead
from maskgraft.ops import anchors as anchor_ops
from maskgraft.ops import boxes as box_ops
from maskgraft.ops import selection
from maskgraft.ops.boxes import Window
from maskgraft.ops.paste import paste
from maskgraft.ops.pooling import levels, pool, pool_crops
from maskgraft.preprocess import Prepared, as_rgb, prepare, stack
from maskgraft.sending import sent
from maskgraft.spec import Arch, Spec
from maskgraft.targets import Batch

Size = tuple[int, int]


class MaskRCNN(nn.Module):
    """Mask R-CNN (He et al. 2017): images in, instances out.

        model = mg.load("model_final.pkl")
        detections = model.predict(["street.jpg"])[0]
        stages = model.trace("street.jpg")       # every stage by name, for comparing
        losses = model(batch)                    # the five losses of a training step

    A new model has PyTorch's default initialisation; `mg.load` and `graft` fill it from a file.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        arch, numerics = spec.arch, spec.numerics
        self.spec = spec
        self.graft: Grafted | None = None  # where the weights came from
        self.backbone = build(arch, numerics)
        channels: dict[str, int] = self.backbone.channels  # type: ignore[assignment]
        self.fpn = FPN(arch, numerics, channels) if arch.neck == "fpn" else None
        width = arch.neck_channels if self.fpn else list(channels.values())[-1]
        self.rpn = RPN(arch, numerics, width)
        self.box_head = Res5BoxHead(arch, numerics) if arch.box_head == "res5" else ConvBoxHead(arch, numerics, width)
        self.box_predictor = BoxPredictor(arch, self.box_head.channels)
        self.mask_head = MaskHead(arch, numerics, self.box_head.channels if arch.box_head == "res5" else width)
        self.mask_predictor = MaskPredictor(arch)

    @staticmethod
    def from_scratch(
        arch: str | Arch,
        classes: Sequence[str],
        *,
        init: Literal["kaiming", "xavier"] = "kaiming",
        norm: Literal["gn", "syncbn", "bn"] = "gn",
        numerics: Mapping[str, Any] | None = None,
    ) -> "MaskRCNN":
        """A model of random weights, none of them frozen; `Recipe(from_scratch=True)` trains it.

            model = MaskRCNN.from_scratch("resnet50", ["person", "forklift"])

        `arch` is "resnet50", "resnet101", "resnet18", "small", or an `Arch`, whose norms are then its own. Group norm
        ("gn", Wu & He 2018) does not mind small batches; batch norm ("bn") takes batches of 8 and more, and its
        statistics of all GPUs with "syncbn". `init` is that of the backbone's convolutions. Conventions are
        torchvision's, changed by `numerics`. Draws from torch's global generator. Raises `UsageError` for
        unknown names, and norms that cannot learn.
        """
        from maskgraft.scratch import from_scratch

        return from_scratch(arch, classes, init=init, norm=norm, numerics=numerics)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.rpn.objectness.weight.device

    # ---- the stages ------------------------------------------------------------------------------------------------

    def features(self, pixels: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] to every map: "c2".."c5", and "p2".."p6" where there is a pyramid."""
        maps: dict[str, Tensor] = self.backbone(pixels.contiguous(memory_format=torch.channels_last))
        return {**maps, **self.fpn(maps)} if self.fpn else maps

    def proposal_maps(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """The maps that the proposal network reads, finest first."""
        if self.fpn:
            return {name: map_ for name, map_ in maps.items() if name.startswith("p")}
        name = list(maps)[-1]
        return {name: maps[name]}

    def anchors(self, maps: dict[str, Tensor], padded: Size) -> list[Tensor]:
        """Anchors of each level, [H·W·A, 4] xyxy, row by row; `padded` is the size of the batch's pixels."""
        numerics = self.spec.numerics
        result = []
        for sizes, (name, map_) in zip(numerics.anchor_sizes, maps.items(), strict=True):
            rows, columns = map_.shape[-2:]
            stride = (
                (padded[0] // rows, padded[1] // columns)
                if numerics.anchor_stride == "grid"
                else (self.stride(name), self.stride(name))
            )
            cell = anchor_ops.cell(
                sizes,
                numerics.anchor_ratios,
                order=numerics.anchor_order,
                rounding=numerics.anchor_rounding,
                stride=self.stride(name),
                offset=numerics.anchor_offset,
                whole_sides=numerics.anchor_whole_sides,
                inclusive=numerics.inclusive_boxes,
                corners=numerics.corner_boxes,
            )
            every = anchor_ops.grid(sent(cell, map_.device), (rows, columns), stride)
            cut = numerics.anchor_clip_train if self.training else numerics.anchor_clip
            result.append(box_ops.clip(every, self.window((0, 0, *padded))) if cut else every)
        return result

    def stride(self, name: str) -> int:
        """Pixels of the input per cell of a map: 4 for "c2" and "p2", doubling; C5 of DC5 keeps 16."""
        strides: dict[str, int] = getattr(self.backbone, "strides", {})
        if strides:
            same = f"c{name[1:]}"
            return strides[same] if same in strides else 2 * list(strides.values())[-1]
        if name == "c4" and self.spec.arch.neck == "c4":
            return self.spec.numerics.c4_stride
        return 16 if name == "c5" and self.spec.arch.neck == "dc5" else 2 ** int(name[1])

    def window(self, window: Window) -> Window:
        """Lowest y and x and highest y and x of boxes in a window of pixels: top, left, bottom, right."""
        numerics = self.spec.numerics
        last = numerics.inclusive_boxes or numerics.corner_boxes
        return window[0], window[1], window[2] - last, window[3] - last

    def propose(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        size: tuple[float, float],
        *,
        scale: float = 1.0,
    ) -> selection.Scored:
        """Proposals of one image from flat logits [M_l], deltas [M_l, 4] and anchors [M_l, 4] per level.

        `scale`: lengths in the input by lengths in the photograph.
        """
        numerics = self.spec.numerics
        if self.training and numerics.rpn_outside == "absent":
            inside = [losses.within(one, size, numerics) for one in anchors]
            logits, deltas, anchors = (
                [one if kept is None else one[kept] for one, kept in zip(ones, inside, strict=True)]
                for ones in (logits, deltas, anchors)
            )
        least = numerics.rpn_min_size
        if self.training and numerics.rpn_min_size_train != "as in detecting":
            least = numerics.rpn_min_size_train
        if least is not None and numerics.rpn_min_size_in == "photograph":
            least *= scale
        pre_nms = numerics.rpn_pre_nms_train if self.training else numerics.rpn_pre_nms
        post_nms = numerics.rpn_post_nms_train if self.training else numerics.rpn_post_nms
        of_level = numerics.rpn_level_post_nms_train if self.training else numerics.rpn_level_post_nms
        return selection.proposals(
            logits,
            deltas,
            anchors,
            self.window((0, 0, *size)),
            numerics,
            pre_nms=post_nms if pre_nms == 0 else pre_nms,
            level_post_nms=of_level,
            post_nms=post_nms,
            min_size=least,
        )

    def pool(
        self, maps: dict[str, Tensor], boxes: Sequence[Tensor], size: int, padded: Size, *, strict: bool = False
    ) -> Tensor:
        """Features of regions [N_i, 4] per image: [ΣN_i, C, size, size]; `padded` is the size of the batch's pixels.

        `strict`: the last bits of the boxes count (`ops.pooling.crop_and_resize`).
        """
        numerics = self.spec.numerics
        names = list(self.proposal_maps(maps))
        names = names[:-1] if self.fpn else names  # regions read no map that only proposals come from
        chosen, strides = [maps[name] for name in names], [self.stride(name) for name in names]
        if numerics.roi_method == "crop":
            pooled = self._pool_crops(chosen, boxes, size, padded, strict=strict)
        else:
            pooled = pool(
                chosen,
                boxes,
                strides=strides,
                size=size,
                sampling=numerics.roi_sampling,
                aligned=numerics.roi_aligned,
                epsilon=numerics.level_epsilon,
                epsilon_value=numerics.level_epsilon_value,
                rounding=numerics.level_rounding,
                inclusive_areas=numerics.inclusive_areas,
                inclusive=numerics.roi_inclusive,
                any_size=numerics.roi_any_size,
            )
        return F.max_pool2d(pooled, *numerics.roi_max_pool) if numerics.roi_max_pool != (1, 1) else pooled

    def _pool_crops(
        self, maps: Sequence[Tensor], boxes: Sequence[Tensor], size: int, padded: Size, *, strict: bool
    ) -> Tensor:
        numerics = self.spec.numerics
        height, width = padded
        less = numerics.corner_boxes
        # divided in the boxes' own precision: the last bit of a fraction decides whether a crop ends on the map
        fractions = [one / one.new_tensor((width - less, height - less) * 2) for one in boxes]
        level = levels(
            torch.cat(fractions).float() * maps[0].new_tensor((width, height) * 2),
            finest=2,
            coarsest=1 + len(maps),
            epsilon=numerics.level_epsilon,
            epsilon_value=numerics.level_epsilon_value,
            rounding=numerics.level_rounding,
            inclusive=False,
        )
        return pool_crops(maps, [one.float() for one in fractions], level - 2, size=size, strict=strict)

    def mask_logits(
        self,
        maps: dict[str, Tensor],
        boxes: Sequence[Tensor],
        padded: Size,
        *,
        labels: Tensor | None = None,
        strict: bool = False,
    ) -> Tensor:
        """Mask logits of regions, [ΣN_i, R, m, m]; given their `labels` [ΣN_i] those alone, [ΣN_i, 1, m, m]."""
        if isinstance(self.box_head, Res5BoxHead):
            pooled = self.pool(maps, boxes, self.spec.numerics.box_pool_size, padded, strict=strict)
            inner = self.box_head.maps(pooled)
        else:
            inner = self.pool(maps, boxes, self.spec.numerics.mask_pool_size, padded, strict=strict)
        if labels is not None and self.spec.arch.mask_rows == "agnostic":
            labels = torch.zeros_like(labels)
        logits: Tensor = self.mask_predictor(self.mask_head(inner), labels)
        return logits

    def detect(
        self, maps: dict[str, Tensor], regions: Tensor, prepared: Prepared, padded: Size
    ) -> tuple[selection.Scored, Tensor]:
        """Detections of one image in pixels of the photograph, and their mask probabilities [N, m, m].

        `regions` [N, 4] are in pixels of the network's input, `padded` is the size of the batch's pixels.
        """
        numerics = self.spec.numerics
        decoded_there, suppressed_there = numerics.detect_in == "photograph", numerics.detect_in != "input"
        if numerics.detect_filled:
            regions = F.pad(regions, (0, 0, 0, max(numerics.rpn_post_nms - len(regions), 0)))
        logits, deltas = self.box_predictor(self.box_head(self.pool(maps, [regions], numerics.box_pool_size, padded)))
        found = selection.detections(
            logits,
            deltas,
            prepared.to_original(regions) if decoded_there else regions,
            self.window((0, 0, *prepared.original) if decoded_there else self.detection_window(prepared)),
            numerics,
            place=prepared.to_original if suppressed_there and not decoded_there else lambda boxes: boxes,
            agnostic=self.spec.arch.box_rows.startswith("agnostic"),
        )
        boxes = prepared.to_network(found.boxes) if suppressed_there else found.boxes
        within = prepared.stretched(boxes) if numerics.mask_regions == "stretched" else boxes
        masks = self.mask_logits(maps, [within], padded, labels=found.labels)
        if not suppressed_there:
            found = replace(found, boxes=prepared.to_original(found.boxes))
        return found, masks[:, 0].sigmoid()

    def clip_size(self, prepared: Prepared, padded: Size) -> tuple[float, float]:
        """The height and width to which the proposals of an image are cut, of which `padded` is the padded input's."""
        numerics = self.spec.numerics
        inside = prepared.unrounded if numerics.clip_unrounded else prepared.size
        inside = prepared.window[2:] if numerics.clip_shown else inside
        return padded if numerics.rpn_clip_padded else inside

    def detection_window(self, prepared: Prepared) -> Window:
        """Top, left, bottom and right to which detections are cut, in pixels of the input."""
        numerics = self.spec.numerics
        if numerics.detect_padded:
            return (0, 0, *prepared.size)
        return (0, 0, *prepared.unrounded) if numerics.clip_unrounded else prepared.window

    # ---- what they are joined to -----------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, images: Sequence[Any]) -> list[Detections]:
        """Find instances.

            model.predict(["street.jpg", pil_image, array])     # array: uint8 [H, W, 3] RGB

        Each image goes through the network by itself, so that its result does not depend on its neighbours' size.
        """
        if isinstance(images, str | bytes) or not isinstance(images, Sequence):
            images = [images]
        with self.evaluating():
            return [self._predict_one(prepare(as_rgb(image), self.spec.numerics)) for image in images]

    def _predict_one(self, prepared: Prepared) -> Detections:
        pixels = self.stacked(prepared)
        maps, _, _, _, found = self.to_proposals(pixels, prepared)
        return self.instances(maps, found.boxes, prepared, _size(pixels))

    def instances(self, maps: dict[str, Tensor], regions: Tensor, prepared: Prepared, padded: Size) -> Detections:
        """What `predict` gives of one image, from the regions [N, 4] that were proposed; arguments as of `detect`."""
        numerics = self.spec.numerics
        scored, probabilities = self.detect(maps, regions, prepared, padded)
        inclusive = numerics.inclusive_areas
        height, width = prepared.original
        boxes = scored.boxes.cpu()
        boxes = boxes if numerics.detect_padded else box_ops.clip(boxes, (0, 0, height, width))
        whole = boxes.round()
        boxes = whole if numerics.box_rounding == "whole" else boxes
        sides = boxes if numerics.box_rounding == "none" else whole
        kept = (sides[:, 2:] + inclusive > sides[:, :2]).all(1)
        probabilities = probabilities.cpu()[kept]
        return Detections(
            boxes=boxes[kept],
            scores=scored.scores.cpu()[kept],
            labels=scored.labels.cpu()[kept],
            masks=paste(
                probabilities,
                boxes[kept],
                prepared.original,
                method=numerics.mask_paste,
                threshold=numerics.mask_threshold,
            ),
            mask_probs=probabilities,
        )

    @torch.inference_mode()
    def trace(
        self, image: Any, rois: Tensor | None = None, *, maps: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Every stage of one image, in order, by name; a `Prepared` image goes into the network as it is.

        "input", "c2".."c5", "p2".."p6", "rpn.logits.p2", "rpn.deltas.p2" …, "anchors", "proposals",
        "proposals.scores", and for given `rois` [N, 4] (pixels of the network's input) "roi.pooled",
        "roi.features", "roi.class_logits" (background last), "roi.box_deltas", "roi.mask_logits". `maps` are what
        `features` gave of this image, where that is known.
        """
        with self.evaluating():
            prepared = image if isinstance(image, Prepared) else prepare(as_rgb(image), self.spec.numerics)
            pixels = self.stacked(prepared)
            maps, logits, deltas, anchors, found = self.to_proposals(pixels, prepared, maps)
            stages = {"input": pixels, **maps}
            for name in logits:
                stages[f"rpn.logits.{name}"], stages[f"rpn.deltas.{name}"] = logits[name], deltas[name]
            stages |= {"anchors": torch.cat(anchors), "proposals": found.boxes, "proposals.scores": found.scores}
            if rois is not None:
                regions = [rois.to(self.device)]
                pooled = self.pool(maps, regions, self.spec.numerics.box_pool_size, _size(pixels), strict=True)
                vectors = self.box_head(pooled)
                stages |= {"roi.pooled": pooled, "roi.features": vectors}
                stages["roi.class_logits"], stages["roi.box_deltas"] = self.box_predictor(vectors)
                stages["roi.mask_logits"] = self.mask_logits(maps, regions, _size(pixels), strict=True)
            return stages

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode inside; afterwards each part is in its mode of before, of which norms have their own."""
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True

    def stacked(self, prepared: Prepared) -> Tensor:
        """One prepared image as a batch [1, 3, H, W], padded, where the weights are."""
        return stack([prepared], self.spec.numerics.pad_multiple).to(self.device)

    def to_proposals(
        self, pixels: Tensor, prepared: Prepared, maps: dict[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], list[Tensor], selection.Scored]:
        """The first half of `predict`: maps, logits and deltas by level, anchors, and proposals of one image."""
        maps = self.features(pixels) if maps is None else maps
        levels = self.proposal_maps(maps)
        logits, deltas = {}, {}
        for level, (name, map_) in enumerate(levels.items()):
            logits[name], deltas[name] = self.rpn(map_, level)
        anchors = self.anchors(levels, _size(pixels))
        found = self.propose(
            [anchor_ops.per_anchor(one, 1)[0, :, 0] for one in logits.values()],
            [anchor_ops.per_anchor(one, 4)[0] for one in deltas.values()],
            anchors,
            self.clip_size(prepared, _size(pixels)),
            scale=sqrt(prepared.scale[0] * prepared.scale[1]),
        )
        return maps, logits, deltas, anchors, found

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The five losses of a training step, as the home framework weighs them: `rpn_cls rpn_box cls box mask`.

        Proposals carry no gradient. Which anchors and proposals are sampled is drawn by the batch's seeds, or without
        any from torch's global generator. Under torch.distributed losses are divided by what all processes sampled, so
        that their mean over the processes is the loss of the whole batch.
        """
        numerics, arch = self.spec.numerics, self.spec.arch
        maps = self.features(batch.pixels)
        levels = self.proposal_maps(maps)
        heads = [self.rpn(map_, level) for level, map_ in enumerate(levels.values())]
        logits = [anchor_ops.per_anchor(one, 1)[..., 0] for one, _ in heads]
        deltas = [anchor_ops.per_anchor(one, 4) for _, one in heads]
        padded = _size(batch.pixels)
        anchors, generators = self.anchors(levels, padded), batch.generators()
        likely, moves = (torch.cat(one, 1).float() for one in (logits, deltas))
        result = losses.rpn(likely, moves, anchors, batch.sizes, batch.targets, numerics, generators=generators)
        scales = batch.scales or (1.0,) * len(batch.sizes)
        # the last pixel of an inclusive box is one of the photograph, where boxes are decoded there
        smaller = scales if numerics.detect_in == "photograph" else (1.0,) * len(scales)
        with torch.no_grad():
            proposals = [
                self.propose(
                    [one[image].float() for one in logits],
                    [one[image].float() for one in deltas],
                    anchors,
                    size,
                    scale=scales[image],
                )
                for image, size in enumerate(batch.sizes)
            ]
            if numerics.rpn_post_nms_shared:
                proposals = selection.best_of_batch(proposals, numerics.rpn_post_nms_train)
            samples = [
                targets.sample_regions(
                    found.boxes,
                    target,
                    classes=arch.classes,
                    positive_iou=numerics.roi_positive_iou,
                    rescue_iou=numerics.roi_rescue_iou,
                    count=numerics.roi_samples,
                    positive_fraction=numerics.roi_positive_fraction,
                    inclusive=numerics.inclusive_areas,
                    scale=scale,
                    truth=numerics.roi_truth,
                    negatives=numerics.roi_negatives,
                    filled=numerics.roi_filled,
                    proposed=numerics.rpn_post_nms_train if numerics.rpn_filled else 0,
                    generator=generator,
                )
                for found, target, generator, scale in zip(proposals, batch.targets, generators, smaller, strict=True)
            ]
        vectors = self.box_head(self.pool(maps, [one.boxes for one in samples], numerics.box_pool_size, padded))
        class_logits, box_deltas = self.box_predictor(vectors)
        result |= losses.boxes(
            class_logits.float(),
            box_deltas.float(),
            samples,
            batch.targets,
            numerics,
            agnostic=arch.box_rows.startswith("agnostic"),
            scales=smaller,
        )
        foreground = [one.boxes[: one.positives] for one in samples]
        labels = torch.cat([one.labels[: one.positives] for one in samples])
        mask_logits = self.mask_logits(maps, foreground, padded, labels=labels).float()
        wanted = [
            targets.mask_targets(
                target,
                one.which[: one.positives],
                one.boxes[: one.positives],
                side=mask_logits.shape[-1],
                method=numerics.mask_targets,
                page=padded,
            )
            for one, target in zip(samples, batch.targets, strict=True)
        ]
        kind, offset = numerics.mask_loss, numerics.mean_offset
        result |= losses.masks(mask_logits, labels, torch.cat(wanted), kind=kind, offset=offset)
        weights = zip(losses.LOSSES, numerics.loss_weights, strict=True)
        return {name: result[name] if weight == 1 else weight * result[name] for name, weight in weights}


def _size(pixels: Tensor) -> Size:
    return int(pixels.shape[2]), int(pixels.shape[3])
