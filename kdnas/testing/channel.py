"""Is a channel what it says it is? Shapes, statistics, independence, reproducibility, gradients, honest SNRs."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kdnas.channel import (
    Channel,
    ImageNoise,
    Randomness,
    complex_gaussian,
    get_channel,
    power_normalise,
    prefix_mask,
)

# What is measured may differ from what is stated by this many standard errors: a right channel fails one statistic
# with a probability of 6e-7.
SIGMAS = 5.0
TOLERANCE_DB = 0.05
# A symbol below this SNR is lost: its value says nothing, and it is not asked whether it is unbiased.
LOST_DB = -60.0

Source = Callable[[], Randomness]


def check_channel(
    channel: Channel | str,
    *,
    samples: int = 8000,
    symbols: int = 24,
    snrs_db: tuple[float, ...] = (-5.0, 7.0, 25.0),
    gain_tolerance_db: float = TOLERANCE_DB,
    seed: int = 0,
) -> None:
    """Check that a channel keeps what ``kdnas.channel.Channel`` asks of it.

    Checked, with a ``torch.Generator`` and with ``ImageNoise``: shapes and types; noise of the power that the SNR
    states (to 0.05 dB), split evenly on I and Q, white, and per sample; a mean gain of ``mean_gain``; samples that are
    independent of each other and untouched by their batch-mates; the same result from the same source, and from
    ``ImageNoise`` for any batch and number of symbols; a gradient through the symbols that agrees with differences;
    and an equaliser that returns the symbols unbiased, at the SNR that it says.

    Args:
        channel: A channel, or its name.
        samples: Code words for each statistic; fewer than some 5000 do not show 0.05 dB.
        symbols: Symbols in each.
        snrs_db: SNRs in dB at which statistics are taken.
        gain_tolerance_db: By how much the mean gain over these few symbols may be off that of long words.
        seed: Of all draws.

    Raises:
        AssertionError: One line says what is not as it should be.
        InputError: There is no channel of that name.
    """
    channel = get_channel(channel) if isinstance(channel, str) else channel
    for attribute in ("mean_gain", "coherent", "sample", "apply", "equalise"):
        _require(hasattr(channel, attribute), f"it has no {attribute!r}: see kdnas.channel.Channel")
    sources: dict[str, Source] = {
        "a torch.Generator": lambda: torch.Generator().manual_seed(seed),
        "ImageNoise": lambda: ImageNoise(torch.arange(samples), draw=3, seed=seed),
    }
    x = _code(samples, symbols, seed)
    for name, source in sources.items():
        _check_shapes(channel, x, source(), name)
        _check_repeats(channel, x, source, name)
        for snr_db in snrs_db:
            _check_statistics(channel, x, snr_db, source(), gain_tolerance_db, f"with {name} at {snr_db:g} dB")
        _check_per_sample(channel, x, source, name)
    _check_image_noise(channel, x[:16], seed)
    _check_gradient(channel, x[:16], seed)


def _check_shapes(channel: Channel, x: Tensor, source: Randomness, name: str) -> None:
    batch, symbols = x.shape
    snr_db = torch.zeros(batch)
    state = channel.sample(batch, symbols, snr_db, source)
    y = channel.apply(x, state)
    _require(
        y.shape == x.shape and y.dtype == x.dtype,
        f"apply returns {tuple(y.shape)} {y.dtype} for symbols {tuple(x.shape)} {x.dtype} (with {name})",
    )
    for sent in (None, prefix_mask(torch.arange(batch) % symbols + 1, symbols)):
        out, effective = channel.equalise(y, state, snr_db, sent)
        _require(
            out.shape == x.shape and out.dtype == x.dtype,
            f"equalise returns symbols {tuple(out.shape)} {out.dtype}, not {tuple(x.shape)} {x.dtype}",
        )
        _require(
            effective.shape in ((batch,), (batch, symbols)) and effective.dtype == torch.float32,
            f"equalise returns effective SNRs {tuple(effective.shape)} {effective.dtype}, not ({batch},) or "
            f"({batch}, {symbols}) float32",
        )
        finite = torch.isfinite(torch.view_as_real(out)).all() and torch.isfinite(effective).all()
        _require(bool(finite), "equalise returns values that are not finite")


def _check_repeats(channel: Channel, x: Tensor, source: Source, name: str) -> None:
    snr_db = torch.full((len(x),), 3.0)
    generator = source()
    first, again, other = (_received(channel, x, snr_db, s) for s in (generator, source(), generator))
    _require(torch.equal(first, again), f"two runs from the same {name} differ: draw all randomness from it")
    if isinstance(generator, torch.Generator):
        _require(not torch.equal(first, other), "a generator that has been drawn from gives the same noise again")


def _check_statistics(
    channel: Channel, x: Tensor, snr_db: float, source: Randomness, tolerance_db: float, where: str
) -> None:
    """Powers, correlations and the equaliser's promises at one SNR."""
    batch, symbols = x.shape
    told = torch.full((batch,), snr_db)
    state = channel.sample(batch, symbols, told, source)
    y = channel.apply(x, state)
    noise = channel.apply(torch.zeros_like(x), state)
    unit = noise * 10 ** (snr_db / 20)
    measured = snr_db - 10 * math.log10(float(_power(unit).mean().clamp_min(1e-30)))
    _require(
        abs(measured - snr_db) <= TOLERANCE_DB, f"the noise is that of {measured:.2f} dB, not {snr_db:g} ({where})"
    )
    for part, values in (("I", unit.real), ("Q", unit.imag)):
        _require_mean(values.square(), 0.5, f"share of the noise power in {part} ({where})")
        _require_mean(values, 0.0, f"mean of the noise in {part} ({where})")
    _require_mean(unit.real * unit.imag, 0.0, f"correlation of the noise in I and Q ({where})")
    _require_mean((unit[:, 1:] * unit[:, :-1].conj()).real, 0.0, f"correlation of the noise of neighbours ({where})")
    _require_mean((unit[1:] * unit[:-1].conj()).real, 0.0, f"correlation of the noise of two samples ({where})")

    _require_mean(_power(y - noise), channel.mean_gain, f"mean gain ({where})", tolerance_db)
    gain = (channel.apply(torch.ones_like(x), state) - noise)[:, 0]
    gain = gain - gain.mean()
    if _power(gain).mean() > 1e-6:
        _require_mean((gain[1:] * gain[:-1].conj()).real, 0.0, f"correlation of the gains of two samples ({where})")

    out, effective = channel.equalise(y, state, told)
    if not channel.coherent:
        _require(torch.equal(effective, told), f"an incoherent channel's effective SNR is the one it is told ({where})")
        power = channel.mean_gain + 10 ** (-snr_db / 10)
        _require_mean(_power(out), power, f"power of symbols that are not equalised ({where})", tolerance_db)
        return
    each = effective.view(batch, -1).expand(batch, symbols)
    counted = each > LOST_DB
    _require(bool(counted.any()), f"equalise says that every symbol is below {LOST_DB:g} dB ({where})")
    # The error in units of what it is said to be.
    scaled = torch.where(counted, (out - x) * torch.pow(10.0, each / 20), 0)
    _require_mean((scaled * x.conj()).real, 0.0, f"bias of the equaliser, along the symbols ({where})")
    _require_mean((scaled * x.conj()).imag, 0.0, f"bias of the equaliser, across the symbols ({where})")
    middle = each[counted].median()
    excess = torch.where(counted, _power(scaled) - 1, 0)
    for half, chosen in (("lower", each <= middle), ("upper", each > middle)):
        if chosen.any():
            _require_mean(
                excess * chosen, 0.0, f"noise after equalising less that of the effective SNR, {half} half ({where})"
            )


