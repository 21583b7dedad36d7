"""Digital systems: what the receiver tells of every image from bits by LDPC and QAM or at capacity, or a class alone.

Features and images are coded by 5G LDPC, which has no block of fewer than 12 information bits (``SHORTEST``). Where the
symbols do not carry these, the answer falls to chance by construction, however little there is to tell: 64 symbols over
AWGN below -8.6 dB, were the code as good as capacity allows. The class alone has no such limit.

Answers are classes, -1 where nothing was received. Channels, noise and fading are those that the links meet
(``ImageNoise``), so that answers pair by image and draw. Modulation and rate are chosen for each point on images that
training may see, by how often the answer is the one that would be given without a channel: no label is needed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from kdnas.channel import ImageNoise
from kdnas.codec.image import NEVER, RUNGS, make_ladder
from kdnas.codec.ldpc import MCS, SHORTEST, BlockCode, Mcs
from kdnas.codec.quantise import Quantiser
from kdnas.codec.simplex import SimplexCode
from kdnas.errors import InputError
from kdnas.evaluate.link import Point
from kdnas.link import constant_conditions, transmit
from kdnas.run.files import read_json, write_json
from kdnas.run.seeds import generator, seed_of

BLOCK = 256  # symbols of a code word where an image takes more than the link sends
WORDS = 300  # random words that measure a block error rate
_PART = 1000  # code words, or images, at a time
MOST_BYTES = 2**28  # of all versions of the images that are coded at a time

Classify = Callable[[Tensor], Tensor]


class Choice(NamedTuple):
    """Modulation and rate chosen at a point, and the share of images for choosing whose answer the channel keeps."""

    point: Point
    mcs: Mcs
    agreement: float

    def row(self) -> dict[str, Any]:
        """For a report."""
        payload = self.mcs.payload(self.point.symbols)
        return {**self.point.columns(), "mcs": self.mcs.name, "bits": payload, "agreement": self.agreement}


class Coded(NamedTuple):
    """Images coded in every way worth it, and what the teacher says of each.

    Attributes:
        bits: (N, F) int64, rising, as in ``Ladder``.
        answers: (N, F) int64, classes.
    """

    bits: Tensor
    answers: Tensor

    def best(self, limit: int | Tensor) -> Tensor:
        """Answers (N, draws) to the best image within ``limit`` bits, a number (one draw) or (N, draws)."""
        limits = limit if isinstance(limit, Tensor) else torch.full((len(self.bits), 1), limit)
        place = torch.searchsorted(self.bits, limits.contiguous(), right=True) - 1
        return torch.where(place < 0, -1, self.answers.gather(1, place.clamp_min(0)))


def code_images(images: Tensor, classify: Classify) -> Coded:
    """Code images (N, C, H, W) uint8, and ask ``classify`` (float images in [0, 1] to classes) about each version."""
    parts = []
    at_once = max(1, min(_PART, MOST_BYTES // (len(RUNGS) * images[0].numel())))
    for part in images.split(at_once):
        ladder, decoded = make_ladder(part)
        answers = torch.full_like(ladder.rungs, -1)
        for index, pictures in decoded.items():
            number, place = (ladder.rungs == index).nonzero(as_tuple=True)
            told = [classify(pictures[some].float() / 255).cpu() for some in number.split(_PART)]
            answers[number, place] = torch.cat(told)
        parts.append(Coded(ladder.bits, answers))
    longest = max(part.bits.shape[1] for part in parts)
    pads = [(0, longest - part.bits.shape[1]) for part in parts]
    pad = torch.nn.functional.pad
    return Coded(
        torch.cat([pad(part.bits, by, value=NEVER) for part, by in zip(parts, pads, strict=True)]),
        torch.cat([pad(part.answers, by, value=-1) for part, by in zip(parts, pads, strict=True)]),
    )


class Draws(NamedTuple):
    """Images, draws and seed of an evaluation, from which all noise follows.

    Attributes:
        ids: (N,) int64.
        each: Draws of the channel for each image.
        seed: Of the noise.
    """

    ids: Tensor
    each: int
    seed: int

    def noise(self, part: slice) -> ImageNoise:
        """For a part of the (image, draw) pairs, draws of one image side by side."""
        pair = torch.arange(*part.indices(len(self.ids) * self.each))
        return ImageNoise(self.ids[pair // self.each], pair % self.each, self.seed)

    def parts(self) -> list[slice]:
        """All pairs, a thousand at a time."""
        return [slice(start, start + _PART) for start in range(0, len(self.ids) * self.each, _PART)]


def capacity_bits(point: Point, draws: Draws) -> Tensor:
    """Bits (N, draws) int64 that capacity allows each image: the sum of log2(1 + SNR) over its symbols, rounded down.

    Under fading the SNR is that of the image and draw: no code can do better without feedback.
    """
    bits = []
    for part in draws.parts():
        noise = draws.noise(part)
        at = constant_conditions(len(noise.ids), point.snr_db, point.channel, point.symbols)
        snr_db = transmit(torch.ones(len(noise.ids), point.symbols, dtype=torch.complex64), at, noise).effective_snr_db
        snr = torch.pow(10.0, snr_db.double().view(len(noise.ids), -1) / 10).expand(-1, point.symbols)
        bits.append(torch.log2(1 + snr).sum(1).floor().long())
    return torch.cat(bits).view(len(draws.ids), draws.each)


def answers_at_capacity(coded: Coded, points: Sequence[Point], draws: Draws) -> dict[Point, Tensor]:
    """Answers (N, draws) by point when every image is sent as well as capacity allows: a bound, not a system."""
    return {point: coded.best(capacity_bits(point, draws)) for point in points}


class Code(Protocol):
    """What sends a message in a word of ``symbols`` complex symbols."""

    symbols: int

    def encode(self, messages: Tensor, /) -> Tensor:
        """Messages, bits (B, payload) or indices (B,), to symbols (B, symbols) complex64."""
        ...

    def decode(self, y: Tensor, snr_db: Tensor, /) -> Tensor:
        """Equalised symbols (B, symbols), of SNR in dB (B,) or (B, symbols), to messages."""
        ...


def send(code: Code, messages: Tensor, point: Point, draws: Draws) -> Tensor:
    """Send (N, draws, payload) or (N, draws), a word for each image and draw; what is decoded, of the same shape."""
    flat, out = messages.flatten(0, 1), []
    for part in draws.parts():
        sent, noise = flat[part], draws.noise(part)
        at = constant_conditions(len(sent), point.snr_db, point.channel, code.symbols)
        got = transmit(code.encode(sent), at, noise)
        out.append(code.decode(got.symbols, got.effective_snr_db))
    return torch.cat(out).view(messages.shape)


def answers_of_classes(
    code: SimplexCode, classes: Tensor, points: Sequence[Point], draws: Draws
) -> dict[Point, Tensor]:
    """Answers (N, draws) by point when the device classifies and sends the class alone: why not do that?

    What it gives up: the transmitter must hold the classifier; the receiver gets no features, so neither another task
    nor how sure the answer is; and what the link carries beyond a class is wasted: no SNR makes an answer better than
    the device's own.

    Args:
        code: A word for each class, of as many symbols as the points'.
        classes: (N,) int64, what the device takes the images for.
        points: Where.
        draws: Images and draws.
    """
    sent = classes[:, None].expand(-1, draws.each)
    return {point: send(code, sent, point, draws) for point in points}


def answers_of_features(
    quantiser: Quantiser,
    classify: Classify,
    tuning: tuple[Tensor, Tensor],
    features: tuple[Tensor, Tensor],
    points: Sequence[Point],
    draws: int,
    seed: int,
) -> tuple[dict[Point, Tensor], list[Choice]]:
    """Answers when an image's features are quantised and sent as one code word, whose errors are not detected.

    Args:
        quantiser: Of the features.
        classify: Features (B, D) to classes (B,), at the receiver.
        tuning: Features (M, D) and ids (M,) of the images on which modulation and rate are chosen.
        features: (N, D), and ids (N,), of the images to evaluate.
        points: Where.
        draws: Channel draws per image.
        seed: Of the noise.

    Returns:
        Answers (N, draws) by point, and what was chosen.

    Raises:
        InputError: Sionna is not installed, or as ``schemes``.
    """
    clean = classify(tuning[0])
    trial = Draws(tuning[1], 1, seed_of("digital", seed) % 2**31)
    test = Draws(features[1], draws, seed)

    def told(code: BlockCode, z: Tensor, point: Point, over: Draws) -> Tensor:
        bits = quantiser.encode(z, code.payload)[:, None].expand(-1, over.each, -1)
        received = send(code, bits, point, over)
        return classify(quantiser.decode(received.flatten(0, 1))).view(len(z), over.each)

    answers, choices = {}, []
    for point in points:
        codes = [BlockCode(mcs, point.symbols) for mcs in schemes(point.symbols)]
        shares = [float((told(code, tuning[0], point, trial)[:, 0] == clean).float().mean()) for code in codes]
        best = max(range(len(codes)), key=shares.__getitem__)
        choices.append(Choice(point, codes[best].mcs, shares[best]))
        answers[point] = told(codes[best], features[0], point, test)
    return answers, choices


def schemes(symbols: int) -> list[Mcs]:
    """The modulations and rates that carry a block in so many symbols.

    Raises:
        InputError: There is none.
    """
    found = [mcs for mcs in MCS if mcs.payload(symbols) >= SHORTEST]
    if not found:
        raise InputError(
            f"no modulation carries the {SHORTEST} bits of the shortest code of digital-features in {symbols} symbols: "
            "leave that baseline out"
        )
    return found


class BlockErrors:
    """Block error rates over AWGN, each measured once with ``WORDS`` random words.

    Rates above capacity are not tried: 1. Errors rarer than one in ``WORDS`` count as none, in favour of digital.

    Args:
        path: JSON file where they are kept; None keeps none.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.rates: dict[str, float] = read_json(path) if path is not None and path.exists() else {}

    def __call__(self, mcs: Mcs, symbols: int, snr_db: float) -> float:
        """The share of code words of so many symbols that arrive wrong."""
        if mcs.efficiency > torch.log2(torch.tensor(1 + 10 ** (snr_db / 10))):
            return 1.0
        key = f"{mcs.name}, {symbols} symbols, {snr_db:g} dB"
        if key not in self.rates:
            code = BlockCode(mcs, symbols)
            words = Draws(torch.arange(WORDS), 1, seed_of("block errors", key) % 2**31)
            self.rates[key] = 1 - float(_arrived(code, Point("awgn", snr_db, symbols), words).float().mean())
            if self.path is not None:
                write_json(self.path, self.rates)
        return self.rates[key]


