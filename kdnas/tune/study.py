"""One Optuna study per device class: λ_kd and the λ_c, each trial a short search from one warmed-up supernet."""

import os
import socket
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from torch import Tensor

from kdnas import config
from kdnas.config import without_password
from kdnas.errors import InputError
from kdnas.run.files import hash_of
from kdnas.run.seeds import seed_of
from kdnas.search.engine import Judge, Searcher, SearchResult
from kdnas.tune.slots import Slots
from kdnas.tune.space import search_space, with_parameters
from kdnas.tune.storage import open_storage

FOUND = ("choices", "costs", "likely", "gap", "accuracy_clean", "worker")
"""What a trial leaves beside its value, its parameters and its constraints."""


class Study:
    """Finds weights with which the search itself lands inside the budgets, and is accurate there.

    The value of a trial is what the judge says of its derived network with inherited weights (``kdnas.tune.objective``
    for one). Its constraints are cost / budget - 1 of the *likeliest* architecture, before the budgets are enforced: a
    trial is feasible where the penalty alone kept the search inside. Unpromising trials are pruned after each epoch.

    Several workers, on one machine or many, share a study that is kept where all of them reach it (``kdnas.tune.slots``
    says how). With one worker, trial n is a function of (seed, n) and of the trials before it, whether the study was
    stopped or not. With several, what trial n finds is a function of (seed, n) and its parameters, on whichever worker
    it runs or runs again; its parameters depend on which trials had ended when they were drawn, and so on the clock.

    Args:
        searcher: Of the device class.
        weights: The warmed-up supernet that every trial branches from.
        search: Settings of the search; the study's own epochs and steps replace its.
        loss: Its ``kd`` is replaced by each trial's.
        settings: Of the study; kept in ``settings.storage``, or ``study.db`` in the run directory.
        directory: The run directory.
        seed: Of parameters and batches.
        judge: Gives derived networks their value; their accuracy without a channel unless given.
        warm: Parameters of the first trials, all or some of them; the others are drawn.
        identity: What defines the study, by name; workers with another identity do not share it.
        helper: One of several workers on this machine, but not the one that began: it finds the study as it is.

    Raises:
        InputError: The storage cannot be opened, or it holds a study of this name that is not ours.
    """

    def __init__(
        self,
        searcher: Searcher,
        weights: Mapping[str, Tensor],
        search: config.Search,
        loss: config.Loss,
        settings: config.Tune,
        directory: Path,
        seed: int,
        *,
        judge: Judge | None = None,
        warm: Sequence[Mapping[str, float]] = (),
        identity: Mapping[str, Any] | None = None,
        helper: bool = False,
    ) -> None:
        self.searcher, self.weights, self.loss, self.settings = searcher, weights, loss, settings
        self.search = search.model_copy(update={"warmup_epochs": 0, "epochs": settings.epochs, "steps": settings.steps})
        self.directory, self.seed, self.judge, self.warm = directory, seed, judge, [dict(trial) for trial in warm]
        self.identity = {"seed": seed, "warm": hash_of(self.warm), **(identity or {})}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.storage = settings.storage or str(directory / "study.db")
        self.study = self._open(self.storage)
        self.alone = settings.storage is None and not helper  # but for the helpers that this worker starts itself
        shared = settings.storage is not None or settings.workers > 1
        self.worker = f"{socket.gethostname()}:{os.getpid()}" if shared else None
        self.slots = Slots(self.study, settings.trials, settings.heartbeat, self.worker)

    @property
    def name(self) -> str:
        """Of the study in its storage: readable, and another one where anything that defines the study differs."""
        words = [str(self.identity[key]) for key in ("device", "dataset") if key in self.identity]
        return "-".join(["kdnas", *words, f"s{self.seed}", hash_of(self.identity)])

    def _open(self, storage: str) -> optuna.Study:
        opened = open_storage(storage)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(
                study_name=self.name, storage=opened, direction="maximize", load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(self.settings.startup_trials, n_warmup_steps=1),
            )  # fmt: skip
        begun = bool(study.get_trials(deepcopy=False))  # asked first: who begins says so before its first trial
        kept = study.user_attrs.get("kdnas")
        if kept is None and not begun:
            study.set_user_attr("kdnas", self.identity)
        elif kept != self.identity:
            raise InputError(
                f"{without_password(storage)} holds a study {self.name!r} that kdnas did not begin: remove it, or "
                "choose another tune.storage"
            )
        return study

    def run(self, on_trial: Callable[[dict[str, Any]], None] = lambda row: None) -> list[dict[str, Any]]:
        """Run trials until the study has as many as set, this worker's and the others'; returns one row per trial.

        Args:
            on_trial: Called with the row of every trial that ends from now on, of whichever worker.

        Raises:
            InputError: The storage went away; what has ended is kept there.
        """
        try:
            return self._run(on_trial)
        except (StorageInternalError, SQLAlchemyError) as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise InputError(
                f"the storage {without_password(self.storage)} no longer answers ({reason}): go on with --resume"
            ) from None

    def _run(self, on_trial: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
        if self.alone:
            self.slots.bury(at_once=True)  # of a process that died
        told = set(self.slots.ended())
        while True:
            self.slots.bury()
            trial = self.slots.claim(self._given)
            if trial is not None:
                self._try(trial, trial.user_attrs["slot"])
            ended = self.slots.ended()
            for row in self.rows():
                if row["trial"] not in told:
                    told.add(row["trial"])
                    on_trial(row)
            if len(ended) == self.settings.trials:
                return self.rows()
            if trial is None:
                time.sleep(min(1.0, self.settings.heartbeat))  # others are at work on what is left

    def _given(self, slot: int) -> dict[str, float]:
        """A trial whose worker died is tried again with its parameters, where it had got them all."""
        for dead in reversed(self.slots.deaths(slot)):
            if set(dead.params) == set(self.space()):
                return dead.params
        return self.warm[slot] if slot < len(self.warm) else {}

    def space(self) -> dict[str, tuple[float, float]]:
        """The bounds of each parameter of a trial."""
        return search_space(self.settings.parameters, self.searcher.budgets, self.search, self.loss)

    def _try(self, trial: optuna.Trial, index: int) -> None:
        (self.directory / "checkpoints" / "trials" / f"{index:03d}.ckpt").unlink(missing_ok=True)
        # A trial that died is repeated to the bit by its successor: same weights, batches and name.
        self.study.sampler = optuna.samplers.TPESampler(
            seed=seed_of(self.seed, "trial", index) % 2**32,
            n_startup_trials=self.settings.startup_trials,
        )
        with self.slots.beating(trial):
            try:
                self.slots.tell(trial, self._search(trial, index).value)
            except optuna.TrialPruned:
                self.slots.tell(trial, state=TrialState.PRUNED)
            except UpdateFinishedTrialError:
                pass  # we were held for dead, and another worker has taken it
            except (Exception, KeyboardInterrupt):
                self.slots.tell(trial, state=TrialState.FAIL)  # others need not wait for a sign of life
                raise

    def _search(self, trial: optuna.trial.Trial, index: int) -> SearchResult:
        drawn = {name: trial.suggest_float(name, *bounds, log=True) for name, bounds in self.space().items()}
        search, loss = with_parameters(drawn, self.search, self.loss)

        def on_epoch(epoch: int, value: float, likely: dict[str, float]) -> None:
            trial.report(value, epoch)
            if epoch + 1 < self.search.epochs and trial.should_prune():
                self._constrain(trial, likely)
                raise optuna.TrialPruned

        result = self.searcher.run(
            search, loss, self.directory, f"trials/{index:03d}", weights=self.weights, on_epoch=on_epoch,
            judge=self.judge, progress=False, key=f"trial-{index}",
        )  # fmt: skip
        self._constrain(trial, result.likely)
        trial.set_user_attr("choices", result.choices)
        trial.set_user_attr("costs", result.costs)
        trial.set_user_attr("likely", result.likely)
        trial.set_user_attr("gap", result.gap)
        trial.set_user_attr("accuracy_clean", result.accuracy_derived)
        return result

    def _constrain(self, trial: optuna.Trial, likely: Mapping[str, float]) -> None:
        for name, budget in self.searcher.budgets.items():
            trial.set_constraint(name, likely[name] / budget - 1)

    def rows(self) -> list[dict[str, Any]]:
        """One row per ended trial: its number, state, accuracy, parameters, constraints, and what it found."""
        return [self._row(slot, trial) for slot, trial in self.slots.ended().items()]

    def _row(self, slot: int, trial: FrozenTrial) -> dict[str, Any]:
        return {
            "trial": slot,
            "state": trial.state.name.lower(),
            "accuracy": trial.value if trial.state is TrialState.COMPLETE else None,
            "parameters": trial.params,
            "constraints": trial.constraints,
            "feasible": all(value <= 0 for value in trial.constraints.values()),
            "epochs": len(trial.intermediate_values),
            **{key: trial.user_attrs.get(key) for key in FOUND},
        }

    def retries(self) -> list[dict[str, Any]]:
        """The trials whose workers died or were stopped, and who ended them: ``{trial, died, worker, retried_by}``."""
        return [
            {"trial": slot, "died": dead.number, "worker": dead.user_attrs.get("worker"),
             "retried_by": holder.user_attrs.get("worker"), "retried_as": holder.number}
            for slot, holder in self.slots.ended().items()
            for dead in self.slots.deaths(slot)
        ]  # fmt: skip

    def savings(self) -> dict[str, Any]:
        """What pruning saved: ``{pruned, epochs, epochs_saved, steps_saved, share_saved}``, of the epochs of trials."""
        rows = self.rows()
        done, whole = sum(row["epochs"] for row in rows), len(rows) * self.settings.epochs
        return {
            "pruned": sum(row["state"] == "pruned" for row in rows), "epochs": done, "epochs_saved": whole - done,
            "steps_saved": (whole - done) * self.settings.steps, "share_saved": (whole - done) / whole,
        }  # fmt: skip

    def best(self) -> dict[str, Any]:
        """The row of the most accurate feasible trial; where none is feasible, of the one that violates least."""
        return ranked(self.rows())[0]


def ranked(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Complete trials, best first: the feasible ones by value, then the others by how little they violate."""
    complete = [dict(row) for row in rows if row["accuracy"] is not None]
    return sorted(
        complete,
        key=lambda row: (sum(max(0.0, v) for v in row["constraints"].values()), -row["accuracy"], row["trial"]),
    )
