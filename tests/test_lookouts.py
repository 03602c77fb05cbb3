"""Where a loader stands that gives no batch."""

import multiprocessing
import time
from pathlib import Path

from maskgraft import lookouts
from maskgraft.errors import Finding


def hang_in_a_worker(stacks: Path) -> None:
    lookouts.answer(stacks)
    (stacks / "ready").touch()
    time.sleep(60)


def test_a_worker_says_where_it_hangs(tmp_path: Path) -> None:
    worker = multiprocessing.get_context("fork").Process(target=hang_in_a_worker, args=(tmp_path,), daemon=True)
    worker.start()
    try:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        told: list[Finding] = []
        with lookouts.lookout(["a.jpg"], tmp_path, told.append, patience=0.05):
            time.sleep(0.8)
        assert worker.is_alive()
    finally:
        worker.kill()
        worker.join()
    (finding,) = told
    assert finding.code == "train.loader-stalled" and finding.names == ("a.jpg",)
    assert "hang_in_a_worker (test_lookouts.py line 14)" in finding.message


def test_this_process_says_where_it_hangs() -> None:
    told: list[Finding] = []
    with lookouts.lookout(["a.jpg"], None, told.append, patience=0.05):
        time.sleep(0.3)
    assert "test_this_process_says_where_it_hangs" in told[0].message


def test_what_comes_in_time_is_not_told() -> None:
    told: list[Finding] = []
    with lookouts.lookout(["a.jpg"], None, told.append, patience=0.2):
        pass
    time.sleep(0.3)
    assert not told
