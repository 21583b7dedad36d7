"""The scripts: what they install and call, and when; with a stub interpreter that installs nothing."""

import argparse
import importlib
import importlib.util
import json
import os
import runpy
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from kdnas.cost import CostTables, costs_of
from kdnas.device import load_device
from kdnas.device.files import ALIASES
from kdnas.errors import InputError
from kdnas.space import make_space

ROOT = Path(__file__).resolve().parents[1]

# An interpreter that makes "environments" of itself, and writes down what it and its tools are called with.
STUB = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> "$LOG"
case "$*" in
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  *"pip install"*) cp "$0" "$(dirname "$0")/kdnas" ;;
  *"pip --version"*) [ "$(basename "$(dirname "$0")")" = bin ] ;;
  *"$FAIL"*) exit 3 ;;
esac
"""


class Checkout:
    """A copy of the scripts with the stub interpreter."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "check out"  # with a space, as people have
        for name in ("scripts", ".ci"):
            shutil.copytree(ROOT / name, self.root / name)
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root / name)
        self.log = directory / "log"
        self.temporary = directory / "tmp"
        self.elsewhere = directory / "elsewhere"
        for made in (self.temporary, self.elsewhere, directory / "stub"):
            made.mkdir()
        self.stub = directory / "stub/python3"
        self.stub.write_text(STUB)
        self.stub.chmod(0o755)
        no_apt = directory / "stub/apt-get"  # where PostgreSQL is not installed, nor can be
        no_apt.write_text("#!/bin/sh\necho no network >&2\nexit 100\n")
        no_apt.chmod(0o755)

    def __call__(self, script: str, *arguments: str, fail: str = "nothing fails") -> tuple[int, list[str]]:
        """Runs a script from another directory: its exit status, and the calls that it made."""
        self.log.write_text("")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("KDNAS", "PYTHON"))}
        clean |= {"PATH": f"{self.stub.parent}:{clean['PATH']}", "TMPDIR": str(self.temporary)}
        clean |= {"LOG": str(self.log), "FAIL": fail}
        command = [str(self.root / script), *arguments]
        done = subprocess.run(command, cwd=self.elsewhere, env=clean, capture_output=True, timeout=60)
        calls = [call.rstrip() for call in self.log.read_text().splitlines()]
        return done.returncode, [c for c in calls if "pip --version" not in c and "sys.version_info" not in c]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_run_sets_up_once_and_runs_the_main_job(checkout: Checkout) -> None:
    status, calls = checkout("scripts/run", "--seed", "3")
    job = "kdnas run --device wearable --preset quick --seed 3"
    root = checkout.root
    assert status == 0
    assert calls[0] == f"python3 -m venv {root}/.venv"
    assert calls[1].startswith("python -m pip install")
    assert calls[1].endswith(f"-c {root}/constraints.txt -e {root}")
    assert calls[2:] == [job]
    assert checkout("scripts/run", "--seed", "3") == (0, [job])


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_setup_installs_again_when_its_inputs_change(checkout: Checkout, name: str) -> None:
    checkout("scripts/setup")
    with (checkout.root / name).open("a") as file:
        file.write("# changed\n")
    calls = checkout("scripts/setup")[1]
    assert len(calls) == 1 and "pip install" in calls[0]
    assert checkout("scripts/setup") == (0, [])


def test_setup_installs_extras_once_and_keeps_the_core(checkout: Checkout) -> None:
    checkout("scripts/setup")
    calls = checkout("scripts/setup", "dev,teachers")[1]
    assert len(calls) == 1 and calls[0].endswith(f"-e {checkout.root}[dev,teachers]")
    assert checkout("scripts/setup", "dev,teachers") == (0, [])
    assert checkout("scripts/setup") == (0, [])
    assert len(checkout("scripts/setup", "export")[1]) == 1


