"""What MMDetection 1's own targets and losses make of the made-up step.

python make_mmdet_1.py SOURCE mmdet_1.npz     # mmdet 0.6.2 made it, the last whose packages hold these sources

`SOURCE` is the folder `mmdet` of its source distribution, whose `core/` and `models/losses` are read without its
compiled parts; suppression is torchvision's, on boxes that end one pixel later, as its own counts them. Its parts are
set as `configs/mask_rcnn_r50_fpn_1x.py` sets them. A draw takes the first, on both sides; true boxes stand behind the
other proposals, where there they stand before them.
"""

import importlib
import sys
import types
from pathlib import Path

import cv2
import made_up
import numpy as np
import torch
import torchvision

LEVELS = (4, 8, 16, 32, 64)
SIDE = 28


class Settings(dict):
    __getattr__ = dict.__getitem__


def assigning(positive, negative, least, count, fraction, *, truth):
    assigner = {"type": "MaxIoUAssigner", "pos_iou_thr": positive, "neg_iou_thr": negative, "min_pos_iou": least}
    sampler = {"type": "RandomSampler", "num": count, "pos_fraction": fraction, "neg_pos_ub": -1}
    return Settings(
        assigner=Settings(assigner, ignore_iof_thr=-1),
        sampler=Settings(sampler, add_gt_as_proposals=truth),
        pos_weight=-1,
        allowed_border=0,
        mask_size=SIDE,
    )


def opened(source):
    """Its packages as they stand, without what imports compiled code or what newer libraries have no more."""
    for name in ("mmdet", "mmdet.core", "mmdet.models"):
        module = sys.modules[name] = types.ModuleType(name)
        module.__path__ = [str(Path(source, *name.split(".")[1:]))]
    ops = sys.modules["mmdet.ops"] = types.ModuleType("mmdet.ops")
    ops.sigmoid_focal_loss = None
    utils = sys.modules["mmdet.utils"] = types.ModuleType("mmdet.utils")
    utils.Registry = Registry
    mmcv = sys.modules["mmcv"] = types.ModuleType("mmcv")
    mmcv.imresize = lambda image, size: cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    mmcv.runner = sys.modules["mmcv.runner"] = types.ModuleType("mmcv.runner")
    mmcv.runner.obj_from_dict = obj_from_dict
    dist = sys.modules["mmdet.core.utils.dist_utils"] = types.ModuleType("mmdet.core.utils.dist_utils")
    dist.allreduce_grads = dist.DistOptimizerHook = None
    parts = ("core.anchor.anchor_target", "core.anchor.anchor_generator", "core.bbox", "core.mask.mask_target")
    found = [importlib.import_module(f"mmdet.{part}") for part in parts]
    sys.modules["mmdet.core"].bbox_overlaps = found[2].bbox_overlaps
    return found


class Registry:
    def __init__(self, name):
        self.register_module = lambda module: module


def obj_from_dict(info, parent=None, default_args=None):
    settings = {**info, **(default_args or {})}
    return getattr(parent, settings.pop("type"))(**settings)


def suppressed(boxes, scores, threshold):
    """Its `nms` counts the last pixel of a box."""
    return torchvision.ops.nms(boxes + boxes.new_tensor((0, 0, 1, 1)), scores, threshold)


def proposed(bbox, anchors, logits, deltas, shape):
    """`RPNHead.get_bboxes_single`, level by level."""
    found, scores = [], []
    for level, given, moves in zip(anchors, logits, deltas):
        likely = given.sigmoid()
        if len(likely) > 2000:
            likely, best = likely.topk(2000)
            level, moves = level[best], moves[best]
        boxes = bbox.delta2bbox(level, moves, [0.0] * 4, [1.0] * 4, shape)
        kept = suppressed(boxes, likely, 0.7)[:2000]
        found.append(boxes[kept])
        scores.append(likely[kept])
    found, scores = torch.cat(found), torch.cat(scores)
    return found[scores.topk(min(2000, len(scores)))[1]]


