"""Causes of trainings that go wrong, each from what is measured."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import maskgraft as mg
from maskgraft import batches, coco, first_batches, pulse, shapes
from maskgraft.ailments import (
    annotations,
    courses,
    inputs,
    knowledge,
    not_finite,
    outcomes,
    pulses,
    rates,
    sampling,
    settings,
    weights,
)
from maskgraft.ailments.courses import Facts
from maskgraft.ailments.order import causes_first
from maskgraft.cutouts import Cutouts
from maskgraft.errors import Finding
from maskgraft.losses import LOSSES
from maskgraft.recipe import Recipe, resolve
from maskgraft.targets import Batch, Target
from tests.tiny import tiny_model

FACTS = Facts(classes=4, usual=0.005, weights={})


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> mg.Dataset:
    folder = tmp_path_factory.mktemp("shapes") / "drawn"
    return mg.read_coco(shapes.draw(folder, images=24, side=64), folder)


def changed(data: mg.Dataset, change: Callable[[Any], Any], *, boxes: bool = False) -> list[coco.ImageRecord]:
    """Images whose masks [H, W] are changed; boxes follow where `boxes` is set."""

    def one(annotation: coco.Annotation, image: coco.ImageRecord) -> coco.Annotation:
        mask = change(coco.mask(annotation, image.height, image.width))
        box = annotation.box
        if boxes:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        counts = [len(list(run)) for run in runs(mask)]
        return replace(annotation, segmentation={"size": list(mask.shape), "counts": counts}, box=box)

    return [replace(image, annotations=tuple(one(a, image) for a in image.annotations)) for image in data.images]


def runs(mask: Any) -> Iterator[list[bool]]:
    """Run lengths down the columns, of nought first."""
    flat, value, run = mask.ravel(order="F").tolist(), False, list[bool]()
    for pixel in flat:
        if pixel != value:
            yield run
            value, run = pixel, []
        run.append(pixel)
    yield run


def upside_down_in_box(mask: Any) -> Any:
    rows, result = np.flatnonzero(mask.any(1)), np.zeros_like(mask)
    result[rows[0] : rows[-1] + 1] = mask[rows[0] : rows[-1] + 1][::-1]
    return result


def from_the_middle(mask: Any) -> Any:
    """Moved to the lower right by half of the size, and cut at the picture."""
    rows, columns, result = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0)), np.zeros_like(mask)
    down, right = len(rows) // 2, len(columns) // 2
    result[down:, right:] = mask[: len(mask) - down, : len(mask) - right]
    return result if result.any() else mask


def inverted(mask: Any) -> Any:
    rows, columns, result = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0)), np.zeros_like(mask)
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    result[window] = ~mask[window]
    return result


def test_annotations_that_lie_on_their_pictures(drawn: mg.Dataset) -> None:
    found, alignment, measured = annotations.examine(drawn.images, path="drawn")
    assert not found
    assert alignment is not None and alignment.given > 1.5 * alignment.elsewhere
    assert measured is not None and measured.overlap == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "boxes", "code", "says"),
    [
        (lambda mask: mask[::-1], True, "train.boxes", "upside down"),
        (lambda mask: mask[:, ::-1], True, "train.boxes", "mirrored"),
        (lambda mask: mask.T, True, "train.boxes", "x and y exchanged"),
        (upside_down_in_box, False, "train.masks-flipped", "upside down within"),
        (np.zeros_like, False, "train.masks-empty", "empty"),
        (inverted, False, "train.masks-inverted", "hollow"),
        (lambda mask: mask.T, False, "train.boxes", "x and y of the masks are exchanged"),
        (from_the_middle, True, "train.boxes", "half their size too far"),
    ],
)
def test_annotations_that_do_not(
    drawn: mg.Dataset, change: Callable[[Any], Any], boxes: bool, code: str, says: str
) -> None:
    (finding, *_), _, _ = annotations.examine(changed(drawn, change, boxes=boxes), path="drawn")
    assert finding.code == code and says in finding.message


def test_boxes_given_by_their_middle(drawn: mg.Dataset) -> None:
    def moved(one: coco.Annotation) -> coco.Annotation:
        x1, y1, x2, y2 = one.box
        return replace(one, box=((x1 + x2) / 2, (y1 + y2) / 2, 1.5 * x2 - x1 / 2, 1.5 * y2 - y1 / 2))

    images = [replace(image, annotations=tuple(map(moved, image.annotations))) for image in drawn.images]
    (finding, *_), _, _ = annotations.examine(images, path="drawn")
    assert finding.code == "train.boxes" and "by their middle" in finding.message


def test_what_passes_by_is_read_the_way_round_that_it_was_annotated(drawn: mg.Dataset) -> None:
    numerics, looks = tiny_model().spec.numerics, annotations.Looks()
    exchanged = changed(drawn, lambda mask: mask.T, boxes=True)
    samples = [batches.sample(one, numerics, Recipe(flip=1.0), seed) for seed, one in enumerate(exchanged)]
    first_batches.look(looks, batches.collate(samples, numerics), numerics)
    (finding,), _, _ = annotations.judge(looks, path="drawn")
    assert finding.code == "train.boxes" and "with x and y exchanged" in finding.message


def test_annotations_of_other_pictures(drawn: mg.Dataset) -> None:
    moved = [replace(one, annotations=drawn.images[index - 5].annotations) for index, one in enumerate(drawn.images)]
    (finding,), _, _ = annotations.examine(moved, path="drawn")
    assert finding.code == "train.boxes" and "do not lie on their pictures" in finding.message


def batch_of(images: int = 2) -> Batch:
    """Coloured noise with two objects an image."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(images, 3, 96, 96, generator=generator)
    masks = torch.zeros(2, 96, 96, dtype=torch.bool)
    masks[0, 10:40, 10:40] = masks[1, 50:90, 30:80] = True
    boxes = torch.tensor([[10.0, 10, 40, 40], [30, 50, 80, 90]])
    target = Target(boxes, torch.tensor([0, 1]), Cutouts.of(masks.numpy()))
    return Batch(pixels, ((96, 96),) * images, (target,) * images, tuple(range(images)), tuple(range(images)))


