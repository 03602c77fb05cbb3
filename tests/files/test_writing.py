import pytest

from maskgraft.files.writing import atomic


def test_the_file_appears_whole(tmp_path):
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with atomic(target) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".onnx" and temporary != target
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


def test_nothing_is_left_of_a_failure(tmp_path):
    target = tmp_path / "weights.pth"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="half way"), atomic(target) as temporary:
        temporary.write_bytes(b"ne")
        raise RuntimeError("half way")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "x.bin"):
        pass
    assert list(tmp_path.iterdir()) == []
