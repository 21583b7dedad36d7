"""Make runs/published/search_speed.json: how long a step of the architecture search takes, and how much memory.

    python scripts/bench_search.py

For each space, on one thread and in one process, the step of one system is timed after that of another, over and over,
and the medians are published. On a CPU the seconds are those that the one thread computed, which on an idle machine
are those that passed: other people's work does not count. The systems:

    kdnas    our bilevel step (one step of the architecture, one of the weights), for each relaxation
    nni      the same by the stock DARTS strategy of NNI 3.0, mixing all branches of the same blocks
    largest  one training step of the space's largest network

All are driven by Lightning from data loaders, with the loss of the search (cross-entropy and both distillation terms)
on made-up images and teacher's answers. NNI's strategy cannot vary the width inside a ``LayerChoice``: its branches of
the space `mobile` all have the largest.

`cell-16` is the space `cell` with 16 channels and 4 cells on 32 x 32 RGB images. Peak memory is that of a fresh process
over what it held before the networks were built (on a GPU: of torch's allocator).
"""

import argparse
import ctypes
import multiprocessing
import resource
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdnas.run.process import configure_process

# ruff: noqa: E402 (threads and the allocator are set before torch is loaded)
configure_process(1)
warnings.simplefilter("ignore")  # NNI 3.0 warns about torch classes newer than itself, and about its training service

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch.lightning import Lightning, Trainer
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import RawFormatModelSpace
from nni.nas.strategy import DARTS
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kdnas import config
from kdnas.cost import CostTables
from kdnas.data import Batch
from kdnas.errors import InputError
from kdnas.knowledge.lessons import Lesson
from kdnas.loss import KnowledgeLoss
from kdnas.ops import ConvBN, InvertedResidual
from kdnas.run.files import write_json
from kdnas.run.training import channels_last, quiet
from kdnas.search.strategy import KDLDarts, SearchTask
from kdnas.space import SearchSpace, make_space
from search_spaces.mobile import EXPANSIONS, KERNELS

_M_ARENA_MAX = -8  # glibc's mallopt key (malloc.h)
CLASSES, TEACHER_DIM, IMAGES = 10, 1280, 512
SPACES: dict[str, tuple[str, dict[str, Any]]] = {
    "mobile": ("mobile", {}),
    "cell": ("cell", {}),
    "cell-16": ("cell", {"in_channels": 3, "image_size": 32, "channels": 16, "cells": 4}),
}
SYSTEMS = [("largest", None), ("kdnas", "softmax"), ("kdnas", "partial"), ("kdnas", "gumbel"), ("nni", None)]


class BranchedMobile(ModelSpace):
    """The space `mobile` as a stock strategy can search it: each block a choice among whole inverted residuals.

    Args:
        largest: Arguments of the ``MobileEncoder`` that is the space's largest network.
    """

    def __init__(self, largest: dict[str, Any]) -> None:
        super().__init__()
        self.stem = ConvBN(largest["in_channels"], *largest["stem"])
        self.blocks = nn.Sequential()
        for index, (inputs, _, outputs, _, stride, residual) in enumerate(largest["blocks"]):
            candidates: dict[str, nn.Module] = {
                f"kernel{kernel}_expansion{expansion}": InvertedResidual(
                    inputs, inputs * expansion, outputs, kernel, stride, residual
                )
                for kernel in KERNELS
                for expansion in EXPANSIONS
            }
            if residual:
                candidates["skip"] = nn.Identity()
            self.blocks.append(LayerChoice(candidates, label=f"block{index}"))
        self.head = nn.Linear(largest["blocks"][-1][2], largest["feature_dim"])

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [0, 1] to (B, feature_dim)."""
        return self.head(self.blocks(self.stem(images * 4 - 2)).mean((2, 3)))


class MadeUpLessons:
    """Stands for ``Lessons``: images and teacher's answers that were drawn once."""

    def __init__(self, in_channels: int, size: int, memory_format: torch.memory_format) -> None:
        draw = torch.Generator().manual_seed(0)
        self.images = torch.rand(IMAGES, in_channels, size, size, generator=draw)
        self.features = torch.randn(IMAGES, TEACHER_DIM, generator=draw)
        self.probabilities = torch.randn(IMAGES, CLASSES, generator=draw).softmax(1)
        self.memory_format = memory_format

    def __call__(self, batch: Batch, device: torch.device, teacher: bool = True) -> Lesson:
        """What ``Lessons`` would give."""
        ids = batch.ids.cpu()
        images = self.images[ids].to(device, memory_format=self.memory_format)
        answers = self.features[ids].to(device), self.probabilities[ids].to(device)
        return Lesson(images, batch.labels.to(device), *answers)


