"""Settings that are Python: Matterport's `Config` classes and Tensorpack's `config.py`; and families that have none."""

import math
from pathlib import Path

import pytest

from maskgraft.errors import CheckpointError
from maskgraft.families import identify, matterport, tensorpack
from maskgraft.families.python_configs import Unread, parse_classes, parse_python
from maskgraft.preprocess import network_size, prepare
from maskgraft.spec import Numerics
from tests.families.drawn import drawn
from tests.families.slim import SLIM
from tests.test_preprocess import photo

BALLOON = """
import numpy as np
from mrcnn.config import Config
SIZES = (8, 16, 32, 64, 128)

class BalloonConfig(Config):
    NAME = "balloon"
    NUM_CLASSES = 1 + 3
    IMAGE_MIN_DIM = 512
    IMAGE_MAX_DIM = 768
    MEAN_PIXEL = np.array([43.53, 39.56, 48.22])
    RPN_ANCHOR_SCALES = SIZES
    RPN_ANCHOR_RATIOS = [0.25, 1, 4]
    RPN_BBOX_STD_DEV = np.array([0.1, 0.2, 0.4, 0.5])
    POST_NMS_ROIS_INFERENCE = 2 * 100
    USE_MINI_MASK = False
    STEPS_PER_EPOCH = len(SIZES)

def main():
    class InferenceConfig(BalloonConfig):
        DETECTION_MIN_CONFIDENCE = 0.4
        IMAGE_MAX_DIM = 640
"""


def read(name: str, text: str, folder: Path, *, ending: str = ".py") -> Numerics:
    path = folder / f"settings{ending}"
    path.write_text(text)
    return identify(drawn(*SLIM[name]), config=path).spec.numerics


def test_the_last_class_with_what_it_is_made_of(tmp_path: Path) -> None:
    told = read("matterport", BALLOON, tmp_path)
    assert (told.min_size, told.max_size, told.score_threshold, told.rpn_post_nms) == (512, 640, 0.4, 200)
    assert told.pixel_mean == (43.53, 39.56, 48.22)
    assert told.anchor_sizes == ((8,), (16,), (32,), (64,), (128,))
    assert told.anchor_ratios == (4, 1, 0.25)  # theirs are width / height
    assert told.rpn_delta_weights == (5, 10, 2, 2.5)  # theirs stand y first
    assert told.pad_square


def test_how_the_class_says_a_photograph_is_resized(tmp_path: Path) -> None:
    told = read("matterport", BALLOON.replace("NAME =", 'IMAGE_RESIZE_MODE = "pad64"; NAME ='), tmp_path)
    assert network_size((300, 900), told) == (512, 1536)  # in this mode nothing limits the long side
    assert prepare(photo(40, 60), told).pixels.shape[1:] == (512, 768)
    told = read("matterport", BALLOON.replace("NAME =", 'IMAGE_RESIZE_MODE = "none"; NAME ='), tmp_path)
    assert prepare(photo(64, 160), told).pixels.shape[1:] == (64, 160)
    told = read("matterport", BALLOON.replace("NAME =", "IMAGE_MIN_SCALE = 2.0; NAME ="), tmp_path)
    assert network_size((300, 310), told) == (600, 620)
    assert network_size((300, 600), told) == (320, 640)  # IMAGE_MAX_DIM
    with pytest.raises(CheckpointError, match="IMAGE_RESIZE_MODE is 'crop', not square or pad64 or none"):
        read("matterport", BALLOON.replace("NAME =", 'IMAGE_RESIZE_MODE = "crop"; NAME ='), tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1", "and has none"),
        (BALLOON + "\nclass CatConfig(Config):\n    IMAGE_MIN_DIM = 64\n", "and has 2: CatConfig, InferenceConfig"),
        (
            BALLOON.replace("SIZES\n    RPN_ANCHOR_R", "tuple(range(5))\n    RPN_ANCHOR_R"),
            r"tuple\(range\(5\)\), which is",
        ),
        (BALLOON.replace("IMAGE_MIN_DIM = 512", "RPN_ANCHOR_STRIDE = 2"), "RPN_ANCHOR_STRIDE is 2"),
        (BALLOON.replace("IMAGE_MIN_DIM = 512", "TRAIN_BN = True"), "TRAIN_BN is True"),
    ],
)
def test_classes_that_cannot_be_followed_are_refused(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=says):
        read("matterport", text, tmp_path)


def test_another_number_of_classes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    path.write_text(BALLOON.replace("1 + 3", "1 + 4"))
    findings = identify(drawn(*SLIM["matterport"]), config=path).findings
    assert [finding.code for finding in findings] == ["shape.classes"]


def test_what_a_class_says_of_training(tmp_path: Path) -> None:
    told = read("matterport", BALLOON, tmp_path)
    assert (told.mask_targets, told.loss_weights) == ("crop", (1, 1, 1, 1, 1))
    text = BALLOON.replace("USE_MINI_MASK = False", 'LOSS_WEIGHTS = {"rpn_bbox_loss": 0.5, "mrcnn_mask_loss": 2.0}')
    told = read("matterport", text, tmp_path)
    assert (told.mask_targets, told.loss_weights) == ("mini-crop", (1, 0.5, 1, 1, 2))
    path = tmp_path / "config.py"
    path.write_text(BALLOON.replace("USE_MINI_MASK = False", "MINI_MASK_SHAPE = (28, 28)"))
    assert [one.names for one in identify(drawn(*SLIM["matterport"]), config=path).findings] == [("MINI_MASK_SHAPE",)]