def test_pictures_of_twelve_bits_read_as_sixteen_are_dark() -> None:
    model, batch = tiny_model(), batch_of()
    numerics = model.spec.numerics
    mean, std = (torch.tensor(one)[:, None, None] for one in (numerics.pixel_mean, numerics.pixel_std))
    grey = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 255

    def told(raw: torch.Tensor) -> list[str]:
        pixels = (raw * numerics.pixel_scale - mean) / std
        return [one.code for one in inputs.examine(model, [replace(batch, pixels=pixels)])[0]]

    assert told(grey / 16) == ["data.pixels"]
    assert told(0 * grey) == ["data.pixels"]
    assert "data.pixels" not in told(grey)


def settled(model: mg.MaskRCNN, batch: Batch) -> None:
    """Give the first norm the statistics of these pixels."""
    stem = inputs.first_norm(model)
    assert stem is not None
    conv, norm = stem
    outputs = torch.nn.functional.conv2d(batch.pixels, conv.weight, conv.bias, conv.stride).detach()
    norm.get_buffer("running_mean").copy_(outputs.mean((0, 2, 3)))
    norm.get_buffer("running_var").copy_(outputs.var((0, 2, 3)))


def test_pixels_are_those_that_the_norms_know() -> None:
    model, batch = tiny_model(), batch_of()
    settled(model, batch)
    assert not inputs.examine(model, [batch])[0]
    model.spec = model.spec.with_numerics({"pixel_mean": [0.0, 0.0, 0.0], "pixel_std": [1.0, 1.0, 1.0]})
    mean, std = (torch.tensor(one)[:, None, None] for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    (finding,), measured = inputs.examine(model, [replace(batch, pixels=batch.pixels * std + mean)])
    assert finding.code == "train.pixel-scale" and "torchvision" in finding.message
    assert measured["stem_off"] > 1


def test_fresh_weights_are_told_from_trained_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(64, 64, 3, 3, generator=generator) * 0.02
    assert weights.is_fresh(normal) and weights.is_fresh(torch.rand(64, 256, generator=generator) - 0.5)
    sizes = torch.linspace(0.2, 2, 64)[:, None, None, None]
    assert not weights.is_fresh(normal * sizes)
    assert not weights.is_fresh(normal**3)
    model = tiny_model()
    found = weights.examine(model, frozenset(name for name, _ in model.named_parameters() if "backbone" not in name))
    assert [one.code for one in found] == ["train.frozen-random"] and found[0].severity == "error"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.1)  # trained norms: however fresh the values look, they have been trained with them
        model.rpn.deltas.bias[0] = math.nan
    assert next(one.code for one in weights.examine(model, frozenset())) == "values.nan"


