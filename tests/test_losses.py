"""Losses by their formulas, and the options of what is sampled."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import maskgraft as mg
from maskgraft import batches, coco, losses
from maskgraft.recipe import Recipe
from maskgraft.targets import Batch, match
from tests.tiny import draw_dataset, tiny_model


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    data = coco.read(*draw_dataset(tmp_path_factory.mktemp("drawn"), images=4))
    plain = tiny_model().spec.numerics
    return next(batches.loader(data.images, plain, Recipe(batch=4, workers=0), epoch=0, start=0, pin=False))


def test_dice_is_one_less_twice_the_overlap_by_the_sum() -> None:
    wanted = torch.zeros(2, 4, 4)
    wanted[:, :2] = 1
    sure = torch.stack(((wanted[0] * 2 - 1) * 50, (1 - wanted[0] * 2) * 50))[:, None]
    both = losses.masks(sure, torch.zeros(2, dtype=torch.int64), wanted, kind="dice")["mask"]
    # the first is right, the second all wrong: 1 - 1 / 17, with the smoothing ones
    assert both.item() == pytest.approx((0 + 1 - 1 / 17) / 2, abs=1e-6)
    together = losses.masks(sure, torch.zeros(2, dtype=torch.int64), wanted, kind="bce-dice")["mask"]
    bce = losses.masks(sure, torch.zeros(2, dtype=torch.int64), wanted)["mask"]
    assert bce.item() == pytest.approx(F.binary_cross_entropy_with_logits(sure[:, 0], wanted).item())
    assert together.item() == pytest.approx((both + bce).item())


def test_edges_of_masks_count_more_and_no_loss_grows_by_it() -> None:
    wanted = torch.zeros(1, 6, 6)
    wanted[:, :3] = 1
    even = torch.zeros(1, 1, 6, 6)
    none = torch.zeros(1, dtype=torch.int64)
    plain, edges = (losses.masks(even, none, wanted, kind=kind)["mask"].item() for kind in ("bce", "boundary"))
    assert plain == pytest.approx(edges)
    at_edge, inside = even.clone(), even.clone()
    at_edge[..., 2, :], inside[..., 0, :] = 5.0, 5.0
    gains = [
        losses.masks(even - one, none, wanted, kind="boundary")["mask"].item() - edges for one in (at_edge, inside)
    ]
    assert gains[0] == pytest.approx(5 * gains[1], rel=1e-5)


def test_boxes_may_be_held_to_their_overlap(batch: Batch) -> None:
    values = {}
    for kind in ("smooth-l1", "giou"):
        model = tiny_model().train()
        model.spec = model.spec.with_numerics({"rpn_box_loss": kind, "box_loss": kind})
        found = model(batch)
        (found["rpn_box"] + found["box"]).backward()
        assert model.rpn.deltas.weight.grad is not None and model.rpn.deltas.weight.grad.abs().sum() > 0
        assert model.box_predictor.deltas.weight.grad is not None
        values[kind] = found
    assert values["giou"]["rpn_box"] != values["smooth-l1"]["rpn_box"]
    assert values["giou"]["cls"] == values["smooth-l1"]["cls"]
    assert 0 < values["giou"]["box"] < 2


def test_what_is_sampled_for_an_image_is_its_own_affair(batch: Batch) -> None:
    """The same anchors and proposals are drawn for it, whatever torch's generator says and whoever is beside it."""
    model = tiny_model().train()
    seen = []
    for seed, order in ((1, (0, 1, 2, 3)), (2, (0, 1, 2, 3)), (3, (2, 0, 3, 1))):
        torch.manual_seed(seed)
        pick = list(order)
        shuffled = replace(
            batch,
            pixels=batch.pixels[pick],
            **{name: tuple(getattr(batch, name)[at] for at in pick) for name in ("sizes", "targets", "ids", "seeds")},
        )
        seen.append({name: loss.item() for name, loss in model(shuffled).items()})
    assert seen[0] == seen[1]
    assert seen[0] == pytest.approx(seen[2], rel=2e-3)  # last bits may swap neighbours in rank
    torch.manual_seed(1)
    free = {name: loss.item() for name, loss in model(replace(batch, seeds=())).items()}
    assert free != seen[0]


def test_small_proposals_are_dropped_in_pixels_of_input_or_photograph() -> None:
    model = tiny_model()

    def least(scale: float, *, train: bool = False, **numerics: object) -> float:
        changed = mg.MaskRCNN(model.spec.with_numerics(numerics)).train(train)
        boxes = torch.tensor([[0.0, 0, side, side] for side in range(1, 60)])
        found = changed.propose([torch.zeros(len(boxes))], [torch.zeros(len(boxes), 4)], [boxes], (96, 96), scale=scale)
        return (found.boxes[:, 2] - found.boxes[:, 0]).min().item()

    assert least(2.0, rpn_min_size=8.0) == 8
    assert least(2.0, rpn_min_size=8.0, rpn_min_size_in="photograph") == 16
    assert least(2.0, rpn_min_size=8.0, rpn_min_size_train=12.0, train=True) == 12
    assert least(2.0, rpn_min_size=8.0, rpn_min_size_train=12.0) == 8
    assert least(2.0, rpn_min_size=8.0, rpn_min_size_train=None, train=True) == 1


def test_the_best_anchors_of_an_object_are_taken_by_the_last_that_wants_them() -> None:
    """`MaxIoUAssigner`: an anchor that another object overlaps more answers for the object that has no better one."""
    overlaps = torch.tensor([[0.9, 0.8, 0.1, 0.1], [0.7, 0.2, 0.1, 0.0], [0.0, 0.0, 0.2, 0.2], [0.0, 0.8, 0.0, 0.0]])
    how = {"positive": 0.75, "negative": 0.3}
    which, kind = match(overlaps, **how, rescue="taken", least=0.3)
    assert kind.tolist() == [1, 1, 0, 0]
    assert which[:2].tolist() == [1, 3]
    assert match(overlaps, **how, rescue="none")[0][:2].tolist() == [0, 0]
    which, kind = match(overlaps, **how, rescue="taken", least=0.2)
    assert (which.tolist(), kind.tolist()) == ([1, 3, 2, 2], [1, 1, 1, 1])
    assert match(overlaps, **how, rescue="first", least=0.3)[1].tolist() == [1, 1, 0, 0]
    assert match(overlaps, **how, rescue="all", least=0.3)[1].tolist() == [1, 1, 0, 0]


def test_cells_in_the_padding_beside_an_image_are_its_batchs_alone() -> None:
    model = tiny_model()
    maps = {f"p{level}": torch.zeros(1, 1, 128 >> level, 96 >> level) for level in range(2, 7)}
    anchors = model.anchors(maps, (128, 96))
    numerics = model.spec.numerics
    assert losses.own_cells(anchors, (33, 70), numerics) is None
    own = losses.own_cells(anchors, (33, 70), replace(numerics, rpn_own_cells=True, pad_multiple=32))
    assert own is not None
    fine, *_, coarse = own.split([len(one) for one in anchors])
    fine = fine.view(32, 24, -1)
    assert fine[:16].all() and not fine[16:].any()
    assert coarse.tolist() == [True] * 3 + [False] * 3
