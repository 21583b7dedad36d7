"""The class's share of the power, set by images that training has not seen.

What CAT learns of it is too little: the features of a training image say more of it than those of a new one will. So
after stage 2 the log of the share's odds is raised to where held-out images are answered best, by the same number at
both ends and at every SNR and length. As in temperature scaling (Guo et al., arXiv 1706.04599) one number is chosen, so
that little can be fitted to those images.
"""

from collections.abc import Sequence

import torch

from kdnas.channel import ImageNoise
from kdnas.codec import ChannelDecoder, ChannelEncoder
from kdnas.data import Splits
from kdnas.knowledge.judges import judges
from kdnas.knowledge.lessons import Lessons
from kdnas.link import Link, constant_conditions

RAISES = (0.0, 1.0, 2.0, 3.0, 4.0)  # of the log of the odds of the class's share


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
        link: Trained, in evaluation mode, on the CPU; both shares are changed in place.
        lessons: Pixels, and the stored knowledge that ``unlabelled`` needs.
        splits: Its architecture split judges.
        snrs_db: At which answers are compared, in dB; every one counts the same.
        channels: Likewise.
        lengths: Likewise, in symbols.
        seed: Of the noise, which is the same for every raise.
        unlabelled: Images without a label judge too, by the teacher.

    Returns:
        By how much the log of the odds was raised: one of ``RAISES``; 0 for a codec without words for classes.
    """
    encoder, transmitter, receiver = link.encoder, link.channel_encoder, link.channel_decoder
    assert isinstance(transmitter, ChannelEncoder) and isinstance(receiver, ChannelDecoder)
    if transmitter.classifier is None or receiver.classes is None:
        return RAISES[0]
    shares = (transmitter.share, receiver.share)
    ids, worth = judges(lessons, splits, seed, unlabelled)
    pixels = (lessons.views.apply(lessons.dataset.train_images[part], part, 0) for part in ids.split(500))
    features = torch.cat([encoder(images) for images in pixels])
    learned = [share.layer.bias.clone() for share in shares]
    points = [
        constant_conditions(len(ids), snr_db, name, length)
        for name in channels for snr_db in snrs_db for length in lengths
    ]  # fmt: skip

    def value(by: float) -> float:
        for share, bias in zip(shares, learned, strict=True):
            share.layer.bias.copy_(bias + by)
        answers = [link.through(features, at, ImageNoise(ids, 0, seed)).logits.argmax(1) for at in points]
        return float(torch.stack([worth.gather(1, answer[:, None]).mean() for answer in answers]).mean())

    values = [value(by) for by in RAISES]
    chosen = RAISES[max(range(len(RAISES)), key=values.__getitem__)]  # the first of equals
    for share, bias in zip(shares, learned, strict=True):
        share.layer.bias.copy_(bias + chosen)
    return chosen
