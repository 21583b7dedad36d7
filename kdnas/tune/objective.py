"""What a trial is worth: accuracy on the architecture split, with or without the channel between."""

from typing import Literal

import torch
from torch import Tensor, nn

from kdnas.channel import ImageNoise, power_normalise, prefix_mask
from kdnas.data import Splits
from kdnas.device.model import Radio
from kdnas.knowledge.judges import judges
from kdnas.knowledge.lessons import Lessons
from kdnas.link import constant_conditions, transmit

Judged = Literal["labels", "all"]


class Objective:
    """Accuracy of an encoder and its classifier on the architecture split; a ``kdnas.search.engine.Judge``.

    Through the link no codec is trained: features cross the channel as they are. They are standardised, each pair of
    them is one complex symbol, each image's power is 1 as in the codec, and the receiver scales what arrives as the
    linear estimate of least squared error does (``E[x | y]`` were x Gaussian) before the classifier reads it. A message
    of the device has k symbols, D features make D/2: the energy of the k is put into these, which is what repeating
    them, or sending none but the strongest, comes to. What is judged is so how far classes lie apart for a given power.

    Args:
        lessons: Pixels and stored knowledge.
        splits: Its architecture split judges.
        radio: Of the device: its channels, SNRs and symbols.
        judged: ``labels`` judges by the labelled images; ``all`` by the unlabelled too, an answer there being worth
            the teacher's probability of it.
        channel: Through the link; else the clean features.
        draws: Of the channel, for each image, channel and SNR.
        seed: Of the channel: every network meets the same noise.
    """

    def __init__(
        self,
        lessons: Lessons,
        splits: Splits,
        radio: Radio,
        *,
        judged: Judged = "labels",
        channel: bool = True,
        draws: int = 2,
        seed: int = 0,
    ) -> None:
        self.lessons, self.radio, self.channel, self.draws, self.seed = lessons, radio, channel, draws, seed
        self.ids, self.worth = judges(lessons, splits, seed, unlabelled=judged == "all")

    @torch.no_grad()
    def __call__(self, encoder: nn.Module, classifier: nn.Module, device: torch.device) -> float:
        """The mean worth of the answers, in 0 ... 1.

        Args:
            encoder: (B, C, H, W) to (B, D).
            classifier: (B, D) to (B, classes).
            device: Where both lie.
        """
        modes = [(module, module.training) for module in (encoder, classifier)]
        for module, _ in modes:
            module.eval()
        features = torch.cat([encoder(self._pixels(part, device)) for part in self.ids.split(500)])
        received = self.received(features) if self.channel else [features]
        worth = self.worth.to(device)
        values = [worth.gather(1, classifier(z).argmax(1, keepdim=True)).mean() for z in received]
        for module, training in modes:
            module.train(training)
        return float(torch.stack(values).mean())

    def received(self, features: Tensor) -> list[Tensor]:
        """What arrives of features (N, D), for each channel, SNR (lowest, middle, highest) and draw."""
        count, dims = features.shape
        mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
        z = nn.functional.pad((features - mean) / std, (0, dims % 2))
        symbols = torch.view_as_complex(z.view(count, -1, 2).contiguous())  # (N, ceil(D / 2))
        full = torch.full((count,), symbols.shape[1], device=features.device)
        code = power_normalise(symbols, prefix_mask(full, symbols.shape[1]))
        norm = z.square().mean(1, keepdim=True).mul(2).sqrt()  # |x| = 1 stands for this; a scalar, told to the receiver
        gain_db = 10 * torch.log10(torch.tensor(self.radio.symbols / symbols.shape[1]))
        low, high = self.radio.snr_db
        found = []
        for name in self.radio.channels:
            for snr_db in (low, (low + high) / 2, high):
                for draw in range(self.draws):
                    noise = ImageNoise(self.ids.to(features.device), draw, self.seed)
                    at = constant_conditions(count, snr_db + float(gain_db), name, symbols.shape[1], features.device)
                    arrived = transmit(code, at, noise)
                    snr = torch.pow(10.0, arrived.effective_snr_db / 10).view(count, -1, 1)  # (N, 1 or k, 1)
                    shrunk = torch.view_as_real(arrived.symbols) * norm[..., None] * snr / (1 + snr)  # (N, k, 2)
                    found.append(shrunk.flatten(1)[:, :dims] * std + mean)
        return found

    def _pixels(self, ids: Tensor, device: torch.device) -> Tensor:
        images = self.lessons.views.apply(self.lessons.dataset.train_images[ids], ids, 0)
        return images.to(device, memory_format=torch.channels_last)
