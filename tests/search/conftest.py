"""Fixtures of the small search."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_search import Sayings, Spy, World

from kdnas.data import Views, load_dataset, make_splits
from kdnas.knowledge.lessons import Lessons
from kdnas.search.strategy import KDLDartsModule


@pytest.fixture(scope="session")
def world() -> World:
    dataset = load_dataset("fashion-mini", limit=300)
    splits = make_splits(dataset.train_labels, 100, 0)
    return World(dataset, splits, Lessons(dataset, Views(), Sayings(dataset)))  # type: ignore[arg-type]


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    found = Spy()
    step: Callable = KDLDartsModule.training_step

    def spied(self: KDLDartsModule, batch: Any, batch_idx: int) -> Any:
        found.module = self
        return step(self, batch, batch_idx)

    monkeypatch.setattr(KDLDartsModule, "training_step", spied)
    return found


@pytest.fixture
def tmp_run(tmp_path: Path) -> Path:
    return tmp_path / "run"
