"""Small sound files of every format, and what chance makes of them.

    python tests/attacks/mutations.py --count 100000 --format pytorch-zip --seed 1

opens that many damaged files and prints, per format, how many opened, how many were refused, and every fault: an error
that is no `CheckpointError`, two seconds of work, memory of four times the file (with a floor of 8 MB).
"""

import argparse
import collections
import io
import json
import os
import pickle
import random
import sys
import tarfile
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import native_seeds
import numpy as np

from maskgraft.errors import CheckpointError
from maskgraft.files import open_checkpoint

SECONDS = 2.0
FLOOR = 8_000_000

# What a length, a count or an offset becomes when someone wants harm.
NUMBERS = [
    *(b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff\xff"),
    *(b"\x00" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80"),
    *(b"\x00" * 8, b"\xff" * 8, b"\xff" * 7 + b"\x7f", (10**13).to_bytes(8, "little"), b"\xff" * 9 + b"\x01"),
]


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "backbone.conv1.weight": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "backbone.bn1.weight": np.ones(4, np.float32),
        "backbone.bn1.num_batches_tracked": np.array(7),
        "head.weight": rng.standard_normal((5, 4)).astype(np.float16),
    }


def _torch_zip() -> bytes:
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in arrays().items()}
    value = {"model": tensors | {"view": tensors["head.weight"].T}, "epoch": 3, "args": argparse.Namespace(lr=0.1)}
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _torch_stream() -> bytes:
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in arrays().items()}
    buffer = io.BytesIO()
    torch.save({"state_dict": tensors, "epoch": 3}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def _torch_tar() -> bytes:
    storage = (
        b"\x80\x02K\x07U\x03cpuctorch\nFloatStorage\n\x87."
        + (6).to_bytes(8, "little")
        + np.arange(6, dtype="<f4").tobytes()
    )
    shape = b"".join(number.to_bytes(8, "little") for number in (2, 3, 3, 1, 0))
    parts = {
        "sys_info": b"\x80\x02}.",
        "pickle": b"\x80\x02ccollections\nOrderedDict\n)R"
        b"(U\x01wctorch.nn.parameter\nParameter\n)\x81(U\x018QNN\x88\x89tbu.",
        "tensors": pickle.dumps(1, 2) + b"\x80\x02K\x08K\x07ctorch\nFloatTensor\n\x87." + b"\x02" + bytes(7) + shape,
        "storages": pickle.dumps(1, 2) + storage + pickle.dumps([], 2),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        for name, data in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _torchscript() -> bytes:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = io.BytesIO()
        torch.jit.save(
            torch.jit.script(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()), buffer
        )
    return buffer.getvalue()


def _module() -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)), buffer)
    return buffer.getvalue()


def _safetensors() -> bytes:
    from safetensors.numpy import save

    return save(arrays(), {"format": "pt"})


def _npz(save: Callable[..., None]) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays(), config=np.array({"lr": 0.1}, object))
    return buffer.getvalue()


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, arrays(), allow_pickle=True)
    return buffer.getvalue()


def _onnx() -> bytes:
    def block(field: int, data: bytes) -> bytes:
        size = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
        return bytes([field << 3 | 2]) + size + data

    def tensor(name: str, array: np.ndarray) -> bytes:
        kind = {"float32": 1, "int64": 7, "float16": 10}[str(array.dtype)]
        dims = b"".join(b"\x08" + bytes([size]) for size in array.shape)
        return block(5, dims + b"\x10" + bytes([kind]) + block(8, name.encode()) + block(9, array.tobytes()))

    graph = block(2, b"net") + b"".join(tensor(name, array) for name, array in arrays().items())
    return b"\x08\x08" + block(2, b"pytorch") + block(7, graph) + block(8, b"\x0a\x00\x10\x11")


def _caffe() -> bytes:
    def block(field: int, data: bytes) -> bytes:
        tag = bytes([field << 3 | 2]) if field < 16 else bytes([(field << 3 | 2) & 127 | 128, field >> 4])
        size = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
        return tag + size + data

    blob = block(7, block(1, b"\x04\x03\x03\x03")) + block(5, arrays()["backbone.conv1.weight"].tobytes())
    return block(1, b"net") + block(100, block(1, b"conv1") + block(2, b"Convolution") + block(7, blob))


def _mxnet() -> bytes:
    import struct

    body, names = b"", b""
    for name, array in arrays().items():
        flag = {"float32": 0, "float16": 2, "int64": 6}[str(array.dtype)]
        array = array.reshape(array.shape or (1,))
        body += (
            struct.pack(f"<IiI{array.ndim}qiii", 0xF993FAC9, 0, array.ndim, *array.shape, 1, 0, flag) + array.tobytes()
        )
        names += struct.pack("<Q", len(name)) + name.encode()
    return struct.pack("<QQQ", 0x112, 0, len(arrays())) + body + struct.pack("<Q", len(arrays())) + names


