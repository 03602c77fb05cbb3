"""TensorFlow's file formats, written: just enough of them for tests, with none of its code."""

import struct
from pathlib import Path

import ml_dtypes
import numpy as np

CODES = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "int64": 9, "bool": 10,
    "bfloat16": 14, "float16": 19,
}  # fmt: skip


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes | str) -> bytes:
    """One protobuf field: a varint, or a length and bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def shape_proto(shape) -> bytes:
    return b"".join(field(2, field(1, axis)) for axis in shape)


def _divided(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_REMAINDERS = tuple(_divided(byte) for byte in range(256))


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _REMAINDERS[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def snapped(data: bytes) -> bytes:
    """Snappy that only ever repeats the 4 bytes before, and else writes literals of up to 60 bytes."""
    out, at = bytearray(varint(len(data))), 0
    while at < len(data):
        if at >= 4 and data[at : at + 4] == data[at - 4 : at]:
            out += bytes([2 | (4 - 1) << 2]) + struct.pack("<H", 4)
            at += 4
            continue
        piece = data[at : at + 4]
        out += bytes([(len(piece) - 1) << 2]) + piece
        at += len(piece)
    return bytes(out)


def block(pairs: list[tuple[bytes, bytes]], compress: bool) -> bytes:
    """A table block with one restart point, its type and its checksum."""
    out, before = b"", b""
    for key, value in pairs:
        shared = 0
        while shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    out += struct.pack("<II", 0, 1)
    body = (snapped(out) if compress else out) + bytes([compress])
    return body + masked(body)


def table(entries: dict[bytes, bytes], *, compress: bool = False, per_block: int = 1000) -> bytes:
    """A sorted string table."""
    pairs = sorted(entries.items())
    out, index = b"", []
    for start in range(0, len(pairs), per_block):
        piece = pairs[start : start + per_block]
        body = block(piece, compress)
        index.append((piece[-1][0], varint(len(out)) + varint(len(body) - 5)))
        out += body
    meta = block([], False)
    meta_handle = varint(len(out)) + varint(len(meta) - 5)
    out += meta
    body = block(index, False)
    handle = varint(len(out)) + varint(len(body) - 5)
    footer = (meta_handle + handle).ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")
    return out + body + footer


def entry(array: np.ndarray, shard: int, offset: int) -> bytes:
    """A `BundleEntryProto`."""
    return (
        field(1, CODES[str(array.dtype)])
        + field(2, shape_proto(array.shape))
        + field(3, shard)
        + field(4, offset)
        + field(5, array.nbytes)
        + varint(6 << 3 | 5)
        + masked(array.tobytes())
    )


def write_bundle(prefix: Path, arrays, *, texts=None, shards: int = 1, partitioned=None, **table_options) -> None:
    """A checkpoint of the second format; arrays go round the data files, texts into the first.

    `partitioned`: name → (array, [(key, slice proto, part of the array)]).
    """
    data = [b""] * shards
    entries = {b"": field(1, shards) + field(3, field(1, 1))}
    for number, (name, array) in enumerate(arrays.items()):
        shard = number % shards
        entries[name.encode()] = entry(array, shard, len(data[shard]))
        data[shard] += array.tobytes()
    for name, text in (texts or {}).items():
        sizes = varint(len(text))
        stored = sizes + masked(struct.pack("<I", len(text))) + text
        entries[name.encode()] = field(1, 7) + field(2, b"") + field(4, len(data[0])) + field(5, len(stored))
        data[0] += stored
    for name, (array, parts) in (partitioned or {}).items():
        slices = b"".join(field(7, part) for _, part, _ in parts)
        entries[name.encode()] = field(1, CODES[str(array.dtype)]) + field(2, shape_proto(array.shape)) + slices
        for number, (key, _, values) in enumerate(parts):
            shard = number % shards
            entries[key] = entry(values, shard, len(data[shard]))
            data[shard] += values.tobytes()
    prefix.with_name(prefix.name + ".index").write_bytes(table(entries, **table_options))
    for number, stored in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{number:05d}-of-{shards:05d}").write_bytes(stored)


def object_graph(nodes) -> bytes:
    """A `TrackableObjectGraph`: for each object its children {name: number} and its variable (full name, key)."""
    out = b""
    for children, variable in nodes:
        body = b"".join(field(1, field(1, child) + field(2, name)) for name, child in children.items())
        if variable:
            body += field(2, field(1, "VARIABLE_VALUE") + field(2, variable[0]) + field(3, variable[1]))
        out += field(1, body)
    return out


def slice_proto(*extents) -> bytes:
    """A `TensorSliceProto`; an extent is (start, length), or `None` for a whole axis."""
    return b"".join(
        field(1, b"" if extent is None else field(1, extent[0]) + field(2, extent[1])) for extent in extents
    )


def typed_values(array: np.ndarray) -> bytes:
    """The values of a `TensorProto` in the field of their type."""
    if array.dtype == np.float32:
        return field(5, array.astype("<f4").tobytes())
    if array.dtype == np.float64:
        return field(6, array.astype("<f8").tobytes())
    if array.dtype in (np.float16, ml_dtypes.bfloat16):
        return field(13, b"".join(varint(int(bits)) for bits in array.reshape(-1).view("<u2")))
    number = {"int64": 10, "bool": 11}.get(str(array.dtype), 7)
    return field(number, b"".join(varint(int(value)) for value in array.reshape(-1)))


def write_v1(path: Path, arrays, *, sliced=None, **table_options) -> None:
    """A checkpoint of the first format; `sliced`: name → [(key, slice proto, part of the array)]."""
    metas, entries = [], {}
    for name, array in arrays.items():
        parts = (sliced or {}).get(name) or [(whole_key(name, array.ndim), slice_proto(*[None] * array.ndim), array)]
        metas.append(
            field(1, name)
            + field(2, shape_proto(array.shape))
            + field(3, CODES[str(array.dtype)])
            + b"".join(field(4, part) for _, part, _ in parts)
        )
        for key, part, values in parts:
            entries[key] = field(2, field(1, name) + field(2, part) + field(3, typed_values(values)))
    entries[b""] = field(1, b"".join(field(1, meta) for meta in metas))
    path.write_bytes(table(entries, **table_options))


def part_key(name: str, *extents: tuple[int, int]) -> bytes:
    """The key of a slice, for starts and lengths below 64."""
    numbers = b"".join(bytes([0x80 | start, 0x80 | length]) for start, length in extents)
    return b"\0" + name.encode() + b"\0\1" + bytes([1, len(extents)]) + numbers


def whole_key(name: str, rank: int) -> bytes:
    """The key of a slice that is the whole tensor: on every axis, start 0 and length -1."""
    return b"\0" + name.encode() + b"\0\1" + (bytes([1, rank]) if rank else b"\0") + b"\x80\x7f" * rank


def node(name: str, operation: str, *inputs: str, tensor: bytes | None = None) -> bytes:
    """A `NodeDef` as a field of a graph."""
    body = field(1, name) + field(2, operation) + b"".join(field(3, source) for source in inputs)
    if tensor is not None:
        body += field(5, field(1, "value") + field(2, field(8, tensor)))
    return field(1, body)


def tensor_proto(array: np.ndarray, *, content: bool = True) -> bytes:
    values = field(4, array.tobytes()) if content else typed_values(array)
    return field(1, CODES[str(array.dtype)]) + field(2, shape_proto(array.shape)) + values
