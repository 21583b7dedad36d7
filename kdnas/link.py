"""The link: transmitter, channel and receiver as one module whose halves also work alone, on two machines."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdnas.channel import Randomness, combined_snr_db, get_channel, prefix_mask
from kdnas.codec.adaptation import AccuracyTable
from kdnas.errors import InputError

FULL_SHARE = 0.15  # of the samples of a training batch, which send the full length
SHORT = 3  # below so many symbols little can arrive, and the losses are the largest


class Conditions(NamedTuple):
    """What each sample of a batch meets.

    Attributes:
        snr_db: (B,) float32, average SNR E_s/N_0 in dB.
        channel: (B,) int64, index into ``channels``.
        length: (B,) int64, complex symbols sent, 1 ... k.
        channels: Names of the channels.
        error_db: By how much both ends believe in a higher SNR than it is, in dB: a number or (B,).
    """

    snr_db: Tensor
    channel: Tensor
    length: Tensor
    channels: tuple[str, ...]
    error_db: Tensor | float = 0.0

    @property
    def told_snr_db(self) -> Tensor:
        """(B,) the average SNR in dB that both ends believe in."""
        return self.snr_db + self.error_db


class Received(NamedTuple):
    """What the receiver holds after equalising.

    Attributes:
        symbols: (B, k) complex64, unbiased (sent symbol plus noise), 0 past the length.
        effective_snr_db: SNR of these symbols in dB, as the receiver believes: (B,), or (B, k) where it varies within
            a code word.
    """

    symbols: Tensor
    effective_snr_db: Tensor


class Outcome(NamedTuple):
    """What comes out of the link: the received features (B, D) and the logits (B, classes)."""

    features: Tensor
    logits: Tensor


class Sent(NamedTuple):
    """What ``Link.send`` sends.

    Attributes:
        symbols: (B, k') complex64; ``symbols.shape[1]`` says how many were used.
        accuracy: What the adaptation table promises for them, in [0, 1].
        met: Whether the accuracy and the deadline asked for are met.
    """

    symbols: Tensor
    accuracy: float
    met: bool


def draw_conditions(
    batch: int,
    snr_range_db: tuple[float, float],
    channels: tuple[str, ...],
    max_symbols: int,
    generator: torch.Generator,
    full_share: float = FULL_SHARE,
    error_db: float = 0.0,
    snr_power: float = 1.0,
) -> Conditions:
    """Draw training conditions, independently per sample.

    SNR is uniform in dB unless ``snr_power`` leans it, and the channel uniform. The length is ``max_symbols`` with
    probability ``full_share``, else log-uniform on 1 ... ``max_symbols``: each octave of lengths is met equally often.
    Lengths of 1 and 2 are drawn again once: so they are learned too, but no longer at the cost of the next ones.

    Args:
        batch: B.
        snr_range_db: Lowest and highest SNR in dB.
        channels: Names of the channels to mix.
        max_symbols: k.
        generator: Of all draws; the result lies on its device.
        full_share: Probability of the full length, 0 ... 1.
        error_db: The most by which the SNR is told wrong; the error is uniform on both sides.
        snr_power: p of low + (high - low) u^p, u uniform: with 2, half of the samples lie in the lowest quarter.

    Raises:
        InputError: A channel's name is unknown.
    """
    for name in channels:
        get_channel(name)
    device = generator.device
    uniform = torch.rand(5, batch, generator=generator, device=device)
    low, high = snr_range_db
    length, again = torch.exp2(uniform[[1, 4]] * math.log2(max_symbols + 1)).long().clamp(1, max_symbols)
    length = torch.where(length < SHORT, again, length)
    length = torch.where(uniform[2] < full_share, max_symbols, length)
    channel = (uniform[3] * len(channels)).long().clamp_max(len(channels) - 1)
    drawn = Conditions(low + (high - low) * uniform[0] ** snr_power, channel, length, tuple(channels))
    if not error_db:
        return drawn
    return drawn._replace(error_db=error_db * (2 * torch.rand(batch, generator=generator, device=device) - 1))


def constant_conditions(
    batch: int, snr_db: float | Tensor, channel: str, length: int | Tensor, device: torch.device | str = "cpu"
) -> Conditions:
    """Conditions of one channel; SNR and length are the same for all samples, or (B,) tensors."""
    snrs = torch.as_tensor(snr_db, dtype=torch.float32, device=device).expand(batch)
    lengths = torch.as_tensor(length, dtype=torch.int64, device=device).expand(batch)
    return Conditions(snrs, torch.zeros(batch, dtype=torch.int64, device=device), lengths, (channel,))


class Realisation:
    """What the channels do to each sample of a batch, drawn before anything is sent.

    Args:
        conditions: Of each sample; channels may be mixed within the batch.
        symbols: k.
        generator: A ``torch.Generator``, or ``ImageNoise`` so that the noise depends on (seed, image, draw)
            alone.
    """

    def __init__(self, conditions: Conditions, symbols: int, generator: Randomness) -> None:
        self.conditions = conditions
        self.sent = prefix_mask(conditions.length, symbols)  # (B, k)
        self.states = []
        for name in conditions.channels:
            channel = get_channel(name)
            state = channel.sample(len(self.sent), symbols, conditions.snr_db, generator)
            self.states.append((channel, state))

    def arrive(self, x: Tensor) -> Received:
        """Code words (B, k) complex64 sent through the channels, and equalised."""
        told = self.conditions.told_snr_db
        received, effective = torch.zeros_like(x), told[:, None]  # (B, 1), or (B, k) in the end
        for index, (channel, state) in enumerate(self.states):
            equalised, snr_db = channel.equalise(channel.apply(x, state), state, told, self.sent)
            chosen = (self.conditions.channel == index)[:, None]  # (B, 1)
            received = torch.where(chosen, equalised, received)
            effective = torch.where(chosen, snr_db.view(len(x), -1), effective)
        return Received(received * self.sent, effective.squeeze(1))

    def effective_snr_db(self) -> Tensor:
        """(B,) the SNR in dB after fading, as the receiver knows it and may tell the transmitter."""
        nothing = torch.zeros(self.sent.shape, dtype=torch.complex64, device=self.sent.device)
        return combined_snr_db(self.arrive(nothing).effective_snr_db, self.sent)


def transmit(x: Tensor, conditions: Conditions, generator: Randomness) -> Received:
    """Send code words (B, k) complex64 from a channel encoder; the rest as in ``Realisation``."""
    return Realisation(conditions, x.shape[1], generator).arrive(x)


class Link(nn.Module):
    """A semantic link: images in, class logits out, complex symbols between.

    The transmitter is ``encoder`` and ``channel_encoder``; the receiver is ``channel_decoder`` and
    ``semantic_decoder``. ``encode`` uses the former alone and ``decode`` the latter alone.

    Args:
        encoder: Images (B, C, H, W) float32 in [0, 1] to features (B, D); it normalises inside.
        channel_encoder: Features (B, D), SNR in dB (B,) and lengths (B,) to symbols (B, k) complex64; its
            attribute ``symbols`` is k, the most symbols that it can send.
        channel_decoder: Symbols (B, k), SNR (B,), lengths (B,) and effective SNR, (B,) or (B, k), to features
            (B, D); its ``symbols`` is the same k.
        semantic_decoder: Features (B, D) to logits (B, classes).

    Attributes:
        accuracies: The adaptation table that ``send`` needs; None where none was made.
        image_shape: (C, H, W) of the images that it was trained on, which ``encode`` holds images to; a link that is
            loaded knows it, and None takes any.
    """

    accuracies: AccuracyTable | None = None
    image_shape: tuple[int, int, int] | None = None

    def __init__(
        self,
        encoder: nn.Module,
        channel_encoder: nn.Module,
        channel_decoder: nn.Module,
        semantic_decoder: nn.Module,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.channel_encoder = channel_encoder
        self.channel_decoder = channel_decoder
        self.semantic_decoder = semantic_decoder

    @property
    def symbols(self) -> int:
        """k, the most complex symbols that the transmitter sends for an image."""
        return _checked(None, self.channel_encoder)

    @property
    def transmitter_csi(self) -> bool:
        """Whether the transmitter must be told the SNR after fading, and not the average one."""
        return getattr(self.channel_encoder, "told", "average") == "effective"

    def through(self, features: Tensor, conditions: Conditions, generator: Randomness) -> Outcome:
        """Features (B, D) through codec and channel: what training uses, the encoder being apart."""
        drawn, told = Realisation(conditions, self.symbols, generator), conditions.told_snr_db
        if self.transmitter_csi:
            told = drawn.effective_snr_db()
        code = self.channel_encoder(features, told, conditions.length)
        return self.receive(drawn.arrive(code), told, conditions.length)

    def receive(self, received: Received, snr_db: Tensor, length: Tensor) -> Outcome:
        """Decode equalised symbols (B, k) of lengths (B,), encoded for ``snr_db`` (B,)."""
        features = self.channel_decoder(received.symbols, snr_db, length, received.effective_snr_db)
        return Outcome(features, self.semantic_decoder(features))

    def encode(self, images: Tensor, snr_db: float | Tensor, symbols: int | None = None) -> Tensor:
        """Transmitter alone: images to the complex symbols to send.

        Args:
            images: (B, C, H, W) float32 in [0, 1].
            snr_db: Average SNR in dB, a number or (B,); that after fading where ``transmitter_csi`` says so.
            symbols: k', how many symbols to send for each image; None means the maximum k.

        Returns:
            (B, k') complex64, mean |x|^2 = 1 for each image.

        Raises:
            InputError: ``symbols`` is not in 1 ... k, or the images are whole numbers or of another shape than those
                of the training.
        """
        length = _checked(symbols, self.channel_encoder)
        features = self._features(images)
        at = constant_conditions(len(images), snr_db, "awgn", length, features.device)
        return self.channel_encoder(features, at.snr_db, at.length)[:, :length]

    def send(
        self,
        images: Tensor,
        snr_db: float,
        *,
        min_accuracy: float | None = None,
        deadline_s: float | None = None,
        symbol_rate_hz: float | None = None,
        channel: str | None = None,
    ) -> Sent:
        """Transmitter alone, with the shortest prefix that meets an accuracy, a deadline, or both.

        With a deadline alone, the shortest prefix that is as accurate as any that there is time for. Where nothing
        meets what is asked for, the longest prefix that there is time for is sent, and ``met`` is false.

        Args:
            images: (B, C, H, W) float32 in [0, 1].
            snr_db: As in ``encode``.
            min_accuracy: In [0, 1], by the link's adaptation table.
            deadline_s: For sending the symbols of one image, in seconds.
            symbol_rate_hz: Complex symbols in a second; a deadline needs it.
            channel: What the symbols go through; None counts with the worst channel of the table. With
                ``transmitter_csi`` the SNR says all, and the table is that of AWGN alone.

        Raises:
            InputError: The link has no adaptation table, the SNR is NaN, neither accuracy nor deadline is given
                or one is out of its range, a deadline stands without a rate, or the table lacks the channel.
        """
        if self.accuracies is None:
            raise InputError(
                "this link has no adaptation table, which send needs: run `kdnas evaluate` on its run and export it "
                "again, or give encode the number of symbols"
            )
        if math.isnan(snr_db):
            raise InputError("send needs the SNR in dB, not NaN")
        if min_accuracy is None and deadline_s is None:
            raise InputError("send needs min_accuracy, deadline_s, or both")
        if min_accuracy is not None and not 0 <= min_accuracy <= 1:
            raise InputError(f"min_accuracy is a share from 0 to 1, not {min_accuracy}")
        most = None
        if deadline_s is not None:
            if not (0 <= deadline_s < math.inf and 0 < (symbol_rate_hz or 0) < math.inf):
                raise InputError("deadline_s is 0 s or more, and needs symbol_rate_hz above 0; both are finite")
            assert symbol_rate_hz is not None
            most = math.floor(deadline_s * symbol_rate_hz * (1 + 1e-9))  # a product that is whole but for rounding
        choice = self.accuracies.choose(snr_db, channel, min_accuracy=min_accuracy, most=most)
        return Sent(self.encode(images, snr_db, choice.symbols), choice.accuracy, choice.met)

    def decode(
        self, received: Tensor, snr_db: float | Tensor, effective_snr_db: float | Tensor | None = None
    ) -> Tensor:
        """Receiver alone: received symbols to logits.

        Args:
            received: (B, k') complex64, equalised (``Channel.equalise``): the symbols sent plus noise.
            snr_db: The SNR in dB that ``encode`` was told, a number or (B,).
            effective_snr_db: SNR in dB of ``received``, a number, (B,), or (B, k') for each symbol, where fading made
                it another; None: ``snr_db``.

        Returns:
            (B, classes) logits.

        Raises:
            InputError: More symbols were received than the link can send, or none.
        """
        batch, length = received.shape
        _checked(length, self.channel_decoder)
        at = constant_conditions(batch, snr_db, "awgn", length, received.device)
        rest = _checked(None, self.channel_decoder) - length
        effective = at.snr_db
        if effective_snr_db is not None:
            effective = torch.as_tensor(effective_snr_db, dtype=torch.float32, device=received.device)
            effective = nn.functional.pad(effective, (0, rest)) if effective.dim() == 2 else effective.expand(batch)
        padded = nn.functional.pad(received, (0, rest))  # (B, k)
        return self.receive(Received(padded, effective), at.snr_db, at.length).logits

    def forward(
        self,
        images: Tensor,
        snr_db: float | Tensor,
        symbols: int | None = None,
        channel: str = "awgn",
        *,
        generator: Randomness,
    ) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes); arguments and errors as in ``encode`` and ``transmit``."""
        features = self._features(images)
        length = _checked(symbols, self.channel_encoder)
        at = constant_conditions(len(images), snr_db, channel, length, features.device)
        return self.through(features, at, generator).logits

    def _features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to features (B, D); a network of convolutions would take other images without a word."""
        if not images.is_floating_point():
            raise InputError(f"images are float32 in [0, 1], not {images.dtype}: give images.float() / 255")
        if self.image_shape is not None and images.shape[1:] != self.image_shape:
            shape, known = ("x".join(str(n) for n in numbers) for numbers in (images.shape, self.image_shape))
            raise InputError(f"this link was trained on images of {known}: it takes a batch Bx{known}, not {shape}")
        features: Tensor = self.encoder(images)
        return features


def _checked(symbols: int | None, half: Any) -> int:
    """The number of symbols to send, which a half of the codec must allow; None is its maximum."""
    if symbols is None:
        return int(half.symbols)
    if not 1 <= symbols <= half.symbols:
        raise InputError(f"this link sends 1 to {half.symbols} symbols for an image, not {symbols}")
    return symbols
