"""The teacher itself in place of stored knowledge: it is run in every step, which is what storing saves."""

import torch
from torch import Tensor

from kdnas.data import Dataset, Views
from kdnas.knowledge.store import Target
from kdnas.knowledge.teacher import Teacher


class LiveTeacher:
    """Says what a ``Store`` says, to its rounding, by running the teacher: for comparisons.

    Args:
        teacher: Who is asked.
        dataset: Its training images are read.
        views: The augmentation.
        n_views: Views that ``mean_probs`` is over.
    """

    def __init__(self, teacher: Teacher, dataset: Dataset, views: Views, n_views: int = 1) -> None:
        self.teacher, self.dataset, self.views, self.n_views = teacher, dataset, views, n_views
        self._said: tuple[Tensor, int, Tensor] | None = None  # ids, view and probabilities of the last ``read``

    def read(self, ids: Tensor, view: int) -> Target:
        """What the teacher says of view ``view`` of the images ``ids`` (B,): features (B, F), probabilities.

        Raises:
            ValueError: A view that there is not.
        """
        if not 0 <= view < self.n_views:
            raise ValueError(f"there is no view {view}: there are {self.n_views}")
        features = self.teacher.features(self.views.apply(self.dataset.train_images[ids], ids, view)).float()
        probs = self.teacher.logits(features).softmax(1)
        self._said = ids, view, probs
        return Target(features, probs)

    def mean_probs(self, ids: Tensor) -> Tensor:
        """(B, classes): mean over the views; what ``read`` has just said of one of them is not asked again."""
        known = self._said if self._said is not None and torch.equal(self._said[0], ids) else None
        said = [
            known[2] if known is not None and known[1] == view else self.read(ids, view).probs
            for view in range(self.n_views)
        ]
        return torch.stack(said).mean(0)
