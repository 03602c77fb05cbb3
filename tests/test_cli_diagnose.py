"""`maskgraft diagnose` with targets, plans and data, as people type it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.test_cli import Run
from tests.test_cli import folder as folder
from tests.test_cli import maskgraft as maskgraft

FACTORY = """
import torch

class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3)
        self.second = torch.nn.Conv2d(8, 16, 1)

def build():
    return Small()

def nothing():
    return 3
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module of somebody's own, and weights under other names."""
    (tmp_path / "own_models.py").write_text(FACTORY)
    torch.manual_seed(0)
    weights = {"net.a.weight": torch.randn(8, 3, 3, 3), "net.a.bias": torch.randn(8)}
    weights |= {"net.b.weight": torch.randn(16, 8, 1, 1), "net.b.bias": torch.randn(16)}
    torch.save(weights, tmp_path / "weights.pth")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_models", None)


def test_a_plan_is_written_then_read_and_applied(maskgraft: Run, project: Path) -> None:
    into = ["weights.pth", "--into", "own_models:build", "--plan", "plan.toml"]
    done = maskgraft("diagnose", *into)
    assert (project / "plan.toml").exists() and "written: plan.toml" in done.stdout
    assert "net.a.weight" in (project / "plan.toml").read_text()
    done = maskgraft("diagnose", *into, "--out", "filled.safetensors", "--json")
    (plan,) = json.loads(done.stdout)["plans"]
    assert plan["saved"] == "filled.safetensors" and plan["pairs"] == 4
    filled, given = load_file(project / "filled.safetensors"), torch.load(project / "weights.pth")
    assert torch.equal(filled["first.weight"], given["net.a.weight"])
    assert torch.equal(filled["second.bias"], given["net.b.bias"])


def test_factories_that_give_no_module_are_told(maskgraft: Run, project: Path) -> None:
    done = maskgraft("diagnose", "weights.pth", "--into", "own_models:nothing")
    assert done.returncode == 2 and "gives int, no nn.Module" in done.stderr
    done = maskgraft("diagnose", "weights.pth", "--into", "own_models:absent")
    assert done.returncode == 2 and "own_models:absent" in done.stderr
    done = maskgraft("diagnose", "weights.pth", "--plan", "plan.toml")
    assert done.returncode == 2 and "--into package.module:factory" in done.stderr


def test_classes_of_the_data_that_the_file_lacks_are_told(maskgraft: Run, folder: Path) -> None:
    data = folder / "data"
    options = ["--annotations", data / "instances.json", "--images", data / "images"]
    done = maskgraft("diagnose", folder / "model.pth", *options, "--json")
    told = [one for one in json.loads(done.stdout)["findings"] if one["code"] == "shape.classes"]
    assert told and set(told[0]["names"]) == {"disc", "box"}
