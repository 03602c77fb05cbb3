"""A run that is killed without warning, wherever it is, goes on to the bytes of one that never was."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from maskgraft import batches, coco, store
from maskgraft import state as states
from maskgraft.preprocess import one_thread
from maskgraft.training import train
from tests.test_training import QUICK, Watching, fresh, same_weights, some
from tests.tiny import draw_dataset

resource = pytest.importorskip("resource", reason="this system has no limits of that kind")
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),  # of forking beside threads
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]

RECIPE = QUICK.model_copy(update={"ema": 0.9, "optimizer": "adamw", "lr": 1e-3, "clip_norm": None})


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    """A fork has none of the threads of its parent, and waits for them for ever if it wants several."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> coco.Dataset:
    return some(coco.read(*draw_dataset(tmp_path_factory.mktemp("drawn"), images=4)), 4)


@pytest.fixture(scope="module")
def whole(data: coco.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(fresh(), data, RECIPE, out=folder, val=some(data, 1))
    return folder


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(number: int, then: Callable[..., None], plain: Callable[..., Any]) -> Callable[..., Any]:
    """`plain`, but for its `number`-th call, when `then` comes first."""
    calls = 0

    def counting(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            then(*args)
        return plain(*args, **options)

    return counting


def in_the_loader(_: Path) -> None:
    batches.sample = at_call(6, lambda *_: die(), batches.sample)  # of the third step


def half_the_weights(_: Path) -> None:
    def write_half(state: object, path: Path) -> None:
        path.write_bytes(b"\x00" * 1000)
        die()

    store.save_file = at_call(3, write_half, store.save_file)


def half_the_state(_: Path) -> None:
    torch.save = at_call(2, lambda kept, path: (path.write_bytes(b"PK"), die()), torch.save)


def between_the_renames(run: Path) -> None:
    plain = Path.rename

    def rename(self: Path, target: Path) -> Path:
        moved = plain(self, target)
        if self == run / "last":  # the old one is away, the new one is not there
            die()
        return moved

    Path.rename = rename  # type: ignore[method-assign]


def while_the_old_one_is_removed(run: Path) -> None:
    plain = shutil.rmtree

    def remove(path: Path, *args: Any, **options: Any) -> None:
        if path == run / ".last.old" and path.exists():
            die()
        plain(path, *args, **options)

    shutil.rmtree = remove  # type: ignore[assignment]


def before_the_best_is_in_place(run: Path) -> None:
    plain = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if target == run / "best":
            die()
        return plain(self, target)

    Path.rename = rename  # type: ignore[method-assign]


def in_a_line_of_the_log(run: Path) -> None:
    def write_half(log: states.Log, *_: object) -> None:
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 3, "los')
        die()

    states.Log.write = at_call(6, write_half, states.Log.write)  # type: ignore[method-assign]


def before_the_recipe(_: Path) -> None:
    states.write_recipe = at_call(1, lambda *_: die(), states.write_recipe)


PLACES = [
    in_the_loader,
    half_the_weights,
    half_the_state,
    between_the_renames,
    while_the_old_one_is_removed,
    before_the_best_is_in_place,
    in_a_line_of_the_log,
]


def forked(work: Callable[[], None]) -> int:
    """What became of `work` in a process of its own: as `os.waitpid` says."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except OSError:
            os._exit(7)
        finally:
            os._exit(3)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_kill_anywhere_loses_nothing(
    data: coco.Dataset, tmp_path: Path, whole: Path, place: Callable[[Path], None]
) -> None:
    def work() -> None:
        place(tmp_path / "torn")
        train(fresh(), data, RECIPE, out=tmp_path / "torn", val=some(data, 1))

    status = forked(work)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    train(fresh(seed=9), data, out=tmp_path / "torn", val=some(data, 1), resume=True)
    same(whole, tmp_path / "torn")


def same(whole: Path, torn: Path) -> None:
    for name in ("last", "best"):
        assert same_weights(whole / name, torn / name)
    assert (whole / "metrics.jsonl").read_bytes() == (torn / "metrics.jsonl").read_bytes()
    kept = [torch.load(folder / "last" / "state.pt", weights_only=True) for folder in (whole, torn)]
    assert kept[0]["state"] == kept[1]["state"]
    assert all(torch.equal(value, kept[1]["own"][name]) for name, value in kept[0]["own"].items())
    assert sorted(path.name for path in torn.iterdir()) == sorted(path.name for path in whole.iterdir())


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 3])
def test_a_kill_beside_workers_loses_nothing(data: coco.Dataset, tmp_path: Path, whole: Path, workers: int) -> None:
    recipe = RECIPE.model_copy(update={"workers": workers})

    def work() -> None:
        train(fresh(), data, recipe, out=tmp_path / "torn", val=some(data, 1), watcher=Watching(3, die))

    assert os.WIFSIGNALED(forked(work))
    train(fresh(seed=9), data, out=tmp_path / "torn", val=some(data, 1), resume=True)
    same(whole, tmp_path / "torn")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> coco.Dataset:
    return coco.read(*draw_dataset(tmp_path_factory.mktemp("old"), images=5, seed=8))


REPLAYED = RECIPE.model_copy(update={"replay": 0.5, "workers": 1})


@pytest.fixture(scope="module")
def whole_replayed(data: coco.Dataset, old: coco.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replayed") / "run"
    train(fresh(), data, REPLAYED, out=folder, val=some(data, 1), replay=old)
    return folder


# in the first epoch, and in the second, which draws other old images
@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.long), 7])
def test_a_kill_while_old_images_are_replayed_loses_nothing(
    data: coco.Dataset, old: coco.Dataset, tmp_path: Path, whole_replayed: Path, step: int
) -> None:
    def work() -> None:
        train(
            fresh(), data, REPLAYED, out=tmp_path / "torn", val=some(data, 1), replay=old, watcher=Watching(step, die)
        )

    status = forked(work)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    train(fresh(seed=9), data, out=tmp_path / "torn", val=some(data, 1), replay=old, resume=True)
    same(whole_replayed, tmp_path / "torn")


def test_a_kill_before_there_is_anything_leaves_the_folder_free(data: coco.Dataset, tmp_path: Path) -> None:
    def work() -> None:
        before_the_recipe(tmp_path)
        train(fresh(), data, RECIPE, out=tmp_path / "torn")

    assert os.WIFSIGNALED(forked(work))
    train(fresh(), data, RECIPE.model_copy(update={"steps": 1}), out=tmp_path / "torn")


@pytest.mark.parametrize("room", [20_000, 4_000_000], ids=["metrics", "weights"])
def test_a_file_that_cannot_grow_loses_nothing(data: coco.Dataset, tmp_path: Path, whole: Path, room: int) -> None:
    """As on a full disk: the system refuses to write beyond so many bytes of a file, from the third step on."""

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    def work() -> None:
        train(fresh(), data, RECIPE, out=tmp_path / "torn", val=some(data, 1), watcher=Watching(3, fill))

    status = forked(work)
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7  # an OSError
    assert not list((tmp_path / "torn").glob(".last*"))
    train(fresh(seed=9), data, out=tmp_path / "torn", val=some(data, 1), resume=True)
    same(whole, tmp_path / "torn")
