"""`mg.plan`: pairs of tensors between any file and any module, reviewed, applied all or nothing, and verified."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import maskgraft as mg
from maskgraft.pairing import SURE, moves, pair
from maskgraft.planning import read_step, written
from tests.tiny import tiny_model

State = dict[str, Tensor]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(width)


class Detector(nn.Module):
    """Nobody's architecture: repeated blocks of equal shapes, two widths, and heads."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.Module()
        self.backbone.stem = nn.Conv2d(3, 8, 7)
        self.backbone.layer1 = nn.Sequential(*(Block(8) for _ in range(3)))
        self.backbone.widen = nn.Conv2d(8, 16, 1)
        self.backbone.layer2 = nn.Sequential(*(Block(16) for _ in range(4)))
        self.rpn = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 1))
        self.head = nn.Module()
        self.head.fc = nn.Linear(16 * 4, 32)
        self.head.scores = nn.Linear(32, 5)
        for tensor in self.state_dict().values():
            if tensor.is_floating_point():
                tensor.normal_()


def file(folder: Path, state: State) -> Path:
    path = folder / "weights.pth"
    torch.save(state, path)
    return path


def renamed(*changes: tuple[str, str]) -> Callable[[State], State]:
    def change(state: State) -> State:
        moved = {}
        for name, value in state.items():
            for old, new in changes:
                name = name.replace(old, new)
            moved[name] = value
        return moved

    return change


