"""Detectron2 and MMDetection, each in a Python of its own, which an environment variable names.

The weights are those of the other benchmarks, written for that home by `mg.convert`; photographs go from file to masks
there as here, and both take turns. Ours is the model as that home computes it (resizing, RoIAlign and pasting are its).

    MASKGRAFT_DETECTRON2=/path/to/python MASKGRAFT_MMDET=/path/to/python python -m benchmarks predicting
"""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import maskgraft as mg
from benchmarks import timing
from benchmarks.peers import agreeing
from benchmarks.timing import Row


@dataclass(frozen=True)
class Home:
    """A home framework: the environment variable that names its Python, and whose kernels it runs here."""

    title: str
    variable: str
    kernels: str


HOMES = {
    "detectron2": Home(
        "Detectron2", "MASKGRAFT_DETECTRON2", "its sources; RoIAlign and suppression are torchvision's in it too"
    ),
    "mmdet": Home(
        "MMDetection",
        "MASKGRAFT_MMDET",
        "with mmcv-lite: torchvision's RoIAlign and suppression in place of mmcv's compiled ones",
    ),
}


def beside(home: str, work: str, file: Path, folder: Path, paths: list[Path], rounds: int) -> Row:
    """Photographs one at a time, here and at home; `not measured` where no variable names a Python."""
    about = HOMES[home]
    python = os.environ.get(about.variable)
    if not python:
        return Row(work, None, None, about.title, "", f"not measured: {about.variable} names no Python that has it")
    (folder / home).mkdir()
    written = mg.convert(file, to=home, out=folder / home / "model.pth", accept=True).files
    model = mg.load(written[0])
    found = folder / home / "found.npz"
    arguments = [home, str(written[0]), str(written[-1]), str(found), str(torch.get_num_threads())]
    with _turns(python, [*arguments, *map(str, paths)]) as theirs:
        works = {"ours": lambda: [model.predict([path]) for path in paths], "theirs": theirs}
        spent = timing.alternate(rounds, works)
    agree = total = 0
    with np.load(found) as held:
        for index, path in enumerate(paths):
            boxes, labels, masks = (torch.from_numpy(held[f"{name}{index}"]) for name in ("boxes", "labels", "masks"))
            agree += agreeing(model.predict([path])[0], boxes, labels, masks)
            total += len(boxes)
    told = f"{agree} of {total} detections and masks; {about.kernels}"
    return Row(work, spent["ours"] / len(paths), spent["theirs"] / len(paths), about.title, "", told)


@contextmanager
def _turns(python: str, arguments: list[str]) -> Iterator[Callable[[], None]]:
    """A process that predicts whenever it is called; without the settings of this Python."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [python, str(Path(__file__).with_name("home_turns.py")), *arguments]
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, env=environment
        ) as process,
    ):
        assert process.stdin and process.stdout
        asks, answers = process.stdin, process.stdout

        def hear() -> None:
            if not answers.readline():
                said.seek(0)
                raise ChildProcessError(f"{python} ended instead of predicting:\n{said.read()[-2000:]}")

        def turn() -> None:
            asks.write("\n")
            asks.flush()
            hear()

        hear()  # that the model is loaded
        yield turn
