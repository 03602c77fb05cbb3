"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside the target, which takes the target's place when the block ends without an error.

        with atomic("model.onnx") as temporary:
            temporary.write_bytes(data)

    The temporary file has the target's suffix, is forced to disk before the rename, and is removed when the block
    raises; the target is then as it was. Raises `OSError` as the writing itself does.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Force a folder's own entries to disk: what was renamed into it stays there when the power fails."""
    # Windows cannot open a folder and does not need to
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
