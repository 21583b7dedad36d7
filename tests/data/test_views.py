"""Views: exact pixels, uniform and independent draws, no influence of batch-mates."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from kdnas.data import Views
from kdnas.run.files import hash_of

IMAGES = torch.randint(0, 256, (64, 3, 12, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
IDS = torch.arange(64) * 997


def draws(views: Views, ids: torch.Tensor, view: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dy, dx, flipped) of each id, read off two marked pixels in the middle of an 11 x 12 image."""
    marked = torch.zeros(len(ids), 1, 11, 12, dtype=torch.uint8)
    marked[:, 0, 5, 5], marked[:, 0, 5, 6] = 100, 200
    moved = (views.apply(marked, ids, view) * 255).round()[:, 0].flatten(1)
    left, right = (moved == 100).float().argmax(1).numpy(), (moved == 200).float().argmax(1).numpy()
    return left // 12 - 5, np.minimum(left, right) % 12 - 5, left > right


def test_view_0_is_the_image():
    assert torch.equal(Views(flip=True, shift=2, seed=1).apply(IMAGES, IDS, 0), IMAGES.float() / 255)
    assert torch.equal(Views(flip=False, shift=0, seed=1).apply(IMAGES, IDS, 5), IMAGES.float() / 255)


@pytest.mark.parametrize("view", [1, 2, 7])
def test_pixels_are_moved_whole_and_the_border_is_zero(view):
    views = Views(flip=True, shift=3, seed=5)
    images = torch.randint(0, 256, (200, 3, 11, 12), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    ids = torch.arange(200)
    moved = views.apply(images, ids, view)
    assert moved.dtype == torch.float32 and moved.min() >= 0 and moved.max() <= 1
    for i, (dy, dx, flipped) in enumerate(zip(*draws(views, ids, view), strict=True)):
        picture = images[i].flip(-1) if flipped else images[i]
        padded = torch.nn.functional.pad(picture, (3, 3, 3, 3))
        expected = padded[:, 3 - dy : 14 - dy, 3 - dx : 15 - dx]
        assert torch.equal(moved[i], expected.float() / 255)


def test_draws_are_uniform_and_independent():
    """Chi-square over the 50 outcomes, and over pairs of outcomes of two views, two seeds, and neighbours.

    Each statistic is below its 1 - 1e-6 quantile; the draws are fixed, so the test does not flicker.
    """
    ids = torch.arange(20_000)

    def outcome(seed: int, view: int) -> np.ndarray:
        dy, dx, flipped = draws(Views(flip=True, shift=2, seed=seed), ids, view)
        assert set(dy.tolist()) == set(dx.tolist()) == {-2, -1, 0, 1, 2}
        return (dy + 2) * 10 + (dx + 2) * 2 + flipped

    def statistic(counts: np.ndarray) -> float:
        return float(((counts - counts.sum() / counts.size) ** 2 / (counts.sum() / counts.size)).sum())

    base = outcome(0, 1)
    assert statistic(np.bincount(base, minlength=50)) < chi2.ppf(1 - 1e-6, 49)
    for other in (outcome(0, 2), outcome(1, 1), np.roll(base, 1)):
        assert statistic(np.bincount(base * 50 + other, minlength=2500)) < chi2.ppf(1 - 1e-6, 2499)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(64)), st.integers(1, 64), st.integers(0, 1000), st.integers(0, 2**31))
def test_batch_mates_do_not_matter(order, count, view, seed):
    views = Views(flip=True, shift=2, seed=seed)
    chosen = torch.tensor(order[:count])
    whole = views.apply(IMAGES, IDS, view)
    assert torch.equal(views.apply(IMAGES[chosen], IDS[chosen], view), whole[chosen])


def test_every_input_acts():
    base = Views(flip=True, shift=2, seed=0)
    moved = base.apply(IMAGES, IDS, 1)
    assert not torch.equal(moved, base.apply(IMAGES, IDS, 2))
    assert not torch.equal(moved, base.apply(IMAGES, IDS + 1, 1))
    for other in (Views(False, 2, 0), Views(True, 1, 0), Views(True, 2, 1)):
        assert other.hash != base.hash
        assert not torch.equal(moved, other.apply(IMAGES, IDS, 1))
    assert Views(True, 2, 0).hash == base.hash


def test_without_flip_nothing_is_mirrored():
    assert not draws(Views(flip=False, shift=2, seed=0), torch.arange(500), 1)[2].any()


def test_pixels_are_pinned():
    """Stored knowledge outlives a release: the same (seed, id, view) must give the same pixels for ever."""
    pixels = (Views(flip=True, shift=2, seed=0).apply(IMAGES, IDS, 3) * 255).round().to(torch.uint8)
    assert hash_of(pixels) == "0416dbf5a6c75417"


@pytest.mark.parametrize(
    ("images", "ids", "view"),
    [(IMAGES.float(), IDS, 1), (IMAGES, IDS[:3], 1), (IMAGES[0], IDS, 1), (IMAGES, IDS, -1)],
)
def test_misuse_raises(images, ids, view):
    with pytest.raises(ValueError, match="views need"):
        Views(True, 2, 0).apply(images, ids, view)
    with pytest.raises(ValueError, match="shift"):
        Views(True, -1, 0)
