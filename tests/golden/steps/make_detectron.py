"""What Detectron's own targets make of the made-up step.

python make_detectron.py DETECTRON FOLDER     # a built checkout of Detectron made them, on NumPy 1.23.5, without Caffe2

Settings are those of its baselines `e2e_mask_rcnn_R-50-FPN_1x` and `e2e_mask_rcnn_R-50-C4_1x`. Which anchors and
regions are sampled, what they should answer and how each counts are its own code's; the sums over that are Caffe2's,
and so written here, as its operators say (`modules/detectron/`). A draw takes the first, true boxes last; and the box
of an outline is that of its object, as in COCO.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import made_up
import numpy as np
import yaml

# Lengths in the input by lengths in the photograph, of which objects are whole pixels.
SCALES = {"crowded": 1.0, "inside": 2.0, "crowded-c4": 1.0, "inside-c4": 2.0}


class Blob:
    """An array of Caffe2's as the operators in Python see it."""

    def __init__(self, data=None):
        self.data = data

    @property
    def shape(self):
        return self.data.shape

    def reshape(self, shape):
        self.data = np.empty(shape, np.float32)

    def init(self, shape, kind):
        self.data = np.empty(shape, np.int32)


def entry(scene, scale, config):
    """An image of its `roidb`, as `datasets/json_dataset.py` makes it: a box ends with its last pixel."""
    from detectron.utils.boxes import xywh_to_xyxy
    from scipy.sparse import csr_matrix

    height, width, _ = made_up.SCENES[scene]
    boxes, labels, _, polygons = made_up.truth(scene)
    boxes = boxes / scale
    ends = np.array(xywh_to_xyxy(np.hstack((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]))), np.float32)
    overlaps = np.zeros((len(ends), config.MODEL.NUM_CLASSES), np.float32)
    overlaps[np.arange(len(ends)), labels + 1] = 1
    return {
        "boxes": ends,
        "segms": [[(one / scale).reshape(-1).tolist()] for one in polygons],
        "seg_areas": np.zeros(len(ends), np.float32),
        "gt_classes": (labels + 1).astype(np.int32),
        "gt_overlaps": csr_matrix(overlaps),
        "is_crowd": np.zeros(len(ends), bool),
        "box_to_gt_ind_map": np.arange(len(ends), dtype=np.int32),
        "height": height / scale,
        "width": width / scale,
    }


def sigmoid_cross_entropy(said, wanted):
    """SigmoidCrossEntropyLoss before it is scaled: the sum, its slope, and how many there are; -1 is left out."""
    counts = wanted >= 0
    loss = np.maximum(said, 0) - said * wanted + np.log1p(np.exp(-np.abs(said)))
    return loss[counts].sum(), np.where(counts, 1 / (1 + np.exp(-said)) - wanted, 0), counts.sum()


def smooth_l1(said, wanted, inside, outside, beta):
    """SmoothL1Loss of one image, or before it is divided by the number of regions."""
    error = inside * (said - wanted)
    near = np.abs(error) < beta
    loss = np.where(near, 0.5 * error**2 / beta, np.abs(error) - 0.5 * beta)
    return (outside * loss).sum(), outside * inside * np.where(near, error / beta, np.sign(error))


def flat(blob, values):
    """[1, A·values, H, W] as [H·W·A, values]."""
    return blob[0].transpose(1, 2, 0).reshape(-1, values)