class Bench:
    """One space, and all that its systems share."""

    def __init__(self, name: str, given: argparse.Namespace) -> None:
        self.name, self.given = name, given
        self.space_name = SPACES[name][0]
        space = self.space()
        self.options = space.options
        # Partial channels are for mixtures of operations, which `mobile` has none of.
        self.systems = [s for s in SYSTEMS if s[1] != "partial" or self.space_name != "mobile"]
        self.tables = CostTables(space.units(), space.domains())
        # One choice after the other, the value that costs the most MACs; twice, as the size of a block that is not
        # there makes no difference.
        self.largest: dict[str, Any] = {label: values[-1] for label, values in space.domains().items()}
        for label, values in 2 * list(space.domains().items()):
            macs = [self.tables.exact({**self.largest, label: value})["macs"] for value in values]
            self.largest[label] = values[macs.index(max(macs))]
        costs = self.tables.exact(self.largest)
        self.budgets = {"params": costs["params"] / 2, "macs": costs["macs"] / 2, "sram_bytes": costs["sram_bytes"]}

    def space(self) -> SearchSpace:
        """A fresh space."""
        return make_space(self.space_name, **SPACES[self.name][1])

    def batches(self, seed: int, steps: int) -> "DataLoader[Any]":
        """A loader of ``steps`` batches of ids."""
        draw = torch.Generator().manual_seed(seed)
        data = [
            Batch(
                torch.randint(IMAGES, (self.given.batch_size,), generator=draw),
                torch.randint(CLASSES, (self.given.batch_size,), generator=draw), 0, (seed, 0, step),
            )
            for step in range(steps)
        ]  # fmt: skip
        return DataLoader(data, batch_size=None)  # type: ignore[arg-type]

    def task(self, memory_format: torch.memory_format, settings: config.Search) -> SearchTask:
        """The Lightning module that every system trains."""
        torch.manual_seed(0)
        feature_dim = self.options["feature_dim"]
        knowledge = KnowledgeLoss(feature_dim, TEACHER_DIM, torch.zeros(TEACHER_DIM), torch.ones(TEACHER_DIM))
        lessons: Any = MadeUpLessons(self.options["in_channels"], self.options["image_size"], memory_format)
        return SearchTask(lessons, knowledge, feature_dim, CLASSES, settings, settings.steps)

    def runner(self, system: str, relaxation: str | None, steps: int, callback: pl.Callback) -> Callable[[], None]:
        """Build a system; what comes back trains it for ``steps`` steps."""
        settings = config.Search.model_validate(
            {
                "warmup_epochs": 0, "epochs": 1, "steps": steps, "temperature": (1.0, 1.0), "eigenvalue_every": 0,
                "relaxation": relaxation or "softmax",
            }
        )  # fmt: skip
        stock = system == "nni"
        task = self.task(torch.contiguous_format if stock else torch.channels_last, settings)
        trainer = Trainer(
            max_epochs=1, accelerator=self.given.device, devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, callbacks=[callback],
            precision="bf16-mixed" if self.given.device == "cuda" else "32-true",
        )  # fmt: skip
        loaders = [self.batches(seed, steps) for seed in (1, 2)]
        space = self.space()
        if system == "largest":
            network = channels_last(space.network(self.largest))
            task.set_model(network)
            self._compile(network)
            return lambda: trainer.fit(task, loaders[0])
        if not stock:
            strategy: Any = KDLDarts(space, self.tables, self.budgets, settings)
            model: ModelSpace = space
        else:
            strategy, model = DARTS(), self.stock_space(space)
        task.set_model(model)
        evaluator = Lightning(task, trainer, train_dataloaders=loaders[0], val_dataloaders=loaders[1])
        strategy.initialize(RawFormatModelSpace(model, evaluator), SequentialExecutionEngine())
        if not stock:
            channels_last(model)
        self._compile(model)
        return lambda: strategy.run()

    def stock_space(self, space: SearchSpace) -> ModelSpace:
        """The space without any word of ours on how to relax it."""
        if self.space_name == "mobile":
            network: Any = space.network(self.largest)
            return BranchedMobile(network.config)

        class Stock(type(space)):  # type: ignore[misc]
            def extra_oneshot_hooks(self, strategy: Any) -> list[Any]:
                return []

        return Stock(**space.options)

    def _compile(self, model: nn.Module) -> None:
        if self.given.compile:
            model.compile()


class Turns(pl.Callback):
    """Lets a training step begin only when it is called for, and takes its time."""

    def __init__(self, cuda: bool) -> None:
        self.cuda = cuda
        self.may_go, self.has_stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.seconds: list[float] = []
        self.error: BaseException | None = None

    def start(self, run: Callable[[], None]) -> None:
        """Begin training in a thread of its own; returns when the first step stands ready."""

        def work() -> None:
            try:
                run()
            except BaseException as error:
                self.error = error
            self.has_stopped.release()

        threading.Thread(target=work, daemon=True).start()
        self._wait()

    def step(self) -> None:
        """One training step; returns when the next one stands ready."""
        self.may_go.release()
        self._wait()

    def _wait(self) -> None:
        self.has_stopped.acquire()
        if self.error is not None:
            raise self.error

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.thread_time()  # on a CPU, the backward pass runs in the thread that calls it

    def on_train_batch_start(self, *args: Any) -> None:
        """Wait for the turn."""
        self.has_stopped.release()
        self.may_go.acquire()
        self.began = self._now()

    def on_train_batch_end(self, *args: Any) -> None:
        """The time is that of all that Lightning and the strategy do for a step."""
        self.seconds.append(self._now() - self.began)


