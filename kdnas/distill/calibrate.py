"""The class's share of the power, set by images that training has not seen.

What CAT learns of it is too little: the features of a training image say more of it than those of a new one will. So
after stage 2 the log of the share's odds is raised to where held-out images are answered best, by the same number at
both ends and at every SNR and length. As in temperature scaling (Guo et al., arXiv 1706.04599) one number is chosen, so
that little can be fitted to those images.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdnas.channel import ImageNoise
from kdnas.codec import ChannelDecoder, ChannelEncoder
from kdnas.codec.cat import Share
from kdnas.data import Splits
from kdnas.knowledge.judges import IMAGES, judges
from kdnas.knowledge.lessons import Lessons
from kdnas.link import Link, constant_conditions
from kdnas.run.seeds import generator, seed_of

RAISES = (0.0, 1.0, 2.0, 3.0, 4.0)  # of the log of the odds of the class's share


def raise_shares(link: Link, by: float) -> None:
    """Let the class's share stand ``by`` above what is learned of it, at both ends; a codec without words has none."""
    for half in (link.channel_encoder, link.channel_decoder):
        if isinstance(share := getattr(half, "share", None), Share):
            share.raised.fill_(by)


@torch.no_grad()
def calibrate_share(
    link: Link,
    lessons: Lessons,
    splits: Splits,
    *,
    snrs_db: Sequence[float],
    channels: Sequence[str],
    lengths: Sequence[int],
    seed: int,
    unlabelled: bool = True,
) -> float:
    """Raise the class's share of the power as far as the architecture split gains by it.

    Args:
        link: Trained, in evaluation mode, on the CPU; both halves are changed in place.
        lessons: Pixels, and the stored knowledge that ``unlabelled`` needs.
        splits: Its architecture split judges.
        snrs_db: At which answers are compared, in dB; every one counts the same.
        channels: Likewise.
        lengths: Likewise, in symbols.
        seed: Of the noise, which is the same for every raise.
        unlabelled: Images without a label judge too, by the teacher.

    Returns:
        By how much the log of the odds stands above what is learned: the least of ``RAISES`` that is within one
        standard error of the best, over images (Breiman et al., Classification and Regression Trees, 3.4.3); 0 for a
        codec without words for classes.
    """
    encoder, transmitter, receiver = link.encoder, link.channel_encoder, link.channel_decoder
    assert isinstance(transmitter, ChannelEncoder) and isinstance(receiver, ChannelDecoder)
    if transmitter.classifier is None or receiver.classes is None:
        return RAISES[0]
    ids, worth = judges(lessons, splits, seed, unlabelled)
    some = torch.randperm(len(ids), generator=generator(seed, "share"))[:IMAGES]
    ids, worth = ids[some], worth[some]
    pixels = (lessons.views.apply(lessons.dataset.train_images[part], part, 0) for part in ids.split(500))
    features = torch.cat([encoder(images) for images in pixels])
    points = [
        constant_conditions(len(ids), snr_db, name, length)
        for name in channels for snr_db in snrs_db for length in lengths
    ]  # fmt: skip
    noise_seed = seed_of(seed, "share") % 2**31  # not that of the adaptation table, which the same images fill

    def of_images(by: float) -> Tensor:
        """What the answers to each image are worth, (N,): mean over the points."""
        raise_shares(link, by)
        worths = []
        for number, at in enumerate(points):
            answers = link.through(features, at, ImageNoise(ids, number, noise_seed)).logits.argmax(1)
            worths.append(worth.gather(1, answers[:, None])[:, 0])
        return torch.stack(worths).mean(0)

    values = [of_images(by) for by in RAISES]
    best = max(values, key=lambda value: float(value.mean()))
    for by, value in zip(RAISES, values, strict=True):  # from the least up: the best itself is within its error
        missed = best - value
        if missed.mean() <= missed.std(correction=0) / len(ids) ** 0.5:
            raise_shares(link, by)
            return by
    raise AssertionError("the best misses nothing")
