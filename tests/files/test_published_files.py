"""Files that people published, if at hand: in `shared` beside the repository, or where MASKGRAFT_SHARED says."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from maskgraft.errors import CheckpointError
from maskgraft.files import open_checkpoint

SHARED = Path(os.environ.get("MASKGRAFT_SHARED", Path(__file__).parents[3] / "shared")) / "checkpoints"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"there are no published files at {SHARED}")
ODD = SHARED / "odd"


def fault(path, **options):
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, **options)
    return caught.value.findings[0]


@pytest.mark.parametrize(
    ("name", "key", "count"),
    [
        ("odd/fastestdet/shufflenetv2.pth", "", 330),
        ("odd/fastestdet/weight_AP05:0.253207_280-epoch.pth", "", 420),
        ("odd/ultralight_face/version-RFB-320.pth", "", 244),
        ("odd/lightning_aegnn/last.ckpt", "state_dict", 72),
        ("resnet_cifar10/resnet20-12fca82f.th", "state_dict", 97),
    ],
)
def test_every_tensor_equals_torchs(name, key, count):
    ckpt = open_checkpoint(SHARED / name)
    assert ckpt.key == key and len(ckpt) == count
    if "lightning" in name:
        return  # torch refuses its callbacks, or runs them
    state = torch.load(SHARED / name, map_location="cpu", weights_only=True)
    state = state[key] if key else state
    for label, tensor in state.items():
        assert ckpt[label].read().tobytes() == tensor.numpy().tobytes()


def test_lightning_names_its_callbacks_and_runs_none():
    ckpt = open_checkpoint(ODD / "lightning_aegnn" / "last.ckpt")
    (finding,) = [finding for finding in ckpt.findings if finding.code == "file.unsafe-pickle"]
    assert finding.severity == "info"
    assert "pytorch_lightning.callbacks.early_stopping.EarlyStopping" in finding.evidence["names"]
    assert ckpt.about["epoch"] == 46 and len(ckpt.slots) == 74
    assert all(np.isfinite(array.read()).all() for array in ckpt.values())


def test_the_prefix_of_data_parallel_is_told():
    ckpt = open_checkpoint(SHARED / "resnet_cifar10" / "resnet20-12fca82f.th")
    assert [finding.evidence["prefix"] for finding in ckpt.findings] == ["module."]
    assert ckpt.about["best_prec1"] == pytest.approx(91.78)


def test_onnx_equals_the_pth_bit_for_bit():
    exported = open_checkpoint(ODD / "ultralight_face" / "version-RFB-320.onnx")
    trained = open_checkpoint(ODD / "ultralight_face" / "version-RFB-320.pth")
    assert len(exported) == 244 and set(exported) == set(trained)
    for name in exported:
        assert exported[name].dtype == trained[name].dtype
        assert exported[name].read().tobytes() == trained[name].read().tobytes()


def test_null_state_dicts():
    finding = fault(ODD / "null_state_dict" / "epoch_12.pth")
    assert finding.code == "file.no-weights" and finding.evidence["empty"][0] == "model_state_dict"


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("lfs_pointer/frozen_inference_graph.pb", 190_248_696),
        ("lfs_pointer/mask_rcnn_coco.h5", 255_944_160),
        ("lfs_pointer/mmcls_latest.pth", 89_536_785),
        ("lfs_pointer/mmdet_latest.pth", 514_965_434),
        ("detectron2_run/model_final.pth", 351_577_252),
    ],
)
def test_lfs_pointers(name, size):
    finding = fault(ODD / name)
    assert finding.code == "file.lfs-pointer" and finding.evidence["expected"] == size


def test_the_placeholder():
    finding = fault(ODD / "placeholder" / "frozen_inference_graph.pb")
    assert finding.code == "file.placeholder" and "Needed to download from" in finding.message


def test_the_run_folder_names_its_last_checkpoint():
    assert "model_final.pth" in fault(ODD / "detectron2_run").fix
    assert "Detectron2 configuration" in fault(ODD / "detectron2_run" / "config.yml").message


def test_the_cut_resnet_of_2017():
    path = ODD / "truncated" / "torchvision_resnet18-5c106cde.1048576.pth"
    finding = fault(path)
    assert finding.code == "file.truncated"
    assert finding.evidence["bytes"] == 1_048_576 and finding.evidence["expected"] == 46_827_520
    assert len(finding.names) == 16 and finding.evidence["tensors"] == 102
    ckpt = open_checkpoint(path, salvage=True)
    assert set(ckpt) == set(finding.names)
    conv1 = next(iter(ckpt.values())).read()
    assert all(np.isfinite(array.read()).all() for array in ckpt.values()) and conv1.std() > 0


def test_carved_arrays():
    ckpt = open_checkpoint(SHARED / "matterport_coco_prefix" / "recovered_coco_tensors.npz")
    assert len(ckpt) == 114 and sum(array.size for array in ckpt.values()) == 961_536
