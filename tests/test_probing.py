"""`probe` finds out what no file says: here that a file under Detectron2's names was trained on RGB."""

import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import maskgraft as mg
from maskgraft.errors import DataError, UsageError

GOLDEN = Path(__file__).parent / "golden" / "detectron2-r50fpn"
SMALL = {"min_size": 256, "max_size": 400, "rpn_post_nms": 60, "max_detections": 20}


@pytest.fixture(scope="module")
def trained_on_rgb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint without its config, its first kernels turned round, and photographs with its detections."""
    folder = tmp_path_factory.mktemp("rgb")
    with tarfile.open(GOLDEN / "checkpoint.tar.xz") as tar:
        tar.extractall(folder / "given", filter="data")
    document = torch.load(folder / "given" / "model_final.pth", weights_only=False)
    arrays = {
        name: tensor.numpy() for name, tensor in document["model"].items() if name not in ("pixel_mean", "pixel_std")
    }
    stem = "backbone.bottom_up.stem.conv1.weight"
    arrays[stem] = np.ascontiguousarray(arrays[stem][:, ::-1])
    (folder / "model.pkl").write_bytes(pickle.dumps({"model": arrays}))

    with np.load(GOLDEN / "golden.npz") as golden:
        photograph = golden["image"]
    (folder / "photos").mkdir()
    Image.fromarray(photograph).save(folder / "photos" / "1.png")
    Image.fromarray(photograph[:, ::-1].copy()).save(folder / "photos" / "2.png")
    mean = (123.675, 116.28, 103.53)
    model = mg.load(folder / "model.pkl", numerics={**SMALL, "channel_order": "rgb", "pixel_mean": mean})
    images, annotations = [], []
    for number in (1, 2):
        found = model.predict([folder / "photos" / f"{number}.png"])[0]
        images.append(
            {"id": number, "file_name": f"{number}.png", "height": photograph.shape[0], "width": photograph.shape[1]}
        )
        for box, label in zip(found.boxes[:4].tolist(), found.labels[:4].tolist(), strict=True):
            x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
            outline = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "iscrowd": 0}
                | {"bbox": [x, y, width, height], "area": width * height, "segmentation": [outline]}
            )
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(model.spec.classes)]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "labels.json").write_text(json.dumps(truth))
    return folder


def test_labels_tell_the_channel_order(trained_on_rgb: Path) -> None:
    found = mg.probe(
        trained_on_rgb / "model.pkl", trained_on_rgb / "photos", trained_on_rgb / "labels.json", numerics=SMALL, limit=2
    )
    assert found.labelled and found.images == 2
    assert found.chosen["channel order"].name == "rgb"
    assert found.spec.numerics.channel_order == "rgb"
    assert found.spec.numerics.pixel_mean == pytest.approx((123.675, 116.28, 103.53))
    assert "probed on 2 photographs" in found.spec.learned["numerics.channel_order"].source
    assert found.model.spec == found.spec
    assert found.chosen["pixel scale"].assumed
    assert {trial.convention for trial in found.trials} >= {"channel order", "pixel scale"}
    assert json.loads(json.dumps(found.as_json()))["trials"][0]["score"] >= 0


def test_settled_conventions_are_not_tried(trained_on_rgb: Path) -> None:
    settled = {**SMALL, "channel_order": "rgb", "pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [1, 1, 1]}
    settled |= {"pixel_scale": 1.0, "norm_eps": 1e-5, "stride_in": "1x1", "roi_aligned": True}
    found = mg.probe(trained_on_rgb / "model.pkl", trained_on_rgb / "photos", numerics=settled)
    assert not found.trials and found.spec.numerics.channel_order == "rgb"


def test_labels_of_other_classes_and_folders_without_pictures(trained_on_rgb: Path, tmp_path: Path) -> None:
    truth = json.loads((trained_on_rgb / "labels.json").read_text())
    truth["categories"] = [{**one, "name": f"thing {one['id']}"} for one in truth["categories"]]
    (tmp_path / "other.json").write_text(json.dumps(truth))
    with pytest.raises(UsageError, match="none of the classes"):
        mg.probe(trained_on_rgb / "model.pkl", trained_on_rgb / "photos", tmp_path / "other.json")
    with pytest.raises(DataError, match="holds no pictures"):
        mg.probe(trained_on_rgb / "model.pkl", tmp_path)
    with pytest.raises(UsageError, match="limit"):
        mg.probe(trained_on_rgb / "model.pkl", tmp_path, limit=0)