def pulsed(answers: dict[tuple[int, int], int]) -> pulse.Pulse:
    return pulse.Pulse(4, 8, 1.0, 8, 100, 50, 1.0, 8, 0.2, answers, 0.1, 0.5, 0.9, {}, {}, "")


def test_labels_that_are_consistently_another_class() -> None:
    model = mg.MaskRCNN.from_scratch("small", ["a", "b", "c"])
    assert not knowledge.known(model)
    with torch.no_grad():
        model.box_predictor.cls.weight.mul_(torch.tensor([1.0, 2.0, 4.0, 8.0])[:, None])  # as training does
    shifted = pulsed({(0, 1): 9, (1, 2): 8, (2, 0): 9, (2, 2): 1})
    (finding,) = knowledge.examine(model, [shifted], {})
    assert finding.code == "train.labels" and "a is answered as b" in finding.message
    assert not knowledge.examine(model, [pulsed({(0, 0): 9, (1, 1): 8, (2, 2): 9, (2, 0): 3})], {})
    assert not knowledge.examine(model, [pulsed({(0, 1): 9, (1, 1): 8, (2, 1): 9})], {})  # a head that knows nothing


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"lr": 0.5}, "train.lr-high"),
        ({"lr": 5e-6}, "train.lr-low"),
        ({"clip_norm": 1e-4}, "train.lr-low"),
        ({"clip_value": 1e-6}, "train.lr-low"),
        ({"multipliers": {"backbone": 100.0}}, "train.lr-high"),
        ({"multipliers": {"backbone": 2.0}}, None),
        ({"loss_weights": dict.fromkeys(LOSSES, 60.0)}, "train.lr-high"),
        ({"loss_weights": {"mask": 60.0}}, None),
        ({"loss_weights": dict.fromkeys(LOSSES, 1e-3)}, "train.lr-low"),
        ({"loss_weights": dict.fromkeys(LOSSES, 1e-3), "optimizer": "adamw"}, None),
        ({"loss_weights": {"mask": 0.0}}, None),
        ({"optimizer": "adamw", "lr": 1e-3, "weight_decay": 30.0}, "train.weight-decay"),
        ({"warmup": 10_000}, "train.lr-low"),
        ({"milestones": (0.0, 0.0)}, "train.lr-low"),
        ({"optimizer": "adamw", "lr": 0.02}, "train.lr-high"),
        ({"weight_decay": 0.5, "lr": 0.02}, "train.weight-decay"),
        ({}, None),
        ({"lr": 0.02}, None),
        ({"lr": 0.05}, "train.lr-high"),
        ({"optimizer": "adamw"}, None),
        ({"clip_norm": 1.0}, None),
    ],
)
def test_rates(changes: dict[str, Any], code: str | None) -> None:
    resolved = resolve(Recipe(**{"batch": 4, "steps": 200, **changes}), images=100)
    found = rates.examine(resolved, {"backbone": 3.0, "rpn": 0.5}, {"backbone": 40.0, "rpn": 4.0}, numbers=10_000)
    assert [one.code for one in found] == ([code] if code else [])


