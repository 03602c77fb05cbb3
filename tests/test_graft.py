"""Loading: class rows by name, everything wrong at once, and maskgraft's own folder bit for bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import maskgraft as mg
from maskgraft.families import torchvision
from maskgraft.graft import moved_parameters, with_classes
from maskgraft.model import MaskRCNN
from tests.tiny import tiny_model, tiny_spec


def foreign_file(model: MaskRCNN, path: Path, prefix: str = "", era: str = "2022") -> Path:
    """The model as torchvision would have saved it."""
    state = model.state_dict()
    foreign = {}
    for link in torchvision.links(model.spec, era):
        values = link.back(state[link.ours].numpy())
        foreign[prefix + link.theirs] = torch.from_numpy(values.copy())
    torch.save(foreign, path)
    return path


@pytest.mark.parametrize("era", torchvision.ERAS)
@pytest.mark.parametrize("prefix", ["", "module.", "model.module."])
def test_a_foreign_file_gives_the_model_back(tmp_path: Path, prefix: str, era: str) -> None:
    model = tiny_model()
    loaded = mg.load(foreign_file(model, tmp_path / "model.pth", prefix, era))
    assert loaded.spec.arch == model.spec.arch
    assert loaded.graft is not None
    assert loaded.graft.prefix == prefix
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_rows_of_shared_classes_are_kept_by_name() -> None:
    torch.manual_seed(0)
    model = tiny_model(("disc", "box", "star"))
    fresh = with_classes(model, ["star", "moon", "disc"])
    assert fresh.spec.classes == ("star", "moon", "disc")
    for name, per_class in (("box_predictor.cls", 1), ("box_predictor.deltas", 4), ("mask_predictor.logits", 1)):
        for vector in ("weight", "bias"):
            old, new = (one.state_dict()[f"{name}.{vector}"].unflatten(0, (-1, per_class)) for one in (model, fresh))
            assert torch.equal(new[0], old[2]) and torch.equal(new[2], old[0]), name
            assert torch.equal(new[3], old[3]), "the background row stays"
            assert not any(torch.equal(new[1], row) for row in old), "a new class starts afresh"
            assert new[1].abs().max() < 0.06
    others = [name for name in model.state_dict() if not name.startswith(("box_predictor", "mask_predictor"))]
    assert all(torch.equal(model.state_dict()[name], fresh.state_dict()[name]) for name in others)


def test_the_graft_tells_where_rows_came_from(tmp_path: Path) -> None:
    path = foreign_file(tiny_model(), tmp_path / "model.pth")
    model = mg.load(path, classes=["class 2", "forklift", "clas 1"])
    assert model.graft is not None
    assert [(row.name, row.source) for row in model.graft.rows] == [
        ("class 2", 1),
        ("forklift", None),
        ("clas 1", None),
    ]
    assert model.graft.dropped == ("class 1",)
    near = [finding for finding in model.graft.findings if finding.code == "names.renamed"]
    assert near[0].evidence["nearest"] == {"clas 1": "class 1"}
    counts = moved_parameters(model)
    assert counts["backbone"][0] == counts["backbone"][1]
    assert 0 < counts["box_predictor"][0] < counts["box_predictor"][1]


@pytest.mark.parametrize("classes", [[], ["a", "a"], "person"])
def test_class_lists_that_cannot_be_meant_are_refused(classes: list[str]) -> None:
    with pytest.raises(mg.UsageError):
        with_classes(tiny_model(), classes)


def test_every_fault_of_a_file_is_listed_at_once(tmp_path: Path) -> None:
    state = torch.load(foreign_file(tiny_model(), tmp_path / "model.pth"))
    del state["backbone.body.layer2.0.conv2.weight"], state["rpn.head.bbox_pred.bias"]
    state["roi_heads.extra.weight"] = torch.zeros(3)
    state["roi_heads.mask_predictor.conv5_mask.bias"] = torch.zeros(7)
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(mg.CheckpointError) as caught:
        mg.load(tmp_path / "broken.pth")
    text = str(caught.value)
    for name in ("layer2.0.conv2", "roi_heads.extra.weight", "conv5_mask.bias: [7] in the file"):
        assert name in text
    missing = next(finding for finding in caught.value.findings if finding.code == "names.missing")
    assert set(missing.names) == {"backbone.body.layer2.0.conv2.weight", "rpn.head.bbox_pred.bias"}


def test_another_model_is_named_for_what_it_is_not(tmp_path: Path) -> None:
    torch.save({"encoder.0.weight": torch.zeros(3, 3), "encoder.0.bias": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(mg.CheckpointError, match="no family that maskgraft knows"):
        mg.load(tmp_path / "other.pth")
    report = mg.diagnose(tmp_path / "other.pth")
    assert report.spec is None
    assert not report.loadable


def test_saved_and_loaded_bit_for_bit(tmp_path: Path) -> None:
    model = tiny_model()
    mg.save(model, tmp_path / "kept", about={"mask AP": 0.5})
    loaded = mg.load(tmp_path / "kept")
    assert loaded.spec == model.spec
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == loaded.state_dict()[name].dtype
        assert torch.equal(tensor, loaded.state_dict()[name])
    changed = mg.load(tmp_path / "kept", numerics={"score_threshold": 0.3}, classes=["disc", "ring"])
    assert changed.spec.numerics.score_threshold == 0.3
    assert changed.spec.classes == ("disc", "ring")


def test_saving_replaces_a_model_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "kept"
    mg.save(tiny_model(seed=0), target)
    second = tiny_model(seed=1)
    mg.save(second, target)
    assert torch.equal(mg.load(target).rpn.deltas.weight, second.rpn.deltas.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"x")
    with pytest.raises(mg.UsageError, match="no folder that maskgraft saved"):
        mg.save(second, photos)
    assert (photos / "a.jpg").exists()


def test_a_save_that_fails_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "kept"
    first = tiny_model(seed=0)
    mg.save(first, target)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maskgraft.store.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        mg.save(tiny_model(seed=1), target)
    assert torch.equal(mg.load(target).rpn.deltas.weight, first.rpn.deltas.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_saved_folder_that_was_damaged_is_refused(tmp_path: Path) -> None:
    mg.save(tiny_model(), tmp_path / "kept")
    weights = tmp_path / "kept" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(mg.CheckpointError, match=r"model\.safetensors does not hold"):
        mg.load(tmp_path / "kept")
    (tmp_path / "kept" / "spec.json").write_text("{")
    with pytest.raises(mg.CheckpointError, match=r"spec\.json is not what maskgraft saves"):
        mg.load(tmp_path / "kept")


def test_an_empty_image_list_and_a_black_image(tmp_path: Path) -> None:
    model = tiny_model()
    assert model.predict([]) == []
    found = model.predict([torch.zeros(50, 70, 3, dtype=torch.uint8)])[0]
    assert found.masks.shape[1:] == (50, 70)
    with pytest.raises(mg.UsageError, match="float32"):
        model.predict([torch.zeros(50, 70, 3)])


def test_a_threshold_that_nothing_reaches() -> None:
    model = MaskRCNN(replace(tiny_spec(), numerics=replace(tiny_spec().numerics, score_threshold=0.999))).eval()
    found = model.predict([torch.zeros(50, 70, 3, dtype=torch.uint8)])[0]
    assert len(found) == 0
    assert found.masks.shape == (0, 50, 70)


def rows_of(model: mg.MaskRCNN) -> list[tuple[str, int | None, str]]:
    assert model.graft is not None
    return [(row.name, row.source, row.called) for row in model.graft.rows]


def test_a_class_is_found_under_its_own_name_before_its_synonyms(tmp_path: Path) -> None:
    path = foreign_file(tiny_model(), tmp_path / "model.pth")  # "class 1", "class 2"
    model = mg.load(
        path, classes=["human", "class 2"], synonyms={"human": ["pedestrian", "class 1"], "class 2": "class 1"}
    )
    assert rows_of(model) == [("human", 0, "class 1"), ("class 2", 1, "")]
    assert model.graft is not None and model.graft.dropped == ()
    with pytest.raises(mg.UsageError, match="not among the classes"):
        mg.load(path, classes=["human"], synonyms={"person": "class 1"})
    with pytest.raises(mg.UsageError, match="no classes are given"):
        mg.load(path, synonyms={"person": "class 1"})


def test_rows_come_from_several_files_of_one_network(tmp_path: Path) -> None:
    first = tiny_model(("disc", "box"))
    mg.save(first, tmp_path / "first")
    other = with_classes(mg.load(tmp_path / "first"), ["box", "star"])
    with torch.no_grad():
        other.box_predictor.cls.weight[1] = 7.0
    mg.save(other, tmp_path / "other")
    grown = mg.load(tmp_path / "first", classes=["disc", "star", "moon"], rows_from=[tmp_path / "other"])
    assert torch.equal(grown.box_predictor.cls.weight[0], first.box_predictor.cls.weight[0])
    assert (grown.box_predictor.cls.weight[1] == 7.0).all()
    if grown.graft is not None:
        assert [(row.source, row.path is not None) for row in grown.graft.rows] == [
            (0, False),
            (1, True),
            (None, False),
        ]
    mg.save(tiny_model(("disc", "star"), seed=5), tmp_path / "stranger")
    with pytest.raises(mg.UsageError, match=r"another network .*backbone"):
        mg.load(tmp_path / "first", classes=["star"], rows_from=[tmp_path / "stranger"])


def test_both_id_spaces_of_coco_have_names() -> None:
    from maskgraft.families.class_names import COCO_80, COCO_90

    model = tiny_model(COCO_90)
    fresh = with_classes(model, "coco-80")
    assert fresh.spec.classes == COCO_80
    for name in ("person", "stop sign", "toothbrush"):
        old, new = COCO_90.index(name), COCO_80.index(name)
        assert torch.equal(fresh.box_predictor.cls.weight[new], model.box_predictor.cls.weight[old])
    back = with_classes(fresh, "coco-91")
    assert torch.equal(back.box_predictor.cls.weight[88], model.box_predictor.cls.weight[88])


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("rpn.head", "rpn.other", "names.missing"),
        ("backbone.body.layer3", "module.backbone.body.layer3", "names.prefix"),
    ],
)
def test_names_that_were_lost_are_no_other_architecture(tmp_path: Path, old: str, new: str, code: str) -> None:
    path = foreign_file(tiny_model(), tmp_path / "model.pth")
    state = torch.load(path)
    torch.save({name.replace(old, new): tensor for name, tensor in state.items()}, path)
    assert mg.diagnose(path).findings[0].code == code


@pytest.mark.parametrize("order", [(2, 3, 1, 0), (0, 2, 3, 1)])
def test_kernels_in_another_order_are_no_other_architecture(tmp_path: Path, order: tuple[int, ...]) -> None:
    path = foreign_file(tiny_model(), tmp_path / "model.pth")
    state = torch.load(path)
    torch.save({name: one.permute(order) if one.dim() == 4 else one for name, one in state.items()}, path)
    assert mg.diagnose(path).findings[0].code == "shape.layout"
