"""The two stages of RKD (arXiv 2508.02148; the losses and schedules are our own definition).

Stage 1, clean: the encoder learns the teacher's features and posteriors on labelled and unlabelled images. Stage 2,
through the link: encoder (at its share of the rate), channel encoder, channel decoder and semantic decoder learn the
same targets from what arrives, with SNR, channel and length drawn per sample. The target of stage 2 is the *teacher's*
feature, so the codec denoises and closes the gap between student and teacher at once.
"""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from kdnas import config
from kdnas.data import Batch, Splits
from kdnas.errors import InputError
from kdnas.knowledge.lessons import Lessons
from kdnas.link import FULL_SHARE, Link, constant_conditions, draw_conditions
from kdnas.loss import KnowledgeLoss
from kdnas.run.seeds import generator

LOG_EVERY = 10  # steps between two lines in the log, as in ``make_trainer``; logging takes time
RISING_SNRS = 7  # levels of a rising SNR, one epoch each, as in the conference code of RKD


class Stage(LightningModule):
    """What both stages share: AdamW, named losses in the log, the architecture split, early stopping.

    Args:
        lessons: Pixels and stored knowledge.
        loss: What is minimised.
        splits: Training sees the weights split; the architecture split judges.
        rates: Learning rate of each module; 0 leaves it as it is.
        settings: Of the stages.
        total_steps: Of this stage, for the schedule.

    Raises:
        InputError: It is to stop by the answers of a classifier that no loss trains.
    """

    def __init__(
        self, lessons: Lessons, loss: KnowledgeLoss, splits: Splits, rates: list[tuple[nn.Module, float]],
        settings: config.Distill, total_steps: int,
    ) -> None:  # fmt: skip
        super().__init__()
        if settings.patience and not loss.trains_classifier:
            raise InputError("distill.patience judges by a classifier that no loss trains: set it to 0")
        self.lessons, self.loss, self.splits = lessons, loss, splits
        self.rates, self.settings, self.total_steps = rates, settings, total_steps
        self.least = math.inf  # of the architecture split, so far
        self.waited = 0  # epochs since then
        self.best: dict[str, Tensor] = {}

    def finish(self, parts: dict[str, Tensor], at: Tensor) -> Tensor:
        """Log every part by name, and how hard each pulls ``at``, now and then; returns the sum that is minimised."""
        if (self.global_step + 1) % LOG_EVERY == 0:
            self.log_dict({f"loss/{name}": value.detach() for name, value in parts.items()})
            norms = self.loss.gradient_norms(parts, at)
            self.log_dict({f"gradient/{name}": norm for name, norm in norms.items()})
        return parts["loss"]

    def configure_optimizers(self) -> Any:
        """One group per module with its own rate; a warm-up of 5 % of the steps, then the schedule (cosine to 1 %)."""
        groups = [{"params": list(m.parameters()), "lr": rate} for m, rate in self.rates if rate > 0]
        optimizer = torch.optim.AdamW(groups, weight_decay=self.settings.weight_decay, fused=True)
        rising, total = max(1, self.total_steps // 20), self.total_steps
        falls = self.settings.schedule == "cosine"

        def share(step: int) -> float:
            done = (step - rising) / max(1, total - rising) if falls else 0.0
            return (step + 1) / (rising + 1) if step < rising else 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def predict(self, images: Tensor, ids: Tensor) -> Tensor:
        """Logits (B, classes) of images by id, for the architecture split."""
        raise NotImplementedError

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        """Log accuracy and negative log-likelihood of the architecture split's labels; keep the best where wanted.

        A classifier that no loss trains says nothing.
        """
        if self.stopped or not self.loss.trains_classifier:
            return
        training = [(m, m.training) for m in self.modules()]
        self.eval()
        ids, right, total = self.splits.architecture_labelled, 0, 0.0
        for part in ids.split(500):
            images = self.lessons.views.apply(self.lessons.dataset.train_images[part], part, 0).to(self.device)
            logits, labels = self.predict(images, part).cpu(), self.lessons.dataset.train_labels[part]
            right += int((logits.argmax(1) == labels).sum())
            total += float(F.cross_entropy(logits, labels, reduction="sum"))
        for module, was in training:
            module.training = was
        self.log("accuracy/architecture split", right / len(ids), prog_bar=True)
        self.log("loss/architecture split", total / len(ids))
        if self.settings.patience:
            self._judge(total / len(ids))

    def _judge(self, value: float) -> None:
        if value < self.least:
            self.least, self.waited = value, 0
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.state_dict().items()}
        else:
            self.waited += 1
        if self.stopped:
            self.trainer.should_stop = True

    @property
    def stopped(self) -> bool:
        """Whether the patience is at an end."""
        return 0 < self.settings.patience <= self.waited

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> int | None:
        """A stage that was stopped and is resumed has nothing left to do."""
        return -1 if self.stopped else None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What early stopping has seen goes along."""
        checkpoint["early stopping"] = {"least": self.least, "waited": self.waited, "best": self.best}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The way back."""
        kept = checkpoint["early stopping"]
        self.least, self.waited, self.best = kept["least"], kept["waited"], kept["best"]

    def take_best(self) -> None:
        """Go back to the best epoch, where early stopping has looked for one."""
        if self.best:
            self.load_state_dict(self.best)


