"""One Optuna study per device class: λ_kd and the λ_c, each trial a short search from one warmed-up supernet."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from torch import Tensor

from kdnas import config
from kdnas.run.seeds import seed_of
from kdnas.search.engine import Searcher, SearchResult

KD_RANGE = (0.1, 10.0)
PENALTY_RANGE = (0.01, 10.0)
PENALISED = ("params", "macs", "sram_bytes")


class Study:
    """Finds penalty weights with which the search itself lands inside the budgets, and is accurate there.

    The value of a trial is the accuracy, on the architecture split, of its derived network with inherited weights. Its
    constraints are cost / budget - 1 of the *likeliest* architecture, before the budgets are enforced: a trial is
    feasible where the penalty alone kept the search inside. Unpromising trials are pruned after each epoch.

    Args:
        searcher: Of the device class.
        weights: The warmed-up supernet that every trial branches from.
        search: Settings of the search; the study's own epochs and steps replace its.
        loss: Its ``kd`` is replaced by each trial's.
        settings: Of the study.
        directory: The run directory; the study is kept in ``study.db``, so that a stopped one goes on.
        seed: Trial n is a function of (seed, n) and of the trials before it, whether the study was stopped or not.
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
    ) -> None:
        self.searcher, self.weights, self.loss, self.settings = searcher, weights, loss, settings
        self.search = search.model_copy(update={"warmup_epochs": 0, "epochs": settings.epochs, "steps": settings.steps})
        self.directory, self.seed = directory, seed
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.study = optuna.create_study(
                study_name="kdnas", storage=f"sqlite:///{directory / 'study.db'}", direction="maximize",
                load_if_exists=True, pruner=optuna.pruners.MedianPruner(settings.startup_trials, n_warmup_steps=1),
            )  # fmt: skip

    def run(self, on_trial: Callable[[dict[str, Any]], None] = lambda row: None) -> list[dict[str, Any]]:
        """Run trials until the study has as many as set; returns one row per trial.

        Args:
            on_trial: Called with the row of every trial that ends.
        """
        for dead in self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            self.study.tell(dead.number, state=optuna.trial.TrialState.FAIL)  # of a process that died
        while len(self.rows()) < self.settings.trials:
            # A trial that died is not counted, so its successor repeats it to the bit: same weights, batches and name.
            index = len(self.rows())
            self.study.sampler = optuna.samplers.TPESampler(
                seed=seed_of(self.seed, "trial", index) % 2**32,
                n_startup_trials=self.settings.startup_trials,
            )
            trial = self.study.ask()
            (self.directory / "checkpoints" / "trials" / f"{index:03d}.ckpt").unlink(missing_ok=True)
            try:
                self.study.tell(trial, self._search(trial, index).accuracy_derived)
            except optuna.TrialPruned:
                self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            on_trial(self.rows()[-1])
        return self.rows()

    def _search(self, trial: optuna.trial.Trial, index: int) -> SearchResult:
        # What the user set to 0 is an ablation: it stays 0.
        kd = trial.suggest_float("kd", *KD_RANGE, log=True) if self.loss.kd > 0 else 0.0
        weights = dict(self.search.penalty)
        for name in PENALISED:
            if name in self.searcher.budgets and weights.get(name, 0) > 0:
                weights[name] = trial.suggest_float(f"penalty.{name}", *PENALTY_RANGE, log=True)

        def on_epoch(epoch: int, accuracy: float, likely: dict[str, float]) -> None:
            trial.report(accuracy, epoch)
            if epoch + 1 < self.search.epochs and trial.should_prune():
                self._constrain(trial, likely)
                raise optuna.TrialPruned

        result = self.searcher.run(
            self.search.model_copy(update={"penalty": weights}), self.loss.model_copy(update={"kd": kd}),
            self.directory, f"trials/{index:03d}", weights=self.weights, on_epoch=on_epoch, progress=False,
            key=f"trial-{index}",
        )  # fmt: skip
        self._constrain(trial, result.likely)
        trial.set_user_attr("choices", result.choices)
        trial.set_user_attr("costs", result.costs)
        trial.set_user_attr("likely", result.likely)
        trial.set_user_attr("gap", result.gap)
        return result

    def _constrain(self, trial: optuna.Trial, likely: Mapping[str, float]) -> None:
        for name, budget in self.searcher.budgets.items():
            trial.set_constraint(name, likely[name] / budget - 1)

    def rows(self) -> list[dict[str, Any]]:
        """One row per ended trial: its number, state, accuracy, parameters, constraints, and what it found."""
        ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        return [
            {
                "trial": index,
                "state": t.state.name.lower(),
                "accuracy": t.value if t.state is ended[0] else None,
                "parameters": t.params,
                "constraints": t.constraints,
                "feasible": all(value <= 0 for value in t.constraints.values()),
                "epochs": len(t.intermediate_values),
                **{key: t.user_attrs.get(key) for key in ("choices", "costs", "likely", "gap")},
            }
            for index, t in enumerate(self.study.get_trials(deepcopy=False, states=ended))
        ]

    def best(self) -> dict[str, Any]:
        """The row of the most accurate feasible trial; where none is feasible, of the one that violates least."""
        complete = [row for row in self.rows() if row["accuracy"] is not None]
        return min(
            complete,
            key=lambda row: (
                sum(max(0.0, v) for v in row["constraints"].values()),
                -row["accuracy"],
                row["trial"],
            ),
        )
