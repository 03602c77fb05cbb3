"""Containers as home frameworks read them."""

import pickle
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
import torch

import maskgraft as mg
from maskgraft.files.containers import CONTAINERS
from maskgraft.files.crc32c import crc32c
from tests.files import tensorflow_writer

ARRAYS = {
    "conv1/conv1/kernel:0": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "conv1/conv1/bias:0": np.arange(4, dtype=np.float16),
    "steps/n": np.array(7, np.int64),
    "large/table": np.random.default_rng(0).integers(0, 255, 9000).astype(np.uint8),
    "none/at_all": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("kind", list(CONTAINERS))
def test_what_is_written_is_read_back(kind: str, tmp_path: Path) -> None:
    write, places, endings = CONTAINERS[kind]
    target = tmp_path / f"model{endings[0]}"
    write(target, ARRAYS, {})
    assert sorted(tmp_path.iterdir()) == sorted(places(target))
    read = mg.open(places(target)[0])
    assert set(read) == set(ARRAYS)
    for name, array in ARRAYS.items():
        found = read[name].read()
        assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes()), name


def test_torch_reads_weights_only(tmp_path: Path) -> None:
    arrays = {"a": np.ones(3, ml_dtypes.bfloat16), "b": np.ones((), np.int64)}
    CONTAINERS["torch state_dict"][0](tmp_path / "model.pth", arrays, {"meta": {"cfg": "x = 1", "classes": ["a"]}})
    found = torch.load(tmp_path / "model.pth", weights_only=True)
    assert found["state_dict"]["a"].dtype == torch.bfloat16
    assert found["state_dict"]["b"].shape == ()
    assert found["meta"] == {"cfg": "x = 1", "classes": ["a"]}


@pytest.mark.parametrize(
    ("kind", "key", "options"), [("pickle model", "model", {}), ("pickle blobs", "blobs", {"encoding": "latin1"})]
)
def test_python_reads_the_pickles(kind: str, key: str, options: dict[str, str], tmp_path: Path) -> None:
    about = {"text": "é", "numbers": [1, -2, 1 << 40, 0.5], "nested": {"none": None, "yes": True, "pair": (1, False)}}
    CONTAINERS[kind][0](tmp_path / "model.pkl", ARRAYS, about)
    with open(tmp_path / "model.pkl", "rb") as file:
        found = pickle.load(file, **options)  # type: ignore[arg-type]
    assert {name: found[name] for name in about} == about
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[key][name], array)
        assert found[key][name].dtype == array.dtype


def test_keras_finds_layers_and_weights_by_name(tmp_path: Path) -> None:
    CONTAINERS["keras"][0](tmp_path / "model.h5", ARRAYS, {})
    with h5py.File(tmp_path / "model.h5") as file:
        assert [name.decode() for name in file.attrs["layer_names"]] == ["conv1", "steps", "large", "none"]
        weights = [name.decode() for name in file["conv1"].attrs["weight_names"]]
        assert weights == ["conv1/kernel:0", "conv1/bias:0"]
        np.testing.assert_array_equal(file["conv1"][weights[0]], ARRAYS["conv1/conv1/kernel:0"])


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 20_000, 1 << 18, 1 << 22])
def test_checksums_of_any_length(length: int) -> None:
    data = np.random.default_rng(length).integers(0, 256, length).astype(np.uint8).tobytes()
    assert crc32c(data) == tensorflow_writer.crc32c(data)
    assert crc32c(memoryview(data)) == crc32c(data)
    assert crc32c(b"123456789") == 0xE3069283


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    for kind, (write, _, endings) in CONTAINERS.items():
        with pytest.raises((TypeError, ValueError)):  # of an array that no framework has
            write(tmp_path / f"model{endings[0]}", {"a/b": np.array([object()])}, {})
        assert not list(tmp_path.iterdir()), kind
