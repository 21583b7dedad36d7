from pathlib import Path

import optuna
import pytest

from kdnas import config
from kdnas.errors import InputError
from kdnas.run.files import write_json
from kdnas.tune.space import RANGES, search_space, with_parameters
from kdnas.tune.storage import open_storage
from kdnas.tune.warm import warm_parameters

SPACE = {"kd": (0.1, 10.0), "penalty.macs": (0.01, 10.0)}


def row(accuracy: float | None, violation: float, **parameters: float) -> dict:
    return {"accuracy": accuracy, "constraints": {"macs": violation}, "parameters": parameters}


def test_the_best_feasible_trials_come_first_inside_the_bounds(tmp_path: Path) -> None:
    rows = [
        row(0.9, 0.3, kd=1.0), row(0.7, -0.1, kd=2.0), row(0.8, 0.0, kd=99.0, other=3.0), row(None, -0.5, kd=4.0),
        row(0.7, -0.1, kd=2.0),
    ]  # fmt: skip
    write_json(tmp_path / "stages/tune.json", {"trials": rows})
    assert warm_parameters(str(tmp_path), None, SPACE, 9) == [{"kd": 10.0}, {"kd": 2.0}, {"kd": 1.0}]
    assert warm_parameters(str(tmp_path), None, SPACE, 1) == [{"kd": 10.0}]


def test_a_study_in_the_storage_is_found_by_its_name(tmp_path: Path) -> None:
    storage = str(tmp_path / "shared.db")
    study = optuna.create_study(study_name="near", storage=open_storage(storage), direction="maximize")
    study.optimize(lambda trial: -trial.suggest_float("kd", 1, 2, log=True), n_trials=3)
    best = min(trial.params["kd"] for trial in study.trials)
    assert warm_parameters("near", storage, SPACE, 1) == [{"kd": best}]
    with pytest.raises(InputError, match="near"):
        warm_parameters("far", storage, SPACE, 1)
    study.ask()
    with pytest.raises(InputError, match="still runs"):
        warm_parameters("near", storage, SPACE, 1)


def test_what_cannot_warm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tune\.storage"):
        warm_parameters("far", None, SPACE, 1)
    with pytest.raises(InputError, match="no finished study"):
        warm_parameters(str(tmp_path), None, SPACE, 1)
    write_json(tmp_path / "stages/tune.json", {"trials": [row(0.5, 0.0, other=1.0)]})
    with pytest.raises(InputError, match="nothing in common"):
        warm_parameters(str(tmp_path), None, SPACE, 1)
    write_json(tmp_path / "stages/tune.json", {"trials": [row(None, 0.0, kd=1.0)]})
    with pytest.raises(InputError, match="no trial"):
        warm_parameters(str(tmp_path), None, SPACE, 1)


def test_every_parameter_reaches_the_settings() -> None:
    search, loss = config.Search(), config.Loss()  # type: ignore[call-arg]
    space = search_space(list(RANGES), ["macs", "params", "latency_s"], search, loss)
    assert set(space) == {*RANGES, "penalty.macs", "penalty.params"} - {"penalty"}  # latency has no weight
    drawn = {name: low + 0.001 * place for place, (name, (low, _)) in enumerate(space.items())}
    new_search, new_loss = with_parameters(drawn, search, loss)
    assert (new_loss.kd, new_loss.temperature) == (drawn["kd"], drawn["temperature"])
    assert new_search.learning_rate == drawn["learning_rate"]
    assert new_search.alpha_learning_rate == drawn["alpha_learning_rate"]
    assert new_search.penalty == {**search.penalty, "macs": drawn["penalty.macs"], "params": drawn["penalty.params"]}
    ablation = search_space(list(RANGES), ["macs"], search, loss.model_copy(update={"kd": 0.0}))
    assert "kd" not in ablation and "temperature" not in ablation
