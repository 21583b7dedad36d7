"""How choices become probabilities: one relaxation, shared by a whole supernet; any space works with any of them.

A space asks its relaxation for the probabilities of each choice and mixes by them. What is mixed follows from that:
every value (``Softmax``), one sampled value (``GumbelSoftmax``), or every value on a part of the channels
(``PartialChannels``).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdnas.errors import InputError
from kdnas.run.seeds import generator


class Relaxation(nn.Module):
    """From architecture parameters α to probabilities p.

    Attributes:
        name: As ``search.relaxation`` names it.
        temperature: T > 0; set by the search before every step.
        partial: Each mixture of operations works on one in this many channels; the others pass it by.
        alive: Label to which of its values are still in the search (all, where the label is absent).
        fixed: Label to the index of the one value that is used; empty but while ``choosing``.
    """

    name: ClassVar[str]
    partial: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.temperature = 1.0
        self.alive: dict[str, Tensor] = {}
        self.fixed: dict[str, int] = {}

    def soft(self, alpha: Tensor, label: str = "") -> Tensor:
        """softmax(α / T) over the values still in the search: what expected costs are taken under."""
        return self._living(alpha / self.temperature, label).softmax(-1)

    def _living(self, logits: Tensor, label: str) -> Tensor:
        if label in self.alive:
            logits = logits.masked_fill(~self.alive[label].to(logits.device), -torch.inf)
        return logits

    def forward(self, alpha: Tensor, label: str = "") -> Tensor:
        """(n,) architecture parameters of the choice ``label`` to the (n,) weights of its mixture."""
        if label in self.fixed:
            return torch.eye(len(alpha), dtype=alpha.dtype, device=alpha.device)[self.fixed[label]]
        return self.soft(alpha, label)

    @contextmanager
    def choosing(self, indices: Mapping[str, int]) -> Iterator[None]:
        """Every choice one-hot inside the block: label to the index of its value."""
        self.fixed = dict(indices)
        try:
            yield
        finally:
            self.fixed = {}

    def draw(self, alphas: Mapping[str, Tensor], *key: Any) -> None:
        """Draw what is random, anew for each step; ``key`` names the step, so that a resumed search draws the same."""


class Softmax(Relaxation):
    """The exact mixture of DARTS (arXiv 1806.09055, eq. 2), with a temperature that ends it one-hot."""

    name = "softmax"


class _StraightThrough(torch.autograd.Function):
    """Forward the one-hot sample, to the bit; backward as if it were the soft one."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor, hard: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class GumbelSoftmax(Relaxation):
    """A single sampled value of each choice, with the gradient of the Gumbel-softmax (GDAS, arXiv 1910.04465).

    In training, p = onehot(argmax(log softmax(α) + g)) with g from Gumbel(0, 1), and the backward pass sees
    softmax((log softmax(α) + g) / T). Of a mixture of operations the sampled one alone is run.
    """

    name = "gumbel"

    def __init__(self) -> None:
        super().__init__()
        self.noise: dict[str, Tensor] = {}

    def draw(self, alphas: Mapping[str, Tensor], *key: Any) -> None:
        """Gumbel noise for every α, in order; the parts of a supernet that share an α share its sample."""
        random = generator(0, "gumbel", *key)
        self.noise = {}
        for label, alpha in alphas.items():
            uniform = torch.rand(len(alpha), generator=random, dtype=torch.float64).clamp(min=1e-12)
            self.noise[label] = -(-uniform.log()).log()

    def forward(self, alpha: Tensor, label: str = "") -> Tensor:
        """(n,) architecture parameters to a (n,) one-hot sample in training, to probabilities in evaluation."""
        if not self.training or label in self.fixed or label not in self.noise:
            return super().forward(alpha, label)
        logits = self._living(alpha.log_softmax(-1) + self.noise[label].to(alpha), label)
        soft = (logits / self.temperature).softmax(-1)
        hard = torch.zeros_like(soft)
        hard[soft.argmax()] = 1
        return _StraightThrough.apply(soft, hard)


class PartialChannels(Softmax):
    """The exact mixture on a quarter of the channels (PC-DARTS, arXiv 1907.05737, K = 4).

    The supernet's operations are narrower than those of the network that is found, which therefore inherits nothing.
    """

    name = "partial"
    partial = 4


RELAXATIONS: dict[str, type[Relaxation]] = {r.name: r for r in (Softmax, GumbelSoftmax, PartialChannels)}


def make_relaxation(name: str) -> Relaxation:
    """The relaxation ``name``.

    Raises:
        InputError: There is none of that name.
    """
    if name not in RELAXATIONS:
        raise InputError(f"unknown relaxation {name!r}; there are {', '.join(RELAXATIONS)}")
    return RELAXATIONS[name]()
