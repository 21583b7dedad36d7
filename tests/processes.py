"""Functions run in several processes at once, as torchrun would start them."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
# Seconds of imports are done once; every process is then a fork of one that has them.
CONTEXT.set_forkserver_preload(["torch", "kdnas.search.engine", "kdnas.run.rank_norm"])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _as_rank(rank: int, world: int, port: int, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    import torch

    torch.set_num_threads(1)
    from kdnas.run import ranks

    with ranks.joined():
        return function(*args)


def in_ranks(function: Callable[..., Any], *args: Any, world: int = 2, seconds: float = 120) -> list[Any]:
    """What ``function(*args)`` returned, or raised, on each rank; a rank that hangs fails the test."""
    port = free_port()
    pool = ProcessPoolExecutor(world, CONTEXT)
    try:
        futures = [pool.submit(_as_rank, rank, world, port, function, args) for rank in range(world)]
        outcomes: list[Any] = []
        for future in futures:
            error = future.exception(seconds)
            outcomes.append(future.result() if error is None else error)
        return outcomes
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
