"""A short pass of the mutations; `mutations.py` itself makes the long one."""

import mutations
import pytest


@pytest.mark.parametrize("name", mutations.seeds())
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_open_or_are_refused(name, tmp_path):
    (tmp_path / "sound").write_bytes(mutations.seeds()[name]())
    assert mutations.attempt(tmp_path / "sound", salvage=False) == "opened"
    results = [result for result, _ in mutations.run(name, 60, seed=0)]
    assert set(results) <= {"opened", "refused"}
    assert "refused" in results


def test_faults_are_noticed(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(mutations.seeds()["safetensors"]())
    monkeypatch.setattr(mutations, "SECONDS", 0.0)
    assert mutations.attempt(path, salvage=False).endswith(" s")

    def fail(*_, **__):
        raise ValueError("x")

    monkeypatch.setattr(mutations, "open_checkpoint", fail)
    assert mutations.attempt(path, salvage=False) == "ValueError: x"
