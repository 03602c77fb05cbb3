"""What holds a model to its start, and the report of what was kept."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

import maskgraft as mg
from maskgraft import batches, shapes, state
from maskgraft.class_surgery import with_classes
from maskgraft.coco import Dataset
from maskgraft.forgetting import cka
from maskgraft.grafted import Grafted, Row
from maskgraft.keeping import START, Keeping, distance
from maskgraft.model import MaskRCNN
from maskgraft.recipe import Recipe
from maskgraft.targets import Batch
from tests.tiny import tiny_model

OLD, NEW = ("disc", "box", "triangle"), ("box", "triangle", "star")
KNOWN = ("box", "triangle")
SHORT = Recipe(policy="all", steps=4, epochs=2, batch=2, lr=0.01, workers=0, warmup=1, evaluate_every=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = shapes.draw(tmp_path_factory.mktemp("shapes") / "new", images=8, classes=NEW, seed=5, side=96)
    return mg.read_coco(path, path.parent)


def start() -> MaskRCNN:
    """A model of the old classes, as a file would give it."""
    model = tiny_model(OLD, seed=3)
    names = {name: name for name, _ in model.named_parameters()}
    rows = tuple(Row(name, index) for index, name in enumerate(OLD))
    model.graft = Grafted(Path("old"), "torchvision", "", "", names, rows, (), {}, ())
    return model


def grown() -> MaskRCNN:
    torch.manual_seed(11)
    return with_classes(start(), NEW)


def batch_of(data: Dataset, model: MaskRCNN) -> Batch:
    return next(iter(batches.loader(data.trainable(), model.spec.numerics, SHORT, epoch=0)))


def test_the_start_is_at_no_distance_from_itself(data: Dataset) -> None:
    model = grown()
    assert distance(start(), model, KNOWN).item() == 0  # the new class's rows are nobody's to keep
    with torch.no_grad():
        model.box_predictor.cls.bias[NEW.index("star")] += 3
        assert distance(start(), model, KNOWN).item() == 0
        model.box_predictor.cls.bias[NEW.index("box")] += 3
    assert distance(start(), model, KNOWN).item() == pytest.approx(9)


def test_distilled_losses_are_least_at_the_start(data: Dataset) -> None:
    model = grown()
    keeping = Keeping(start(), known=KNOWN, distil=1.0)
    batch = batch_of(data, model)
    at_start = keeping.losses(model.train(), batch)
    assert set(at_start) == {"kept.rpn", "kept.cls", "kept.box", "kept.mask"}
    assert at_start["kept.box"].item() == 0
    model.zero_grad()
    at_start["kept.cls"].backward()
    # cross-entropy with its own answer is at its least, whatever the answer is
    assert model.box_predictor.cls.weight.grad.abs().max() < 1e-5
    with torch.no_grad():
        model.box_predictor.cls.bias[NEW.index("box")] += 5
    moved = keeping.losses(model, batch)
    assert moved["kept.cls"] > at_start["kept.cls"] + 0.1


def test_losses_carry_their_weights(data: Dataset) -> None:
    model = grown().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    batch = batch_of(data, model)
    once = Keeping(start(), known=KNOWN, l2sp=1.0, distil=1.0).losses(model, batch)
    twice = Keeping(start(), known=KNOWN, l2sp=2.0, distil=2.0).losses(model, batch)
    for name, loss in once.items():
        assert twice[name].item() == pytest.approx(2 * loss.item(), rel=1e-5), name
    assert not any(parameter.grad is not None for parameter in start().parameters())


def test_moving_norms_move_once_a_step(data: Dataset) -> None:
    model = grown().train()
    before = {name: one.clone() for name, one in model.named_buffers()}
    Keeping(start(), known=KNOWN, distil=1.0).losses(model, batch_of(data, model))
    assert all(torch.equal(one, before[name]) for name, one in model.named_buffers())
    assert any(isinstance(one, torch.nn.BatchNorm2d) and one.training for one in model.modules())


def test_weights_stay_nearer_when_pulled(data: Dataset, tmp_path: Path) -> None:
    free, held = grown(), grown()
    mg.train(free, data, SHORT, out=tmp_path / "free")
    mg.train(held, data, SHORT.model_copy(update={"l2sp": 5.0}), out=tmp_path / "held")
    assert distance(start(), held, KNOWN) < distance(start(), free, KNOWN)
    logged = (tmp_path / "held" / "metrics.jsonl").read_text()
    assert '"kept.l2sp"' in logged


class Stop(Exception):
    """Ends a training in the middle, as a kill would."""


class Killer:
    """A watcher that ends the run after so many steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def examines(self, *_: object) -> None: ...

    def begin(self, *_: object) -> None:
        """Nothing yet."""

    def step(self, number: int, _: object) -> None:
        """Stop when it is time."""
        if number == self.after:
            raise Stop

    def evaluated(self, *_: object) -> None:
        """Nothing."""

    def found(self, *_: object) -> None:
        """Nothing."""


