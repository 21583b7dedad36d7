import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import optuna
import pytest
from optuna.trial import TrialState
from postgres import PASSWORD

from kdnas.tune.storage import open_storage

SMOKE = ["--preset", "smoke", "--set", "threads=1", "--set", "tune.check=0", "--set", "tune.trials=6"]


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kdnas.cli", "tune", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ.copy())


def helpers_of(run: Path) -> list[int]:
    """Process ids of the workers that help with ``run``."""
    found = subprocess.run(["pgrep", "-f", f"kdnas.pipeline.workers {run}"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.slow
def test_workers_stopped_by_ctrl_c_all_end_and_can_be_resumed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(*SMOKE, "--workers", "3", "--out", str(run))
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("trial "):
            break
    assert len(helpers_of(run)) == 2
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130 and f"--resume {run}" in rest and "Traceback" not in rest
    assert helpers_of(run) == []
    again = start("--resume", str(run))
    assert "Traceback" not in again.communicate(timeout=300)[1] and again.returncode == 0
    report = json.loads((run / "stages/tune.json").read_text())
    assert [row["trial"] for row in report["trials"]] == list(range(6))


@pytest.mark.slow
def test_a_killed_helper_is_told_and_its_trial_retried_and_none_outlives_the_first(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(*SMOKE, "--workers", "2", "--out", str(run), "--set", "tune.heartbeat=0.5")
    while not (helper := helpers_of(run)):
        time.sleep(0.1)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if f":{helper[0]}" in line:  # it has ended a trial and is in the next one
            os.kill(helper[0], signal.SIGKILL)
    assert process.wait(300) == 0
    report = json.loads((run / "stages/tune.json").read_text())
    assert [row["trial"] for row in report["trials"]] == list(range(6))
    dead = [retry for retry in report["study"]["retries"] if retry["worker"].endswith(f":{helper[0]}")]
    assert all(retry["retried_by"].endswith(f":{process.pid}") for retry in dead)
    assert not dead or any(f"worker {helper[0]} ended with -9" in line for line in lines)


@pytest.mark.slow
def test_two_runs_share_a_study_in_one_storage(tmp_path: Path) -> None:
    """As on two machines: each has its own run directory, and both end with the same best weights."""
    storage = ["--storage", str(tmp_path / "shared.db")]
    both = [start(*SMOKE, *storage, "--out", str(tmp_path / name)) for name in "ab"]
    for process in both:
        assert "Traceback" not in process.communicate(timeout=300)[1] and process.returncode == 0
    first, second = (json.loads((tmp_path / name / "stages/tune.json").read_text()) for name in "ab")
    assert first["best"] == second["best"] and first["trials"] == second["trials"]
    assert first["study"]["name"] == second["study"]["name"]


@pytest.mark.slow
def test_two_machines_with_two_workers_each_share_a_study_in_postgresql_and_one_worker_is_killed(
    postgresql: str, tmp_path: Path
) -> None:
    runs = [tmp_path / name for name in ("first", "second")]
    given = [*SMOKE, "--workers", "2", "--storage", postgresql, "--set", "tune.heartbeat=0.5"]
    both = [start(*given, "--set", "tune.trials=12", "--out", str(run)) for run in runs]
    while not (helper := helpers_of(runs[0])):
        time.sleep(0.1)
    opened = open_storage(postgresql)
    victim: optuna.trial.FrozenTrial | None = None
    while victim is None and any(process.poll() is None for process in both):
        time.sleep(0.2)
        os.kill(helper[0], signal.SIGSTOP)  # so that what it does now is what it dies of
        for name in optuna.get_all_study_names(opened):
            study = optuna.load_study(study_name=name, storage=opened)
            for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
                if trial.intermediate_values and trial.user_attrs["worker"].endswith(f":{helper[0]}"):
                    victim = trial
        os.kill(helper[0], signal.SIGCONT if victim is None else signal.SIGKILL)
    for process in both:
        assert "Traceback" not in process.communicate(timeout=600)[1] and process.returncode == 0
    assert victim is not None
    reports = [json.loads((run / "stages/tune.json").read_text()) for run in runs]
    assert reports[0]["trials"] == reports[1]["trials"]
    assert [row["trial"] for row in reports[0]["trials"]] == list(range(12))
    retry = next(retry for retry in reports[0]["study"]["retries"] if retry["died"] == victim.number)
    assert retry["worker"] == victim.user_attrs["worker"] != retry["retried_by"]
    row = reports[0]["trials"][victim.user_attrs["slot"]]
    assert row["parameters"] == victim.params
    for run in runs:
        assert all(PASSWORD not in unquote(path.read_text()) for path in run.rglob("*.json"))
        assert len(list((run / "tensorboard/trials").iterdir())) == 12  # all trials, of whichever machine
