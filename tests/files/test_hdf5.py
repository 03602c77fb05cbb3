"""The HDF5 structure as read here, against what the HDF5 library wrote."""

import io

import h5py
import numpy as np
import pytest

from maskgraft.errors import CheckpointError
from maskgraft.files.hdf5 import walk

RNG = np.random.default_rng(3)


def written(fill, **options) -> memoryview:
    """The bytes of an HDF5 file that `fill` made."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **options) as file:
        fill(file)
    return memoryview(buffer.getvalue())


def codes(error) -> set[str]:
    return {finding.code for finding in error.value.findings}


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "v112", "latest"])
@pytest.mark.parametrize("children", [1, 5, 9, 300])
def test_groups_of_every_size_and_age(libver, children):
    def fill(file):
        for number in range(children):
            file[f"layer_{number}/kernel:0"] = np.full((2, 3), number, "<f4")
            file[f"layer_{number}"].attrs["name"] = f"Größe {number}"

    tree = walk(written(fill, libver=libver))
    assert not tree.faults and not tree.notes and not tree.cut
    assert {path for path in tree.nodes if path.endswith("0") and "kernel" in path} == {
        f"layer_{number}/kernel:0" for number in range(children)
    }
    for number in range(children):
        np.testing.assert_array_equal(tree.nodes[f"layer_{number}/kernel:0"].array.read(), np.full((2, 3), number))
        assert tree.nodes[f"layer_{number}"].attributes == {"name": f"Größe {number}"}


def test_a_dense_group_deep_enough_for_inner_nodes():
    def fill(file):
        for number in range(6000):
            file.create_group(f"a rather long name of a group, number {number}")

    tree = walk(written(fill, libver="latest"))
    assert not tree.faults
    assert len(tree.nodes) == 6001


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_creation_order_is_the_order_where_it_is_kept(libver):
    names = [f"layer_{number}" for number in reversed(range(20))]

    def fill(file):
        group = file.create_group("layers", track_order=True)
        for name in names:
            group.create_group(name)

    tree = walk(written(fill, libver=libver))
    assert [path for path in tree.nodes if path.count("/") == 1] == [f"layers/{name}" for name in names]


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("count", [3, 40])
def test_attributes_of_all_kinds(libver, count):
    values = {
        "text": "Größe",
        "bytes": np.bytes_("abc"),
        "number": 7,
        "real": 2.5,
        "truth": True,
        "texts": ["a", "bé", ""],
        "fixed": np.array([b"kernel:0", b"b"]),
        "array": np.arange(6, dtype=">i2").reshape(2, 3),
        "none": np.array([], "S1"),
        "long": "x" * 20_000,
    }

    def fill(file):
        for number in range(count):
            file.attrs[f"filler {number}"] = number
        for name, value in values.items():
            file.attrs[name] = value

    found = walk(written(fill, libver=libver)).nodes[""].attributes
    assert found["text"] == "Größe" and found["bytes"] == "abc" and found["number"] == 7 and found["real"] == 2.5
    assert found["truth"] == 1 and found["texts"] == ["a", "bé", ""] and found["fixed"] == ["kernel:0", "b"]
    np.testing.assert_array_equal(found["array"], values["array"])
    assert list(found["none"]) == [] and found["long"] == values["long"]
    assert all(found[f"filler {number}"] == number for number in range(count))


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", "i1", "<i2", ">i8", "u1", "<u4", "?"])
def test_number_types(dtype, libver):
    array = RNG.integers(0, 2 if dtype == "?" else 100, (3, 4)).astype(dtype)
    tree = walk(written(lambda file: file.create_dataset("a", data=array), libver=libver))
    found = tree.nodes["a"].array
    assert found.shape == (3, 4) and found.dtype.isnative
    np.testing.assert_array_equal(found.read(), array)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (4, 3)},
        {"chunks": (4, 3), "compression": "gzip"},
        {"chunks": (4, 3), "compression": "gzip", "shuffle": True, "fletcher32": True},
        {"chunks": (10, 7), "shuffle": True},
        {"chunks": (3, 7), "maxshape": (None, 7)},
        {"chunks": (3, 2), "maxshape": (None, None), "compression": "gzip"},
    ],
)
def test_chunked_values(options, libver, tmp_path):
    array = RNG.standard_normal((10, 7)).astype("<f4")
    data = written(lambda file: file.create_dataset("group/a", data=array, **options), libver=libver)
    np.testing.assert_array_equal(walk(data).nodes["group/a"].array.read(), array)
    path = tmp_path / "a.h5"
    path.write_bytes(data)
    np.testing.assert_array_equal(walk(data, file=path).nodes["group/a"].array.read(), array)


def test_contiguous_values_are_views_into_the_file():
    data = written(lambda file: file.create_dataset("a", data=np.arange(5, dtype="<f4")))
    array = walk(data).nodes["a"].array.read()
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))
    assert not array.flags.writeable


def test_scalars_empty_and_null():
    def fill(file):
        file["scalar"] = np.float32(3)
        file["empty"] = np.empty((0, 4), "f4")
        file["null"] = h5py.Empty("f4")

    nodes = walk(written(fill)).nodes
    assert nodes["scalar"].array.read() == 3 and nodes["scalar"].array.shape == ()
    assert nodes["empty"].array.read().shape == (0, 4)
    assert nodes["null"].array is None


def test_an_empty_array_of_sides_beyond_any_memory():
    data = written(lambda file: file.create_dataset("a", shape=(0, 1 << 40, 1 << 40), dtype="f4"))
    assert "more elements than any memory" in str(walk(data).faults["a"])


def test_compact_storage():
    def fill(file):
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((4,))
        dataset = h5py.h5d.create(file.id, b"a", h5py.h5t.IEEE_F32LE, space, properties)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(4, dtype="f4"))

    np.testing.assert_array_equal(walk(written(fill)).nodes["a"].array.read(), np.arange(4))


def test_a_user_block_in_front_is_skipped():
    data = written(lambda file: file.create_dataset("a", data=np.arange(5, dtype="<f4")), userblock_size=1024)
    tree = walk(data)
    assert not tree.cut
    np.testing.assert_array_equal(tree.nodes["a"].array.read(), np.arange(5))


def test_what_is_no_number_is_named():
    def fill(file):
        file["text"] = "hello"
        file["pairs"] = np.zeros(2, [("a", "f4"), ("b", "i4")])
        file["a"] = np.zeros(2)

    nodes = walk(written(fill)).nodes
    assert nodes["text"].array is None and "text" in nodes["text"].what
    assert nodes["pairs"].array is None and nodes["pairs"].what == "compound"
    assert nodes["a"].array is not None


def test_soft_links_to_datasets_are_followed_and_others_noted():
    def fill(file):
        file["a/b"] = np.arange(3)
        file["a/beside"] = h5py.SoftLink("b")
        file["whole"] = h5py.SoftLink("/a/b")
        file["nowhere"] = h5py.SoftLink("/a/c")
        file["group"] = h5py.SoftLink("/a")

    for libver in ("earliest", "latest"):
        tree = walk(written(fill, libver=libver))
        np.testing.assert_array_equal(tree.nodes["whole"].array.read(), np.arange(3))
        np.testing.assert_array_equal(tree.nodes["a/beside"].array.read(), np.arange(3))
        assert set(tree.notes) == {"nowhere", "group"} and not tree.faults


def test_a_group_that_holds_itself_is_an_error_and_ends():
    def fill(file):
        file["a/b"] = np.arange(3)
        file["a/again"] = file["a"]

    tree = walk(written(fill))
    assert "inside itself" in str(tree.faults["a/again"])


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_links_to_other_files_are_refused(libver, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["a"] = np.arange(3)
    data = written(lambda file: file.__setitem__("weights", h5py.ExternalLink("secret.h5", "/a")), libver=libver)
    with pytest.raises(CheckpointError, match=r"secret\.h5") as error:
        walk(data)
    assert codes(error) == {"file.outside"}


def test_values_in_other_files_are_refused(tmp_path):
    (tmp_path / "raw").write_bytes(bytes(40))

    def fill(file):
        file.create_dataset("a", (10,), "f4", external=[(str(tmp_path / "raw"), 0, 40)])

    with pytest.raises(CheckpointError, match="other files") as error:
        walk(written(fill))
    assert codes(error) == {"file.outside"}


def test_virtual_datasets_are_refused(tmp_path):
    def fill(file):
        virtual = h5py.VirtualLayout((4,), "f4")
        virtual[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "a", (4,))
        file.create_virtual_dataset("a", virtual)

    with pytest.raises(CheckpointError, match="virtual") as error:
        walk(written(fill, libver="latest"))
    assert codes(error) == {"file.outside"}


def test_filters_that_are_not_known_are_named_and_not_looked_for():
    data = written(lambda file: file.create_dataset("a", data=np.zeros((4, 4)), compression="lzf"))
    tree = walk(data)
    assert not tree.faults and "filter 32000" in str(tree.notes["a"])
    with pytest.raises(CheckpointError, match="filter 32000"):
        tree.nodes["a"].array.read()


def test_a_chunked_array_larger_than_its_file_can_hold_is_refused_before_memory_is_taken():
    def fill(file):
        file.create_dataset("a", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip")

    tree = walk(written(fill))
    assert "more than a file of" in str(tree.faults["a"])


def test_missing_chunks_are_told():
    def fill(file):
        dataset = file.create_dataset("a", (64, 4), "f4", chunks=(4, 4), compression="gzip")
        dataset[:8] = 1

    with pytest.raises(CheckpointError, match="2 chunks are stored, an array of shape"):
        walk(written(fill)).nodes["a"].array.read()


def test_an_array_past_the_end_is_damage_and_a_cut_file_is_not():
    data = written(lambda file: file.create_dataset("a", data=np.arange(100_000, dtype="<f4")))
    whole = walk(data)
    cut = walk(data[:300_000])
    assert whole.expected == len(data) and cut.expected == len(data) and cut.cut
    assert {finding.code for finding in cut.faults["a"].findings} == {"file.truncated"}
    with pytest.raises(CheckpointError, match="are missing"):
        cut.nodes["a"].array.read()


def test_groups_whose_parent_is_lost_are_found():
    def fill(file):
        for number in range(60):
            file[f"layer_{number}/kernel:0"] = np.full(500, number, "<f4")

    data = written(fill)
    cut = walk(data[: len(data) // 2])
    orphans = [path for path in cut.nodes if path.startswith("@") and path.endswith("/kernel:0")]
    whole = [path for path in orphans if path not in cut.faults]
    assert len(whole) > 10
    for path in whole:
        values = cut.nodes[path].array.read()
        assert values.shape == (500,) and (values == values[0]).all()
    assert len({cut.nodes[path].array.read()[0] for path in whole}) == len(whole)
