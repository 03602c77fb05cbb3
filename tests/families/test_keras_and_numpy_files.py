"""Matterport, Tensorpack and chainer-mask-rcnn: layouts, refusals, and what a config beside the file changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskgraft.errors import CheckpointError
from maskgraft.families import chainer, identify, matterport, tensorpack
from maskgraft.families.class_names import numbered
from maskgraft.files import LazyArray, Tensors
from maskgraft.links import Link
from maskgraft.spec import Arch, Numerics, Spec
from tests.families.drawn import drawn
from tests.families.test_shapes import CHAINER, MATTERPORT, TENSORPACK


def spec_of(family: str, arch: Arch, numerics: Numerics) -> Spec:
    return Spec(family=family, arch=arch, numerics=numerics, classes=numbered(arch.classes))


MATTERPORT_SPEC = spec_of("matterport", replace(MATTERPORT, classes=3), matterport.NUMERICS)
TENSORPACK_SPEC = spec_of("tensorpack", replace(TENSORPACK, classes=3), tensorpack.NUMERICS)
CHAINER_SPEC = spec_of("chainer-mask-rcnn", CHAINER, chainer.NUMERICS)


def link_to(spec: Spec, era: str, ours: str) -> Link:
    families = {"matterport": matterport, "tensorpack": tensorpack, "chainer-mask-rcnn": chainer}
    return next(link for link in families[spec.family].links(spec, era) if link.ours == ours)


def without(tensors: Tensors, part: str) -> Tensors:
    return replace(tensors, arrays={name: array for name, array in tensors.items() if part not in name})


def test_matterport_deltas_stand_y_first_and_background_first() -> None:
    theirs = np.arange(16)  # background, then three classes of dy dx dh dw
    ours = link_to(MATTERPORT_SPEC, "", "box_predictor.deltas.bias").forward(theirs)
    assert ours.tolist() == [5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14, 1, 0, 3, 2]


def test_matterport_flattens_channels_last() -> None:
    link = link_to(MATTERPORT_SPEC, "", "box_head.fcs.0.weight")
    theirs = np.zeros((7, 7, 256, 1024), np.float32)
    theirs[2, 3, 5, 11] = 1
    assert link.forward(theirs)[11, 5 * 49 + 2 * 7 + 3] == 1


def test_matterport_transposed_convolution_stands_out_before_in() -> None:
    link = link_to(MATTERPORT_SPEC, "", "mask_head.upsample.weight")
    theirs = np.zeros((2, 2, 10, 20), np.float32)
    theirs[0, 1, 3, 4] = 1
    assert link.forward(theirs)[4, 3, 0, 1] == 1


def test_matterport_ports_may_store_anchors() -> None:
    known = identify(drawn(MATTERPORT_SPEC, extra={"anchors/Variable:0": (1, 261888, 4)}))
    assert known.ignored == {"anchors/Variable:0": "anchors are computed, not learned"}


def test_tensorpack_flattens_channels_first() -> None:
    link = link_to(TENSORPACK_SPEC, ":0", "box_head.fcs.0.weight")
    theirs = np.zeros((12544, 1024), np.float32)
    theirs[700, 11] = 1
    assert link.forward(theirs)[11, 700] == 1


def test_tensorpack_masks_have_no_background_row() -> None:
    link = link_to(TENSORPACK_SPEC, ":0", "mask_predictor.logits.bias")
    assert link.forward(np.arange(3)).tolist() == [0, 1, 2]


def test_training_leftovers_of_tensorpack_are_ignored() -> None:
    left = ("global_step", "learning_rate:0", "AccumGrad/counter")
    assert set(identify(drawn(TENSORPACK_SPEC, extra=dict.fromkeys(left, ()))).ignored) == set(left)


@pytest.mark.parametrize(
    ("spec", "lacks", "says"),
    [
        (MATTERPORT_SPEC, "res2a_branch2a", "a backbone that is not its ResNet"),
        (TENSORPACK_SPEC, "maskrcnn/conv/", "no mask head"),
        (CHAINER_SPEC, "extractor/res2/a", "a backbone that is not a ResNet"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(spec: Spec, lacks: str, says: str) -> None:
    tensors = without(drawn(spec, ":0" if spec.family == "tensorpack" else ""), lacks)
    with pytest.raises(CheckpointError, match=says):
        identify(tensors)


def test_matterport_reads_pictures_of_three_channels() -> None:
    with pytest.raises(CheckpointError, match="IMAGE_CHANNEL_COUNT is 4, not 3"):
        identify(drawn(MATTERPORT_SPEC, extra={"conv1/conv1/kernel:0": (7, 7, 4, 64)}))


def test_tensorpack_cascades_are_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match="cascade heads"):
        identify(drawn(TENSORPACK_SPEC, ":0", extra={"cascade_rcnn_stage1/outputs/box/W:0": (1024, 4)}))


def test_chainer_reads_its_params(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        "min_size: 800\nmax_size: 1333\nanchor_scales: [1, 2, 4, 8]\nroi_size: 14\npooling_func: align\n"
        f"class_names: [{', '.join(f'thing{i}' for i in range(20))}]\n"
    )
    known = identify(replace(drawn(CHAINER_SPEC), path=tmp_path / "snapshot_model.npz"))
    numerics = known.spec.numerics
    assert (numerics.min_size, numerics.max_size, numerics.box_pool_size, numerics.res5_stride) == (800, 1333, 14, 2)
    assert numerics.anchor_sizes == ((16.0, 32.0, 64.0, 128.0),)
    assert known.spec.classes[3] == "thing3"
    assert known.spec.learned["numerics.min_size"].how == "read"


def test_chainer_with_another_pooling_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("pooling_func: resize\n")
    with pytest.raises(CheckpointError, match="pooling_func is 'resize'"):
        identify(replace(drawn(CHAINER_SPEC), path=tmp_path / "snapshot_model.npz"))


def test_fifteen_anchors_are_those_of_the_coco_example() -> None:
    numerics = identify(drawn(replace(CHAINER_SPEC, arch=replace(CHAINER, anchors_per_cell=15)))).spec.numerics
    assert numerics.anchor_sizes == ((32.0, 64.0, 128.0, 256.0, 512.0),)
    assert (numerics.min_size, numerics.max_size) == (800, 1333)


def test_a_data_set_of_chainer_stands_for_its_settings(tmp_path: Path) -> None:
    """As its demo reads logs of before params.yaml said the sizes."""
    (tmp_path / "params.yaml").write_text("dataset: voc\npooling_func: align\nmin_size: 300\n")
    known = identify(replace(drawn(CHAINER_SPEC), path=tmp_path / "snapshot_model.npz"))
    assert (known.spec.numerics.min_size, known.spec.numerics.max_size) == (300, 1000)
    assert known.spec.classes[:2] == ("aeroplane", "bicycle")
    assert known.spec.learned["numerics.max_size"].source == "params.yaml: dataset"


def test_settings_of_chainer_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("min_size: large\nanchor_scales: 4\nclass_names: [cat, dog]\n")
    with pytest.raises(CheckpointError, match=r"min_size is 'large'[\s\S]*anchor_scales is 4"):
        identify(replace(drawn(CHAINER_SPEC), path=tmp_path / "snapshot_model.npz"))


def test_class_names_of_another_number_are_told(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("class_names: [cat, dog]\n")
    known = identify(replace(drawn(CHAINER_SPEC), path=tmp_path / "snapshot_model.npz"))
    assert [finding.code for finding in known.findings] == ["shape.classes"]
    assert known.spec.classes[0] == "class 1"


def test_a_foreign_file_is_none_of_them() -> None:
    foreign = Tensors(Path("foreign"), "drawn", {"conv1/W": LazyArray.of(np.zeros(3, np.float32))})
    with pytest.raises(CheckpointError, match="no family"):
        identify(foreign)
