"""What is shipped: the wheel away from the checkout, light imports, no machine's places, locked versions."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("kdnas", "search_spaces", "teachers")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = ("torch", "nni", "matplotlib", "pytorch_lightning", "lightning", "optuna", "sklearn", "pandas")


def shipped_files() -> list[Path]:
    """Every file of the three packages, relative to the checkout, without what Python leaves behind."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    return sorted(path.relative_to(ROOT) for path in files if "__pycache__" not in path.parts)


def python(*arguments: str, target: Path, cwd: Path) -> str:
    """Standard output of this interpreter, run away from the checkout with `target` first on its path."""
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # From a copy: a build leaves a build/ directory, whose stale files would enter the next wheel.
    source = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", PROJECT["readme"], *(f for f in PROJECT["license-files"] if "/" not in f)):
        shutil.copy(ROOT / name, source / name)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(source / "dist"),
        str(source),
    ]
    done = subprocess.run(build, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def target(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("target")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(directory),
        str(wheel),
    ]
    done = subprocess.run(install, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return directory


def test_wheel_holds_the_three_packages_whole_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    packed = {name for name in names if ".dist-info/" not in name}
    assert packed == {path.as_posix() for path in shipped_files()}


def test_wheel_holds_data_and_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for pattern in (
        r"kdnas/device/classes/wearable\.toml",
        r"kdnas/data/files/fashion-mini.*",
        r"kdnas/data/files/LICENSE\.fashion-mnist",
        r"kdnas-.*\.dist-info/licenses/LICENSE",
        r"kdnas-.*\.dist-info/licenses/kdnas/data/files/LICENSE\.fashion-mnist",
    ):
        assert any(re.fullmatch(pattern, name) for name in names), pattern


def test_wheel_holds_every_published_architecture(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    published = {path.parent.name for path in (ROOT / "kdnas/zoo").glob("*/link.json")}
    assert published >= {f"{device}-fashion-mini" for device in ("mcu", "wearable", "phone", "gateway")}
    for entry in published:
        for name in ("architecture.json", "encoder.py", "results.json"):
            assert f"kdnas/zoo/{entry}/{name}" in names


def test_wheel_reads_its_own_data_away_from_the_checkout(target: Path, tmp_path: Path) -> None:
    code = """
from importlib.metadata import entry_points
import json, kdnas
from kdnas.data import load_dataset
made = {}
for group in ("kdnas.spaces", "kdnas.teachers", "kdnas.teacher_families"):
    for point in entry_points(group=group):
        made[f"{group}/{point.name}"] = point.load().__module__
import search_spaces, teachers
print(json.dumps({
    "files": [m.__file__ for m in (kdnas, search_spaces, teachers)],
    "entries": made,
    "images": list(load_dataset("fashion-mini", limit=50).train_images.shape),
}))
"""
    found = json.loads(python("-c", code, target=target, cwd=tmp_path).splitlines()[-1])
    assert all(Path(file).is_relative_to(target) for file in found["files"])
    declared = {f"{group}/{name}" for group, points in PROJECT["entry-points"].items() for name in points}
    assert set(found["entries"]) >= declared
    assert found["images"][1:] == [1, 28, 28]


def test_wheel_lists_devices_on_the_command_line(target: Path, tmp_path: Path) -> None:
    devices = json.loads(python("-m", "kdnas.cli", "list", "devices", "--json", target=target, cwd=tmp_path))
    text = json.dumps(devices)
    assert all(f'"{name}"' in text for name in ("mcu-256kB", "mcu-512kB", "wearable", "phone", "gateway"))


def test_the_command_line_answers_without_heavy_imports(tmp_path: Path) -> None:
    code = f"""
import sys
import kdnas.cli
imported = [name for name in {HEAVY} if name in sys.modules]
sys.argv = ["kdnas", "--help"]
try:
    kdnas.cli.main()
except SystemExit:
    pass
helped = [name for name in {HEAVY} if name in sys.modules]
print()
print(imported, helped)
"""
    lines = python("-c", code, target=ROOT, cwd=tmp_path).splitlines()
    assert lines[-1] == "[] []"
    assert len(lines) > 5


def test_import_of_the_package_is_light(tmp_path: Path) -> None:
    code = f"import sys, kdnas; print([name for name in {HEAVY} if name in sys.modules])"
    assert python("-c", code, target=ROOT, cwd=tmp_path).strip() == "[]"


def test_no_shipped_file_names_a_place_on_a_machine() -> None:
    place = re.compile(rb"(?<![\w./~<>{}-])/(?:home|root|Users|work|tmp|opt|mnt|srv|var/tmp)/[\w.-]+")
    assert place.search(b'"directory": "/home/ada/runs/1"')
    found = {
        str(path): match.group() for path in shipped_files() if (match := place.search((ROOT / path).read_bytes()))
    }
    assert found == {}
    assert [path for path in shipped_files() if os.fsencode(ROOT) + b"/" in (ROOT / path).read_bytes()] == []


def constraints() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines)
    return {canonicalize_name(name): pin for name, pin in pins.items()}


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(text) for text in (*PROJECT["dependencies"], *(r for extra in extras for r in extra))]


def test_constraints_pin_every_requirement_inside_its_range() -> None:
    pins = constraints()
    for requirement in requirements():
        assert Version(pins[canonicalize_name(requirement.name)]) in requirement.specifier


def test_constraints_are_public_versions_alone() -> None:
    # A local version ("+cpu"), an address or a path would bind the file to one machine.
    for pin in constraints().values():
        assert Version(pin).public == pin and Version(pin).local is None


@pytest.mark.parametrize("name", ["torch", "nni", "optuna", "pytorch-lightning", "numpy", "pydantic"])
def test_tests_run_on_the_locked_versions(name: str) -> None:
    assert Version(version(name)).public == constraints()[name]
