"""The page of `maskgraft diagnose --html`: what stands on it, and what its search does in a real browser."""

import re
import tarfile
from pathlib import Path

import pytest
import torch

import maskgraft as mg
from maskgraft.pages.checkpoint import ClassRow, class_rows, page
from tests.pages.browser import needs_browser, seen

GOLDEN = Path(__file__).parent.parent / "golden" / "detectron2-r50fpn"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    with tarfile.open(GOLDEN / "checkpoint.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return folder / "model_final.pth"


@pytest.fixture(scope="module")
def cut(checkpoint: Path) -> Path:
    """The same model without its third mask convolution, under a name that is not safe in HTML."""
    document = torch.load(checkpoint, weights_only=False)
    document["model"] = {name: one for name, one in document["model"].items() if "mask_fcn1" not in name}
    path = checkpoint.parent / "cut <b>&.pth"
    torch.save({"model": document["model"]}, path)
    return path


def written(path: Path, folder: Path, **options: object) -> Path:
    text = page(path, mg.diagnose(path), **options)  # type: ignore[arg-type]
    (folder / "report.html").write_text(text, encoding="utf-8")
    return folder / "report.html"


def test_everything_is_on_the_page_and_nothing_comes_from_elsewhere(checkpoint: Path, tmp_path: Path) -> None:
    text = written(checkpoint, tmp_path, classes=["car", "forklift"]).read_text()
    for words in (
        "It loads.",
        "proposal network",
        "backbone.bottom_up.stem.conv1.weight",
        "backbone.stem.conv.weight",
        "channel_order",
        "forklift",
        "prefers-color-scheme: dark",
    ):
        assert words in text
    assert not re.search(r"""(src|href)=["'](?!#)|url\(|@import|https?://""", text)


def test_what_is_missing_is_told_by_component(cut: Path, tmp_path: Path) -> None:
    text = written(cut, tmp_path).read_text()
    assert "It does not load as it is." in text
    assert "<b>&.pth" not in text and "cut &lt;b&gt;&amp;.pth" in text


def test_an_unreadable_file_has_a_page_too(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 170000000\n")
    text = written(path, tmp_path).read_text()
    assert "file.lfs-pointer" in text and "The model" not in text


def test_class_rows_are_paired_by_name() -> None:
    assert class_rows(("person", "car"), ("car", "lorry")) == [
        ClassRow("car", 1, 0),
        ClassRow("lorry", None, 1),
        ClassRow("person", 0, None),
    ]


def test_the_verb_writes_the_page_whole(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from maskgraft.cli import app

    target = tmp_path / "out.html"
    app(["diagnose", str(checkpoint), "--html", str(target), "--classes", "car,forklift"], standalone_mode=False)
    assert "forklift" in target.read_text(encoding="utf-8") and "it loads" in capsys.readouterr().out
    assert [one.name for one in tmp_path.iterdir()] == ["out.html"]


@needs_browser
def test_a_search_in_the_address_shows_what_it_names(checkpoint: Path, tmp_path: Path) -> None:
    report = written(checkpoint, tmp_path)
    document = seen(report, tmp_path / "profile", place="search=anchor_deltas")
    assert re.search(r'<p id="found">2 tensors</p>', document)
    assert re.search(r'<details class="component" id="part-backbone"[^>]*hidden', document)
    assert re.search(r'<details class="component" id="part-rpn"[^>]*open', document)


@needs_browser
@pytest.mark.parametrize("width", [390, 1200])
def test_a_component_that_is_pointed_at_opens_on_any_screen(checkpoint: Path, tmp_path: Path, width: int) -> None:
    document = seen(written(checkpoint, tmp_path), tmp_path / "profile", place="part-fpn", dark=True, width=width)
    assert re.search(r'<details class="component" id="part-fpn"[^>]*open', document)
    assert not re.search(r'<details class="component" id="part-rpn"[^>]*open', document)
