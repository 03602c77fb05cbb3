"""Opening files by their headers, and reading every value of them."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import safetensors.numpy
import torch

import maskgraft as mg
from benchmarks import timing
from benchmarks.timing import Row

# A process that only looks at the file: what `maskgraft inspect` does before it prints.
INSPECT = """
import sys, time
begin = time.perf_counter()
from maskgraft.inspection import describe
found = describe(sys.argv[1]).as_json()
print(time.perf_counter() - begin, memory(), "torch" in sys.modules)
"""

# A process that reads and keeps every value: its memory beyond that of a process that only opened the file.
KEEP = """
import sys
import numpy as np
import maskgraft as mg
found = mg.open(sys.argv[1])
begin = memory()
kept = {name: array.read() for name, array in found.items()}
total = sum(float(one.ravel()[:: 1024].sum()) for one in kept.values())
print((memory() - begin) * 2**20 / sum(one.nbytes for one in kept.values()))
"""

WRITE_BUNDLE = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow as tf
with np.load(sys.argv[1]) as arrays:
    names = list(arrays)
    tf.raw_ops.SaveV2(prefix=sys.argv[2], tensor_names=names, shape_and_slices=[""] * len(names),
                      tensors=[tf.constant(arrays[name]) for name in names])
"""

READ_BUNDLE = """
import os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
best = []
for _ in range(int(sys.argv[2])):
    begin = time.perf_counter()
    reader = tf.train.load_checkpoint(sys.argv[1])
    kept = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    best.append(time.perf_counter() - begin)
print(sorted(best)[len(best) // 2], sum(float(one.sum(dtype="f8")) for one in kept.values()))
"""


def arrays(megabytes: int) -> dict[str, np.ndarray]:
    """Tensors of 8 MB, named like a network's."""
    random = np.random.default_rng(0)
    block = random.standard_normal(1 << 21, dtype=np.float32)
    return {f"backbone.layer{index}.weight": np.roll(block, index) for index in range(megabytes // 8)}


def copied(path: Path) -> dict[str, np.ndarray]:
    return {name: np.array(array.read()) for name, array in mg.open(path).items()}


def write(folder: Path, megabytes: int, tensorflow: str | None) -> dict[str, Path]:
    values = arrays(megabytes)
    paths = {
        "safetensors": folder / "model.safetensors",
        "PyTorch zip": folder / "model.pth",
        "PyTorch stream": folder / "legacy.pth",
        "NumPy .npz": folder / "model.npz",
        "HDF5": folder / "model.h5",
    }
    safetensors.numpy.save_file(values, paths["safetensors"])
    state = {name: torch.from_numpy(value) for name, value in values.items()}
    torch.save(state, paths["PyTorch zip"])
    torch.save(state, paths["PyTorch stream"], _use_new_zipfile_serialization=False)
    np.savez(paths["NumPy .npz"], **values)
    with h5py.File(paths["HDF5"], "w") as file:
        for name, value in values.items():
            file[name.replace(".", "/")] = value
    if tensorflow:
        timing.child(WRITE_BUNDLE, str(paths["NumPy .npz"]), str(folder / "model.ckpt"), python=tensorflow)
        paths["TensorFlow bundle"] = folder / "model.ckpt.index"
    return paths


def same(path: Path, wanted: dict[str, np.ndarray]) -> str:
    got = {name.replace("/", "."): array for name, array in mg.open(path).items()}
    equal = len(got) == len(wanted) and all(np.array_equal(got[name].read(), value) for name, value in wanted.items())
    return "every value equal" if equal else "VALUES DIFFER"


def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    rounds = 3 if quick else 7
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        opened = _opening(folder, 64 if quick else 1024, tensorflow)
        rows, kept = _reading(folder, 64 if quick else 256, tensorflow, rounds)
    timing.report("reading", rows, quick=quick, out=out, more={"opening": opened, "memory of all values kept": kept})


def _opening(folder: Path, megabytes: int, tensorflow: str | None) -> dict[str, dict[str, Any]]:
    opened = {}
    for name, path in write(folder, megabytes, tensorflow).items():
        spent, (inside, memory, torch_imported) = timing.child(INSPECT, str(path))
        assert torch_imported == "False"
        opened[name] = {
            "file_mb": megabytes,
            "process_s": round(spent, 3),
            "inspect_s": round(float(inside), 3),
            "peak_mb": round(float(memory)),
        }
        print(f"inspect {megabytes} MB, {name}: {json.dumps(opened[name])}", flush=True)
    return opened


def _reading(folder: Path, megabytes: int, tensorflow: str | None, rounds: int) -> tuple[list[Row], dict[str, float]]:
    wanted, paths, rows = arrays(megabytes), write(folder, megabytes, tensorflow), []
    plain = paths["safetensors"]

    def theirs() -> dict[str, np.ndarray]:
        return safetensors.numpy.load_file(plain)

    def mapped(path: Path) -> Callable[[], dict[str, torch.Tensor]]:
        return lambda: {name: one.clone() for name, one in torch.load(path, mmap=True).items()}

    for name, path in paths.items():
        if name == "TensorFlow bundle":
            continue
        spent = timing.alternate(rounds, {"ours": lambda path=path: copied(path), "theirs": theirs})
        rows.append(
            Row(
                f"read {megabytes} MB, {name}",
                spent["ours"],
                spent["theirs"],
                "safetensors",
                "≥ 0.9×",
                same(path, wanted),
            )
        )
    path = paths["PyTorch zip"]
    spent = timing.alternate(rounds, {"ours": lambda: copied(path), "theirs": mapped(path)})
    rows.append(
        Row(
            f"read {megabytes} MB, PyTorch zip",
            spent["ours"],
            spent["theirs"],
            "torch.load(mmap=True)",
            "≥ 1×",
            same(path, wanted),
        )
    )
    rows.append(_bundle(paths.get("TensorFlow bundle"), wanted, megabytes, tensorflow, rounds))
    kept = {}
    for name, path in paths.items():
        _, (share,) = timing.child(KEEP, str(path))
        kept[name] = round(float(share), 3)  # times the size of the values; the bar is 1.2
    return rows, kept


def _bundle(
    path: Path | None, wanted: dict[str, np.ndarray], megabytes: int, tensorflow: str | None, rounds: int
) -> Row:
    work, peer = f"read {megabytes} MB, TensorFlow bundle", "tf.train.load_checkpoint"
    if path is None or tensorflow is None:
        return Row(work, None, None, peer, "≥ 1×", "not measured: give --tensorflow PYTHON")
    _, said = timing.child(READ_BUNDLE, str(path.with_suffix("")), str(rounds), python=tensorflow)
    theirs, total = (float(one) for one in said)
    ours = timing.alternate(rounds, {"ours": lambda: copied(path)})["ours"]
    agrees = np.isclose(total, sum(float(one.sum(dtype="f8")) for one in wanted.values()))
    return Row(work, ours, theirs, peer, "≥ 1×", same(path, wanted) if agrees else "VALUES DIFFER")
