"""Digital systems: the radio against theory and Sionna's own channel, and what is told of what arrives."""

import math
import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdnas.channel import ImageNoise
from kdnas.codec.ldpc import MCS, SHORTEST, BlockCode, Mcs, sionna
from kdnas.codec.quantise import Quantiser
from kdnas.errors import InputError
from kdnas.evaluate import Point, digital
from kdnas.evaluate.digital import (
    BlockErrors,
    Coded,
    Draws,
    answers_at_capacity,
    answers_of_features,
    answers_of_images,
    capacity_bits,
    schemes,
    send,
)
from kdnas.link import constant_conditions, transmit

K = 64
NAMES = [mcs.name for mcs in MCS]


def q(x):
    return 0.5 * math.erfc(x / math.sqrt(2))


def random_bits(*shape, seed=0):
    return torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)).float()


@pytest.fixture(scope="module")
def radio():
    pytest.importorskip("sionna")


# Gray-mapped QAM over AWGN, E_s/N_0 = snr: Proakis, Digital Communications, 5.2 (16-QAM: all three terms).
@pytest.mark.parametrize(("bits", "snr_db"), [(1, 3.0), (2, 4.0), (4, 10.0)])
def test_uncoded_bit_errors_are_those_of_theory(radio, bits, snr_db):
    mcs = next(mcs for mcs in MCS if mcs.bits == bits)
    _, _, mapper, demapper = BlockCode(mcs, K)._parts
    sent = random_bits(2000, 64 * bits)
    noise = ImageNoise(torch.arange(2000))
    got = transmit(mapper(sent), constant_conditions(2000, snr_db, "awgn", K), noise)
    told = demapper(got.symbols, torch.full((2000, K), 10 ** (-snr_db / 10))) > 0
    snr = 10 ** (snr_db / 10)
    a = math.sqrt(snr / 5)
    theory = {1: q(math.sqrt(2 * snr)), 2: q(math.sqrt(snr)), 4: (3 * q(a) + 2 * q(3 * a) - q(5 * a)) / 4}[bits]
    errors, n = float((told != sent.bool()).float().mean()), sent.numel()
    assert abs(errors - theory) < 4 * math.sqrt(theory / n)


@pytest.mark.parametrize("mcs", MCS, ids=NAMES)
def test_every_scheme_has_power_one_and_comes_back_without_noise(radio, mcs):
    code = BlockCode(mcs, K)
    bits = random_bits(40, 1, code.payload)
    assert float(code.encode(bits[:, 0]).abs().square().mean()) == pytest.approx(1, abs=0.1)
    assert torch.equal(send(code, bits, Point("awgn", 35.0, K), Draws(torch.arange(40), 1, 0)), bits)


def test_block_errors_are_those_over_sionnas_own_channel(radio):
    from sionna.phy.channel import AWGN

    code, words, snr_db = BlockCode(Mcs(2, MCS[3].rate), K), 600, 1.0
    bits = random_bits(words, 1, code.payload)
    ours = (send(code, bits, Point("awgn", snr_db, K), Draws(torch.arange(words), 1, 0)) != bits).any(-1)
    y = AWGN(device="cpu")(code.encode(bits[:, 0]), torch.tensor(10 ** (-snr_db / 10)))
    theirs = (code.decode(y, torch.full((words,), snr_db)) != bits[:, 0]).any(-1)
    a, b = float(ours.float().mean()), float(theirs.float().mean())
    assert 0.02 < a < 0.98 and abs(a - b) < 4 * math.sqrt((a * (1 - a) + b * (1 - b)) / words)


def test_without_sionna_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "sionna", None)
    monkeypatch.setitem(sys.modules, "sionna.phy", None)
    with pytest.raises(InputError, match=r"kdnas\[baselines\]"):
        sionna()


def classes(z):
    return z[:, :3].argmax(1)


def test_features_at_high_snr_are_told_as_quantised_ones(radio):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(60, 8, generator=generator)
    quantiser, point = Quantiser.fit(z), Point("awgn", 35.0, K)
    answers, (choice,) = answers_of_features(
        quantiser, classes, (z[:40], torch.arange(40)), (z[40:], torch.arange(20)), [point], 2, 0
    )
    sent = quantiser.encode(z[40:], choice.mcs.payload(K))
    assert torch.equal(answers[point], classes(quantiser.decode(sent))[:, None].expand(-1, 2))
    assert choice.agreement > 0.9 and choice.row()["snr_db"] == 35.0


