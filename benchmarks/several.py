"""A training step in one of several processes, under torchrun: what `benchmarks.growth` starts.

The first process prints the median seconds of a step, and the loss of the whole batch in the first one.
"""

import statistics
import sys
import time
from pathlib import Path

import torch

import maskgraft as mg
from benchmarks.training_step import drawn
from maskgraft import policy, processes
from maskgraft.targets import Batch

IMAGES, SIDE = 4, 256


def main(file: Path, rounds: int) -> None:
    """Each process takes its part of the batch; what is sampled is drawn by seeds of the images, wherever they are."""
    model = mg.load(file).train()
    policy.apply(model, "3+")
    whole, each = drawn(SIDE, IMAGES), IMAGES // processes.count()
    part = slice(processes.rank() * each, (processes.rank() + 1) * each)
    own = Batch(whole.pixels[part], whole.sizes[part], whole.targets[part], whole.ids[part], whole.ids[part])
    network = processes.network(model)
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=1e-12)
    times, loss = [], 0.0
    for turn in range(rounds + 1):
        processes.wait()
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        total = torch.stack(list(network(own).values())).sum()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        processes.wait()
        times.append(time.perf_counter() - begin)
        loss = loss if turn else processes.mean(total.item(), total.device)
    if processes.leads():
        print(statistics.median(times[1:]), loss)


if __name__ == "__main__":
    with processes.joined("cpu"):
        main(Path(sys.argv[1]), int(sys.argv[2]))
