"""Trainings with faults of known cause: is the first finding of the doctor that cause?

python -m benchmarks stuck                  # every fault and every healthy run, both ways, and the scores
python -m benchmarks.stuck --only anchors   # those with this in their name
python -m benchmarks.stuck --way watched    # one of the two ways

Pictures of shapes are drawn and a small model is trained on them first, so that nothing else is needed. Each case is
asked about in two ways. "examined": before its first step, and where nothing above "info" is found, it trains with the
doctor looking on, for 200 steps at most. "watched": nothing is examined before the first step, and the doctor has only
what passes by; faults that do not show there (in files that are never opened, or refused before) do not count. Healthy
runs train all of their steps, and must stay silent both ways.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from unittest import mock

import torch

import maskgraft as mg
from benchmarks.injuries import FAULTS, HEALTHY, HEALTHY_RUNS, Fault
from benchmarks.scoring import counted
from benchmarks.timing import RESULTS
from benchmarks.workshop import Workshop, workshop
from maskgraft import lookouts, runs
from maskgraft.attending import Attendant

Way = Literal["examined", "watched"]
WAYS: tuple[Way, ...] = get_args(Way)


@dataclass(frozen=True)
class Answer:
    fault: Fault
    way: Way
    right: bool
    found: str
    message: str
    when: str
    seconds: float


class Enough:
    """A watcher that ends the run with the step at which the first finding above "info" came: only that one counts."""

    def __init__(self) -> None:
        self.findings: tuple[mg.Finding, ...] = ()

    def begin(self, *_: object) -> None: ...

    def examines(self, what: str) -> None: ...

    def step(self, *_: object) -> None:
        if self.findings:
            raise mg.DataError(self.findings)

    def evaluated(self, *_: object) -> None: ...

    def found(self, number: int, findings: Sequence[mg.Finding]) -> None:
        self.findings += tuple(one for one in findings if one.severity != "info")


def judged(fault: Fault, shop: Workshop, way: Way) -> Answer:
    """Make a fault, ask the doctor, and hold the first finding against the cause."""
    start = time.perf_counter()
    torch.manual_seed(0)
    findings, when = tuple[mg.Finding, ...](), "before"
    try:
        case = fault.make(shop)
    except mg.MaskgraftError as error:  # the data cannot even be read
        case, findings, when = None, error.findings, "reading"
    if case is not None and way == "examined":
        findings = mg.doctor(case.model, case.data, case.recipe, val=case.val).findings
    if case is not None and all(one.severity == "info" for one in findings):
        out, when = shop.made / "run", "while training"
        doctor = Attendant(case.data, val=case.val, examines=way == "examined")
        watcher = Enough() if way == "watched" else None
        try:
            mg.train(case.model, case.data, case.recipe, out=out, val=case.val, doctor=doctor, watcher=watcher)
        except mg.MaskgraftError as error:  # the log of the run has it, if there is one
            findings = error.findings
        if out.exists():
            findings = runs.examine_run(out).findings
            shutil.rmtree(out)
    grave = [one for one in findings if one.severity != "info"]
    first = grave[0] if grave else None
    found, message = (first.code, first.message) if first else (HEALTHY, "")
    allowed = (fault.expected,) if isinstance(fault.expected, str) else fault.expected
    return Answer(fault, way, found in allowed, found, message, when, time.perf_counter() - start)


def answers(shop: Workshop, way: Way, names: str = "", *, every: int = 1, first: str = "") -> Iterator[Answer]:
    """Every case whose name has `names` in it, told as it comes; what each left in the folder is removed."""
    cases = [one for one in (*HEALTHY_RUNS, *FAULTS) if one.shows or way == "examined"]
    begin = next((number for number, one in enumerate(cases) if first in one.name), 0)
    for fault in cases[begin::every]:
        if names not in fault.name:
            continue
        shutil.rmtree(shop.made, ignore_errors=True)  # of a benchmark that was ended
        shop.made.mkdir()
        with mock.patch.object(lookouts, "PATIENCE", 2.5):  # half a minute would be half of the benchmark
            one = judged(fault, shop, way)
        mark = "ok  " if one.right else "MISS"
        told = f"{mark} {way} {fault.name}: {one.found} ({one.when}, {one.seconds:.0f} s): {one.message[:140]}"
        print(told, flush=True)
        yield one
        shutil.rmtree(shop.made)


def told(found: list[Answer]) -> bool:
    """Print the scores, and whether they are good enough: nine of ten causes first, and silence over healthy runs."""
    enough = True
    for way in WAYS:
        if some := [one for one in found if one.way == way]:
            print(f"{way}:")
            enough &= counted(some, healthy=HEALTHY, what="runs").reaches(0.9)
    return enough


def written(one: Answer, out: Path) -> None:
    """Write a case and the scores with it into a file, where the other cases stay as they are.

    Cases that are no more among the benchmark's are left out.
    """
    known = json.loads(out.read_text()) if out.exists() else {}
    names = [fault.name for fault in (*HEALTHY_RUNS, *FAULTS)]
    result: dict[str, Any] = {}
    for way in WAYS:
        cases = known.get(way, {}).get("cases", {})
        if one.way == way:
            kind = "healthy" if one.fault.expected == HEALTHY else "fault"
            cases[one.fault.name] = {"kind": kind, "found": one.found, "right": one.right, "when": one.when}
        result[way] = {"cases": {name: cases[name] for name in names if name in cases}}
        for kind in ("fault", "healthy"):
            some = [each for each in result[way]["cases"].values() if each["kind"] == kind]
            result[way][kind] = {"cases": len(some), "right": sum(each["right"] for each in some)}
    out.write_text(json.dumps(result, indent=1) + "\n")


def asked(
    shop: Workshop, ways: Sequence[Way], names: str = "", *, out: Path | None = None, every: int = 1, first: str = ""
) -> list[Answer]:
    """All answers; each stands in the file `out` as soon as it is known, so that nothing is lost of a run that ends."""
    found = []
    for way in ways:
        for one in answers(shop, way, names, every=every, first=first):
            found.append(one)
            if out is not None:
                written(one, out)
    return found


def run(*, quick: bool, out: Path | None, tensorflow: str | None) -> None:
    """Print what was missed and the scores; `quick` takes every fifth case. TensorFlow is not needed."""
    out = out or (None if quick else RESULTS / "stuck.json")
    with tempfile.TemporaryDirectory() as folder:
        told(asked(workshop(Path(folder)), WAYS, out=out, every=5 if quick else 1))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stuck")
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--way", choices=WAYS, help="one of the two ways; else both")
    parser.add_argument("--from", dest="first", default="", help="the name of the case to begin with")
    parser.add_argument("--out", type=Path, help="a file for the scores, as JSON; other cases in it stay")
    parser.add_argument("--keep", type=Path, help="a folder whose pictures and model are made once and taken again")
    options = parser.parse_args(arguments)
    ways = (options.way,) if options.way else WAYS
    with tempfile.TemporaryDirectory() as folder:
        shop = workshop(options.keep or Path(folder))
        return 0 if told(asked(shop, ways, options.only, out=options.out, first=options.first)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