CHANGES: dict[str, Callable[[State], State]] = {
    "as it is": lambda state: state,
    "wrapped": lambda state: {f"module.net.{name}": value for name, value in state.items()},
    "parts renamed": renamed(("backbone", "trunk"), ("layer", "stage"), ("head", "roi")),
    "layers renamed": renamed(("conv", "c"), ("bn", "norm"), ("stem", "first")),
    "order reversed": lambda state: dict(reversed(state.items())),
    "renamed, sorted": lambda state: dict(sorted(renamed(("backbone", "zoo"), ("layer", "stage"))(state).items())),
    "counters absent": lambda state: {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")},
    "kernels HWIO": lambda state: {
        n: v.permute(2, 3, 1, 0).contiguous() if v.ndim == 4 else v for n, v in state.items()
    },
    "matrices transposed": lambda state: {n: v.T.contiguous() if v.ndim == 2 else v for n, v in state.items()},
    "Keras' words": renamed((".bn", ".norm"), ("running_mean", "moving_mean"), ("running_var", "moving_variance")),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_every_sure_pair_is_right(change: str, tmp_path: Path) -> None:
    source, target = Detector(1), Detector(2)
    plan = mg.plan(file(tmp_path, CHANGES[change](source.state_dict())), target)
    plan.apply()
    truth, now = source.state_dict(), target.state_dict()
    wrong = [
        one.target
        for one in plan.pairs
        if one.confidence >= SURE and not torch.equal(now[one.target], truth[one.target])
    ]
    assert not wrong
    filled = sum(truth[name].numel() for name in plan.chosen) / sum(value.numel() for value in truth.values())
    assert filled > 0.9, plan.percent()


def test_what_only_order_tells_is_doubtful_and_not_applied(tmp_path: Path) -> None:
    source, target = Detector(1), Detector(2)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = {f"w{index}": value for index, value in enumerate(source.state_dict().values())}
    plan = mg.plan(file(tmp_path, state), target)
    repeated = [one for one in plan.pairs if "layer2" in one.target and one.target.endswith("conv1.weight")]
    assert repeated and all(one.confidence < SURE for one in repeated)
    plan.apply()
    assert all(torch.equal(target.state_dict()[one.target], before[one.target]) for one in plan.doubtful)


def test_a_plan_is_written_edited_and_given_back(tmp_path: Path) -> None:
    source, target = Detector(1), Detector(2)
    path = file(tmp_path, CHANGES["parts renamed"](source.state_dict()))
    mg.plan(path, target).save(tmp_path / "plan.toml")
    text = (tmp_path / "plan.toml").read_text()
    assert 'target = "head.scores.bias"\nsource = "roi.scores.bias"' in text
    edited = text.replace('source = "roi.scores.bias"', 'source = "nothing"')
    (tmp_path / "wrong.toml").write_text(edited)
    with pytest.raises(mg.UsageError, match="has no tensor nothing"):
        mg.read_plan(tmp_path / "wrong.toml", path, target)
    again = mg.read_plan(tmp_path / "plan.toml", path, target)
    assert {(one.target, one.source, one.steps) for one in again.pairs} == {
        (one.target, one.source, one.steps) for one in mg.plan(path, target).pairs
    }
    again.with_doubtful().apply()
    assert torch.equal(target.head.scores.bias, source.head.scores.bias)


ENTRY = '[[pair]]\ntarget = "weight"\nsource = "weight"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pair = 3", "pair is 3"),
        ('[pair]\ntarget = "weight"', "before each"),
        (f'{ENTRY}confidence = "sure"', "confidence is 'sure'"),
        (f'{ENTRY}apply = "yes"', "apply is 'yes'"),
        (f"{ENTRY}steps = 3", "steps is 3"),
        (f'{ENTRY}steps = ["turn"]', "'turn' is no step"),
        ('why = "\xff"', "utf-8"),
    ],
)
def test_a_plan_that_is_edited_wrongly_is_told(tmp_path: Path, text: str, says: str) -> None:
    target = nn.Linear(2, 2)
    (tmp_path / "plan.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(mg.UsageError, match=says):
        mg.read_plan(tmp_path / "plan.toml", file(tmp_path, target.state_dict()), target)


def test_names_of_any_letters_stand_in_a_plan(tmp_path: Path) -> None:
    target, name = nn.Module(), 'weiß "\U0001f600" \x7f'
    target.register_parameter(name, nn.Parameter(torch.ones(2)))
    path = file(tmp_path, {name: torch.zeros(2)})
    mg.plan(path, target).save(tmp_path / "plan.toml")
    assert [one.target for one in mg.read_plan(tmp_path / "plan.toml", path, target).pairs] == [name]


def test_components_one_at_a_time(tmp_path: Path) -> None:
    source, target = Detector(1), Detector(2)
    plan = mg.plan(file(tmp_path, source.state_dict()), target)
    untouched = target.head.fc.weight.clone()
    assert plan.apply(components=["rpn"]).percent == {"rpn": 100.0}
    assert torch.equal(target.rpn[0].weight, source.rpn[0].weight)
    assert torch.equal(target.head.fc.weight, untouched)
    with pytest.raises(mg.UsageError, match="backbone, head, rpn"):
        plan.apply(components=["neck"])


def test_all_or_nothing(tmp_path: Path) -> None:
    source, target = Detector(1), Detector(2)
    path = file(tmp_path, source.state_dict())
    mg.plan(path, target).save(tmp_path / "plan.toml")
    text = (tmp_path / "plan.toml").read_text().replace('source = "head.fc.bias"', 'source = "head.scores.bias"')
    (tmp_path / "plan.toml").write_text(text)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(mg.CheckpointError, match=r"head.scores.bias is \[5\]"):
        mg.read_plan(tmp_path / "plan.toml", path, target).apply()
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_a_module_that_does_not_keep_what_it_is_given(tmp_path: Path) -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def state_dict(self, *arguments: object, **named: object) -> State:  # type: ignore[override]
            return {name: value.clone() for name, value in super().state_dict().items()}

    path = file(tmp_path, {"fc.weight": torch.ones(3, 4), "fc.bias": torch.ones(3)})
    with pytest.raises(mg.CheckpointError, match="not in the module after they were written"):
        mg.plan(path, Forgetful()).apply()


def test_known_on_both_sides_goes_through_exact_links(tmp_path: Path) -> None:
    from maskgraft.families import torchvision as family

    source, target = tiny_model(seed=1), tiny_model(seed=2)
    state = {
        link.theirs: torch.from_numpy(link.back(source.state_dict()[link.ours].numpy()).copy())
        for link in family.links(source.spec, "2019")
    }
    plan = mg.plan(file(tmp_path, state), target)
    assert {one.confidence for one in plan.pairs} == {1.0}
    assert plan.apply().percent == dict.fromkeys(plan.percent(), 100.0)
    for name, value in source.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(target.state_dict()[name], value), name


@pytest.mark.parametrize("text", ["transpose 3 2 0 1", "reshape 4 9 to 36", "rows of axis 0: 1-80 0"])
def test_steps_are_written_and_read(text: str) -> None:
    assert written(read_step(text)) == text


def test_moves_keep_all_numbers_or_are_none() -> None:
    assert moves((7, 7, 256, 1024), (1024, 12544)) is not None
    assert moves((81, 1024), (80, 1024)) is None
    assert moves((3, 3, 64, 128), (128, 64, 3, 3)) == (read_step("transpose 3 2 0 1"),)


def test_nothing_stands_in_two_pairs() -> None:
    table = {f"a.{index}.weight": (4, 4) for index in range(5)}
    pairs = pair(table, {f"b.{index}.weight": (4, 4) for index in range(9)})
    assert len({one.source for one in pairs}) == len(pairs) == 5
