"""One search in several processes (ranks) that torchrun started, each with its share of every batch.

All ranks hold the same weights, make the same steps and take the same decisions: what differs, their shares of a batch,
meets in the gradients and the batch-norm statistics, which are reduced over the ranks here. Rank 0 alone writes. With
one process nothing in this module computes anything.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from kdnas.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")


class RanksError(RuntimeError):
    """The ranks no longer agree, or one of them is gone."""


class ToldError(InputError):
    """An ``InputError`` of rank 0, raised again on the other ranks, which need not tell it."""


class _State:
    rank, world = 0, 1
    alone = False
    waiting: Any = None  # the process group in which the others wait for rank 0


_state = _State()


def launched() -> tuple[int, int]:
    """(rank, number of processes) that torchrun put into the environment; (0, 1) without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def rank() -> int:
    """The number of this process among those that have joined, from 0."""
    return _state.rank


def processes() -> int:
    """How many processes have joined, inside ``alone`` too."""
    return _state.world


def world() -> int:
    """How many processes compute together: 1 inside ``alone``."""
    return 1 if _state.alone else _state.world


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, on the CPU (gloo), for the block; without torchrun do nothing."""
    if launched()[1] == 1 or _state.world > 1:
        yield
        return
    import torch.distributed as dist

    own = not dist.is_initialized()
    if own:
        dist.init_process_group("gloo")
    # What rank 0 does alone may take days; among equals in a search, half an hour (torch's default) means a dead rank.
    _state.waiting = dist.new_group(timeout=timedelta(days=30), backend="gloo")
    _state.rank, _state.world = dist.get_rank(), dist.get_world_size()
    try:
        yield
    finally:
        _state.rank, _state.world, _state.waiting = 0, 1, None
        if own:
            dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """What is computed in the block is this process's own: whole batches, nothing reduced."""
    before, _state.alone = _state.alone, True
    try:
        yield
    finally:
        _state.alone = before


def by_main(work: Callable[[], T]) -> T:
    """Do ``work`` on rank 0 alone while the others wait; its value (plain, as in JSON) is returned on every rank.

    Raises:
        InputError: That of ``work``, on every rank.
        RanksError: On the other ranks, where ``work`` raised anything else.
    """
    if world() == 1:
        return work()
    told: list[Any] = [None]
    if rank() == 0:
        try:
            with alone():
                told = [("value", work())]
        except InputError as error:
            _broadcast([("input error", str(error))])
            raise
        _broadcast(told)
        return told[0][1]
    _broadcast(told)
    kind, value = told[0]
    if kind == "input error":
        raise ToldError(value)
    return value


@contextmanager
def _others_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RanksError(f"another process of this search has stopped; its own message says why ({error})") from None


def _broadcast(told: list[Any]) -> None:
    import torch.distributed as dist

    with _others_alive():
        dist.broadcast_object_list(told, src=0, group=_state.waiting)


def share(whole: "Tensor") -> "Tensor":
    """This rank's part of a batch: every ``world()``-th entry, so that a leading labelled part is shared equally."""
    return whole[rank() :: world()] if world() > 1 else whole


def check_shares(setting: str, sizes: Sequence[int]) -> None:
    """Refuse a batch that the ranks cannot share equally: the mean of their means would not be its mean.

    Args:
        setting: The name of its size.
        sizes: The number of its labelled and of its unlabelled images.

    Raises:
        InputError: One of ``sizes`` is no multiple of the number of processes.
    """
    if any(size % processes() for size in sizes):
        raise InputError(
            f"{processes()} processes cannot share equally a batch of {sum(sizes)} images with {sizes[0]} labelled: "
            f"set {setting} (and the labelled fraction) so that both are multiples of {processes()}"
        )


def check_device(accelerator: str) -> None:
    """Refuse a GPU where several processes have joined: they would all take the same one.

    Raises:
        InputError: ``accelerator`` (``auto``, ``cpu``, ``cuda``) is a CUDA device here.
    """
    from kdnas.run.tensors import torch_device

    if processes() > 1 and torch_device(accelerator).type != "cpu":
        raise InputError("a search in several processes runs on the CPU: set accelerator = 'cpu'")


def total(tensor: "Tensor") -> "Tensor":
    """The sum of every rank's ``tensor``, which is overwritten; the same bits on all ranks."""
    import torch.distributed as dist

    with _others_alive():
        dist.all_reduce(tensor)
    return tensor


def every(tensor: "Tensor") -> "Tensor":
    """(ranks, *shape): every rank's ``tensor``, in their order."""
    import torch
    import torch.distributed as dist

    found = [torch.empty_like(tensor) for _ in range(_state.world)]
    with _others_alive():
        dist.all_gather(found, tensor)
    return torch.stack(found)


def mean(tensors: "Sequence[Tensor]") -> "list[Tensor]":
    """Each tensor's mean over the ranks, the same bits on all of them; one exchange for all."""
    if world() == 1 or not tensors:
        return list(tensors)
    import torch

    whole = total(torch.cat([tensor.detach().flatten() for tensor in tensors])) / world()
    parts = whole.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]


def average_gradients(parameters: "Sequence[nn.Parameter]") -> None:
    """Make every gradient its mean over the ranks; a parameter without one has none on any rank (the graphs agree)."""
    if world() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    for gradient, average in zip(gradients, mean(gradients), strict=True):
        gradient.copy_(average)  # keeps the memory format


def check_equal(tensors: "Sequence[Tensor]", what: str) -> None:
    """Stop on every rank where ``tensors`` are not the same bits on all of them.

    Args:
        tensors: On the CPU.
        what: Names them and the moment, for the message.

    Raises:
        RanksError: They differ.
    """
    if world() == 1:
        return
    import torch

    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    own = torch.frombuffer(bytearray(digest.digest()), dtype=torch.int64)
    hashes = [f"{value % 2**64:016x}" for value in every(own)[:, 0].tolist()]
    if len(set(hashes)) > 1:
        raise RanksError(f"{what} differ between the processes (hashes {', '.join(hashes)}): the search is stopped")


def synchronise(module: "nn.Module") -> None:
    """Take the batch-norm statistics of training over all ranks, in place (torch's SyncBatchNorm has no CPU form).

    With one process ``module`` stays as it is. Names and weights stay in any case.
    """
    if world() == 1:
        return
    from torch import nn

    from kdnas.run.rank_norm import RankBatchNorm2d

    for norm in module.modules():
        if type(norm) is nn.BatchNorm2d:
            norm.__class__ = RankBatchNorm2d
