"""Photographs as arrays: any file or PIL image as uint8 [H, W, 3] RGB, the way up that people see it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from maskgraft.errors import DataError, Finding

Pixels = npt.NDArray[np.uint8]


def load_image(path: str | Path, *, size: tuple[int, int] | None = None) -> Pixels:
    """Read an image file: uint8 [H, W, 3] RGB.

    EXIF orientation is applied, unless `size` (width, height), what a dataset says the image has, fits only the stored
    pixels. Grey, palette, CMYK and 16-bit images become RGB; transparency is laid on black. Raises `DataError` for what
    is missing or no image.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            image.load()
            if size is not None and image.size == size != ImageOps.exif_transpose(image).size:
                image.getexif().pop(0x0112, None)
            return rgb_from_pil(image)
    except FileNotFoundError:
        raise DataError(Finding("data.image-missing", "error", f"there is no image {path}")) from None
    except IsADirectoryError:
        raise DataError(Finding("data.image-missing", "error", f"{path} is a folder, not an image")) from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(Finding("data.image-unreadable", "error", f"{path} cannot be read: {error}")) from None


def rgb_from_pil(image: Image.Image) -> Pixels:
    """A PIL image as uint8 [H, W, 3] RGB, with its EXIF orientation applied."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):  # 16 bits a pixel: PIL would clip instead of scaling
        values = np.asarray(image, dtype=np.float64)
        top = values.max(initial=0)
        values = values / 257 if top > 255 else values
        image = Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8), mode="L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))