def entries(totals: list[float], **more: Any) -> list[dict[str, Any]]:
    losses = {"rpn_cls": 0.2, "rpn_box": 0.1, "cls": 0.3, "box": 0.2, "mask": 0.4}
    shares = dict.fromkeys(losses, 0.2)
    return [
        {"step": step, "total": total, "lr": 0.005, "losses": losses, "shares": shares, **more}
        for step, total in enumerate(totals, 1)
    ]


def test_losses_that_grow_stand_or_fall() -> None:
    random = np.random.default_rng(0)
    falling = [2 * math.exp(-step / 80) + random.normal(0, 0.1) + 0.5 for step in range(200)]
    growing = [1 + step**2 / 500 for step in range(60)]
    assert not courses.judge(entries(falling), [], FACTS)
    assert [one.code for one in courses.judge(entries(growing), [], FACTS)] == ["train.lr-high"]
    untrained = {"rpn_cls": 0.69, "rpn_box": 0.1, "cls": 1.6, "box": 0.0, "mask": 0.693}
    still = entries([3.0 + random.normal(0, 0.02) for _ in range(160)], losses=untrained)
    assert [one.code for one in courses.judge(still, [], FACTS)] == ["train.flat"]
    assert [one.code for one in courses.judge(still, [], replace(FACTS, usual=0.5))] == ["train.lr-low"]
    resting = entries([0.5 + random.normal(0, 0.02) for _ in range(160)])  # a model that knows its data
    assert not courses.judge(resting, [], FACTS)


def test_one_loss_alone_and_slow_loading() -> None:
    alone = entries([9.0] * 60, shares={"mask": 0.97, "cls": 0.03})
    (finding,) = courses.judge(alone, [], replace(FACTS, weights={"mask": 100.0}))
    assert finding.code == "train.loss-dominates" and finding.severity == "warning"
    assert courses.judge(alone, [], FACTS)[0].severity == "info"
    slow = [{"data_s": 0.9, "step_s": 0.2}] * 20
    assert [one.code for one in courses.judge([], slow, FACTS)] == ["train.loader-slow"]
    assert not courses.judge([], [{"data_s": 0.02, "step_s": 0.01}] * 20, FACTS)
    # three times as slow by the clock as the processor needs: what waits for a disk is not, what computes is
    disk = {"data_s": 1.06, "data_busy_s": 0.02, "step_s": 0.9, "step_busy_s": 0.3}
    (finding,) = courses.judge([], [disk] * 20, FACTS)
    assert finding.code == "train.loader-slow" and "1.02 s to come and 0.30 s" in finding.message
    assert "by the clock 1.06 and 0.90 s" in finding.message
    computing = {**disk, "data_s": 1.2, "data_busy_s": 0.4}
    assert not courses.judge([], [computing] * 20, FACTS)


def test_a_step_far_from_all_others() -> None:
    before = entries([1.0, 1.2] * 10)
    odd = courses.outlier(entries([40.0])[0], before, (3, 4))
    assert odd is not None and odd.names == ("3", "4")
    assert courses.outlier(entries([2.0])[0], before, (3, 4)) is None


def test_evaluations_that_get_worse() -> None:
    (finding,) = courses.evaluations([(10, 0.2), (20, 0.4), (30, 0.3), (40, 0.25)], "mask.AP")
    assert finding.code == "train.overfitting" and finding.evidence["best_step"] == 20
    assert not list(courses.evaluations([(10, 0.2), (20, 0.4), (30, 0.39), (40, 0.41)], "mask.AP"))


def taken(step: int, **changes: Any) -> dict[str, Any]:
    return {
        "step": step, "rate": 1.0, "truths": 8, "recall": 0.9, "anchored": 0.5, "positives": 5.0, "negatives": 100.0,
        "proposals": 60.0, "dead": {"c5": 0.1}, **changes,
    }  # fmt: skip


