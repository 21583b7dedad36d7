import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas.evaluate import accuracy_ci95, draws_ci95, paired_difference, rank_correlation, summarise


@pytest.mark.parametrize(
    ("alpha", "beta", "images", "draws"),
    [(4.0, 1.0, 400, 4), (0.3, 0.2, 400, 8), (60.0, 1.0, 200, 4), (5.0, 5.0, 100, 1)],
)
def test_interval_covers_the_truth_when_draws_share_an_image(alpha, beta, images, draws):
    # Each image has its own chance of being right (Beta), so draws of an image are dependent.
    random = np.random.default_rng(0)
    truth = alpha / (alpha + beta)
    runs = 3000
    covered = 0
    for _ in range(runs):
        chance = random.beta(alpha, beta, images)
        correct = random.random((images, draws)) < chance[:, None]
        accuracy, half = accuracy_ci95(correct)
        covered += abs(accuracy - truth) <= half
    # 95 % nominal; the standard error of the estimate is 0.4 %. Too wide is a fault as well.
    assert 0.938 <= covered / runs <= 0.985


def test_interval_that_ignores_the_clusters_would_not_cover():
    random = np.random.default_rng(0)
    chance = random.beta(0.3, 0.2, 400)
    correct = random.random((400, 8)) < chance[:, None]
    accuracy, half = accuracy_ci95(correct)
    naive = 1.96 * np.sqrt(accuracy * (1 - accuracy) / correct.size)
    assert half > 1.8 * naive


@pytest.mark.parametrize("value", [0, 1])
def test_interval_has_a_floor_where_no_answer_differs(value):
    accuracy, half = accuracy_ci95(np.full((100, 4), value))
    assert accuracy == value
    assert half == pytest.approx(1.96**2 / (100 + 1.96**2), rel=1e-3)  # Wilson's end for 100 of 100


def test_interval_of_one_draw_is_wilsons():
    from scipy.stats import binomtest

    accuracy, half = accuracy_ci95(np.arange(1000) < 500)
    wilson = binomtest(500, 1000).proportion_ci(method="wilson")
    assert accuracy == 0.5
    assert half == pytest.approx((wilson.high - wilson.low) / 2, rel=2e-3)


@given(st.integers(1, 50), st.integers(1, 5), st.integers(0, 2**31))
def test_interval_is_finite_and_ignores_the_order_of_images_and_draws(images, draws, seed):
    random = np.random.default_rng(seed)
    correct = random.random((images, draws)) < 0.7
    accuracy, half = accuracy_ci95(correct)
    shuffled = correct[random.permutation(images)][:, random.permutation(draws)]
    assert 0 <= accuracy <= 1
    assert 0 < half <= 1
    assert accuracy_ci95(shuffled) == pytest.approx((accuracy, half))


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="at least one image"):
        accuracy_ci95(np.zeros((0, 4)))


@pytest.mark.parametrize(("images", "draws"), [(400, 5), (50, 20), (400, 2)])
def test_interval_over_draws_covers_the_accuracy_on_the_images_at_hand(images, draws):
    random = np.random.default_rng(1)
    covered, widths = 0, []
    for _ in range(1500):
        chance = random.beta(0.5, 0.3, images)
        correct = random.random((images, draws)) < chance[:, None]
        half = draws_ci95(correct)
        covered += abs(correct.mean() - chance.mean()) <= half
        widths.append(half / accuracy_ci95(correct)[1])
    assert 0.93 <= covered / 1500 <= 0.97
    assert np.mean(widths) < 0.9  # images are no part of it


@pytest.mark.parametrize("shape", [(0, 4), (5, 1), (5,)])
def test_interval_over_draws_needs_two_of_them(shape):
    with pytest.raises(ValueError, match="two draws"):
        draws_ci95(np.ones(shape))


@pytest.mark.parametrize("draws", [1, 4])
def test_interval_of_a_paired_difference_covers_and_is_narrower_than_two_of_its_own(draws):
    # Both systems meet the same easy and hard images; b has a little less chance on each.
    random = np.random.default_rng(0)
    covered, widths, alone = 0, [], []
    for _ in range(1000):
        chance = random.beta(0.5, 0.3, 1000)
        level = random.random((1000, draws))  # the same noise
        a, b = level < chance[:, None], level < 0.97 * chance[:, None]
        difference, half = paired_difference(a, b)
        covered += abs(difference - 0.03 * 0.625) <= half
        widths.append(half)
        alone.append(np.hypot(accuracy_ci95(a)[1], accuracy_ci95(b)[1]))
    assert 0.93 <= covered / 1000 <= 0.985
    assert np.mean(widths) < 0.5 * np.mean(alone)


def test_paired_difference_is_that_of_means_and_turns_its_sign():
    a, b = np.array([[1, 1], [1, 0], [0, 0]]), np.array([[1, 0, 1], [0, 0, 0], [0, 0, 0]])
    difference, half = paired_difference(a, b)
    assert difference == pytest.approx((1 + 0.5 - 2 / 3) / 3)
    assert paired_difference(b, a) == pytest.approx((-difference, half))
    assert paired_difference(a.mean(1), b.mean(1)) == pytest.approx((difference, half))


def test_systems_that_never_differ_have_an_interval_all_the_same():
    difference, half = paired_difference(np.ones(98), np.ones(98))
    assert difference == 0
    assert half == pytest.approx(1.96 / 100, rel=1e-3)  # one discordant image, half of it on each side


@pytest.mark.parametrize(("a", "b"), [(0, 0), (3, 2)])
def test_paired_difference_needs_the_same_images(a, b):
    with pytest.raises(ValueError, match="same images"):
        paired_difference(np.ones((a, 2)), np.ones((b, 2)))


def test_summarise_groups_all_but_seeds():
    rows = [
        {"device": d, "system": s, "seed": seed, "accuracy": a}
        for d, s, seed, a in [
            ("mcu", "kdnas", 0, 0.8),
            ("mcu", "kdnas", 1, 0.9),
            ("mcu", "no-kd", 0, 0.7),
            ("phone", "kdnas", 0, 0.5),
        ]
    ]
    first, second, third = summarise(rows)
    assert first == {
        "device": "mcu",
        "system": "kdnas",
        "mean": pytest.approx(0.85),
        "std": pytest.approx(0.1 / 2**0.5),
        "seeds": 2,
    }
    assert (second["system"], second["std"], second["seeds"]) == ("no-kd", None, 1)
    assert (third["device"], third["mean"]) == ("phone", 0.5)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_rank_correlation_is_scipys(pairs):
    from scipy.stats import spearmanr

    a, b = zip(*pairs, strict=True)
    ours = rank_correlation(a, b)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert ours is None
    else:
        assert ours == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
