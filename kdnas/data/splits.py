"""Which images have labels, and which of the two training splits each one belongs to."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kdnas.errors import InputError
from kdnas.run.files import hash_of
from kdnas.run.seeds import generator


@dataclass(frozen=True, eq=False)
class Splits:
    """Four disjoint sets of ids into the training images, together all of them; each sorted, int64.

    Attributes:
        weights_labelled: 80 % of the labelled images: network weights, and the teacher, learn from these
            labels.
        weights_unlabelled: 80 % of the images without a label.
        architecture_labelled: 20 % of the labelled images: architecture parameters, early stopping, tuning.
        architecture_unlabelled: 20 % of the images without a label.
    """

    weights_labelled: Tensor
    weights_unlabelled: Tensor
    architecture_labelled: Tensor
    architecture_unlabelled: Tensor

    @cached_property
    def hash(self) -> str:
        """16 hex digits of the ids and the roles they have."""
        return hash_of(
            "splits",
            self.weights_labelled,
            self.weights_unlabelled,
            self.architecture_labelled,
            self.architecture_unlabelled,
        )


def apportion(total: int, weights: list[int], minimum: int, limits: list[int]) -> list[int]:
    """Whole shares of ``total``, as proportional to ``weights`` as the bounds allow (largest remainder).

    Args:
        total: Sum of the shares, in [``minimum * len(weights)``, ``sum(limits)``].
        weights: Not negative, not all zero; the shares are proportional to these.
        minimum: The least share, where the limit allows it.
        limits: The largest share of each.
    """
    ideal = [total * weight / sum(weights) for weight in weights]
    shares = [min(max(int(want), minimum), limit) for want, limit in zip(ideal, limits, strict=True)]
    places = range(len(shares))
    while sum(shares) < total:
        shares[max((i for i in places if shares[i] < limits[i]), key=lambda i: ideal[i] - shares[i])] += 1
    while sum(shares) > total:
        shares[max((i for i in places if shares[i] > minimum), key=lambda i: shares[i] - ideal[i])] -= 1
    return shares


def stratified(labels: Tensor, order: Tensor, shares: list[int]) -> list[Tensor]:
    """Per class c, the first ``shares[c]`` ids of that class in the order given."""
    ordered = labels[order]
    return [order[ordered == c][:share] for c, share in enumerate(shares)]


def make_splits(labels: Tensor, n: int | str, seed: int) -> Splits:
    """Choose ``n`` images to have labels and deal all images to the weights and the architecture split.

    The labelled images are stratified by class, in proportion to the class sizes, and so is their division
    into 80 % and 20 %. The other images are divided at random, whatever their labels. With the same seed, and
    classes of equal size, the labelled images of a smaller ``n`` are among those of a larger one.

    Args:
        labels: (N,) int64, of the whole training set.
        n: How many labels any step may see, in [5 · classes, N]; or ``"all"``.
        seed: The splits are a function of ``labels``, ``n`` and this.

    Raises:
        InputError: ``n`` is not a number or ``all``, is larger than N, or is too small for one labelled image
            of each class in each split; or a class has fewer than two training images.
    """
    counts = torch.bincount(labels).tolist()
    if n == "all":
        n = len(labels)
    if not isinstance(n, int) or isinstance(n, bool):
        raise InputError(f"data.labels = {n!r} is neither a whole number nor 'all'")
    if n > len(labels):
        raise InputError(f"data.labels = {n} is more than the {len(labels)} training images: use less, or 'all'")
    if n < 5 * len(counts):
        raise InputError(
            f"data.labels = {n} is too few for {len(counts)} classes: use at least {5 * len(counts)}, so that "
            "each class has a labelled image in the architecture split (20 % of the labels)"
        )
    if min(counts) < 2:
        scarce = counts.index(min(counts))
        raise InputError(
            f"class number {scarce} has {counts[scarce]} training image(s): each class needs at least 2, "
            "one for the weights split and one for the architecture split"
        )
    quotas = apportion(n, counts, 2, counts)
    architecture_quotas = apportion(n // 5, quotas, 1, [quota - 1 for quota in quotas])

    order = torch.randperm(len(labels), generator=generator("splits", seed))
    labelled = stratified(labels, order, quotas)
    is_labelled = torch.zeros(len(labels), dtype=torch.bool)
    is_labelled[torch.cat(labelled)] = True
    unlabelled = order[~is_labelled[order]]
    cut = len(unlabelled) // 5
    pairs = list(zip(labelled, architecture_quotas, strict=True))
    return Splits(
        weights_labelled=torch.cat([ids[quota:] for ids, quota in pairs]).sort().values,
        weights_unlabelled=unlabelled[cut:].sort().values,
        architecture_labelled=torch.cat([ids[:quota] for ids, quota in pairs]).sort().values,
        architecture_unlabelled=unlabelled[:cut].sort().values,
    )
