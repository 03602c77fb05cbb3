"""What runs code in an ordinary unpickler is data here."""

import sys
import time
import tracemalloc

import hostile_pickles
import pytest

from maskgraft.errors import CheckpointError
from maskgraft.files import pickles
from maskgraft.files.stubs import unsafe_pickle

DOORS = (
    "import",
    "open",
    "exec",
    "compile",
    "os.",
    "subprocess.",
    "socket.",
    "shutil.",
    "ctypes.",
    "marshal.",
    "pickle.",
)
EVENTS: list[str] = []
WATCHING: list[bool] = []


def _watch(event: str, arguments: tuple) -> None:
    if WATCHING and event.startswith(DOORS):
        EVENTS.append(f"{event} {arguments!r}"[:200])


sys.addaudithook(_watch)


def opened(data: bytes) -> pickles.Pickle | CheckpointError:
    """The result or the error, after checking that the interpreter ran, imported and opened nothing meanwhile."""
    EVENTS.clear()
    WATCHING.append(True)
    try:
        return pickles.load(memoryview(data))
    except CheckpointError as error:
        return error
    finally:
        WATCHING.clear()
        assert EVENTS == []


def test_the_watch_sees_what_it_should(tmp_path):
    WATCHING.append(True)
    (tmp_path / "x").write_text("")
    WATCHING.clear()
    assert any(event.startswith("open") for event in EVENTS)


@pytest.mark.parametrize("name", hostile_pickles.code("x"))
def test_code_does_not_run(name, tmp_path):
    canary = tmp_path / "canary"
    result = opened(hostile_pickles.code(str(canary))[name])
    assert not canary.exists()
    assert "antigravity" not in sys.modules
    if isinstance(result, CheckpointError):
        assert result.findings[0].code == "file.damaged"
        return
    assert result.names
    (finding,) = unsafe_pickle(result.names)
    assert finding.code == "file.unsafe-pickle"
    harmless = {"extension registry", "build replaces a method", "module imported by global alone"}
    assert finding.severity == "warning" or name in harmless - {"build replaces a method"}


@pytest.mark.parametrize("name", hostile_pickles.bombs())
def test_bombs_are_refused_at_once(name):
    data = hostile_pickles.bombs()[name]
    tracemalloc.start()
    begin = time.monotonic()
    result = opened(data)
    spent = time.monotonic() - begin
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(result, CheckpointError), result
    assert result.findings[0].code == "file.damaged"
    assert spent < 5
    assert peak < 400 * len(data) + 1_000_000


@pytest.mark.parametrize("name", hostile_pickles.broken())
def test_nonsense_is_a_checkpoint_error(name):
    result = opened(hostile_pickles.broken()[name])
    assert isinstance(result, CheckpointError), result
    assert result.findings[0].code == "file.damaged"
