"""Where the loading of images stands, when no batch comes: a stack of each worker, while it hangs."""

import faulthandler
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from maskgraft.errors import Finding

PATIENCE = 30.0  # seconds without a batch before it is told
_SETTLE = 0.3  # seconds that a worker has to write its stack
_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<name>\S+)')


def answer(stacks: Path) -> None:
    """In a worker process: write the stack into the folder when the parent asks for it (not on Windows)."""
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, file=(stacks / str(os.getpid())).open("w"), all_threads=False)


@contextmanager
def lookout(
    files: Sequence[str],
    stacks: Path | None,
    told: Callable[[Finding], None] | None,
    *,
    patience: float | None = None,
) -> Iterator[None]:
    """Tell of what is waited for inside, when it takes more than `patience` seconds (`PATIENCE`, unless it is given).

    `stacks` is the folder in which workers answer; None where there are no workers.
    """
    if told is None:
        yield
        return
    waiting, seconds = threading.get_ident(), PATIENCE if patience is None else patience
    timer = threading.Timer(seconds, lambda: told(_stalled(files, stacks, waiting, seconds)))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _stalled(files: Sequence[str], stacks: Path | None, waiting: int, seconds: float) -> Finding:
    places = _of_workers(stacks) if stacks else {"this process": _of_thread(waiting)}
    stands = "; ".join(f"{who} is in {where}" for who, where in places.items())
    message = f"no batch for {seconds:g} s; waiting for {', '.join(files[:4])}{' …' if len(files) > 4 else ''}"
    return Finding(
        "train.loader-stalled",
        "warning",
        f"{message}; {stands}" if stands else message,
        names=tuple(files),
        evidence={"seconds": seconds, "stacks": places},
        effect="the training waits, and does nothing",
        fix="look whether these files can be read; workers=0 loads them in the training's own process",
    )


def _of_workers(stacks: Path) -> dict[str, str]:
    """Where each worker of this process stands."""
    asked = []
    for number, process in enumerate(multiprocessing.active_children()):
        # only who has a file of its own listens to the signal: any other process would end by it
        if process.pid is not None and (stacks / str(process.pid)).exists():
            os.kill(process.pid, signal.SIGUSR1)
            asked.append((number, process.pid))
    time.sleep(_SETTLE)
    return {f"worker {number}": _innermost((stacks / str(pid)).read_text()) for number, pid in asked}


def _innermost(stack: str) -> str:
    """The newest frames of what faulthandler wrote, innermost first; of several stacks the last."""
    frames = [match.groupdict() for match in _LINE.finditer(stack.rpartition("most recent call first")[2])]
    shown = [f"{one['name']} ({Path(one['file']).name} line {one['line']})" for one in frames[:4]]
    return " < ".join(shown) or "no Python code"


def _of_thread(thread: int) -> str:
    frame = sys._current_frames().get(thread)
    found = traceback.extract_stack(frame)[-4:] if frame else []
    return " < ".join(f"{one.name} ({Path(one.filename).name} line {one.lineno})" for one in reversed(found))
