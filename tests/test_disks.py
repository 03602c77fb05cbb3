"""A disk that is full, or a folder that can only be read: nothing that was saved is lost, and one error says so.

Each test has a small disk of its own, mounted by a process that takes nobody's rights but its own (Linux).
"""

import ctypes
import errno
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from maskgraft import coco
from maskgraft.preprocess import one_thread
from maskgraft.training import train
from tests.test_kills import RECIPE, same
from tests.test_training import Watching, fresh, some
from tests.tiny import draw_dataset

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000  # CLONE_NEWUSER, CLONE_NEWNS of sched.h
_READ_ONLY, _REMOUNT, _PRIVATE = 1, 32, 0x4000 | (1 << 18)  # of mount.h

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),  # of forking beside threads
]


def of_system(done: int) -> None:
    if done != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount(place: Path, options: str = "", *, flags: int = 0) -> None:
    system = ctypes.CDLL(None, use_errno=True)
    of_system(system.mount(b"none", bytes(place), b"tmpfs", flags, options.encode()))


def own_mounts() -> None:
    """From here on this process sees mounts that nobody else sees."""
    system = ctypes.CDLL(None, use_errno=True)
    kinds = _NEW_MOUNTS if os.geteuid() == 0 else _NEW_USER | _NEW_MOUNTS
    of_system(system.unshare(kinds))
    system.mount(b"none", b"/", None, _PRIVATE, None)


def in_child(work: Callable[[], None]) -> None:
    """Do it in a process of its own; what fails there fails here, with its words."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            os.write(writer, traceback.format_exc()[-4000:].encode())
        os._exit(code)
    os.close(writer)
    said = b""
    while part := os.read(reader, 4096):
        said += part
    os.close(reader)
    assert os.waitpid(child, 0)[1] == 0, said.decode()


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    """A fork has none of the threads of its parent, and waits for them for ever if it wants several."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("disks of one's own are made as Linux makes them")
    place = tmp_path_factory.mktemp("tried")

    def work() -> None:
        own_mounts()
        mount(place, "size=1m")

    try:
        in_child(work)
    except AssertionError as error:
        pytest.skip(f"this system mounts no disks for tests: {str(error).strip().splitlines()[-1]}")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> coco.Dataset:
    return some(coco.read(*draw_dataset(tmp_path_factory.mktemp("drawn"), images=4)), 4)


@pytest.fixture(scope="module")
def whole(data: coco.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(fresh(), data, RECIPE, out=folder, val=some(data, 1))
    return folder


@pytest.mark.usefixtures("disks")
@pytest.mark.parametrize("left", [0, 1 << 20], ids=["not a line", "no weights"])
def test_a_full_disk_loses_nothing_that_was_saved(data: coco.Dataset, tmp_path: Path, whole: Path, left: int) -> None:
    run, filler = tmp_path / "disk" / "run", tmp_path / "disk" / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            room = shutil.disk_usage(filler.parent).free - left
            try:
                while room > 0:
                    room -= file.write(b"\0" * min(room, 1 << 16))
            except OSError as error:
                assert error.errno == errno.ENOSPC

    def work() -> None:
        own_mounts()
        mount(tmp_path / "disk", "size=200m")
        try:
            train(fresh(), data, RECIPE, out=run, val=some(data, 1), watcher=Watching(3, fill))
        except OSError as error:
            told = str(error)
        else:
            raise AssertionError("it went on")
        assert "No space left" in told and f"the last save in {run / 'last'} stays" in told and "--resume" in told, told
        assert len(told.splitlines()) == 1
        assert not list(run.glob(".last*"))
        filler.unlink()
        train(fresh(seed=9), data, out=run, val=some(data, 1), resume=True)
        same(whole, run)

    (tmp_path / "disk").mkdir()
    in_child(work)


def test_a_page_that_finds_no_room_does_not_lose_the_training(
    data: coco.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "report.html")

    monkeypatch.setattr("maskgraft.reporting._write", full)
    short = RECIPE.model_copy(update={"epochs": None, "steps": 1})
    run = train(fresh(), data, short, out=tmp_path / "run", val=some(data, 1))
    assert run.metrics is not None and run.findings[-1].code == "train.report-unwritten"
    assert "maskgraft report" in run.findings[-1].fix


@pytest.mark.usefixtures("disks")
def test_a_folder_that_can_only_be_read_stays_as_it_is(data: coco.Dataset, tmp_path: Path, whole: Path) -> None:
    disk = tmp_path / "disk"

    def stop() -> None:
        raise KeyboardInterrupt

    def contents() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in disk.rglob("*") if path.is_file()}

    def work() -> None:
        own_mounts()
        mount(disk, "size=200m")
        with suppress(KeyboardInterrupt):
            train(fresh(), data, RECIPE, out=disk / "run", val=some(data, 1), watcher=Watching(3, stop))
        before = contents()
        mount(disk, flags=_REMOUNT | _READ_ONLY)
        for options in ({"resume": True}, {"recipe": RECIPE}):
            folder = disk / ("run" if "resume" in options else "other")
            try:
                train(fresh(seed=9), data, out=folder, val=some(data, 1), **options)  # type: ignore[arg-type]
            except OSError as error:
                assert error.errno == errno.EROFS and str(disk) in str(error), error
            else:
                raise AssertionError("it went on")
        assert contents() == before
        mount(disk, flags=_REMOUNT)
        train(fresh(seed=9), data, out=disk / "run", val=some(data, 1), resume=True)
        same(whole, disk / "run")

    disk.mkdir()
    in_child(work)
