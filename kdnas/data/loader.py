"""Batches of ids: what step s of epoch e sees is a function of (seed, e, s), so a resumed run repeats it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from kdnas.run.seeds import generator


class Batch(NamedTuple):
    """One training step's images, by id.

    Attributes:
        ids: (B,) int64 into the training images; the labelled ones first.
        labels: (B,) int64; -1 where the image has no label.
        view: The number of the view, in [0, views); the same for the whole batch.
        key: (seed, epoch, step): seed from it whatever is random inside the step.
    """

    ids: Tensor
    labels: Tensor
    view: int
    key: tuple[int, int, int]

    def to(self, device: torch.device | str, **_: Any) -> "Batch":
        """The batch as it is: ids pick pixels and stored knowledge, which lie in main memory.

        Lightning calls this on the way to a GPU, and would else send the ids there one by one.
        """
        return self


class EpochSampler(Sampler[int]):
    """The step numbers of one epoch, counted through all epochs; Lightning calls ``set_epoch``."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[int]:
        # A generator reads the epoch at its first step: resuming, Lightning calls set_epoch after iter.
        yield from range(self.epoch * self.steps, (self.epoch + 1) * self.steps)


class _Cycle:
    """An endless stream of permutations of a pool, readable from any position."""

    def __init__(self, pool: Tensor, *key: int | str) -> None:
        self.pool = pool
        self.key = key
        self.turn = -1
        self.permuted = pool

    def read(self, start: int, count: int) -> Tensor:
        """Elements ``start`` to ``start + count`` of the stream."""
        parts = []
        while count > 0:
            turn, offset = divmod(start, len(self.pool))
            if turn != self.turn:  # kept for speed only: the stream is a function of key and position
                order = torch.randperm(len(self.pool), generator=generator(*self.key, turn))
                self.turn, self.permuted = turn, self.pool[order]
            parts.append(self.permuted[offset : offset + count])
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return torch.cat(parts) if parts else self.pool[:0]


class _Batches(TorchDataset[Batch]):
    def __init__(
        self,
        labelled: Tensor,
        labels: Tensor,
        unlabelled: Tensor,
        sizes: tuple[int, int],
        steps: int,
        views: int,
        seed: int,
    ) -> None:
        self.labels, self.sizes, self.steps, self.seed = labels, sizes, steps, seed
        self.labelled = _Cycle(labelled, "labelled", seed)
        self.unlabelled = _Cycle(unlabelled, "unlabelled", seed)
        self.views = _Cycle(torch.arange(views), "views", seed)

    def __getitem__(self, position: int) -> Batch:
        with_label, without = self.sizes
        first = self.labelled.read(position * with_label, with_label)
        second = self.unlabelled.read(position * without, without)
        return Batch(
            ids=torch.cat([first, second]),
            labels=torch.cat([self.labels[first], torch.full_like(second, -1)]),
            view=int(self.views.read(position, 1)),
            key=(self.seed, *divmod(position, self.steps)),
        )


def _as_is(batch: Any) -> Any:
    return batch


def batches(
    labelled_ids: Tensor,
    labels: Tensor,
    unlabelled_ids: Tensor,
    *,
    batch_size: int,
    labelled_fraction: float,
    steps: int,
    views: int,
    seed: int,
) -> DataLoader[Batch]:
    """A loader whose every epoch is ``steps`` batches of ``batch_size`` ids.

    Each pool is gone through in fresh random orders, one after another across epochs, so that every image of
    a pool is used equally often (to within one); so are the views. What is yielded in epoch e depends on
    (seed, e) only. Outside Lightning, call ``loader.sampler.set_epoch(e)`` before iterating.

    Args:
        labelled_ids: (L,) int64; L ≥ 1 unless ``labelled_fraction`` is 0.
        labels: (N,) int64 of the whole training set; only those of ``labelled_ids`` are read.
        unlabelled_ids: (U,) int64; where U = 0, all of the batch is labelled.
        batch_size: B, the same for every batch.
        labelled_fraction: The share of the batch that is labelled, in [0, 1], rounded to whole images; at
            least one image unless it is 0.
        steps: Batches in an epoch.
        views: How many views take turns: 0 … views - 1, at least 1.
        seed: Of the orders.

    Raises:
        ValueError: A size below 1, a fraction outside [0, 1], or an empty pool that is asked for images.
    """
    if min(batch_size, steps, views) < 1 or not 0 <= labelled_fraction <= 1:
        raise ValueError(
            f"batch_size = {batch_size}, steps = {steps} and views = {views} must be at least 1, and "
            f"labelled_fraction = {labelled_fraction} in [0, 1]"
        )
    with_label = round(batch_size * labelled_fraction)
    if labelled_fraction > 0:
        with_label = max(with_label, 1)
    if len(unlabelled_ids) == 0:
        with_label = batch_size
    if with_label and len(labelled_ids) == 0:
        raise ValueError("no labelled ids to fill the labelled part of the batches")
    sampler = EpochSampler(steps)
    source = _Batches(labelled_ids, labels, unlabelled_ids, (with_label, batch_size - with_label), steps, views, seed)
    # A generator of its own: without one, every iteration would draw a number from torch's global state.
    return DataLoader(source, batch_size=None, sampler=sampler, collate_fn=_as_is, generator=generator("loader", seed))
