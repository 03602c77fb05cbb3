"""One checkpoint of several files, whichever of them is named."""

import os
from pathlib import Path

import numpy as np
import pytest
from tensorflow_writer import field, node, write_bundle, write_v1

from maskgraft.errors import CheckpointError
from maskgraft.files import open_checkpoint

SHARED = Path(os.environ.get("MASKGRAFT_SHARED", Path(__file__).parents[3] / "shared"))
real_files = pytest.mark.skipif(not SHARED.exists(), reason=f"no folder {SHARED} (MASKGRAFT_SHARED) with real files")

META = field(1, field(2, field(1, b"ops"))) + field(2, node("a", "Placeholder"))
STATE = 'model_checkpoint_path: "{}"\nall_model_checkpoint_paths: "model.ckpt-0"\n'


def trained(folder: Path) -> Path:
    """A training folder as TensorFlow 1 leaves it: two checkpoints, and a file that names the last."""
    folder.mkdir(exist_ok=True)
    for step in (0, 1295):
        write_bundle(folder / f"model.ckpt-{step}", {"w": np.full(3, step, "f4")}, shards=1)
        (folder / f"model.ckpt-{step}.meta").write_bytes(META)
    (folder / "checkpoint").write_text(STATE.format("model.ckpt-1295"))
    return folder


FORMS = (
    "",
    "checkpoint",
    "model.ckpt-1295",
    "model.ckpt-1295.index",
    "model.ckpt-1295.meta",
    "model.ckpt-1295.data-00000-of-00001",
)


@pytest.mark.parametrize("form", FORMS)
def test_any_file_of_a_checkpoint_means_it(tmp_path, form):
    found = open_checkpoint(trained(tmp_path / "training") / form)
    assert found["w"].read().tolist() == [1295, 1295, 1295]
    told = [finding for finding in found.findings if finding.code == "config.path"]
    if form == "model.ckpt-1295":
        assert not told
    else:
        assert told[0].severity == "info" and "model.ckpt-1295" in told[0].message


@pytest.mark.parametrize(
    "written", ["/home/someone/training/model.ckpt-0", "C:\\\\runs\\\\model.ckpt-0", "../model.ckpt-0"]
)
def test_only_the_last_part_of_a_named_path_counts(tmp_path, written):
    (trained(tmp_path / "training") / "checkpoint").write_text(STATE.format(written))
    write_bundle(tmp_path / "model.ckpt-0", {"w": np.full(3, 666, "f4")})
    assert open_checkpoint(tmp_path / "training")["w"].read()[0] == 0


def test_a_named_checkpoint_that_is_not_there(tmp_path):
    folder = trained(tmp_path / "training")
    (folder / "checkpoint").write_text(STATE.format("model.ckpt-9999"))
    with pytest.raises(CheckpointError, match=r"model\.ckpt-9999.*there are model\.ckpt-0, model\.ckpt-1295") as error:
        open_checkpoint(folder)
    assert error.value.findings[0].code == "file.missing-shard"


def test_a_folder_with_several_checkpoints_asks(tmp_path):
    folder = trained(tmp_path / "training")
    (folder / "checkpoint").unlink()
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(folder)
    (finding,) = error.value.findings
    assert finding.code == "file.several-models" and finding.names == ("model.ckpt-0", "model.ckpt-1295")


def test_a_folder_with_one_checkpoint_and_nothing_that_names_it(tmp_path):
    write_bundle(tmp_path / "variables", {"w": np.ones(3, "f4")})
    assert list(open_checkpoint(tmp_path)) == ["w"]


def test_a_downloaded_model_keeps_its_checkpoint_in_a_folder_of_that_name(tmp_path):
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "pipeline.config").write_text("model {}")
    write_bundle((trained(tmp_path / "checkpoint")) / "ckpt-0", {"w": np.full(1, 7, "f4")})
    (tmp_path / "checkpoint/checkpoint").write_text(STATE.format("ckpt-0"))
    assert open_checkpoint(tmp_path)["w"].read().tolist() == [7]


