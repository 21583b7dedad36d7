"""CAT: a prefix code for every length, of power 1, that heeds SNR and length and never its batch-mates."""

import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kdnas.codec import CAT, ChannelDecoder, ChannelEncoder
from kdnas.codec.cat import ORDERS, class_words
from kdnas.errors import InputError

D, K, B = 20, 12, 6


@pytest.fixture(scope="module", params=[{}, {"classes": 3}], ids=["features", "and class"])
def codec(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = CAT(D, K, encoder={"tokens": 4, **request.param}, decoder={"tokens": 4, **request.param})
        for parameter in made.parameters():  # away from any special values at the start
            parameter.data += 0.1 * torch.randn_like(parameter)
    return made.eval().requires_grad_(False)


def inputs(seed=0, batch=B):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, D, generator=generator)
    snr = torch.rand(batch, generator=generator) * 30 - 10
    length = torch.randint(1, K + 1, (batch,), generator=generator)
    return z, snr, length


@settings(max_examples=25, deadline=None)
@given(d=st.integers(1, 40), k=st.integers(1, 40), tokens=st.integers(1, 9), seed=st.integers(0, 99))
def test_any_sizes_give_a_valid_prefix_code(d, k, tokens, seed):
    made = CAT(d, k, encoder={"tokens": tokens}, decoder={"tokens": tokens})
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(5, d, generator=generator)
    snr = torch.rand(5, generator=generator) * 30 - 10
    length = torch.randint(1, k + 1, (5,), generator=generator)
    code = made.encoder(z, snr, length)
    assert code.shape == (5, k) and code.dtype == torch.complex64
    sent = torch.arange(k) < length[:, None]
    assert torch.equal(code[~sent], torch.zeros_like(code[~sent]))
    power = code.abs().square().sum(1) / length
    assert torch.allclose(power, torch.ones(5), atol=1e-4)
    assert made.decoder(code, snr, length).shape == (5, d)


