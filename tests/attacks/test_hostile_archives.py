"""Archives that claim, hide or repeat what is not there."""

import io
import pickle
import struct
import time
import tracemalloc
import zipfile
import zlib

import pytest

from maskgraft.errors import CheckpointError
from maskgraft.files import open_checkpoint


def archive(*members, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as out:
        for name, data in members:
            out.writestr(name, data)
    return buffer.getvalue()


SOUND = archive(("x/data.pkl", pickle.dumps({"a": 1}, 2)), ("x/version", b"3\n"))


def deflate_bomb():
    return archive(("x/data.pkl", b"\x80\x02" + b"N0" * 15_000_000 + b"N."), method=zipfile.ZIP_DEFLATED)


def claims_ten_terabytes():
    data = bytearray(archive(("x/data.pkl", bytes(100)), method=zipfile.ZIP_DEFLATED))
    at = data.index(b"PK\x01\x02")
    extra = struct.pack("<HHQ", 1, 8, 10**13)
    data[at + 24 : at + 28] = b"\xff" * 4
    data[at + 30 : at + 32] = struct.pack("<H", len(extra))
    data[at + 46 + 10 : at + 46 + 10] = extra
    end = data.index(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<I", end - at)
    return bytes(data)


def twice_the_same_name():
    with pytest.warns(UserWarning, match="Duplicate name"):
        return archive(("x/data.pkl", b"\x80\x02}."), ("x/data.pkl", b"\x80\x02cos\nsystem\n."))


def a_directory_of_many_entries():
    data = bytearray(SOUND)
    end = data.index(b"PK\x05\x06")
    data[end + 8 : end + 12] = b"\xfe\xff\xfe\xff"
    return bytes(data)


def a_wrong_checksum():
    packed = archive(("x/data.pkl", pickle.dumps({"a": "b" * 100}, 2)), method=zipfile.ZIP_DEFLATED)
    return packed.replace(struct.pack("<I", zlib.crc32(pickle.dumps({"a": "b" * 100}, 2))), b"abcd")


@pytest.mark.parametrize(
    ("data", "codes"),
    [
        (deflate_bomb, {"file.damaged"}),
        (claims_ten_terabytes, {"file.damaged"}),
        (twice_the_same_name, {"file.damaged"}),
        (a_directory_of_many_entries, {"file.damaged"}),
        (a_wrong_checksum, {"file.damaged"}),
        (lambda: archive(("../../x/data.pkl", b"\x80\x02}.")), {"file.outside"}),
        (lambda: archive(("x\\..\\..\\data.pkl", b"\x80\x02}.")), {"file.outside"}),
        (lambda: archive(("x/data.pkl", b"")), {"file.damaged"}),
        (lambda: archive(("x/data.pkl", b"\x80\x02}.")), {"file.no-weights"}),
        (lambda: SOUND[: len(SOUND) - 30], {"file.truncated"}),
    ],
)
def test_archives_are_refused_at_once(tmp_path, data, codes):
    (tmp_path / "x.pth").write_bytes(data())
    tracemalloc.start()
    begin = time.monotonic()
    try:
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(tmp_path / "x.pth")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert {finding.code for finding in caught.value.findings} <= codes
    assert time.monotonic() - begin < 2 and peak < 8_000_000
