"""What is odd about data is told in its layer; a split shares nothing between its parts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import maskgraft as mg
from maskgraft import coco, similarity
from maskgraft.cli import app
from tests.tiny import draw_dataset, tiny_model, tiny_spec

Edit = Callable[[dict[str, Any], Path], None]


def edited(folder: Path, edit: Edit) -> coco.Dataset:
    path, pictures = draw_dataset(folder, images=6)
    data = json.loads(path.read_text())
    edit(data, pictures)
    path.write_text(json.dumps(data))
    return coco.read(path, pictures)


def add(data: dict[str, Any], box: list[float], outline: list[float], **more: Any) -> None:
    number = len(data["annotations"]) + 1
    one = {"id": number, "image_id": 0, "category_id": 1, "bbox": box, "segmentation": [outline], "iscrowd": 0, **more}
    data["annotations"].append(one)


def tiny(data: dict[str, Any], _: Path) -> None:
    add(data, [5, 5, 3, 3], [5, 5, 8, 5, 8, 8, 5, 8])


def huge(data: dict[str, Any], _: Path) -> None:
    width, height = data["images"][0]["width"], data["images"][0]["height"]
    add(data, [0, 0, width, height], [0, 0, width, 0, width, height, 0, height])


def crossing(data: dict[str, Any], _: Path) -> None:
    add(data, [10, 10, 40, 40], [10, 10, 50, 50, 50, 10, 10, 50])


def again(data: dict[str, Any], _: Path) -> None:
    data["annotations"].append({**data["annotations"][0], "id": 99})


def same_file(data: dict[str, Any], pictures: Path) -> None:
    (pictures / "copy.png").write_bytes((pictures / "0.png").read_bytes())
    data["images"].append({**data["images"][0], "id": 50, "file_name": "copy.png"})


def grey(data: dict[str, Any], pictures: Path) -> None:
    with Image.open(pictures / "0.png") as image:
        image.convert("L").save(pictures / "0.png")


def gaps(data: dict[str, Any], _: Path) -> None:
    data["categories"].append({"id": 9, "name": "other"})


def background(data: dict[str, Any], _: Path) -> None:
    data["categories"].insert(0, {"id": 0, "name": "_background_"})


def crowds(data: dict[str, Any], _: Path) -> None:
    for one in data["annotations"][1:]:
        one["iscrowd"] = 1


def one_class(data: dict[str, Any], _: Path) -> None:
    for one in data["annotations"]:
        one["category_id"] = 1
    for number in range(30):
        add(data, [number, 5, 30, 30], [number, 5, number + 30, 5, number + 30, 35, number, 35])
    data["annotations"][0]["category_id"] = 2


ODD: dict[str, tuple[Edit, str]] = {
    "data.box-tiny": (tiny, "quality"),
    "data.box-huge": (huge, "quality"),
    "data.mask-crossing": (crossing, "quality"),
    "data.duplicate-instance": (again, "quality"),
    "data.duplicate-image": (same_file, "quality"),
    "data.image-kind": (grey, "quality"),
    "data.category-gaps": (gaps, "distribution"),
    "data.class-background": (background, "distribution"),
    "data.crowds": (crowds, "distribution"),
    "data.class-dominates": (one_class, "distribution"),
}


@pytest.mark.parametrize("code", ODD)
def test_what_is_odd_is_told_in_its_layer(tmp_path: Path, code: str) -> None:
    edit, layer = ODD[code]
    clean = mg.check_data(edited(tmp_path / "clean", lambda *_: None), open_images=True)
    assert code not in {finding.code for finding in clean.findings}
    report = mg.check_data(edited(tmp_path / "odd", edit), open_images=True)
    assert code in {finding.code for finding in report.layers()[layer]}
    drawn = layer == "quality" and code != "data.image-kind"
    assert (report.pictures() is not None) == drawn


def test_the_fit_to_a_model(tmp_path: Path) -> None:
    data = edited(tmp_path, lambda *_: None)
    assert {finding.code for finding in mg.check_data(data, spec=tiny_spec()).fit} == set()
    spec = replace(tiny_spec(), classes=("disk", "box")).with_numerics(
        {"anchor_sizes": [[400], [500], [600], [700], [800]], "max_detections": 1}
    )
    found = {finding.code: finding for finding in mg.check_data(data, spec=spec).fit}
    assert set(found) == {"data.class-new", "data.anchors", "data.many-instances"}
    assert "is it disk?" in found["data.class-new"].message
    other = replace(tiny_spec(), classes=("a", "b"))
    assert [one.severity for one in mg.check_data(data, spec=other).fit if one.code == "data.class-names"] == ["error"]


def noise(path: Path, seed: int, quality: int = 95, size: int = 200) -> None:
    small = np.random.default_rng(seed).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(path, quality=quality)


def test_recompressed_and_smaller_copies_are_alike_and_other_pictures_are_not(tmp_path: Path) -> None:
    for seed in range(40):
        noise(tmp_path / f"{seed:02}.jpg", seed)
    noise(tmp_path / "low.jpg", 3, quality=20)
    noise(tmp_path / "small.jpg", 7, size=120)
    (tmp_path / "same.jpg").write_bytes((tmp_path / "11.jpg").read_bytes())
    names = sorted(path.name for path in tmp_path.iterdir())
    pairs = similarity.alike([similarity.fingerprint(tmp_path / name) for name in names])
    assert {(names[one], names[other], exact) for one, other, exact in pairs} == {
        ("03.jpg", "low.jpg", False),
        ("07.jpg", "small.jpg", False),
        ("11.jpg", "same.jpg", True),
    }


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Twelve videos of six frames, every third with a rare class, and one frame filed under another name."""
    folder = tmp_path_factory.mktemp("frames")
    pictures, images, annotations = folder / "images", list[dict[str, Any]](), list[dict[str, Any]]()
    pictures.mkdir()
    for video in range(12):
        for frame in range(6):
            name, number = f"clip{chr(97 + video)}_{frame:03}.jpg", len(images) + 1
            noise(pictures / name, 100 * video + frame)
            images.append({"id": number, "file_name": name, "width": 200, "height": 200})
            for label in (1, 2) if video % 3 == 0 else (1,):
                outline = [[20, 20, 60, 20, 60, 60, 20, 60]]
                one = {"id": len(annotations) + 1, "image_id": number, "category_id": label, "bbox": [20, 20, 40, 40]}
                annotations.append({**one, "segmentation": outline, "iscrowd": 0, "area": 1600})
    noise(pictures / "other.jpg", 0, quality=30)
    images.append({"id": 999, "file_name": "other.jpg", "width": 200, "height": 200})
    path = folder / "all.json"
    categories = [{"id": 1, "name": "usual"}, {"id": 2, "name": "rare"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path, pictures


def test_a_split_shares_nothing_and_every_class_is_on_both_sides(frames: tuple[Path, Path], tmp_path: Path) -> None:
    done = mg.split_data(*frames, out=tmp_path / "one", val=0.25)
    assert done.grouping == "prefix" and done.groups == 12 and done.alike == 1
    train, val = (coco.read(path, frames[1]) for path in done.annotations.values())
    assert len(train.images) + len(val.images) == 73
    assert 0.2 <= len(val.images) / 73 <= 0.3
    assert all(done.instances[part]["rare"] >= 6 for part in ("train", "val"))
    sides = [{image.path.name.split("_")[0] for image in one.images} for one in (train, val)]
    assert not sides[0] & sides[1]
    assert any({"clipa", "other.jpg"} <= side for side in sides)
    assert "data.leak" not in {one.code for one in mg.check_data(train, val=val, open_images=True).findings}
    same = mg.split_data(*frames, out=tmp_path / "two", val=0.25)
    assert (tmp_path / "two" / "instances_val.json").read_bytes() == done.annotations["val"].read_bytes()
    assert same.images == done.images
    with pytest.raises(mg.UsageError, match="group is 'video'"):
        mg.split_data(*frames, out=tmp_path / "four", group="video")  # type: ignore[arg-type]
    other = mg.split_data(*frames, out=tmp_path / "three", val=0.25, seed=1)
    assert other.annotations["val"].read_bytes() != done.annotations["val"].read_bytes()


def test_the_only_instance_of_a_class_is_trained_on(frames: tuple[Path, Path], tmp_path: Path) -> None:
    data = json.loads(frames[0].read_text())
    data["categories"].append({"id": 3, "name": "single"})
    data["annotations"].append({**data["annotations"][40], "id": 5000, "category_id": 3})
    (tmp_path / "all.json").write_text(json.dumps(data))
    done = mg.split_data(tmp_path / "all.json", frames[1], out=tmp_path / "parts", val=0.25)
    assert done.instances["train"]["single"] == 1


def test_a_careless_split_is_found_out(frames: tuple[Path, Path], tmp_path: Path) -> None:
    data = coco.read(*frames)
    train = replace(data, images=tuple(one for one in data.images if one.path.name != "other.jpg"))
    val = replace(data, images=tuple(one for one in data.images if one.path.name == "other.jpg"))
    found = {one.code: one for one in mg.check_data(train, val=val, open_images=True).findings}
    assert "clipa_000.jpg = other.jpg" in found["data.leak"].message


def test_the_verbs(frames: tuple[Path, Path], tmp_path: Path) -> None:
    words = ["data", "split", *map(str, frames), "--out", str(tmp_path / "parts"), "--test", "0.1", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.output)["images"]) == {"train", "val", "test"}
    path, pictures = draw_dataset(tmp_path / "drawn")
    data = json.loads(path.read_text())
    crossing(data, pictures)
    path.write_text(json.dumps(data))
    words = [
        "data",
        "check",
        str(path),
        str(pictures),
        "--open-images",
        "--pictures",
        str(tmp_path / "worst"),
        "--json",
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1, done.output
    assert "data.mask-crossing" in json.loads(done.output)["layers"]["quality"]
    assert (tmp_path / "worst" / "worst.jpg").stat().st_size > 1000


def test_a_saved_model_tells_its_conventions(tmp_path: Path) -> None:
    mg.save(tiny_model(("disc", "box")), tmp_path / "saved")
    instances, images = draw_dataset(tmp_path / "drawn", images=4)
    done = CliRunner().invoke(app, ["data", "check", str(instances), str(images), "--for", str(tmp_path / "saved")])
    assert done.exit_code < 2, done.output