def test_features_that_fit_into_no_block_are_refused():
    assert len(schemes(1000)) == len(MCS)
    fewest = next(k for k in range(1, 100) if any(mcs.payload(k) >= SHORTEST for mcs in MCS))
    assert schemes(fewest)
    with pytest.raises(InputError, match=rf"in {fewest - 1} symbols: leave that baseline out"):
        schemes(fewest - 1)


@given(images=st.integers(1, 5), each=st.integers(1, 5), at=st.integers(0, 20), count=st.integers(1, 9))
def test_draws_of_an_image_are_side_by_side(images, each, at, count):
    ids = torch.arange(images) * 7 + 3
    noise = Draws(ids, each, 11).noise(slice(at, at + count))
    pairs = [(int(i), d) for i in ids for d in range(each)][at : at + count]
    assert list(zip(noise.ids.tolist(), noise.draw.tolist(), strict=True)) == pairs and noise.seed == 11


def coded(n=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(20, 200, (n, 4), generator=generator).cumsum(1)
    return Coded(bits, torch.randint(3, (n, 4), generator=generator))


def test_the_best_that_fits_is_found_for_every_limit():
    table = coded()
    limits = torch.tensor([[0, 30, 100, 10_000]]).expand(50, -1) + torch.arange(50)[:, None]
    for number, row in enumerate(limits.tolist()):
        for draw, limit in enumerate(row):
            fits = [int(a) for b, a in zip(table.bits[number], table.answers[number], strict=True) if b <= limit]
            assert int(table.best(limits)[number, draw]) == (fits[-1] if fits else -1)
    assert torch.equal(table.best(100), table.best(torch.full((50, 1), 100)))


def test_capacity_is_shannons_and_rises_with_snr_and_symbols():
    draws = Draws(torch.arange(30), 4, 0)
    assert (capacity_bits(Point("awgn", 10.0, K), draws) == int(K * math.log2(11))).all()
    for channel in ("awgn", "rayleigh"):
        bits = [capacity_bits(Point(channel, snr, K), draws) for snr in range(-10, 21, 5)]
        assert all((b >= a).all() for a, b in pairwise(bits))
        assert (capacity_bits(Point(channel, 5.0, 2 * K), draws) >= 2 * bits[3]).all()
    # The mean over Rayleigh gains, E log2(1 + 10 |h|^2) = e^(1/10) E_1(1/10) / ln 2 = 2.9 bits.
    many = capacity_bits(Point("rayleigh", 10.0, K), Draws(torch.arange(5000), 1, 0)).double()
    assert abs(float(many.mean()) / K - 2.9007) < 4 * float(many.std()) / K / math.sqrt(5000) + 1 / K
    # What fits at a low SNR fits at a high one.
    table = coded()
    told = answers_at_capacity(
        table, [Point("awgn", snr, K) for snr in (-10.0, 0.0, 20.0)], Draws(torch.arange(50), 1, 0)
    )
    received = [float((answer >= 0).float().mean()) for answer in told.values()]
    assert received == sorted(received) and received[0] == 0 and received[-1] == 1


def test_images_at_high_snr_are_the_best_that_fit_and_lost_ones_are_told_apart(radio, tmp_path, monkeypatch):
    table, truth = coded(), coded().answers[:, -1]
    points = [Point("awgn", snr, K) for snr in (-20.0, 35.0)]
    given = (table, torch.arange(50), truth), (table, torch.arange(50))
    answers, choices = answers_of_images(*given, points, 2, 0, guess=0)
    low, high = (answers[point] for point in points)
    assert (low == -1).float().mean() > 0.9
    assert torch.equal(high, table.best(choices[1].mcs.payload(K)).expand(-1, 2))
    monkeypatch.setattr(digital, "BLOCK", K)  # fewer and shorter words take less time
    monkeypatch.setattr(digital, "WORDS", 60)
    errors = BlockErrors(tmp_path / "errors.json")
    assert errors(MCS[-1], K, 0.0) == 1 and errors.rates == {}
    longer, _ = answers_of_images(*given, [Point("awgn", 12.0, 512)], 2, 0, guess=0, errors=errors)
    assert torch.equal(longer[Point("awgn", 12.0, 512)], table.answers[:, -1:].expand(-1, 2))
    assert errors.rates and BlockErrors(tmp_path / "errors.json").rates == errors.rates
