"""Photographs as arrays: any file or PIL image as uint8 [H, W, 3] RGB, the way up that people see it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from maskgraft.errors import DataError, Finding

Pixels = npt.NDArray[np.uint8]

# What a picture's file is usually called, for looking through folders; opening goes by content.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})

_ORIENTATION = 0x0112  # the EXIF tag


@dataclass(frozen=True, slots=True)
class Orientation:
    """How an image file asks to be shown: its EXIF tag 1..8 (1 is upright), and both sizes as (width, height)."""

    tag: int
    stored: tuple[int, int]
    shown: tuple[int, int]


def orientation(path: str | Path) -> Orientation:
    """The EXIF orientation of an image file, from its header. Raises `DataError` as `load_image` does."""
    path = Path(path)
    with _telling_faults(path), Image.open(path) as image:
        return _orientation(image)


def _orientation(image: Image.Image) -> Orientation:
    tag = image.getexif().get(_ORIENTATION, 1)
    tag = tag if tag in range(1, 9) else 1
    return Orientation(tag, image.size, image.size[::-1] if tag >= 5 else image.size)


def load_image(path: str | Path, *, size: tuple[int, int] | None = None) -> Pixels:
    """Read an image file: uint8 [H, W, 3] RGB.

    EXIF orientation is applied, unless `size` (width, height), what a dataset says the image has, fits only the stored
    pixels. Grey, palette, CMYK and 16-bit images become RGB; transparency is laid on black. Raises `DataError` for what
    is missing or no image.
    """
    path = Path(path)
    with _telling_faults(path), Image.open(path) as image:
        turn = _orientation(image) if size is not None else None
        image.load()
        if turn is not None and turn.stored == size != turn.shown:
            image.getexif().pop(_ORIENTATION, None)
        return rgb_from_pil(image)


@contextmanager
def _telling_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(Finding("data.image-missing", "error", f"there is no image {path}")) from None
    except IsADirectoryError:
        raise DataError(Finding("data.image-missing", "error", f"{path} is a folder, not an image")) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(Finding("data.image-unreadable", "error", f"{path} cannot be read: {error}")) from None


def rgb_from_pil(image: Image.Image) -> Pixels:
    """A PIL image as uint8 [H, W, 3] RGB, with its EXIF orientation applied."""
    if _orientation(image).tag != 1:  # of one that is upright, Pillow would give a copy
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):  # PIL would clip these instead of scaling
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        top = values.max(initial=0)
        if top > 255:
            values = values / 257
        elif image.mode == "F" and top <= 1:  # 0..1, as scientific tools write floats
            values = values * 255
        image = Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8), mode="L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
