"""A file's bytes without reading them."""

import mmap
from pathlib import Path, PurePosixPath

import numpy as np

from maskgraft.files.faults import outside
from maskgraft.files.tensors import Array


def mapped(path: Path) -> memoryview:
    """The whole file as a read-only view; pages are fetched when they are touched.

    Raises `OSError` as `open` does. The map lives as long as a view into it.
    """
    with open(path, "rb") as file:
        file.seek(0, 2)
        if file.tell() == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def forget(array: Array) -> None:
    """Let go of the memory of a map that `array` is a view into; its pages come again when they are touched.

    After the values were copied, they would otherwise stand in memory twice. Nothing happens to other arrays.
    """
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def beside(path: Path, name: str) -> Path:
    """The file that `path` refers to by a name of its own folder, or of a folder in it.

    A symbolic link may lead from the one to the other the same way for both (model caches keep every file elsewhere),
    and nowhere else. Raises `CheckpointError` (`file.outside`) for absolute names, "..", and links that lead out.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or name.startswith(("/", "\\", "~")) or ":" in parts[0] or "\0" in name:
        raise outside(
            f"{path.name} refers to a file {name[:200]!r} that is not beside it; it was not read", file=name[:200]
        )
    target = path.parent.joinpath(*parts)
    homes = {path.parent.resolve(), path.resolve().parent}
    if not any(target.resolve().is_relative_to(home) for home in homes):
        raise outside(
            f"{name!r}, which {path.name} refers to, is a link out of the folder; it was not read", file=name[:200]
        )
    return target
