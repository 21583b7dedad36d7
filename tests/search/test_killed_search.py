"""A search, and a study of searches, killed with SIGKILL again and again: what they end with is as if nothing had been.

Run as a program, this file is the process that is killed: ``test_killed_search.py search|study DIRECTORY``.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).resolve()
EPOCHS = 10


def program(what: str, directory: Path) -> None:
    """Search (or study) in ``directory``, going on with what is there, and leave ``result.pt`` behind."""
    from small_search import SEARCH, Sayings, World

    from kdnas import config
    from kdnas.data import Views, load_dataset, make_splits
    from kdnas.knowledge.lessons import Lessons
    from kdnas.search.strategy import KDLDartsModule
    from kdnas.tune import Study

    torch.set_num_threads(1)
    dataset = load_dataset("fashion-mini", limit=150)
    lessons = Lessons(dataset, Views(), Sayings(dataset))  # type: ignore[arg-type]
    searcher = World(dataset, make_splits(dataset.train_labels, 60, 0), lessons).searcher()
    settings = SEARCH.model_copy(update={"epochs": EPOCHS, "steps": 2, "eigenvalue_every": 5})
    (directory / "started").touch()
    if what == "search":
        modules: list[KDLDartsModule] = []
        loaded = KDLDartsModule.setup

        def setup(self: KDLDartsModule, *args: Any, **kwargs: Any) -> Any:
            modules.append(self)
            return loaded(self, *args, **kwargs)

        KDLDartsModule.setup = setup  # type: ignore[method-assign]
        found = searcher.run(
            settings, config.Loss(), directory, "search", progress=False, on_epoch=lambda epoch, accuracy, costs: None
        )
        result = {
            "alphas": {label: alpha.detach() for label, alpha in modules[0].alphas().items()},
            "weights": found.weights, "network": found.network.state_dict(), "history": found.history,
            "multipliers": dict(modules[0].multipliers.values), "choices": found.choices, "costs": found.costs,
            "accuracy": [found.accuracy_relaxed, found.accuracy_derived],
        }  # fmt: skip
    else:
        settings = settings.model_copy(update={"warmup_epochs": 1})
        warm = searcher.warm_up(settings, config.Loss(), directory, "warm-up", progress=False)
        tune = config.Tune(trials=6, startup_trials=2, epochs=3, steps=2)
        study = Study(searcher, warm, settings, config.Loss(), tune, directory, seed=0)
        result = {"rows": study.run(), "best": study.best()}
    torch.save(result, directory / "unfinished.pt")
    (directory / "unfinished.pt").rename(directory / "result.pt")


def start(what: str, directory: Path) -> subprocess.Popen[bytes]:
    directory.mkdir(exist_ok=True)
    (directory / "started").unlink(missing_ok=True)
    paths = os.pathsep.join([str(HERE.parent), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(HERE), what, str(directory)], env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL, stderr=(directory / "errors.txt").open("ab"),
    )  # fmt: skip


def finish(process: subprocess.Popen[bytes], directory: Path) -> dict[str, Any]:
    assert process.wait(600) == 0, (directory / "errors.txt").read_text()[-2000:]
    return torch.load(directory / "result.pt", weights_only=True)


def progress(what: str, directory: Path) -> int:
    """Epochs that a search has kept, or trials that a study has begun to keep."""
    if what == "study":
        return len(list((directory / "checkpoints" / "trials").glob("*.ckpt")))
    kept = directory / "checkpoints" / "search.ckpt"
    return torch.load(kept, weights_only=True)["epoch"] + 1 if kept.exists() else 0


def kill(process: subprocess.Popen[bytes], what: str, directory: Path, moment: float, unit: float) -> None:
    """Kill it when it has come to ``moment``, in units of ``progress``; a unit takes about ``unit`` seconds."""
    while not (directory / "started").exists() or progress(what, directory) < int(moment):
        assert process.poll() is None, (directory / "errors.txt").read_text()[-2000:]
        time.sleep(0.01)
    time.sleep(moment % 1 * unit)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()


def same(one: Any, other: Any) -> bool:
    """Equal to the bit, all the way down."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def unbroken_and_killed(what: str, directory: Path, kills: int, seed: int) -> tuple[Any, Any]:
    """What an unbroken process ends with, and one that is killed at ``kills`` moments, at random over its work."""
    process = start(what, directory / "whole")
    while not (directory / "whole" / "started").exists():
        assert process.poll() is None, (directory / "whole" / "errors.txt").read_text()[-2000:]
        time.sleep(0.01)
    began = time.monotonic()
    whole = finish(process, directory / "whole")
    units = progress(what, directory / "whole")
    unit = (time.monotonic() - began) / units
    # By progress and not by the clock, whose hours are shorter when the machine is busy with other things; and not so
    # late that it might have ended.
    draw = random.Random(seed)
    for moment in sorted(draw.uniform(0, units - 1.5) for _ in range(kills)):
        kill(start(what, directory / "killed"), what, directory / "killed", moment, unit)
    again = finish(start(what, directory / "killed"), directory / "killed")
    return whole, again


def test_a_killed_search_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, again = unbroken_and_killed("search", tmp_path, 2, seed=1)
    assert whole and same(whole, again), [name for name in whole if not same(whole[name], again.get(name))]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["search", "study"])
def test_killed_at_ten_moments(what: str, tmp_path: Path) -> None:
    whole, again = unbroken_and_killed(what, tmp_path, 10, seed=0)
    assert whole and same(whole, again), [name for name in whole if not same(whole[name], again.get(name))]


if __name__ == "__main__":
    program(sys.argv[1], Path(sys.argv[2]))
