"""The link: its halves make the whole, conditions act per sample, and it learns to survive the channel."""

import math

import pytest
import torch
from torch import nn

from kdnas.channel import ImageNoise, combined_snr_db, get_channel, prefix_mask
from kdnas.codec import CAT
from kdnas.errors import InputError
from kdnas.link import Conditions, Link, Received, constant_conditions, draw_conditions, transmit

D, K, CLASSES, B = 16, 8, 5, 6
CHANNELS = ["awgn", "rayleigh", "rayleigh(fading=fast, csi=noisy, csi_error=0.1)", "multipath", "erasure(p=0.5)"]


def make_link(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codec = CAT(D, K, encoder={"tokens": 4}, decoder={"tokens": 4})
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, D))
        return Link(encoder, codec.encoder, codec.decoder, nn.Linear(D, CLASSES))


@pytest.fixture(scope="module")
def link():
    return make_link().eval().requires_grad_(False)


def images(seed=0, batch=B):
    return torch.rand(batch, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("symbols", [1, 3, K, None])
def test_halves_make_the_whole(link, name, symbols):
    x, snr = images(), torch.linspace(-5, 15, B)
    whole = link(x, snr, symbols, name, generator=ImageNoise(torch.arange(B), 0, 1))
    sent = link.encode(x, snr, symbols)
    assert sent.shape == (B, symbols or K)
    channel = get_channel(name)
    state = channel.sample(B, sent.shape[1], snr, ImageNoise(torch.arange(B), 0, 1))
    received, effective = channel.equalise(channel.apply(sent, state), state, snr)
    assert torch.allclose(link.decode(received, snr, effective), whole, atol=1e-5)


def test_halves_work_on_two_machines(link):
    transmitter = Link(link.encoder, link.channel_encoder, nn.Identity(), nn.Identity())
    receiver = Link(nn.Identity(), nn.Identity(), link.channel_decoder, link.semantic_decoder)
    sent = transmitter.encode(images(), 10.0, 5)
    assert torch.equal(receiver.decode(sent, 10.0), link.decode(link.encode(images(), 10.0, 5), 10.0))


def test_scalar_and_tensor_snr_agree(link):
    x = images()
    assert torch.equal(link.encode(x, 10.0), link.encode(x, torch.full((B,), 10.0)))
    sent = link.encode(x, 10)
    assert torch.equal(link.decode(sent, 10), link.decode(sent, torch.full((B,), 10.0), 10.0))


@pytest.mark.parametrize("name", CHANNELS)
def test_an_image_does_not_see_its_batch_mates(link, name):
    x, other, ids = images(), images(seed=1), torch.arange(B)
    other[3] = x[3]
    whole = link(x, 3.0, 5, name, generator=ImageNoise(ids))
    mates = link(other, 3.0, 5, name, generator=ImageNoise(torch.where(ids == 3, ids, ids + 50)))
    assert torch.equal(whole[3], mates[3])
    alone = link(x[3:4], 3.0, 5, name, generator=ImageNoise(ids[3:4]))
    assert torch.allclose(alone[0], whole[3], atol=1e-5)


@pytest.mark.parametrize("name", CHANNELS)
def test_evaluation_does_not_depend_on_the_batch_size(link, name):
    x, ids = images(batch=20), torch.arange(20)
    whole = link(x, 3.0, 5, name, generator=ImageNoise(ids))
    parts = [link(x[i : i + 7], 3.0, 5, name, generator=ImageNoise(ids[i : i + 7])) for i in range(0, 20, 7)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


def test_every_argument_of_the_link_acts(link):
    x, noise = images(), ImageNoise(torch.arange(B))
    base = link(x, 5.0, 6, "awgn", generator=noise)
    for changed in (
        link(x, 8.0, 6, "awgn", generator=noise),
        link(x, 5.0, 5, "awgn", generator=noise),
        link(x, 5.0, 6, "rayleigh", generator=noise),
        link(x, 5.0, 6, "awgn", generator=ImageNoise(torch.arange(B), draw=1)),
        link(x.flip(0), 5.0, 6, "awgn", generator=noise),
    ):
        assert ((base - changed).abs().amax(1) > 1e-4).all()
    sent = link.encode(x, 5.0)
    assert ((link.decode(sent, 5.0) - link.decode(sent, 2.0)).abs().amax(1) > 1e-4).all()


@pytest.mark.parametrize("other", ["rayleigh", "rayleigh(fading=fast)", "rayleigh(fading=fast, equaliser=zf)"])
def test_mixed_conditions_equal_each_sample_alone(other):
    ids = torch.arange(4)
    conditions = Conditions(
        torch.tensor([0.0, 5.0, 10.0, 15.0]), torch.tensor([1, 0, 1, 0]), torch.tensor([1, 2, K, 5]), ("awgn", other)
    )
    x = torch.randn(4, K, dtype=torch.complex64, generator=seeded())
    mixed = transmit(x, conditions, ImageNoise(ids))
    assert mixed.effective_snr_db.shape == ((4, K) if other == "rayleigh(fading=fast)" else (4,))
    for i in range(4):
        name, length = conditions.channels[conditions.channel[i]], int(conditions.length[i])
        alone = constant_conditions(1, float(conditions.snr_db[i]), name, length)
        one = transmit(x[i : i + 1], alone, ImageNoise(ids[i : i + 1]))
        assert torch.allclose(one.symbols[0], mixed.symbols[i], atol=1e-6)
        assert torch.allclose(one.effective_snr_db[0], mixed.effective_snr_db[i], atol=1e-5)
        assert torch.equal(mixed.symbols[i, length:], torch.zeros(K - length, dtype=torch.complex64))


def test_drawn_conditions_are_independent_and_as_stated():
    n, k = 40_000, 64
    drawn = draw_conditions(n, (-10.0, 20.0), ("awgn", "rayleigh"), k, seeded())
    assert drawn.snr_db.min() >= -10 and drawn.snr_db.max() <= 20
    assert abs(drawn.snr_db.mean() - 5) < 5 * (30 / 12**0.5) / n**0.5
    assert abs(drawn.channel.float().mean() - 0.5) < 5 * 0.5 / n**0.5
    assert set(drawn.length.tolist()) == set(range(1, k + 1))
    # Lengths are log-uniform in octaves; 1 and 2 have to be drawn twice in a row, and 15 % send the full length.
    short = math.log(3, k + 1)
    for low, high, expected in ((1, 3, 0.85 * short**2), (4, 8, 0.85 * math.log(2, k + 1) * (1 + short))):
        share = ((drawn.length >= low) & (drawn.length < high)).float().mean()
        assert abs(share - expected) < 5 * (expected / n) ** 0.5
    parts = torch.stack([drawn.snr_db, drawn.channel.float(), drawn.length.float()])
    correlation = torch.corrcoef(parts) - torch.eye(3)
    assert correlation.abs().max() < 5 / n**0.5
    again = draw_conditions(n, (-10.0, 20.0), ("awgn", "rayleigh"), k, seeded())
    assert all(torch.equal(a, b) for a, b in zip(drawn[:3], again[:3], strict=True))


def test_snrs_may_lean_to_the_low_end():
    n = 40_000
    leant = draw_conditions(n, (-10.0, 20.0), ("awgn",), K, seeded(), snr_power=2.0)
    assert leant.snr_db.min() >= -10 and leant.snr_db.max() <= 20
    for share in (0.25, 0.5, 0.9):  # P(u² < x) = sqrt(x)
        below = (leant.snr_db < -10 + 30 * share).float().mean()
        assert abs(below - share**0.5) < 5 * 0.5 / n**0.5
    assert torch.equal(leant.length, draw_conditions(n, (-10.0, 20.0), ("awgn",), K, seeded()).length)


def test_one_channel_and_one_symbol_can_be_drawn():
    drawn = draw_conditions(50, (3.0, 3.0), ("rayleigh",), 1, seeded())
    assert torch.equal(drawn.snr_db, torch.full((50,), 3.0))
    assert drawn.channel.sum() == 0 and torch.equal(drawn.length, torch.ones(50, dtype=torch.int64))


def test_what_does_not_fit_is_refused(link):
    with pytest.raises(InputError, match="1 to 8 symbols"):
        link.encode(images(), 10.0, K + 1)
    with pytest.raises(InputError, match="not 0"):
        link.encode(images(), 10.0, 0)
    with pytest.raises(InputError, match="not 9"):
        link.decode(torch.zeros(2, K + 1, dtype=torch.complex64), 10.0)
    with pytest.raises(InputError, match="unknown channel"):
        link(images(), 10.0, channel="ether", generator=seeded())
    with pytest.raises(InputError, match="unknown channel"):
        draw_conditions(4, (0.0, 1.0), ("ether",), 4, seeded())


def test_a_short_training_survives_the_channel():
    """On clustered features accuracy rises with SNR and length, and is near the clean one at 10 dB."""
    generator = seeded(1)
    centres = 2.0 * torch.randn(CLASSES, D, generator=generator)

    def batch(n):
        labels = torch.randint(0, CLASSES, (n,), generator=generator)
        return centres[labels] + torch.randn(n, D, generator=generator), labels

    link = make_link()
    optimiser = torch.optim.Adam(link.parameters(), 3e-3)
    for _ in range(250):
        z, labels = batch(64)
        conditions = draw_conditions(64, (-10.0, 20.0), ("awgn", "rayleigh"), K, generator)
        out = link.through(z, conditions, generator)
        loss = nn.functional.cross_entropy(out.logits, labels) + (out.features - z).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    z, labels = batch(1000)
    clean = (torch.cdist(z, centres).argmin(1) == labels).float().mean()

    def accuracy(snr_db, symbols, channel="awgn"):
        conditions = constant_conditions(1000, snr_db, channel, symbols)
        with torch.no_grad():
            out = link.through(z, conditions, ImageNoise(torch.arange(1000)))
        return float((out.logits.argmax(1) == labels).float().mean())

    by_snr = [accuracy(snr, K) for snr in (-10.0, 0.0, 10.0)]
    by_length = [accuracy(-3.0, length) for length in (1, 3, K)]
    faded = [accuracy(snr, K, "rayleigh") for snr in (-10.0, 0.0, 10.0)]
    for curve in (by_snr, by_length, faded):
        assert curve[0] + 0.03 < curve[1] and curve[1] < curve[2] + 0.02
    assert by_snr[-1] > clean - 0.02


def test_a_wrong_snr_is_told_to_both_ends_and_changes_no_noise(link):
    x, noise = images(), ImageNoise(torch.arange(B))
    right = constant_conditions(B, 5.0, "rayleigh", 6)
    wrong = right._replace(error_db=3.0)
    code = link.channel_encoder(link.encoder(x), right.snr_db + 3, right.length)
    arrived, believed = transmit(code, right, noise), transmit(code, wrong, noise)
    assert torch.equal(arrived.symbols, believed.symbols)
    assert torch.allclose(believed.effective_snr_db, arrived.effective_snr_db + 3)
    by_hand = link.receive(believed, right.snr_db + 3, right.length)
    assert torch.equal(link.through(link.encoder(x), wrong, noise).logits, by_hand.logits)
    assert not torch.equal(link.through(link.encoder(x), right, noise).logits, by_hand.logits)


@pytest.mark.parametrize("name", CHANNELS)
def test_a_transmitter_with_csi_is_told_the_snr_after_fading(name):
    knowing = make_link().eval().requires_grad_(False)
    knowing.channel_encoder.told = "effective"
    assert knowing.transmitter_csi and not make_link().transmitter_csi
    z, noise = knowing.encoder(images()), ImageNoise(torch.arange(B), 0, 1)
    at = constant_conditions(B, 5.0, name, 6)._replace(error_db=1.0)
    channel, sent = get_channel(name), prefix_mask(at.length, K)
    state = channel.sample(B, K, at.snr_db, noise)
    # The effective SNR does not depend on what is sent.
    _, effective = channel.equalise(torch.ones(B, K, dtype=torch.complex64), state, at.told_snr_db, sent)
    told = combined_snr_db(effective, sent)
    code = knowing.channel_encoder(z, told, at.length)
    arrived, _ = channel.equalise(channel.apply(code, state), state, at.told_snr_db, sent)
    by_hand = knowing.receive(Received(arrived * sent, effective), told, at.length)
    assert torch.allclose(knowing.through(z, at, noise).logits, by_hand.logits, atol=1e-5)
    if name == "awgn":
        assert torch.equal(knowing.through(z, at, noise).logits, make_link().eval().through(z, at, noise).logits)
    elif name == "rayleigh":
        assert torch.allclose(told, 6.0 + 20 * state.h[:, 0].abs().log10(), atol=1e-4)
        assert told.std() > 1


def test_drawn_errors_of_the_snr_are_uniform_and_independent_of_it():
    n = 40_000
    drawn = draw_conditions(n, (-10.0, 20.0), ("awgn",), K, seeded(), error_db=3.0)
    error = drawn.told_snr_db - drawn.snr_db
    assert error.min() >= -3 and error.max() <= 3
    assert abs(error.mean()) < 5 * (6 / 12**0.5) / n**0.5
    assert abs(error.var() - 3) < 0.1  # 6² / 12
    assert abs(torch.corrcoef(torch.stack([error, drawn.snr_db]))[0, 1]) < 5 / n**0.5
    # Without errors the same conditions are drawn.
    plain = draw_conditions(n, (-10.0, 20.0), ("awgn",), K, seeded())
    assert torch.equal(plain.snr_db, drawn.snr_db) and torch.equal(plain.told_snr_db, plain.snr_db)
