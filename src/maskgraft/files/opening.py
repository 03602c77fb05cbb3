"""`open_checkpoint`: which reader takes a file, decided by its first bytes."""

import os
from collections.abc import Callable
from pathlib import Path

from maskgraft.errors import CheckpointError, Finding
from maskgraft.files import (
    caffe,
    hdf5_source,
    keras,
    mxnet,
    numpy_files,
    onnx,
    safetensors,
    sharded,
    tf_graph,
    tf_paths,
    torch_legacy,
    torch_zip,
    unreadable,
    wrappers,
)
from maskgraft.files.contents import Contents
from maskgraft.files.faults import named
from maskgraft.files.mapping import mapped
from maskgraft.files.tensors import Tensors

Sniff = Callable[[memoryview, Path], bool]
Read = Callable[[memoryview, Path, str | None, bool], Tensors]


def open_checkpoint(path: str | os.PathLike[str], *, key: str | None = None, salvage: bool = False) -> Tensors:
    """The tensors in a checkpoint of whatever kind, by what its bytes are and not by its name; nothing in it is run.

        ckpt = open_checkpoint("mask_rcnn_R_50_FPN_3x.pkl")
        ckpt["backbone.bottom_up.stem.conv1.weight"].read()
        open_checkpoint("run.ckpt", key="model_ema")               # a file with several models
        open_checkpoint("half.h5", salvage=True)                   # what is whole of a download that broke off

    Only headers are read; values come when `read()` is called on them, as views of the file where they can be.
    `key` is the path of entries under which the wanted weights stand.

    Raises `CheckpointError` with everything that stands in the way; each finding says what the file is.
    """
    place = Path(path)
    try:
        for claims, take in BY_PATH:
            if claims(place):
                return take(place, key, salvage)
        if place.is_dir():
            raise CheckpointError(unreadable.folder_without_weights(place))
        if not place.is_file():
            raise CheckpointError(unreadable.absent(place))
        if place.suffix == ".distcp" and (place.parent / ".metadata").is_file():
            raise CheckpointError(unreadable.split_by_process(place, place.parent))
        data = mapped(place)
        for sniff, read in BY_CONTENT:
            if sniff(data, place):
                return read(data, place, key, salvage)
        raise CheckpointError(unreadable.told(place, data))
    except CheckpointError as error:
        raise named(error, place.name or str(place)) from None
    except OSError as error:
        message = f"{place} cannot be read: {error.strerror or error}"
        raise CheckpointError(Finding("file.missing", "error", message)) from None


def _wrapped(read: Callable[[memoryview], Contents]) -> Read:
    def opened(data: memoryview, path: Path, key: str | None, salvage: bool) -> Tensors:
        return wrappers.tensors(read(data), path, key=key, salvage=salvage)

    return opened


def _sharded(data: memoryview, path: Path, key: str | None, salvage: bool) -> Tensors:
    if key:
        raise safetensors.no_key(path, key)
    return sharded.read(data, path, salvage=salvage, open_shard=lambda shard: open_checkpoint(shard, salvage=salvage))


def _onnx(data: memoryview, path: Path, key: str | None, salvage: bool) -> Tensors:
    return wrappers.tensors(onnx.read(data, path), path, key=key, salvage=salvage)


def _is_folder_of_safetensors(path: Path) -> bool:
    return path.is_dir() and _safetensors_in(path) is not None


def _safetensors_in(folder: Path) -> Path | None:
    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json", "model.safetensors"):
        if (folder / name).is_file():
            return folder / name
    return None


def _folder_of_safetensors(path: Path, key: str | None, salvage: bool) -> Tensors:
    return open_checkpoint(_safetensors_in(path) or path, key=key, salvage=salvage)


def _tensorflow(path: Path, key: str | None, salvage: bool) -> Tensors:
    place = tf_paths.tensorflow_place(path)
    assert place is not None
    return _keyless(path, key, tf_paths.tensorflow_tensors(place, salvage=salvage))


def _hdf5(data: memoryview, path: Path, key: str | None, salvage: bool) -> Tensors:
    return _keyless(path, key, keras.hdf5_tensors(data, path, salvage=salvage))


def _keras(data: memoryview, path: Path, key: str | None, salvage: bool) -> Tensors:
    return _keyless(path, key, keras.archive_tensors(data, path, salvage=salvage))


def _graph(data: memoryview, path: Path, key: str | None, salvage: bool) -> Tensors:
    return _keyless(path, key, tf_graph.graph_tensors(data, path, salvage=salvage))


def _keyless(path: Path, key: str | None, found: Tensors) -> Tensors:
    if key:
        raise safetensors.no_key(path, key)
    return found


# Checkpoints that are known by their place: folders, and names that stand for several files.
BY_PATH: tuple[tuple[Callable[[Path], bool], Callable[[Path, str | None, bool], Tensors]], ...] = (
    (_is_folder_of_safetensors, _folder_of_safetensors),
    (lambda path: tf_paths.tensorflow_place(path) is not None, _tensorflow),
)

# Files that are known by their bytes; the first that recognises a file reads it.
BY_CONTENT: tuple[tuple[Sniff, Read], ...] = (
    (lambda data, _: torch_zip.is_torch_zip(data), _wrapped(torch_zip.read)),
    (lambda data, _: torch_legacy.is_stream(data), _wrapped(torch_legacy.read_stream)),
    (lambda data, _: torch_legacy.is_tar(data), _wrapped(torch_legacy.read_tar)),
    (safetensors.is_safetensors, safetensors.read),
    (lambda data, _: hdf5_source.signature_at(data) is not None, _hdf5),
    (lambda data, _: keras.is_archive(data), _keras),
    (lambda data, _: tf_graph.is_graph(data), _graph),
    (lambda data, _: sharded.is_index(data), _sharded),
    (lambda data, _: numpy_files.is_npy(data), _wrapped(numpy_files.read_npy)),
    (lambda data, _: numpy_files.is_npz(data), _wrapped(numpy_files.read_npz)),
    (lambda data, _: onnx.is_onnx(data), _onnx),
    (lambda data, _: mxnet.is_mxnet(data), _wrapped(mxnet.read)),
    (lambda data, _: caffe.is_caffe(data), _wrapped(caffe.read)),
    (lambda data, _: numpy_files.is_pickle(data), _wrapped(numpy_files.read_pickle)),
)
