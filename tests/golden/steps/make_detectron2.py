"""What Detectron2's own targets and losses make of the made-up step.

python make_detectron2.py FOLDER     # Detectron2 0.6 (02b5c4e) on torch 2.15 made them

`detectron2.npz` is by the settings of `mask_rcnn_R_50_FPN_1x.yaml`, `detectron2_giou.npz` by others of training. A draw
takes the first, on both sides.
"""

import sys
from pathlib import Path

import made_up
import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
from detectron2.structures import Boxes, ImageList, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

STRIDES, SIDE = (4, 8, 16, 32, 64), 28
PYRAMID = {
    "MASK_ON": True,
    "BACKBONE.NAME": "build_resnet_fpn_backbone",
    "RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "RPN.POST_NMS_TOPK_TRAIN": 1000,
    "ROI_HEADS.NAME": "StandardROIHeads",
    "ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "ROI_HEADS.NUM_CLASSES": made_up.CLASSES,
    "ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "ROI_BOX_HEAD.NUM_FC": 1,
    "ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
}
OTHER = {
    "RPN.BBOX_REG_LOSS_TYPE": "giou",
    "RPN.BBOX_REG_LOSS_WEIGHT": 3.0,
    "RPN.LOSS_WEIGHT": 0.5,
    "RPN.BOUNDARY_THRESH": 0,
    "RPN.BATCH_SIZE_PER_IMAGE": 200,
    "RPN.POSITIVE_FRACTION": 0.25,
    "RPN.IOU_THRESHOLDS": [0.2, 0.6],
    "ROI_HEADS.PROPOSAL_APPEND_GT": False,
    "ROI_HEADS.IOU_THRESHOLDS": [0.4],
    "ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.5,
    "ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": 2.0,
}


def run(scene, settings):
    config = get_cfg()
    config.MODEL.DEVICE = "cpu"
    config.merge_from_list([one for key, value in settings.items() for one in ("MODEL." + key, value)])
    model = build_model(config).train()
    first, second = model.proposal_generator, model.roi_heads
    height, width, _ = made_up.SCENES[scene]
    boxes, labels, _, polygons = made_up.truth(scene)
    truth = Instances((height, width))
    truth.gt_boxes = Boxes(torch.from_numpy(boxes.astype(np.float32)))
    truth.gt_classes = torch.from_numpy(labels)
    truth.gt_masks = PolygonMasks([[one.reshape(-1).astype(np.float64)] for one in polygons])
    maps = [torch.zeros(1, 1, -(-height // stride), -(-width // stride)) for stride in STRIDES]
    anchors = first.anchor_generator(maps)
    flat = torch.cat([one.tensor for one in anchors]).numpy()
    given = [torch.from_numpy(one).requires_grad_() for one in made_up.proposal_outputs(flat, 0.05, scene)]
    parts = [len(one) for one in anchors]
    logits, deltas = ([part[None] for part in one.split(parts)] for one in given)
    wanted = first.label_and_sample_anchors(anchors, [truth])
    losses = list(first.losses(anchors, logits, wanted[0], deltas, wanted[1]).values())
    images = ImageList(torch.zeros(1, 3, height, width), [(height, width)])
    with torch.no_grad():
        proposals = first.predict_proposals(anchors, logits, deltas, images.image_sizes)
        drawn = second.label_and_sample_proposals(proposals, [truth])
    scales = [torch.ones((), requires_grad=True) for _ in range(3)]
    regions = drawn[0].proposal_boxes.tensor.numpy()
    said = torch.from_numpy(made_up.class_logits(regions)).float()
    moved = torch.from_numpy(made_up.box_deltas(regions)).float().flatten(1)
    found = second.box_predictor.losses((scales[0] * said, scales[1] * moved), drawn)
    losses += [found["loss_cls"], found["loss_box_reg"]]
    positive = drawn[0][drawn[0].gt_classes < made_up.CLASSES]
    seen = torch.from_numpy(made_up.mask_logits(positive.proposal_boxes.tensor.numpy(), SIDE)).float()
    losses.append(mask_rcnn_loss(scales[2] * seen, [positive]))
    slopes = [one.numpy() for one in torch.autograd.grad(torch.stack(losses).sum(), [*given, *scales])]
    print(scene, [one.item() for one in losses], len(positive), len(regions), (slopes[0] != 0).sum())
    return {
        "losses": np.array([one.item() for one in losses], np.float32),
        "regions": regions,
        "labels": drawn[0].gt_classes.numpy(),
        "slopes.logits": slopes[0][:: made_up.STEP],
        "slopes.deltas": slopes[1][:: made_up.STEP],
        "slopes.heads": np.array(slopes[2:], np.float32),
    }


def main(folder):
    torch.randperm = lambda count, **_: torch.arange(count)
    for name, settings, scenes in (
        ("detectron2", PYRAMID, ("crowded", "small")),
        ("detectron2_giou", {**PYRAMID, **OTHER}, ("crowded", "inside")),
    ):
        with EventStorage():
            made = {scene: run(scene, settings) for scene in scenes}
        values = {f"{scene}.{key}": value for scene, found in made.items() for key, value in found.items()}
        np.savez_compressed(Path(folder, f"{name}.npz"), **values)


if __name__ == "__main__":
    main(sys.argv[1])
