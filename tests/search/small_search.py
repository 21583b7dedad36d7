"""A small search: real images, a made-up teacher, and a spy on the bilevel step."""

from dataclasses import dataclass, field
from typing import Any

import torch
from supernets import costs as device_costs
from torch import Tensor

from kdnas import config
from kdnas.cost import CostTables
from kdnas.data import Dataset, Splits
from kdnas.knowledge.lessons import Lessons
from kdnas.search import Searcher
from kdnas.search.strategy import KDLDartsModule
from kdnas.space import make_space

TEACHER_DIM = 12
OPTIONS: dict[str, dict[str, Any]] = {
    "mobile": {"in_channels": 1, "image_size": 28, "feature_dim": 16},
    "cell": {"in_channels": 1, "image_size": 28, "feature_dim": 16, "channels": 4, "cells": 3},
}
SEARCH = config.Search(warmup_epochs=1, epochs=2, steps=3, batch_size=20, temperature=(1.0, 0.05))


class Sayings:
    """Stands for stored knowledge: features and probabilities that depend on the label alone."""

    n_views = 2

    def __init__(self, dataset: Dataset) -> None:
        generator = torch.Generator().manual_seed(0)
        classes = len(dataset.classes)
        self.labels = dataset.train_labels
        self.table = torch.randn(classes, TEACHER_DIM, generator=generator)
        self.probabilities = (4 * torch.eye(classes)).softmax(1)

    def read(self, ids: Tensor, view: int) -> tuple[Tensor, Tensor]:
        return self.table[self.labels[ids]], self.probabilities[self.labels[ids]]

    def mean_probs(self, ids: Tensor) -> Tensor:
        return self.probabilities[self.labels[ids]]


@dataclass
class World:
    dataset: Dataset
    splits: Splits
    lessons: Lessons

    def searcher(
        self, name: str = "mobile", budgets: dict[str, float] | None = None, lessons: Lessons | None = None
    ) -> Searcher:
        """A searcher whose default budgets about half of the architectures meet."""
        space = make_space(name, **OPTIONS[name])
        tables = CostTables(space.units(), space.domains(), device_costs)
        if budgets is None:
            generator = torch.Generator().manual_seed(0)
            costs = [tables.exact(space.random(generator)) for _ in range(51)]
            budgets = {cost: sorted(row[cost] for row in costs)[30] for cost in ("params", "macs", "sram_bytes")}
        return Searcher(
            name, OPTIONS[name], lessons or self.lessons, self.splits, tables, budgets, classes=10,
            statistics=(torch.zeros(TEACHER_DIM), torch.ones(TEACHER_DIM)), seed=3,
            accelerator="cpu",
        )  # fmt: skip


@dataclass
class Spy:
    """What the spied searches went through.

    Attributes:
        module: Of the last search.
        steps: One row per level and step: which level, what had gradients, and what changed.
    """

    module: KDLDartsModule | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)

    def alphas(self) -> dict[str, Tensor]:
        assert self.module is not None
        return {label: alpha.detach().clone() for label, alpha in self.module.alphas().items()}
