import time
from pathlib import Path

import pytest

from maskgraft.families.python_configs import parse_python


def test_a_config_as_mmengine_prints_it() -> None:
    text = """
model = dict(
    backbone=dict(depth=50, init_cfg=None, out_indices=(0, 1, 2, 3), style='pytorch'),
    rpn_head=dict(anchor_generator=dict(ratios=[0.5, 1.0, 2.0], scales=[8])),
    train_cfg=dict(rpn=dict(allowed_border=-1)))
test_pipeline = [
    dict(keep_ratio=True, scale=(1333, 800,), type='Resize'),
]
"""
    config = parse_python(text)
    assert config["model"]["backbone"] == {
        "depth": 50,
        "init_cfg": None,
        "out_indices": (0, 1, 2, 3),
        "style": "pytorch",
    }
    assert config["model"]["train_cfg"]["rpn"]["allowed_border"] == -1
    assert config["test_pipeline"][0]["scale"] == (1333, 800)


def test_the_file_name_in_front_is_skipped() -> None:
    config = parse_python("/home/me/configs/mask_rcnn_r50_fpn_1x.py\n# model\nnorm = dict(type='BN')\nuse = norm\n")
    assert config == {"norm": {"type": "BN"}, "use": {"type": "BN"}}


def test_sums_names_and_lists() -> None:
    config = parse_python("a = 1.0 / 9\nb = [a] + [2]\nc = a * 9 - 1\nd = {'x': -a, 3: 'y'}")
    assert config["b"] == [pytest.approx(1 / 9), 2]
    assert config["c"] == pytest.approx(0)
    assert config["d"] == {"x": pytest.approx(-1 / 9), 3: "y"}


def test_nothing_is_run_and_what_would_have_to_be_is_left_out(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    text = f"""
import os
opened = open({str(trap)!r}, 'w')
value = __import__('os').system('touch {trap}')
model = dict(type='MaskRCNN', width=os.cpu_count(), names=[str(i) for i in range(3)], depth=50)
other = dict(**model)
positional = dict([('a', 1)])
"""
    config = parse_python(text)
    assert not trap.exists()
    assert config == {"model": {"type": "MaskRCNN", "depth": 50}, "other": {"type": "MaskRCNN", "depth": 50}}


@pytest.mark.parametrize(
    "text",
    [
        "a = 9\n" + "a = a * a\n" * 200,
        "a = [1]\n" + "a = a + a\n" * 200,
        "a = " + "(" * 5000 + ")" * 5000,
        "a = " + "-" * 100_000 + "1",
        "a = " + " + ".join(["1"] * 20_000),
        "a = 1 / 0",
        "\0",
        "def f(:",
        "",
        "a" * 3_000_000,
    ],
)
def test_hostile_text_costs_little_and_gives_nothing_large(text: str) -> None:
    start = time.process_time()
    config = parse_python(text)
    assert time.process_time() - start < 5
    value = config.get("a")
    assert value is None or len(value if isinstance(value, list) else [value]) <= 10_000
    assert not isinstance(value, int) or abs(value) <= 10**15
