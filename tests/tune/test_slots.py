import random
import threading
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from kdnas.tune.slots import Slots
from kdnas.tune.storage import open_storage

optuna.logging.set_verbosity(optuna.logging.ERROR)


def in_memory() -> optuna.Study:
    return optuna.create_study(direction="maximize")


def test_slots_are_claimed_once_each_and_in_order() -> None:
    slots = Slots(in_memory(), 3, heartbeat=60)
    claimed = [slots.claim(lambda slot: {"x": float(slot)}) for _ in range(3)]
    assert [trial.user_attrs["slot"] for trial in claimed if trial] == [0, 1, 2]
    assert [trial.suggest_float("x", 0, 9) for trial in claimed if trial] == [0, 1, 2]
    assert slots.claim(lambda slot: {}) is None and slots.ended() == {}
    assert all(slots.tell(trial, 0.5) for trial in claimed if trial)
    assert list(slots.ended()) == [0, 1, 2]


def test_a_worker_that_is_late_withdraws_and_one_held_for_dead_does_not_count() -> None:
    study = in_memory()
    first, second = Slots(study, 1, heartbeat=60), Slots(study, 1, heartbeat=60)
    claimed = []

    def others_claim(slot: int) -> dict[str, float]:  # while the second makes a trial of the slot that it saw free
        claimed.append(first.claim(lambda slot: {}))
        return {}

    assert second.claim(others_claim) is None and [trial.number for trial in claimed if trial] == [0]
    assert study.trials[1].state is TrialState.FAIL and second.deaths(0) == []
    assert [dead.number for dead in second.bury(at_once=True)] == [0] and not first.alive(claimed[0])
    again = second.claim(lambda slot: {})
    assert again is not None and again.number == 2 and [dead.number for dead in second.deaths(0)] == [0]
    assert not first.tell(claimed[0], 0.1) and second.tell(again, 0.9)
    assert {slot: ended.value for slot, ended in first.ended().items()} == {0: 0.9}


def test_one_held_for_dead_while_it_claims_claims_again(monkeypatch: pytest.MonkeyPatch) -> None:
    study, ask = in_memory(), optuna.Study.ask

    def slow(own: optuna.Study) -> optuna.Trial:
        monkeypatch.undo()
        trial = ask(own)
        own.tell(trial.number, state=TrialState.FAIL)
        return trial

    monkeypatch.setattr(optuna.Study, "ask", slow)
    claimed = Slots(study, 1, heartbeat=60, worker="slow").claim(lambda slot: {})
    assert claimed is not None and claimed.number == 1 and claimed.user_attrs == {"slot": 0, "worker": "slow"}


def test_signs_of_life_keep_a_trial() -> None:
    slots, watch = (Slots(study, 2, heartbeat=0.05) for study in [in_memory()] * 2)
    alive, silent = slots.claim(lambda slot: {}), slots.claim(lambda slot: {})
    assert alive is not None and silent is not None
    with slots.beating(alive):
        for _ in range(40):
            time.sleep(0.02)
            watch.bury()
    assert slots.alive(alive) and not slots.alive(silent)


@pytest.mark.parametrize("seed", range(3))
def test_no_trial_is_lost_or_counted_twice_by_workers_that_die(tmp_path: Path, seed: int) -> None:
    """Threads that die at random points share an SQLite study, each through connections of its own."""
    finished: list[int] = []

    def work(worker: int) -> None:
        rng = random.Random(f"{seed} {worker}")
        study = optuna.load_study(study_name="all", storage=open_storage(str(tmp_path / "study.db")))
        slots = Slots(study, 6, heartbeat=0.05, worker=str(worker))
        mortal = worker > 0  # one survives all others
        while len(slots.ended()) < 6:
            slots.bury()
            if mortal and rng.random() < 0.2:
                study.enqueue_trial({}, user_attrs={"slot": rng.randrange(6)})  # and dies before it asks
                return
            trial = slots.claim(lambda slot: {})
            if trial is None:
                time.sleep(0.02)
            elif mortal and rng.random() < 0.3:
                return
            else:
                with slots.beating(trial):
                    time.sleep(0.02)
                if slots.tell(trial, 1.0):
                    finished.append(trial.user_attrs["slot"])

    storage = open_storage(str(tmp_path / "study.db"))
    study = optuna.create_study(study_name="all", storage=storage, direction="maximize")
    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(finished) == list(range(6))
    complete = [trial.user_attrs["slot"] for trial in study.trials if trial.state is TrialState.COMPLETE]
    assert sorted(complete) == list(range(6))


def test_workers_that_start_at_once_all_open_the_storage(tmp_path: Path) -> None:
    at_once, opened = threading.Barrier(6), []

    def begin() -> None:
        at_once.wait()
        opened.append(open_storage(str(tmp_path / "new.db")))

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(opened) == 6
