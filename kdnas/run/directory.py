"""A run directory: complete, self-explaining, and the place from which a stopped run goes on."""

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kdnas.errors import InputError
from kdnas.run import ranks
from kdnas.run.files import read_json, write_json

PACKAGES = ("kdnas", "torch", "nni", "pytorch-lightning", "optuna", "numpy")


class RunDirectory:
    """Settings, reports of finished stages, and everything that the stages leave.

    ``run.json`` holds the resolved settings, versions, git revision and platform; ``stages/NAME.json`` the report of
    each finished stage, written last, so that a stage without one is done again (from its own checkpoint).

    Attributes:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, settings: dict[str, Any], more: dict[str, Any] | None = None) -> "RunDirectory":
        """A new run directory.

        Args:
            path: Where.
            settings: Resolved.
            more: What else ``run.json`` shall hold.

        Raises:
            InputError: There is a run already, or the directory cannot be written.
        """
        if (path / "run.json").exists():
            raise InputError(f"{path} holds a run already: go on with --resume {path}, or choose another --out")
        write_json(
            path / "run.json",
            {"schema": 1, "settings": settings, **(more or {}), "versions": versions(), "git": git_revision(),
             "platform": platform.platform(), "cpus": os.cpu_count(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")},
        )  # fmt: skip
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """An existing one.

        Raises:
            InputError: It is no run directory.
        """
        if not (path / "run.json").is_file():
            raise InputError(f"{path} is not a run directory: it has no run.json")
        return cls(path)

    def discard(self) -> None:
        """Remove a run in which no stage was finished; anything else is left alone."""
        if not (self.path / "stages").exists():
            (self.path / "run.json").unlink(missing_ok=True)
            with suppress(OSError):  # not empty: something was there before
                self.path.rmdir()

    @property
    def document(self) -> dict[str, Any]:
        """All of ``run.json``."""
        document = read_json(self.path / "run.json")
        if not isinstance(document, dict) or not isinstance(document.get("settings"), dict):
            raise InputError(f"{self.path / 'run.json'} holds no settings: it may be damaged")
        return document

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the run was made with."""
        return self.document["settings"]

    def report(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage reported; None where it is not finished."""
        path = self.path / "stages" / f"{stage}.json"
        return read_json(path) if path.exists() else None

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Do a stage: fill in the report it yields; it is written, with the seconds it took, when all went well."""
        report: dict[str, Any] = {}
        began = time.perf_counter()
        yield report
        report["seconds"] = round(time.perf_counter() - began, 2)
        if ranks.rank() == 0:
            write_json(self.path / "stages" / f"{name}.json", report)


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """The revision of the checkout that the package runs from (``-dirty`` where it was changed); None outside one."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
