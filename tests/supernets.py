"""Relaxed spaces and brute force over small ones, for the tests of several rooms."""

import random
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from kdnas import config
from kdnas.cost import ON_ANY, Cost, CostTables, latency_cost
from kdnas.ops import Step
from kdnas.search.strategy import KDLDarts
from kdnas.space import SearchSpace, make_space
from kdnas.space.base import Relaxed

# A device on which each term of the roofline matters somewhere.
FAST_MACS, FAST_BYTES = 1e8, 4e7


def roofline(macs: float, moved: float, ops: float) -> float:
    return max(macs / FAST_MACS, moved / FAST_BYTES) + ops * 1e-5


def joules(step: Step) -> float:
    return 2**-28 * step.macs + 2**-29 * step.moved_bytes  # powers of two: the same sum in any order


costs = [*ON_ANY, latency_cost(roofline), Cost("energy_j", joules)]


# Relaxed spaces in tests are small where the default is deep: fewer ReLUs for a finite difference to cross, less time.
SMALL: dict[str, dict[str, Any]] = {"nas_bench_201": {"cells": 1}}


class Supernet:
    """A relaxed space with its alphas by label, in its own order, drawn from a normal distribution."""

    def __init__(self, name: str, seed: int = 0, **options: Any) -> None:
        torch.manual_seed(seed)
        self.space: SearchSpace = make_space(name, **{**SMALL.get(name, {}), **options})
        self.domains = self.space.domains()
        self.tables = CostTables(self.space.units(), self.domains, costs)
        strategy = KDLDarts(self.space, self.tables, {}, config.Search())
        strategy.mutate_model(self.space)
        self.space.to(torch.get_default_dtype())
        self.softmax = strategy.relaxation
        found: dict[str, nn.Parameter] = {}
        for module in self.space.modules():
            if isinstance(module, Relaxed):
                found.update(module.alpha.items())
        self.alphas = {label: found[label] for label in self.domains}
        with torch.no_grad():
            for alpha in self.alphas.values():
                alpha.normal_()

    def choose(self, choices: Mapping[str, Any]) -> None:
        """Make every choice one-hot."""
        with torch.no_grad():
            for label, alpha in self.alphas.items():
                alpha.fill_(-1e5)
                alpha[self.domains[label].index(choices[label])] = 0

    def probabilities(self) -> dict[str, Tensor]:
        return {label: self.softmax(alpha, label) for label, alpha in self.alphas.items()}

    def weights(self) -> list[nn.Parameter]:
        alphas = {id(alpha) for alpha in self.alphas.values()}
        return [p for p in self.space.parameters() if id(p) not in alphas]


def small_domains(domains: Mapping[str, list[Any]], seed: int, limit: int = 600) -> dict[str, list[Any]]:
    """One value for most choices, two or three for some, so that at most ``limit`` architectures are left."""
    draw = random.Random(seed)
    small = {label: [draw.choice(values)] for label, values in domains.items()}
    size = 1
    for label in draw.sample(list(domains), len(domains)):
        wanted = min(len(domains[label]), draw.choice([2, 3]))
        if size * wanted <= limit:
            size *= wanted
            kept = set(draw.sample(range(len(domains[label])), wanted))
            small[label] = [value for index, value in enumerate(domains[label]) if index in kept]
    return small


def every(domains: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """All architectures."""
    for values in product(*domains.values()):
        yield dict(zip(domains, values, strict=True))
