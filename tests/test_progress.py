"""A training on a terminal, as a real one gets it, and in a log."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from maskgraft.cli.progress import Watch
from maskgraft.cli.sparklines import Course
from maskgraft.policy import Trainable
from maskgraft.recipe import Recipe, resolve
from tests.watched_run import told

ROOT = Path(__file__).parent.parent
STEPS = 60
COMMAND = [sys.executable, "-m", "tests.watched_run", str(STEPS), "1.2"]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    return {**kept, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", **more}


def on_terminal(columns: int, **more: str) -> str:
    """What is written to a pseudo terminal of so many columns."""
    pty = pytest.importorskip("pty", reason="this system has no pseudo terminals")
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with subprocess.Popen(
        COMMAND, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(TERM="xterm-256color", **more), cwd=ROOT
    ) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # Linux: the other end is closed
                break
            if not part:
                break
            written += part
        os.close(ours)
    assert process.returncode == 0, written.decode()
    return written.decode()


def lines(text: str) -> list[str]:
    """What is written, without what moves the cursor and colours it."""
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").split("\n")]


def test_on_a_terminal_courses_grow_in_place() -> None:
    text = on_terminal(80)
    shown = lines(text)
    assert max(map(len, shown)) <= 80
    last = {line.split("  ")[0]: line for line in shown}  # of each row what was drawn last
    assert re.search(r"█[▁▂▃▄▅▆▇█]+▁  1\.32 +3\.09 at first$", last["loss"])
    assert re.search(r"▁[▁▂▃▄▅▆▇█]+ +80\.0$", last["proposals meet"])
    assert last["mask AP"].endswith("36.1") and last["cls"].endswith("45 %")
    assert any(line.startswith(f"step {STEPS}/{STEPS}") and line.endswith("0:00 left") for line in shown)
    assert shown.count("warning train.lr-low: the loss falls too slowly") == 1  # above, where it stays
    assert shown.count(f"step {STEPS // 2}: box AP 36.1, mask AP 36.1") == 1
    assert text.count("\x1b[1A") > 10  # the picture is drawn over itself
    assert text.rstrip().endswith("\x1b[?25h")  # and the cursor is given back


def test_in_a_log_there_are_plain_lines() -> None:
    written = io.StringIO()
    with Watch(Console(file=written, width=160)) as watch:
        told(watch, STEPS, 0.0)
    assert "\x1b" not in written.getvalue()
    steps = [line for line in written.getvalue().splitlines() if re.match(r"step \d+/", line)]
    assert steps[0].startswith(f"step 1/{STEPS}  loss 3.086 (rpn_cls 0.688 ")
    assert steps[-1].startswith(f"step {STEPS}/{STEPS}  ") and len(steps) <= 61
    assert "train.lr-low" in written.getvalue()


@pytest.mark.parametrize("columns", [40, 60, 200])
def test_the_picture_fits_any_width(columns: int) -> None:
    written = io.StringIO()
    with Watch(Console(file=written, width=columns, force_terminal=True, legacy_windows=False)) as watch:
        told(watch, STEPS, 0.0)
    assert max(map(len, lines(written.getvalue()))) <= columns


def test_a_course_keeps_its_width_and_its_shape() -> None:
    course = Course(16)
    for step in range(10_000):
        course.add(float(step))
    assert 8 <= len(course.sums) <= 16
    line = course.line()
    assert line[0] == "▁" and line[-1] == "█" and sorted(line) == list(line)
    assert sum(count for _, count in course.sums) == 10_000
    assert sum(total for total, _ in course.sums) == sum(range(10_000))


def test_what_is_not_finite_is_no_part_of_a_course() -> None:
    course = Course(8)
    for value in (1.0, None, float("nan"), float("inf"), 3.0):
        course.add(value)
    assert course.line() == "▁█" and course.line(plain=True) == "_#" and course.last == 3.0
    assert Course(8).line() == ""


def test_courses_of_losses_are_logarithmic() -> None:
    course = Course(8)
    for value in (100.0, 10.0, 1.0):
        course.add(value)
    assert course.line(log=True) == "█▅▁" and course.line() == "█▁▁"


def test_rates_of_components_are_told_beside_that_of_the_whole() -> None:
    page = io.StringIO()
    resolved = resolve(Recipe(lr=0.01, multipliers="gentle"), images=8)
    Watch(Console(file=page, width=120)).begin(resolved, Trainable("heads", frozenset(), ()), ())
    assert "heads at lr 0.01" in page.getvalue() and "backbone × 0.1, fpn × 0.2, rpn × 0.2" in page.getvalue()
