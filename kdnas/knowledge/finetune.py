"""Fine-tuning of the last links of a teacher's chain, on kept activations of the first ones."""

import math
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

    def __call__(self, ids: Tensor, view: int) -> Tensor:
        """The activations of ``ids`` (B,) in ``view``."""
        if view >= len(self.kept):
            return self.live(ids, view)
        return self.kept[view, torch.searchsorted(self.ids, ids)].to(self.device)


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
    """

    def __init__(
        self,
        tail: nn.Module,
        head: nn.Linear,
        activations: Activations,
        *,
        steps: int,
        learning_rate: float,
        smoothing: float,
        key: str,
    ) -> None:
        super().__init__()
        self.tail, self.head = tail, head
        self.activations = activations
        self.steps, self.learning_rate, self.smoothing, self.key = steps, learning_rate, smoothing, key

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """One step on the labelled images of ``batch``."""
        features = self.tail(self.activations(batch.ids, batch.view))
        draws = torch.rand(features.shape, generator=generator("dropout", *batch.key)).to(features.device)
        features = features * (draws >= DROPOUT) / (1 - DROPOUT)
        labels = batch.labels.to(features.device)
        loss = F.cross_entropy(self.head(features), labels, label_smoothing=self.smoothing)
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the checkpoint is of."""
        checkpoint["key"] = self.key

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on from a checkpoint of another fine-tuning."""
        if checkpoint.get("key") != self.key:
            raise InputError(
                "the teacher's checkpoint in this run directory is of other settings: use another with --out"
            )

    def configure_optimizers(self) -> Any:
        """AdamW; its rate rises over the first tenth of the steps and falls as a cosine to 0."""
        optimiser = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=0.02)
        warm = max(1, self.steps // 10)

        def rate(step: int) -> float:
            if step < warm:
                return (step + 1) / (warm + 1)
            return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