def seeds() -> dict[str, Callable[[], bytes]]:
    """Format → what makes a small sound file of it."""
    zoo = {"model": arrays(), "__author__": "Caffe2", "rng": random.Random(0), "log": collections.deque([1.5, 2.5])}
    return {
        "pytorch-zip": _torch_zip,
        "pytorch-stream": _torch_stream,
        "pytorch-tar": _torch_tar,
        "torchscript": _torchscript,
        "pytorch-module": _module,
        "safetensors": _safetensors,
        "npz": lambda: _npz(np.savez),
        "npz-deflated": lambda: _npz(np.savez_compressed),
        "npy": _npy,
        "pickle-0": lambda: pickle.dumps(zoo, 0),
        "pickle-2": lambda: pickle.dumps(zoo, 2),
        "pickle-4": lambda: pickle.dumps(zoo, 4),
        "pickle-5": lambda: pickle.dumps(zoo, 5),
        "paddle": lambda: pickle.dumps(arrays() | {"StructuredToParameterName@@": {"a": "b"}}, 4),
        "onnx": _onnx,
        "caffe": _caffe,
        "mxnet": _mxnet,
        **native_seeds.seeds(arrays()),
    }


def mutant(data: bytes, rng: random.Random) -> bytes:
    """The bytes after one to four accidents: a bit, a number, a hole, a repeat, a swap, an early end."""
    out = bytearray(data)
    # Headers stand at either end, so most accidents happen there.
    reach = rng.choice([64, 512, len(out), len(out)])
    for _ in range(rng.randint(1, 4)):
        at = (
            rng.randrange(min(reach, len(out)) or 1)
            if rng.random() < 0.7
            else len(out) - 1 - rng.randrange(min(reach, len(out)) or 1)
        )
        kind = rng.randrange(7)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind == 2:
            number = rng.choice(NUMBERS)
            out[at : at + len(number)] = number
        elif kind == 3:
            del out[at : at + rng.choice([1, 2, 8, 100])]
        elif kind == 4:
            out[at:at] = out[at : at + rng.choice([1, 4, 16, 200])]
        elif kind == 5:
            other = rng.randrange(len(out))
            size = rng.choice([1, 4, 16])
            out[at : at + size] = out[other : other + size]
        else:
            del out[at:]
        if not out:
            out = bytearray(b"\x00")
    return bytes(out)


def attempt(path: Path, *, salvage: bool) -> str:
    """Opens a file and reads every array of up to 1 MB: "opened", "refused", or the fault that this is."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    begin = time.process_time()
    result = "opened"
    try:
        ckpt = open_checkpoint(path, salvage=salvage)
        json.dumps([finding.as_json() for finding in ckpt.findings])
        for array in [*ckpt.values(), *ckpt.slots.values()]:
            if array.nbytes < 1 << 20:
                try:
                    values = array.read()
                except CheckpointError:
                    continue
                if values.shape != array.shape or values.dtype != array.dtype:
                    return f"values {values.shape} {values.dtype} where {array.shape} {array.dtype} was said"
    except CheckpointError as error:
        json.dumps([finding.as_json() for finding in error.findings])
        result = "refused"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    spent = time.process_time() - begin
    peak = tracemalloc.get_traced_memory()[1] - before
    if spent > SECONDS:
        return f"{spent:.1f} s"
    if peak > max(FLOOR, 4 * path.stat().st_size):
        return f"{peak / 1e6:.1f} MB for a file of {path.stat().st_size / 1e6:.3f} MB"
    return result


def run(name: str, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Result and bytes of that many mutants of one format."""
    rng = random.Random(f"{name} {seed}")
    data = seeds()[name]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        tracemalloc.start()
        try:
            for _ in range(count):
                changed = mutant(data, rng)
                path.write_bytes(changed)
                yield attempt(path, salvage=rng.random() < 0.5), changed
        finally:
            tracemalloc.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--format", choices=list(seeds()), action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the files that show a fault")
    options = parser.parse_args()
    faults = 0
    for name in options.format or list(seeds()):
        begin = time.monotonic()
        results: collections.Counter[str] = collections.Counter()
        for number, (result, data) in enumerate(run(name, options.count, options.seed)):
            results[result] += 1
            if result not in ("opened", "refused") and options.keep:
                os.makedirs(options.keep, exist_ok=True)
                (options.keep / f"{name}-{options.seed}-{number}").write_bytes(data)
        wrong = {result: times for result, times in results.items() if result not in ("opened", "refused")}
        faults += sum(wrong.values())
        spent = time.monotonic() - begin
        told = f"{results['opened']:7} opened {results['refused']:7} refused {sum(wrong.values()):4} faults"
        print(f"{name:16} {told} {spent:6.0f} s", flush=True)
        for result, times in sorted(wrong.items(), key=lambda item: -item[1])[:10]:
            print(f"    {times} × {result[:300]}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
