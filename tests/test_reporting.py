"""What a run's report measures by itself: errors with their pictures, anchors; once, and also after a kill."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import maskgraft as mg
from maskgraft import coco, store
from maskgraft.coco import ImageRecord
from tests.pages.browser import needs_browser, seen
from tests.pages.written_run import write_run
from tests.test_shortfalls import BOX, DISC, OBJECT, Scripted, dataset
from tests.tiny import draw_dataset, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> coco.Dataset:
    return coco.read(*draw_dataset(tmp_path_factory.mktemp("drawn"), images=4))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "run")
    store.save(tiny_model(), folder / "last", about={"step": 200})
    return folder


def test_errors_are_measured_once(run: Path, drawn: coco.Dataset) -> None:
    seen_images: list[int] = []

    def noted(images: Sequence[ImageRecord]) -> Iterator[ImageRecord]:
        for image in images:
            seen_images.append(image.id)
            yield image

    text = mg.report(run, data=drawn, val=drawn, limit=3, progress=noted).read_text(encoding="utf-8")
    assert seen_images == [0, 1, 2]
    told = json.loads((run / "shortfall.json").read_text())
    assert told["step"] == 200 and told["images"] == 3
    for words in ("Why not 100?", "Which classes are confused", "Anchors against boxes", "Worst images"):
        assert words in text, words
    assert not re.search(r"""(src|href)=["'](?!#|data:image/)""", text)
    again = mg.report(run, data=drawn, val=drawn, limit=3, progress=noted).read_text(encoding="utf-8")
    assert seen_images == [0, 1, 2] and again == text
    mg.report(run, val=drawn, limit=2, progress=noted)
    assert len(seen_images) == 5


def test_a_killed_run_finds_its_data_by_its_recipe(run: Path, drawn: coco.Dataset) -> None:
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["data"]["annotations"] = str(drawn.path)
    recipe["val"] = {"annotations": str(drawn.path), "folder": str(drawn.folder)}
    (run / "recipe.json").write_text(json.dumps(recipe))
    text = mg.report(run).read_text(encoding="utf-8")
    assert "Why not 100?" in text and "Anchors against boxes" in text
    drawn.path.rename(drawn.path.with_suffix(".gone"))
    try:
        assert "Why not 100?" in mg.report(run).read_text(encoding="utf-8")  # as it was measured
    finally:
        drawn.path.with_suffix(".gone").rename(drawn.path)


def test_each_error_has_its_picture(tmp_path: Path) -> None:
    from maskgraft import exhibits

    data = dataset(tmp_path / "data", [[(OBJECT, DISC)], [(OBJECT, BOX)]])
    regions = [[(OBJECT, BOX, 0.9, 0.0)], [(OBJECT, BOX, 0.9, 0.0), ((60.0, 60.0, 90.0, 90.0), DISC, 0.8, 0.0)]]
    short = mg.shortfall(Scripted(regions), data)
    assert [one.kind for one in short.examples] == ["class", "background"]
    exhibits.draw_errors(Scripted(regions), data, short, tmp_path / "errors")
    assert sorted(one.name for one in (tmp_path / "errors").iterdir()) == [
        "error-000.jpg",
        "error-001.jpg",
        "worst-0.jpg",
        "worst-1.jpg",
    ]
    picture = Image.open(tmp_path / "errors" / "error-001.jpg")
    assert 380 < picture.width < 440 and picture.getbbox() is not None


def test_a_training_leaves_its_page(drawn: coco.Dataset, tmp_path: Path) -> None:
    recipe = mg.Recipe(policy="heads", steps=2, workers=0, batch=2, train_norms=False)
    mg.train(tiny_model(), drawn, recipe, out=tmp_path / "run", val=replace(drawn, images=drawn.images[:2]))
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for words in ("It has ended.", "Why not 100?", "What trained", "train.frozen-random", "Anchors against boxes"):
        assert words in text, words


def test_without_evaluation_there_are_samples_of_every_epoch(drawn: coco.Dataset, tmp_path: Path) -> None:
    recipe = mg.Recipe(policy="predictors", epochs=2, workers=0, batch=2)
    mg.train(tiny_model(), drawn, recipe, out=tmp_path / "run")
    assert sorted(one.name for one in (tmp_path / "run" / "samples").glob("step-*")) == [
        "step-000002.jpg",
        "step-000004.jpg",
    ]
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "images that it was trained on" in text and "last: after step 4" in text


@needs_browser
def test_the_whole_page_fits_a_telephone(run: Path, drawn: coco.Dataset, tmp_path: Path) -> None:
    page = mg.report(run, data=drawn, val=drawn, limit=2)
    told = """<script>document.body.insertAdjacentHTML("beforeend", "<p id='wide'>" +
    (document.documentElement.scrollWidth - document.documentElement.clientWidth) + "</p>");</script></body>"""
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", told), encoding="utf-8")
    assert '<p id="wide">0</p>' in seen(page, tmp_path / "profile", width=390)
