"""Datasets of other tools: the same instances come back as COCO, and every fault is told with its place."""

import base64
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import maskgraft as mg
from maskgraft import coco
from maskgraft.cli import app
from maskgraft.data_conversion import Converted
from tests.tiny import draw_dataset


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> coco.Dataset:
    return coco.read(*draw_dataset(tmp_path_factory.mktemp("drawn"), images=4))


def part(one: coco.Annotation) -> np.ndarray[Any, Any]:
    assert isinstance(one.segmentation, tuple)
    return one.segmentation[0]


def visible(image: coco.ImageRecord) -> list[tuple[int, np.ndarray[Any, Any]]]:
    """What is left to see of each instance when later ones hide earlier ones, as a picture of numbers has it."""
    numbers = np.zeros((image.height, image.width), np.uint8)
    for index, mask in enumerate(coco.truth(image).masks, 1):
        numbers[mask] = index
    return [(one.label, numbers == index) for index, one in enumerate(image.instances, 1) if (numbers == index).any()]


def labelme(data: coco.Dataset, folder: Path) -> Path:
    for image in data.images:
        shapes = [
            {"label": data.classes[one.label], "points": part(one).reshape(-1, 2).tolist(), "shape_type": "polygon"}
            for one in image.instances
        ]
        inside = {"imagePath": image.path.name, "imageHeight": image.height, "imageWidth": image.width}
        encoded = base64.b64encode(image.path.read_bytes()).decode()
        text = json.dumps({**inside, "shapes": shapes, "imageData": encoded})
        (folder / f"{image.path.stem}.json").write_text(text)
    return folder


def via(data: coco.Dataset, folder: Path) -> Path:
    entries = {}
    for image in data.images:
        regions = [
            {
                "shape_attributes": {
                    "name": "polygon",
                    "all_points_x": part(one)[::2].tolist(),
                    "all_points_y": part(one)[1::2].tolist(),
                },
                "region_attributes": {"kind": data.classes[one.label]},
            }
            for one in image.instances
        ]
        (folder / image.path.name).write_bytes(image.path.read_bytes())
        entries[f"{image.path.name}123"] = {"filename": image.path.name, "size": 123, "regions": regions}
    (folder / "via.json").write_text(json.dumps({"_via_settings": {}, "_via_img_metadata": entries}))
    return folder / "via.json"


def yolo(data: coco.Dataset, folder: Path) -> Path:
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    for image in data.images:
        (folder / "images" / "train" / image.path.name).write_bytes(image.path.read_bytes())
        lines = [
            " ".join(map(str, [one.label, *(part(one).reshape(-1, 2) / (image.width, image.height)).ravel()]))
            for one in image.instances
        ]
        (folder / "labels" / "train" / f"{image.path.stem}.txt").write_text("\n".join(lines) + "\n")
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nnames: [disc, box]\n")
    return folder


def voc(data: coco.Dataset, folder: Path) -> Path:
    for name in ("JPEGImages", "SegmentationObject", "SegmentationClass"):
        (folder / name).mkdir()
    for image in data.images:
        (folder / "JPEGImages" / image.path.name).write_bytes(image.path.read_bytes())
        numbers, classes = (np.zeros((image.height, image.width), np.uint8) for _ in range(2))
        for index, (label, mask) in enumerate(visible(image), 1):
            numbers[mask], classes[mask] = index, label + 1
        Image.fromarray(numbers).save(folder / "SegmentationObject" / f"{image.path.stem}.png")
        Image.fromarray(classes).save(folder / "SegmentationClass" / f"{image.path.stem}.png")
    (folder / "labels.txt").write_text("disc\nbox\n")
    return folder


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def feature(values: list[Any]) -> bytes:
    if isinstance(values[0], bytes):
        return field(1, b"".join(field(1, one) for one in values))
    if isinstance(values[0], float):
        return field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
    return field(3, field(1, b"".join(varint(one) for one in values)))


def example(values: dict[str, list[Any]]) -> bytes:
    entries = b"".join(
        field(1, field(1, name.encode()) + field(2, feature(one))) for name, one in values.items() if one
    )
    data = field(1, entries)
    return struct.pack("<QI", len(data), 0) + data + struct.pack("<I", 0)


