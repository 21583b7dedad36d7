from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdnas import config
from kdnas.tune import Study

BUDGETS = {"params": 100.0, "macs": 1000.0}


class Killed(BaseException):
    """What a SIGKILL is to the study: nothing is told any more."""


class FakeSearcher:
    """Accurate where kd is near 1; inside the budgets where the parameters' penalty is above 0.3."""

    budgets = BUDGETS

    def __init__(self, killed_at: int | None = None) -> None:
        self.calls: list[tuple[float, dict[str, float], str]] = []
        self.killed_at = killed_at

    def run(self, settings: Any, loss: Any, directory: Path, name: str, *, on_epoch: Any, key: str, **_: Any) -> Any:
        if len(self.calls) == self.killed_at:
            raise Killed
        self.calls.append((loss.kd, dict(settings.penalty), key))
        accuracy = 0.9 - abs(loss.kd - 1) / 20
        likely = {"params": 90.0 if settings.penalty.get("params", 0) > 0.3 else 150.0, "macs": 500.0}
        for epoch in range(settings.epochs):
            on_epoch(epoch, accuracy, likely)
        return SimpleNamespace(
            accuracy_derived=accuracy, value=accuracy, likely=likely, costs=likely, choices={}, gap=0.0
        )  # fmt: skip


def study(path: Path, searcher: Any, **change: Any) -> Study:
    path.mkdir(exist_ok=True)
    search = config.Search(**change.pop("search", {}))
    loss = config.Loss(**change.pop("loss", {}))
    tune = config.Tune(trials=10, startup_trials=3, epochs=3)
    return Study(searcher, {}, search, loss, tune, path, seed=0, **change)


def test_the_best_trial_is_feasible_and_pruning_acts(tmp_path: Path) -> None:
    whole = study(tmp_path, FakeSearcher())
    rows = whole.run()
    assert len(rows) == 10 and [row["trial"] for row in rows] == list(range(10))
    feasible = [row for row in rows if row["feasible"] and row["accuracy"] is not None]
    assert whole.best()["accuracy"] == max(row["accuracy"] for row in feasible)
    assert any(row["state"] == "pruned" for row in rows) and all(row["constraints"] for row in rows)


@pytest.mark.parametrize("killed_at", [1, 4, 7])
def test_a_killed_study_goes_on_as_one_that_was_not(tmp_path: Path, killed_at: int) -> None:
    expected = FakeSearcher()
    study(tmp_path / "whole", expected).run()
    first, second = FakeSearcher(killed_at), FakeSearcher()
    with pytest.raises(Killed):
        study(tmp_path / "killed", first).run()
    study(tmp_path / "killed", second).run()
    assert first.calls + second.calls == expected.calls


def test_what_the_user_set_to_zero_stays_zero_and_other_penalties_stay(tmp_path: Path) -> None:
    searcher = FakeSearcher()
    penalty = {"params": 1.0, "macs": 0.0, "latency_s": 0.7}
    study(tmp_path, searcher, search={"penalty": penalty}, loss={"kd": 0.0}).run()
    assert all(kd == 0 and p["macs"] == 0 and p["latency_s"] == 0.7 for kd, p, _ in searcher.calls)
    assert len({p["params"] for _, p, _ in searcher.calls}) == len(searcher.calls)


def test_a_warm_study_begins_with_what_it_is_given(tmp_path: Path) -> None:
    searcher = FakeSearcher()
    warm = study(tmp_path, searcher, warm=[{"kd": 1.0, "penalty.params": 0.5, "penalty.macs": 0.1}, {"kd": 2.0}])
    rows = warm.run()
    assert rows[0]["parameters"] == {"kd": 1.0, "penalty.params": 0.5, "penalty.macs": 0.1}
    assert rows[1]["parameters"]["kd"] == 2.0 and warm.best()["trial"] == 0
    assert study(tmp_path, searcher).name != warm.name


def test_savings_are_the_epochs_that_pruned_trials_did_not_run(tmp_path: Path) -> None:
    whole = study(tmp_path, FakeSearcher())
    rows = whole.run()
    pruned = [row for row in rows if row["state"] == "pruned"]
    saved = sum(3 - row["epochs"] for row in pruned)
    assert saved > 0 and whole.savings() == {
        "pruned": len(pruned), "epochs": 30 - saved, "epochs_saved": saved, "steps_saved": 10 * saved,
        "share_saved": saved / 30,
    }  # fmt: skip
