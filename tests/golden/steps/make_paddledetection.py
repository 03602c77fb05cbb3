"""What PaddleDetection's own targets and losses make of the made-up step.

python make_paddledetection.py paddledetection.npz     # PaddleDetection 2.6.0 on PaddlePaddle 3.3.1 made it

Its parts are set as `configs/mask_rcnn/_base_/mask_rcnn_r50_fpn.yml` sets them. A draw takes the first, on both sides.
"""

import inspect
import sys
from types import SimpleNamespace

import made_up
import numpy as np
import paddle

LEVELS = (4, 8, 16, 32, 64)
SIDE = 28


def joined(theirs):
    """ppdet 2.6.0 joins scalars, which Paddle 3 does not."""
    return lambda parts, axis=0, name=None: theirs([one.reshape([1]) if one.ndim == 0 else one for one in parts], axis)


def run(scene):
    from ppdet.modeling.heads.bbox_head import BBoxHead
    from ppdet.modeling.heads.mask_head import MaskHead
    from ppdet.modeling.proposal_generator.anchor_generator import AnchorGenerator
    from ppdet.modeling.proposal_generator.proposal_generator import ProposalGenerator
    from ppdet.modeling.proposal_generator.rpn_head import RPNHead
    from ppdet.modeling.proposal_generator.target_layer import BBoxAssigner, MaskAssigner, RPNTargetAssign

    height, width, _ = made_up.SCENES[scene]
    boxes, labels, _, polygons = made_up.truth(scene)
    truth = {
        "gt_bbox": [paddle.to_tensor(boxes.astype(np.float32))],
        "gt_class": [paddle.to_tensor(labels[:, None].astype(np.int32))],
        "gt_poly": [[[one.reshape(-1).astype(np.float32)] for one in polygons]],  # float32, as its reader leaves them
        "im_shape": paddle.to_tensor([[height, width]], dtype="float32"),
    }
    generator = AnchorGenerator([[32], [64], [128], [256], [512]], [0.5, 1.0, 2.0], list(LEVELS))
    cells = [(-(-height // stride), -(-width // stride)) for stride in LEVELS]
    anchors = generator([paddle.zeros([1, 1, *one]) for one in cells])
    logits, deltas = made_up.proposal_outputs(
        np.concatenate([one.numpy().reshape(-1, 4) for one in anchors]), 0.05, scene
    )
    logits, deltas = paddle.to_tensor(logits, stop_gradient=False), paddle.to_tensor(deltas, stop_gradient=False)
    maps, start = ([], []), 0
    for rows, columns in cells:
        part = slice(start, start + rows * columns * 3)
        for given, found in ((logits, maps[0]), (deltas, maps[1])):
            found.append(given[part].reshape([1, rows, columns, -1]).transpose([0, 3, 1, 2]))
        start = part.stop
    first = SimpleNamespace(
        training=True,
        export_onnx=False,
        loss_rpn_bbox=None,
        rpn_target_assign=RPNTargetAssign(),
        train_proposal=ProposalGenerator(
            pre_nms_top_n=2000, post_nms_top_n=1000, nms_thresh=0.7, min_size=0.0, topk_after_collect=True
        ),
    )
    losses = list(RPNHead.get_loss(first, maps[0], maps[1], anchors, truth).values())
    with paddle.no_grad():
        rois, counts = RPNHead._gen_proposal(first, maps[0], maps[1], anchors, {"im_shape": truth["im_shape"]})
        rois, _, targets = BBoxAssigner(num_classes=made_up.CLASSES)(rois, counts, truth)
        inner = MaskAssigner(made_up.CLASSES, SIDE)(rois, targets[0], targets[2], truth)
    scales = [paddle.to_tensor(1.0, stop_gradient=False) for _ in range(3)]
    regions = rois[0].numpy()
    second = SimpleNamespace(num_classes=made_up.CLASSES, bbox_loss=None)
    losses += list(
        BBoxHead.get_loss(
            second,
            scales[0] * paddle.to_tensor(made_up.class_logits(regions).astype(np.float32)),
            scales[1] * paddle.to_tensor(made_up.box_deltas(regions).reshape(len(regions), -1).astype(np.float32)),
            targets,
            rois,
            inspect.signature(BBoxHead.__init__).parameters["bbox_weight"].default,
        ).values()
    )
    seen = made_up.mask_logits(inner[0][0].numpy(), SIDE).astype(np.float32)
    losses.append(
        MaskHead.get_loss(second, scales[2] * paddle.to_tensor(seen), inner[2].astype("int64"), inner[3], inner[5])
    )
    slopes = [one.numpy() for one in paddle.grad(sum(one.sum() for one in losses), [logits, deltas, *scales])]
    found = {
        "losses": np.array([float(one) for one in losses], np.float32),
        "regions": regions,
        "labels": targets[0][0].numpy(),
        "slopes.logits": slopes[0][:: made_up.STEP],
        "slopes.deltas": slopes[1][:: made_up.STEP],
        "slopes.heads": np.array([float(one) for one in slopes[2:]], np.float32),
    }
    print(scene, found["losses"], found["slopes.heads"], counts, (found["labels"] < made_up.CLASSES).sum())
    return found


def main(out):
    paddle.concat = joined(paddle.concat)
    paddle.randperm = lambda count, dtype="int64": paddle.arange(int(count), dtype=dtype)
    scenes = {scene: run(scene) for scene in ("crowded", "small")}
    np.savez_compressed(out, **{f"{scene}.{name}": found[name] for scene, found in scenes.items() for name in found})


if __name__ == "__main__":
    main(sys.argv[1])
