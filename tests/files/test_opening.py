"""What cannot be opened is named for what it is; names of files do not matter."""

import gzip
import json
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from maskgraft.errors import CheckpointError
from maskgraft.files import open_checkpoint
from maskgraft.files.mapping import beside

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 255944160\n" % (b"a" * 64)


def told(path, data=None, **options):
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, **options)
    finding = caught.value.findings[0]
    assert path.name in finding.message
    return finding


def test_the_name_of_a_file_does_not_matter(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "weights.h5")
    assert open_checkpoint(tmp_path / "weights.h5").format == "pytorch-zip"
    np.save(tmp_path / "array.npy", np.ones((2, 2)))
    (tmp_path / "array.npy").rename(tmp_path / "x.onnx")
    assert open_checkpoint(str(tmp_path / "x.onnx")).format == "numpy-npy"


@pytest.mark.parametrize("name", ("mask_rcnn_coco.h5", "model.pth", "frozen.pb"))
def test_a_git_lfs_pointer(tmp_path, name):
    finding = told(tmp_path / name, POINTER)
    assert finding.code == "file.lfs-pointer"
    assert finding.evidence["expected"] == 255_944_160 and "255,944,160" in finding.message
    assert f"git lfs pull --include '{name}'" in finding.fix


def test_an_lfs_pointer_that_lies(tmp_path):
    assert told(tmp_path / "x", POINTER.replace(b"255944160", b"many")).code == "file.lfs-pointer"


def test_a_placeholder(tmp_path):
    finding = told(tmp_path / "frozen.pb", b"Needed to download from: \n")
    assert finding.code == "file.placeholder" and "Needed to download from" in finding.message


def test_a_web_page(tmp_path):
    page = b"\n<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"
    finding = told(tmp_path / "model_final.pkl", page + b" " * 5000)
    assert finding.code == "file.placeholder" and finding.evidence["is"] == "html"
    assert "Quota exceeded" in finding.message


def test_an_empty_file(tmp_path):
    finding = told(tmp_path / "x.pth", b"")
    assert finding.code == "file.truncated" and finding.evidence["bytes"] == 0


def test_a_download_that_reserved_its_space_and_stopped(tmp_path):
    finding = told(tmp_path / "x.pth", bytes(100_000))
    assert finding.code == "file.truncated" and "zeros" in finding.message


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"\x1c\x00\x00\x00TFL3" + bytes(64), "TensorFlow Lite"),
        (json.dumps({"format": "layers-model", "modelTopology": {}, "weightsManifest": []}).encode(), "TensorFlow.js"),
        (b"\x08\x04\x12\x00\xa2\x1f\x02\x0a\x00", "Core ML"),
        (b'<?xml version="1.0"?>\n<net name="x" version="11"><layers><layer id="0"/></layers></net>', "OpenVINO"),
        (b'<?xml version="1.0"?>\n<net name="x" version="11">', "OpenVINO"),
        (bytes(16) + b"\x06\0\0\0\x08\x05\x10\x02\x10\x01" + bytes(8), "Paddle inference export"),
        (gzip.compress(b"x" * 100), "gzip"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG"),
        (b"\xff\xd8\xff\xe0" + bytes(50), "JPEG"),
        (b"CUDNN_BENCHMARK: false\nDATALOADER: {}\nMODEL: {}\n" * 200, "Detectron2 configuration"),
        (b"model {\n  faster_rcnn {\n    num_classes: 90\n  }\n}\n", "Object Detection API configuration"),
        (b"item {\n  name: 'cat'\n  id: 1\n}\n", "label map"),
        (b"model = dict(\n    type='MaskRCNN')\n", "MMDetection configuration"),
        (b'[{"image_id": 1, "category_id": 7, "score": 0.5}]', "COCO results"),
        ("größe: ä\n".encode() * 1000, "text"),
        (b"\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00" + bytes(50), "Darknet"),
        (b"\xde\xad\xbe\xef" * 50, "no known format"),
    ],
)
def test_other_formats_are_named(tmp_path, data, word):
    finding = told(tmp_path / "model.bin", data)
    assert finding.code == "file.unknown-format"
    assert word in finding.message


def test_openvino_weights_are_known_by_the_description_beside_them(tmp_path):
    (tmp_path / "net.xml").write_text("<net/>")
    assert "OpenVINO" in told(tmp_path / "net.bin", b"\xff\xad" * 50).message