def test_nothing_is_no_least(tmp_path: Path) -> None:
    told = read("matterport", BALLOON.replace("IMAGE_MIN_DIM = 512", "IMAGE_MIN_DIM = None"), tmp_path)
    assert network_size((300, 310), told) == (300, 310)
    text = BALLOON.replace("DETECTION_MIN_CONFIDENCE = 0.4", "DETECTION_MIN_CONFIDENCE = None")
    assert read("matterport", text, tmp_path).score_threshold == 0


def test_classes_of_tensorpack(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    path.write_text("_C.DATA.CLASS_NAMES = ['BG', 'cat', 'dog', 'yak']\n_C.DATA.NUM_CATEGORY = 3\n")
    known = identify(drawn(*SLIM["tensorpack"]), config=path)
    assert (known.spec.classes, known.findings) == (("cat", "dog", "yak"), ())
    path.write_text("_C.DATA.NUM_CATEGORY = 7\n_C.RPN.CROWD_OVERLAP_THRESH = 0.7\n")
    findings = identify(drawn(*SLIM["tensorpack"]), config=path).findings
    assert [finding.code for finding in findings] == ["shape.classes", "numerics.training"]


def test_no_class_is_looked_for_beside_a_file() -> None:
    assert matterport.FAMILY.configs == tensorpack.FAMILY.configs == ()


TENSORPACK = """
config = AttrDict()
_C = config
_C.PREPROC.TEST_SHORT_EDGE_SIZE = 640
_C.PREPROC.MAX_SIZE = 1000
_C.PREPROC.PIXEL_MEAN = [1., 2., 3.]  # RGB
_C.BACKBONE.TF_PAD_MODE = True
_C.BACKBONE.STRIDE_1X1 = True
_C.RPN.ANCHOR_SIZES = (16, 32, 64, 128, 256)
_C.RPN.TEST_PER_LEVEL_NMS_TOPK = 300
_C.RPN.TEST_PRE_NMS_TOPK = 4000
_C.FRCNN.BBOX_REG_WEIGHTS = [20., 20., 10., 10.]
_C.TEST.RESULT_SCORE_THRESH = 0.3
_C.DATA.NAMES = some_function()
"""


def test_tensorpack(tmp_path: Path) -> None:
    told = read("tensorpack", TENSORPACK, tmp_path)
    assert (told.min_size, told.max_size, told.score_threshold) == (640, 1024, 0.3)  # a multiple of 32
    assert told.delta_clip == math.log(1024 / 16)
    assert (told.pixel_mean, told.stride_in, told.conv_padding, told.pool_padding) == (
        (3, 2, 1),
        "1x1",
        "same-after",
        "same-after",
    )
    assert (told.anchor_sizes[0], told.rpn_pre_nms, told.rpn_post_nms) == ((16,), 0, 300)
    assert told.box_delta_weights == (20, 20, 10, 10)
    assert (told.rpn_scope, told.rpn_min_size, told.mask_paste) == ("level", None, "grid-sample")
    joint = "_C.FPN.PROPOSAL_MODE = 'Joint'\n_C.RPN.MIN_SIZE = 4\n_C.MRCNN.ACCURATE_PASTE = False\n"
    told = read("tensorpack", TENSORPACK + joint, tmp_path)
    assert (told.rpn_scope, told.rpn_pre_nms, told.rpn_post_nms, told.rpn_pre_nms_train) == ("image", 4000, 1000, 12000)
    assert (told.rpn_min_size, told.mask_paste) == (4, "centre-box")
    nested = "PREPROC: {MAX_SIZE: 960}\nTEST: {RESULTS_PER_IM: 5}\n"
    told = read("tensorpack", nested, tmp_path, ending=".yaml")
    assert (told.max_size, told.max_detections) == (960, 5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("_C.FPN.CASCADE = True", "FPN.CASCADE is True"),
        ("_C.RPN.ANCHOR_STRIDE = 8", "RPN.ANCHOR_STRIDE is 8"),
        ("_C.PREPROC.MAX_SIZE = size()", r"PREPROC.MAX_SIZE is size\(\), which is no plain data"),
    ],
)
def test_tensorpack_settings_that_cannot_be_followed_are_refused(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=says):
        read("tensorpack", text, tmp_path)


def test_a_config_for_a_family_that_has_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"torchvision has no config file, and .* would not be looked at"):
        read("torchvision", "score_thresh: 0.5", tmp_path, ending=".yaml")


def test_classes_and_attributes_are_parsed_and_not_run() -> None:
    text = "class A(b.C):\n  X = array([1, 2])\n  Y = open('x')\n  def f(self):\n    self.Z = 1\n"
    assert parse_classes(text) == {"A": (("C",), {"X": [1, 2], "Y": Unread("open('x')")})}
    assert parse_python("a.b.c = 1\na.b.d = 2\na.e = f()\nx()[0].y = 3\n") == {
        "a": {"b": {"c": 1, "d": 2}, "e": Unread("f()")}
    }
    assert parse_python("a = 1\na.b = 2") == {"a": 1}