def test_setup_tries_again_after_a_failed_installation(checkout: Checkout) -> None:
    checkout.stub.write_text(STUB.replace('cp "$0" "$(dirname "$0")/kdnas"', "exit 1"))
    assert checkout("scripts/run")[0] != 0
    (checkout.root / ".venv/bin/python").write_text(STUB)
    status, calls = checkout("scripts/run")
    assert status == 0
    assert "pip install" in calls[0] and calls[1].startswith("kdnas run")


def test_setup_refuses_an_old_python(checkout: Checkout) -> None:
    status, calls = checkout("scripts/setup", fail="sys.version_info")
    assert (status, calls) == (2, [])


@pytest.mark.parametrize("fail", ["-m ruff", "-m mypy", "-m pytest", "nothing fails"])
def test_test_shows_lint_types_and_tests_and_fails_with_any(checkout: Checkout, fail: str) -> None:
    status, calls = checkout("scripts/test", "-x", fail=fail)
    assert [call.split()[2] for call in calls[2:]] == ["ruff", "mypy", "pytest"]
    assert calls[1].endswith("[dev,teachers,baselines]")
    assert calls[-1] == "python -m pytest -n 2 --dist loadfile -x"
    assert status == (0 if fail == "nothing fails" else 1)


@pytest.mark.parametrize("fail", ["-m pytest", "nothing fails"])
def test_ci_starts_from_nothing_and_leaves_nothing(checkout: Checkout, fail: str) -> None:
    checkout("scripts/test")  # an environment in the checkout is not taken
    status, calls = checkout(".ci/run", fail=fail)
    assert calls[0].startswith(f"python3 -m venv {checkout.temporary}/")
    assert calls[-1] == "python -m pytest -n 2 --dist loadfile"
    assert status == (0 if fail == "nothing fails" else 1)
    assert list(checkout.temporary.iterdir()) == []


def test_there_is_one_search_script_for_each_device_class(checkout: Checkout) -> None:
    devices = {path.stem for path in (ROOT / "kdnas/device/classes").glob("*.toml")}
    scripts = {path.name.removeprefix("search_") for path in (ROOT / "scripts").glob("search_*")}
    assert scripts == devices | set(ALIASES)
    for device in devices:
        calls = checkout(f"scripts/search_{device}", "--seed", "1")[1]
        assert calls[-1] == f"kdnas run --device {device} --seed 1"


def test_scripts_can_be_executed() -> None:
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.suffix == ""] + [ROOT / ".ci/run"]
    assert len(scripts) >= 8
    assert all(path.stat().st_mode & stat.S_IXUSR for path in scripts if path.is_file())


PROGRAMS = sorted({path.name for path in (ROOT / "scripts").glob("*.py")} - {"publishing.py"})


