"""Which entry of a file is the model, which its optimizer and its copies; several models are asked about."""

import argparse
from collections import OrderedDict

import numpy as np
import pytest
import torch

from maskgraft.errors import CheckpointError
from maskgraft.files import open_checkpoint
from maskgraft.files.stubs import Stub


def weights(scale=1.0, prefix=""):
    shapes = {
        "conv.weight": (4, 3, 3, 3),
        "bn.weight": (4,),
        "bn.bias": (4,),
        "bn.running_mean": (4,),
        "fc.weight": (2, 4),
    }
    return OrderedDict((prefix + name, torch.full(shape, float(scale))) for name, shape in shapes.items())


NAMES = list(weights())


@pytest.fixture
def opened(tmp_path):
    def save_and_open(value, **options):
        torch.save(value, tmp_path / "x.pth")
        return open_checkpoint(tmp_path / "x.pth", **options)

    return save_and_open


def fault(opened, value, **options):
    with pytest.raises(CheckpointError) as caught:
        opened(value, **options)
    return caught.value.findings[0]


@pytest.mark.parametrize(
    ("wrapped", "key"),
    [
        (lambda model: model, ""),
        (lambda model: {"model": model, "iteration": 7}, "model"),
        (lambda model: {"state_dict": model, "epoch": 7}, "state_dict"),
        (lambda model: {"model_state_dict": model, "loss": 0.5}, "model_state_dict"),
        (lambda model: {"module": model}, "module"),
        (lambda model: {"ema": model, "model": None}, "ema"),
        (lambda model: {"checkpoint": {"model": {"state_dict": model}}}, "checkpoint.model.state_dict"),
        (lambda model: [model, {"epoch": 3}], "0"),
        (lambda model: {"net": model, "mean": torch.zeros(3), "std": torch.ones(3)}, "net"),
        (lambda model: {"model": model, "criterion": {"empty_weight": torch.ones(9)}}, "model"),
        (lambda model: {"model": model, "alias": model}, "model"),
    ],
)
def test_the_entry_that_is_the_model(opened, wrapped, key):
    ckpt = opened(wrapped(weights()))
    assert ckpt.key == key
    assert list(ckpt) == NAMES
    assert ckpt["conv.weight"].shape == (4, 3, 3, 3) and ckpt["conv.weight"].read().sum() == 108
    assert list(opened(wrapped(weights()), key=key)) == NAMES