def _check_per_sample(channel: Channel, x: Tensor, source: Source, name: str) -> None:
    """SNRs act per sample, and so do symbols."""
    batch, symbols = x.shape
    snr_db = torch.tensor([0.0, 20.0]).repeat(-(-batch // 2))[:batch]
    state = channel.sample(batch, symbols, snr_db, source())
    noise = _power(channel.apply(torch.zeros_like(x), state))
    _require_mean(noise[0::2], 1.0, f"noise of samples at 0 dB among others at 20 dB (with {name})", TOLERANCE_DB)
    _require_mean(noise[1::2] * 100, 1.0, f"noise of samples at 20 dB among others at 0 dB (with {name})",
                  TOLERANCE_DB)  # fmt: skip
    other = torch.where(torch.arange(batch)[:, None] % 2 == 0, x, 5 * x.roll(1, 0))
    outs = []
    for sent in (x, other):
        y = channel.apply(sent, state)
        outs.append((y[0::2], *(part[0::2] for part in channel.equalise(y, state, snr_db))))
    same = all(torch.equal(a, b) for a, b in zip(*outs, strict=True))
    _require(same, f"what a sample receives depends on the symbols of its batch-mates (with {name})")


def _check_image_noise(channel: Channel, x: Tensor, seed: int) -> None:
    """A pure function of (seed, image, draw), whatever the batch and the number of symbols."""
    batch, symbols = x.shape
    ids = torch.arange(100, 100 + batch)
    snr_db = torch.linspace(0, 10, batch)

    def arrived(ids: Tensor, x: Tensor, snr_db: Tensor, draw: int = 0, seed: int = seed) -> Tensor:
        state = channel.sample(len(x), x.shape[1], snr_db, ImageNoise(ids, draw, seed))
        return channel.apply(x, state)

    whole = arrived(ids, x, snr_db)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(1))[: batch // 2]
    part = arrived(ids[order], x[order], snr_db[order])
    _require(_close(part, whole[order]), "with ImageNoise an image's result depends on the batch or its order")
    for count in range(1, symbols):
        short = arrived(ids, x[:, :count], snr_db)
        blank = arrived(ids, x * (torch.arange(symbols) < count), snr_db)[:, :count]
        _require(_close(short, blank), f"with ImageNoise {count} symbols do not arrive as the first {count} of more")
    for what, other in (
        ("image", arrived(ids + 1000, x, snr_db)),
        ("draw", arrived(ids, x, snr_db, draw=1)),
        ("seed", arrived(ids, x, snr_db, seed=seed + 1)),
    ):
        _require(not torch.isclose(whole, other).any(), f"with ImageNoise another {what} gives the same noise")


def _check_gradient(channel: Channel, x: Tensor, seed: int) -> None:
    """The derivative through apply and equalise agrees with a difference, in a random direction."""
    snr_db = torch.full((len(x),), 10.0)
    state = channel.sample(len(x), x.shape[1], snr_db, torch.Generator().manual_seed(seed))
    weights, step = (_code(len(x), x.shape[1], seed + n) for n in (1, 2))
    step = 1e-2 * step

    def value(x: Tensor) -> Tensor:
        return (channel.equalise(channel.apply(x, state), state, snr_db)[0] * weights).real.sum()

    at = x.clone().requires_grad_()
    out = value(at)
    _require(out.requires_grad, "the equalised symbols have no gradient in the symbols sent")
    (gradient,) = torch.autograd.grad(out, at)
    slope = float((gradient.conj() * step).real.sum())
    with torch.no_grad():
        difference = float(value(x + step) - value(x - step)) / 2
    scale = float((gradient.abs() * step.abs()).sum())
    _require(
        abs(slope - difference) <= 1e-2 * scale,
        f"the gradient gives a slope of {slope:.4g} in the symbols, a difference {difference:.4g}",
    )


def _received(channel: Channel, x: Tensor, snr_db: Tensor, source: Randomness) -> Tensor:
    state = channel.sample(len(x), x.shape[1], snr_db, source)
    return channel.equalise(channel.apply(x, state), state, snr_db)[0]


def _code(batch: int, symbols: int, seed: int) -> Tensor:
    """Random code words (B, k) of power 1 each."""
    x = complex_gaussian(torch.Generator().manual_seed(seed + 97), batch, symbols)
    return power_normalise(x, torch.ones(batch, symbols, dtype=torch.bool))


def _power(x: Tensor) -> Tensor:
    return torch.view_as_real(x.to(torch.complex128)).square().sum(-1)


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(torch.view_as_real(a), torch.view_as_real(b), rtol=1e-3, atol=1e-4)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(f"channel: {message}")


def _require_mean(values: Tensor, expected: float, what: str, slack_db: float = 0.0) -> None:
    """The mean over samples is the expected one, to ``SIGMAS`` standard errors and ``slack_db``."""
    means = values.double().reshape(len(values), -1).mean(1)  # symbols of a sample may depend on each other
    error, mean = float(means.std()) / math.sqrt(len(means)), float(means.mean())
    slack = abs(expected) * (10 ** (slack_db / 10) - 1) + 1e-6
    _require(abs(mean - expected) <= SIGMAS * error + slack, f"{what} is {mean:.4g}, not {expected:.4g} ± {error:.1g}")
