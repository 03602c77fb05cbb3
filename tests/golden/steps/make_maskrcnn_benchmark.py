"""What maskrcnn-benchmark's own targets and losses make of the made-up step.

python make_maskrcnn_benchmark.py maskrcnn_benchmark.npz     # its 57eec25 on PyTorch 1.4.0 made it

Its settings are those of a baseline with a pyramid. A draw takes the first, and so the best proposals of all levels
are sorted, which there they are not. "bitmaps" is the mask loss where the objects have no polygons, and
"shared" how many proposals two images of a batch have, of which the second is less sure of everything.
"""

import sys

import made_up
import numpy as np
import torch
from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.roi_heads.box_head.loss import make_roi_box_loss_evaluator
from maskrcnn_benchmark.modeling.roi_heads.mask_head.loss import make_roi_mask_loss_evaluator
from maskrcnn_benchmark.modeling.rpn.anchor_generator import make_anchor_generator
from maskrcnn_benchmark.modeling.rpn.inference import make_rpn_postprocessor
from maskrcnn_benchmark.modeling.rpn.loss import make_rpn_loss_evaluator
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask

SIDE = 28
STRIDES = (4, 8, 16, 32, 64)
BASELINE = ["MODEL.RPN.USE_FPN", True, "MODEL.RPN.ANCHOR_STRIDE", STRIDES, "MODEL.RPN.PRE_NMS_TOP_N_TRAIN", 2000]


def sorted_by_score(proposals):
    order = proposals.get_field("objectness").argsort(descending=True)
    return proposals[order]


def run(scene):
    height, width, _ = made_up.SCENES[scene]
    boxes, labels, masks, polygons = made_up.truth(scene)
    size = width, height
    truth = BoxList(torch.from_numpy(boxes - np.array((0, 0, 1, 1))).float(), size)
    truth.add_field("labels", torch.from_numpy(labels) + 1)
    truth.add_field("masks", SegmentationMask([[one.reshape(-1).tolist()] for one in polygons], size, mode="poly"))
    cells = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    maps = [torch.zeros(1, 1, *one) for one in cells]
    anchors = make_anchor_generator(cfg)(ImageList(torch.zeros(1, 3, height, width), [(height, width)]), maps)
    flat = np.concatenate([one.bbox.numpy() for one in anchors[0]])
    logits, deltas = (torch.from_numpy(one).requires_grad_() for one in made_up.proposal_outputs(flat, 0.05, scene))
    parts = [rows * columns * 3 for rows, columns in cells]
    level_logits = [one.reshape(1, *cell, 3).permute(0, 3, 1, 2) for one, cell in zip(logits.split(parts), cells)]
    level_deltas = [one.reshape(1, *cell, 12).permute(0, 3, 1, 2) for one, cell in zip(deltas.split(parts), cells)]
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    losses = list(make_rpn_loss_evaluator(cfg, coder)(anchors, level_logits, level_deltas, [truth]))
    select = make_rpn_postprocessor(cfg, coder, is_train=True).train()
    with torch.no_grad():
        proposals = [sorted_by_score(one) for one in select(anchors, level_logits, level_deltas)]
        proposals = select.add_gt_proposals(proposals, [truth])
        of_boxes = make_roi_box_loss_evaluator(cfg)
        regions = of_boxes.subsample(proposals, [truth])[0]
    scales = [torch.ones((), requires_grad=True) for _ in range(3)]
    classes = np.roll(made_up.class_logits(regions.bbox), 1, 1)
    moves = np.pad(made_up.box_deltas(regions.bbox), ((0, 0), (1, 0), (0, 0)), "constant").reshape(len(regions), -1)
    losses += of_boxes([scales[0] * torch.from_numpy(classes).float()], [scales[1] * torch.from_numpy(moves).float()])
    positive = regions[regions.get_field("labels") > 0]
    seen = np.pad(made_up.mask_logits(positive.bbox, SIDE), ((0, 0), (1, 0), (0, 0), (0, 0)), "constant")
    seen, of_masks = torch.from_numpy(seen).float(), make_roi_mask_loss_evaluator(cfg)
    losses.append(of_masks([positive], scales[2] * seen, [truth]))
    by_logit, by_move, *by_scale = torch.autograd.grad(torch.stack(losses).sum(), (logits, deltas, *scales))
    truth.add_field("masks", SegmentationMask(torch.from_numpy(masks.astype(np.uint8)), size, mode="mask"))
    bitmaps = of_masks([positive], seen, [truth])
    values = [one.item() for one in losses]
    with torch.no_grad():
        both = [torch.cat((one, one - 1)) for one in level_logits], [one.repeat(2, 1, 1, 1) for one in level_deltas]
        shared = [len(one) for one in select(2 * anchors, *both)]
    print(scene, values, bitmaps.item(), len(positive), len(regions), int((by_logit != 0).sum()), shared)
    return {
        "losses": np.array(values, np.float32),
        "bitmaps": np.array(bitmaps.item(), np.float32),
        "shared": np.array(shared),
        "regions": regions.bbox.numpy(),
        "labels": regions.get_field("labels").numpy(),
        "slopes.logits": by_logit.numpy()[:: made_up.STEP],
        "slopes.deltas": by_move.numpy()[:: made_up.STEP],
        "slopes.heads": torch.stack(by_scale).numpy(),
    }


def main(out):
    torch.randperm = lambda count, device=None: torch.arange(count)
    cfg.merge_from_list(["MODEL.ROI_MASK_HEAD.RESOLUTION", SIDE, *BASELINE])
    scenes = {scene: run(scene) for scene in ("crowded", "corner", "inside")}
    np.savez_compressed(out, **{scene + "." + name: found[name] for scene, found in scenes.items() for name in found})


if __name__ == "__main__":
    main(sys.argv[1])