@settings(max_examples=15, deadline=None)
@given(k=st.integers(1, 24), tokens=st.integers(1, 9), order=st.sampled_from(ORDERS), seed=st.integers(0, 99))
def test_every_prefix_is_decoded_from_its_own_symbols_alone(k, tokens, order, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = CAT(7, k, encoder={"tokens": tokens, "order": order}, decoder={"tokens": tokens})
        z, snr, length = torch.randn(k, 7), torch.randn(k), torch.arange(1, k + 1)
        code = made.encoder(z, snr, length)
        assert torch.allclose(code.abs().square().sum(1) / length, torch.ones(k), atol=1e-4)
        assert torch.equal(code != 0, torch.arange(k) < length[:, None])
        rest = torch.where(code == 0, torch.randn(k, k, dtype=torch.complex64), code)
    assert torch.equal(made.decoder(rest, snr, length), made.decoder(code, snr, length))


def test_the_order_says_which_token_makes_a_symbol():
    for order, first in (("blocks", [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]), ("interleaved", [0, 1, 2, 3, 0, 1, 2, 3, 0, 1])):
        made = ChannelEncoder(5, 10, tokens=4, order=order)
        made.head.register_forward_hook(lambda m, x, y: torch.arange(4.0)[None, :, None].expand_as(y) + 1)
        made.gain.register_forward_hook(lambda m, x, y: torch.zeros_like(y))
        code = made(torch.randn(1, 5), torch.zeros(1), torch.tensor([10]))[0]
        seen = (code.real / code.real[0]).round().sub(1).int().tolist()
        assert seen == first


@pytest.mark.parametrize("length", range(1, K + 1))
def test_power_and_zeros_for_every_length(codec, length):
    z, snr, _ = inputs()
    code = codec.encoder(z * torch.logspace(-2, 2, B)[:, None], snr, torch.full((B,), length))
    assert torch.allclose(code[:, :length].abs().square().mean(1), torch.ones(B), atol=1e-5)
    assert torch.equal(code[:, length:], torch.zeros(B, K - length, dtype=torch.complex64))


def test_batch_mates_do_not_matter(codec):
    z, snr, length = inputs()
    mates = [part.clone() for part in inputs(seed=1)]
    for part, own in zip(mates, (z, snr, length), strict=True):
        part[2] = own[2]
    code, other = codec.encoder(z, snr, length), codec.encoder(*mates)
    assert torch.equal(code[2], other[2])
    assert torch.equal(codec.decoder(code, snr, length)[2], codec.decoder(other, *mates[1:])[2])
    alone = codec.encoder(z[2:3], snr[2:3], length[2:3])
    assert torch.allclose(alone[0], code[2], atol=1e-5)
    decoded = codec.decoder(alone, snr[2:3], length[2:3])
    assert torch.allclose(decoded[0], codec.decoder(code, snr, length)[2], atol=1e-5)


def test_each_input_acts_on_the_encoder(codec):
    z, _, _ = inputs()
    snr, length = torch.zeros(B), torch.full((B,), 7)
    code = codec.encoder(z, snr, length)
    for changed in (codec.encoder(z, snr + 3, length), codec.encoder(z.flip(0), snr, length)):
        assert ((code - changed)[:, :7].abs().amax(1) > 1e-3).all()
    # Another length is another code, and not the same one cut and rescaled.
    longer = codec.encoder(z, snr, length + 1)[:, :7]
    rescaled = longer / longer.abs().square().mean(1, keepdim=True).sqrt()
    assert ((code[:, :7] - rescaled).abs().amax(1) > 1e-3).all()


def test_each_input_acts_on_the_decoder(codec):
    z, _, _ = inputs()
    snr, length = torch.zeros(B), torch.full((B,), 7)
    code = codec.encoder(z, snr, length)
    decoded = codec.decoder(code, snr, length, snr)
    for changed in (
        codec.decoder(code, snr + 3, length, snr),
        codec.decoder(code, snr, length - 1, snr),
        codec.decoder(code, snr, length, snr + 3),
        codec.decoder(code.roll(1, 1), snr, length, snr),
    ):
        assert ((decoded - changed).abs().amax(1) > 1e-3).all()
    # The effective SNR is the SNR where none is given.
    assert torch.equal(codec.decoder(code, snr, length), decoded)


def test_decoder_ignores_what_was_not_sent(codec):
    z, snr, length = inputs()
    code = codec.encoder(z, snr, length)
    noisy = torch.where(torch.arange(K) < length[:, None], code, 1e6 + 0j)
    assert torch.equal(codec.decoder(noisy, snr, length), codec.decoder(code, snr, length))


def test_extreme_conditions_stay_finite(codec):
    z, _, length = inputs()
    for snr_db in (-200.0, 200.0):
        snr = torch.full((B,), snr_db)
        code = codec.encoder(z, snr, length)
        decoded = codec.decoder(code * 1e6, torch.zeros(B), length, torch.full((B,), -120.0))
        assert torch.isfinite(torch.view_as_real(code)).all() and torch.isfinite(decoded).all()


def test_all_parameters_learn(codec):
    made = CAT(**codec.config)
    z, snr, length = inputs(batch=32)
    made.decoder(made.encoder(z, snr, length), snr, length, snr - 1).square().mean().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_halves_are_rebuilt_from_their_json(codec):
    z, snr, length = inputs()
    for kind, half in ((ChannelEncoder, codec.encoder), (ChannelDecoder, codec.decoder)):
        again = kind(**json.loads(json.dumps(half.config)))
        again.load_state_dict(half.state_dict())
        given_ = z if kind is ChannelEncoder else codec.encoder(z, snr, length)
        assert torch.equal(again(given_, snr, length), half(given_, snr, length))
    whole = CAT(**json.loads(json.dumps(codec.config)))
    whole.load_state_dict(codec.state_dict())
    assert whole.config["decoder"] | {"feature_dim": D, "symbols": K} == codec.decoder.config


def test_default_transmitter_is_small():
    params = sum(p.numel() for p in ChannelEncoder(64, 64).parameters())
    assert 10_000 <= params <= 15_000


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"heads": 3}, {"symbols": -1}])
def test_bad_settings_are_named(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        ChannelEncoder(**{"feature_dim": D, "symbols": K} | wrong)


def test_a_decoder_told_the_snr_of_each_symbol_trusts_each_by_its_own():
    torch.manual_seed(0)
    decoder, length, snr = CAT(8, 6).decoder.eval(), torch.tensor([6, 4]), torch.tensor([5.0, 5.0])
    y = torch.randn(2, 6, dtype=torch.complex64)
    word = torch.tensor([3.0, 8.0])
    equal = decoder(y, snr, length, word[:, None].expand(2, 6))
    assert torch.allclose(equal, decoder(y, snr, length, word), atol=1e-5)
    # What is lost is not looked at; a symbol that arrives is.
    each = word[:, None].repeat(1, 6)
    each[:, 2] = -120
    changed = y.clone()
    changed[:, 2] += 3
    assert torch.allclose(decoder(changed, snr, length, each), decoder(y, snr, length, each), atol=1e-5)
    changed[:, 1] += 3
    assert not torch.allclose(decoder(changed, snr, length, each), decoder(y, snr, length, each), atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(classes=st.integers(2, 30), k=st.integers(1, 70))
def test_first_words_of_classes_are_a_simplex_code_in_every_prefix_of_whole_blocks(classes, k):
    words = class_words(classes, k)
    assert words.shape == (classes, 2 * k)
    assert torch.allclose(words.square().sum(1), torch.full((classes,), float(k)), rtol=1e-4)
    block = classes // 2
    if k < block:
        return
    apart = correlations(words[:, : 2 * block * (k // block)])  # what is left of a last block is none
    # C words cannot have a lower largest correlation than -1 / (C - 1).
    assert torch.allclose(apart, torch.full_like(apart, -1 / (classes - 1)), atol=1e-4)


def correlations(words):
    """Between any two of the words."""
    return F.cosine_similarity(words[:, None], words, dim=2)[~torch.eye(len(words), dtype=torch.bool)]


@pytest.mark.parametrize("classes, short", [(4, 1), (6, 1), (8, 1), (8, 2), (10, 1), (10, 2), (20, 1)])
def test_first_words_of_classes_are_orthogonal_or_better_in_a_prefix_a_little_short(classes, short):
    # The best there is: more than d + 1 words in d dimensions cannot all be more than a right angle apart.
    block = classes // 2
    for k in (block - short, 64):
        assert correlations(class_words(classes, k)[:, : 2 * (block - short)]).max() < 1e-5


def test_one_class_needs_no_word():
    with pytest.raises(InputError, match="2 classes"):
        ChannelEncoder(D, K, classes=1)


def test_with_little_energy_the_word_of_the_class_is_sent_and_with_much_the_features():
    made = CAT(D, 64, encoder={"tokens": 4, "classes": 5}, decoder={"classes": 5})
    classifier = torch.nn.Linear(D, 5)
    classifier.weight.data *= 100  # sure of every class
    made.encoder.start_from(classifier)
    z, length = torch.randn(8, D), torch.full((8,), 64)
    words = torch.view_as_complex(class_words(5, 64).unflatten(1, (-1, 2)))[classifier(z).argmax(1)]

    def likeness(snr_db, symbols=64):
        code = made.encoder(z, torch.full((8,), snr_db), torch.full((8,), symbols))[:, :symbols]
        torch.testing.assert_close(code.abs().square().sum(1), torch.full((8,), float(symbols)))
        word = words[:, :symbols]
        return (code * word.conj()).sum(1).real / (code.norm(dim=1) * word.norm(dim=1))

    assert likeness(-20.0).min() > 0.95 and likeness(-8.0, symbols=3).min() > 0.95
    assert likeness(6.0).abs().max() < 0.4  # of 64 symbols; of one alone it would be half the power
    # The receiver, told no more, knows the class that was sent.
    snr_db, seen = torch.full((8,), -10.0), []
    made.decoder.words.register_forward_hook(lambda module, given_, scores: seen.append(scores.argmax(1)))
    made.decoder(made.encoder(z, snr_db, length), snr_db, length)
    assert torch.equal(seen[0], classifier(z).argmax(1))
    # What it knows goes into the features, and into the tokens.
    told = []
    made.decoder.embed.register_forward_pre_hook(lambda module, given_: told.append(given_[0][:, -5:]))
    made.decoder.words.register_forward_hook(lambda module, given_, scores: scores.roll(1, 1))
    code = made.encoder(z, snr_db, length)
    wrong = made.decoder(code, snr_db, length)
    made.decoder.words._forward_hooks.popitem()
    assert ((made.decoder(code, snr_db, length) - wrong).abs().amax(1) > 1e-3).all()
    assert torch.equal(told[1].argmax(1), seen[0]) and torch.allclose(told[1].sum(1), torch.ones(8))


def test_deciding_for_a_class_does_not_train_the_encoder():
    made = CAT(D, K, encoder={"tokens": 4, "classes": 3})
    z, snr, length = inputs()
    seen = []
    made.encoder.classifier.register_forward_hook(lambda module, given_, scores: seen.append(given_[0].requires_grad))
    made.encoder(z.requires_grad_(), snr, length).abs().sum().backward()
    assert seen == [False] and z.grad.abs().sum() > 0
