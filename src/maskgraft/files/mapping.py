"""A file's bytes without reading them."""

import mmap
from pathlib import Path


def mapped(path: Path) -> memoryview:
    """The whole file as a read-only view; pages are fetched when they are touched.

    Raises `OSError` as `open` does. The map lives as long as a view into it.
    """
    with open(path, "rb") as file:
        file.seek(0, 2)
        if file.tell() == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
