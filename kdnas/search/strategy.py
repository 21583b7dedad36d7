"""KDL-DARTS as an NNI strategy: DARTS with distillation and a complexity penalty whose gradient is alive.

Upper level: min over α of CE + λ_kd · D(student, teacher) + Σ_c λ_c · φ(E_α[cost_c] / budget_c), on the architecture
split. Lower level: min over w of CE + λ_kd · D, on the weights split. First order (DARTS, arXiv 1806.09055, ξ = 0).
The system is that of arXiv 2508.02148; the formulas are our own definition, as that text states none.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnas import config
from kdnas.cost import CostTables
from kdnas.data import Batch
from kdnas.knowledge.lessons import Lessons
from kdnas.loss import KnowledgeLoss
from kdnas.search.relax import Annealing, TemperedSoftmax
from kdnas.space.base import Relaxed, SearchSpace

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nni.nas.evaluator.pytorch.lightning import LightningModule
    from nni.nas.oneshot.pytorch.differentiable import DartsLightningModule
    from nni.nas.strategy import DARTS


def penalty(expected: Mapping[str, Tensor], budgets: Mapping[str, float], weights: Mapping[str, float]) -> Tensor:
    """Σ_c λ_c · φ(E[cost_c] / budget_c), φ(r) = 0.01 r inside the budget and 0.01 + (r - 1) outside.

    Args:
        expected: Cost name to its expectation, with a gradient.
        budgets: Cost name to the budget; a cost without one is not penalised.
        weights: λ_c by cost name.
    """
    total = torch.zeros((), dtype=torch.float64)
    for name, weight in weights.items():
        if name in budgets and weight > 0:
            ratio = expected[name] / budgets[name]
            total = total.to(ratio) + weight * (0.01 * ratio.clamp(max=1) + F.relu(ratio - 1))
    return total


class SearchTask(LightningModule):
    """What both levels minimise: the supernet's encoder and a linear classifier under ``KnowledgeLoss``.

    Args:
        lessons: Pixels and stored knowledge of a batch.
        loss: The named losses.
        feature_dim: D.
        classes: Number of classes.
        settings: Of the search.
        total_steps: Steps of the whole schedule, for the cosine.
    """

    def __init__(
        self,
        lessons: Lessons,
        loss: KnowledgeLoss,
        feature_dim: int,
        classes: int,
        settings: config.Search,
        total_steps: int,
    ) -> None:
        super().__init__()
        self.lessons, self.settings, self.total_steps = lessons, settings, total_steps
        self.classifier = nn.Linear(feature_dim, classes)
        self.loss = loss

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The named parts of the loss on one batch, ``loss`` and the accuracy on its labelled images among them."""
        lesson = self.lessons(batch, self.device, self.loss.needs_teacher)
        z = self.model(lesson.images)
        logits = self.classifier(z)
        parts = self.loss(z, logits, lesson.labels, lesson.features, lesson.probabilities)
        known = lesson.labels >= 0
        right = ((logits.detach().argmax(1) == lesson.labels) & known).sum() / known.sum().clamp(min=1)
        self.log("train_acc", right)  # NNI's Lightning evaluator reads this name
        return parts

    def configure_optimizers(self) -> Any:
        """AdamW under a cosine that ends at 1 % of the rate."""
        s = self.settings
        optimizer = torch.optim.AdamW(self.parameters(), s.learning_rate, weight_decay=s.weight_decay)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.total_steps, s.learning_rate * 0.01)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class KDLDartsModule(DartsLightningModule):
    """The bilevel step. α stand in the order of the space's labels; each level computes its own gradients alone."""

    def __init__(
        self,
        task: SearchTask,
        *,
        space: SearchSpace,
        softmax: TemperedSoftmax,
        tables: CostTables,
        budgets: Mapping[str, float],
        settings: config.Search,
        on_epoch: Callable[["KDLDartsModule", int], dict[str, Any]] | None,
    ) -> None:
        super().__init__(task, arc_learning_rate=settings.alpha_learning_rate, warmup_epochs=settings.warmup_epochs)
        self.labels = list(space.domains())
        self.softmax, self.tables, self.budgets, self.settings = softmax, tables, dict(budgets), settings
        self.anneal = Annealing(*settings.temperature)
        self.on_epoch = on_epoch
        self.history: list[dict[str, Any]] = []

    def alphas(self) -> dict[str, nn.Parameter]:
        """Label to α, in the space's own order (NNI keeps them in a set, whose order changes from run to run)."""
        found: dict[str, nn.Parameter] = {}
        for module in self.supernet_modules():
            if isinstance(module, Relaxed):
                found.update(module.alpha.items())
        return {label: found[label] for label in self.labels}

    def arch_parameters(self) -> list[nn.Parameter]:
        """α in the order of ``labels``."""
        return list(self.alphas().values())

    def weight_parameters(self) -> list[nn.Parameter]:
        """All parameters but α, in the order of the modules."""
        alphas = {id(alpha) for alpha in self.arch_parameters()}
        return [p for p in self.training_module.parameters() if id(p) not in alphas]

    def probabilities(self) -> dict[str, Tensor]:
        """Label to the probabilities of its values, at the present temperature."""
        return {label: self.softmax(alpha) for label, alpha in self.alphas().items()}

    def log_probabilities(self) -> dict[str, Any]:
        """Label to log softmax(α) as float64 arrays: what derivation maximises (T changes no order)."""
        return {
            label: F.log_softmax(alpha.detach().double(), -1).cpu().numpy() for label, alpha in self.alphas().items()
        }

    @contextmanager
    def _only(self, chosen: list[nn.Parameter]) -> Iterator[None]:
        """Gradients for ``chosen`` alone: the other level's are neither computed nor kept."""
        everything = list(chain(self.arch_parameters(), self.weight_parameters()))
        ids = {id(p) for p in chosen}
        for p in everything:
            p.requires_grad_(id(p) in ids)
        try:
            yield
        finally:
            for p in everything:
                p.requires_grad_(True)

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> dict[str, Tensor]:
        """α on the architecture split (after the warm-up), then weights on the weights split."""
        s = self.settings
        searching = self.current_epoch >= s.warmup_epochs
        if searching:
            done = (self.current_epoch - s.warmup_epochs) * s.steps + batch_idx
            self.softmax.temperature = self.anneal(done / max(1, s.epochs * s.steps - 1))
            optimizer: Any = self.architecture_optimizers()
            with self._only(self.arch_parameters()):
                parts = self.training_module.training_step(batch["val"], 2 * batch_idx)
                expected = self.tables.expected(self.probabilities())
                cost = penalty(expected, self.budgets, s.penalty)
                optimizer.zero_grad()
                self.manual_backward(parts["loss"] + cost.to(parts["loss"]))
                optimizer.step()
            self._log_parts("architecture", {**parts, "penalty": cost})
        with self._only(self.weight_parameters()):
            parts = self.training_module.training_step(batch["train"], 2 * batch_idx + 1)
            self.advance_optimization(parts["loss"], batch_idx)
        self.advance_lr_schedulers(batch_idx)
        self._log_parts("weights", parts)
        return parts

    def _log_parts(self, level: str, parts: Mapping[str, Tensor]) -> None:
        self.log_dict({f"{level}/{name}": value.detach().float() for name, value in parts.items()})

    def on_train_epoch_start(self) -> None:
        """Nothing to freeze: ``training_step`` chooses what has gradients."""

    def on_train_epoch_end(self) -> None:
        """Write down where the search stands: probabilities, entropy, skips, costs, and what ``on_epoch`` measures."""
        if self.current_epoch < self.settings.warmup_epochs:
            return
        with torch.no_grad():
            probabilities = self.probabilities()
            expected = {name: float(value) for name, value in self.tables.expected(probabilities).items()}
        entropy = {
            label: float(torch.special.entr(p).sum()) / max(1e-9, float(torch.log(torch.tensor(float(len(p))))))
            for label, p in probabilities.items()
        }
        likely = {label: self.tables.domains[label][int(p.argmax())] for label, p in probabilities.items()}
        row: dict[str, Any] = {
            "epoch": self.current_epoch,
            "temperature": self.softmax.temperature,
            "probabilities": {label: [float(v) for v in p] for label, p in probabilities.items()},
            "entropy": sum(entropy.values()) / len(entropy),
            "skips": sum(1 for value in likely.values() if value is False or value in ("skip_connect", "none")),
            "expected": expected,
            "likely": self.tables.exact(likely),
        }
        if self.on_epoch is not None:
            row |= self.on_epoch(self, self.current_epoch)
        self.history.append(row)
        scalars = {
            "search/temperature": row["temperature"],
            "search/entropy": row["entropy"],
            "search/skips": row["skips"],
        }
        for name, budget in self.budgets.items():
            scalars[f"expected cost over budget/{name}"] = expected[name] / budget
            scalars[f"likely cost over budget/{name}"] = row["likely"][name] / budget
        if "accuracy" in row:
            scalars["search/derived accuracy"] = row["accuracy"]
            for name, budget in self.budgets.items():
                scalars[f"derived cost over budget/{name}"] = row["derived"][name] / budget
        self.log_dict({name: float(value) for name, value in scalars.items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The history goes on after a resume."""
        checkpoint["search_history"] = self.history
        checkpoint["search_temperature"] = self.softmax.temperature

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See ``on_save_checkpoint``."""
        self.history = checkpoint["search_history"]
        self.softmax.temperature = checkpoint["search_temperature"]


class KDLDarts(DARTS):
    """NNI's DARTS with our bilevel module, and one tempered softmax for the whole supernet.

    Args:
        space: The space that will be mutated (for its labels).
        tables: Its costs on the device.
        budgets: Of the encoder.
        settings: Of the search.
        on_epoch: Called after every epoch of the search; what it returns joins the history.
    """

    def __init__(
        self,
        space: SearchSpace,
        tables: CostTables,
        budgets: Mapping[str, float],
        settings: config.Search,
        on_epoch: Callable[[KDLDartsModule, int], dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(arc_learning_rate=settings.alpha_learning_rate, warmup_epochs=settings.warmup_epochs)
        self.space, self.tables, self.budgets, self.settings = space, tables, budgets, settings
        self.on_epoch = on_epoch
        self.softmax = TemperedSoftmax()
        self.softmax.temperature = settings.temperature[0]

    def configure_softmax(self) -> nn.Module:
        """The one shared module."""
        return self.softmax

    def mutate_model(self, model: Any) -> Any:
        """Relax the space, with all α at 0: every value equally likely."""
        mutated = super().mutate_model(model)
        with torch.no_grad():
            for alpha in self._arch_parameters.values():
                alpha.zero_()
        return mutated

    def configure_oneshot_module(self, training_module: Any) -> KDLDartsModule:
        """Our bilevel step around the task."""
        return KDLDartsModule(
            training_module, space=self.space, softmax=self.softmax, tables=self.tables, budgets=self.budgets,
            settings=self.settings, on_epoch=self.on_epoch,
        )  # fmt: skip
