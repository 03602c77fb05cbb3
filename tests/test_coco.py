"""Reading and checking COCO data: what is right, and every way to be wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskgraft import coco
from maskgraft.errors import DataError
from maskgraft.images import load_image
from tests.tiny import draw_dataset

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return draw_dataset(tmp_path)


def edited(files: tuple[Path, Path], edit: Edit) -> tuple[Path, Path]:
    data = json.loads(files[0].read_text())
    edit(data)
    files[0].write_text(json.dumps(data))
    return files


def codes(error: DataError) -> set[str]:
    return {finding.code for finding in error.findings}


def test_reads_what_was_drawn(files: tuple[Path, Path]) -> None:
    data = coco.read(*files)
    assert data.classes == ("disc", "box")
    assert len(data.images) == 6
    assert coco.check(data, open_images=True) == ()
    truth = coco.truth(data.images[0])
    assert truth.masks.shape == (len(truth.boxes), data.images[0].height, data.images[0].width)
    for box, mask in zip(truth.boxes, truth.masks, strict=True):
        rows, columns = np.nonzero(mask)
        assert abs(columns.min() - box[0]) <= 1 and abs(rows.max() + 1 - box[3]) <= 1


def test_classes_by_name_and_order(files: tuple[Path, Path]) -> None:
    data = coco.read(*files, classes=["box"])
    assert data.classes == ("box",)
    assert data.category_ids == (2,)
    assert all(one.label == 0 for image in data.images for one in image.annotations)
    with pytest.raises(DataError, match="did you mean disc"):
        coco.read(*files, classes=["disk"])


def test_polygons_and_both_run_lengths_are_one_mask(files: tuple[Path, Path]) -> None:
    data = coco.read(*files)
    image = data.images[0]
    polygon = image.annotations[0]
    packed = coco.rle(polygon, image.height, image.width)
    mask = coco.mask(polygon, image.height, image.width)
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flat)))).tolist()
    counts = np.diff([0, *edges, flat.size]).tolist()
    for segmentation in (
        {"size": packed["size"], "counts": packed["counts"].decode()},
        {"size": packed["size"], "counts": counts},
    ):
        other = coco.Annotation(1, 0, polygon.box, segmentation, False, polygon.area)
        assert np.array_equal(coco.mask(other, image.height, image.width), mask)


def test_crowds_are_kept_for_evaluation_only(files: tuple[Path, Path]) -> None:
    data = coco.read(*edited(files, lambda data: data["annotations"][0].update(iscrowd=1)))
    image = next(image for image in data.images if image.id == 0)
    assert len(image.instances) == len(image.annotations) - 1
    assert len(coco.truth(image).boxes) == len(image.instances)


FAULTS: dict[str, tuple[Edit, str]] = {
    "data.image-missing": (lambda d: d["images"][0].update(file_name="gone.png"), "gone.png"),
    "data.category-unknown": (lambda d: d["annotations"][0].update(category_id=77), "77"),
    "data.orphan": (lambda d: d["annotations"][0].update(image_id=999), "image 999"),
    "data.box-outside": (lambda d: d["annotations"][0].update(bbox=[500, 500, 10, 10]), r"\[500, 500, 10, 10\] on"),
    "data.box": (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "annotation 1 of image 0"),
    "data.duplicate-id": (lambda d: d["images"][1].update(id=0), "id of another"),
    "data.mask": (lambda d: d["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "even list"),
    "data.mask-size": (
        lambda d: d["annotations"][0].update(segmentation={"size": [5, 5], "counts": [25]}),
        r"\[5, 5\] for",
    ),
    "data.annotation": (lambda d: d["annotations"][0].pop("category_id"), "entry 0"),
    "data.json": (lambda d: d.pop("categories"), "no list of categories"),
    "data.no-instances": (lambda d: d.update(annotations=[]), "none of 6 images"),
}


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_is_told_with_its_place(files: tuple[Path, Path], code: str) -> None:
    edit, text = FAULTS[code]
    with pytest.raises(DataError, match=text) as caught:
        coco.read(*edited(files, edit))
    assert code in codes(caught.value)


def test_all_faults_are_told_at_once(files: tuple[Path, Path]) -> None:
    def edit(data: dict[str, Any]) -> None:
        for code in ("data.image-missing", "data.category-unknown"):
            FAULTS[code][0](data)
        data["annotations"][1]["bbox"] = [900, 0, 5, 5]

    with pytest.raises(DataError) as caught:
        coco.read(*edited(files, edit))
    assert codes(caught.value) >= {"data.image-missing", "data.category-unknown", "data.box-outside"}


def test_what_is_odd_is_a_warning(files: tuple[Path, Path]) -> None:
    def edit(data: dict[str, Any]) -> None:
        first, second = data["annotations"][:2]
        x, y, width, height = first["bbox"]
        first["bbox"] = [x, y, x + width, y + height]  # corners where a size belongs
        second["bbox"][2] = 0
        data["categories"].append({"id": 9, "name": "star"})

    data = coco.read(*edited(files, edit))
    found = {finding.code: finding for finding in coco.check(data)}
    assert {"data.box-empty", "data.box-mask", "data.class-empty"} <= set(found)
    assert "star" in found["data.class-empty"].names


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('{"images": [', "line 1, column 13"),
        ('[{"image_id": 1, "score": 0.5}]', "holds results"),
        ("[]", "no list of images, annotations, categories"),
    ],
)
def test_a_file_that_is_no_dataset(tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=text):
        coco.read(tmp_path / "a.json", tmp_path)


def test_wrong_paths_name_what_is_there(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"did you mean .*instances\.json"):
        coco.read(tmp_path / "instance.json", files[1])
    with pytest.raises(DataError, match=r"is a folder(.|\n)*instances\.json"):
        coco.read(tmp_path, files[1])
    with pytest.raises(DataError, match=r"image folder .* does not exist"):
        coco.read(files[0], tmp_path / "pictures")


def test_the_same_picture_in_every_mode(tmp_path: Path) -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(grey).convert("LA").save(tmp_path / "alpha.png")
    for name in ("grey", "deep", "palette", "alpha"):
        pixels = load_image(tmp_path / f"{name}.png")
        assert pixels.shape == (6, 8, 3) and pixels.dtype == np.uint8
        assert np.abs(pixels[..., 0].astype(int) - grey).max() <= 1, name


def test_orientation_is_applied_unless_the_dataset_says_otherwise(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to look right
    image.save(tmp_path / "turned.png", exif=exif)
    assert load_image(tmp_path / "turned.png").shape == (10, 6, 3)
    assert load_image(tmp_path / "turned.png", size=(6, 10)).shape == (10, 6, 3)
    assert load_image(tmp_path / "turned.png", size=(10, 6)).shape == (6, 10, 3)


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"a\.jpg cannot be read"):
        load_image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="is a folder"):
        load_image(tmp_path)
