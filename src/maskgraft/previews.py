"""Pictures of training data as the network will see it, with its truth drawn.

picture = mg.preview_augmented(data, spec.numerics, mg.Recipe(scale_jitter=(0.5, 2)))
picture.save("augmented.jpg")
"""

import numpy as np
from PIL import Image

from maskgraft import batches, draw
from maskgraft.coco import Dataset
from maskgraft.images import Pixels
from maskgraft.preprocess import one_thread
from maskgraft.recipe import Recipe
from maskgraft.spec import Numerics


def preview_augmented(
    data: Dataset, numerics: Numerics, recipe: Recipe, *, count: int = 12, columns: int = 4, width: int = 400
) -> Image.Image:
    """A contact sheet of the samples that the first epoch begins with, after every augmentation.

    They are drawn from the very tensors that training gets: pixels without their normalisation, masks, and boxes.
    """
    records = data.trainable()
    draws = [draw for batch in batches.plan(records, recipe, 0) for draw in batch][:count]
    pictures = []
    with one_thread():
        for index, seed in draws:
            one = batches.sample(records[index], numerics, recipe, seed, others=records)
            pictures.append(picture_of(one, numerics, data.classes))
    return draw.sheet(pictures, columns=min(columns, len(pictures)), width=width)


def picture_of(sample: batches.Sample, numerics: Numerics, classes: tuple[str, ...]) -> Image.Image:
    """One sample as a picture: its pixels in grey levels again, and its truth over them."""
    shapes = [
        draw.Shape((box[0], box[1], box[2], box[3]), mask, classes[label], draw.colour(label))
        for box, mask, label in zip(
            sample.target.boxes.tolist(), sample.target.masks.planes(), sample.target.labels.tolist(), strict=True
        )
    ]
    return draw.overlay(_grey_levels(sample, numerics), shapes)


def _grey_levels(sample: batches.Sample, numerics: Numerics) -> Pixels:
    values = sample.prepared.pixels.permute(1, 2, 0).numpy() * np.array(numerics.pixel_std, np.float32)
    values = (values + np.array(numerics.pixel_mean, np.float32)) / numerics.pixel_scale
    if numerics.channel_order == "bgr":
        values = values[:, :, ::-1]
    return np.ascontiguousarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