def test_resumed_to_the_same_bytes(data: Dataset, tmp_path: Path) -> None:
    recipe = SHORT.model_copy(update={"l2sp": 0.1, "distil": 1.0, "save_every": 1})
    whole = grown()
    mg.train(whole, data, recipe, out=tmp_path / "whole")
    with pytest.raises(Stop):
        mg.train(grown(), data, recipe, out=tmp_path / "cut", watcher=Killer(3))
    again = mg.load(tmp_path / "cut" / "last")
    mg.train(again, data, out=tmp_path / "cut", resume=True)
    assert all(torch.equal(one, again.state_dict()[name]) for name, one in whole.state_dict().items())
    lines = [(tmp_path / name / state.METRICS).read_bytes() for name in ("whole", "cut")]
    assert lines[0] == lines[1]


def test_a_start_that_is_gone_is_told(data: Dataset, tmp_path: Path) -> None:
    recipe = SHORT.model_copy(update={"l2sp": 0.1})
    mg.train(grown(), data, recipe, out=tmp_path / "run")
    (tmp_path / "run" / START).rename(tmp_path / "elsewhere")
    with pytest.raises(mg.UsageError, match="start"):
        mg.train(mg.load(tmp_path / "run" / "last"), data, out=tmp_path / "run", resume=True)


def test_nothing_to_keep_is_refused(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(mg.UsageError, match="l2sp"):
        mg.train(tiny_model(NEW), data, SHORT.model_copy(update={"l2sp": 0.1}), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_keeps_all_of_itself(data: Dataset) -> None:
    report = mg.retention((start(), start()), data, limit=2)
    assert all(one.change == 0 and one.moved == 0 for one in report.components.values())
    assert all(value == pytest.approx(1, abs=1e-9) for value in report.features.values())
    assert all(kept.box[0] == kept.box[1] for kept in report.classes.values())
    assert set(report.classes) <= set(KNOWN)


def test_what_moved_is_told_by_component(data: Dataset) -> None:
    after = grown()
    with torch.no_grad():
        after.mask_head.convs[0].conv.weight.mul_(1.5)
    report = mg.retention((start(), after), data, limit=2)
    assert {name for name, one in report.components.items() if one.moved} == {"mask_head"}
    weights = start().mask_head.state_dict()
    moved = 0.5 * weights["convs.0.conv.weight"].norm() / torch.cat([one.flatten() for one in weights.values()]).norm()
    assert report.components["mask_head"].change == pytest.approx(moved.item(), rel=1e-5)


def test_agreement_counts_what_is_found_still(data: Dataset) -> None:
    before, after = start(), start()
    with torch.no_grad():  # sure of discs everywhere
        for model in (before, after):
            model.box_predictor.cls.weight.zero_()
            model.box_predictor.cls.bias.copy_(torch.tensor([9.0, 0.0, 0.0, 0.0]))
    same = mg.retention((before, after), data, limit=2).agreement
    assert same.found > 0 and same.kept == 1 and same.mask_iou == 1
    with torch.no_grad():
        after.box_predictor.cls.bias.copy_(torch.tensor([0.0, 9.0, 0.0, 0.0]))
    other = mg.retention((before, after), data, limit=2).agreement
    assert other.found == same.found and other.kept == 0 and other.mask_iou is None


def test_a_run_tells_what_it_kept(data: Dataset, tmp_path: Path) -> None:
    run = mg.train(grown(), data, SHORT.model_copy(update={"retention": 2}), out=tmp_path / "run")
    assert run.retention is not None and run.retention.images == 2
    told = json.loads((tmp_path / "run" / "retention.json").read_text())
    assert told["known"] == list(KNOWN) and set(told["classes"]) <= set(KNOWN)
    assert told["components"] == {name: asdict(one) for name, one in run.retention.components.items()}
    change = mg.retention((tmp_path / "run" / START, tmp_path / "run" / "last"), data, limit=1, known=KNOWN)
    assert run.retention.components == change.components
    quiet = mg.train(grown(), data, SHORT.model_copy(update={"retention": 0}), out=tmp_path / "quiet")
    assert quiet.retention is None
    assert not (tmp_path / "quiet" / START).exists() and not (tmp_path / "quiet" / "retention.json").exists()


def test_what_came_from_no_file_has_nothing_to_keep(data: Dataset, tmp_path: Path) -> None:
    assert mg.train(tiny_model(NEW), data, SHORT, out=tmp_path / "random").retention is None
    backbone = grown()
    names = {name: name for name, _ in backbone.named_parameters() if name.startswith("backbone.")}
    backbone.graft = replace(backbone.graft, moved=names, rows=tuple(Row(name, None) for name in NEW))
    kept = mg.train(backbone, data, SHORT, out=tmp_path / "backbone").retention
    assert set(kept.components) == {"backbone"} and kept.classes == {} and kept.agreement.found == 0


def test_models_that_cannot_be_compared(data: Dataset) -> None:
    other = tiny_model(("cube",))
    with pytest.raises(mg.UsageError, match="no class in common"):
        mg.retention((start(), other), data)
    spec = start().spec
    wider = MaskRCNN(replace(spec, arch=replace(spec.arch, neck_channels=64)))
    with pytest.raises(mg.UsageError, match="different architectures"):
        mg.retention((start(), wider), data)


def test_cka_knows_turned_scaled_and_unrelated() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 8, generator=random, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=random, dtype=torch.float64))[0]
    assert cka(x, 3 * x @ turn + 1) == pytest.approx(1)
    assert cka(x, torch.randn(2000, 8, generator=random, dtype=torch.float64)) < 0.05
