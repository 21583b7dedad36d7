import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from kdnas.tailor.superclasses import cluster, confusion, default_count


def same_partition(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a[:, None] == a) == (b[:, None] == b)).all())


@given(groups=st.lists(st.integers(0, 3), min_size=2, max_size=12), seed=st.integers(0, 1000))
def test_planted_blocks_are_recovered(groups: list[int], seed: int) -> None:
    planted = torch.tensor(groups)
    noise = torch.rand(len(groups), len(groups), generator=torch.Generator().manual_seed(seed))
    confused = 0.5 * (planted[:, None] == planted) + 0.2 * noise
    found = cluster(confused, len(planted.unique()))
    assert same_partition(found, planted)
    firsts = [groups.index(group) for group in dict.fromkeys(groups)]
    assert found[firsts].tolist() == list(range(len(firsts)))  # numbered by their first class


@given(classes=st.integers(2, 12), count=st.integers(1, 12), seed=st.integers(0, 1000))
def test_it_is_average_linkage(classes: int, count: int, seed: int) -> None:
    count = min(count, classes)
    confused = torch.rand(classes, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    distance = 2 - (confused + confused.T).numpy()
    np.fill_diagonal(distance, 0)
    expected = fcluster(linkage(squareform(distance, checks=False), "average"), count, "maxclust")
    assert same_partition(cluster(confused, count), torch.as_tensor(expected))


def test_ties_are_broken_by_class_number() -> None:
    assert cluster(torch.zeros(4, 4), 3).tolist() == [0, 0, 1, 2]
    assert cluster(torch.zeros(4, 4), 4).tolist() == [0, 1, 2, 3]


def test_confusion_is_the_mean_posterior_of_what_the_teacher_says() -> None:
    posteriors = torch.tensor([[0.6, 0.4, 0.0], [0.8, 0.0, 0.2], [0.1, 0.9, 0.0]])
    expected = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.9, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(confusion(posteriors), expected)


def test_the_default_count_is_the_square_root() -> None:
    assert [default_count(n) for n in (2, 3, 10, 100)] == [2, 2, 3, 10]  # one superclass would teach nothing
