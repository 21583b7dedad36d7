"""The two stages of RKD (arXiv 2508.02148; the losses and schedules are our own definition).

Stage 1, clean: the encoder learns the teacher's features and posteriors on labelled and unlabelled images. Stage 2,
through the link: channel encoder, channel decoder and semantic decoder (and the encoder, at a low rate) learn the same
targets from what arrives, with SNR, channel and length drawn per sample. The target of stage 2 is the *teacher's*
feature, so the codec denoises and closes the gap between student and teacher at once.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kdnas import config
from kdnas.codec import CAT
from kdnas.data import Batch, Splits, batches
from kdnas.knowledge.lessons import Lessons
from kdnas.link import Link, constant_conditions, draw_conditions
from kdnas.loss import KnowledgeLoss
from kdnas.run.seeds import generator, seed_of, seeded
from kdnas.run.training import channels_last, fit


class _Stage(LightningModule):
    """What both stages share: AdamW under a cosine, named losses in the log, accuracy on the architecture split."""

    def __init__(
        self, lessons: Lessons, loss: KnowledgeLoss, splits: Splits, rates: list[tuple[nn.Module, float]],
        weight_decay: float, total_steps: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.lessons, self.loss, self.splits = lessons, loss, splits
        self.rates, self.weight_decay, self.total_steps = rates, weight_decay, total_steps

    def log_parts(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Log every part by name; returns the sum that is minimised."""
        self.log_dict({f"loss/{name}": value.detach() for name, value in parts.items()})
        return parts["loss"]

    def configure_optimizers(self) -> Any:
        """One group per module with its own rate; a warm-up of 5 % of the steps, then a cosine to 1 %."""
        groups = [{"params": list(m.parameters()), "lr": rate} for m, rate in self.rates if rate > 0]
        optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
        rising, total = max(1, self.total_steps // 20), self.total_steps

        def share(step: int) -> float:
            done = (step - rising) / max(1, total - rising)
            return (step + 1) / (rising + 1) if step < rising else 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def predict(self, images: Tensor, ids: Tensor) -> Tensor:
        """Logits (B, classes) of images by id, for the accuracy on the architecture split."""
        raise NotImplementedError

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        """Log the accuracy on the labelled images of the architecture split."""
        training = [(m, m.training) for m in self.modules()]
        self.eval()
        ids, right = self.splits.architecture_labelled, 0
        for part in ids.split(500):
            images = self.lessons.views.apply(self.lessons.dataset.train_images[part], part, 0).to(self.device)
            right += int((self.predict(images, part).argmax(1).cpu() == self.lessons.dataset.train_labels[part]).sum())
        for module, was in training:
            module.training = was
        self.log("accuracy/architecture split", right / len(ids), prog_bar=True)


class CleanStage(_Stage):
    """Stage 1: encoder and classifier, without a channel."""

    def __init__(self, encoder: nn.Module, classifier: nn.Module, **shared: Any) -> None:
        super().__init__(**shared)
        self.encoder, self.classifier = encoder, classifier

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss on one batch."""
        lesson = self.lessons(batch, self.device, self.loss.needs_teacher)
        z = self.encoder(lesson.images)
        return self.log_parts(self.loss(z, self.classifier(z), lesson.labels, lesson.features, lesson.probabilities))

    def predict(self, images: Tensor, ids: Tensor) -> Tensor:
        """Clean logits."""
        return self.classifier(self.encoder(images))


class LinkStage(_Stage):
    """Stage 2: the whole link under random conditions."""

    def __init__(
        self, link: Link, snr_db: tuple[float, float], channels: tuple[str, ...], frozen: bool, **shared: Any
    ) -> None:
        super().__init__(**shared)
        self.link, self.snr_db, self.channels, self.frozen = link, snr_db, channels, frozen

    @torch.no_grad()
    def on_fit_start(self) -> None:
        """A frozen encoder says the same of a view every time: run it once on each, and keep its features."""
        if not self.frozen:
            return
        self.link.encoder.eval()
        ids = torch.cat([self.splits.weights_labelled, self.splits.weights_unlabelled])
        images, views = self.lessons.dataset.train_images, self.lessons.n_views
        self.kept = torch.zeros(views, len(images), self.link.encoder(self._pixels(ids[:1], 0)).shape[1])
        for view in range(views):
            for part in ids.split(500):
                self.kept[view, part] = self.link.encoder(self._pixels(part, view)).cpu()

    def _pixels(self, ids: Tensor, view: int) -> Tensor:
        images = self.lessons.views.apply(self.lessons.dataset.train_images[ids], ids, view)
        return images.to(self.device, memory_format=torch.channels_last)

    def on_train_epoch_start(self) -> None:
        """A frozen encoder keeps its batch-norm statistics too."""
        if self.frozen:
            self.link.encoder.eval()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss on one batch, its conditions and noise drawn from the batch's key."""
        lesson = self.lessons(batch, self.device, self.loss.needs_teacher, pixels=not self.frozen)
        z = self.kept[batch.view, batch.ids].to(self.device) if self.frozen else self.link.encoder(lesson.images)
        noise = generator("link", *batch.key, device=self.device)
        conditions = draw_conditions(len(z), self.snr_db, self.channels, self.link.symbols, noise)
        outcome = self.link.through(z, conditions, noise)
        return self.log_parts(
            self.loss(outcome.features, outcome.logits, lesson.labels, lesson.features, lesson.probabilities)
        )

    def predict(self, images: Tensor, ids: Tensor) -> Tensor:
        """Logits through the first channel at the middle of the SNR range and full length, the noise seeded."""
        noise = generator("link", "architecture split", int(ids[0]), device=self.device)
        middle = sum(self.snr_db) / 2
        conditions = constant_conditions(len(images), middle, self.channels[0], self.link.symbols, self.device)
        return self.link.through(self.link.encoder(images), conditions, noise).logits


class Distiller:
    """Trains encoders and links; the same object trains the system and its baselines, with the same budget.

    Args:
        lessons: Pixels and stored knowledge; without a store only losses without a teacher can be used.
        splits: Training sees the weights split; accuracy in the log is on the architecture split.
        settings: Of the stages.
        classes: Number of classes.
        feature_dim: D.
        statistics: (mean, std), each (F,), of the teacher's features.
        directory: The run directory.
        seed: Of first weights, batches, and noise.
        accelerator: As in ``make_trainer``.
        progress: Show progress bars.
    """

    def __init__(
        self,
        lessons: Lessons,
        splits: Splits,
        settings: config.Distill,
        *,
        classes: int,
        feature_dim: int,
        statistics: tuple[Tensor, Tensor],
        directory: Path,
        seed: int,
        accelerator: str = "auto",
        progress: bool = True,
    ) -> None:
        self.lessons, self.splits, self.settings = lessons, splits, settings
        self.classes, self.feature_dim, self.statistics = classes, feature_dim, statistics
        self.directory, self.seed, self.accelerator, self.progress = directory, seed, accelerator, progress

    def clean(
        self, encoder: nn.Module, loss: config.Loss, name: str, classifier: nn.Module | None = None
    ) -> tuple[nn.Module, KnowledgeLoss]:
        """Stage 1: train ``encoder`` in place.

        Args:
            encoder: (B, C, H, W) to (B, D).
            loss: With ``kd`` 0 only labelled images are used.
            name: Of the stage, for TensorBoard and checkpoints.
            classifier: A linear classifier to go on with; a fresh one unless given.

        Returns:
            The classifier (B, D) to (B, classes), and the loss with its trained projector.
        """
        s = self.settings
        with seeded(self.seed, "stage 1"):
            classifier = classifier or nn.Linear(self.feature_dim, self.classes)
            knowledge = self.knowledge_loss(loss)
        stage = CleanStage(
            channels_last(encoder), classifier, lessons=self.lessons, loss=knowledge,
            splits=self.splits, rates=[(m, s.learning_rate) for m in (encoder, classifier, knowledge)],
            weight_decay=s.weight_decay, total_steps=s.epochs * s.steps,
        )  # fmt: skip
        self._fit(stage, self._batches(knowledge, "stage 1", s.batch_size), s.epochs, name)
        return classifier, knowledge

    def through_link(
        self,
        encoder: nn.Module,
        classifier: nn.Module,
        knowledge: KnowledgeLoss,
        codec: CAT,
        *,
        snr_db: tuple[float, float],
        channels: Iterable[str],
        name: str,
    ) -> Link:
        """Stage 2: train codec and semantic decoder through the channel, and the encoder at its share of the rate.

        Args:
            encoder: From stage 1; trained further in place unless ``encoder_rate`` is 0.
            classifier: From stage 1; becomes the semantic decoder.
            knowledge: The loss of stage 1, whose projector goes on.
            codec: Fresh.
            snr_db: Lowest and highest SNR in dB, drawn uniformly per sample.
            channels: Names, drawn uniformly per sample.
            name: Of the stage.

        Returns:
            The link, in evaluation mode.
        """
        s = self.settings
        link = Link(encoder, codec.encoder, codec.decoder, classifier)
        rate = s.link_learning_rate
        rates = [(m, rate) for m in (codec, classifier, knowledge)] + [(encoder, rate * s.encoder_rate)]
        stage = LinkStage(
            link, snr_db, tuple(channels), s.encoder_rate == 0, lessons=self.lessons, loss=knowledge,
            splits=self.splits, rates=rates, weight_decay=s.weight_decay, total_steps=s.link_epochs * s.steps,
        )  # fmt: skip
        channels_last(encoder)
        self._fit(stage, self._batches(knowledge, "stage 2", s.link_batch_size), s.link_epochs, name)
        return link.eval()

    def _fit(self, stage: _Stage, loader: DataLoader[Batch], epochs: int, name: str) -> None:
        stage.train()  # Lightning leaves the mode as it finds it, and stage 1 ends in evaluation mode
        fit(
            stage, loader, epochs=epochs, directory=self.directory, name=name, accelerator=self.accelerator,
            progress=self.progress,
        )  # fmt: skip
        stage.eval().cpu()

    def knowledge_loss(self, loss: config.Loss) -> KnowledgeLoss:
        """A fresh loss with its projector."""
        mean, std = self.statistics
        return KnowledgeLoss(
            self.feature_dim, len(mean), mean, std, ce=loss.ce, kd=loss.kd, feature=loss.feature, logit=loss.logit,
            temperature=loss.temperature,
        )  # fmt: skip

    def _batches(self, loss: KnowledgeLoss, key: str, size: int) -> DataLoader[Batch]:
        s, splits = self.settings, self.splits
        unlabelled = splits.weights_unlabelled if loss.needs_teacher else splits.weights_unlabelled[:0]
        return batches(
            splits.weights_labelled, self.lessons.dataset.train_labels, unlabelled, batch_size=size,
            labelled_fraction=s.labelled_fraction, steps=s.steps, views=self.lessons.n_views,
            seed=seed_of(self.seed, key) % 2**31,
        )  # fmt: skip
