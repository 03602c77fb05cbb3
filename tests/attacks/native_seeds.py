"""Small sound files of Keras and TensorFlow, for the mutations."""

import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "files"))

from tensorflow_writer import (
    field,
    node,
    tensor_proto,
    write_bundle,
    write_v1,
)


def seeds(arrays: dict[str, np.ndarray]) -> dict[str, Callable[[], bytes]]:
    """Format → what makes a small sound file of these arrays."""
    graph = b"".join(
        node(name, "Const", tensor=tensor_proto(array)) + node(f"{name}/read", "Identity", name)
        for name, array in arrays.items()
    )
    return {
        "keras-h5": lambda: _hdf5(arrays, _keras_2),
        "keras3-h5": lambda: _hdf5(arrays, _keras_3),
        "keras3-h5-latest": lambda: _hdf5(arrays, _keras_3, libver="latest"),
        "hdf5-chunked": lambda: _hdf5(arrays, _chunked),
        "keras3-zip": lambda: _archive(arrays),
        "tf-index": lambda: _written(lambda path: write_bundle(path, arrays), "x.index"),
        "tf-index-snappy": lambda: _written(lambda path: write_bundle(path, arrays, compress=True), "x.index"),
        "tf-v1": lambda: _written(lambda path: write_v1(path, arrays), "x"),
        "tf-v1-snappy": lambda: _written(lambda path: write_v1(path, arrays, compress=True, per_block=2), "x"),
        "tf-graph": lambda: graph,
        "tf-saved-model": lambda: field(1, 1) + field(2, field(1, field(4, "serve")) + field(2, graph)),
    }


def _written(write: Callable[[Path], None], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "x")
        return (Path(folder) / name).read_bytes()


def _hdf5(arrays: dict[str, np.ndarray], fill: Callable[[h5py.File, dict[str, np.ndarray]], None], **options) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **options) as file:
        fill(file, arrays)
    return buffer.getvalue()


def _keras_2(file: h5py.File, arrays: dict[str, np.ndarray]) -> None:
    file.attrs["layer_names"] = list(arrays)
    file.attrs["model_config"] = json.dumps({"class_name": "Model", "config": {"layers": []}})
    for name, array in arrays.items():
        group = file.create_group(name)
        group.attrs["weight_names"] = [f"{name}/kernel:0".encode()]
        group[f"{name}/kernel:0"] = array


def _keras_3(file: h5py.File, arrays: dict[str, np.ndarray]) -> None:
    for number, (name, array) in enumerate(arrays.items()):
        group = file.create_group(f"layers/dense_{number}/vars", track_order=True)
        group.attrs["name"] = name
        for variable in range(10):
            group[str(variable)] = array


def _chunked(file: h5py.File, arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if array.ndim:
            options = {"compression": "gzip", "shuffle": True, "fletcher32": True}
            file.create_dataset(name, data=array, chunks=tuple(max(axis // 2, 1) for axis in array.shape), **options)


def _archive(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": "3.12.4"}))
        file.writestr("config.json", json.dumps({"class_name": "Functional"}))
        file.writestr("model.weights.h5", _hdf5(arrays, _keras_3))
    return buffer.getvalue()
