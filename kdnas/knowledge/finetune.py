"""Fine-tuning of the last links of a teacher's chain, on kept activations of the first ones."""

import math
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdnas.data import Batch, Dataset, Views
from kdnas.errors import InputError
from kdnas.knowledge.teacher import InputSpec
from kdnas.run.seeds import generator

DROPOUT = 0.2
MEMORY = 1 << 30  # bytes that kept activations may take


class Activations:
    """What a frozen front says of images in some views: kept as far as memory allows, else computed anew.

    Args:
        front: From normalised images to anything; in evaluation mode.
        spec: How images are fitted to it.
        dataset, views, n_views, ids: Of which training images (ids sorted), in which views.
        device: Where ``front`` is and batches are wanted.
    """

    def __init__(
        self,
        front: nn.Module,
        spec: InputSpec,
        dataset: Dataset,
        views: Views,
        n_views: int,
        ids: Tensor,
        device: torch.device,
    ) -> None:
        self.front, self.spec = front.to(device), spec
        self.dataset, self.views, self.ids, self.device = dataset, views, ids, device
        self.n_views = n_views
        sample = self.live(ids[:1], 0)
        worth = any(True for _ in front.parameters())  # there is nothing to keep of an empty front
        fitting = min(n_views, MEMORY // (sample.numel() * 4 * len(ids))) if worth else 0
        self.kept = torch.empty(fitting, len(ids), *sample.shape[1:])
        for view in range(fitting):
            for rows in torch.arange(len(ids)).split(200):
                self.kept[view, rows] = self.live(ids[rows], view).cpu()

    def live(self, ids: Tensor, view: int) -> Tensor:
        """The activations of ``ids`` (B,) in ``view``, computed now."""
        images = self.views.apply(self.dataset.train_images[ids], ids, view).to(self.device)
        with torch.no_grad():
            return self.front(self.spec.prepare(images))

    def rows(self, ids: Tensor) -> Tensor:
        """Where each of ``ids`` (B,) stands among ``self.ids``."""
        return torch.searchsorted(self.ids, ids)

    def __call__(self, ids: Tensor, view: int) -> Tensor:
        """The activations of ``ids`` (B,) in ``view``."""
        if view >= len(self.kept):
            return self.live(ids, view)
        return self.kept[view, self.rows(ids)].to(self.device)


@dataclass(frozen=True)
class SoftLabels:
    """Posteriors in place of labels, for images that have none.

    Attributes:
        activations: Of those images.
        posteriors: (len(activations.ids), classes), in that order.
    """

    activations: Activations
    posteriors: Tensor


@dataclass(frozen=True)
class Held:
    """Labelled images that judge a fine-tuning after each epoch, and never teach it.

    Attributes:
        activations: Of those images; view 0 is looked at.
        labels: (len(activations.ids),) int64.
        patience: Epochs without a lower negative log-likelihood after which the fine-tuning ends, at least 1.
    """

    activations: Activations
    labels: Tensor
    patience: int


class FineTune(pl.LightningModule):
    """Cross-entropy with smoothed labels through the last links and the classifier; AdamW, warm-up, cosine.

    Args:
        tail: The links to train. The batch norms of a pretrained one should be folded: at a few pixels a
            side, the statistics of one batch are so noisy that training with them costs several points.
        head: The classifier, already fitted where there was something to fit it on.
        activations: Inputs of ``tail`` by id and view.
        steps: Training steps in all.
        learning_rate: At its peak.
        smoothing: Of the labels.
        key: Names this fine-tuning; a checkpoint of another is refused.
        rate_decay: The learning rate of a link over that of the next link with parameters, towards the head.
        mixup: The largest share of another image of the batch that is mixed into an image's activations; its
            label is mixed in alike (arXiv 1710.09412, on hidden layers 1806.05236; the share is uniform here).
        soft: Posteriors for the images of the batches that have no label.
        held: What judges it; the weights of the best epoch are then in ``best``.
    """

    def __init__(
        self,
        tail: nn.Sequential,
        head: nn.Linear,
        activations: Activations,
        *,
        steps: int,
        learning_rate: float,
        smoothing: float,
        key: str,
        rate_decay: float = 1.0,
        mixup: float = 0.0,
        soft: SoftLabels | None = None,
        held: Held | None = None,
    ) -> None:
        super().__init__()
        self.tail, self.head = tail, head
        self.activations = activations
        self.steps, self.learning_rate, self.smoothing, self.key = steps, learning_rate, smoothing, key
        self.rate_decay, self.mixup, self.soft, self.held = rate_decay, mixup, soft, held
        self.best: dict[str, Any] = {"nll": math.inf, "epoch": 0, "state": {}}
        self.since = 0  # epochs since the best one

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """One step on the images of ``batch``: labelled ones first, then those of ``soft``."""
        known = int((batch.labels >= 0).sum())
        inputs = self.activations(batch.ids[:known], batch.view)
        if known < len(batch.ids):
            assert self.soft is not None
            others = self.soft.activations
            inputs = torch.cat([inputs, others(batch.ids[known:], batch.view % others.n_views)])
        order, share = self._mixing(batch, inputs.device)
        if self.mixup:
            inputs = torch.lerp(inputs, inputs[order], share.view(-1, *[1] * (inputs.ndim - 1)))
        features = self.tail(inputs)
        draws = torch.rand(features.shape, generator=generator("dropout", *batch.key)).to(features.device)
        features = features * (draws >= DROPOUT) / (1 - DROPOUT)
        if self.mixup or self.soft is not None:
            targets = self._targets(batch, known).to(features.device)
            if self.mixup:
                targets = torch.lerp(targets, targets[order], share[:, None])
            loss = F.cross_entropy(self.head(features), targets)
        else:
            labels = batch.labels.to(features.device)
            loss = F.cross_entropy(self.head(features), labels, label_smoothing=self.smoothing)
        self.log("loss", loss, prog_bar=True)
        return loss

    def _mixing(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Which image (B,) is mixed into each, and its share (B,) in [0, mixup]."""
        draws = generator("mixup", *batch.key)
        order = torch.randperm(len(batch.ids), generator=draws)
        return order.to(device), self.mixup * torch.rand(len(batch.ids), generator=draws).to(device)

    def _targets(self, batch: Batch, known: int) -> Tensor:
        """(B, classes): smoothed labels, then the posteriors of ``soft``."""
        classes = self.head.out_features
        sure = F.one_hot(batch.labels[:known], classes) * (1 - self.smoothing) + self.smoothing / classes
        if self.soft is None:
            return sure
        return torch.cat([sure, self.soft.posteriors[self.soft.activations.rows(batch.ids[known:])]])

    def on_train_start(self) -> None:
        """A fine-tuning that had ended early, and was not used, does not go on."""
        self._end_early()

    def on_train_epoch_end(self) -> None:
        """Judge the epoch, before its checkpoint is written."""
        if self.held is None:
            return
        nll = self.negative_log_likelihood()
        self.log("held_nll", nll)
        self.since += 1
        if nll < self.best["nll"]:
            state = {name: value.detach().cpu().clone() for name, value in self.state_dict().items()}
            self.best, self.since = {"nll": nll, "epoch": self.current_epoch + 1, "state": state}, 0
        self._end_early()

    def _end_early(self) -> None:
        if self.held is not None and self.since >= self.held.patience:
            self.trainer.should_stop = True

    def negative_log_likelihood(self) -> float:
        """Mean over the images of ``held``, in nats, in evaluation mode."""
        assert self.held is not None
        modes = {module: module.training for module in self.modules()}
        self.eval()
        ids = self.held.activations.ids
        with torch.no_grad():
            logits = torch.cat([self.head(self.tail(self.held.activations(part, 0))).cpu() for part in ids.split(200)])
        for module, mode in modes.items():
            module.training = mode
        return float(F.cross_entropy(logits, self.held.labels))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the checkpoint is of."""
        checkpoint["key"] = self.key
        if self.held is not None:
            checkpoint["best"], checkpoint["since"] = self.best, self.since

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on from a checkpoint of another fine-tuning."""
        if checkpoint.get("key") != self.key:
            raise InputError(
                "the teacher's checkpoint in this run directory is of other settings: use another with --out"
            )
        if self.held is not None:
            self.best, self.since = checkpoint["best"], checkpoint["since"]

    def configure_optimizers(self) -> Any:
        """AdamW; its rate rises over the first tenth of the steps and falls as a cosine to 0."""
        parameters = self.parameters() if self.rate_decay == 1 else self._groups()
        optimiser = torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=0.02, fused=True)
        warm = max(1, self.steps // 10)

        def rate(step: int) -> float:
            if step < warm:
                return (step + 1) / (warm + 1)
            return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters by link, each with its rate: the head's is ``learning_rate``, the others' decay from there."""
        links = [list(link.parameters()) for link in self.tail]
        chain = [own for own in links if own] + [list(self.head.parameters())]
        top = len(chain) - 1
        return [
            {"params": own, "lr": self.learning_rate * self.rate_decay ** (top - at)} for at, own in enumerate(chain)
        ]
