"""The interpreter against the pickler of the standard library, and against literal bytes of Python 2."""

import argparse
import collections
import pathlib
import pickle
import random

import ml_dtypes
import numpy as np
import pytest

from maskgraft.errors import CheckpointError
from maskgraft.files import pickles
from maskgraft.files.pickled_arrays import PickledArray
from maskgraft.files.stubs import Stub, unsafe_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def loaded(data: bytes):
    return pickles.load(memoryview(data)).value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values(protocol):
    value = {
        "none": None,
        "truth": [True, False],
        "numbers": [0, 1, 255, 256, 65535, 65536, -1, 2**31 - 1, -(2**31), 2**40, -(2**70), 2**2100],
        "floats": [0.0, -1.5, 1e300, float("inf")],
        "complex": 1 + 2j,
        "text": ["", "ascii", "größe", "𝔸", "x" * 300, "line\nbreak\\ 'quoted'"],
        "bytes": [b"", b"abc", bytes(range(256)), bytearray(b"\x00\xff")],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "sets": [{1, 2}, frozenset("ab")],
        ("a", 1): 2,
        7: "seven",
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
        "defaulting": collections.defaultdict(list, a=[1]),
        "counter": collections.Counter("aab"),
        "deque": collections.deque([1, 2]),
        "numpy scalars": [np.float32(1.5), np.int64(-3), np.bool_(True)],
    }
    got = loaded(pickle.dumps(value, protocol))
    value["deque"] = [1, 2]
    assert got == value
    assert list(got["ordered"]) == ["b", "a"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_and_circular_values_stay_so(protocol):
    inner = [1]
    value = [inner, inner]
    value.append(value)
    got = loaded(pickle.dumps(value, protocol))
    assert got[0] is got[1] and got[2] is got


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.arange(12, dtype=np.float64).reshape(3, 4).T,
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.array(3.5, np.float16),
        np.zeros((0, 4), np.int64),
        np.array([True, False]),
        np.array([1 + 2j], np.complex64),
        np.arange(3).astype(ml_dtypes.bfloat16),
        np.frombuffer(bytes(range(256)) * 50, np.uint8),
        np.array(["ab", "größe"]),
        np.array([(1, 2.5)], dtype=[("a", "<i2"), ("b", ">f8")]),
    ],
    ids=str,
)
def test_arrays(protocol, array):
    got = loaded(pickle.dumps(array, protocol))
    assert isinstance(got, PickledArray)
    lazy = got.lazy()
    assert lazy.shape == array.shape and lazy.dtype == array.dtype.newbyteorder("=")
    values = lazy.read()
    assert values.dtype == lazy.dtype
    assert values.tobytes() == array.astype(array.dtype.newbyteorder("=")).tobytes()


@pytest.mark.parametrize("protocol", (3, 4, 5))
def test_values_of_arrays_are_not_copied(protocol):
    data = bytearray(pickle.dumps({"w": np.full(10_000, 7, np.float32)}, protocol))
    array = loaded(data)["w"].lazy()
    data[:] = data.replace(b"\x00\x00\xe0\x40", b"\x00\x00\x80\x3f")
    assert array.read().sum() == 10_000


