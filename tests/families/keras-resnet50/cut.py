"""What `tests/families/test_backbones.py` needs of the golden cases of keras.applications: python cut.py ORACLES.

The case's checkpoint is repacked with one of its files, its input becomes the photograph again (whole numbers), and of
each stage's stored values every few are kept, with the index that each has in the flat array.
"""

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np

CASES = {
    "keras2-resnet50": "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "keras3-resnet50": "resnet50.weights.h5",
}
STAGES = {"c2": "conv2_block3_out", "c3": "conv3_block4_out", "c4": "conv4_block6_out", "c5": "conv5_block3_out"}
MEAN = np.array((103.939, 116.779, 123.68), np.float32)  # BGR
MOST = 500

for name, file in CASES.items():
    source = Path(sys.argv[1]) / name
    about, here = json.loads((source / "case.json").read_text()), Path(__file__).parent
    with tarfile.open(source / "checkpoint.tar.xz") as whole, tarfile.open(here / f"{name}.tar.xz", "w:xz") as part:
        member = whole.getmember(file)
        part.addfile(member, whole.extractfile(member))
    pixels = np.load(source / "input_full.npz")["input"][0] + MEAN
    image = np.rint(pixels).astype(np.uint8)
    assert np.abs(image - pixels).max() < 1e-4
    kept = {"image": image[:, :, ::-1]}
    with np.load(source / "golden.npz") as golden:
        for ours, theirs in STAGES.items():
            values, stride = golden[f"act/{theirs}"].ravel(), about["arrays"][f"act/{theirs}"].get("stride_k", 1)
            chosen = np.arange(0, len(values), max(1, len(values) // MOST))
            kept |= {ours: values[chosen], f"{ours}.index": chosen * stride}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **kept)
    (here / f"{name}.npz").write_bytes(buffer.getvalue())
