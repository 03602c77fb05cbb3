"""The report page of a run, written when it ends, or made afterwards for one that was killed.

mg.report("runs/first")        # runs/first/report.html: one file that needs nothing else
"""

from contextlib import suppress
from pathlib import Path

from maskgraft import histories, processes
from maskgraft.files.writing import atomic
from maskgraft.pages import run as run_page

PAGE = "report.html"


def report(run: str | Path) -> Path:
    """Write the report page of a run into its folder, and give its path; the page needs no network.

    It tells how the run went (curves with the findings pinned to them), what it draws, what trained, what was kept, and
    the recipe with what was set and what was derived. Raises `UsageError` (`train.resume`) for a folder without a run,
    and `OSError` when the page cannot be written; what stands there stays.
    """
    history = histories.read(run)
    path = history.folder / PAGE
    text = run_page.page(history)
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def attempt(folder: Path) -> None:
    """The page of a run that ends before its time; on a disk that takes no more there is none."""
    if processes.leads():
        with suppress(OSError):
            report(folder)
