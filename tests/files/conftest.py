"""What the tests of real checkpoints share."""

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


@pytest.fixture
def unpacked() -> Iterator[Callable[[Path], Path]]:
    """The native files of a golden case, in a folder that is gone after the test (they are hundreds of megabytes)."""
    with TemporaryDirectory() as folder:

        def unpack(case: Path) -> Path:
            with tarfile.open(case / "checkpoint.tar.xz") as archive:
                archive.extractall(folder, filter="data")
            return Path(folder)

        yield unpack
