"""KDL-DARTS as an NNI strategy: DARTS with distillation and a complexity penalty whose gradient is alive.

Upper level: min over α of CE + λ_kd · D(student, teacher) + Σ_c λ_c · φ(E_α[cost_c] / budget_c), on the architecture
split. Lower level: min over w of CE + λ_kd · D, on the weights split. First order (DARTS, arXiv 1806.09055, ξ = 0), or
second (``search.order``). The system is that of arXiv 2508.02148; the formulas are our own definition, as that text
states none.

What keeps a search from collapsing: the weights train before α move, the temperature falls until the mixture is one
architecture, the least likely values leave after every epoch (``search.shrink``, the progressive shrinking of P-DARTS,
arXiv 1904.12760, and ASAP, arXiv 1904.04123, held inside the budgets), so that the last epoch trains what is derived.
"""

import math
import re
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
from kdnas.run import ranks
from kdnas.run.seeds import generator
from kdnas.search.annealing import Annealing
from kdnas.search.bilevel import dominant_eigenvalue, keeping_buffers, unrolled_gradient
from kdnas.search.budget import Multipliers
from kdnas.search.derive import derive
from kdnas.space.base import Relaxed, SearchSpace
from kdnas.space.relaxation import Relaxation, make_relaxation

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nni.nas.evaluator.pytorch.lightning import LightningModule
    from nni.nas.oneshot.pytorch.differentiable import DartsLightningModule
    from nni.nas.strategy import DARTS


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
        batch = batch._replace(ids=ranks.share(batch.ids), labels=ranks.share(batch.labels))
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
        optimizer = torch.optim.AdamW(self.parameters(), s.learning_rate, weight_decay=s.weight_decay, fused=True)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.total_steps, s.learning_rate * 0.01)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class KDLDartsModule(DartsLightningModule):
    """The bilevel step. α stand in the order of the space's labels; each level computes its own gradients alone."""

    def __init__(
        self,
        task: SearchTask,
        *,
        space: SearchSpace,
        relaxation: Relaxation,
        tables: CostTables,
        budgets: Mapping[str, float],
        settings: config.Search,
        on_epoch: Callable[["KDLDartsModule", int, dict[str, Any]], dict[str, Any]] | None,
    ) -> None:
        super().__init__(task, arc_learning_rate=settings.alpha_learning_rate, warmup_epochs=settings.warmup_epochs)
        self.space_rules = (space.domains(), space.is_skip)
        self.relaxation, self.tables, self.budgets, self.settings = relaxation, tables, dict(budgets), settings
        self.anneal, self.multipliers = Annealing(*settings.temperature), Multipliers(settings, budgets)
        self.on_epoch = on_epoch
        self.history: list[dict[str, Any]] = []
        self.settled = False  # one value is left of every choice: α have nothing more to say
        # Both are asked for several times a step; going through all modules takes milliseconds.
        self._alphas: dict[str, nn.Parameter] = {}
        self._weights: list[nn.Parameter] = []

    def alphas(self) -> dict[str, nn.Parameter]:
        """Label to α, in the space's own order (NNI keeps them in a set, whose order changes from run to run)."""
        if not self._alphas:
            found: dict[str, nn.Parameter] = {}
            for module in self.supernet_modules():
                if isinstance(module, Relaxed):
                    found.update(module.alpha.items())
            self._alphas = {label: found[label] for label in self.space_rules[0]}
        return self._alphas

    def arch_parameters(self) -> list[nn.Parameter]:
        """α in the order of ``labels``."""
        return list(self.alphas().values())

    def weight_parameters(self) -> list[nn.Parameter]:
        """All parameters but α, in the order of the modules."""
        if not self._weights:
            alphas = {id(alpha) for alpha in self.arch_parameters()}
            self._weights = [p for p in self.training_module.parameters() if id(p) not in alphas]
        return self._weights

    def probabilities(self) -> dict[str, Tensor]:
        """Label to the probabilities of its values, at the present temperature."""
        return {label: self.relaxation.soft(alpha, label) for label, alpha in self.alphas().items()}

    def derived(self) -> dict[str, Any]:
        """The most likely architecture inside the budgets, of the values that are still in the search."""
        logp = {}
        for label, alpha in self.alphas().items():
            logp[label] = F.log_softmax(alpha.detach().double(), -1).cpu().numpy()  # T changes no order
            if label in self.relaxation.alive:
                logp[label][~self.relaxation.alive[label].numpy()] = -1e6
        choices = derive(self.tables, logp, self.budgets, self.settings.budget_use)
        if any(logp[label][self.space_rules[0][label].index(value)] <= -1e6 for label, value in choices.items()):
            return derive(self.tables, logp, self.budgets)  # what is in the search reaches the floor by too little
        return choices

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
        if self.current_epoch >= s.warmup_epochs:
            done = (self.current_epoch - s.warmup_epochs) * s.steps + batch_idx
            progress = done / max(1, s.epochs * s.steps - 1)
            self.relaxation.temperature = self.anneal(progress)
            if not self.settled:
                self.relaxation.draw(self.alphas(), "architecture", *batch["val"].key)
                self._architecture_step(batch, batch_idx, progress)
        self.relaxation.draw(self.alphas(), "weights", *batch["train"].key)
        with self._only(self.weight_parameters()):
            parts = self.training_module.training_step(batch["train"], 2 * batch_idx + 1)
            optimizer: Any = self.optimizers()[0]  # type: ignore[index]
            optimizer.zero_grad()
            self.manual_backward(parts["loss"])
            ranks.average_gradients(self.weight_parameters())
            optimizer.step()
        moment = f"step {batch_idx + 1} of epoch {self.current_epoch + 1}"
        ranks.check_equal([*self.arch_parameters(), *self.relaxation.alive.values()], f"α after {moment}")
        self.advance_lr_schedulers(batch_idx)
        self._log_parts("weights", parts)
        self._last_val = batch["val"]
        return parts

    def _architecture_step(self, batch: dict[str, Batch], batch_idx: int, progress: float) -> None:
        optimizer: Any = self.architecture_optimizers()
        alphas = self.arch_parameters()
        expected = self.tables.expected(self.probabilities())
        terms = {"penalty": self.multipliers.term(expected), **self._protection(progress)}
        optimizer.zero_grad()
        if self.settings.order == 1:
            with self._only(alphas):
                parts = self.training_module.training_step(batch["val"], 2 * batch_idx)
                self.manual_backward(parts["loss"] + sum(term.to(parts["loss"]) for term in terms.values()))
            ranks.average_gradients(alphas)
        else:
            parts = {}

            def loss_on(level: str) -> Tensor:
                found = self.training_module.training_step(batch[level], 2 * batch_idx)
                if level == "val":
                    parts.update(found)
                return found["loss"]

            rate = self.optimizers()[0].param_groups[0]["lr"]  # type: ignore[index]
            with keeping_buffers(self.training_module):
                _, gradients = unrolled_gradient(
                    lambda: loss_on("train"), lambda: loss_on("val"), self.weight_parameters(), alphas, rate, ranks.mean
                )
            with self._only(alphas):
                pull = sum(terms.values(), torch.zeros((), device=self.device))
                if pull.requires_grad:
                    self.manual_backward(pull)
            for alpha, gradient in zip(alphas, gradients, strict=True):
                alpha.grad = gradient if alpha.grad is None else alpha.grad + gradient
        optimizer.step()
        self.multipliers.step(expected)
        self._log_parts("architecture", {**parts, **terms})

    def _protection(self, progress: float) -> dict[str, Tensor]:
        """Terms on α alone against collapse; those of weight 0 are absent."""
        s, terms = self.settings, {}
        if s.beta_decay:  # β-DARTS, arXiv 2203.01665, eq. 10: bounds how far apart the α of a choice can drift
            spread = torch.stack([alpha.logsumexp(0) for alpha in self.alphas().values()]).mean()
            terms["beta decay"] = s.beta_decay * progress * spread
        if s.skip_decay:
            domains, is_skip = self.space_rules
            shares = [
                torch.stack([p[i] for i, value in enumerate(domains[label]) if is_skip(value)]).sum()
                for label, p in self.probabilities().items()
                if any(map(is_skip, domains[label]))
            ]
            if shares:
                terms["skip decay"] = s.skip_decay * (1 - progress) * torch.stack(shares).mean()
        return terms

    def _log_parts(self, level: str, parts: Mapping[str, Tensor]) -> None:
        values = ranks.mean([value.detach().float() for value in parts.values()])
        self.log_dict({f"{level}/{name}": value for name, value in zip(parts, values, strict=True)})

    def on_train_epoch_start(self) -> None:
        """Nothing to freeze: ``training_step`` chooses what has gradients."""

    def on_train_epoch_end(self) -> None:
        """Write down where the search stands, then drop the values that it will not take."""
        epoch = self.current_epoch - self.settings.warmup_epochs
        weights = list(self.training_module.state_dict().values())
        ranks.check_equal(weights, f"weights after epoch {self.current_epoch + 1}")
        if epoch < 0:
            return
        row = self._row()
        choices = self.derived()
        row["derived"] = self.tables.exact(choices)
        if self.settings.eigenvalue_every and epoch % self.settings.eigenvalue_every == 0:
            row["eigenvalue"] = None if self.settled else self._eigenvalue(epoch)
        if self.on_epoch is not None:
            row |= self.on_epoch(self, epoch, choices)
        self.history.append(row)
        self.log_dict(self._scalars(row))
        if self._has_sharpened():
            self._settle(choices, 0)
        elif self.settings.shrink:
            # One architecture is left before the last epoch, which trains it alone.
            left = 1 - (epoch + 1) / max(1, self.settings.epochs - 1)
            self._settle(choices, left)

    def _row(self) -> dict[str, Any]:
        with torch.no_grad():
            probabilities = self.probabilities()
            expected = {name: float(value) for name, value in self.tables.expected(probabilities).items()}
        domains, is_skip = self.space_rules
        entropy = [float(torch.special.entr(p).sum()) / max(1e-9, math.log(len(p))) for p in probabilities.values()]
        # With no regard to the budgets, nor to what shrinking dropped for their sake.
        likely = {label: domains[label][int(alpha.argmax())] for label, alpha in self.alphas().items()}
        skips: dict[str, int] = {}
        for label, values in domains.items():
            if any(map(is_skip, values)):
                # stage0block1/keep: stage0; block1/keep: block; normal/edge_0_2: normal
                part = re.sub(r"(?<=.)(block\d+)?/.*|_\d.*|\d+/.*", "", label)
                value = domains[label][int(probabilities[label].argmax())]
                skips[part] = skips.get(part, 0) + is_skip(value)
        return {
            "epoch": self.current_epoch,
            "temperature": self.relaxation.temperature,
            "probabilities": {label: [float(v) for v in p] for label, p in probabilities.items()},
            "entropy": sum(entropy) / len(entropy),
            "skips": skips,
            "expected": expected,
            "likely": self.tables.exact(likely),
            "multipliers": dict(self.multipliers.values),
        }

    def _eigenvalue(self, epoch: int) -> float:
        """Of the Hessian in α of the loss on the epoch's last batch of the architecture split."""
        self.relaxation.eval()  # the soft mixture, whatever the relaxation samples
        try:
            with keeping_buffers(self.training_module), self._only(self.arch_parameters()), ranks.alone():
                return dominant_eigenvalue(
                    lambda: self.training_module.training_step(self._last_val, 0)["loss"],
                    self.arch_parameters(),
                    generator("eigenvalue", epoch),
                )
        finally:
            self.relaxation.train()

    def _has_sharpened(self) -> bool:
        """The early stop of Robust DARTS (arXiv 1909.09656): the eigenvalue has grown too far above its least."""
        seen = [abs(row["eigenvalue"]) for row in self.history if row.get("eigenvalue") is not None]
        grown = self.settings.eigenvalue_stop
        return bool(grown and seen) and seen[-1] > grown * min(seen)

    def _settle(self, choices: Mapping[str, Any], left: float) -> None:
        """Of the values left, keep the likeliest share ``left`` of each choice, and always that of ``choices``.

        A value that was dropped before the likelier ones (for the budgets' sake) keeps its place in the ranking: fewer
        than the share may be left.
        """
        for label, alpha in self.alphas().items():
            values = self.space_rules[0][label]
            order = alpha.detach().argsort(descending=True, stable=True).tolist()
            order.insert(0, values.index(choices[label]))
            kept = list(dict.fromkeys(order))[: max(1, math.ceil(left * len(values) - 1e-9))]
            alive = torch.zeros(len(values), dtype=torch.bool)
            alive[kept] = True
            self.relaxation.alive[label] = alive & self.relaxation.alive.get(label, torch.ones_like(alive))
        self.settled = all(int(alive.sum()) == 1 for alive in self.relaxation.alive.values())

    def _scalars(self, row: Mapping[str, Any]) -> dict[str, float]:
        """The row as curves."""
        scalars = {
            "search/temperature": row["temperature"],
            "search/entropy": row["entropy"],
            **{f"skips/{part}": count for part, count in row["skips"].items()},
            **{f"multiplier/{name}": value for name, value in row["multipliers"].items()},
        }
        for name, budget in self.budgets.items():
            for kind in ("expected", "likely", "derived"):
                scalars[f"{kind} cost over budget/{name}"] = row[kind][name] / budget
        named = {
            "accuracy": "search/derived accuracy", "accuracy_relaxed": "search/relaxed accuracy",
            "gap": "search/discretisation gap", "eigenvalue": "search/dominant eigenvalue",
        }  # fmt: skip
        scalars |= {name: row[key] for key, name in named.items() if row.get(key) is not None}
        return {name: float(value) for name, value in scalars.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """All that the search has decided goes on after a resume."""
        checkpoint["search"] = {
            "history": self.history,
            "temperature": self.relaxation.temperature,
            "multipliers": dict(self.multipliers.values),
            "alive": {label: alive.tolist() for label, alive in self.relaxation.alive.items()},
            "settled": self.settled,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See ``on_save_checkpoint``."""
        kept = checkpoint["search"]
        self.history, self.settled = kept["history"], kept["settled"]
        self.relaxation.temperature = kept["temperature"]
        self.relaxation.alive = {label: torch.tensor(alive) for label, alive in kept["alive"].items()}
        self.multipliers.values = dict(kept["multipliers"])


class KDLDarts(DARTS):
    """NNI's DARTS with our bilevel module, and one relaxation for the whole supernet.

    Args:
        space: The space that will be mutated (for its labels).
        tables: Its costs on the device.
        budgets: Of the encoder.
        settings: Of the search.
        on_epoch: Called after every epoch of the search with the module, the epoch (from 0) and the choices derived;
            what it returns joins the history.
    """

    def __init__(
        self,
        space: SearchSpace,
        tables: CostTables,
        budgets: Mapping[str, float],
        settings: config.Search,
        on_epoch: Callable[[KDLDartsModule, int, dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(arc_learning_rate=settings.alpha_learning_rate, warmup_epochs=settings.warmup_epochs)
        self.space, self.tables, self.budgets, self.settings = space, tables, budgets, settings
        self.on_epoch = on_epoch
        self.relaxation = make_relaxation(settings.relaxation)
        self.relaxation.temperature = settings.temperature[0]

    def configure_softmax(self) -> nn.Module:
        """The one shared module."""
        return self.relaxation

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
            training_module, space=self.space, relaxation=self.relaxation, tables=self.tables, budgets=self.budgets,
            settings=self.settings, on_epoch=self.on_epoch,
        )  # fmt: skip