def test_saved_models_by_folder_and_by_file(tmp_path):
    (tmp_path / "variables").mkdir()
    write_bundle(tmp_path / "variables/variables", {"w": np.ones(3, "f4")})
    (tmp_path / "saved_model.pb").write_bytes(field(1, 1) + field(2, field(1, field(4, "serve"))))
    for path in (tmp_path, tmp_path / "saved_model.pb"):
        found = open_checkpoint(path)
        assert found.format == "tf-saved-model" and list(found) == ["w"]
    assert open_checkpoint(tmp_path / "variables").format == "tf-bundle"


def test_the_first_format_by_its_file_its_graph_and_its_folder(tmp_path):
    write_v1(tmp_path / "model.ckpt", {"w": np.arange(3, dtype="f4")})
    (tmp_path / "model.ckpt.meta").write_bytes(META)
    (tmp_path / "checkpoint").write_text(STATE.format("model.ckpt"))
    for path in (tmp_path / "model.ckpt", tmp_path / "model.ckpt.meta", tmp_path):
        found = open_checkpoint(path)
        assert found.format == "tf-v1" and found["w"].read().tolist() == [0, 1, 2]


def test_a_frozen_graph_by_its_bytes(tmp_path):
    tensor = field(1, 1) + field(2, field(2, field(1, 2))) + field(4, np.arange(2, dtype="f4").tobytes())
    (tmp_path / "x.bin").write_bytes(node("a", "Const", tensor=tensor) + node("a/read", "Identity", "a"))
    assert open_checkpoint(tmp_path / "x.bin").format == "tf-graph"


@pytest.mark.parametrize("kept", ["model.ckpt-0.data-00000-of-00001", "model.ckpt-0.meta"])
def test_files_without_their_index(tmp_path, kept):
    folder = trained(tmp_path / "training")
    (folder / "model.ckpt-0.index").unlink()
    with pytest.raises(CheckpointError, match=r"model\.ckpt-0\.index, which is not beside it") as error:
        open_checkpoint(folder / kept)
    assert error.value.findings[0].code == "file.missing-shard"


@pytest.mark.parametrize("form", ["model.ckpt-0", "model.ckpt-0.index", "model.ckpt-0.meta"])
def test_an_index_that_is_cut_or_a_pointer(tmp_path, form):
    folder = trained(tmp_path / "training")
    index = folder / "model.ckpt-0.index"
    index.write_bytes(index.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="without the footer") as error:
        open_checkpoint(folder / form)
    assert error.value.findings[0].code == "file.truncated"
    index.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 25960\n")
    with pytest.raises(CheckpointError, match="25,960") as error:
        open_checkpoint(folder / form)
    assert error.value.findings[0].code == "file.lfs-pointer"


@pytest.mark.parametrize("name", [".index", ".meta", "a.index", "a.data-00000-of-00001", "checkpoint"])
def test_names_alone_make_no_checkpoint(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x93NUMPY nothing of the kind")
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / name)


def test_a_key_has_no_meaning_here(tmp_path):
    with pytest.raises(CheckpointError, match="leave key away"):
        open_checkpoint(trained(tmp_path / "training"), key="ema")


REAL = {
    "tf1_mask_rcnn_inception_v2/training": ("tf-bundle", 360),
    "tf1_mask_rcnn_inception_v2/training/model.ckpt-0": ("tf-bundle", 360),
    "tf2_zoo_index/inference_graph": ("tf-bundle", 914),
    "tf2_zoo_index/faster_rcnn_resnet50_v1_640x640_coco17_tpu-8/saved_model": ("tf-bundle", 275),
    "odd/ultralight_face": ("tf-bundle", 209),
    "odd/keras3_weights_h5/model.weights.h5": ("keras3-h5", 6),
    "keras_squeezenet_imagenet/squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5": ("keras-h5", 50),
}


@real_files
@pytest.mark.parametrize("path", REAL)
def test_published_checkpoints(path):
    found = open_checkpoint(SHARED / "checkpoints" / path)
    assert (found.format, len(found)) == REAL[path]
