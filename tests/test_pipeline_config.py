"""Protocol buffer text: what a pipeline.config may hold, and what is told of one that is broken."""

import math
import os
from pathlib import Path
from typing import Any

import pytest

from maskgraft.errors import CheckpointError
from maskgraft.families.pipeline_config import STRAYS, read_label_map, read_pipeline
from maskgraft.families.protobuf_text import NotText, entries, read_text

SHARED = Path(os.environ.get("MASKGRAFT_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", 1),
        ("a: -1", -1),
        ("a: - 2", -2),
        ("a: 0x1F", 31),
        ("a: 017", 15),
        ("a: 0", 0),
        ("a: 1.5", 1.5),
        ("a: .5", 0.5),
        ("a: 5.", 5.0),
        ("a: 3e-05", 3e-05),
        ("a: 1E+3", 1000.0),
        ("a: 10f", 10.0),
        ("a: -inf", -math.inf),
        ("a: true", True),
        ("a: False", False),
        ("a: SOFTMAX", "SOFTMAX"),
        ("a: RELU_6", "RELU_6"),
        ('a: "x y"', "x y"),
        ("a: 'x'", "x"),
        ('a: "one " \'two\'\n  "three"', "one twothree"),
        (r'a: "tab\t quote\" octal\101 hex\x41 bytes\303\251"', 'tab\t quote" octalA hexA bytesé'),
        ('a: "# no comment"', "# no comment"),
        ("a: [1, 2, 3]", [1, 2, 3]),
        ("a: []", []),
        ("a { b: 1 c { d: 2 } }", {"b": 1, "c": {"d": 2}}),
        ("a: { b: 1; c: 2, }", {"b": 1, "c": 2}),
        ("a < b: 1 >", {"b": 1}),
        ("a [{ b: 1 }, < b: 2 >]", [{"b": 1}, {"b": 2}]),
        ("a {}", {}),
    ],
)
def test_values(text: str, value: Any) -> None:
    found = read_text(text)["a"]
    assert found == value
    assert type(found) is type(value)


def test_repeated_fields_keep_the_files_order() -> None:
    message = read_text("s: 0.25 r { x: 1 } s: 0.5 # half\n s: [1, 2] r { x: 2 } once: 7")
    assert entries(message, "s") == [0.25, 0.5, 1, 2]
    assert entries(message, "r") == [{"x": 1}, {"x": 2}]
    assert entries(message, "once") == [7]
    assert entries(message, "absent") == []


def test_extensions_are_named_in_brackets() -> None:
    assert read_text("[object_detection.protos.ext] { a: 1 } [type.googleapis.com/x.Y] { b: 2 }") == {
        "[object_detection.protos.ext]": {"a": 1},
        "[type.googleapis.com/x.Y]": {"b": 2},
    }


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a {\n b: 1\n", 2, "ends before '}'"),
        ("a: 1\nb 2", 2, "'b' is followed by '2'"),
        ('a: "x" s\n}', 1, "'s' is followed by '}'"),
        ('a: "no end\n', 1, "a string does not end"),
        ("a: 1\n}\n", 2, "'}'"),
        ("a:\n1x", 2, "'1x' is no number"),
        ("a: -b", 1, "'b' is no number"),
        ("a: -", 1, "without a number"),
        ("a: [1, 2", 1, "ends before ']'"),
        ("[a.b", 1, "does not end"),
        ("a:", 1, "ends before a value"),
        ("a: }", 1, "'}' stands where a value should"),
        ("1: 2", 1, "'1' stands where a field's name should"),
        ("a: 1 \x00", 1, "cannot stand here"),
        ("a {" * 200 + "}" * 200, 1, "nested more than 100"),
    ],
)
def test_what_is_no_text_is_told_with_its_line(text: str, line: int, said: str) -> None:
    with pytest.raises(NotText) as raised:
        read_text(text)
    assert f"line {line}:" in str(raised.value)
    assert said in str(raised.value)


PIPELINE = """
model { faster_rcnn { num_classes: 2 } }
train_input_reader { label_map_path: "/elsewhere/things.pbtxt" }
"""


def test_a_pipeline_brings_the_label_map_that_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.config"
    path.write_text(PIPELINE)
    assert "label_map" not in read_pipeline(path)
    (tmp_path / "things.pbtxt").write_text(
        "item { name: '/m/1' id: 2 display_name: 'fork' } item { id: 1 name: 'cup' }"
    )
    assert read_pipeline(path)["label_map"] == {2: "fork", 1: "cup"}


def test_a_word_glued_to_a_string_is_passed_over_and_told(tmp_path: Path) -> None:
    """As in the published pipeline.config of mask_rcnn_inception_resnet_v2_1024x1024_coco17_gpu-8."""
    path = tmp_path / "pipeline.config"
    path.write_text(PIPELINE.replace('.pbtxt"', '.pbtxt"s'))
    config = read_pipeline(path)
    assert config["train_input_reader"] == {"label_map_path": "/elsewhere/things.pbtxt"}
    assert config[STRAYS] == ["line 3: 's'"]
    path.write_text(PIPELINE)
    assert STRAYS not in read_pipeline(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a: 1", "has no `model`"),
        (b"", "has no `model`"),
        (b"model {", "line 1"),
        (b"\x80\x04\x95", "is no text"),
        (b"model: 1" + b" " * (5 << 20), "more than a config ever is"),
    ],
)
def test_other_files_are_refused_as_pipelines(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "pipeline.config"
    path.write_bytes(text)
    with pytest.raises(CheckpointError, match=said) as raised:
        read_pipeline(path)
    assert raised.value.findings[0].code == "config.path"


@pytest.mark.parametrize("text", ["", "item { id: 1 }", "item { name: 'x' }", "item { id: -1 name: 'x' }", "item: 3"])
def test_other_files_are_refused_as_label_maps(tmp_path: Path, text: str) -> None:
    path = tmp_path / "map.pbtxt"
    path.write_text(text)
    with pytest.raises(CheckpointError, match="no label map"):
        read_label_map(path)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there (MASKGRAFT_SHARED)")
def test_published_configs_parse_whole() -> None:
    published = sorted((SHARED / "checkpoints" / "tf_pipeline_configs").glob("*.config"))
    assert published
    for path in published:
        config = read_pipeline(path)
        assert {"model", "train_config", "train_input_reader", "eval_config"} <= set(config), path
        (model,) = config["model"].values()
        assert model["num_classes"] == 90
