"""PyTorch's tensors and storages as they stand in a pickle, without PyTorch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from maskgraft.files.faults import damaged, unsupported
from maskgraft.files.pickled_arrays import checked_shape
from maskgraft.files.stubs import Stub
from maskgraft.files.tensors import Array, LazyArray

_SMALL = 1 << 20

STORAGES: Mapping[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "ByteStorage": np.dtype(np.uint8),
    "CharStorage": np.dtype(np.int8),
    "ShortStorage": np.dtype(np.int16),
    "IntStorage": np.dtype(np.int32),
    "LongStorage": np.dtype(np.int64),
    "BoolStorage": np.dtype(np.bool_),
    "ComplexFloatStorage": np.dtype(np.complex64),
    "ComplexDoubleStorage": np.dtype(np.complex128),
    "UntypedStorage": np.dtype(np.uint8),
    "_UntypedStorage": np.dtype(np.uint8),
    "QUInt8Storage": np.dtype(np.uint8),
    "QInt8Storage": np.dtype(np.int8),
    "QInt32Storage": np.dtype(np.int32),
    "QUInt4x2Storage": np.dtype(np.uint8),
    "QUInt2x4Storage": np.dtype(np.uint8),
}

DTYPES: Mapping[str, np.dtype[Any]] = {
    **{
        name: np.dtype(name)
        for name in (
            "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "float16", "float32", "float64",
            "complex64", "complex128", "bool",
        )
    },
    **{
        name: np.dtype(getattr(ml_dtypes, name))
        for name in (
            "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
        )
    },
    "half": np.dtype(np.float16),
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "short": np.dtype(np.int16),
    "int": np.dtype(np.int32),
    "long": np.dtype(np.int64),
    "cfloat": np.dtype(np.complex64),
    "cdouble": np.dtype(np.complex128),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TorchStorage:
    """The memory that tensors share: its declared size, and how to get at its bytes.

    `fetch` gives a view of exactly `nbytes` bytes or raises `CheckpointError`; `whole` says beforehand whether it can.
    """

    name: str
    dtype: np.dtype[Any]
    nbytes: int
    fetch: Callable[[], memoryview]
    whole: Callable[[], bool]
    location: str = "cpu"


@dataclass(frozen=True, slots=True)
class TorchTensor:
    """A tensor that is still in the file. `refusal` says why its values cannot be had, "" if they can."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    storage: TorchStorage | None = None
    offset: int = 0
    stride: tuple[int, ...] = ()
    refusal: str = ""

    def build(self, _state: Any) -> None:
        """Python attributes of a tensor are no part of its values."""

    @property
    def whole(self) -> bool:
        """Whether all the bytes are in the file."""
        return self.storage is not None and self.storage.whole()

    def lazy(self) -> LazyArray:
        """The array with the machine's byte order."""
        return LazyArray(self.shape, self.dtype.newbyteorder("="), self.read)

    def read(self) -> Array:
        """The values as a view of the file where the byte order allows it."""
        if self.storage is None:
            raise unsupported(f"a tensor {self.shape} is {self.refusal}")
        if prod(self.shape) == 0:
            return np.empty(self.shape, self.dtype.newbyteorder("="))
        raw = self.storage.fetch()
        start = self.offset * self.dtype.itemsize
        if self.stride == contiguous(self.shape):
            array = np.frombuffer(raw, self.dtype, prod(self.shape), start).reshape(self.shape)
        else:
            strides = [step * self.dtype.itemsize for step in self.stride]
            array = np.ndarray(self.shape, self.dtype, raw, start, strides)
            array.flags.writeable = False
        return array if self.dtype.isnative else array.astype(self.dtype.newbyteorder("="))


@dataclass(slots=True, eq=False)
class TorchParameter:
    """A parameter as PyTorch of 2017 wrote it: an empty object first, the tensor in its state."""

    data: TorchTensor | None = None

    def build(self, state: Any) -> None:
        """Takes (tensor, gradient, creator, requires grad, volatile) or (requires grad, …)."""
        if isinstance(state, tuple) and state and isinstance(state[0], TorchTensor):
            self.data = state[0]

    @property
    def whole(self) -> bool:
        """Whether all the bytes are in the file."""
        return self.data is not None and self.data.whole

    @property
    def refusal(self) -> str:
        """Why the values cannot be had, "" if they can."""
        return self.data.refusal if self.data is not None else "a parameter without a tensor"

    def lazy(self) -> LazyArray:
        """The array of the tensor inside."""
        if self.data is None:
            raise damaged("a parameter in the pickle has no tensor")
        return self.data.lazy()


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of a row-major array."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def dtype_named(value: Any) -> np.dtype[Any]:
    """The NumPy dtype of a reference to `torch.float32` and the like."""
    if isinstance(value, Stub) and value.module == "torch" and value.name in DTYPES:
        return DTYPES[value.name]
    name = value.qualified if isinstance(value, Stub) else type(value).__name__
    raise unsupported(f"a tensor is of {name}, which NumPy has no dtype for")


