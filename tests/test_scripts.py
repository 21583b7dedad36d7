"""The scripts: what they install and call, and when; with a stub interpreter that installs nothing."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

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
    assert calls[1].endswith("[dev,teachers]")
    assert calls[-1] == "python -m pytest -x"
    assert status == (0 if fail == "nothing fails" else 1)


@pytest.mark.parametrize("fail", ["-m pytest", "nothing fails"])
def test_ci_starts_from_nothing_and_leaves_nothing(checkout: Checkout, fail: str) -> None:
    checkout("scripts/test")  # an environment in the checkout is not taken
    status, calls = checkout(".ci/run", fail=fail)
    assert calls[0].startswith(f"python3 -m venv {checkout.temporary}/")
    assert calls[-1] == "python -m pytest"
    assert status == (0 if fail == "nothing fails" else 1)
    assert list(checkout.temporary.iterdir()) == []


def test_there_is_one_search_script_for_each_device_class(checkout: Checkout) -> None:
    devices = {path.stem for path in (ROOT / "kdnas/device/classes").glob("*.toml")}
    scripts = {path.name.removeprefix("search_") for path in (ROOT / "scripts").glob("search_*")}
    assert scripts == devices
    for device in devices:
        calls = checkout(f"scripts/search_{device}", "--seed", "1")[1]
        assert calls[-1] == f"kdnas run --device {device} --seed 1"


def test_scripts_can_be_executed() -> None:
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.suffix == ""] + [ROOT / ".ci/run"]
    assert len(scripts) >= 8
    assert all(path.stat().st_mode & stat.S_IXUSR for path in scripts if path.is_file())
