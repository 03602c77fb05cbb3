"""What holds for every family, each by one slim model in its own container."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import maskgraft as mg
from maskgraft.causes.tables import table_faults
from maskgraft.cutouts import Cutouts
from maskgraft.errors import CheckpointError
from maskgraft.families import FAMILIES, identify, recognise
from maskgraft.files import LazyArray, Tensors
from maskgraft.graft import assemble, rebuilt
from maskgraft.preprocess import prepare, stack
from maskgraft.spec import Spec
from maskgraft.targets import Batch, Target
from tests.families.containers import CONTAINERS
from tests.families.drawn import canonical_shapes, drawn
from tests.families.slim import SLIM

WHOLE = [family.name for family in FAMILIES if family.whole]


def arrays_of(name: str) -> dict[str, np.ndarray]:
    """What a file of the slim model holds: random values, under the family's names."""
    spec, era = SLIM[name]
    family = next(family for family in FAMILIES if family.name == spec.family)
    shapes, random, arrays = canonical_shapes(spec), np.random.default_rng(0), {}
    for link in family.links(spec, era):
        if not shapes[link.ours]:
            values = np.zeros((), np.int64)
        elif link.ours.endswith("running_var"):
            values = np.ones(shapes[link.ours], np.float32)
        else:
            values = random.normal(0, 0.05, shapes[link.ours]).astype(np.float32)
        for theirs in (link.theirs, *link.copies):
            arrays[theirs] = link.back(values)
    return arrays


def in_memory(arrays: dict[str, np.ndarray]) -> Tensors:
    return Tensors(Path("drawn"), "drawn", {name: LazyArray.of(array) for name, array in arrays.items()})


@pytest.fixture(scope="module", params=list(SLIM))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_shape_that_none_has_is_a_fault_of_the_file(arrays: dict[str, np.ndarray]) -> None:
    refused = set()
    for name in [name for name, array in arrays.items() if array.ndim > 1][::3]:
        for shape in ((), (0, 0, 0, 0)):
            try:
                identify(in_memory({**arrays, name: np.zeros(shape, np.float32)}))
            except CheckpointError:
                refused.add(shape)
    assert () in refused


@pytest.fixture(scope="module")
def arrays(name: str) -> dict[str, np.ndarray]:
    return arrays_of(name)


