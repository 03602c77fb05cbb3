"""TensorFlow itself restores what is written for it; MASKGRAFT_TENSORFLOW names a Python that has it."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from maskgraft.conversion import convert
from maskgraft.files import open_checkpoint
from tests.test_conversion import home_file as home_file

TENSORFLOW = os.environ.get("MASKGRAFT_TENSORFLOW", "")

# Builds every variable empty, by its name or along the path of attributes that leads to it, restores, and compares.
RESTORE = """
import sys
import numpy as np, tensorflow as tf
prefix, arrays, objects = sys.argv[1], dict(np.load(sys.argv[2])), sys.argv[3] == "objects"
if objects:
    root, variables = tf.Module(), {}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        at = root
        for part in parents:
            if part not in vars(at):
                setattr(at, part, tf.Module())
            at = getattr(at, part)
        variables[name] = tf.Variable(tf.zeros_like(array))
        setattr(at, last, variables[name])
    parts = {part: module for part, module in vars(root).items() if isinstance(module, tf.Module)}
    status = tf.train.Checkpoint(**parts).restore(prefix)
    status.assert_consumed().assert_existing_objects_matched()
    found = {name: variable.numpy() for name, variable in variables.items()}
else:
    tf.compat.v1.disable_eager_execution()
    variables = {name: tf.compat.v1.get_variable(name, initializer=np.zeros_like(a)) for name, a in arrays.items()}
    with tf.compat.v1.Session() as session:
        tf.compat.v1.train.Saver(variables).restore(session, prefix)
        found = session.run(variables)
assert all(found[name].tobytes() == array.tobytes() for name, array in arrays.items())
print(len(found), "restored")
"""


@pytest.mark.long
@pytest.mark.skipif(not TENSORFLOW, reason="MASKGRAFT_TENSORFLOW names no Python that has TensorFlow")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tf1", "tf1_object_detection_api"),
        ("tf2", "tf1_object_detection_api"),
        ("tf1", "tf2_object_detection_api"),
        ("model garden", "tf_model_garden"),
        ("detectron2", "tf_model_garden"),
    ],
)
def test_tensorflow_restores_every_variable(one: str, other: str, home_file, tmp_path: Path) -> None:
    convert(home_file(one), to=other, out=tmp_path / "model.ckpt", accept=True)
    arrays = {name: array.read() for name, array in open_checkpoint(tmp_path / "model.ckpt.index").items()}
    np.savez(tmp_path / "arrays.npz", **arrays)
    names = "variables" if other.startswith("tf1") else "objects"
    run = subprocess.run(
        [TENSORFLOW, "-c", RESTORE, str(tmp_path / "model.ckpt"), str(tmp_path / "arrays.npz"), names],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert f"{len(arrays)} restored" in run.stdout
    assert len(arrays) > 200
