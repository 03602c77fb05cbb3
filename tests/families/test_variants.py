"""Other depths, necks, heads and numbers of classes than the usual, each opened, loaded, run and taken home again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maskgraft as mg
from maskgraft.families import chainer, detectron2, family, maskrcnn_benchmark, matterport, mmdet, tensorpack
from maskgraft.graft import rebuilt
from maskgraft.spec import Arch, Spec
from tests.families.containers import CONTAINERS
from tests.families.drawn import canonical_shapes
from tests.families.slim import BACKGROUND, FEW, FEW_C4, slim
from tests.families.test_shapes import CHAINER, MATTERPORT, TENSORPACK_C4, TENSORPACK_GN

ENDINGS = {"detectron2": ".pkl", "matterport": ".h5", "tensorpack": ".npz", "chainer-mask-rcnn": ".npz"}
R101 = (3, 4, 23, 3)
_C4: dict[str, Any] = {"neck": "c4", "anchors_per_cell": 15, "box_head": "res5", "mask_convs": 0, **FEW_C4}
_GROUPS: dict[str, Any] = {
    **dict.fromkeys(("norm", "neck_norm", "box_norm", "mask_norm"), "group"),
    **{"stem_width": 32, "width_per_group": 32, "neck_channels": 32, "rpn_channels": 32},
    **{"box_convs": 4, "box_conv_channels": 32, "box_fcs": 1, "box_fc_width": 24, "mask_channels": 32},
}


GN = dict.fromkeys((*FEW, "box_conv_channels"), 32)  # of 32 groups
VARIANTS: dict[str, tuple[Spec, str]] = {
    "detectron2 r101 dc5": slim(
        "detectron2",
        Arch(classes=5, blocks=R101, neck="dc5", anchors_per_cell=15, box_fc_width=24, **FEW_C4),
        detectron2.NUMERICS,
    ),
    "detectron2 x101 c4": slim("detectron2", Arch(classes=2, blocks=R101, groups=8, **_C4), detectron2.NUMERICS),
    "detectron2 gn 4conv1fc agnostic": slim(
        "detectron2", Arch(classes=7, box_rows="agnostic", **_GROUPS), detectron2.NUMERICS
    ),
    "mmdet 2 r18": slim(
        "mmdet",
        Arch(classes=4, norm="batch", block="basic", blocks=(2, 2, 2, 2), **{**FEW, "stem_width": 64}),
        mmdet.NUMERICS,
        "2",
    ),
    "mmdet 2 r34": slim(
        "mmdet",
        Arch(classes=1, norm="batch", block="basic", blocks=(3, 4, 6, 3), **{**FEW, "stem_width": 64}),
        mmdet.NUMERICS,
        "2",
    ),
    "mmdet 2 outputs": slim(
        "mmdet", Arch(classes=4, norm="batch", neck_norm="batch", neck_norm_after="outputs", **FEW), mmdet.NUMERICS, "2"
    ),
    "mmdet 2 v1c": slim("mmdet", Arch(classes=4, norm="batch", stem="3x3", **FEW), mmdet.NUMERICS, "2"),
    "mmdet 2 v1d": slim(
        "mmdet",
        Arch(classes=4, norm="batch", stem="3x3", **FEW),
        replace(mmdet.NUMERICS, stride_pooled=True),
        "2",
    ),
    "mmdet 2 dc5": slim(
        "mmdet",
        Arch(classes=4, norm="batch", neck="dc5", anchors_per_cell=15, box_fc_width=24, **FEW_C4),
        mmdet.NUMERICS,
        "2",
    ),
    "mmdet 2 x101": slim("mmdet", Arch(classes=4, norm="batch", blocks=R101, groups=8, **FEW), mmdet.NUMERICS, "2"),
    "mmdet 1 x101": slim(
        "mmdet", Arch(classes=4, norm="batch", blocks=R101, groups=8, **FEW, **BACKGROUND), mmdet.NUMERICS, "1"
    ),
    "matterport r101": slim("matterport", replace(MATTERPORT, classes=2, blocks=R101, **FEW), matterport.NUMERICS),
    "tensorpack gn": slim("tensorpack", replace(TENSORPACK_GN, classes=2, **GN), tensorpack.NUMERICS, ":0"),
    "tensorpack c4": slim("tensorpack", replace(TENSORPACK_C4, classes=11, **FEW_C4), tensorpack.NUMERICS, ":0"),
    "maskrcnn-benchmark r101 c4": slim(
        "maskrcnn-benchmark", Arch(classes=6, blocks=R101, **_C4, **BACKGROUND), maskrcnn_benchmark.NUMERICS
    ),
    "chainer r101": slim("chainer-mask-rcnn", replace(CHAINER, classes=9, blocks=R101, **FEW_C4), chainer.NUMERICS),
}
SMALL = {"min_size": 64, "max_size": 96, "rpn_post_nms": 20, "rpn_pre_nms": 100, "score_threshold": 0.0}


def arrays_of(spec: Spec, era: str) -> dict[str, np.ndarray]:
    shapes, random, arrays = canonical_shapes(spec), np.random.default_rng(0), {}
    for link in family(spec.family).links(spec, era):
        shape = shapes[link.ours]
        if link.ours.endswith("running_var"):
            values = random.uniform(0.5, 2, shape).astype(np.float32)
        else:
            values = random.normal(0, 0.05, shape).astype(np.float32) if shape else np.zeros((), np.int64)
        for theirs in (link.theirs, *link.copies):
            arrays[theirs] = link.back(values)
    return arrays


@pytest.mark.long
@pytest.mark.parametrize("name", list(VARIANTS))
def test_it_is_opened_loaded_run_and_taken_home(name: str, tmp_path: Path) -> None:
    spec, era = VARIANTS[name]
    file = CONTAINERS[spec.family](tmp_path, arrays_of(spec, era))
    report = mg.diagnose(file)
    assert report.family == spec.family
    assert not [finding for finding in report.findings if finding.severity == "error"]
    model = mg.load(file)
    shapes = {theirs: tuple(tensor.shape) for theirs, tensor in model.state_dict().items()}
    assert shapes == canonical_shapes(spec)
    small = rebuilt(model, model.spec.with_numerics(SMALL))
    photo = np.random.default_rng(3).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    found = small.predict([photo])[0]
    assert np.isfinite(found.scores.numpy()).all()
    (tmp_path / "home").mkdir()
    out = tmp_path / "home" / f"model{ENDINGS.get(spec.family, '.pth')}"
    done = mg.convert(file, to=spec.family, out=out)
    before, after = mg.open(file), mg.open(done.files[0])
    assert set(before) == set(after)
    assert all(before[one].read().tobytes() == after[one].read().tobytes() for one in before)
