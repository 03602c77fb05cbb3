"""A Mask R-CNN small enough for tests, and a dataset drawn for it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from maskgraft.families import torchvision
from maskgraft.model import MaskRCNN
from maskgraft.spec import Arch, Spec

CLASSES = ("disc", "box")


def tiny_spec(classes: tuple[str, ...] = CLASSES) -> Spec:
    """An 18-layer-like trunk with one block a stage, torchvision's conventions, 96-pixel images."""
    arch = Arch(
        classes=len(classes),
        block="basic",
        blocks=(1, 1, 1, 1),
        stem_width=64,
        norm="batch",
        neck_channels=32,
        rpn_channels=32,
        box_fc_width=64,
        box_rows="with-background",
        mask_convs=1,
        mask_channels=32,
        mask_rows="with-background",
    )
    numerics = replace(
        torchvision.NUMERICS,
        min_size=96,
        max_size=128,
        anchor_sizes=((8,), (16,), (32,), (64,), (128,)),
        rpn_pre_nms=200,
        rpn_post_nms=100,
        rpn_pre_nms_train=200,
        rpn_post_nms_train=100,
        roi_samples=64,
    )
    return Spec(family="torchvision", arch=arch, numerics=numerics, classes=classes)


def tiny_model(classes: tuple[str, ...] = CLASSES, seed: int = 0) -> MaskRCNN:
    torch.manual_seed(seed)
    return MaskRCNN(tiny_spec(classes)).eval()


def draw_dataset(folder: Path, *, images: int = 6, seed: int = 0) -> tuple[Path, Path]:
    """Discs and boxes on a textured ground: the instances file and the image folder."""
    random = np.random.default_rng(seed)
    pictures = folder / "images"
    pictures.mkdir(parents=True)
    records, annotations = [], []
    for number in range(images):
        width, height = int(random.integers(90, 130)), int(random.integers(90, 130))
        image = Image.fromarray(random.integers(60, 120, (height, width, 3), dtype=np.uint8))
        pen = ImageDraw.Draw(image)
        for _ in range(int(random.integers(1, 4))):
            side = int(random.integers(20, 45))
            x, y = int(random.integers(0, width - side)), int(random.integers(0, height - side))
            label = int(random.integers(2))
            if label:
                pen.rectangle((x, y, x + side, y + side), fill=(40, 90, 220))
                outline = [x, y, x + side, y, x + side, y + side, x, y + side]
            else:
                pen.ellipse((x, y, x + side, y + side), fill=(220, 70, 50))
                angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
                outline = (
                    np.stack((np.cos(angles), np.sin(angles)), 1) * side / 2 + (x + side / 2, y + side / 2)
                ).ravel()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [x, y, side, side],
                    "area": float(side * side),
                    "iscrowd": 0,
                    "segmentation": [[float(value) for value in outline]],
                }
            )
        image.save(pictures / f"{number}.png")
        records.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(CLASSES)]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": records, "annotations": annotations, "categories": categories}))
    return path, pictures
