"""The student that the algorithm tailors: a link trained slice by slice, measured on the architecture split."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdnas import config
from kdnas.channel import ImageNoise
from kdnas.codec import CAT
from kdnas.distill import Distiller
from kdnas.link import Link, constant_conditions
from kdnas.loss import KnowledgeLoss
from kdnas.run.seeds import seed_of, seeded
from kdnas.tailor.algorithm import Estimate
from kdnas.tailor.estimate import estimate
from kdnas.tailor.qos import EdgeDevice


class Held(NamedTuple):
    """The images of the architecture split, the n labelled ones first.

    Attributes:
        images: (N, C, H, W) uint8.
        ids: (N,) int64, into the training images.
        labels: (n,) int64, n <= N.
        probabilities: (N, classes) of the teacher, from the store.
    """

    images: Tensor
    ids: Tensor
    labels: Tensor
    probabilities: Tensor


class SliceTrainer(Distiller):
    """The trainer of one slice: its losses go on with the projector of the slice before.

    Attributes:
        kept: The loss of the slice before; None in the first.
    """

    kept: KnowledgeLoss | None = None

    def knowledge_loss(self, loss: config.Loss) -> KnowledgeLoss:
        """A loss with the projector so far."""
        made = super().knowledge_loss(loss)
        if self.kept is not None:
            made.load_state_dict(self.kept.state_dict())
        return made


class LinkStudent:
    """A link that is trained in slices, for one device's channel (the ``Student`` of the algorithm).

    Each slice is both stages of RKD in small: clean steps, then steps through the link, each with a schedule of its own
    from a short rise to almost nothing. So after every slice the weights are those of a finished training, and what is
    measured is what would be deployed (warm restarts, arXiv 1608.03983). A slice has checkpoints, from which a
    tailoring that was killed repeats it to the bit.

    Args:
        encoder: Fresh; trained in place.
        codec: Fresh; trained in place.
        device: Whose channel and SNRs are trained for and measured.
        held: What is measured on.
        trainer: (slice, steps) to a trainer that takes so many steps, for either stage of that slice.
        loss: Rung to the loss; None is no distillation.
        name: Of this student, for TensorBoard and checkpoints.
        settings: Of the tailoring.
        seed: Of the first classifier and of the noise in measurements.

    Attributes:
        link: As trained so far, in evaluation mode.
    """

    def __init__(
        self,
        encoder: nn.Module,
        codec: CAT,
        device: EdgeDevice,
        held: Held,
        *,
        trainer: Callable[[int, int], SliceTrainer],
        loss: Callable[[int | None], config.Loss],
        name: str,
        settings: config.Tailor,
        seed: int,
    ) -> None:
        self.codec, self.device, self.held = codec, device, held
        self.trainer, self.loss, self.name, self.settings, self.seed = trainer, loss, name, settings, seed
        with seeded(seed, "tailor", "classifier"):
            self.classifier: nn.Module = nn.Linear(codec.encoder.config["feature_dim"], held.probabilities.shape[1])
        self.link = Link(encoder, codec.encoder, codec.decoder, self.classifier).eval()
        self.slices = 0
        self._kept: KnowledgeLoss | None = None
        self._seen: Tensor | None = None  # features of the held images, until the next training

    def train(self, rung: int | None, steps: int) -> None:
        """Train ``steps`` steps, clean and through the link in the shares that the settings give them."""
        whole = self.settings.steps + self.settings.link_steps
        through = min(max(1, round(steps * self.settings.link_steps / whole)), steps - 1)
        name, clean = f"{self.name}/{self.slices:02d}", self.trainer(self.slices, steps - through)
        clean.kept = self._kept
        self.classifier, loss = clean.clean(self.link.encoder, self.loss(rung), f"{name}/clean", self.classifier)
        # The receiver's decoder reads what arrived, the classifier what was sent: the first begins as the other.
        decoder = self.link.semantic_decoder if self.slices else copy.deepcopy(self.classifier)
        self.link = self.trainer(self.slices, through).through_link(
            self.link.encoder, decoder, loss, self.codec, snr_db=self.device.training_range_db(),
            channels=(self.device.channel,), name=f"{name}/link", sender=self.classifier,
        )  # fmt: skip
        self.slices, self._kept, self._seen = self.slices + 1, loss, None

    def measure(self, length: int, again: bool = False) -> Estimate:
        """Accuracy on the architecture split at ``length`` symbols, over the device's channel and SNRs."""
        posteriors = self._posteriors(length, "again" if again else "once")  # (nodes, N, classes)
        answers, n = posteriors.argmax(2), len(self.held.labels)
        taught = self.held.probabilities.expand(len(answers), -1, -1)
        hints = taught.gather(2, answers[..., None]).squeeze(2).mean(0)  # (N,)
        correct = (answers[:, :n] == self.held.labels).float().mean(0)
        return estimate(correct, hints[:n], hints[n:], self.settings.confidence)

    def divergence(self, length: int) -> float:
        """KL(server || edge) in nats: mean over the architecture split, the channel and the SNRs, no temperature."""
        posteriors, taught = self._posteriors(length, "once"), self.held.probabilities
        entropy = torch.special.entr(taught).sum(1).mean()
        return float(-(taught * posteriors.clamp(min=1e-12).log()).sum(2).mean() - entropy)

    @torch.inference_mode()
    def _posteriors(self, length: int, draw: str) -> Tensor:
        """(nodes, N, classes): the link's posteriors of every held image at every node of the SNR distribution."""
        held, link = self.held, self.link
        if self._seen is None:
            parts = [link.encoder(images.float() / 255) for images in held.images.split(500)]
            self._seen = torch.cat(parts)
        seed, found = seed_of(self.seed, "tailor", "measure", draw) % 2**31, []
        for node, snr_db in enumerate(self.device.snrs_db(self.settings.snrs)):
            at = constant_conditions(len(held.ids), snr_db, self.device.channel, length)
            found.append(link.through(self._seen, at, ImageNoise(held.ids, node, seed)).logits.softmax(1))
        return torch.stack(found)
