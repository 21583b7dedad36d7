"""How the temperature of the relaxation falls."""


class Annealing:
    """A temperature that falls geometrically from ``start`` to ``end`` as ``progress`` goes from 0 to 1."""

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end

    def __call__(self, progress: float) -> float:
        """The temperature at ``progress`` in [0, 1]."""
        return float(self.start * (self.end / self.start) ** min(max(progress, 0.0), 1.0))