def test_archives_say_what_is_in_them(tmp_path):
    with zipfile.ZipFile(tmp_path / "run.zip", "w") as archive:
        archive.writestr("run/model_final.pth", b"x")
        archive.writestr("run/log.txt", b"x")
    finding = told(tmp_path / "run.zip")
    assert (
        finding.code == "file.unknown-format" and "run/model_final.pth" in finding.message and "unpack" in finding.fix
    )
    (tmp_path / "model.ckpt").write_bytes(b"x")
    with tarfile.open(tmp_path / "run.tar", "w") as archive:
        archive.add(tmp_path / "model.ckpt", "model.ckpt")
    assert "tar archive" in told(tmp_path / "run.tar").message


def test_a_missing_file_is_answered_with_its_neighbours(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "model_final.pth")
    (tmp_path / "notes.txt").write_text("x")
    finding = told(tmp_path / "model_fianl.pth")
    assert finding.code == "file.missing"
    assert finding.evidence["near"] == ["model_final.pth"] and "model_final.pth" in finding.fix
    assert told(tmp_path / "nowhere" / "x.pth").code == "file.missing"


def test_a_folder_is_answered_with_what_is_in_it(tmp_path):
    (tmp_path / "run").mkdir()
    finding = told(tmp_path / "run")
    assert finding.code == "file.no-weights"
    torch.save({"w": torch.ones(1)}, tmp_path / "run" / "model_0004999.pth")
    finding = told(tmp_path / "run")
    assert "model_0004999.pth" in finding.message and "model_0004999.pth" in finding.fix


def test_a_folder_of_folders_is_answered_with_those_that_hold_checkpoints(tmp_path):
    for name in ("logs", "training"):
        (tmp_path / "project" / name).mkdir(parents=True)
    torch.save({"w": torch.ones(1)}, tmp_path / "project" / "training" / "model.pth")
    finding = told(tmp_path / "project")
    assert finding.code == "file.no-weights" and finding.evidence["near"] == ["training"]
    assert finding.fix == f"open {str(tmp_path / 'project' / 'training')!r}"


def test_a_folder_of_distributed_shards_is_named(tmp_path):
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    (tmp_path / ".metadata").write_bytes(b"x")
    for path in (tmp_path, tmp_path / "__0_0.distcp"):
        finding = told(path)
        assert finding.code == "file.unknown-format" and "dcp_to_torch" in finding.fix


def test_the_last_checkpoint_of_a_run_is_named(tmp_path):
    for name in ("model_0004999.pth", "model_final.pth"):
        torch.save({"w": torch.ones(1)}, tmp_path / name)
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    assert "model_final.pth" in told(tmp_path).fix
    finding = told(tmp_path / "last_checkpoint")
    assert finding.code == "file.placeholder" and finding.fix == "open model_final.pth"


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x.pth").write_bytes(b"x")
    monkeypatch.setattr("maskgraft.files.opening.mapped", refuse)
    assert "Permission denied" in told(tmp_path / "x.pth").message


def test_dangerous_names_in_a_readable_file_are_a_warning(tmp_path):
    body = b"\x80\x02}(X\x01\x00\x00\x00xcos\nsystem\n(X\x04\x00\x00\x00echotR"
    body += b"X\x01\x00\x00\x00ycnumpy.core.multiarray\n_reconstruct\n"
    body += b"cnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01K\x02\x85cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R\x89C\x08"
    body += bytes(8) + b"tbu."
    (tmp_path / "x.pkl").write_bytes(body)
    ckpt = open_checkpoint(tmp_path / "x.pkl")
    assert list(ckpt) == ["y"]
    (finding,) = ckpt.findings
    assert finding.code == "file.unsafe-pickle" and finding.severity == "warning" and "os.system" in finding.message


@pytest.mark.parametrize(
    "name", ("../x.bin", "a/../../x.bin", "/etc/passwd", "", "C:\\x.bin", "~/x.bin", "..\\x.bin", "a\0b")
)
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(CheckpointError) as caught:
        beside(tmp_path / "model.onnx", name)
    assert caught.value.findings[0].code == "file.outside"


def test_links_out_of_the_folder_are_refused(tmp_path):
    (tmp_path / "secret.bin").write_bytes(b"x")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "data.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(CheckpointError) as caught:
        beside(tmp_path / "model" / "model.onnx", "data.bin")
    assert caught.value.findings[0].code == "file.outside"


def test_a_cache_that_links_every_file_the_same_way_is_read(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for name in ("model.onnx", "data.bin"):
        (tmp_path / "blobs" / name).write_bytes(b"x")
        (tmp_path / "snapshot" / name).symlink_to(tmp_path / "blobs" / name)
    assert beside(tmp_path / "snapshot" / "model.onnx", "data.bin").read_bytes() == b"x"
    assert beside(tmp_path / "snapshot" / "model.onnx", "sub/data.bin") == tmp_path / "snapshot" / "sub" / "data.bin"
