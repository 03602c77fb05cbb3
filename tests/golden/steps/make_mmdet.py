"""What MMDetection's own targets and losses make of the made-up step.

python make_mmdet.py mmdet.npz     # mmdet 3.3.0 with mmcv 2.1.0 and torch 2.15 made it

Its parts are set as `configs/_base_/models/mask-rcnn_r50_fpn.py` sets them. A draw takes the first, on both sides; true
boxes stand behind the other proposals, where there they stand before them. Where MMCV was installed without its
compiled kernels, `tests/homes/mmdet_home.py` puts torchvision's in their place.
"""

import sys
from pathlib import Path

import made_up
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "homes"))
import mmdet_home  # noqa: F401
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict as Settings
from mmengine.structures import InstanceData

LEVELS = (4, 8, 16, 32, 64)
SIDE = 28


def assigning(positive, negative, least, count, fraction, *, truth):
    assigner = {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": positive,
        "neg_iou_thr": negative,
        "min_pos_iou": least,
        "match_low_quality": True,
        "ignore_iof_thr": -1,
    }
    sampler = {
        "type": "RandomSampler",
        "num": count,
        "pos_fraction": fraction,
        "neg_pos_ub": -1,
        "add_gt_as_proposals": truth,
    }
    return {"assigner": assigner, "sampler": sampler, "pos_weight": -1, "debug": False}


def coder(*stds):
    return {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": stds}


def parts():
    layer = {"type": "RoIAlign", "sampling_ratio": 0}
    pooled = {"type": "SingleRoIExtractor", "out_channels": 256, "featmap_strides": LEVELS[:4]}
    proposing = {
        "type": "RPNHead",
        "in_channels": 256,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "scales": [8],
            "ratios": [0.5, 1.0, 2.0],
            "strides": LEVELS,
        },
        "bbox_coder": coder(1.0, 1.0, 1.0, 1.0),
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True},
        "loss_bbox": {"type": "L1Loss"},
        "train_cfg": {**assigning(0.7, 0.3, 0.3, 256, 0.5, truth=False), "allowed_border": -1},
    }
    regions = {
        "type": "StandardRoIHead",
        "bbox_roi_extractor": {**pooled, "roi_layer": {**layer, "output_size": 7}},
        "bbox_head": {
            "type": "Shared2FCBBoxHead",
            "num_classes": made_up.CLASSES,
            "bbox_coder": coder(0.1, 0.1, 0.2, 0.2),
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False},
            "loss_bbox": {"type": "L1Loss"},
        },
        "mask_roi_extractor": {**pooled, "roi_layer": {**layer, "output_size": 14}},
        "mask_head": {
            "type": "FCNMaskHead",
            "num_classes": made_up.CLASSES,
            "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True},
        },
        "train_cfg": {**assigning(0.5, 0.5, 0.5, 512, 0.25, truth=True), "mask_size": SIDE},
    }
    return MODELS.build(Settings(proposing)), MODELS.build(Settings(regions))


def run(scene):
    proposing, heads = parts()
    height, width, _ = made_up.SCENES[scene]
    page = made_up.PAGES.get(scene, (height, width))
    boxes, labels, masks, _ = made_up.truth(scene)
    masks = np.pad(masks, ((0, 0), (0, page[0] - height), (0, page[1] - width)))
    truth = InstanceData(
        bboxes=torch.from_numpy(boxes).float(), labels=torch.from_numpy(labels), masks=BitmapMasks(masks, *page)
    )
    about = {
        "img_shape": (height, width),
        "pad_shape": tuple(-(-side // 32) * 32 for side in (height, width)),
        "batch_input_shape": page,
    }
    cells = [(-(-page[0] // stride), -(-page[1] // stride)) for stride in LEVELS]
    anchors = torch.cat(proposing.prior_generator.grid_priors(cells, device="cpu"))
    logits, deltas = (
        torch.from_numpy(one).requires_grad_() for one in made_up.proposal_outputs(anchors.numpy(), 0.05, scene)
    )
    counts = [3 * rows * columns for rows, columns in cells]
    maps = [
        [
            one.reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
            for one, (rows, columns) in zip(given.split(counts), cells)
        ]
        for given in (logits, deltas)
    ]
    objects = InstanceData(bboxes=truth.bboxes, labels=torch.zeros_like(truth.labels))  # `TwoStageDetector.loss`
    losses = [sum(one) for one in proposing.loss_by_feat(*maps, [objects], [about]).values()]
    with torch.no_grad():
        how = {"nms_pre": 2000, "max_per_img": 1000, "nms": {"type": "nms", "iou_threshold": 0.7}, "min_bbox_size": 0}
        (found,) = proposing.predict_by_feat(*maps, batch_img_metas=[about], cfg=Settings(how))
    found.priors = found.pop("bboxes")
    del found.labels
    assigned = heads.bbox_assigner.assign(found, truth)
    first = len(boxes)
    heads.bbox_sampler.random_choice = lambda given, count: torch.cat((given[given >= first], given[given < first]))[
        :count
    ]
    sampled = heads.bbox_sampler.sample(assigned, found, truth)
    regions, positive = sampled.priors, sampled.pos_priors.numpy()
    scales = [torch.ones((), requires_grad=True) for _ in range(3)]
    losses += [
        one
        for name, one in heads.bbox_head.loss_and_target(
            scales[0] * torch.from_numpy(made_up.class_logits(regions.numpy())).float(),
            scales[1] * torch.from_numpy(made_up.box_deltas(regions.numpy())).float().flatten(1),
            torch.nn.functional.pad(regions, (1, 0)),
            [sampled],
            heads.train_cfg,
        )["loss_bbox"].items()
        if name.startswith("loss")
    ]
    seen = scales[2] * torch.from_numpy(made_up.mask_logits(positive, SIDE)).float()
    losses += heads.mask_head.loss_and_target(seen, [sampled], [truth], heads.train_cfg)["loss_mask"].values()
    slopes = torch.autograd.grad(sum(losses), [logits, deltas, *scales], allow_unused=True, materialize_grads=True)
    by_logit, by_move, *by_scale = (one.numpy() for one in slopes)
    values = [one.item() for one in losses]
    print(scene, values, by_scale, len(positive), len(regions), (by_logit != 0).sum())
    return {
        "losses": np.array(values, np.float32),
        "regions": regions.numpy(),
        "labels": np.concatenate((sampled.pos_gt_labels.numpy(), np.full(len(sampled.neg_priors), made_up.CLASSES))),
        "slopes.logits": by_logit[:: made_up.STEP],
        "slopes.deltas": by_move[:: made_up.STEP],
        "slopes.heads": np.array(by_scale, np.float32),
    }


def main(out):
    register_all_modules()
    torch.randperm = lambda count, **_: torch.arange(count)
    scenes = {scene: run(scene) for scene in ("crowded", "corner", "beside")}
    np.savez_compressed(out, **{f"{scene}.{name}": found[name] for scene, found in scenes.items() for name in found})


if __name__ == "__main__":
    main(sys.argv[1])
