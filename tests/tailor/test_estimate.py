import math

import pytest
import torch

from kdnas.tailor.estimate import estimate


def worlds(repeats: int, n: int, m: int, quality: float, seed: int = 0) -> list[tuple[torch.Tensor, ...]]:
    """Students that are right on 80 % of the images, with hints that tell more or less of it."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(repeats):
        right = (torch.rand(n + m, generator=draw) < 0.8).double()
        hint = quality * right + (1 - quality) * torch.rand(n + m, generator=draw).double() - 0.1  # biased, too
        made.append((right[:n], hint[:n], hint[n:]))
    return made


@pytest.mark.parametrize("quality", [0.0, 0.7])
def test_the_bound_holds_as_often_as_it_says(quality: float) -> None:
    found = [estimate(*world, confidence=0.9) for world in worlds(1500, 100, 900, quality)]
    share = sum(e.lower <= 0.8 for e in found) / len(found)
    assert abs(share - 0.9) < 0.03
    mean = sum(e.accuracy for e in found) / len(found)
    assert abs(mean - 0.8) < 4 * 0.04 / math.sqrt(len(found)) + 0.002  # no bias, whatever the hints' own


def test_good_hints_narrow_the_bound_and_bad_ones_do_not_widen_it() -> None:
    def spread(quality: float) -> float:
        found = [estimate(*world, confidence=0.9).accuracy for world in worlds(600, 100, 900, quality)]
        return float(torch.tensor(found).std())

    alone = math.sqrt(0.8 * 0.2 / 100)
    assert spread(0.7) < 0.6 * alone
    assert spread(0.0) < 1.1 * alone


def test_without_hints_it_is_the_mean_and_its_standard_error() -> None:
    correct = torch.tensor([1.0, 1.0, 0.0, 1.0] * 25)
    found = estimate(correct, torch.rand(100), torch.empty(0), confidence=0.5)
    assert found.accuracy == found.lower == 0.75
    found = estimate(correct, torch.rand(100), torch.empty(0), confidence=0.8413447)  # one standard error
    assert found.accuracy - found.lower == pytest.approx(float(correct.std()) / 10, rel=1e-4)


def test_no_error_is_no_proof_of_none() -> None:
    found = estimate(torch.ones(50), torch.ones(50), torch.ones(50), confidence=0.9)
    assert found.accuracy == 1.0 and found.lower < 1.0


def test_an_estimate_is_a_share() -> None:
    # Hints that are much better without labels than with them carry it past 1.
    correct = torch.tensor([0.0, 1.0, 1.0, 1.0] * 10)
    found = estimate(correct, correct - 0.1, torch.tensor([0.99, 1.0] * 500), confidence=0.8)
    assert found.accuracy == 1.0 and 0 <= found.lower <= 1.0
