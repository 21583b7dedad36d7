"""Real processes share a study through a real database, and one of them is killed."""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import optuna
import postgres
import pytest
from optuna.trial import TrialState
from processes import CONTEXT

from kdnas import config
from kdnas.errors import InputError
from kdnas.tune import Study
from kdnas.tune.storage import open_storage

TRIALS = 8
IDENTITY = {"device": "mcu", "dataset": "made-up", "settings": "a"}


class SlowSearcher:
    """Takes a while over each trial."""

    def __init__(self) -> None:
        self.budgets = {"params": 100.0}

    def run(self, settings: Any, loss: Any, directory: Path, name: str, *, on_epoch: Any, **_: Any) -> Any:
        likely = {"params": 90.0 if settings.penalty["params"] > 0.3 else 150.0}
        accuracy = 0.9 - abs(loss.kd - 1) / 20
        for epoch in range(settings.epochs):
            time.sleep(0.15)
            on_epoch(epoch, accuracy, likely)
        return SimpleNamespace(
            accuracy_derived=accuracy, value=accuracy, likely=likely, costs=likely, choices={}, gap=0.0
        )  # fmt: skip


def study(storage: str, directory: Path, **identity: Any) -> Study:
    search = config.Search(penalty={"params": 1.0})  # type: ignore[call-arg]
    tune = config.Tune(trials=TRIALS, startup_trials=TRIALS, epochs=2, heartbeat=0.15, storage=storage)  # type: ignore[call-arg]
    return Study(
        SlowSearcher(), {}, search, config.Loss(), tune, directory, seed=0, identity={**IDENTITY, **identity},  # type: ignore[arg-type, call-arg]
    )  # fmt: skip


def work(storage: str, directory: Path) -> None:
    directory.mkdir()
    study(storage, directory).run()


@contextmanager
def workers(storage: str, directory: Path, count: int) -> Iterator[list[BaseProcess]]:
    started = [CONTEXT.Process(target=work, args=(storage, directory / f"worker{n}")) for n in range(count)]
    for process in started:
        process.start()
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.join()


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "shared.db") if request.param == "sqlite" else request.getfixturevalue("postgresql")


