"""The files in which home frameworks keep their weights, written so that they read them back."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from maskgraft.files.pickle_writing import write_pickle
from maskgraft.files.tensors import Array
from maskgraft.files.tf_writing import bundle_places, write_bundle
from maskgraft.files.writing import atomic

Arrays = Mapping[str, Array]
About = Mapping[str, Any]


def _torch(key: str, *, stream: bool = False) -> Callable[[Path, Arrays, About], None]:
    """A `.pth` that `torch.load(path, weights_only=True)` reads; under `key` where it is not "".

    A `stream` is what PyTorch wrote before 1.6, whose versions read nothing newer; later ones read both.
    """

    def write(path: Path, arrays: Arrays, about: About) -> None:
        import torch  # the file side does without it, but for this one format

        def tensor(array: Array) -> torch.Tensor:
            own = np.array(array, order="C", copy=True)
            if own.dtype == ml_dtypes.bfloat16:
                return torch.from_numpy(own.view(np.int16)).view(torch.bfloat16)
            return torch.from_numpy(own)

        tensors = {name: tensor(array) for name, array in arrays.items()}
        content = {key: tensors, **about} if key else tensors
        with atomic(path) as temporary, open(temporary, "wb") as file:
            torch.save(content, file, _use_new_zipfile_serialization=not stream)

    return write


def _pickled(key: str, *, python2: bool = False) -> Callable[[Path, Arrays, About], None]:
    """A pickle of arrays, under `key` where it is not ""."""

    def write(path: Path, arrays: Arrays, about: About) -> None:
        with atomic(path) as temporary, open(temporary, "wb") as file:
            write_pickle(file, {key: dict(arrays), **about} if key else {**arrays, **about}, python2=python2)

    return write


def _keras(path: Path, arrays: Arrays, about: About) -> None:
    """The layout of Keras 1 and 2, which `load_weights(path, by_name=True)` reads: a group a layer, its weights in it.

    A name is layer, slash, name of the weight; the weights of a layer stand in the order in which they are given.
    """
    layers: dict[str, list[str]] = {}
    for name in arrays:
        layer, _, weight = name.partition("/")
        layers.setdefault(layer, []).append(weight)
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        # of fixed length, which h5py gives back as bytes: Keras 2 decodes them
        file.attrs["layer_names"] = np.array([layer.encode() for layer in layers])
        file.attrs["backend"] = np.bytes_(b"tensorflow")
        file.attrs["keras_version"] = np.bytes_(b"2.0.8")
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([weight.encode() for weight in weights])
            for weight in weights:
                group[weight] = arrays[f"{layer}/{weight}"]


def _npz(path: Path, arrays: Arrays, about: About) -> None:
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _bundle(*, objects: bool) -> Callable[[Path, Arrays, About], None]:
    def write(path: Path, arrays: Arrays, about: About) -> None:
        if objects:  # tf.train.Checkpoint has a variable that counts, and asks for it
            arrays = {"save_counter": np.array(1, np.int64), **arrays}
        write_bundle(path.with_name(path.name.removesuffix(".index")), arrays, objects=objects)

    return write


def _alone(path: Path) -> tuple[Path, ...]:
    return (path,)


# Name → (how it is written, which files that makes, how their names may end; "" is any other ending).
CONTAINERS: Mapping[
    str, tuple[Callable[[Path, Arrays, About], None], Callable[[Path], tuple[Path, ...]], tuple[str, ...]]
] = {
    "torch": (_torch(""), _alone, (".pth", ".pt", ".pkl", ".bin", ".ckpt")),
    "torch model": (_torch("model"), _alone, (".pth", ".pt")),
    "torch model stream": (_torch("model", stream=True), _alone, (".pth", ".pt")),
    "torch state_dict": (_torch("state_dict"), _alone, (".pth", ".pt")),
    "pickle model": (_pickled("model"), _alone, (".pkl",)),
    "pickle blobs": (_pickled("blobs", python2=True), _alone, (".pkl",)),
    "paddle": (_pickled(""), _alone, (".pdparams",)),
    "keras": (_keras, _alone, (".h5", ".hdf5", ".keras.h5")),
    "npz": (_npz, _alone, (".npz",)),
    "bundle": (_bundle(objects=False), bundle_places, (".ckpt", ".index", "")),
    "bundle of objects": (_bundle(objects=True), bundle_places, (".ckpt", ".index", "")),
}