def run(scene, targets, generators, bbox, masks, losses):
    height, width, _ = made_up.SCENES[scene]
    page = made_up.PAGES.get(scene, (height, width))
    boxes, labels, planes, _ = made_up.truth(scene)
    # a box of its datasets ends with its last pixel
    truth, kinds = torch.from_numpy(boxes - np.array((0, 0, 1, 1))).float(), torch.from_numpy(labels) + 1
    shape = (height, width, 3)
    own = [-(-side // 32) * 32 for side in (height, width)]
    anchors, flags = [], []
    for stride in LEVELS:
        cells = tuple(-(-side // stride) for side in page)
        makes = generators.AnchorGenerator(stride, [8], [0.5, 1.0, 2.0])
        anchors.append(makes.grid_anchors(cells, stride, device="cpu"))
        valid = tuple(min(-(-side // stride), cell) for side, cell in zip(own, cells))
        flags.append(makes.valid_flags(cells, valid, device="cpu").bool())
    parts = [len(one) for one in anchors]
    logits, deltas = (
        torch.from_numpy(one).requires_grad_()
        for one in made_up.proposal_outputs(torch.cat(anchors).numpy(), 0.05, scene)
    )
    about = {"img_shape": shape, "pad_shape": (*own, 3)}
    found = targets.anchor_target(
        [list(anchors)],
        [list(flags)],
        [truth],
        [about],
        [0.0] * 4,
        [1.0] * 4,
        assigning(0.7, 0.3, 0.3, 256, 0.5, truth=False),
    )
    answers, weights, wanted, counted, positives, negatives = found
    total = positives + negatives
    ends = [slice(sum(parts[:level]), sum(parts[: level + 1])) for level in range(len(parts))]
    level_losses = [
        (
            losses.CrossEntropyLoss(use_sigmoid=True)(
                logits[part][:, None], answer.reshape(-1), weight.reshape(-1), avg_factor=total
            ),
            losses.SmoothL1Loss(beta=1 / 9)(deltas[part], aim.reshape(-1, 4), count.reshape(-1, 4), avg_factor=total),
        )
        for part, answer, weight, aim, count in zip(ends, answers, weights, wanted, counted)
    ]
    five = [sum(one) for one in zip(*level_losses)]
    with torch.no_grad():
        regions = proposed(bbox, anchors, logits.split(parts), deltas.split(parts), shape)
    how = assigning(0.5, 0.5, 0.5, 512, 0.25, truth=True)
    assigned = bbox.build_assigner(how.assigner).assign(regions, truth, None, kinds)
    sampler, first = bbox.build_sampler(how.sampler, context=None), len(truth)
    sampler.random_choice = lambda given, count: torch.cat((given[given >= first], given[given < first]))[:count]
    sampled = sampler.sample(assigned, regions, truth, kinds)
    asked, weight, aims, counts = bbox.bbox_target(
        [sampled.pos_bboxes],
        [sampled.neg_bboxes],
        [sampled.pos_gt_bboxes],
        [sampled.pos_gt_labels],
        how,
        target_stds=[0.1, 0.1, 0.2, 0.2],
    )
    regions, positive = sampled.bboxes, len(sampled.pos_bboxes)
    scales = [torch.ones((), requires_grad=True) for _ in range(3)]
    said = torch.from_numpy(np.roll(made_up.class_logits(regions.numpy()), 1, 1)).float()
    moves = torch.from_numpy(made_up.box_deltas(regions.numpy())).float()
    of_class = moves[torch.arange(positive), asked[:positive] - 1]
    total = max(float((weight > 0).sum()), 1.0)
    five.append(losses.CrossEntropyLoss()(scales[0] * said, asked, weight, avg_factor=total))
    five.append(
        losses.SmoothL1Loss()(scales[1] * of_class, aims[:positive], counts[:positive], avg_factor=len(regions))
    )
    inner = masks.mask_target([sampled.pos_bboxes], [sampled.pos_assigned_gt_inds], [planes.astype(np.uint8)], how)
    seen = torch.from_numpy(made_up.mask_logits(sampled.pos_bboxes.numpy(), SIDE)).float()
    seen = torch.nn.functional.pad(seen, (0, 0, 0, 0, 1, 0))
    five.append(losses.CrossEntropyLoss(use_mask=True)(scales[2] * seen, inner, sampled.pos_gt_labels))
    slopes = torch.autograd.grad(sum(one.sum() for one in five), [logits, deltas, *scales])
    by_logit, by_move, *by_scale = (one.numpy() for one in slopes)
    values = [one.sum().item() for one in five]
    print(scene, values, by_scale, positive, len(regions), (by_logit != 0).sum())
    return {
        "losses": np.array(values, np.float32),
        "regions": regions.numpy(),
        "labels": np.where(asked.numpy() > 0, asked.numpy() - 1, made_up.CLASSES),
        "slopes.logits": by_logit[:: made_up.STEP],
        "slopes.deltas": by_move[:: made_up.STEP],
        "slopes.heads": np.array(by_scale, np.float32),
    }


def main(source, out):
    modules = opened(source)
    losses = types.SimpleNamespace()
    for name in ("cross_entropy_loss", "smooth_l1_loss"):
        losses.__dict__.update(importlib.import_module(f"mmdet.models.losses.{name}").__dict__)
    np.random.shuffle = lambda values: None
    scenes = {scene: run(scene, *modules, losses) for scene in ("crowded", "inside", "beside")}
    np.savez_compressed(out, **{f"{scene}.{name}": found[name] for scene, found in scenes.items() for name in found})


if __name__ == "__main__":
    main(*sys.argv[1:])
