"""Configs that are written on top of others: those are read first, and missed where they are not there."""

from pathlib import Path

import pytest

from maskgraft.errors import CheckpointError
from maskgraft.families import configs, identify
from maskgraft.families.pipeline_config import read_pipeline
from tests.families.drawn import drawn
from tests.families.slim import SLIM

BASE = """
MODEL:
  RPN: {NMS_THRESH: 0.6, POST_NMS_TOPK_TEST: 77}
  ROI_HEADS: {SCORE_THRESH_TEST: 0.3}
"""


def test_detectron2_reads_the_base_first(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "Base.yaml").write_text(BASE)
    (tmp_path / "sub" / "mine.yaml").write_text("_BASE_: ../Base.yaml\nMODEL: {RPN: {NMS_THRESH: 0.8}}\n")
    known = identify(drawn(*SLIM["detectron2"]), config=tmp_path / "sub" / "mine.yaml")
    told = known.spec.numerics
    assert (told.rpn_nms_threshold, told.rpn_post_nms, told.score_threshold) == (0.8, 77, 0.3)
    assert known.spec.learned["numerics.rpn_post_nms"].how == "read"
    assert known.findings == ()


def test_a_base_that_is_not_there_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("_BASE_: ../Base-RCNN-FPN.yaml\nMODEL: {RPN: {NMS_THRESH: 0.8}}\n")
    known = identify(drawn(*SLIM["detectron2"]), config=path)
    assert known.spec.numerics.rpn_nms_threshold == 0.8
    (finding,) = known.findings
    assert (finding.code, finding.severity) == ("numerics.assumed", "warning")
    assert "../Base-RCNN-FPN.yaml, which is not read" in finding.message


def test_several_bases_the_last_above_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("x: {one: 1, two: 1}\nlist: [1, 2]\n")
    (tmp_path / "b.yml").write_text("_BASE_: a.yml\nx: {two: 2, three: 2}\n")
    (tmp_path / "mine.yml").write_text("_BASE_: [a.yml, b.yml, gone.yml]\nx: {three: 3}\nlist: [3]\n")
    assert configs.read_config(tmp_path / "mine.yml") == {
        "x": {"one": 1, "two": 2, "three": 3},
        "list": [3],
        configs.NOT_READ: ["gone.yml"],
    }


LAZY = """
from detectron2.config import LazyCall as L
from {start}constants import constants as numbers

model = L(GeneralizedRCNN)(
    backbone=L(FPN)(bottom_up=L(ResNet)(stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=True))),
    proposal_generator=L(RPN)(nms_thresh=0.7, pre_nms_topk=(2000, 1000), post_nms_topk=(1000, 900)),
    pixel_mean=numbers.rgb,
    input_format="BGR",
)
dataloader = OmegaConf.create()
dataloader.test = L(loader)(
    mapper=L(Mapper)(augmentations=[L(T.ResizeShortestEdge)(short_edge_length=300, max_size=99)])
)
"""


def test_lazy_configs_take_from_what_they_import(tmp_path: Path) -> None:
    for folder in ("common/models", "mine"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "common" / "models" / "fpn.py").write_text(LAZY.format(start=".."))
    (tmp_path / "common" / "constants.py").write_text("constants = dict(rgb=[1.0, 2.0, 3.0])")
    (tmp_path / "common" / "schedule.py").write_text("def half(x):\n    return x / 2\n\n\nlr = half(4)")
    (tmp_path / "mine" / "first.py").write_text(
        "from ..common.models.fpn import dataloader, model\n"
        "model.backbone.bottom_up.stages.stride_in_1x1 = False\nmodel.input_format = 'RGB'\n"
    )
    path = tmp_path / "mine" / "second.py"
    path.write_text(
        "from .first import dataloader, model\nfrom ..common.schedule import lr\n"
        "model.proposal_generator.nms_thresh = 0.5\nmodel.roi_heads.mask_head.conv_norm = lambda c: Norm(c)\n"
    )
    known = identify(drawn(*SLIM["detectron2"]), config=path)
    told = known.spec.numerics
    assert (told.stride_in, told.channel_order, told.rpn_nms_threshold, told.rpn_post_nms) == ("3x3", "rgb", 0.5, 900)
    assert (told.pixel_mean, told.min_size, told.max_size) == ((1.0, 2.0, 3.0), 300, 99)
    assert known.findings == ()
    (tmp_path / "common" / "constants.py").unlink()
    (finding,) = identify(drawn(*SLIM["detectron2"]), config=path).findings
    assert "../constants.py, which is not read" in finding.message


def test_a_lazy_config_that_builds_no_model_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("model = get_config('common/models/mask_rcnn_fpn.py').model\nmodel.input_format = 'RGB'\n")
    known = identify(drawn(*SLIM["detectron2"]), config=path)
    assert known.spec.numerics.channel_order == "rgb"
    assert [finding.code for finding in known.findings] == ["numerics.assumed"]


