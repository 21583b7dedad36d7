"""How choices become probabilities: one softmax, shared by a whole supernet."""

from torch import Tensor, nn


class TemperedSoftmax(nn.Module):
    """softmax(α / T), whose temperature falls during the search until every choice is one-hot.

    Attributes:
        temperature: T > 0; set by the search before every step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.temperature = 1.0

    def forward(self, alpha: Tensor) -> Tensor:
        """(n,) architecture parameters to (n,) probabilities."""
        return (alpha / self.temperature).softmax(-1)


class Annealing:
    """A temperature that falls geometrically from ``start`` to ``end`` as ``progress`` goes from 0 to 1."""

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end

    def __call__(self, progress: float) -> float:
        """The temperature at ``progress`` in [0, 1]."""
        return float(self.start * (self.end / self.start) ** min(max(progress, 0.0), 1.0))
