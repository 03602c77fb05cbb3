"""The files in which home frameworks keep their checkpoints, written by the libraries that they write them with."""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import torch

from tests.files.tensorflow_writer import write_bundle

Arrays = Mapping[str, np.ndarray]
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"  # what TensorFlow 2 appends to the path of an attribute


def _torch(key: str | None) -> Callable[[Path, Arrays], Path]:
    def write(folder: Path, arrays: Arrays) -> Path:
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        torch.save({key: tensors} if key else tensors, folder / "model.pth")
        return folder / "model.pth"

    return write


def _pickled(key: str | None, name: str) -> Callable[[Path, Arrays], Path]:
    def write(folder: Path, arrays: Arrays) -> Path:
        (folder / name).write_bytes(pickle.dumps({key: dict(arrays)} if key else dict(arrays), protocol=2))
        return folder / name

    return write


def _keras(folder: Path, arrays: Arrays) -> Path:
    path = folder / "mask_rcnn.h5"
    with h5py.File(path, "w") as file:
        layers: dict[str, list[str]] = {}
        for name in arrays:
            layers.setdefault(name.split("/", 1)[0], []).append(name.split("/", 1)[1])
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [weight.encode() for weight in weights]
            for weight in weights:
                group[weight] = arrays[f"{layer}/{weight}"]
    return path


def _numpy(folder: Path, arrays: Arrays) -> Path:
    np.savez(folder / "model.npz", **arrays)
    return folder / "model.npz"


def _bundle(suffix: str) -> Callable[[Path, Arrays], Path]:
    def write(folder: Path, arrays: Arrays) -> Path:
        write_bundle(folder / "ckpt-1", {name + suffix: array for name, array in arrays.items()})
        return folder / "ckpt-1.index"

    return write


CONTAINERS: dict[str, Callable[[Path, Arrays], Path]] = {
    "torchvision": _torch(None),
    "detectron2": _pickled("model", "model_final.pkl"),
    "maskrcnn-benchmark": _torch("model"),
    "detectron-caffe2": _pickled("blobs", "model_final.pkl"),
    "mmdet": _torch("state_dict"),
    "matterport": _keras,
    "tensorpack": _numpy,
    "chainer-mask-rcnn": _numpy,
    "paddledetection": _pickled(None, "model.pdparams"),
    "tf1_object_detection_api": _bundle(""),
    "tf2_object_detection_api": _bundle(VALUE),
    "tf_model_garden": _bundle(VALUE),
    "efficientnet-lite0": _torch(None),
}