@pytest.fixture(scope="module")
def file(name: str, arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return CONTAINERS[SLIM[name][0].family](tmp_path_factory.mktemp("file"), arrays)


def test_every_family_is_here() -> None:
    assert {spec.family for spec, _ in SLIM.values()} == set(WHOLE)
    assert set(CONTAINERS) >= set(WHOLE)


def test_it_is_recognised_as_itself_above_all_others(name: str, file: Path) -> None:
    ranking = recognise(mg.open(file))
    assert (ranking[0][0], ranking[0][1].name) == (1.0, SLIM[name][0].family)
    assert max(likeness for likeness, family, _, _ in ranking if family.name != SLIM[name][0].family) < 1.0


def test_shapes_and_names_tell_the_model(name: str, file: Path) -> None:
    spec, era = SLIM[name]
    known = identify(mg.open(file))
    assert (known.spec.arch, known.era) == (spec.arch, era)
    assert not known.ignored


def test_a_network_of_fewer_blocks_is_whole(name: str) -> None:
    """Where layers are numbered through, the same number means another layer in it."""
    spec, era = SLIM[name]
    if spec.arch.backbone != "resnet":
        pytest.skip("its depth is fixed")
    known = identify(drawn(replace(spec, arch=replace(spec.arch, blocks=(1, 1, 1, 1))), era))
    assert known.spec.arch.blocks == (1, 1, 1, 1)
    assert table_faults(known) == []


def test_import_and_export_are_byte_equal(file: Path, arrays: dict[str, np.ndarray]) -> None:
    known = identify(mg.open(file))
    back = {}
    for link in known.links:
        values = link.back(link.forward(known.tensors[link.theirs].read()))
        back |= {theirs: values for theirs in (link.theirs, *link.copies)}
    assert set(back) == set(arrays)
    for theirs, array in arrays.items():
        assert (back[theirs].dtype, back[theirs].shape) == (array.dtype, array.shape), theirs
        assert back[theirs].tobytes() == array.tobytes(), theirs


def slim_settings(spec: Spec) -> dict[str, object]:
    """Settings under which a small photograph is enough."""
    shrunk = {"min_size": 64, "max_size": 96, "rpn_post_nms": 20, "rpn_post_nms_train": 20, "roi_samples": 8}
    levels = tuple(tuple(size / 8 for size in level) for level in spec.numerics.anchor_sizes)
    return {**shrunk, "anchor_sizes": levels, "score_threshold": 0.0, "max_detections": 5, "fixed_size": None}


PHOTOGRAPHS = {
    "grey": Image.fromarray(np.full((50, 70), 90, np.uint8), "L"),
    "transparent": Image.fromarray(np.full((50, 70, 4), 90, np.uint8), "RGBA"),
    "of one pixel": Image.fromarray(np.full((1, 1, 3), 90, np.uint8), "RGB"),
    "a line": Image.fromarray(np.full((1, 900, 3), 90, np.uint8), "RGB"),
    "a tower": Image.fromarray(np.full((900, 3, 3), 90, np.uint8), "RGB"),
}


def test_it_loads_finds_traces_and_trains(name: str, file: Path) -> None:
    spec, _ = SLIM[name]
    model = mg.load(file, numerics=slim_settings(spec))
    with torch.no_grad():
        model.box_predictor.cls.bias[-1] = -20  # nothing is background
    random = np.random.default_rng(1)
    image = random.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    for photograph in (image, *PHOTOGRAPHS.values()):
        found = model.predict([photograph])[0]
        width, height = photograph.size if isinstance(photograph, Image.Image) else (90, 60)
        assert found.masks.shape == (len(found), height, width)
        assert found.masks.dtype == torch.bool
        assert (found.boxes[:, 2:] <= torch.tensor([width, height])).all()
        assert (found.boxes >= 0).all()
        assert ((found.labels >= 0) & (found.labels < spec.arch.classes)).all()
        assert (found.scores.diff() <= 0).all()
    assert len(model.predict([image])[0]) > 0
    rois = torch.tensor([[0.0, 0, 40, 40], [10, 10, 30, 60]])
    stages = model.trace(image, rois)
    assert all(torch.isfinite(stage).all() for stage in stages.values())
    assert stages["roi.class_logits"].shape == (2, spec.arch.classes + 1)
    unproposed = {"rpn_min_size": 1e6, "clip_after_nms": False, "detect_filled": False}
    for nothing in ({"score_threshold": 2.0}, unproposed):
        none = rebuilt(model, model.spec.with_numerics(nothing)).predict([image])[0]
        assert (len(none), none.boxes.shape, none.masks.shape) == (0, (0, 4), (0, 60, 90))
    one_step(model, image)


def one_step(model: mg.MaskRCNN, image: np.ndarray) -> None:
    # of random weights, which propose nothing near it, the object is to be a proposal itself in every family
    model.spec = model.spec.with_numerics({"roi_truth": True})
    numerics = model.spec.numerics
    prepared = prepare(image, numerics)
    outline = np.array([10.0, 10, 60, 10, 60, 50, 10, 50])
    boxes = prepared.to_network(torch.tensor([[10.0, 10, 60, 50]]))
    x1, y1, x2, y2 = boxes[0].round().int().tolist()
    masks = torch.zeros(1, *prepared.size, dtype=torch.bool)
    masks[0, y1:y2, x1:x2] = True
    polygon = prepared.to_network(torch.tensor(outline, dtype=torch.float32).reshape(-1, 4)).reshape(-1).numpy()
    target = Target(boxes=boxes, labels=torch.tensor([0]), masks=Cutouts.of(masks.numpy()), polygons=((polygon,),))
    batch = Batch(stack([prepared], numerics.pad_multiple), (prepared.size,), (target,))
    torch.manual_seed(0)
    losses = model.train()(batch)
    assert set(losses) == {"rpn_cls", "rpn_box", "cls", "box", "mask"}
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    total.backward()
    for part in ("rpn.objectness", "box_predictor.cls", "mask_predictor.logits"):
        gradient = model.get_submodule(part).weight.grad
        assert isinstance(gradient, torch.Tensor)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file_is_refused(file: Path, share: float, tmp_path: Path) -> None:
    for one in file.parent.iterdir():
        data = one.read_bytes()
        (tmp_path / one.name).write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError) as raised:
        mg.load(tmp_path / file.name)
    assert raised.value.findings[0].code.startswith("file."), raised.value.findings[0]


def test_a_file_that_lacks_a_tensor_is_refused_by_its_name(arrays: dict[str, np.ndarray]) -> None:
    lacks = next(
        link.theirs for link in identify(in_memory(arrays)).links if link.ours == "backbone.res2.0.conv1.norm.bias"
    )
    known = identify(in_memory({theirs: array for theirs, array in arrays.items() if theirs != lacks}))
    with pytest.raises(CheckpointError) as raised:
        assemble(known, known.spec)
    assert [(finding.code, finding.names) for finding in raised.value.findings] == [("names.missing", (lacks,))]


def test_a_file_with_a_foreign_tensor_is_refused_by_its_name(arrays: dict[str, np.ndarray]) -> None:
    like = next(theirs for theirs, array in arrays.items() if array.ndim)
    foreign = f"{like.rsplit('/', 1)[0]}_aside/{like.rsplit('/', 1)[1]}" if "/" in like else f"aside.{like}"
    known = identify(in_memory({**arrays, foreign: arrays[like]}))
    with pytest.raises(CheckpointError) as raised:
        assemble(known, known.spec)
    assert raised.value.findings[0].code == "names.unexpected"
    assert foreign in raised.value.findings[0].names


@pytest.mark.parametrize("other", ["an image", "a text", "nothing", "tensors of no detector"])
def test_foreign_files_are_of_no_family(other: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    buffer = io.BytesIO()
    if other == "an image":
        PHOTOGRAPHS["grey"].save(buffer, "PNG")
    elif other == "tensors of no detector":
        torch.save({"layer.weight": torch.zeros(3, 3)}, buffer)
    path.write_bytes({"a text": b"weights, as promised\n"}.get(other, buffer.getvalue()))
    with pytest.raises(CheckpointError) as raised:
        mg.load(path)
    assert raised.value.findings[0].code == ("family.unknown" if "tensors" in other else raised.value.findings[0].code)
    assert raised.value.findings[0].code.split(".")[0] in ("file", "family")
