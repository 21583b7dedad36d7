"""A study that begins with what a nearby class's study found best."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from kdnas.config import without_password
from kdnas.errors import InputError
from kdnas.run.files import read_json
from kdnas.tune.storage import open_storage


def warm_parameters(
    source: str, storage: str | None, space: Mapping[str, tuple[float, float]], count: int
) -> list[dict[str, float]]:
    """The parameters of the best trials of another study, inside this one's bounds.

    Args:
        source: A run directory whose study is finished, or the name of a study in ``storage``.
        storage: ``tune.storage``.
        space: Bounds by parameter; what the other study has beside them is left out, what it lacks is drawn.
        count: At most so many.

    Returns:
        Best first: the feasible ones by value, then the others by how little they violate.

    Raises:
        InputError: There is no such study, it still runs (another worker, or a resumed one, would then begin with other
            trials), no trial of it ended, or it has no parameter in common with this one.
    """
    trials = _of_run(Path(source)) if Path(source).is_dir() else _of_study(source, storage)
    trials = [trial for trial in trials if trial["accuracy"] is not None]
    if not trials:
        raise InputError(f"tune.warm_start = {source!r}: no trial of it is complete, so there is nothing to begin with")
    found: list[dict[str, float]] = []
    for trial in sorted(trials, key=lambda t: (sum(max(0.0, v) for v in t["constraints"].values()), -t["accuracy"])):
        inside = {
            name: min(max(trial["parameters"][name], low), high)
            for name, (low, high) in space.items()
            if name in trial["parameters"]
        }
        if not inside:
            raise InputError(
                f"tune.warm_start = {source!r} sets {', '.join(trial['parameters']) or 'nothing'}; this study sets "
                f"{', '.join(space)}: they have nothing in common"
            )
        if inside not in found:
            found.append(inside)
    return found[:count]


def _of_run(path: Path) -> list[dict[str, Any]]:
    report = path / "stages" / "tune.json"
    if not report.exists():
        raise InputError(f"tune.warm_start = {str(path)!r}: that run has no finished study")
    return list(read_json(report)["trials"])


def _of_study(name: str, storage: str | None) -> list[dict[str, Any]]:
    if storage is None:
        raise InputError(f"tune.warm_start = {name!r} is no run directory; a study's name needs tune.storage")
    opened = open_storage(storage)
    try:
        study = optuna.load_study(study_name=name, storage=opened)
    except KeyError:
        there = ", ".join(sorted(optuna.get_all_study_names(opened))) or "none"
        raise InputError(
            f"tune.warm_start = {name!r}: no run directory, and no study in {without_password(storage)} ({there})"
        ) from None
    if study.get_trials(deepcopy=False, states=[TrialState.RUNNING, TrialState.WAITING]):
        raise InputError(f"tune.warm_start = {name!r}: that study still runs, or was stopped: let it end first")
    return [
        {"accuracy": trial.value, "parameters": trial.params, "constraints": trial.constraints}
        for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    ]
