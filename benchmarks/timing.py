"""Runs that alternate, so that what else the machine does falls on all alike; medians, and ratios of one run."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One line of a table: what was done, by whom, in seconds (medians), and how the two compare.

    `ratio` is theirs / ours: 2 is twice as fast as they. `bar` is what it should reach. `agreement` says how it was
    proved that both computed the same. None: not measured, and `agreement` says why.
    """

    work: str
    ours: float | None
    theirs: float | None
    peer: str
    bar: str
    agreement: str

    @property
    def ratio(self) -> float | None:
        return self.theirs / self.ours if self.ours and self.theirs else None


def alternate(
    rounds: int, works: Mapping[str, Callable[[], Any]], *, settle: Callable[[], Any] = lambda: None
) -> dict[str, float]:
    """Median seconds of each work, which take turns; one turn before the clock runs.

    `settle` waits until what was begun has ended: `torch.cuda.synchronize` for works on a GPU.
    """
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            settle()
            begin = time.perf_counter()
            work()
            settle()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(spent) for name, spent in times.items()}


def child(code: str, *arguments: str, python: str = sys.executable) -> tuple[float, list[str]]:
    """Run Python code in a process of its own: wall seconds, and the words that it printed.

    `code` may use `memory()`, the most memory in MB that its process ever had.
    """
    begin = time.perf_counter()
    said = subprocess.run(
        [python, "-c", _MEMORY + code, *arguments], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return time.perf_counter() - begin, said.split()


# A forked process starts with the peak of its parent in getrusage; Linux's own count begins anew with the program.
_MEMORY = """
def memory():
    import pathlib, resource, sys
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
"""


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = models[0] if models else processor
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| work | ours | peer | ratio | bar | agreement |", "|---|---|---|---|---|---|"]
    for row in rows:
        ours = "not measured" if row.ours is None else seconds(row.ours)
        theirs = row.peer if row.theirs is None else f"{row.peer} {seconds(row.theirs)}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}×"
        lines.append(f"| {row.work} | {ours} | {theirs} | {ratio} | {row.bar} | {row.agreement} |")
    return "\n".join(lines)


def seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def readme(names: Sequence[str]) -> str:
    """The results that are kept in `benchmarks/results`, as the README shows them; what has none is not there yet."""
    lines = ["| work | beside | ratio | bar | agreement |", "|---|---|---|---|---|"]
    for name in names:
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        for row in json.loads(path.read_text()).get("rows", ()):
            ratio = "not measured" if row["ratio"] is None else f"{row['ratio']:.2f}×"
            lines.append(f"| {row['work']} | {row['peer']} | {ratio} | {row['bar']} | {row['agreement']} |")
    return "\n".join(lines)


def report(name: str, rows: Sequence[Row], *, quick: bool, out: Path | None, more: Mapping[str, Any] = {}) -> None:
    """Print the table, and write it as JSON to `out`; a whole run without `out` writes `benchmarks/results`."""
    print(table(rows))
    for key, value in more.items():
        print(f"{key}: {json.dumps(value)}")
    lines = [asdict(row) | {"ratio": row.ratio} for row in rows]
    write(name, {"machine": machine(), "quick": quick, "rows": lines, **more}, quick=quick, out=out)


def earlier(name: str, *, quick: bool, out: Path | None) -> dict[str, Any]:
    """What a benchmark has written already where `write` would write it; nothing where there is none.

    Ends the program where that was measured on another machine: figures of two do not stand side by side.
    """
    target = _target(name, quick=quick, out=out)
    if target is None or not target.exists():
        return {}
    document: dict[str, Any] = json.loads(target.read_text())
    if document["machine"] != (here := machine()):
        raise SystemExit(f"{target} was measured on another machine, {document['machine']}; this is {here}: begin anew")
    return document


def go(document: dict[str, Any]) -> list[str]:
    """Note in a document when a run begins, or goes on; gives the list of what it measures."""
    measured: list[str] = []
    now = datetime.now(UTC).isoformat(timespec="seconds")
    document.setdefault("goes", []).append({"began": now, "measured": measured})
    return measured


def _target(name: str, *, quick: bool, out: Path | None) -> Path | None:
    return out or (None if quick else RESULTS / f"{name}.json")


def write(name: str, document: Mapping[str, Any], *, quick: bool, out: Path | None) -> None:
    """Write a result as JSON to `out`; a whole run without `out` writes `benchmarks/results`."""
    target = _target(name, quick=quick, out=out)
    if target is not None:
        target.parent.mkdir(exist_ok=True, parents=True)
        target.write_text(json.dumps(document, indent=1) + "\n")
        print(f"written to {target.name}")
