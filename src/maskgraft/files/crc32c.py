"""CRC-32C (Castagnoli), as TensorFlow and LevelDB guard their files with."""

from functools import cache

import numpy as np
import numpy.typing as npt

# Bytes of which a checksum is computed one after the other, by the least size for it; all lanes go side by side.
_LANES = ((1 << 22, 4096), (1 << 18, 512), (0, 64))

Words = npt.NDArray[np.uint32]


def _table() -> Words:
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = values >> np.uint32(1) ^ np.where(values & 1, np.uint32(0x82F63B78), np.uint32(0))
    return values


_TABLE = _table()


def masked(data: bytes | memoryview) -> int:
    """The checksum of `data`, rotated and offset as tables store it, so that a checksum of checksums stays sound."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes | memoryview) -> int:
    """The checksum of `data`.

    crc32c(b"123456789")        # 0xE3069283
    """
    values = np.frombuffer(data, np.uint8)
    lane = next(lane for least, lane in _LANES if len(values) >= least)
    lanes = len(values) // lane
    crc = 0xFFFFFFFF
    if lanes:
        each = np.zeros(lanes, np.uint32)
        for column in np.ascontiguousarray(values[: lanes * lane].reshape(lanes, lane).T):
            each = _step(each, column)
        moved = _zeros(lane)
        for one in each.tolist():
            # a checksum is linear: that of two parts is the first's, led through zeros, and the second's
            crc = moved[0][crc & 255] ^ moved[1][crc >> 8 & 255] ^ moved[2][crc >> 16 & 255] ^ moved[3][crc >> 24] ^ one
    table = _TABLE.tolist()
    for byte in values[lanes * lane :].tolist():
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return int(crc ^ 0xFFFFFFFF)


def _step(crc: Words, byte: npt.NDArray[np.uint8]) -> Words:
    moved: Words = crc >> np.uint32(8) ^ _TABLE[(crc ^ byte) & np.uint32(255)]
    return moved


@cache
def _zeros(lane: int) -> tuple[tuple[int, ...], ...]:
    """What becomes of each value of each byte of a checksum that goes through so many zeros."""
    states = np.concatenate([np.arange(256, dtype=np.uint32) << np.uint32(8 * place) for place in range(4)])
    for _ in range(lane):
        states = _step(states, np.zeros(1, np.uint8))
    return tuple(tuple(part) for part in states.reshape(4, 256).tolist())
