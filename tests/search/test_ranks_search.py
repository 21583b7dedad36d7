"""A search in two processes is the search of one process: the same numbers, the same architecture, the same files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import free_port, in_ranks
from small_search import OPTIONS, SEARCH, Sayings, World

from kdnas import config
from kdnas.data import Views, load_dataset, make_splits
from kdnas.errors import InputError
from kdnas.knowledge.lessons import Lessons
from kdnas.run import ranks
from kdnas.search import engine
from kdnas.search.strategy import KDLDartsModule
from kdnas.space import Architecture, list_spaces

FIXED = {"in_channels": 1, "image_size": 28, "feature_dim": 8}
SMALL = {
    "mobile": {**FIXED, "width": 0.5},
    "cell": {**FIXED, "channels": 4, "cells": 3},
    "vit": {**FIXED, "width": 0.5, "depth": 2},
    "darts": {**FIXED, "channels": 4},
    "nas_bench_201": {**FIXED, "channels": 4, "cells": 1},
}
SHORT = SEARCH.model_copy(update={"steps": 2, "batch_size": 10, "labelled_fraction": 0.2, "eigenvalue_every": 0})


class DoubleViews(Views):
    def apply(self, *args: Any) -> torch.Tensor:
        return super().apply(*args).double()


def search(name: str, directory: Path, changes: dict[str, Any], perturb: int | None = None) -> dict[str, Any]:
    """A small search in float64, where a sum in another order cannot grow into another step of Adam."""
    torch.set_default_dtype(torch.float64)
    module: list[KDLDartsModule] = []
    hashes: list[bytes] = []
    step = KDLDartsModule.training_step

    def spied(self: KDLDartsModule, batch: Any, batch_idx: int) -> Any:
        if len(hashes) == perturb and ranks.rank() == 1:
            self.arch_parameters()[0].data[0] += 1e-12
        out = step(self, batch, batch_idx)
        module[:] = [self]
        hashes.append(b"".join(alpha.detach().numpy().tobytes() for alpha in self.arch_parameters()))
        return out

    KDLDartsModule.training_step = spied  # type: ignore[method-assign]
    last_touch, before = engine.channels_last, dict(OPTIONS)
    engine.channels_last = lambda module: last_touch(module.double())  # masks are float32 whatever the default
    try:
        OPTIONS[name] = SMALL[name]
        dataset = load_dataset("fashion-mini", limit=80)
        lessons = Lessons(dataset, DoubleViews(), Sayings(dataset))  # type: ignore[arg-type]
        searcher = World(dataset, make_splits(dataset.train_labels, 50, 0), lessons).searcher(name)
        result = searcher.run(
            SHORT.model_copy(update=changes), config.Loss(), directory, "search", progress=False,
            on_epoch=lambda epoch, accuracy, costs: None,
        )  # fmt: skip
    finally:
        KDLDartsModule.training_step, engine.channels_last = step, last_touch  # type: ignore[method-assign]
        OPTIONS.update(before)
        torch.set_default_dtype(torch.float32)
    return {
        "alphas": {label: alpha.detach().clone() for label, alpha in module[0].alphas().items()} if module else {},
        "hashes": hashes, "weights": result.weights, "history": result.history, "choices": result.choices,
        "accuracy": (result.accuracy_relaxed, result.accuracy_derived),
        "network": {key: value.clone() for key, value in result.network.state_dict().items()},
    }  # fmt: skip


def close(one: Any, other: Any) -> None:
    """Equal within float tolerance, all the way down; counts and names to the bit.

    Where a gradient is nothing but rounding (a bias before a batch norm), Adam makes steps of up to 1e-7 of it.
    """
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            close(one[key], other[key])
    elif isinstance(one, float | torch.Tensor):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            close(a, b)
    else:
        assert one == other


def compare(name: str, tmp_path: Path, **changes: Any) -> tuple[Any, list[Any]]:
    """The choices that one process finds and those of each of two, which are compared in all else as well."""
    whole = search(name, tmp_path / "one", changes)
    parts = in_ranks(search, name, tmp_path / "two", changes, seconds=400)
    for part in parts:
        if isinstance(part, BaseException):
            raise part
    assert parts[0]["hashes"] == parts[1]["hashes"] and len(set(parts[0]["hashes"])) > 1
    for part in parts:
        close({k: v for k, v in part.items() if k != "hashes"}, {k: v for k, v in whole.items() if k != "hashes"})
    assert all(torch.equal(value, parts[1]["weights"][key]) for key, value in parts[0]["weights"].items())
    for place in ("one", "two"):
        assert (tmp_path / place / "checkpoints" / "search.ckpt").exists()
        assert len(list((tmp_path / place / "tensorboard" / "search").glob("events*"))) == 1
    return whole["choices"], [part["choices"] for part in parts]


@pytest.mark.parametrize("change", [{"order": 1, "eigenvalue_every": 2}, {"order": 2}], ids=["order 1", "order 2"])
def test_two_processes_find_what_one_finds(change: dict[str, Any], tmp_path: Path) -> None:
    alone, both = compare("mobile", tmp_path, **change)
    assert alone and both == [alone, alone]


def test_no_space_is_forgotten() -> None:
    assert set(list_spaces()) == set(SMALL)


@pytest.mark.parametrize(
    "name", ["vit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cell", "darts", "nas_bench_201"))]
)
def test_every_space_can_be_searched_in_two_processes(name: str, tmp_path: Path) -> None:
    alone, both = compare(name, tmp_path, warmup_epochs=0)
    assert alone and both == [alone, alone]


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"relaxation": "gumbel"}, {"relaxation": "partial"}])
def test_so_can_every_relaxation(change: dict[str, Any], tmp_path: Path) -> None:
    alone, both = compare("cell", tmp_path, warmup_epochs=0, **change)
    assert alone and both == [alone, alone]


def test_alphas_that_differ_stop_both_processes(tmp_path: Path) -> None:
    outcomes = in_ranks(search, "mobile", tmp_path, {}, 3)
    for outcome in outcomes:
        assert isinstance(outcome, ranks.RanksError), outcome
        assert "α after step 2 of epoch 2 differ between the processes" in str(outcome)


def test_a_batch_that_two_cannot_share_is_refused_by_both(tmp_path: Path) -> None:
    for outcome in in_ranks(search, "mobile", tmp_path, {"batch_size": 15}):
        assert isinstance(outcome, InputError) and "search.batch_size" in str(outcome)
    assert not (tmp_path / "checkpoints").exists()


def stop_and_resume(directory: Path) -> dict[str, Any]:
    return search("mobile", directory, {"epochs": 3})


def stopped(directory: Path) -> None:
    step = KDLDartsModule.training_step

    def stopping(self: KDLDartsModule, batch: Any, batch_idx: int) -> Any:
        if (self.current_epoch, batch_idx) == (2, 1):
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    KDLDartsModule.training_step = stopping  # type: ignore[method-assign]
    try:
        search("mobile", directory, {"epochs": 3})
    except KeyboardInterrupt:
        return


def test_two_processes_that_were_stopped_go_on_to_the_bit(tmp_path: Path) -> None:
    whole = in_ranks(stop_and_resume, tmp_path / "whole")
    assert in_ranks(stopped, tmp_path / "parts") == [None, None]
    again = in_ranks(stop_and_resume, tmp_path / "parts")
    for one, other in zip(whole, again, strict=True):
        assert all(one[key] == other[key] for key in ("history", "choices", "accuracy"))
        assert one["hashes"][-1] == other["hashes"][-1] and len(other["hashes"]) == 4
        assert all(torch.equal(value, other["weights"][key]) for key, value in one["weights"].items())


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    command = [sys.executable, *launcher, "-m", "kdnas.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_a_verb_for_one_process_says_so_once(tmp_path: Path) -> None:
    done = torchrun("teach", "--preset", "smoke", "--out", str(tmp_path / "run"))
    said = [line for line in done.stderr.splitlines() if line.startswith("kdnas: ")]
    assert said == ["kdnas: `kdnas teach` runs in one process: start it without torchrun"]
    assert done.returncode != 0 and "exitcode  : 2" in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command_line_searches_in_two_processes(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    odd = torchrun("search", "--preset", "smoke", "--out", run, "--set", "threads=1", "--set", "search.batch_size=31")
    said = [line for line in odd.stderr.splitlines() if line.startswith("kdnas: ")]
    assert len(said) == 1 and "search.batch_size" in said[0] and not list(tmp_path.iterdir())
    done = torchrun("search", "--preset", "smoke", "--out", run, "--set", "threads=1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == run  # printed once
    assert [line for line in done.stderr.splitlines() if line.startswith("[")] == ["[1/2] teach", "[2/2] search"]
    report = json.loads((tmp_path / "run" / "stages" / "search.json").read_text())
    assert Architecture.load(tmp_path / "run" / "architecture.json").choices == report["choices"]
    again = torchrun("search", "--resume", run)
    assert again.returncode == 0 and "[2/2] search: done before" in again.stderr