@pytest.mark.parametrize("script", PROGRAMS)
def test_a_python_script_finds_all_that_it_needs(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.syspath_prepend(ROOT / "scripts")
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage:")


def test_a_published_command_has_every_option_and_no_place_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    publishing = importlib.import_module("publishing")
    parser = argparse.ArgumentParser()
    parser.add_argument("table")
    parser.add_argument("--dataset", nargs="+")
    parser.add_argument("--data-seed", type=int)
    parser.add_argument("--snrs", nargs="+", type=float)
    publishing.add_run_options(parser)
    given = parser.parse_args(
        ["snrs", "--dataset", "fashion-mini", "folder:/home/me/cifar", "--snrs", "-10", "2.5", "--set", "data.limit=9"]
    )
    assert publishing.command("make.py", given, "dataset", "data_seed", "snrs") == (
        "python scripts/make.py snrs --dataset fashion-mini folder:cifar --snrs -10 2.5 --preset quick --threads 1 "
        "--set data.limit=9"
    )


@pytest.mark.parametrize(("error", "code", "line"), [
    (InputError("no such thing"), 2, "make.py: no such thing\n"),
    (KeyboardInterrupt(), 130, "\nmake.py: stopped; the same command goes on from what is finished\n"),
])  # fmt: skip
def test_a_script_ends_as_the_command_line_does(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setattr(sys, "argv", ["scripts/make.py"])

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        importlib.import_module("publishing").run_script(main)
    assert ended.value.code == code and capsys.readouterr().err == line


def test_no_architecture_costs_more_than_the_largest_of_its_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    most = importlib.import_module("publish_search").most
    space, draw = make_space("mobile"), torch.Generator().manual_seed(0)
    tables = CostTables(space.units(), space.domains(), costs_of(load_device("mcu")))
    found = [tables.exact(space.random(draw)) for _ in range(50)]
    for name in found[0]:
        largest = most(SimpleNamespace(tables=tables), name)
        assert 0.5 * largest < max(costs[name] for costs in found) <= largest


def test_the_results_in_the_readme_are_the_published_ones() -> None:
    command = [sys.executable, str(ROOT / "scripts/readme_results.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


class Readme:
    """A README of nothing but markers, and the script that fills it in."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = importlib.util.spec_from_file_location("readme_results", ROOT / "scripts/readme_results.py")
        assert spec is not None and spec.loader is not None
        self.script: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.script)
        monkeypatch.setattr(self.script, "ROOT", directory)
        self.monkeypatch, self.path = monkeypatch, directory / "README.md"
        self.tables = directory / "runs/published"
        self.tables.mkdir(parents=True)
        parts = [f"{self.script.BEGIN.format(name)}\n{self.script.END}" for name in self.script.SECTIONS]
        self.path.write_text("\n\n".join(["# before", *parts[1:], "after"]) + "\n")
        (directory / "docs").mkdir()
        (directory / "docs/results.md").write_text(parts[0] + "\n")

    def publish(self, name: str, rows: list[dict[str, Any]]) -> None:
        (self.tables / name).write_text(json.dumps({"command": "make it", "rows": rows}))

    def __call__(self, *arguments: str) -> None:
        self.monkeypatch.setattr(sys, "argv", ["readme_results.py", *arguments])
        self.script.main()

    def section(self, name: str) -> list[str]:
        """The lines of the table between a file's markers."""
        part = self.path.read_text().partition(self.script.BEGIN.format(name))[2].partition(self.script.END)[0]
        return [line for line in part.splitlines() if line.startswith("|")]


@pytest.fixture
def readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Readme:
    return Readme(tmp_path, monkeypatch)


def test_readme_without_tables_stays_as_it_is_and_check_tells_when_one_is_new(readme: Readme) -> None:
    before = readme.path.read_text()
    readme()
    assert readme.path.read_text() == before
    row = {"device": "mcu", "seed": 0, "cost": "macs", "value": 95.0, "budget": 100.0, "largest_fits": False}
    readme.publish("budgets.json", [row])
    with pytest.raises(SystemExit) as caught:
        readme("--check")
    assert "not those of runs/published" in str(caught.value)
    assert readme.path.read_text() == before
    readme()
    with pytest.raises(SystemExit) as caught:
        readme("--check")
    assert caught.value.code == 0
    text = readme.path.read_text()
    assert text.startswith("# before\n") and text.endswith("after\n") and "Made by `make it`." in text
    (readme.tables / "budgets.json").unlink()
    readme()
    assert readme.path.read_text() == before  # no number outlives its table


def test_readme_without_markers_is_refused(readme: Readme) -> None:
    text = readme.path.read_text().replace(readme.script.BEGIN.format("collapse.json"), "")
    readme.path.write_text(text)
    with pytest.raises(SystemExit, match=r"collapse\.json"):
        readme()
    assert readme.path.read_text() == text


def test_readme_speed(readme: Readme) -> None:
    row = {"space": "cell", "step_s": 0.1, "peak_bytes": 150_400_000, "ratio_to_largest": None, "relaxation": None}
    ours = {"system": "kdnas", "relaxation": "gumbel", "step_s": 0.18044, "ratio_to_largest": 1.8}
    readme.publish("search_speed.json", [{**row, "system": "largest"}, {**row, **ours}])
    readme()
    assert readme.section("search_speed.json") == [
        "| space | system | ms per step | times the largest | peak memory (MB) |",
        "|---|---|---|---|---|",
        "| `cell` | largest network, trained | 100.0 |  | 150 |",
        "| `cell` | kdnas, gumbel | 180.4 | 1.80 | 150 |",
    ]


def test_readme_budgets_shows_what_binds_in_each_seed(readme: Readme) -> None:
    uses = {0: {"params": 0.5, "macs": 0.96}, 1: {"params": 0.98, "macs": 0.9}, 2: {"params": 0.2, "macs": 1.03}}
    rows = [
        {"device": "mcu", "seed": seed, "cost": cost, "value": 400 * use, "budget": 400, "largest_fits": False}
        for seed, own in uses.items()
        for cost, use in own.items()
    ]
    readme.publish("budgets.json", rows)
    readme()
    assert readme.section("budgets.json")[2:] == ["| `mcu` | MACs, parameters | 99.0 | 96.0–103.0 | 2 of 3 | no |"]


def test_readme_collapse(readme: Readme) -> None:
    row = {"space": "cell", "device": "wearable", "protection": "none"}
    numbers = [(0.30, 0.40, 0.41, 3), (0.34, 0.44, 0.43, 5)]  # standard deviations: 2.8, 2.8, 1.4, 1.4
    keys = ("gap", "accuracy_derived", "accuracy_unlabelled", "skips")
    rows = [{**row, "seed": seed, **dict(zip(keys, own, strict=True))} for seed, own in enumerate(numbers)]
    readme.publish("collapse.json", [*rows, {**rows[0], "protection": "warm-up", "gap": -0.01}])
    readme()
    assert readme.section("collapse.json")[2:] == [
        "| `cell` | none | 32.0 ± 2.8 | 42.0 ± 2.8 | 42.0 ± 1.4 | 4.0 ± 1.4 |",
        "| `cell` | warm-up | -1.0 | 40.0 | 41.0 | 3.0 |",
    ]


def test_readme_search_baselines(readme: Readme) -> None:
    rows = [
        {"device": "mcu", "system": "random", "seed": seed, "accuracy": accuracy, "params": params, "macs": macs,
         "in_budget": seed == 0}
        for seed, accuracy, params, macs in ((0, 0.80, 1000, 1_000_000), (1, 0.82, 1200, 1_200_000))
    ]  # fmt: skip
    readme.publish("search_baselines.json", rows)
    readme()
    assert readme.section("search_baselines.json")[2:] == [
        "| `mcu` | best of random | 81.0 ± 1.4 | 1100 ± 141 | 1.10 ± 0.14 | 1 of 2 |"
    ]


def test_readme_nas_bench_keeps_the_bars_of_a_string_inside_its_cell(readme: Readme) -> None:
    arch = "|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|"
    rows = [
        {"system": system, "seed": seed, "arch": arch, "skips": 1, "gap": 0.0123}
        for seed in (0, 1)
        for system in ("darts", "kdnas")
    ]
    readme.publish("nas_bench_201.json", rows)
    readme()
    lines = readme.section("nas_bench_201.json")[2:]
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| DARTS", "0"], ["| DARTS", "1"], ["| kdnas", "0"], ["| kdnas", "1"],
    ]  # fmt: skip
    assert lines[0].replace("\\|", "/").count("|") == 6
    assert lines[0].endswith(" | 1 | 1.2 |")
    assert lines[0].replace("\\|", "|").split("`")[1] == arch


def test_readme_link_speed(readme: Readme) -> None:
    row = {"device": "mcu", "part": "encoder", "runtime": "torch", "dtype": "fp32", "batch": 1, "share": None}
    rows = [
        {**row, "images_per_s": 1284.4}, {**row, "batch": 256, "images_per_s": 5945.0},
        {**row, "runtime": "onnxruntime", "images_per_s": 19585.2},
        {**row, "part": "transmitter", "runtime": "onnxruntime", "dtype": "int8", "batch": 256, "images_per_s": 962.0},
        {**row, "part": "training step", "batch": 128, "images_per_s": 77.0, "channels": "awgn+rayleigh"},
        {**row, "part": "channel in training", "batch": 128, "images_per_s": 8e3, "share": 0.0094, "channels": "a+b"},
        {**row, "part": "channel in training", "batch": 128, "images_per_s": 9e3, "share": 0.012, "channels": "c+d"},
    ]  # fmt: skip
    readme.publish("link_speed.json", rows)
    readme()
    assert readme.section("link_speed.json") == [
        "| device class | part | batch 1: torch | batch 1: ONNX | batch 1: ONNX int8 | batch 256: torch "
        "| batch 256: ONNX | batch 256: ONNX int8 |",
        "|---|---|---|---|---|---|---|---|",
        "| `mcu` | encoder | 1,284 | 19,585 |  | 5,945 |  |  |",
        "| `mcu` | transmitter |  |  |  |  |  | 962 |",
    ]
    assert "takes 0.9–1.2 % with 2 channels of a training step" in readme.path.read_text()


def test_readme_int8(readme: Readme) -> None:
    row = {
        "device": "mcu", "channel": "awgn", "symbols": 64, "bytes_fp32": 134_412, "bytes_int8": 103_027,
        "operations_int8": 57, "operations_float": 49, "binding_use": 0.96, "flash_bytes": 43_180,
        "flash_bytes_file": 42_938,
    }  # fmt: skip
    rows = [
        {**row, "seed": seed, "snr_db": snr_db, "accuracy_fp32": 0.82, "accuracy_int8": 0.82 + change,
         "difference": change}
        for seed, snr_db, change in ((0, 10, -0.002), (0, 0, -0.004), (1, 10, 0.0), (1, 0, -0.002))
    ]  # fmt: skip
    readme.publish("int8.json", rows)
    readme()
    assert readme.section("int8.json")[2:] == [
        "| `mcu` | 82.0 ± 0.0 | 81.9 ± 0.1 | -0.20 ± 0.14 | -0.30 | 96.0–96.0 | 43.2 | 42.9 | 57 of 106 |"
    ]


def test_what_is_kept_of_the_teacher_is_told_at_10_db_and_full_length(readme: Readme) -> None:
    same = {
        "dataset": "fashion-mini", "device": "phone", "system": "kdnas", "channel": "awgn", "symbols": 64,
        "transmitter_params": 200, "teacher_params": 10_000, "teacher_accuracy": 0.8,
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    for seed, accuracy in enumerate((0.72, 0.76)):
        rows += [
            {**same, "system": "teacher", "channel": None, "snr_db": None, "symbols": None, "seed": seed,
             "accuracy": 0.8, "transmitter_params": None},
            {**same, "seed": seed, "snr_db": 10.0, "accuracy": accuracy},
            {**same, "seed": seed, "snr_db": 10.0, "accuracy": 0.1, "symbols": 8},
            {**same, "seed": seed, "snr_db": 0.0, "accuracy": 0.1},
            {**same, "seed": seed, "snr_db": 10.0, "accuracy": 0.1, "channel": "rayleigh"},
        ]  # fmt: skip
    readme.publish("kept.json", rows)
    readme()
    assert readme.section("kept.json")[2:] == [
        "| `fashion-mini` | `phone` | 2 | 200 | 2.00 | 64 | 74.0 ± 2.8 | 80.0 ± 0.0 | 92.5 ± 3.5 |"
    ]


def test_the_envelope_is_told_at_the_symbols_that_ours_sends(readme: Readme) -> None:
    shared = {"dataset": "fashion-mini", "device": "wearable", "teacher_params": 9, "teacher_accuracy": 0.9}
    sent = {**shared, "channel": "awgn", "snr_db": 0.0, "symbols": 64, "transmitter_params": 46_000}
    rows = [
        {**shared, "system": "teacher", "seed": 0, "accuracy": 0.9, "channel": None, "snr_db": None, "symbols": None},
        *({**sent, "system": "kdnas", "seed": seed, "accuracy": 0.8 + 0.02 * seed} for seed in (0, 1)),
        {**sent, "system": "capacity", "seed": 0, "accuracy": 0.5, "transmitter_params": 0},
        {**sent, "system": "capacity", "seed": 0, "accuracy": 0.7, "transmitter_params": 0, "symbols": 128},
    ]
    readme.publish("envelope.json", rows)
    readme()
    assert readme.section("envelope.json")[2:] == [
        "| `fashion-mini` | awgn | kdnas | 46,000 | 2 | 81.0 ± 1.4 |",
        "| `fashion-mini` | awgn | capacity | 0 | 1 | 50.0 |",
    ]


def test_readme_tuning_pairs_seeds(readme: Readme) -> None:
    rows = [
        {"device": "mcu", "seed": seed, "system": system, "accuracy": accuracy, "binding_use": 0.95}
        for seed, pair in enumerate([(0.82, 0.80), (0.84, 0.83)])
        for system, accuracy in zip(("study", "default"), pair, strict=True)
    ]
    readme.publish("tuning.json", [*rows, {**rows[0], "seed": 7, "accuracy": 0.1}])
    readme()
    assert readme.section("tuning.json")[2:] == ["| `mcu` | 83.0 ± 1.4 | 81.5 ± 2.1 | 1.5 ± 0.7 | 95 ± 0 | 95 ± 0 |"]


def test_readme_proxies_rank_within_a_seed(readme: Readme) -> None:
    rows = [
        {"device": "mcu", "seed": seed, "architecture": index, "proxy": "noise", "judged": "all", "proxy_s": 0.25,
         "value": 0.1 * index, "trained": 0.8 - 0.1 * seed + (0.01, 0.03, 0.02)[index]}
        for seed in range(2) for index in range(3)
    ]  # fmt: skip
    readme.publish("proxies.json", rows)
    readme()
    lines = readme.section("proxies.json")[2:]
    assert lines == ["| bare features through the channel | all images, by the teacher | 0.50 | 0.2 |"]


def test_readme_workers_tells_of_the_kill(readme: Readme) -> None:
    kill = {
        "killed": {"trial": 2, "number": 2, "worker": 77}, "same_trials": True, "trials": [0, 1, 2],
        "retries": [{"died": 2, "retried_by": "host:78"}],
    }  # fmt: skip
    row = {"device": "mcu", "cores": 2, "trials": 3}
    readme.publish("workers.json", [
        {**row, "workers": 1, "trials_per_hour": 100.0, "efficiency": 1.0},
        {**row, "workers": 2, "trials_per_hour": 150.0, "efficiency": 0.75, "kill_test": kill},
    ])  # fmt: skip
    readme()
    assert readme.section("workers.json")[2:] == ["| 1 | 3 | 100 | 100 |", "| 2 | 3 | 150 | 75 |"]
    text = " ".join((readme.path.parent / "README.md").read_text().split())
    assert "trial 3 was retried by host:78; all 3 trials ended once, the same as without the kill" in text


def test_results_latency(readme: Readme) -> None:
    row = {"space": "mobile", "dtype": "fp32"}
    times = [(10e-6, 10e-6), (22e-6, 20e-6), (27e-6, 30e-6)]
    readme.publish("latency.json", [{**row, "predicted_s": p, "measured_s": m} for p, m in times])
    readme()
    assert readme.section("latency.json")[2:] == ["| `mobile` | fp32 | 3 | 10 to 30 | 10.0 | 10.0 | 1.000 |"]


def test_commands_one_after_another_make_a_table_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    publish = importlib.import_module("publishing").publish
    path = tmp_path / "table.json"
    a, b = [{"dataset": "a", "seed": s} for s in (0, 1)], [{"dataset": "b", "seed": 0, "extra": 1}]
    for again, rows in (("make a", a[:1]), ("make b", b), ("make a", a), ("make b", b)):
        publish(path, again, rows, ["dataset", "teacher"])
    assert json.loads(path.read_text()) == {"command": "make a && make b", "rows": [*a, *b]}
    publish(path, "make both", [*a, *b], ["dataset"])
    assert json.loads(path.read_text())["command"] == "make both"
