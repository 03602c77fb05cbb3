"""Reading and checking COCO data: what is right, and every way to be wrong."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskgraft import coco
from maskgraft.errors import DataError, UsageError
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
    "data.mask-outside": (
        lambda d: d["annotations"][0].update(segmentation=[[500, 500, 520, 500, 520, 520]]),
        "500 500 520 520 on",
    ),
    "data.crowd": (lambda d: d["annotations"][0].update(iscrowd="no"), "'no'"),
    "data.category": (lambda d: d["categories"][1].update(name="disc"), "name of another"),
    "data.image": (lambda d: d["images"][0].update(width=float("inf")), "entry 0: width inf"),
    "data.annotation": (lambda d: d["annotations"][0].pop("category_id"), "entry 0: no category_id"),
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
        first, second, third, fourth, fifth = data["annotations"][:5]
        x, y, width, height = first["bbox"]
        first["bbox"] = [x, y, x + width, y + height]  # corners where a size belongs
        second["bbox"][2] = 0
        third["bbox"][0] += 15
        fourth["area"] = "large"
        fifth["segmentation"] = [[5, 5, 5, 5, 5, 5]]
        data["annotations"][5]["segmentation"].append([1, 2, 3, 4])
        data["categories"].append({"id": 9, "name": "star"})
        data["images"].append(dict(data["images"][0], id=99))

    (files[1] / "extra.png").write_bytes(b"")
    data = coco.read(*edited(files, edit))
    found = {finding.code: finding for finding in coco.check(data)}
    assert {code: finding.severity for code, finding in found.items()} == {
        "data.box-format": "warning",
        "data.box-empty": "warning",
        "data.box-mask": "warning",
        "data.area": "warning",
        "data.mask-empty": "warning",
        "data.mask-points": "warning",
        "data.duplicate-file": "warning",
        "data.class-empty": "info",
        "data.image-empty": "info",
        "data.image-unlisted": "info",
    }
    assert found["data.class-empty"].names == ("star",)
    assert found["data.image-unlisted"].names == ("extra.png",)
    assert "annotation 1 of image 0: bbox [" in found["data.box-format"].message
    kept = [one.id for image in data.images for one in image.annotations]
    assert 2 not in kept and 5 not in kept and {1, 3, 4, 6} <= set(kept)


def test_a_file_of_corner_boxes_is_an_error(files: tuple[Path, Path]) -> None:
    def edit(data: dict[str, Any]) -> None:
        for one in data["annotations"]:
            x, y, width, height = one["bbox"]
            one["bbox"] = [x, y, x + width, y + height]

    with pytest.raises(DataError, match=r"as \[x1, y1, x2, y2\], not as") as caught:
        coco.read(*edited(files, edit))
    (finding,) = caught.value.findings
    assert finding.code == "data.box-format" and finding.fix == "write bbox as [x, y, width, height]"


def test_many_culprits_are_one_finding(files: tuple[Path, Path]) -> None:
    def edit(data: dict[str, Any]) -> None:
        for one in data["annotations"]:
            one["category_id"] = 77

    with pytest.raises(DataError) as caught:
        coco.read(*edited(files, edit))
    (finding,) = caught.value.findings
    count = len(json.loads(files[0].read_text())["annotations"])
    assert count > 5 and finding.evidence == {"count": count} and len(finding.names) == count
    assert finding.message.count("annotation ") == 5 and finding.message.endswith("…")


def test_a_box_over_the_edge_is_cut(files: tuple[Path, Path]) -> None:
    def edit(data: dict[str, Any]) -> None:
        image = data["images"][0]
        wide, high = image["width"], image["height"]
        shape = [wide - 30, high - 30, wide + 5, high - 30, wide + 5, high + 5, wide - 30, high + 5]
        data["annotations"][0].update(bbox=[wide - 30, high - 30, 35, 35], segmentation=[shape])

    data = coco.read(*edited(files, edit))
    assert {finding.code for finding in data.findings} == {"data.box-outside", "data.mask-outside"}
    image = data.images[0]
    assert image.annotations[0].box == (image.width - 30, image.height - 30, image.width, image.height)


def test_nothing_usable_says_why(files: tuple[Path, Path]) -> None:
    def edit(data: dict[str, Any]) -> None:
        for one in data["annotations"]:
            one["bbox"][2] = 0

    with pytest.raises(DataError) as caught:
        coco.read(*edited(files, edit))
    assert [finding.code for finding in caught.value.findings] == ["data.no-instances", "data.box-empty"]


def test_classes_wanted_twice_or_as_text(files: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match="'box' is wanted 2 times"):
        coco.read(*files, classes=["box", "disc", "box"])
    with pytest.raises(UsageError, match="not a list of names"):
        coco.read(*files, classes="box")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("images/0.png", r"there is .*/images/0\.png"),
        ("elsewhere/1.png", r"there is .*/images/1\.png"),
        ("C:\\data\\1.png", r"there is .*/images/1\.png"),
        ("other.png", r"there is .*/beside/other\.png"),
        ("2.PNG", r"did you mean 2\.png\?"),
        ("2.jpg", r"did you mean 2\.png\?"),
        ("22.png", r"^check the image folder$"),
    ],
)
def test_where_a_missing_image_may_be(files: tuple[Path, Path], name: str, hint: str) -> None:
    beside = files[1].parent / "beside"
    beside.mkdir()
    (beside / "other.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        coco.read(*edited(files, lambda data: data["images"][0].update(file_name=name)))
    (finding,) = caught.value.findings
    assert re.search(hint, finding.fix), finding.fix


def test_ids_as_text_and_a_byte_order_mark(files: tuple[Path, Path]) -> None:
    def edit(data: dict[str, Any]) -> None:
        for one in data["annotations"]:
            one.update(image_id=str(one["image_id"]), category_id=float(one["category_id"]))

    before = coco.read(*files)
    path, folder = edited(files, edit)
    path.write_text(path.read_text(), encoding="utf-8-sig")
    after = coco.read(path, folder)
    ids = [[(one.id, one.label) for one in image.annotations] for image in before.images]
    assert ids == [[(one.id, one.label) for one in image.annotations] for image in after.images]


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


@pytest.mark.parametrize(
    ("tag", "turned", "severity", "text"),
    [
        (6, True, "info", "which fits the annotations"),
        (6, False, "warning", "their annotations fit the stored pixels"),
        (3, False, "info", "can neither confirm nor deny"),
    ],
)
def test_what_became_of_an_orientation_is_told(
    files: tuple[Path, Path], tag: int, turned: bool, severity: str, text: str
) -> None:
    record = json.loads(files[0].read_text())["images"][0]
    exif = Image.Exif()
    exif[0x0112] = tag
    with Image.open(files[1] / "0.png") as image:
        assert image.width != image.height
        stored = image.transpose(Image.Transpose.ROTATE_90) if turned else image.copy()
    stored.save(files[1] / "0.png", exif=exif)
    data = coco.read(*files)
    (finding,) = coco.check(data, open_images=True)
    assert (finding.code, finding.severity) == ("data.exif", severity)
    assert text in finding.message and f"0.png (orientation {tag})" in finding.message
    assert data.images[0].load().shape == (record["height"], record["width"], 3)


def test_images_that_cannot_be_used_are_one_finding_each_kind(files: tuple[Path, Path]) -> None:
    for number in (0, 1):
        Image.new("RGB", (7, 5)).save(files[1] / f"{number}.png")
    (files[1] / "2.png").write_bytes(b"not an image")
    found = {finding.code: finding for finding in coco.check(coco.read(*files), open_images=True)}
    assert set(found) == {"data.image-size", "data.image-unreadable"}
    assert found["data.image-size"].evidence["count"] == 2
    assert "7 × 5 pixels" in found["data.image-size"].message


def test_floats_of_scientific_tools(tmp_path: Path) -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    for name, values in (("unit", grey.astype(np.float32) / 255), ("bytes", grey.astype(np.float32))):
        Image.fromarray(values).save(tmp_path / f"{name}.tif")
        assert np.array_equal(load_image(tmp_path / f"{name}.tif")[..., 0], grey), name


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 4), 200, np.uint8)
    pixels[..., 3] = 255
    pixels[:2, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    loaded = load_image(tmp_path / "a.png")
    assert (loaded[:2] == 0).all() and (loaded[2:] == 200).all()


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"a\.jpg cannot be read"):
        load_image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="is a folder"):
        load_image(tmp_path)