def png(mask: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def tfrecord(data: coco.Dataset, folder: Path, *, numbers: bool = False) -> Path:
    for shard in range(2):
        written = b""
        for image in data.images[shard::2]:
            truth = coco.truth(image)
            x1, y1, x2, y2 = (truth.boxes / np.array((image.width, image.height) * 2)).T.tolist()
            masks = truth.masks.ravel().astype(float).tolist() if numbers else [png(one) for one in truth.masks]
            written += example(
                {
                    "image/encoded": [image.path.read_bytes()],
                    "image/filename": [image.path.name.encode()],
                    "image/object/bbox/xmin": x1,
                    "image/object/bbox/ymin": y1,
                    "image/object/bbox/xmax": x2,
                    "image/object/bbox/ymax": y2,
                    "image/object/class/label": [one + 1 for one in truth.labels.tolist()],
                    "image/object/mask": masks,
                }
            )
        (folder / f"train.record-0000{shard}-of-00002").write_bytes(written)
    (folder / "label_map.pbtxt").write_text("item { id: 1 name: 'disc' }\nitem { id: 2 name: 'box' }\n")
    return folder


def tfrecord_of_numbers(data: coco.Dataset, folder: Path) -> Path:
    return tfrecord(data, folder, numbers=True)


@pytest.mark.parametrize("write", [labelme, via, yolo, voc, tfrecord, tfrecord_of_numbers])
@pytest.mark.parametrize("copy", [False, True])
def test_the_same_instances_come_back(
    drawn: coco.Dataset, tmp_path: Path, write: Callable[[coco.Dataset, Path], Path], copy: bool
) -> None:
    (tmp_path / "source").mkdir()
    done = mg.convert_data(write(drawn, tmp_path / "source"), out=tmp_path / "coco", copy=copy)
    found = coco.read(next(iter(done.annotations.values())), done.images)
    assert set(found.classes) == set(drawn.classes)
    assert (done.images == tmp_path / "coco" / "images") == (copy or write in (labelme, tfrecord, tfrecord_of_numbers))
    by_name = {image.path.name: image for image in found.images}
    for image in drawn.images:
        again = by_name[image.path.name]
        assert np.array_equal(again.load(), image.load())
        wanted = [(one.label, mask) for one, mask in zip(image.instances, coco.truth(image).masks, strict=True)]
        wanted = visible(image) if write is voc else wanted
        assert len(again.instances) == len(wanted)
        for one, (label, mask) in zip(again.instances, wanted, strict=True):
            assert found.classes[one.label] == drawn.classes[label]
            assert (coco.mask(one, again.height, again.width) != mask).mean() < 0.001
    assert coco.check(found, open_images=True) == ()


def test_plain_numbers_are_instances_of_one_class(drawn: coco.Dataset, tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / "source" / name).mkdir(parents=True)
    for image in drawn.images:
        (tmp_path / "source" / "images" / image.path.name).write_bytes(image.path.read_bytes())
        numbers = np.zeros((image.height, image.width), np.uint16)
        for index, (_, mask) in enumerate(visible(image)):
            numbers[mask] = 300 + index
        Image.fromarray(numbers).save(tmp_path / "source" / "masks" / f"{image.path.stem}.png")
    done = mg.convert_data(tmp_path / "source", out=tmp_path / "coco")
    assert done.classes == ("object",)
    assert done.instances == sum(len(visible(image)) for image in drawn.images)
    assert mg.convert_data(tmp_path / "source", out=tmp_path / "cells", classes=["cell"]).classes == ("cell",)


def shape_dataset(folder: Path, kind: str, shapes: list[dict[str, Any]]) -> Converted:
    folder.mkdir()
    Image.new("RGB", (100, 80)).save(folder / "a.png")
    if kind == "labelme":
        (folder / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": shapes}))
        return mg.convert_data(folder, out=folder.parent / "out")
    regions = {str(index): {"shape_attributes": one, "region_attributes": {}} for index, one in enumerate(shapes)}
    (folder / "via.json").write_text(json.dumps({"a.png1": {"filename": "a.png", "size": 1, "regions": regions}}))
    return mg.convert_data(folder / "via.json", out=folder.parent / "out")


def test_round_and_square_shapes_have_their_area(tmp_path: Path) -> None:
    shapes: list[dict[str, Any]] = [
        {"name": "rect", "x": 10, "y": 20, "width": 30, "height": 10},
        {"name": "circle", "cx": 60, "cy": 40, "r": 20},
        {"name": "ellipse", "cx": 50, "cy": 40, "rx": 30, "ry": 10},
    ]
    done = shape_dataset(tmp_path / "via", "via", shapes)
    data = json.loads(done.annotations[""].read_text())
    areas = [one["area"] for one in data["annotations"]]
    assert areas == pytest.approx([300, np.pi * 400, np.pi * 300], rel=0.06)


def test_grouped_shapes_are_one_instance_and_lines_are_none(tmp_path: Path) -> None:
    def square(x: int, group: int | None) -> dict[str, Any]:
        return {"label": "cat", "group_id": group, "shape_type": "rectangle", "points": [[x, 5], [x + 10, 15]]}

    line = {"label": "cat", "shape_type": "line", "points": [[1, 1], [9, 9]]}
    done = shape_dataset(tmp_path / "labelme", "labelme", [square(5, 1), square(40, 1), square(70, None), line])
    assert done.instances == 2
    assert [finding.code for finding in done.findings] == ["data.mask-points"]


SQUARE = {"label": "cat", "shape_type": "rectangle", "points": [[5, 5], [15, 15]]}
BOX = {"name": "rect", "x": 10, "y": 20, "width": 30, "height": 10}


@pytest.mark.parametrize(
    ("kind", "shape", "says"),
    [
        ("labelme", {**SQUARE, "points": 5}, "no points"),
        ("labelme", {**SQUARE, "points": [[5, 5], ["a", 15]]}, "no points"),
        ("labelme", {**SQUARE, "label": None}, "no label"),
        ("labelme", {**SQUARE, "shape_type": "rectangle", "points": [[5, 5]]}, "rectangle of 1 points"),
        ("labelme", 3, "no label"),
        ("via", {**BOX, "width": None}, "lack numbers"),
        ("via", {"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]}, "as many x as y"),
        ("via", None, "no shape"),
    ],
)
def test_shapes_that_are_none_are_told(tmp_path: Path, kind: str, shape: Any, says: str) -> None:
    with pytest.raises(mg.DataError, match=says):
        shape_dataset(tmp_path / kind, kind, [shape])


def test_what_tools_write_oddly_is_read(tmp_path: Path) -> None:
    grouped = [{**SQUARE, "group_id": [1]}, {**SQUARE, "group_id": [1], "points": [[40, 5], [50, 15]]}]
    assert shape_dataset(tmp_path / "labelme", "labelme", grouped).instances == 1
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    region = {"shape_attributes": BOX, "region_attributes": ["cat"]}
    (tmp_path / "via.json").write_text(json.dumps({"a.png1": {"filename": "a.png", "regions": [region]}}))
    assert mg.convert_data(tmp_path / "via.json", out=tmp_path / "via").classes == ("object",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"images": [], "annotations": [], "categories": []}', "COCO file already"),
        ('{"shapes": [], "imagePath": "a.png"}', "give the folder"),
        ("[1, 2", "no JSON"),
        ("3", "no VIA annotations"),
    ],
)
def test_json_of_another_kind_is_told(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(mg.MaskgraftError, match=says):
        mg.convert_data(tmp_path / "a.json", out=tmp_path / "out")


def test_images_of_yolo_lie_in_folders_of_folders(drawn: coco.Dataset, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    folder = yolo(drawn, tmp_path / "source")
    (folder / "data.yaml").write_text("train: images\nnames: [disc, box]\n")
    assert mg.convert_data(folder, out=tmp_path / "coco").photos == len(drawn.images)


def test_every_fault_is_told_with_its_line_and_nothing_is_written(drawn: coco.Dataset, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    folder = yolo(drawn, tmp_path / "source")
    file = sorted((folder / "labels" / "train").iterdir())[0]
    file.write_text(
        file.read_text() + "7 0.1 0.1 0.2 0.2 0.3 0.1\n0 0.1 0.1 nine\n0 10 10 20 20 30 10\n0 0.1 0.2 0.3\n"
    )
    lines = file.read_text().splitlines()
    with pytest.raises(mg.DataError) as caught:
        mg.convert_data(folder, out=tmp_path / "coco")
    told = " ".join(finding.message for finding in caught.value.findings)
    for number in range(len(lines) - 3, len(lines) + 1):
        assert f"{file.name}:{number}" in told
    assert {finding.code for finding in caught.value.findings} == {
        "data.category-unknown",
        "data.annotation",
        "data.mask-outside",
        "data.mask",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_cut_shard_is_told(drawn: coco.Dataset, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    folder = tfrecord(drawn, tmp_path / "source")
    shard = sorted(folder.glob("train.record-*"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(mg.DataError, match="claims") as caught:
        mg.convert_data(folder, out=tmp_path / "coco")
    assert caught.value.findings[0].code == "data.record" and str(shard) in str(caught.value)
    assert not (tmp_path / "coco").exists()


def test_a_record_of_text_is_told(tmp_path: Path) -> None:
    values: dict[str, list[Any]] = {"image/encoded": [png(np.zeros((8, 8)))], "image/object/class/label": [b"cat"]}
    (tmp_path / "a.record").write_bytes(example(values))
    with pytest.raises(mg.DataError, match="text for boxes, class numbers"):
        mg.convert_data(tmp_path / "a.record", out=tmp_path / "coco")


def test_the_verb(drawn: coco.Dataset, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    folder = yolo(drawn, tmp_path / "source")
    words = ["data", "convert", str(folder), "--to", "coco", "--out", str(tmp_path / "coco"), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["kind"] == "yolo"
    with pytest.raises(mg.UsageError, match="kind 'coco' is none"):
        mg.convert_data(folder, out=tmp_path / "more", kind="coco")  # type: ignore[arg-type]
    with pytest.raises(mg.UsageError, match="not empty"):
        mg.convert_data(folder, out=tmp_path / "coco")
