"""What chainer-mask-rcnn's own targets and losses make of the made-up step.

python make_chainer.py chainer.npz     # its 0.5.24 with ChainerCV 0.13.1, Chainer 7.8.1 and OpenCV 4.8 made it

Its settings are those of `MaskRCNNResNet` and `MaskRCNNTrainChain`. A draw takes the first, on both sides.
"""

import sys
import types

import chainer
import made_up
import numpy as np
from chainer_mask_rcnn.models.mask_rcnn_train_chain import MaskRCNNTrainChain
from chainer_mask_rcnn.models.region_proposal_network import RegionProposalNetwork, _enumerate_shifted_anchor
from chainercv.links.model.faster_rcnn.utils.generate_anchor_base import generate_anchor_base
from chainercv.links.model.faster_rcnn.utils.proposal_creator import ProposalCreator

SIDE = 14
STRIDE = 16
SCALES = (4, 8, 16, 32)
TURNED = [1, 0, 3, 2]  # xyxy and yxyx


def first(values, size, replace):
    """`np.random.choice` of regions."""
    assert not replace
    return values[:size]


def all_but_first(values, size, replace):
    """The same of anchors, of which those drawn are left out."""
    assert not replace
    return values[len(values) - size :]


def run(scene):
    height, width, _ = made_up.SCENES[scene]
    boxes, labels, masks, _ = made_up.truth(scene)
    said, scales, kept = {}, [chainer.Variable(np.ones((), np.float32)) for _ in range(3)], {}
    base = generate_anchor_base(anchor_scales=SCALES)
    rows, columns = -(-height // STRIDE), -(-width // STRIDE)

    def maps(outputs):
        return chainer.Variable(outputs.reshape(rows, columns, -1).transpose(2, 0, 1)[None].copy())

    def propose(features, size, factors):
        network = types.SimpleNamespace(
            xp=np,
            anchor_base=base,
            feat_stride=STRIDE,
            conv1=lambda x: x,
            score=lambda x: said["logits"],
            loc=lambda x: said["deltas"],
            proposal_layer=ProposalCreator(min_size=0, n_test_pre_nms=6000, n_test_post_nms=1000),
        )
        moves, scores, *others = RegionProposalNetwork.__call__(network, features, size, factors)
        return (list(moves), list(scores), *others)  # what Chainer 7 joins is no variable

    def heads(features, regions, images):
        kept["regions"] = seen = regions[:, TURNED]
        moves = np.pad(made_up.box_deltas(seen), ((0, 0), (1, 0), (0, 0)), "constant")[:, :, TURNED]
        answers = (
            np.roll(made_up.class_logits(seen), 1, 1),
            moves.reshape(len(seen), -1),
            made_up.mask_logits(seen, SIDE),
        )
        logits, moves, inner = (
            chainer.functions.broadcast_to(scale, one.shape) * one.astype(np.float32)
            for scale, one in zip(scales, answers)
        )
        return moves, logits, inner

    model = types.SimpleNamespace(
        extractor=lambda x: x,
        rpn=propose,
        head=heads,
        loc_normalize_mean=(0.0, 0.0, 0.0, 0.0),
        loc_normalize_std=(0.1, 0.1, 0.2, 0.2),
    )
    chain = MaskRCNNTrainChain(model)

    def drawn(maker, choice):
        def make(*given):
            np.random.choice = choice
            return maker(*given)

        return make

    chain.anchor_target_creator = drawn(chain.anchor_target_creator, all_but_first)
    chain.proposal_target_creator = drawn(chain.proposal_target_creator, first)
    features = chainer.Variable(np.zeros((1, 1, rows, columns), np.float32))
    anchors = _enumerate_shifted_anchor(base, STRIDE, rows, columns)[:, TURNED]
    logits, deltas = made_up.proposal_outputs(anchors, 0.5, scene)
    said["logits"], said["deltas"] = maps(logits), maps(deltas[:, TURNED])
    image = chainer.Variable(np.zeros((1, 3, height, width), np.float32))
    chain.mask_rcnn.extractor = lambda x: features
    truth = boxes[:, TURNED].astype(np.float32)
    reporter, observed = chainer.Reporter(), {}
    reporter.add_observer("step", chain)
    with reporter, reporter.scope(observed), chainer.using_config("train", True):
        loss = chain(image, [truth], [labels.astype(np.int32)], [masks.astype(np.int32)], np.ones(1, np.float32))
    loss.backward()
    losses = {name.rpartition("/")[2]: float(value.array) for name, value in observed.items()}
    order = ("rpn_cls_loss", "rpn_loc_loss", "roi_cls_loss", "roi_loc_loss", "roi_mask_loss")
    slopes = [said[one].grad[0].transpose(1, 2, 0).reshape(len(anchors), -1) for one in ("logits", "deltas")]
    found = {
        "losses": np.array([losses[name] for name in order], np.float32),
        "regions": kept["regions"],
        "slopes.logits": slopes[0][:, 0][:: made_up.STEP],
        "slopes.deltas": slopes[1][:, TURNED][:: made_up.STEP],
        "slopes.heads": np.array([one.grad for one in scales], np.float32),
    }
    print(scene, losses, found["slopes.heads"], len(kept["regions"]), (slopes[0] != 0).sum())
    return found


def main(out):
    scenes = {scene: run(scene) for scene in ("crowded-c4", "between-c4")}
    np.savez_compressed(out, **{scene + "." + name: found[name] for scene, found in scenes.items() for name in found})


if __name__ == "__main__":
    main(sys.argv[1])
