"""Accuracy of a link for each channel, SNR and length, and of the teacher beside it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from kdnas.channel import ImageNoise, get_channel
from kdnas.errors import InputError
from kdnas.evaluate.statistics import accuracy_ci95, draws_ci95
from kdnas.link import Link, constant_conditions, transmit


class Point(NamedTuple):
    """Where a link is measured.

    Attributes:
        channel: Name of the channel.
        snr_db: Average SNR E_s/N_0 in dB.
        symbols: Complex symbols per image.
        snr_offset_db: By how much both ends are told a higher SNR than it is, in dB.
    """

    channel: str
    snr_db: float
    symbols: int
    snr_offset_db: float = 0.0

    def columns(self) -> dict[str, Any]:
        """As in the rows of tables, which have no ``snr_offset_db`` where it is 0."""
        return {name: value for name, value in self._asdict().items() if name != "snr_offset_db" or value}


class _Classifier(Protocol):
    def features(self, images: Tensor) -> Tensor: ...

    def logits(self, features: Tensor) -> Tensor: ...


def evaluate_link(
    link: Link, images: Tensor, labels: Tensor, ids: Tensor | None = None, *, system: str, **how: Any
) -> list[dict[str, Any]]:
    """Measure accuracy at every channel x SNR x length: the rows of ``evaluate_answers``.

    Args:
        link: As in ``evaluate_answers``.
        images: Likewise.
        labels: Likewise.
        ids: Likewise.
        system: Goes into the rows, for example ``kdnas``.
        how: The keywords of ``evaluate_answers``.

    Returns:
        Rows ``{system, channel, snr_db, symbols, accuracy, ci95, n}`` (``accuracy_row``); where ``ci95`` sets a width
        to reach over draws, also ``draws``, how many were made, and ``ci95_draws``, the half-width that was reached.

    Raises:
        InputError: As in ``evaluate_answers``.
    """
    answers = evaluate_answers(link, images, labels, ids, **how)
    rows = [accuracy_row(system, point, correct) for point, correct in answers.items()]
    if how.get("ci95") is not None:
        for row, (point, correct) in zip(rows, answers.items(), strict=True):
            if point is not None:
                row |= {"draws": correct.shape[1], "ci95_draws": draws_ci95(correct.numpy())}
    return rows


@torch.inference_mode()
def evaluate_answers(
    link: Link,
    images: Tensor,
    labels: Tensor,
    ids: Tensor | None = None,
    *,
    channels: Sequence[str],
    snrs_db: Sequence[float],
    lengths: Sequence[int],
    snr_offsets_db: Sequence[float] = (0.0,),
    draws: int = 4,
    ci95: float | None = None,
    max_draws: int = 200,
    batch_size: int = 256,
    seed: int = 0,
    clean: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Point | None, Tensor]:
    """Which images a link gets right, in every channel draw, at every channel x SNR x length x offset.

    The encoder runs once on each image and, in a round of draws, the channel encoder once for each SNR and length;
    the channel and the receiver run once for each draw. Noise and fading depend on (seed, image, draw) alone: no
    result depends on the batch size, and all systems, SNRs and lengths meet the same realisations, so that two
    systems are compared by ``paired_difference`` of what this returns.

    With ``ci95``, rounds of ``draws`` go on at each point until the interval of its accuracy *over channel draws, these
    images being given* (``draws_ci95``), is as narrow. The interval clustered by image, which rows report, is wider: it
    holds the spread of the images too, which no number of draws lessens, so that it makes no goal for them.

    Args:
        link: The link; put in evaluation mode here, and back afterwards. Images are moved to its device.
        images: (N, C, H, W) uint8 test images.
        labels: (N,) int64.
        ids: (N,) int64 that name the images for the noise; None: 0 ... N-1.
        channels: As ``kdnas.channel.get_channel`` reads them; the link need not be trained for them.
        snrs_db: Average SNRs E_s/N_0 in dB.
        lengths: Complex symbols per image, each 1 ... ``link.symbols``.
        snr_offsets_db: Both ends are told an SNR that is so much too high, in dB; 0 is the truth.
        draws: Channel draws for each image and point; with ``ci95``, in a round.
        ci95: Half-width to reach over channel draws, in (0, 1); None: one round.
        max_draws: With ``ci95``, where rounds end though it is not reached.
        batch_size: Images at a time; ``batch_size * draws`` go through the receiver at once.
        seed: Of the noise.
        clean: Also encoder and semantic decoder without codec or channel, as the point None.
        progress: Called with (images done, images in all) after each batch of a round.

    Returns:
        By point, in the order channels x SNRs x lengths x offsets: (N, draws) bool, True where the answer was right;
        (N, 1) for None, which comes last.

    Raises:
        InputError: An unknown channel, a length that the link cannot send, no images, fewer than one draw, or a
            ``ci95`` that is out of range or has a single draw.
    """
    _check_images(images, labels)
    if ci95 is not None and not (0 < ci95 < 1 and 2 <= draws <= max_draws):
        raise InputError(f"ci95 is in (0, 1) and needs 2 draws or more, and max_draws above (got {ci95:g}, {draws})")
    if draws < 1 or batch_size < 1:
        raise InputError(f"evaluation needs at least 1 draw and a batch of 1 (got {draws} and {batch_size})")
    for name in channels:
        get_channel(name)
    for length in lengths:
        if not 1 <= length <= link.symbols:
            raise InputError(f"this link sends 1 to {link.symbols} symbols for an image, not {length}")
    ids = torch.arange(len(images)) if ids is None else ids
    points = list(dict.fromkeys(  # each once, whatever is named twice: its draws are the same
        Point(name, float(snr), int(length), float(offset))
        for name in channels for snr in snrs_db for length in lengths for offset in snr_offsets_db
    ))  # fmt: skip
    rounds: dict[Point | None, list[Tensor]] = {point: [] for point in points}
    device = next(link.parameters()).device
    parts = [slice(start, start + batch_size) for start in range(0, len(images), batch_size)]
    training = link.training
    link.eval()
    try:
        features = []
        wanting, made = points, 0
        while wanting:
            count = draws if ci95 is None else min(draws, max_draws - made)
            right = {point: torch.empty(len(images), count, dtype=torch.bool) for point in wanting}
            for index, part in enumerate(parts):
                if not made:
                    features.append(link.encoder(_to_float(images[part], device)))  # (B, D)
                noise = ImageNoise(
                    ids[part].to(device).repeat_interleave(count),
                    torch.arange(made, made + count, device=device).repeat(len(ids[part])), seed,
                )  # fmt: skip
                truth = labels[part, None].to(device)
                for point, answer in _through_channels(link, features[index], noise, wanting).items():
                    right[point][part] = (answer == truth).cpu()
                if progress is not None:
                    progress(min(part.stop, len(images)), len(images))
            made += count
            for point in wanting:
                rounds[point].append(right[point])
            wanting = [
                point for point in wanting
                if ci95 is not None and made < max_draws and draws_ci95(torch.cat(rounds[point], 1).numpy()) > ci95
            ]  # fmt: skip
        if clean:
            clear = torch.cat([link.semantic_decoder(part).argmax(1) for part in features]).cpu()
            rounds[None] = [(clear == labels)[:, None]]
    finally:
        link.train(training)
    return {point: torch.cat(right, 1) for point, right in rounds.items()}


def accuracy_row(system: str, point: Point | None, correct: Tensor) -> dict[str, Any]:
    """The row of one point, as ``curves`` of ``results.json`` holds it.

    Args:
        system: Its name.
        point: Where it was measured; None without a channel, whose columns are then null.
        correct: (N, draws) or (N,) bool.

    Returns:
        ``{system, channel, snr_db, symbols, accuracy, ci95, n}``: accuracy a fraction, ``ci95`` the half-width
        clustered by image (``accuracy_ci95``), ``n`` the number of images; after ``symbols`` comes ``snr_offset_db``
        where it is not 0.
    """
    accuracy, half_width = accuracy_ci95(correct.numpy())
    where = dict.fromkeys(("channel", "snr_db", "symbols")) if point is None else point.columns()
    return {"system": system, **where, "accuracy": accuracy, "ci95": half_width, "n": len(correct)}


@torch.inference_mode()
def evaluate_teacher(
    teacher: _Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
) -> list[dict[str, Any]]:
    """Accuracy of the teacher without a channel, as the one row that goes into ``curves``.

    Args:
        teacher: Has ``features`` (float images in [0, 1] to (B, F)) and ``logits`` ((B, F) to (B, classes)).
        images: (N, C, H, W) uint8 test images.
        labels: (N,) int64.
        batch_size: Images at a time.
        device: Where the teacher lies.

    Returns:
        One row with channel, SNR and symbols null.

    Raises:
        InputError: No images.
    """
    _check_images(images, labels)
    correct = torch.cat(
        [
            (teacher.logits(teacher.features(_to_float(part, device))).argmax(1).cpu() == truth)
            for part, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True)
        ]
    )
    return [accuracy_row("teacher", None, correct)]


@torch.inference_mode()
def evaluate_classifier(
    encoder: nn.Module, classifier: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 256
) -> dict[str, Any]:
    """Accuracy of an encoder and a classifier without a channel.

    Args:
        encoder: Float images (B, C, H, W) in [0, 1] to (B, D); put in evaluation mode here, and back afterwards.
        classifier: (B, D) to (B, classes), on the same device; likewise.
        images: (N, C, H, W) uint8 test images.
        labels: (N,) int64.
        batch_size: Images at a time.

    Returns:
        ``accuracy`` (a fraction), ``ci95`` (its half-width) and ``n`` (images).

    Raises:
        InputError: No images.
    """
    _check_images(images, labels)
    device = next(encoder.parameters()).device
    modes = [(module, module.training) for module in (encoder, classifier)]
    try:
        for module, _ in modes:
            module.eval()
        answers = [classifier(encoder(_to_float(part, device))).argmax(1).cpu() for part in images.split(batch_size)]
    finally:
        for module, training in modes:
            module.train(training)
    accuracy, half_width = accuracy_ci95((torch.cat(answers) == labels).numpy())
    return {"accuracy": accuracy, "ci95": half_width, "n": len(images)}


def _through_channels(link: Link, features: Tensor, noise: ImageNoise, points: Sequence[Point]) -> dict[Point, Tensor]:
    """The answers (B, draws) of one batch at every point; ``noise`` holds the draws of each image in a row."""
    batch, device = len(features), features.device
    samples = len(noise.ids)
    codes: dict[tuple[float, int], Tensor] = {}
    answers = {}
    for point in points:
        told = point.snr_db + point.snr_offset_db
        if link.transmitter_csi:  # every draw has a code word of its own
            at = constant_conditions(samples, point.snr_db, point.channel, point.symbols, device)
            each = features.repeat_interleave(samples // batch, 0)  # (B * draws, D)
            logits = link.through(each, at._replace(error_db=point.snr_offset_db), noise).logits
            answers[point] = logits.argmax(1).view(batch, -1)
            continue
        if (told, point.symbols) not in codes:
            at = constant_conditions(batch, told, point.channel, point.symbols, device)
            codes[told, point.symbols] = link.channel_encoder(features, at.snr_db, at.length)  # (B, k)
        code = codes[told, point.symbols].repeat_interleave(samples // batch, 0)  # (B * draws, k)
        at = constant_conditions(samples, point.snr_db, point.channel, point.symbols, device)
        at = at._replace(error_db=point.snr_offset_db)
        logits = link.receive(transmit(code, at, noise), at.told_snr_db, at.length).logits
        answers[point] = logits.argmax(1).view(batch, -1)
    return answers


def _check_images(images: Tensor, labels: Tensor) -> None:
    if not len(images) or len(images) != len(labels):
        raise InputError(f"evaluation needs images and as many labels (got {len(images)} and {len(labels)})")


def _to_float(images: Tensor, device: str | torch.device) -> Tensor:
    return images.to(device).float() / 255