def test_the_trial_of_a_killed_worker_is_retried_by_another(storage: str, tmp_path: Path) -> None:
    with workers(storage, tmp_path, 4) as started:
        shared, pids = study(storage, tmp_path), [process.pid for process in started]
        deadline, victim = time.monotonic() + 60, None
        while victim is None and time.monotonic() < deadline:  # a trial that has its parameters, in its middle
            running = shared.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
            victim = next((t for t in running if t.intermediate_values and "worker" in t.user_attrs), None)
        assert victim is not None
        pid = int(victim.user_attrs["worker"].rpartition(":")[2])
        os.kill(pid, signal.SIGKILL)
        for process in started:
            process.join(60)
        assert sorted(process.exitcode or 0 for process in started) == [-signal.SIGKILL, 0, 0, 0]
    rows = shared.rows()
    assert [row["trial"] for row in rows] == list(range(TRIALS))
    ended = [t for t in shared.study.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(ended) == TRIALS  # nothing twice
    assert {row["worker"] for row in rows} <= {f"{os.uname().nodename}:{pid}" for pid in pids}
    if shared.study.trials[victim.number].state is TrialState.FAIL:  # else it ended in the moment of the kill
        retry = next(retry for retry in shared.retries() if retry["died"] == victim.number)
        assert retry["worker"] == victim.user_attrs["worker"] != retry["retried_by"]
        again = shared.study.trials[retry["retried_as"]]
        assert again.params == victim.params and again.user_attrs["slot"] == victim.user_attrs["slot"]


def test_the_parameters_of_a_trial_outlive_a_retry_that_dies_early(tmp_path: Path) -> None:
    shared = study(str(tmp_path / "shared.db"), tmp_path)
    trial = shared.slots.claim(shared._given)
    assert trial is not None
    first = {name: trial.suggest_float(name, *bounds, log=True) for name, bounds in shared.space().items()}
    shared.slots.tell(trial, state=TrialState.FAIL)
    again = shared.slots.claim(shared._given)  # it dies before it has asked for the parameters that it was given
    assert again is not None and again.user_attrs["slot"] == trial.user_attrs["slot"] and again.params == {}
    shared.slots.tell(again, state=TrialState.FAIL)
    assert shared._given(0) == first != {}


def test_what_defines_a_study_keeps_others_apart(tmp_path: Path) -> None:
    storage = str(tmp_path / "shared.db")
    mine, other = study(storage, tmp_path), study(storage, tmp_path, settings="b")
    assert mine.name != other.name and mine.name.startswith("kdnas-mcu-made-up-s0-")
    assert study(storage, tmp_path).name == mine.name
    optuna.delete_study(study_name=mine.name, storage=open_storage(storage))
    foreign = optuna.create_study(study_name=mine.name, storage=open_storage(storage), direction="maximize")
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(InputError, match="kdnas did not begin"):
        study(storage, tmp_path)


def test_a_storage_that_cannot_be_used_is_named_without_its_password(
    postgresql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = postgresql.replace("%40word", "%40wrong")
    for url, why in ((wrong, "password"), (postgresql.replace(":/", ":/", 1).rpartition("/")[0] + "/none", "none")):
        with pytest.raises(InputError, match=why) as caught:
            open_storage(url)
        assert "s3cret" not in str(caught.value) and "kdnas@127.0.0.1" in str(caught.value)
    with pytest.raises(InputError, match=r"postgresql://user@host") as caught:
        open_storage("mysql://kdnas:s3cret@host/db")
    assert "s3cret" not in str(caught.value)
    (tmp_path / "text.db").write_text("no database, but long enough to look like one" * 10)
    with pytest.raises(InputError, match=r"text\.db"):
        open_storage(str(tmp_path / "text.db"))
    monkeypatch.setattr("kdnas.tune.storage.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"kdnas\[postgresql\]"):
        open_storage(postgresql)


def test_a_worker_that_opens_a_study_while_another_begins_it_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, attrs = str(tmp_path / "shared.db"), optuna.Study.user_attrs
    first = study(storage, tmp_path)
    first.study.set_user_attr("kdnas", None)

    def meanwhile(one: optuna.Study) -> dict[str, Any]:
        """The other one says what it begins, and begins, right after it was looked for."""
        found = attrs.fget(one)  # type: ignore[attr-defined]
        monkeypatch.undo()
        first.study.set_user_attr("kdnas", first.identity)
        first.slots.claim(lambda slot: {})
        return dict(found)

    monkeypatch.setattr(optuna.Study, "user_attrs", property(meanwhile))
    assert study(storage, tmp_path).name == first.name


@pytest.mark.parametrize(
    "password", ["s3", "s3/cret", "s3#cret", "s3?cret", "s3[cret", "s3:cret", "s3@cret", "s3{cret}"]
)
@pytest.mark.parametrize("place", ["127.0.0.1:1/db", "127.0.0.1:one/db", "127.0.0.1:1/db?connect_timeout=1"])
def test_no_password_is_told_whatever_it_is_made_of(password: str, place: str) -> None:
    words = [word for word in re.split(r"\W", password) if word]
    urls = [f"postgresql://kdnas:{password}@{place}", f"postgresql://kdnas@127.0.0.1:1/db?password={password}"]
    for url in urls[: 1 if "@" in password else 2]:
        with pytest.raises(InputError, match=r"127\.0\.0\.1") as caught:
            open_storage(url)
        written = config.make_settings({"tune.storage": url}).model_dump(mode="json")["tune"]["storage"]
        assert not any(word in told for word in words for told in (str(caught.value), written))


def test_a_database_file_may_have_any_name(tmp_path: Path) -> None:
    open_storage(str(tmp_path / "{a} @ b:c.db")).remove_session()
    assert (tmp_path / "{a} @ b:c.db").exists()


def test_a_storage_that_goes_away_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = study(str(tmp_path / "shared.db"), tmp_path)

    def gone(given: Any) -> None:
        raise optuna.exceptions.StorageInternalError("server closed the connection") from OSError("gone")

    monkeypatch.setattr(begun.slots, "claim", gone)
    with pytest.raises(InputError, match=r"shared\.db no longer answers \(gone\)"):
        begun.run()


def test_a_password_is_in_no_settings_that_are_written(postgresql: str) -> None:
    settings = config.make_settings({"tune.storage": postgresql})
    assert settings.tune.storage == postgresql and "s3cret" not in repr(settings)
    dumped = settings.model_dump(mode="json")["tune"]["storage"]
    assert dumped == config.without_password(postgresql) and postgres.PASSWORD not in unquote(dumped)
    assert dumped.startswith("postgresql://kdnas@127.0.0.1:")
    assert config.without_password("study.db") == "study.db"
