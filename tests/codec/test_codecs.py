"""Every codec by name: power 1 per sample, no batch-mates, something learns, and it fits our size."""

import pytest
import torch

from kdnas.codec import CAT, Codec, codec_name, fit_codec, list_codecs
from kdnas.codec.codebook import psk_words
from kdnas.codec.registry import count
from kdnas.errors import InputError
from kdnas.link import Link, constant_conditions

D, K, B = 20, 13, 6  # 13 is no multiple of the symbols of an index


def made(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Codec(name, D, K)


def inputs(seed=0, batch=B):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, D, generator=generator)
    return z, torch.rand(batch, generator=generator) * 30 - 10, torch.randint(1, K + 1, (batch,), generator=generator)


@pytest.mark.parametrize("name", list_codecs())
def test_power_is_one_per_sample_and_nothing_is_sent_past_the_length(name):
    z, snr, length = inputs()
    code = made(name).encoder(z * torch.logspace(-2, 2, B)[:, None], snr, length)
    assert code.shape == (B, K) and code.dtype == torch.complex64
    sent = torch.arange(K) < length[:, None]
    assert torch.equal(code[~sent], torch.zeros_like(code[~sent]))
    assert torch.allclose(code.abs().square().sum(1) / length, torch.ones(B), atol=1e-4)


@pytest.mark.parametrize("name", list_codecs())
def test_batch_mates_do_not_matter_and_nothing_past_the_length_is_read(name):
    codec, (z, snr, length) = made(name).eval().requires_grad_(False), inputs()
    mates = [part.clone() for part in inputs(seed=1)]
    for part, own in zip(mates, (z, snr, length), strict=True):
        part[2] = own[2]
    code, other = codec.encoder(z, snr, length), codec.encoder(*mates)
    assert torch.equal(code[2], other[2])
    assert torch.equal(codec.decoder(code, snr, length)[2], codec.decoder(other, *mates[1:])[2])
    beyond = torch.where(torch.arange(K) < length[:, None], code, 1e6 + 0j)
    assert torch.allclose(codec.decoder(beyond, snr, length), codec.decoder(code, snr, length), atol=1e-5)


@pytest.mark.parametrize("name", list_codecs())
def test_all_parameters_learn_through_the_channel(name):
    codec, (z, _, _) = made(name), inputs(batch=64)
    link = Link(torch.nn.Identity(), codec.encoder, codec.decoder, torch.nn.Linear(D, 3))
    at = constant_conditions(64, 5.0, "rayleigh", K)
    outcome = link.through(z, at, torch.Generator().manual_seed(0))
    assert outcome.features.shape == (64, D)
    torch.nn.functional.cross_entropy(outcome.logits, torch.arange(64) % 3).backward()
    for part, parameter in link.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, part


@pytest.mark.parametrize("name", list_codecs())
def test_an_snr_for_each_symbol_that_is_the_same_is_one_for_the_word(name):
    codec, (z, snr, length) = made(name).requires_grad_(False), inputs()
    code = codec.encoder(z, snr, length)
    word = codec.decoder(code, snr, length, snr + 2)
    assert torch.allclose(codec.decoder(code, snr, length, (snr + 2)[:, None].expand(B, K)), word, atol=1e-4)


@pytest.mark.parametrize("name", list_codecs())
def test_extreme_conditions_stay_finite(name):
    codec, (z, _, length) = made(name).requires_grad_(False), inputs()
    for snr_db in (-200.0, 200.0):
        code = codec.encoder(z, torch.full((B,), snr_db), length)
        decoded = codec.decoder(code * 1e6, torch.zeros(B), length, torch.full((B,), -120.0))
        assert torch.isfinite(torch.view_as_real(code)).all() and torch.isfinite(decoded).all()


@pytest.mark.parametrize("name", sorted(set(list_codecs()) - {"cat"}))
def test_a_fitted_codec_is_the_widest_that_is_no_larger_than_ours(name):
    ours = CAT(64, 64)
    fitted = fit_codec(name, ours, 64, 64)
    for half in ("encoder", "decoder"):
        own, limit = getattr(fitted, half), count(getattr(ours, half))
        wider = type(own)(**{**own.config, "width": own.config["width"] + 1})
        assert 0.75 * limit < count(own) <= limit < count(wider)
    assert codec_name(fitted.encoder, fitted.decoder) == name


@pytest.mark.parametrize(("name", "heeds"), [("dense", False), ("dense-attention", False), ("snr-attention", True)])
def test_which_codecs_heed_the_snr(name, heeds):
    codec, (z, snr, _) = made(name).requires_grad_(False), inputs()
    length = torch.full((B,), K)
    code = codec.encoder(z, snr, length)
    assert torch.equal(codec.encoder(z, snr + 6, length), code) is not heeds
    assert torch.equal(codec.decoder(code, snr, length, snr + 6), codec.decoder(code, snr, length)) is not heeds


def test_codebook_sends_points_of_its_constellation_and_reads_them_back():
    codec, (z, snr, _) = made("codebook").requires_grad_(False), inputs()
    length = torch.full((B,), K)
    code = codec.encoder(z, snr, length)
    quarter = code.angle() / (torch.pi / 2) - 0.5
    assert torch.allclose(quarter, quarter.round(), atol=1e-4) and torch.allclose(code.abs(), torch.ones(B, K))
    # At high SNR the posterior is the index itself: noise too weak to cross a border changes nothing.
    high, near = torch.full((B,), 30.0), code * torch.polar(torch.tensor(1.0), torch.tensor(0.3))
    assert torch.allclose(codec.decoder(near, high, length), codec.decoder(code, high, length), atol=1e-5)
    assert psk_words(4, 2).shape == (16, 4) and len(psk_words(4, 2).unique(dim=0)) == 16


def test_unknown_codecs_and_sizes_are_named():
    with pytest.raises(InputError, match=r"unknown codec 'jpeg'.*dense"):
        Codec("jpeg", D, K)
    with pytest.raises(InputError, match="width"):
        Codec("dense", D, K, encoder={"width": 0})
    with pytest.raises(InputError, match="make our own larger"):
        least = {"tokens": 1, "width": 1, "heads": 1, "condition": 1, "expansion": 1}
        fit_codec("dense", CAT(1, 1, encoder=least), 64, 64)