def test_pulses() -> None:
    def codes(*some: dict[str, Any]) -> list[str]:
        return [one.code for one in pulses.judge(some, lr=0.005, usual=0.005)]

    assert not codes(taken(10), taken(150), taken(200))
    assert codes(taken(10, recall=0.1), taken(150, recall=0.1), taken(200, recall=0.05)) == ["train.rpn-recall"]
    assert not codes(taken(10, recall=0.1), taken(25, recall=0.1))  # too early to tell
    assert codes(taken(10), taken(50, dead={"c5": 1.0})) == ["train.dead"]
    assert codes(*[taken(step, updates={"rpn": 0.5}) for step in (10, 50)]) == ["train.lr-high"]
    assert codes(*[taken(step, updates={"rpn": 1e-9}) for step in (10, 50)]) == ["train.lr-low"]
    assert not codes(*[taken(step, updates={"rpn": 1e-9}, rate=0.1) for step in (10, 50)])  # it is warming up


def test_what_is_not_finite_is_traced() -> None:
    model, batch = tiny_model(), batch_of()

    def first(batch: Batch, history: tuple[float, ...] = (), **changes: Any) -> Finding:
        losses = {"cls": math.nan, "total": math.nan}
        recipe = Recipe(lr=0.1, **changes)
        return not_finite.explain(model, batch, losses, step=7, recipe=recipe, history=history)[0]

    assert first(batch).code == "train.nan"
    assert first(batch, history=(1.0, 2.0, 9.0)).code == "train.lr-high"
    broken = replace(batch.targets[0], boxes=torch.tensor([[10.0, 10, 10, 40], [30, 50, 80, 90]]))
    finding = first(replace(batch, targets=(batch.targets[0], broken)))
    assert finding.code == "train.boxes" and finding.names == ("1",)
    with torch.no_grad():
        model.rpn.deltas.bias[0] = math.inf
    assert first(batch).code == "values.nan"


def test_a_pulse_of_a_random_model_changes_nothing() -> None:
    model, batch = tiny_model(), batch_of()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    found = pulse.take(model, batch)
    assert torch.equal(state, torch.get_rng_state()) and not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert found.truths == 4 and sum(found.answers.values()) == 4 and not found.broken
    assert 0 <= (found.recall or 0) <= 1 and found.negatives > 10 and found.positives >= 2
    assert set(found.dead) >= {"c2", "c5", "rpn", "box_head", "mask_head"}
    batch.pixels[0, 0, 0, 0] = math.nan
    assert pulse.take(model, batch).broken == "pixels"


def test_causes_stand_before_consequences() -> None:
    nan = Finding("train.nan", "error", "NaN")
    high = Finding("train.lr-high", "warning", "fast")
    note = Finding("train.time", "info", "long")
    assert causes_first([note, nan, high, nan]) == (high, note, nan)
    assert causes_first([note, nan]) == (nan, note)


def test_first_losses_that_no_sound_weights_have() -> None:
    random = {"rpn_cls": 0.69, "rpn_box": 0.1, "cls": 1.6, "box": 0.1, "mask": 0.69}
    assert not knowledge.diverged(random, 4)
    (finding,) = knowledge.diverged({**random, "cls": 800.0}, 4)
    assert finding.code == "values.diverged" and finding.names == ("cls",) and "begin at 80" in finding.message


def test_settings_that_undo_what_is_taught() -> None:
    spec = tiny_model(("left hand", "right hand", "left-over")).spec
    resolved = resolve(Recipe(batch=2), images=10)
    (finding,) = settings.examine(spec, resolved, {})
    assert finding.code == "train.flip" and finding.evidence["classes"] == ["left hand"]
    assert not settings.examine(spec, resolve(Recipe(batch=2, flip=0.0), images=10), {})
    assert not settings.examine(tiny_model(("left hand", "hat")).spec, resolved, {})
    (held,) = settings.examine(tiny_model().spec, resolve(Recipe(distil=1000.0), images=10), {})
    assert held.code == "train.held" and held.names == ("distil",)
    (off,) = settings.examine(tiny_model().spec, resolve(Recipe(loss_weights={"mask": 0.0}), images=10), {})
    assert off.code == "train.loss-off" and off.names == ("mask",) and off.severity == "warning"