class CleanStage(Stage):
    """Stage 1: encoder and classifier, without a channel."""

    def __init__(self, encoder: nn.Module, classifier: nn.Module, **shared: Any) -> None:
        super().__init__(**shared)
        self.encoder, self.classifier = encoder, classifier

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss on one batch."""
        lesson = self.lessons(batch, self.device, self.loss.needs_teacher)
        z = self.encoder(lesson.images)
        told, rate = self.loss.code(z, generator("bottleneck", *batch.key))
        logits = self.classifier(told)
        return self.finish(self.loss(z, logits, lesson.labels, lesson.features, lesson.probabilities, rate=rate), z)

    def predict(self, images: Tensor, ids: Tensor) -> Tensor:
        """Clean logits."""
        return self.classifier(self.encoder(images))


class LinkStage(Stage):
    """Stage 2: the whole link under random conditions.

    Args:
        link: To train.
        snr_db: Lowest and highest SNR in dB.
        channels: Names.
        full_share: Share of samples that send the full length.
        shared: As ``Stage``. An encoder whose rate is 0 is frozen.
    """

    def __init__(
        self, link: Link, snr_db: tuple[float, float], channels: tuple[str, ...],
        full_share: float = FULL_SHARE, **shared: Any,
    ) -> None:  # fmt: skip
        super().__init__(**shared)
        self.link, self.snr_db, self.channels, self.full_share = link, snr_db, channels, full_share
        self.frozen = self.settings.encoder_rate == 0
        # What stage 1 read from clean features: the noisy posterior is to agree with that.
        self.clean_classifier = copy.deepcopy(link.semantic_decoder).requires_grad_(False)

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

    def snr_range(self, epoch: int) -> tuple[float, float]:
        """From where to where SNR is drawn in an epoch: the whole range, or the one level that is its turn."""
        low, high = self.snr_db
        if self.settings.snr != "rising":
            return low, high
        level = low + (high - low) * (epoch % RISING_SNRS) / (RISING_SNRS - 1)
        return level, level

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss on one batch, its conditions and noise drawn from the batch's key."""
        s = self.settings
        lesson = self.lessons(batch, self.device, self.loss.needs_teacher, pixels=not self.frozen)
        z = self.kept[batch.view, batch.ids].to(self.device) if self.frozen else self.link.encoder(lesson.images)
        # The encoder works once for each image, however often its features are sent.
        z, lesson = z.repeat(s.link_draws, 1), lesson.repeat(s.link_draws)
        noise = generator("link", *batch.key, device=self.device)
        conditions = draw_conditions(
            len(z), self.snr_range(batch.key[1]), self.channels, self.link.symbols, noise,
            self.full_share, error_db=s.snr_error_db, snr_power=2.0 if s.snr == "low" else 1.0,
        )  # fmt: skip
        sent = z
        if s.feature_noise:
            draw = torch.randn(z.shape, generator=noise, device=noise.device)
            sent = z + s.feature_noise * z.detach().std(0) * draw
        arrived = self.link.through(sent, conditions, noise)
        features, logits, rate = arrived.features, arrived.logits, None
        if self.loss.bottleneck is not None:
            told, rate = self.loss.code(features, noise)
            logits = self.link.semantic_decoder(told)
        clean = self.clean_classifier(z.detach()) if self.loss.weights["consistency"] > 0 else None
        parts = self.loss(
            features, logits, lesson.labels, lesson.features, lesson.probabilities, rate=rate, clean=clean
        )
        return self.finish(parts, features)

    def predict(self, images: Tensor, ids: Tensor) -> Tensor:
        """Logits through the first channel at the middle of the SNR range and full length, the noise seeded."""
        noise = generator("link", "architecture split", int(ids[0]), device=self.device)
        middle = sum(self.snr_db) / 2
        conditions = constant_conditions(len(images), middle, self.channels[0], self.link.symbols, self.device)
        return self.link.through(self.link.encoder(images), conditions, noise).logits