def peak_bytes(bench: Bench, system: str, relaxation: str | None) -> int:
    """Most memory over what the process held before, during two steps in a process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work() -> None:
        unit = 1 if sys.platform == "darwin" else 1024
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        bench.runner(system, relaxation, 2, pl.Callback())()
        if bench.given.device == "cuda":
            sender.send(torch.cuda.max_memory_allocated())
        else:
            sender.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit)

    process = context.Process(target=work)
    process.start()
    sender.close()
    try:
        return int(receiver.recv())
    except EOFError:
        raise InputError(f"{system} on {bench.name} ended before its memory was known: see above") from None
    finally:
        process.join()


def measure(bench: Bench, peaks: list[int], given: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one space; ``peaks`` is the memory of its systems."""
    systems = bench.systems
    turns = [Turns(given.device == "cuda") for _ in systems]
    for turn, which in zip(turns, systems, strict=True):
        turn.start(bench.runner(*which, given.repeats + given.warm_up, turn))
    for _ in range(given.repeats + given.warm_up):
        for turn in turns:
            turn.step()
    seconds = [turn.seconds[given.warm_up :] for turn in turns]
    rows = []
    for (system, relaxation), own, peak in zip(systems, seconds, peaks, strict=True):
        step_s = statistics.median(own)
        images = given.batch_size * (1 if system == "largest" else 2)
        rows.append(
            {
                "space": bench.name,
                "system": system,
                "relaxation": relaxation,
                "step_s": round(step_s, 5),
                "images_per_s": round(images / step_s, 1),
                "peak_bytes": peak,
                "ratio_to_largest": None if system == "largest" else ratio(own, seconds[0]),
                "nni_over_this": ratio(seconds[-1], own) if system == "kdnas" else None,
                "batch_size": given.batch_size,
                "device": given.device if given.device == "cpu" else torch.cuda.get_device_name(),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
            }
        )
    return rows


def ratio(one: list[float], other: list[float]) -> float:
    """The median over repetitions of one time over the other's in the same repetition."""
    return round(statistics.median(a / b for a, b in zip(one, other, strict=True)), 3)


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    print(f"{'space':8} {'system':16} {'step':>10} {'images/s':>9} {'peak':>9} {'/largest':>9} {'nni/this':>9}")
    for row in rows:
        system = row["system"] + (f" {row['relaxation']}" if row["relaxation"] else "")
        ratios = [f"{row[key]:9.2f}" if row[key] else " " * 9 for key in ("ratio_to_largest", "nni_over_this")]
        numbers = f"{row['step_s'] * 1e3:7.1f} ms {row['images_per_s']:9.0f} {row['peak_bytes'] / 1e6:6.0f} MB"
        print(f"{row['space']:8} {system:16} {numbers} {' '.join(ratios)}", flush=True)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="+", default=list(SPACES), choices=list(SPACES))
    parser.add_argument("--repeats", type=int, default=7, help="timed steps of each system")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before these")
    parser.add_argument("--batch-size", type=int, default=64, help="images per step and level")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda computes in bf16")
    parser.add_argument("--compile", action="store_true", help="torch.compile every network (not for the CPU: hours)")
    parser.add_argument("--json", type=Path, default=Path("runs/published/search_speed.json"))
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here; use --device cpu")
    if min(given.repeats, given.batch_size - 1) < 1 or given.warm_up < 0:
        parser.error("--repeats must be at least 1, --batch-size 2, --warm-up 0")
    quiet()
    torch.set_num_threads(1)
    if sys.platform.startswith("linux"):
        # One heap for all threads: those of their own are given back to the system after every step.
        ctypes.CDLL("libc.so.6").mallopt(_M_ARENA_MAX, 1)
    rows: list[dict[str, Any]] = []
    benches = [Bench(name, given) for name in given.spaces]
    # Memory first: a process that has trained holds free memory, which its children would use unseen.
    peaks = [[peak_bytes(bench, *system) for system in bench.systems] for bench in benches]
    for bench, own in zip(benches, peaks, strict=True):
        found = measure(bench, own, given)
        show(found)
        rows += found
    words = ["python scripts/bench_search.py", "--spaces", *given.spaces, "--repeats", str(given.repeats)]
    words += ["--warm-up", str(given.warm_up), "--batch-size", str(given.batch_size), "--device", given.device]
    words += ["--compile"] if given.compile else []
    write_json(given.json, {"command": " ".join(words), "rows": rows})
    print(f"wrote {given.json}: {len(rows)} rows")


if __name__ == "__main__":
    main()
