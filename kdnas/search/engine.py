"""One search from start to finish: relax, train both levels, derive inside the budgets, inherit, measure the gap."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kdnas import config
from kdnas.cost import CostTables
from kdnas.data import Batch, Splits, batches
from kdnas.errors import InputError
from kdnas.knowledge.lessons import Lessons
from kdnas.loss import KnowledgeLoss
from kdnas.run import ranks
from kdnas.run.seeds import generator, seed_of, seeded
from kdnas.run.training import channels_last, checkpoint_path, interruptible, make_trainer
from kdnas.search.bilevel import keeping_buffers
from kdnas.search.derive import derive
from kdnas.search.strategy import KDLDarts, KDLDartsModule, SearchTask
from kdnas.space.base import SearchSpace
from kdnas.space.registry import make_space

EpochHook = Callable[[int, float, dict[str, float]], None]
"""(epoch of the search from 0, value of the derived network, costs of the likeliest one); may raise to stop."""
Judge = Callable[[nn.Module, nn.Module, torch.device], float]
"""What a derived encoder and its classifier are worth, in evaluation mode on a device: the more the better."""


def search_batches(
    settings: config.Search, splits: Splits, labels: Tensor, *, views: int = 1, seed: int = 0, key: str = "search"
) -> list[DataLoader[Batch]]:
    """The batches of both levels: of the weights split, and of the architecture split.

    Args:
        settings: Of the search.
        splits: The two splits.
        labels: (N,) of the training images.
        views: Views of each image that take turns.
        seed: Of the orders.
        key: Names the streams.

    Raises:
        InputError: The processes that search together cannot share such batches equally.
    """
    loaders = []
    for level, labelled, unlabelled in (
        ("weights", splits.weights_labelled, splits.weights_unlabelled),
        ("architecture", splits.architecture_labelled, splits.architecture_unlabelled),
    ):
        loaders.append(
            batches(
                labelled, labels, unlabelled, batch_size=settings.batch_size,
                labelled_fraction=settings.labelled_fraction, steps=settings.steps, views=views,
                seed=seed_of(seed, key, level) % 2**31,
            )
        )  # fmt: skip
        ranks.check_shares("search.batch_size", loaders[-1].dataset.sizes)  # type: ignore[attr-defined]
    return loaders


@dataclass
class SearchResult:
    """What a search leaves.

    Attributes:
        choices: Of the derived architecture: the most likely one inside the budgets.
        costs: Its exact costs (encoder alone).
        likely: Costs of the most likely architecture with no regard to the budgets.
        network: The derived network with inherited weights, batch norm recalibrated (fresh after partial channels).
        classifier: The linear layer that was trained with it.
        accuracy_relaxed: Of the relaxed supernet at its last temperature, on the architecture split's labels.
        accuracy_derived: Of ``network``, likewise.
        value: What the judge of the search says of ``network``; without one ``accuracy_derived``.
        history: One row per epoch: probabilities, entropy, skips, expected and likely costs, accuracy.
        weights: The state of supernet, classifier and projector, from which another search can branch.
    """

    choices: dict[str, Any]
    costs: dict[str, float]
    likely: dict[str, float]
    network: nn.Module
    classifier: nn.Linear
    accuracy_relaxed: float
    accuracy_derived: float
    value: float
    history: list[dict[str, Any]]
    weights: dict[str, Tensor] = field(repr=False)

    @property
    def gap(self) -> float:
        """The discretisation gap: accuracy of the relaxed supernet less that of the derived network."""
        return self.accuracy_relaxed - self.accuracy_derived


class Searcher:
    """All that the searches of one device class share.

    Args:
        space: Name of the search space.
        options: Its options.
        lessons: Pixels and stored knowledge.
        splits: α see the architecture split, weights the weights split.
        tables: The costs of the space on the device.
        budgets: Of the encoder, by cost.
        classes: Number of classes.
        statistics: (mean, std) of the teacher's features.
        seed: Of weights and batches.
        accelerator: As in ``make_trainer``.

    Raises:
        InputError: No architecture of the space fits the budgets (said before anything is trained).
    """

    def __init__(
        self,
        space: str,
        options: Mapping[str, Any],
        lessons: Lessons,
        splits: Splits,
        tables: CostTables,
        budgets: Mapping[str, float],
        *,
        classes: int,
        statistics: tuple[Tensor, Tensor],
        seed: int,
        accelerator: str = "auto",
    ) -> None:
        self.space, self.options, self.lessons, self.splits = space, dict(options), lessons, splits
        self.tables, self.budgets, self.classes = tables, dict(budgets), classes
        self.statistics, self.seed, self.accelerator = statistics, seed, accelerator
        flat = {label: torch.zeros(len(values)).numpy() for label, values in tables.domains.items()}
        derive(tables, flat, budgets)

    def run(
        self,
        settings: config.Search,
        loss: config.Loss,
        directory: Path,
        name: str,
        *,
        weights: Mapping[str, Tensor] | None = None,
        on_epoch: EpochHook | None = None,
        judge: Judge | None = None,
        progress: bool = True,
        key: str = "search",
    ) -> SearchResult:
        """Search once.

        Args:
            settings: With ``warmup_epochs`` 0 and ``weights`` given it branches from a warmed-up supernet.
            loss: The loss of both levels.
            directory: The run directory.
            name: Of the stage, for TensorBoard and checkpoints.
            weights: ``SearchResult.weights`` of an earlier search.
            on_epoch: Called after each epoch of the search with the derived network's value; may raise.
            judge: Gives derived networks their value; their accuracy unless given.
            progress: Show a progress bar.
            key: Names the stream of batches.

        Where several processes have joined (``kdnas.run.ranks``), all of them must call it with the same arguments:
        they share each batch and get the same result. The first alone writes.

        Returns:
            What was found. With ``settings.epochs`` epochs of search after ``settings.warmup_epochs``.
        """
        total = (settings.warmup_epochs + settings.epochs) * settings.steps
        with seeded(self.seed, "supernet"):
            space = make_space(self.space, **self.options)
            space.check_relaxation(settings.relaxation)
            # The bottleneck and the consistency belong to distillation.
            mean, std = self.statistics
            own = {"feature": min(loss.feature, settings.feature), "bottleneck": 0.0, "consistency": 0.0}
            plain = loss.model_copy(update=own)
            knowledge = KnowledgeLoss(plain, self.options["feature_dim"], mean, std)
            task = SearchTask(self.lessons, knowledge, self.options["feature_dim"], self.classes, settings, total)

        def measure(module: KDLDartsModule, epoch: int, choices: dict[str, Any]) -> dict[str, Any]:
            if on_epoch is None:
                return {}
            relaxed = self.accuracy(space, task.classifier, module.device)
            _, accuracy, value = self._derived(module, space, task.classifier, choices, judge)
            on_epoch(epoch, value, self.tables.exact(module.export()))
            return {"accuracy": accuracy, "accuracy_relaxed": relaxed, "gap": relaxed - accuracy}

        strategy = KDLDarts(space, self.tables, self.budgets, settings, measure)
        module = self._fit(strategy, space, task, settings, directory, name, weights, progress, key)
        choices = module.derived()
        relaxed = self.accuracy(space, task.classifier, module.device)
        network, accuracy, value = self._derived(module, space, task.classifier, choices, judge)
        return SearchResult(
            choices=choices,
            costs=self.tables.exact(choices),
            likely=self.tables.exact(module.export()),
            network=network,
            classifier=task.classifier,
            accuracy_relaxed=relaxed,
            accuracy_derived=accuracy,
            value=value,
            history=module.history,
            weights={k: v.detach().clone() for k, v in task.state_dict().items() if ".alpha." not in k},
        )

    def _derived(
        self,
        module: KDLDartsModule,
        space: SearchSpace,
        classifier: nn.Linear,
        choices: Mapping[str, Any],
        judge: Judge | None,
    ) -> tuple[nn.Module, float, float]:
        """The network of ``choices`` with inherited weights, its accuracy, and its value.

        Partial channels leave nothing to inherit: then the network is a fresh one, and the others those of the
        supernet with these choices made.
        """

        def judged(network: nn.Module) -> tuple[float, float]:
            accuracy = self.accuracy(network, classifier, module.device)
            return accuracy, accuracy if judge is None else judge(network, classifier, module.device)

        if module.relaxation.partial == 1:
            network = self.recalibrated(space.inherit(choices, space), module.device)
            return network, *judged(network)
        indices = {label: values.index(choices[label]) for label, values in self.tables.domains.items()}
        with module.relaxation.choosing(indices), keeping_buffers(space):
            values = judged(self.recalibrated(space, module.device))
        space.train()
        with seeded(self.seed, "fresh"):
            return space.network(choices), *values

    def warm_up(
        self, settings: config.Search, loss: config.Loss, directory: Path, name: str, *, progress: bool = True
    ) -> dict[str, Tensor]:
        """Train the weights of the uniform mixture alone; the supernet that trials and searches branch from."""
        return self.run(
            settings.model_copy(update={"epochs": 0}), loss, directory, name, progress=progress, key="warm-up"
        ).weights

    def _fit(
        self,
        strategy: KDLDarts,
        space: SearchSpace,
        task: SearchTask,
        settings: config.Search,
        directory: Path,
        name: str,
        weights: Mapping[str, Tensor] | None,
        progress: bool,
        key: str,
    ) -> KDLDartsModule:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from nni.nas.evaluator.pytorch.lightning import Lightning, Trainer
            from nni.nas.execution import SequentialExecutionEngine
            from nni.nas.space import RawFormatModelSpace

            trainer = make_trainer(
                directory, name, epochs=settings.warmup_epochs + settings.epochs, accelerator=self.accelerator,
                progress=progress, trainer_class=Trainer,
            )  # fmt: skip
            loaders = search_batches(
                settings, self.splits, self.lessons.dataset.train_labels, views=self.lessons.n_views, seed=self.seed,
                key=key,
            )  # fmt: skip
            left = ranks.by_main(lambda: str(checkpoint_path(directory, name) or ""))
            resume = Path(left) if left else None
            fit_kwargs = {"ckpt_path": resume, "weights_only": True} if resume else {}
            evaluator = Lightning(
                task, trainer, train_dataloaders=loaders[0], val_dataloaders=loaders[1], fit_kwargs=fit_kwargs
            )
            task.set_model(space)
            with seeded(self.seed, "relaxed"):
                strategy.initialize(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())
            channels_last(space)
            ranks.synchronise(space)
            if weights is not None:
                missing = [
                    key
                    for key in task.load_state_dict(dict(weights), strict=False).missing_keys
                    if ".alpha." not in key
                ]
                if missing:
                    raise InputError(f"the warmed-up supernet is of another space: it lacks {missing[0]}")
            if trainer.max_epochs:
                with interruptible():
                    strategy.run()
        module = strategy.oneshot_module
        assert isinstance(module, KDLDartsModule)
        return module

    @torch.no_grad()
    def recalibrated(self, network: nn.Module, device: torch.device, images: int = 1000) -> nn.Module:
        """``network`` with batch-norm statistics of its own, from the weights split: the mixture's do not fit it."""
        network = channels_last(network.to(device))
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        kept = [m.momentum for m in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
        ids = torch.cat([self.splits.weights_labelled, self.splits.weights_unlabelled])
        # Drawn: a data set may stand in the order of its classes, and its first images be all of one.
        ids = ids[torch.randperm(len(ids), generator=generator(self.seed, "recalibration"))[:images]]
        network.train()
        with ranks.alone():  # every process does the same, with the same outcome
            for part in ids.split(250):
                network(self._pixels(part, device))
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum
        return network.eval()

    @torch.no_grad()
    def accuracy(self, encoder: nn.Module, classifier: nn.Module, device: torch.device) -> float:
        """Share of the architecture split's labelled images that are classified rightly."""
        was_training = encoder.training
        encoder.eval()
        classifier.to(device)
        ids, right = self.splits.architecture_labelled, 0
        for part in ids.split(500):
            logits = classifier(encoder(self._pixels(part, device)))
            right += int((logits.argmax(1).cpu() == self.lessons.dataset.train_labels[part]).sum())
        encoder.train(was_training)
        return right / len(ids)

    def _pixels(self, ids: Tensor, device: torch.device) -> Tensor:
        images = self.lessons.views.apply(self.lessons.dataset.train_images[ids], ids, 0)
        return images.to(device, memory_format=torch.channels_last)
