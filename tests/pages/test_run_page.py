"""The report page of a run: what stands on it, also of one that was killed, and what a browser makes of it."""

import json
import re
from pathlib import Path

import pytest

import maskgraft as mg
from maskgraft import histories
from maskgraft.pages import charts
from maskgraft.pages.charts import Pin, Series, Times
from tests.pages.browser import needs_browser, seen
from tests.pages.written_run import write_run


def test_everything_is_on_the_page_and_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    text = mg.report(write_run(tmp_path / "run")).read_text(encoding="utf-8")
    for words in (
        "It has ended.",
        "Losses",
        "Shares of the losses",
        "Gradient balance",
        "Update by weight",
        "Dead channels",
        "Largest activations",
        "train.lr-high",
        "the loss grew from 1.2 to &lt;9e9&gt;",
        "train.batchnorm",
        "clipped at 5 in 24 % of the steps",
        "0.02 × 2 / 16",
        "changed after step 60",
        "cls and box",
        "best: after step 200",
        "prefers-color-scheme: dark",
    ):
        assert words in text, words
    assert "<9e9>" not in text
    assert not re.search(r"""(src|href)=["'](?!#|data:image/)|url\(|@import|https?://""", text)


def test_a_killed_run_has_its_page_too(tmp_path: Path) -> None:
    text = mg.report(write_run(tmp_path / "run", done=70, torn=True)).read_text(encoding="utf-8")
    assert "It stands at step 70 of 200" in text and "train.lr-high" in text


def test_a_run_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for name in ("metrics.jsonl", "timing.jsonl"):
        (folder / name).unlink()
    assert "No step is done yet." in mg.report(folder).read_text(encoding="utf-8")


def test_what_was_kept_is_told_where_it_was_measured(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    kept = {
        "components": {"backbone": {"change": 0.031, "tensors": 60, "moved": 12}},
        "features": {"p3": 0.973},
        "classes": {
            "cat": {"box": [0.4, 0.39], "mask": [0.38, 0.11]},
            "dog": dict.fromkeys(("box", "mask"), [None] * 2),
        },
        "agreement": {"found": 12, "kept": 0.75, "mask_iou": 0.8},
        "images": 4,
    }
    (folder / "retention.json").write_text(json.dumps(kept))
    text = mg.report(folder).read_text(encoding="utf-8")
    for words in ("3.10 %", "12 of 60", "-27.0 lost", "75.0 % are", "0.973"):
        assert words in text, words


def test_a_folder_without_a_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(mg.UsageError, match="holds no run"):
        mg.report(tmp_path)
    (tmp_path / "recipe.json").write_text("[1]")
    with pytest.raises(mg.UsageError, match="not what a run writes"):
        mg.report(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["recipe.json"]


def test_the_verb_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from maskgraft.cli import app

    app(["report", str(write_run(tmp_path / "run")), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["page"] == str(tmp_path / "run" / "report.html")


def test_lines_are_where_their_values_are() -> None:
    text = charts.over_time("x", [Series("a", [(0, 0.0), (50, 5.0), (100, 10.0)])], Times(100))
    assert 'd="M0 1000L500 500L1000 0"' in text
    log = charts.over_time("x", [Series("a", [(0, 0.01), (100, 100.0)])], Times(100), log=True)
    assert 'd="M0 1000L1000 0"' in log and ">0.01<" in log and ">100<" in log


def test_many_steps_are_drawn_as_means_between_lowest_and_highest() -> None:
    points = [(float(step), float(step % 2)) for step in range(10_000)]
    text = charts.over_time("x", [Series("a", points)], Times(10_000))
    line = re.findall(r'class="line s0" d="([^"]+)"', text)[0]
    assert len(line.split("L")) < 300 and {one.split()[1] for one in line[1:].split("L")} == {"500"}
    assert 'class="band s0"' in text


def test_what_is_not_finite_is_left_out_of_a_line() -> None:
    text = charts.over_time("x", [Series("a", [(1, None), (2, float("nan")), (3, 1.0), (4, 0.5)])], Times(4))
    assert "nan" not in text
    assert charts.over_time("x", [Series("a", [(1, None)])], Times(4)) == ""


def test_pins_that_would_hide_each_other_are_one() -> None:
    times = Times(1000, pins=[Pin(1, 10, "warning", "a"), Pin(2, 12, "error", "b"), Pin(3, 500, "info", "c")])
    text = charts.over_time("x", [Series("a", [(1, 1.0), (900, 2.0)])], times)
    assert re.findall(r'class="pin (\w+)" href="#finding-(\d)"', text) == [("error", "1"), ("info", "3")]
    assert ">1+1</a>" in text and "step 12: b" in text


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    history = histories.read(write_run(tmp_path / "run", done=120, torn=True))
    assert len(history.steps) == 120 and len(history.evaluations) == 2 and not history.ended
    assert [(one.step, one.action) for one in history.told] == [(0, "go on"), (60, "roll back")]


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1200, False)])
def test_arrow_keys_walk_along_the_steps_on_any_screen(tmp_path: Path, width: int, dark: bool) -> None:
    page = mg.report(write_run(tmp_path / "run"))
    tried = """<script>
    const first = document.querySelector(".timed");
    for (let i = 0; i < 50; i++) first.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
    const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    document.body.insertAdjacentHTML("beforeend", `<p id="tried">${first.querySelector(".at").textContent};
      ${first.querySelector("output").textContent}; ${wide}; ${getComputedStyle(document.body).backgroundColor}</p>`);
    </script></body>"""
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", tried), encoding="utf-8")
    document = seen(page, tmp_path / "profile", width=width, dark=dark)
    told = re.findall(r'<p id="tried">([^<]+)</p>', document)[-1]
    step, value, wider, ground = (one.strip() for one in told.split(";"))
    assert step == "step 100"
    assert float(value) == pytest.approx(0.7 * 0.2865, rel=0.02)  # exp(-100 / 80)
    assert wider == "0"  # nothing makes the page scroll sideways
    assert (sum(map(int, re.findall(r"\d+", ground))) < 384) == dark
