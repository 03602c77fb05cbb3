"""The loop in the README is run as it stands."""

from pathlib import Path

import pytest
import torch

import maskgraft as mg
from maskgraft import policy
from tests.test_training import fresh
from tests.tiny import draw_dataset

PAGE = Path(__file__).parent.parent / "README.md"


def block(title: str) -> str:
    """The first Python block under a title."""
    under = PAGE.read_text(encoding="utf-8").split(f"### {title}\n")[1]
    return under.split("```python\n")[1].split("```")[0]


def test_the_loop_of_the_readme_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    instances, images = draw_dataset(tmp_path / "drawn", images=4)
    instances.rename("train.json")
    images.rename("photos")
    mg.save(fresh(), "runs/first/best")
    code = block("A loop of your own")
    assert len([line for line in code.splitlines() if line.strip()]) <= 31
    torch.manual_seed(0)
    exec(compile(code, str(PAGE), "exec"), {})
    first, *_, last, ap = capsys.readouterr().out.strip().splitlines()
    mask = [float(line.split("'mask': ")[1].split("}")[0]) for line in (first, last)]
    assert mask[1] < mask[0] and 0 <= float(ap) <= 1
    before, after = (mg.load(name).state_dict() for name in ("runs/first/best", "mine"))
    trained = policy.apply(fresh(), "4+").names
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(trained)


def test_predicting_leaves_each_part_in_its_mode(tmp_path: Path) -> None:
    model = fresh()
    policy.apply(model, "5+", train_norms=True)
    before = {name: module.training for name, module in model.named_modules()}
    assert set(before.values()) == {True, False}
    model.predict([draw_dataset(tmp_path / "drawn", images=1)[1] / "0.png"])
    assert {name: module.training for name, module in model.named_modules()} == before