def test_pictures_that_cannot_hold_what_is_there(drawn: mg.Dataset) -> None:
    def told(recipe: Recipe, **numerics: Any) -> list[str]:
        model = tiny_model(drawn.classes)
        spec = replace(model.spec, numerics=replace(model.spec.numerics, **numerics))
        found, _ = sampling.examine(drawn, spec, recipe, [])
        return [one.code for one in found if one.severity != "info"]

    assert "train.thresholds" in told(Recipe(), max_detections=1)
    assert "train.thresholds" not in told(Recipe())
    assert "train.input-small" in told(Recipe(scale_jitter=(0.05, 0.1)))
    assert "train.input-small" in told(Recipe(min_size=32, max_size=32))
    assert "train.input-small" not in told(Recipe(scale_jitter=(0.8, 1.25)))


def test_parts_that_were_lost_are_told_from_parts_that_know() -> None:
    model = tiny_model()
    for norm in (one for one in model.backbone.modules() if hasattr(one, "running_var")):
        norm.weight.data.uniform_(0.5, 1.5)  # as if it had learnt
    drawn = knowledge.drawn_parts(model)
    found = knowledge._lost_parts(model, {"mask": 0.4, "rpn_cls": 0.1}, {}, 0.2, drawn)
    assert [one.code for one in found] == ["train.batchnorm", "values.untrained"]
    assert found[1].names == ("fpn",)
    assert not knowledge._lost_parts(model, {"mask": 0.4, "rpn_cls": 0.1}, {}, 0.9, drawn)
    undecided, sure = {"mask": math.log(2), "rpn_cls": 0.1}, {"mask_predictor": 6.0}
    assert not knowledge._lost_parts(model, undecided, sure, 0.9, drawn)
    (lost,) = knowledge._lost_parts(model, undecided, {"mask_predictor": 0.1}, 0.9, drawn)
    assert lost.code == "train.head-random" and lost.names == ("mask_head",)


def test_boxes_that_are_fractions(drawn: mg.Dataset) -> None:
    looks = annotations.Looks()
    for image in drawn.images[:4]:
        masks = [coco.mask(one, image.height, image.width) for one in image.annotations]
        looks.add(image.load(), [tuple(side / 64 for side in one.box) for one in image.annotations], masks)
    (finding,), _, _ = annotations.judge(looks, path="drawn")
    assert finding.code == "train.boxes" and "fractions of the picture" in finding.message


def test_what_a_run_has_come_to() -> None:
    cost = {"points": 0.2, "objects": 3, "detections": 1}
    short = {"ap": 0.5, "objects": 9, "kinds": {"mask": {**cost, "points": 0.01}, "proposals": cost}}
    (finding,) = outcomes.misses(short)
    assert finding.severity == "info" and finding.names == ("proposals",) and "anchors that fit" in finding.fix
    kept = {"classes": {"cat": {"mask": [0.5, 0.1]}}, "agreement": {"found": 0, "kept": None}, "images": 8}
    (lost,) = outcomes.forgotten(kept)
    assert lost.code == "train.forgetting" and lost.severity == "warning" and "cat 50 → 10" in lost.message
    for after, images, severity in ((0.48, 50, "info"), (0.3, 8, "info"), (0.3, 50, "warning")):
        (told,) = outcomes.forgotten({**kept, "images": images, "classes": {"cat": {"mask": [0.5, after]}}})
        assert told.severity == severity
    found = {"found": 20, "kept": 0.2, "mask_iou": 0.8}
    (gone,) = outcomes.forgotten({**kept, "classes": {}, "agreement": found})
    assert gone.severity == "warning" and "20 % are" in gone.message
