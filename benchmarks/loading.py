"""From a checkpoint of 170 MB to a model that is ready, each time in a process of its own."""

from pathlib import Path

from benchmarks import timing
from benchmarks.peers import workplace
from benchmarks.timing import Row

LOAD = """
import sys, time, torch
if sys.argv[1] == "ours":
    import maskgraft.graft, maskgraft.model
    import maskgraft as mg
else:
    from torchvision.models.detection import maskrcnn_resnet50_fpn
before, begin = memory(), time.perf_counter()
if sys.argv[1] == "ours":
    model = mg.load(sys.argv[2])
else:
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    model.load_state_dict(torch.load(sys.argv[2], weights_only=True))
    model.eval()
spent = time.perf_counter() - begin
size = sum(one.nbytes for one in model.state_dict().values())
print(spent, (memory() - before) * 2**20 / size)
"""


def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    with workplace() as (_, file):
        row = _loading(file, 1 if quick else 5)
    timing.report("loading", [row], quick=quick, out=out)


def _loading(file: Path, rounds: int) -> Row:
    spent: dict[str, list[float]] = {"ours": [], "theirs": []}
    memory: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        for who in spent:
            _, (seconds, share) = timing.child(LOAD, who, str(file))
            spent[who].append(float(seconds))
            memory[who].append(float(share))
    ours, theirs = (sorted(spent[who])[rounds // 2] for who in ("ours", "theirs"))
    told = f"memory {max(memory['ours']):.2f}× the weights (theirs {max(memory['theirs']):.2f}×; bar 1.3×)"
    return Row("load 170 MB to a ready model", ours, theirs, "torch.load, load_state_dict", "≥ 1.5×", told)
