"""A study's trials shared out among workers that may die: none is lost, none is counted twice.

A study of n trials has n slots. A trial of Optuna holds its slot from the moment it is created (both in one step)
until it fails; of several that hold a slot, the one with the lowest number is right. What has failed stays failed, and
numbers rise with time, so that exactly one trial of each slot can end, whatever workers do at the same time and
wherever they are killed. Each worker derives what is to be done from the trials alone: there is nothing to put right.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
MISSED = 6
"""Heartbeats that a trial may miss before it is held for dead."""


class Slots:
    """The slots of a study, as one worker sees them.

    Args:
        study: Shared with other workers, or not.
        count: Slots.
        heartbeat: Seconds between signs of life.
        worker: Names this worker in its trials; None where there is no other.
    """

    def __init__(self, study: optuna.Study, count: int, heartbeat: float, worker: str | None = None) -> None:
        self.study, self.count, self.heartbeat, self.worker = study, count, heartbeat, worker
        self._seen: dict[int, tuple[Any, float]] = {}  # number of a running trial: its last sign of life, and when

    def holders(self) -> dict[int, FrozenTrial]:
        """Slot to the trial that holds it, by rising slot; free slots are left out."""
        found: dict[int, FrozenTrial] = {}
        for trial in self.study.get_trials(deepcopy=False):
            slot = trial.user_attrs.get("slot")
            if isinstance(slot, int) and 0 <= slot < self.count and trial.state is not TrialState.FAIL:
                found.setdefault(slot, trial)
        return dict(sorted(found.items()))

    def ended(self) -> dict[int, FrozenTrial]:
        """The slots whose trials have ended, complete or pruned."""
        return {slot: trial for slot, trial in self.holders().items() if trial.state in ENDED}

    def claim(self, given: Callable[[int], Mapping[str, float]]) -> optuna.Trial | None:
        """Start a trial in the lowest free slot; None where there is none to start at the moment.

        Args:
            given: Slot to the parameters that its trial must have, if any.
        """
        while True:
            holders = self.holders()
            if not any(trial.state is TrialState.WAITING for trial in holders.values()):
                free = next((slot for slot in range(self.count) if slot not in holders), None)
                if free is None:
                    return None
                self.study.enqueue_trial(dict(given(free)), user_attrs={"slot": free})
            trial = self.study.ask()  # takes one that waits, perhaps another worker's: the slot is in the trial
            slot = trial.user_attrs.get("slot")
            holder = self.holders().get(slot) if slot is not None else None
            try:
                if holder is not None and holder.number == trial.number:
                    if self.worker is not None:
                        trial.set_user_attr("worker", self.worker)
                    return trial
                trial.set_user_attr("withdrawn", True)
            except UpdateFinishedTrialError:  # this process stood still for so long that it was held for dead
                continue
            self.tell(trial, state=TrialState.FAIL)

    def tell(self, trial: optuna.Trial, value: float | None = None, state: TrialState | None = None) -> bool:
        """Tell how a trial ended; False where it was held for dead meanwhile, and this end does not count."""
        try:
            self.study.tell(trial, value, state)
        except (UpdateFinishedTrialError, ValueError):
            if self.alive(trial):
                raise
            return False
        return True

    def alive(self, trial: optuna.Trial) -> bool:
        """Whether a trial that was claimed is still this worker's."""
        return self.study.get_trials(deepcopy=False)[trial.number].state is TrialState.RUNNING

    @contextmanager
    def beating(self, trial: optuna.Trial) -> Iterator[None]:
        """Give signs of life of ``trial`` during the block, from a thread."""
        over = threading.Event()

        def beat() -> None:
            count = 0
            while not over.wait(self.heartbeat):
                count += 1
                try:
                    trial.set_user_attr("heartbeat", count)
                except UpdateFinishedTrialError:
                    return
                except Exception:  # the database is away for a moment: the next sign may reach it
                    continue

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def bury(self, at_once: bool = False) -> list[FrozenTrial]:
        """Fail the trials of workers that died, so that their slots are free; returns them.

        Each worker measures with its own clock how long it sees no new sign of life: clocks need not agree.

        Args:
            at_once: All that run are dead: no other worker is there.
        """
        now, dead = time.monotonic(), []
        running = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        self._seen = {n: seen for n, seen in self._seen.items() if n in {trial.number for trial in running}}
        for trial in running:
            sign = trial.user_attrs.get("heartbeat")
            last, since = self._seen.get(trial.number, (None, now))
            if trial.number not in self._seen or sign != last:
                self._seen[trial.number] = (sign, now)
                since = now
            if at_once or now - since > MISSED * self.heartbeat:
                try:
                    self.study.tell(trial.number, state=TrialState.FAIL)
                except (UpdateFinishedTrialError, ValueError):
                    continue  # it ended, or another worker was faster
                dead.append(trial)
        return dead

    def deaths(self, slot: int) -> list[FrozenTrial]:
        """The trials of a slot whose workers died or were stopped, oldest first."""
        return [
            trial
            for trial in self.study.get_trials(deepcopy=False, states=[TrialState.FAIL])
            if trial.user_attrs.get("slot") == slot and not trial.user_attrs.get("withdrawn")
        ]