def test_arrays_of_objects():
    got = loaded(pickle.dumps(np.array({"w": np.ones(2)}, object)))
    assert got.shape == ()
    assert got.read().item()["w"].read().tolist() == [1, 1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unknown_classes_become_stubs(protocol):
    namespace = argparse.Namespace(lr=0.02, steps=[1, 2])
    read = pickles.load(
        memoryview(pickle.dumps({"args": namespace, "rng": random.Random(0), "cls": argparse.Action}, protocol))
    )
    stub = read.value["args"]
    assert isinstance(stub, Stub) and stub.qualified == "argparse.Namespace"
    assert stub.get("lr") == 0.02 and stub.get("steps") == [1, 2] and stub.get("momentum", 7) == 7
    assert stub.as_dict() == {"lr": 0.02, "steps": [1, 2]}
    assert repr(stub) == "<argparse.Namespace with lr, steps>"
    assert repr(read.value["cls"]) == "<argparse.Action>"
    (finding,) = unsafe_pickle(read.names)
    assert finding.severity == "info" and "argparse.Namespace" in finding.message


class _ListOfOwn(list):
    pass


class _DictOfOwn(dict):
    pass


class _Slots:
    __slots__ = ("a", "b")


@pytest.mark.parametrize("protocol", (2, 3, 4, 5))
def test_stubs_keep_what_was_put_into_them(protocol):
    mapping = _DictOfOwn(MODEL=_DictOfOwn(WEIGHTS="x.pkl"))
    mapping.frozen = True
    slotted = _Slots()
    slotted.a, slotted.b = 1, 2
    got = loaded(pickle.dumps([_ListOfOwn([1, 2]), mapping, slotted], protocol))
    assert got[0].items == [1, 2]
    assert got[1].get("MODEL").get("WEIGHTS") == "x.pkl" and got[1].get("frozen") is True
    assert got[2].as_dict() == {"a": 1, "b": 2}


def test_metadata_of_a_state_dict_is_kept_apart():
    state_dict = collections.OrderedDict(w=1)
    state_dict._metadata = {"": {"version": 1}}
    got = loaded(pickle.dumps(state_dict))
    assert got == {"w": 1} and got.state == {"_metadata": {"": {"version": 1}}}


def test_paths_are_text():
    assert loaded(pickle.dumps(pathlib.PurePosixPath("/runs/mask/x.pth"))) == "/runs/mask/x.pth"
    assert loaded(pickle.dumps(pathlib.PurePosixPath("runs/x.pth"))) == "runs/x.pth"


def test_several_pickles_in_a_row():
    data = memoryview(pickle.dumps(1) + pickle.dumps([2]) + b"rest")
    first = pickles.load(data)
    second = pickles.load(data, at=first.end)
    assert (first.value, second.value, bytes(data[second.end :])) == (1, [2], b"rest")


def test_persistent_ids():
    for data in (b"P17\n.", b"X\x02\x00\x00\x0017Q."):
        assert pickles.load(memoryview(data), persistent=lambda identity: ["storage", identity]).value == [
            "storage",
            "17",
        ]


def test_python_2_strings():
    # cPickle.dumps({'caf\xe9': 'caf\xc3\xa9', u'w': 'x'}, 2)
    assert loaded(b"\x80\x02}q\x01(U\x04caf\xe9q\x02U\x05caf\xc3\xa9q\x03X\x01\x00\x00\x00wU\x01xu.") == {
        "café": "café",
        "w": "x",
    }
    # the same in protocol 0
    assert loaded(b"(dp1\nS'caf\\xe9'\np2\nS'caf\\xc3\\xa9'\np3\nsVw\np4\nS'x'\ns.") == {"café": "café", "w": "x"}


@pytest.mark.parametrize(
    "data",
    [
        # cPickle.dumps({'conv1_w': numpy.array([1., 2.], 'float32')}, 2), and the same in protocols 1 and 0
        b"\x80\x02}q\x01U\x07conv1_wq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05"
        b"(K\x01K\x02\x85cnumpy\ndtype\nq\x06U\x02f4K\x00K\x01\x87Rq\x07(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x08\x00\x00\x80?\x00\x00\x00@tbs.",
        b"}q\x01U\x07conv1_wq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03(cnumpy\nndarray\nq\x04(K\x00tU\x01btRq\x05"
        b"(K\x01(K\x02tcnumpy\ndtype\nq\x06(U\x02f4K\x00K\x01tRq\x07(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbI00\n"
        b"U\x08\x00\x00\x80?\x00\x00\x00@tbs.",
        b"(dp1\nS'conv1_w'\np2\ncnumpy.core.multiarray\n_reconstruct\np3\n(cnumpy\nndarray\np4\n(I0\ntS'b'\ntRp5\n"
        b"(I1\n(I2\ntcnumpy\ndtype\np6\n(S'f4'\nI0\nI1\ntRp7\n(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n"
        b"S'\\x00\\x00\\x80?\\x00\\x00\\x00@'\ntbs.",
    ],
    ids=["protocol 2", "protocol 1", "protocol 0"],
)  # fmt: skip
def test_python_2_arrays(data):
    assert loaded(data)["conv1_w"].read().tolist() == [1, 2]


def test_python_2_scalar_with_bytes_above_ascii():
    data = b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02f8K\x00K\x01\x87R"
    data += b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU\x08"
    assert loaded(data + np.float64(-0.1).tobytes() + b"\x86R.") == -0.1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_cut_is_told(protocol):
    data = pickle.dumps({"w": np.arange(4.0), "lr": 0.1, "n": argparse.Namespace(a="b")}, protocol)
    for end in range(len(data)):
        with pytest.raises(CheckpointError):
            loaded(data[:end])


def test_half_surrogates_do_not_reach_the_printer():
    for data in (b"X\x03\x00\x00\x00\xed\xa0\x80.", b"V\\ud800\n."):
        assert loaded(data) == "�"


def test_methods_that_are_only_named_are_no_danger():
    data = b"\x80\x02cbuiltins\ngetattr\ncmmengine.logging.history_buffer\nHistoryBuffer\nX\x04\x00\x00\x00mean\x86R."
    read = pickles.load(memoryview(data))
    assert repr(read.value) == "<mmengine.logging.history_buffer.HistoryBuffer.mean>"
    assert unsafe_pickle(read.names)[0].severity == "info"