def test_python_configs_take_from_their_bases_and_replace_what_they_delete(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text(
        "scale = (1000, 600)\n"
        "model = dict(neck=dict(type='FPN', num_outs=5), test_cfg=dict(rcnn=dict(score_thr=0.3)))\n"
    )
    (tmp_path / "mine.py").write_text(
        "_base_ = ['base.py']\n"
        "model = dict(neck=dict(_delete_=True, type='PAFPN'), test_cfg=dict(rcnn=dict(nms=dict(iou_threshold=0.4))))\n"
        "test_pipeline = [dict(type='Resize', scale={{_base_.scale}}), dict(type='Resize', scale=_base_.scale)]\n"
    )
    found = configs.read_config(tmp_path / "mine.py")
    assert found["model"] == {
        "neck": {"type": "PAFPN"},
        "test_cfg": {"rcnn": {"score_thr": 0.3, "nms": {"iou_threshold": 0.4}}},
    }
    assert [step["scale"] for step in found["test_pipeline"]] == [(1000, 600)] * 2


@pytest.mark.parametrize("ending", ["yaml", "py"])
def test_configs_that_stand_on_each_other_end(ending: str, tmp_path: Path) -> None:
    names = {"yaml": "_BASE_: {}\n{}: 1\n", "py": "_base_ = '{}'\n{} = 1\n"}
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{one}.{ending}").write_text(names[ending].format(f"{other}.{ending}", one))
    found = configs.read_config(tmp_path / f"a.{ending}")
    assert found == {"a": 1, "b": 1, configs.NOT_READ: [f"a.{ending}"]}


def test_a_base_that_is_no_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("- 1")
    (tmp_path / "mine.yaml").write_text("_BASE_: base.yaml\n")
    with pytest.raises(CheckpointError, match=r"base\.yaml holds list"):
        configs.read_config(tmp_path / "mine.yaml")


def test_bases_that_are_imported_are_told(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from mmengine.config import read_base\n"
        "with read_base():\n    from .._base_.models.mask_rcnn_r50_fpn import *\n    from .schedule import *\n"
        "max_epochs = 3\nmodel.update(dict(neck=dict(num_outs=6)))\n"
    )
    found = configs.read_config(tmp_path / "mine.py")
    assert found == {"max_epochs": 3, configs.NOT_READ: [".._base_.models.mask_rcnn_r50_fpn", ".schedule"]}


def test_bases_that_are_imported_and_there_are_read(tmp_path: Path) -> None:
    """Relative, by the package that both are part of, and by name; what is imported otherwise is its name."""
    folder = tmp_path / "mmdet" / "configs" / "mine"
    below = folder.parent / "_base_" / "models"
    for one in (folder, below):
        one.mkdir(parents=True)
    (below / "mask.py").write_text(
        "from mmdet.models.necks.fpn import FPN\nfrom torch.nn import BatchNorm2d as Norm\nnorm = dict(type=Norm)\n"
        "model = dict(neck=dict(type=FPN, num_outs=5), backbone=dict(norm_cfg=norm, **dict(depth=50)), old=dict(a=1))\n"
    )
    (folder / "schedule.py").write_text("max_epochs = 12\nother = 1\n")
    (folder / "top.py").write_text(
        "from mmengine.config import read_base\n"
        "with read_base():\n"
        "    from .._base_.models.mask import *\n    from mmdet.configs.mine.schedule import max_epochs as epochs\n"
        "from mmdet.models.necks import PAFPN\n"
        "model.merge(dict(neck=dict(num_outs=6), old=dict(_delete_=True, b=2)))\n"
        "model.backbone.update(dict(depth=101))\nother_neck = dict(type=PAFPN)\n"
    )
    assert configs.read_config(folder / "top.py") == {
        "norm": {"type": "torch.nn.BatchNorm2d"},
        "model": {
            "neck": {"type": "mmdet.models.necks.fpn.FPN", "num_outs": 6},
            "backbone": {"norm_cfg": {"type": "torch.nn.BatchNorm2d"}, "depth": 101},
            "old": {"b": 2},
        },
        "epochs": 12,
        "other_neck": {"type": "mmdet.models.necks.PAFPN"},
    }


@pytest.mark.parametrize(
    ("ending", "text"), [("yaml", "x: {y: 1}"), ("py", "x = dict(y=1)"), ("config", "model { y: 1 }")]
)
def test_a_mark_that_windows_puts_before_a_text_is_no_part_of_it(ending: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / f"mine.{ending}"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    found = read_pipeline(path) if ending == "config" else configs.read_config(path)
    assert next(iter(found.values())) == {"y": 1}