def strided(storage: Any, offset: Any, size: Any, stride: Any, *, dtype: np.dtype[Any] | None = None) -> TorchTensor:
    """A tensor over a storage, after checking that every element lies inside it.

    Raises `CheckpointError` where one does not, or where overlapping elements make a tensor far larger than what the
    file holds.
    """
    if not isinstance(storage, TorchStorage):
        raise damaged("a tensor in the pickle stands on something that is no storage")
    shape = checked_shape(size)
    if not isinstance(stride, tuple | list) or len(stride) != len(shape) or not isinstance(offset, int) or offset < 0:
        raise damaged(f"a tensor {shape} in the pickle has no place in its storage")
    if not all(isinstance(step, int) and 0 <= step < 1 << 62 for step in stride):
        raise damaged(f"a tensor {shape} in the pickle has strides that are no counts")
    kind = (dtype or storage.dtype).newbyteorder(storage.dtype.byteorder)
    last = offset + sum((count - 1) * step for count, step in zip(shape, stride, strict=True))
    count = prod(shape)
    if count and (last + 1) * kind.itemsize > storage.nbytes:
        raise damaged(
            f"a tensor {shape} needs {(last + 1) * kind.itemsize:,} bytes of storage {storage.name!r}, "
            f"which has {storage.nbytes:,}",
            claimed=(last + 1) * kind.itemsize,
            storage=storage.nbytes,
        )
    if count * kind.itemsize > max(_SMALL, 4 * storage.nbytes):
        raise damaged(f"a tensor {shape} repeats the {storage.nbytes:,} bytes of its storage over and over")
    return TorchTensor(shape, kind, storage, offset, tuple(stride))


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_grad_and_hooks: Any) -> TorchTensor:
    return strided(storage, offset, size, stride)


def _typed_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, *rest: Any
) -> TorchTensor:
    return strided(storage, offset, size, stride, dtype=dtype_named(rest[0]))


def _refused(kind: str, shape: Any = ()) -> TorchTensor:
    sizes = checked_shape(shape) if isinstance(shape, tuple | list) else ()
    return TorchTensor(sizes, np.dtype(np.float32), refusal=kind)


def _sparse(_layout: Any, data: Any = (), *_rest: Any) -> TorchTensor:
    return _refused("sparse", data[2] if isinstance(data, tuple) and len(data) > 2 else ())


def _compressed_sparse(_layout: Any, data: Any = (), *_rest: Any) -> TorchTensor:
    return _refused("sparse", data[3] if isinstance(data, tuple) and len(data) > 3 else ())


def _quantised(_storage: Any, _offset: Any, size: Any, *_rest: Any) -> TorchTensor:
    return _refused("quantised", size)


def _meta(_dtype: Any, size: Any, *_rest: Any) -> TorchTensor:
    return _refused("on the meta device, which keeps no values", size)


def _nested(*_buffer_sizes_strides: Any) -> TorchTensor:
    return _refused("nested (rows of unequal length)")


def _wrapper(_cls: Any, _dtype: Any, size: Any, *_rest: Any) -> TorchTensor:
    return _refused("a wrapper of other tensors", size)


def _first(data: Any, *_rest: Any) -> Any:
    return data


def _only_named(*_args: Any) -> Any:
    raise TypeError("it is only to be named")


def _parameter(*args: Any) -> Any:
    return args[0] if args and isinstance(args[0], TorchTensor) else TorchParameter()


def _of_type(function: Any, _cls: Any, args: Any, _state: Any = None) -> Any:
    model = TORCH.get((function.module, function.name)) if isinstance(function, Stub) else None
    if model is None or not isinstance(args, tuple):
        return _refused("of a class that is not PyTorch's own")
    return model(*args)


def _size(sizes: Any = ()) -> tuple[int, ...]:
    return checked_shape(sizes)


def _device(kind: Any, index: Any = None) -> str:
    return str(kind) if index is None else f"{kind}:{index}"


TORCH: Mapping[tuple[str, str], Callable[..., object]] = {
    **{
        ("torch._utils", name): model
        for name, model in (
            ("_rebuild_tensor", _tensor),
            ("_rebuild_tensor_v2", _tensor),
            ("_rebuild_tensor_v3", _typed_tensor),
            ("_rebuild_parameter", _first),
            ("_rebuild_parameter_with_state", _first),
            ("_rebuild_qtensor", _quantised),
            ("_rebuild_sparse_tensor", _sparse),
            ("_rebuild_sparse_csr_tensor", _compressed_sparse),
            ("_rebuild_meta_tensor_no_storage", _meta),
            ("_rebuild_nested_tensor", _nested),
            ("_rebuild_wrapper_subclass", _wrapper),
            ("_rebuild_device_tensor_from_numpy", _first),
            ("_rebuild_device_tensor_from_cpu_tensor", _first),
        )
    },
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    ("torch.tensor", "_rebuild_from_type_v2"): _of_type,
    ("torch._tensor", "_rebuild_from_type"): _of_type,
    ("torch.nn.parameter", "Parameter"): _parameter,
    ("torch.nn.parameter", "Buffer"): _parameter,
    ("torch.autograd.variable", "Variable"): _parameter,
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("torch.serialization", "_get_layout"): _first,
    **{(module, name): _only_named for module in ("torch", "torch.cuda", "torch.storage") for name in STORAGES},
    **{("torch", name): _only_named for name in DTYPES},
    **{
        ("torch.jit._pickle", name): _first
        for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")
    },
}
