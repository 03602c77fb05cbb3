"""What trainings leave behind: the model under wrappers' names, with counters, momenta and averages beside it."""

from pathlib import Path

import numpy as np
import pytest
import torch

import maskgraft as mg
from tests.families.test_every_family import arrays_of
from tests.files.tensorflow_writer import write_bundle


def assert_equal_weights(path: Path, bare: Path) -> mg.MaskRCNN:
    model = mg.load(path)
    state, wanted = model.state_dict(), mg.load(bare).state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    return model


@pytest.mark.parametrize("link", ["mask_rcnn/", ""])
def test_a_snapshot_of_chainers_trainer(link: str, tmp_path: Path) -> None:
    """Its optimizer keeps two arrays a weight, its iterators and extensions theirs, and all in one `.npz`."""
    arrays = arrays_of("chainer")
    snapshot = {f"updater/model:main/{link}{name}": array for name, array in arrays.items()}
    training = {f"updater/optimizer:main/{link}{name}/v": np.zeros_like(array) for name, array in arrays.items()}
    training |= {f"updater/optimizer:main/{link}{name}/t": np.array(9) for name in arrays}
    training |= {
        "updater/iteration": np.array(180000),
        "updater/iterator:main/_order": np.arange(5),
        "extensions/LogReport/_trigger/interval": np.array(20),
        "_snapshot_elapsed_time": np.array(1.5),
    }
    np.savez(tmp_path / "snapshot_iter_180000.npz", **snapshot, **training)
    np.savez(tmp_path / "bare.npz", **arrays)
    opened = mg.open(tmp_path / "snapshot_iter_180000.npz")
    assert set(opened) == set(snapshot)
    assert set(opened.slots) == set(training)
    assert_equal_weights(tmp_path / "snapshot_iter_180000.npz", tmp_path / "bare.npz")


def test_a_checkpoint_of_tensorpacks_trainer(tmp_path: Path) -> None:
    """Momenta, counters, and running means of all that it logged."""
    arrays = {name.removesuffix(":0"): array for name, array in arrays_of("tensorpack").items()}
    training = {f"{name}/Momentum": np.zeros_like(array) for name, array in arrays.items() if name.endswith("/W")}
    training |= {
        "global_step": np.array(180000, np.int64),
        "learning_rate": np.array(1e-3, np.float32),
        "EMA/total_cost": np.array(0.5, np.float32),
        "EMA/total_cost/biased": np.array(0.5, np.float32),
        "EMA/total_cost/local_step": np.array(5, np.float32),
    }
    write_bundle(tmp_path / "model-180000", {**arrays, **training})
    np.savez(tmp_path / "bare.npz", **arrays)
    model = assert_equal_weights(tmp_path / "model-180000.index", tmp_path / "bare.npz")
    assert model.graft is not None
    assert model.graft.ignored["EMA/total_cost"] == "of the training, not of the model"


@pytest.mark.parametrize(
    ("part", "wrapped"),
    [
        ("backbone.", "backbone._orig_mod."),
        ("backbone.body.layer1.0.", "backbone.body.layer1.0._checkpoint_wrapped_module."),
        ("rpn.", "rpn._fsdp_wrapped_module._checkpoint_wrapped_module."),
        ("", "module._orig_mod."),
    ],
)
def test_wrappers_within_names_are_taken_out(part: str, wrapped: str, tmp_path: Path) -> None:
    """A compiled backbone, layers whose maps are computed again, parts that are sharded by themselves."""
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays_of("torchvision").items()}
    renamed = {
        wrapped + name.removeprefix(part) if name.startswith(part) else name: tensor for name, tensor in tensors.items()
    }
    assert renamed.keys() != tensors.keys()
    torch.save(renamed, tmp_path / "wrapped.pth")
    torch.save(tensors, tmp_path / "bare.pth")
    model = assert_equal_weights(tmp_path / "wrapped.pth", tmp_path / "bare.pth")
    assert model.graft is not None
    told = [finding.message for finding in model.graft.findings if finding.code == "names.prefix"]
    assert any("wrapped; it is taken out" in message for message in told) == bool(part)
    assert len(told) == 1, "a prefix of all names is told once"
    done = mg.convert(tmp_path / "wrapped.pth", to="torchvision", out=tmp_path / "plain.pth")
    assert set(mg.open(done.files[0])) == set(tensors)
