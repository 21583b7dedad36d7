"""Splits: a partition, stratified where labels are seen, exact in number, a function of the seed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdnas.data import make_splits
from kdnas.data.splits import apportion
from kdnas.errors import InputError


def parts(splits):
    return [
        splits.weights_labelled,
        splits.weights_unlabelled,
        splits.architecture_labelled,
        splits.architecture_unlabelled,
    ]


def test_balanced_classes_are_split_exactly():
    labels = torch.arange(10_000) % 10
    splits = make_splits(labels, 1_000, seed=0)
    assert [len(ids) for ids in parts(splits)] == [800, 7_200, 200, 1_800]
    assert labels[splits.weights_labelled].bincount().tolist() == [80] * 10
    assert labels[splits.architecture_labelled].bincount().tolist() == [20] * 10


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_class_sizes_give_a_stratified_partition(data):
    counts = data.draw(st.lists(st.integers(2, 60), min_size=2, max_size=8))
    total = sum(counts)
    if total < 5 * len(counts):
        counts[0] += 5 * len(counts) - total
        total = sum(counts)
    n = data.draw(st.one_of(st.integers(5 * len(counts), total), st.just("all")))
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(total, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))]
    splits = make_splits(labels, n, seed=data.draw(st.integers(0, 99)))

    assert torch.cat(parts(splits)).sort().values.tolist() == list(range(total))
    for ids in parts(splits):
        assert ids.dtype == torch.int64 and torch.equal(ids, ids.sort().values)
    number = total if n == "all" else n
    assert len(splits.architecture_labelled) == number // 5
    assert len(splits.weights_labelled) == number - number // 5
    assert len(splits.architecture_unlabelled) == (total - number) // 5
    for ids in (splits.weights_labelled, splits.architecture_labelled):
        assert (labels[ids].bincount(minlength=len(counts)) >= 1).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=10), st.floats(0, 1), st.integers(0, 2))
def test_shares_add_up_within_their_bounds(weights, fraction, minimum):
    limits = [weight + minimum for weight in weights]
    least = minimum * len(weights)
    total = least + int(fraction * (sum(limits) - least))
    shares = apportion(total, weights, minimum, limits)
    assert sum(shares) == total
    assert all(minimum <= share <= limit for share, limit in zip(shares, limits, strict=True))
    ideal = [total * weight / sum(weights) for weight in weights]
    if all(minimum <= want <= limit - 1 for want, limit in zip(ideal, limits, strict=True)):
        assert all(abs(share - want) < 1 for share, want in zip(shares, ideal, strict=True))


def test_the_seed_decides_and_nothing_else():
    labels = torch.arange(500) % 5
    torch.manual_seed(1)
    first = make_splits(labels, 100, seed=3)
    torch.manual_seed(2)
    again, other = make_splits(labels, 100, seed=3), make_splits(labels, 100, seed=4)
    assert first.hash == again.hash != other.hash
    assert all(torch.equal(a, b) for a, b in zip(parts(first), parts(again), strict=True))


def test_fewer_labels_are_among_more_labels():
    labels = torch.arange(1_000) % 10

    def labelled(n):
        splits = make_splits(labels, n, seed=0)
        return set(torch.cat([splits.weights_labelled, splits.architecture_labelled]).tolist())

    assert labelled(100) < labelled(200) < labelled(500)


@pytest.mark.parametrize(
    ("labels", "n", "message"),
    [
        (torch.arange(100) % 10, 49, "too few for 10 classes: use at least 50"),
        (torch.arange(100) % 10, 101, "more than the 100 training images"),
        (torch.arange(100) % 10, "some", "neither a whole number nor 'all'"),
        (torch.arange(100) % 10, True, "neither"),
        (torch.tensor([0] * 30 + [1]), 20, "class number 1 has 1 training image"),
        (torch.tensor([0] * 30 + [2] * 30), 20, "class number 1 has 0 training image"),
    ],
)
def test_impossible_numbers_are_refused(labels, n, message):
    with pytest.raises(InputError, match=message):
        make_splits(labels, n, seed=0)