def _arrived(code: BlockCode, point: Point, draws: Draws) -> Tensor:
    """Whether a random word arrives without an error, (N, draws) bool.

    The code is linear and the channel symmetric, so that random words fail as often as those of any image.
    """
    key = generator("words", draws.seed, code.payload)
    bits = torch.randint(2, (len(draws.ids), draws.each, code.payload), generator=key).float()
    return (send(code, bits, point, draws) == bits).all(-1)


def answers_of_images(
    tuning: tuple[Coded, Tensor, Tensor],
    images: tuple[Coded, Tensor],
    points: Sequence[Point],
    draws: int,
    seed: int,
    *,
    guess: int,
    errors: BlockErrors | None = None,
) -> tuple[dict[Point, Tensor], list[Choice]]:
    """Answers when the best JPEG or WebP that fits is sent; a word with an error is lost, and known to be.

    Args:
        tuning: Coded images, ids (M,), and the teacher's answers (M,) to the images themselves: on these modulation
            and rate are chosen.
        images: Coded images and ids (N,) to evaluate.
        points: Where.
        draws: Channel draws per image.
        seed: Of the noise.
        guess: The class that the receiver tells of images it did not get, for the choice.
        errors: Where given, an image is many code words of ``BLOCK`` symbols or fewer (AWGN only): they fail at the
            rates measured, as drawn from ``seed``. None: it is one code word, and one is sent for every image and
            draw.

    Returns:
        Answers (N, draws) by point, -1 where nothing arrived, and what was chosen.

    Raises:
        InputError: Sionna is not installed.
    """
    coded, ids, truth = tuning
    trial, test = Draws(ids, 1, seed_of("digital", seed) % 2**31), Draws(images[1], draws, seed)
    answers, choices = {}, []

    def arrival(mcs: Mcs, point: Point, over: Draws, fits: Tensor) -> Tensor:
        """Whether the image arrives, (N, draws) bool, or its probability."""
        if errors is not None:
            size = min(point.symbols, BLOCK)
            return torch.tensor((1 - errors(mcs, size, point.snr_db)) ** (point.symbols // size))
        some = fits.any(1)
        arrived = torch.zeros(len(over.ids), over.each, dtype=torch.bool)
        if some.any():
            arrived[some] = _arrived(BlockCode(mcs, point.symbols), point, over._replace(ids=over.ids[some]))
        return arrived

    for point in points:
        possible = []
        for mcs in MCS:
            told = coded.best(mcs.payload(point.symbols))[:, 0]
            right = torch.where(told < 0, guess, told) == truth
            if mcs.payload(point.symbols) >= SHORTEST:
                possible.append((float(right.float().mean()), mcs, told >= 0, right))
        best = Choice(point, MCS[0], -1.0)
        for most, mcs, fits, right in sorted(possible, key=lambda one: -one[0]):
            if most <= best.agreement:
                break  # not even a channel without errors makes this one better
            arrives = arrival(mcs, point, trial, fits[:, None]).float().view(-1)
            kept = arrives * right + (1 - arrives) * (truth == guess)
            share = float(torch.where(fits, kept, (truth == guess).float()).mean())
            if share > best.agreement:
                best = Choice(point, mcs, share)
        choices.append(best)
        told = images[0].best(best.mcs.payload(point.symbols))
        arrives = arrival(best.mcs, point, test, told >= 0)
        if errors is not None:
            key = generator("arrival", seed, point.symbols, str(point.snr_db))
            arrives = torch.rand(len(told), draws, generator=key) < arrives
        answers[point] = torch.where(arrives, told, -1)
    return answers, choices
