"""Accuracy of a link for each channel, SNR and length, and of the teacher beside it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from kdnas.channel import ImageNoise, get_channel
from kdnas.errors import InputError
from kdnas.evaluate.statistics import accuracy_ci95
from kdnas.link import Link, constant_conditions, transmit


class Point(NamedTuple):
    """Where a link is measured.

    Attributes:
        channel: Name of the channel.
        snr_db: Average SNR E_s/N_0 in dB.
        symbols: Complex symbols per image.
    """

    channel: str
    snr_db: float
    symbols: int


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
        Rows ``{system, channel, snr_db, symbols, accuracy, ci95, n}`` (``accuracy_row``).

    Raises:
        InputError: As in ``evaluate_answers``.
    """
    answers = evaluate_answers(link, images, labels, ids, **how)
    return [accuracy_row(system, point, correct) for point, correct in answers.items()]


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
    draws: int = 4,
    batch_size: int = 256,
    seed: int = 0,
    error_db: float = 0.0,
    clean: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Point | None, Tensor]:
    """Which images a link gets right, in every channel draw, at every channel x SNR x length.

    The encoder runs once on each image and the channel encoder once for each SNR and length; the channel and
    the receiver run ``draws`` times. Noise and fading depend on (seed, image, draw) alone: no result depends
    on the batch size, and all systems, SNRs and lengths meet the same realisations, so that two systems are
    compared by ``paired_difference`` of what this returns.

    Args:
        link: The link; put in evaluation mode here, and back afterwards. Images are moved to its device.
        images: (N, C, H, W) uint8 test images.
        labels: (N,) int64.
        ids: (N,) int64 that name the images for the noise; None: 0 ... N-1.
        channels: Names from ``kdnas.channel``.
        snrs_db: Average SNRs E_s/N_0 in dB.
        lengths: Complex symbols per image, each 1 ... ``link.symbols``.
        draws: Channel draws for each image and point.
        batch_size: Images at a time; ``batch_size * draws`` go through the receiver at once.
        seed: Of the noise.
        error_db: By how much the link is told a higher SNR than it has, in dB.
        clean: Also encoder and semantic decoder without codec or channel, as the point None.
        progress: Called with (images done, images in all) after each batch.

    Returns:
        By point, in the order channels x SNRs x lengths: (N, draws) bool, True where the answer was right; (N, 1)
        for None, which comes last.

    Raises:
        InputError: An unknown channel, a length that the link cannot send, no images, or fewer than one draw.
    """
    _check_images(images, labels)
    if draws < 1 or batch_size < 1:
        raise InputError(f"evaluation needs at least 1 draw and a batch of 1 (got {draws} and {batch_size})")
    for name in channels:
        get_channel(name)
    for length in lengths:
        if not 1 <= length <= link.symbols:
            raise InputError(f"this link sends 1 to {link.symbols} symbols for an image, not {length}")
    ids = torch.arange(len(images)) if ids is None else ids
    points = [Point(name, float(snr), int(length)) for name in channels for snr in snrs_db for length in lengths]
    correct: dict[Point | None, Tensor] = {point: torch.empty(len(images), draws, dtype=torch.bool) for point in points}
    if clean:
        correct[None] = torch.empty(len(images), 1, dtype=torch.bool)
    device = next(link.parameters()).device
    training = link.training
    link.eval()
    try:
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            features = link.encoder(_to_float(images[part], device))  # (B, D)
            truth = labels[part, None].to(device)
            answers = _through_channels(link, features, ids[part].to(device), points, draws, seed, error_db)
            if clean:
                answers[None] = link.semantic_decoder(features).argmax(1, keepdim=True)
            for point, answer in answers.items():
                correct[point][part] = (answer == truth).cpu()
            if progress is not None:
                progress(min(start + batch_size, len(images)), len(images))
    finally:
        link.train(training)
    return correct


def accuracy_row(system: str, point: Point | None, correct: Tensor) -> dict[str, Any]:
    """The row of one point, as ``curves`` of ``results.json`` holds it.

    Args:
        system: Its name.
        point: Where it was measured; None without a channel, whose columns are then null.
        correct: (N, draws) or (N,) bool.

    Returns:
        ``{system, channel, snr_db, symbols, accuracy, ci95, n}``: accuracy a fraction, ``ci95`` the half-width
        clustered by image (``accuracy_ci95``), ``n`` the number of images.
    """
    accuracy, half_width = accuracy_ci95(correct.numpy())
    where = dict.fromkeys(Point._fields) if point is None else point._asdict()
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


def _through_channels(
    link: Link, features: Tensor, ids: Tensor, points: Sequence[Point], draws: int, seed: int, error_db: float
) -> dict[Point | None, Tensor]:
    """The answers (B, draws) of one batch at every point."""
    batch, device = len(ids), ids.device
    draw = torch.arange(draws, device=device).repeat(batch)  # (B * draws,)
    noise = ImageNoise(ids.repeat_interleave(draws), draw, seed)
    codes: dict[tuple[float, int], Tensor] = {}
    answers: dict[Point | None, Tensor] = {}
    for point in points:
        name, snr_db, length = point
        if (snr_db, length) not in codes:
            at = constant_conditions(batch, snr_db, name, length, device)
            codes[snr_db, length] = link.channel_encoder(features, at.snr_db + error_db, at.length)  # (B, k)
        code = codes[snr_db, length].repeat_interleave(draws, 0)  # (B * draws, k)
        at = constant_conditions(batch * draws, snr_db, name, length, device)._replace(error_db=error_db)
        logits = link.receive(transmit(code, at, noise), at.told_snr_db, at.length).logits
        answers[point] = logits.argmax(1).view(batch, draws)
    return answers


def _check_images(images: Tensor, labels: Tensor) -> None:
    if not len(images) or len(images) != len(labels):
        raise InputError(f"evaluation needs images and as many labels (got {len(images)} and {len(labels)})")


def _to_float(images: Tensor, device: str | torch.device) -> Tensor:
    return images.to(device).float() / 255