def test_optimizer_state_is_apart(opened):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    ckpt = opened({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iteration": 7})
    assert list(ckpt) == ["weight", "bias"]
    assert ckpt.slots["optimizer.state.0.exp_avg"].shape == (2, 3)
    assert ckpt.about["iteration"] == 7
    assert ckpt.about["optimizer"]["param_groups"][0]["lr"] == 0.001
    assert "state" not in ckpt.about["optimizer"]


@pytest.mark.parametrize("key", ("ema", "model_ema", "state_dict_ema", "ema_state_dict"))
@pytest.mark.parametrize("prefix", ("", "module."))
def test_a_moving_average_is_a_slot_unless_it_is_asked_for(opened, key, prefix):
    copy = weights(0.5, prefix) | ({"steps": torch.tensor(9)} if prefix else {})
    file = {"model": weights(1.0), key: copy, "epoch": 3}
    ckpt = opened(file)
    assert ckpt.key == "model" and ckpt["fc.weight"].read()[0, 0] == 1
    assert ckpt.slots[f"{key}.{prefix}fc.weight"].read()[0, 0] == 0.5
    asked = opened(file, key=key)
    assert asked.key == key and asked[f"{prefix}fc.weight"].read()[0, 0] == 0.5


@pytest.mark.parametrize(
    "copy",
    [
        {"decay": 0.999, "shadow": {name: value for name, value in weights(0.5).items() if "running" not in name}},
        {"decay": 0.999, "shadow_params": list(weights(0.5).values())},
    ],
)
def test_a_moving_average_without_buffers_or_names(opened, copy):
    ckpt = opened({"model": weights(1.0), "ema": copy})
    assert ckpt.key == "model" and list(ckpt) == NAMES
    assert all(name.startswith("ema.shadow") for name in ckpt.slots) and len(ckpt.slots) >= 4


def test_moving_averages_among_the_weights(opened):
    averages = {"ema_" + name.replace(".", "_"): torch.zeros(value.shape) for name, value in weights().items()}
    ckpt = opened({"state_dict": weights() | averages})
    assert list(ckpt) == NAMES
    assert set(ckpt.slots) == set(averages)


@pytest.mark.parametrize(
    "keys", [("student", "teacher"), ("generator", "discriminator"), ("state_dict", "best_state_dict")]
)
def test_several_models_are_listed_and_none_is_chosen(opened, keys):
    file = {key: weights(place) for place, key in enumerate(keys)}
    finding = fault(opened, file)
    assert finding.code == "file.several-models"
    assert finding.names == keys
    assert finding.evidence["models"][keys[1]] == {"tensors": 5, "bytes": 4 * 128}
    assert "--key" in finding.fix and 'key="' in finding.fix
    for place, key in enumerate(keys):
        assert opened(file, key=key)["fc.weight"].read()[0, 0] == place
    together = opened(file, key="")
    assert len(together) == 10 and together[f"{keys[1]}.fc.weight"].read()[0, 0] == 1


def test_student_and_teacher_in_one_state_dict(opened):
    file = {"state_dict": weights(1, "student.") | weights(2, "teacher.")}
    assert fault(opened, file).names == ("state_dict.student", "state_dict.teacher")
    ckpt = opened(file, key="state_dict.teacher")
    assert list(ckpt) == NAMES and ckpt["fc.weight"].read()[0, 0] == 2
    ckpt = opened(weights(1, "model.") | weights(2, "ema."))
    assert ckpt.key == "model" and ckpt.slots["ema.fc.weight"].read()[0, 0] == 2
    assert len(opened(weights(1, "0.") | weights(2, "1."))) == 10


def test_deep_settings_are_cut_short(opened):
    deep = {}
    for _ in range(120):
        deep = {"inner": deep}
    assert "…" in str(opened({"model": weights(), "deep": deep}).about["deep"])


def test_a_key_without_weights_is_answered_with_those_there_are(opened):
    finding = fault(opened, {"model": weights(), "epoch": 1}, key="modle")
    assert finding.code == "file.no-key"
    assert "'model'" in finding.message and "modle" in finding.message


def test_a_key_may_be_the_beginning_of_a_path(opened):
    file = {"a": {"state_dict": weights(1)}, "b": {"state_dict": weights(2)}}
    assert opened(file, key="b").key == "b.state_dict"
    assert fault(opened, {"a": {"x": weights(), "y": weights()}, "b": weights()}, key="a").names == ("a.x", "a.y")


def test_weights_one_layer_to_an_entry(opened):
    file = {layer: {"weight": torch.ones(3, 2), "bias": torch.zeros(3)} for layer in ("conv1", "conv2", "fc")}
    ckpt = opened({"params": file, "step": 4})
    assert ckpt.key == "params"
    assert list(ckpt)[:2] == ["conv1.weight", "conv1.bias"] and len(ckpt) == 6


def test_nothing_to_load_is_said_with_what_is_there(opened):
    finding = fault(opened, {"model_state_dict": None, "loss": 52.1})
    assert finding.code == "file.no-weights"
    assert "model_state_dict is None" in finding.message and finding.evidence["empty"] == ["model_state_dict"]
    for value in (3, None, {}, [], {"epoch": 1}, {"name": "x", "meta": argparse.Namespace(a=1)}):
        assert fault(opened, value).code == "file.no-weights"


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, stride=2)
        self.norm = torch.nn.BatchNorm2d(4, eps=1e-3)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = Block()
        self.layers = torch.nn.Sequential(Block(), torch.nn.ReLU(), Block())
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("grid", torch.zeros(5), persistent=False)
        self.tied = self.stem.conv


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("wrapped", (lambda net: net, lambda net: {"model": net, "epoch": 3}))
def test_whole_modules_give_the_names_of_their_state_dict(opened, wrapped):
    net = Net()
    ckpt = opened(wrapped(net))
    assert list(ckpt) == list(net.state_dict())
    for name, tensor in net.state_dict().items():
        assert np.array_equal(ckpt[name].read(), tensor.numpy())
    assert ckpt.about["class"].endswith("Net")
    assert ckpt.about["modules"]["stem.norm"]["eps"] == 1e-3
    assert ckpt.about["modules"]["stem.conv"]["stride"] == [2, 2]
    assert [finding.severity for finding in ckpt.findings if finding.code == "file.unsafe-pickle"] == ["info"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_data_parallel_module_keeps_its_prefix(opened):
    ckpt = opened(torch.nn.DataParallel(Block()))
    assert "module.conv.weight" in ckpt
    (finding,) = [finding for finding in ckpt.findings if finding.code == "names.prefix"]
    assert finding.evidence["prefix"] == "module."


def test_prefixes_are_told_and_kept(opened):
    ckpt = opened(weights(prefix="module._orig_mod."))
    assert "module._orig_mod.fc.weight" in ckpt
    (finding,) = ckpt.findings
    assert finding.code == "names.prefix" and finding.evidence["prefix"] == "module._orig_mod."


class Callback:
    def __init__(self):
        self.best = 0.5


def test_lightning(opened):
    ckpt = opened(
        {
            "epoch": 46,
            "pytorch-lightning_version": "1.4.9",
            "state_dict": weights(prefix="model."),
            "callbacks": {Callback: {"best_model_score": torch.tensor(0.5)}},
            "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(4)}}, "param_groups": [{"lr": 0.1}]}],
            "hyper_parameters": argparse.Namespace(classes=3),
        }
    )
    assert ckpt.key == "state_dict" and "model.fc.weight" in ckpt
    assert ckpt.about["epoch"] == 46 and ckpt.about["pytorch-lightning_version"] == "1.4.9"
    assert list(ckpt.slots) == ["optimizer_states.0.state.0.momentum_buffer"]
    assert isinstance(ckpt.about["hyper_parameters"], Stub) and ckpt.about["hyper_parameters"].get("classes") == 3
    assert list(ckpt.about["callbacks"].values()) == [{"best_model_score": 0.5}]


def test_mmengine(opened):
    palette = np.array([[220, 20, 60], [119, 11, 32]], np.uint8)
    ckpt = opened(
        {
            "meta": {"epoch": 12, "cfg": "model = dict()", "dataset_meta": {"CLASSES": ("a", "b"), "PALETTE": palette}},
            "state_dict": weights(),
            "message_hub": {"log_scalars": {"loss": np.arange(5.0)}},
            "optimizer": {"state": {}, "param_groups": []},
        }
    )
    assert list(ckpt) == NAMES and not ckpt.slots
    assert ckpt.about["meta"]["cfg"] == "model = dict()"
    assert ckpt.about["meta"]["dataset_meta"]["CLASSES"] == ["a", "b"]
    assert ckpt.about["meta"]["dataset_meta"]["PALETTE"].tolist() == palette.tolist()
    assert ckpt.about["message_hub"]["log_scalars"]["loss"].tolist() == [0, 1, 2, 3, 4]


def test_metadata_of_the_state_dict_is_about(opened):
    ckpt = opened({"model": Block().state_dict()})
    assert ckpt.about["_metadata"]["norm"] == {"version": 2}


def test_what_refers_to_itself_is_cut_short(opened):
    loop = {"name": "x"}
    loop["self"] = loop
    ckpt = opened({"model": weights(), "loop": loop})
    assert ckpt.about["loop"] == {"name": "x", "self": "…"}


@pytest.mark.filterwarnings("ignore")
def test_sparse_weights_are_refused_by_name(opened):
    finding = fault(opened, {"model": weights() | {"w": torch.eye(3).to_sparse()}})
    assert finding.code == "file.unsupported" and finding.names == ("w",) and "sparse" in finding.message


def test_salvage_reads_what_stands_beside_sparse_weights(tmp_path):
    path = tmp_path / "sparse.pth"
    torch.save({"model": weights() | {"w": torch.eye(3).to_sparse()}}, path)
    found = open_checkpoint(path, salvage=True)
    assert set(found) == set(weights()) and "w" not in found
    assert [(one.code, one.severity, one.names) for one in found.findings] == [("file.unsupported", "warning", ("w",))]


@pytest.mark.parametrize("legacy", (False, True), ids=("zip", "stream"))
def test_a_cut_file_is_an_error_and_can_be_salvaged(tmp_path, legacy):
    path = tmp_path / "half.pth"
    model = {f"layer{place}.weight": torch.full((1000,), float(place)) for place in range(8)}
    torch.save({"model": model, "epoch": 2}, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    (finding,) = caught.value.findings
    assert finding.code == "file.truncated" and finding.severity == "error"
    assert finding.evidence["bytes"] == path.stat().st_size and finding.evidence["expected"] > 30_000
    assert finding.evidence["tensors"] == 8
    ckpt = open_checkpoint(path, salvage=True)
    assert tuple(ckpt) == finding.names and 2 <= len(ckpt) <= 4
    for name in ckpt:
        assert np.array_equal(ckpt[name].read(), model[name].numpy())
    (warning,) = [told for told in ckpt.findings if told.code == "file.truncated"]
    assert warning.severity == "warning" and set(warning.names) == set(model) - set(ckpt)
    assert ckpt.about["epoch"] == 2


def test_a_tensor_without_a_name_is_told(tmp_path):
    torch.save(torch.ones(3), tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="one tensor without a name"):
        open_checkpoint(tmp_path / "bare.pth")