def run(scene, config):
    from detectron.modeling.generate_anchors import generate_anchors
    from detectron.ops.collect_and_distribute_fpn_rpn_proposals import CollectAndDistributeFpnRpnProposalsOp
    from detectron.ops.generate_proposal_labels import GenerateProposalLabelsOp
    from detectron.ops.generate_proposals import GenerateProposalsOp
    from detectron.roi_data import fast_rcnn, rpn
    from detectron.utils import segms

    scale, (height, width, _) = SCALES[scene], made_up.SCENES[scene]
    pyramid = config.FPN.FPN_ON
    levels = range(config.FPN.RPN_MIN_LEVEL, config.FPN.RPN_MAX_LEVEL + 1) if pyramid else (4,)
    blobs = {name: [] for name in rpn.get_rpn_blob_names()}
    one = entry(scene, scale, config)
    segms.polys_to_boxes = lambda outlines: one["boxes"]
    rpn.add_rpn_blobs(blobs, [scale], [one])
    parts, makers = [], []
    for level in levels:
        sizes, ratios = config.RPN.SIZES, config.RPN.ASPECT_RATIOS
        if pyramid:
            sizes = (config.FPN.RPN_ANCHOR_START_SIZE * 2 ** (level - levels[0]),)
            ratios = config.FPN.RPN_ASPECT_RATIOS
        base = generate_anchors(stride=2**level, sizes=sizes, aspect_ratios=ratios)
        rows, columns = -(-height // 2**level), -(-width // 2**level)
        y, x = np.mgrid[:rows, :columns] * 2**level
        shifts = np.stack((x, y, x, y), 2)[:, :, None]
        parts.append(((rows, columns, len(base)), (shifts + base).reshape(-1, 4)))
        makers.append(GenerateProposalsOp(base, 1.0 / 2**level, True))
    anchors = np.concatenate([boxes for _, boxes in parts])
    logits, deltas = made_up.proposal_outputs(anchors, 0.05, scene)
    scores, moves, wanted = [], [], []
    ends = np.cumsum([len(boxes) for _, boxes in parts])
    for level, ((rows, columns, per_cell), _), end in zip(levels, parts, ends):
        here = slice(end - rows * columns * per_cell, end)
        scores.append((1 / (1 + np.exp(-logits[here]))).reshape(rows, columns, -1).transpose(2, 0, 1)[None])
        moves.append(deltas[here].reshape(rows, columns, -1).transpose(2, 0, 1)[None])
        ending = f"_wide_fpn{level}" if pyramid else "_wide"
        found = [
            flat(blobs["rpn_" + name + ending][:, :, :rows, :columns], 1 if name == "labels_int32" else 4)
            for name in ("labels_int32", "bbox_targets", "bbox_inside_weights", "bbox_outside_weights")
        ]
        wanted.append(found)
    labels, *of_boxes = (np.concatenate(one) for one in zip(*wanted))
    classes, by_logit, valid = sigmoid_cross_entropy(logits.astype(np.float64), labels[:, 0])
    # modeling/FPN.py add_fpn_rpn_losses: normalize=0, and a scale; rpn_heads.py: normalize=1
    count = config.TRAIN.RPN_BATCH_SIZE_PER_IM if pyramid else valid
    boxes, by_move = smooth_l1(deltas.astype(np.float64), *of_boxes, beta=1 / 9)
    losses, slopes = [classes / count, boxes], [by_logit / count, by_move]

    rois, chances = [], []
    for maker, score, move in zip(makers, scores, moves):
        outputs = [Blob(), Blob()]
        maker.forward([Blob(score), Blob(move), Blob(blobs["im_info"])], outputs)
        rois.append(outputs[0])
        chances.append(outputs[1])
    names = fast_rcnn.get_fast_rcnn_blob_names()
    outputs = [Blob() for _ in names]
    given = [Blob(blobs["roidb"]), Blob(blobs["im_info"])]
    if pyramid:
        CollectAndDistributeFpnRpnProposalsOp(train=True).forward([*rois, *chances, *given], outputs)
    else:
        GenerateProposalLabelsOp().forward([*rois, *given], outputs)
    drawn = {name: one.data for name, one in zip(names, outputs)}
    regions, labels = drawn["rois"][:, 1:], drawn["labels_int32"].astype(int)
    said = np.roll(made_up.class_logits(regions), 1, 1)
    chance = np.exp(said - said.max(1, keepdims=True))
    chance /= chance.sum(1, keepdims=True)
    every = np.arange(len(labels))
    losses.append(-np.log(chance[every, labels]).mean())
    chance[every, labels] -= 1
    heads = [(chance * said).sum() / len(labels)]
    moved = np.pad(made_up.box_deltas(regions), ((0, 0), (1, 0), (0, 0)), "constant").reshape(len(regions), -1)
    sides = (drawn["bbox_" + name] for name in ("targets", "inside_weights", "outside_weights"))
    boxes, slope = smooth_l1(moved, *sides, beta=1.0)
    losses.append(boxes / len(regions))
    heads.append((slope * moved).sum() / len(regions))
    side = config.MRCNN.RESOLUTION
    seen = made_up.mask_logits(drawn["mask_rois"][:, 1:], side)
    seen = np.pad(seen, ((0, 0), (1, 0), (0, 0), (0, 0)), "constant").reshape(len(seen), -1)
    masks, slope, valid = sigmoid_cross_entropy(seen, drawn["masks_int32"])
    losses.append(masks / valid)
    heads.append((slope * seen).sum() / valid)
    print(scene, losses, heads, (labels > 0).sum(), len(regions), (slopes[0] != 0).sum())
    return {
        "losses": np.array(losses, np.float32),
        "regions": regions,
        "labels": labels,
        "slopes.logits": slopes[0][:: made_up.STEP].astype(np.float32),
        "slopes.deltas": slopes[1][:: made_up.STEP].astype(np.float32),
        "slopes.heads": np.array(heads, np.float32),
    }


def drawing_the_first(truths):
    """What stands for `numpy.random`: of anchors those are chosen that go, of regions those that stay."""
    anchors = SimpleNamespace(
        choice=lambda values, size, replace: values[len(values) - size :], randint=lambda count, size: np.arange(size)
    )
    regions = SimpleNamespace(choice=lambda values, size, replace: np.roll(values, -(values < truths).sum())[:size])
    return anchors, regions


def main(home, folder):
    sys.path.insert(0, home)
    np.float = float  # of NumPy before 1.24
    absent = "caffe2 caffe2.proto caffe2.python caffe2.python.modeling matplotlib matplotlib.pyplot".split()
    sys.modules.update({name: mock.MagicMock() for name in absent})
    np.fromstring = np.frombuffer
    yaml.load = lambda text, loader=yaml.SafeLoader: yaml.SafeLoader(text).get_data()  # of PyYAML before 6
    from detectron.core.config import cfg, merge_cfg_from_file
    from detectron.roi_data import fast_rcnn, rpn

    for name, baseline, scenes in (
        ("detectron", "e2e_mask_rcnn_R-50-FPN_1x", ("crowded", "inside")),
        ("detectron_c4", "e2e_mask_rcnn_R-50-C4_1x", ("crowded-c4", "inside-c4")),
    ):
        merge_cfg_from_file(f"{home}/configs/12_2017_baselines/{baseline}.yaml")
        cfg.FPN.FPN_ON = cfg.FPN.MULTILEVEL_RPN = cfg.FPN.MULTILEVEL_ROIS = name == "detectron"
        cfg.RPN.RPN_ON = True
        cfg.MODEL.NUM_CLASSES = made_up.CLASSES + 1
        found = {}
        for scene in scenes:
            rpn.npr, fast_rcnn.npr = drawing_the_first(len(made_up.truth(scene)[0]))
            found.update({scene + "." + key: value for key, value in run(scene, cfg).items()})
        np.savez_compressed(Path(folder, name + ".npz"), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
