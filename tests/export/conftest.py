from collections.abc import Callable
from pathlib import Path

import pytest
from link_samples import META, make_link

from kdnas.export import HALVES, export_onnx, save_link
from kdnas.link import Link
from kdnas.space import Architecture


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Link, Architecture]:
    """One saved link of the space ``mobile``: read it, do not change it."""
    directory = tmp_path_factory.mktemp("saved")
    architecture, link = make_link("mobile", 0)
    save_link(directory, architecture, link, META)
    return directory, link, architecture


@pytest.fixture(scope="session")
def exported(saved: tuple[Path, Link, Architecture], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX files of ``saved``."""
    out = tmp_path_factory.mktemp("onnx")
    assert export_onnx(saved[0], out) == [out / name for name in HALVES]
    return out


@pytest.fixture
def copied(saved: tuple[Path, Link, Architecture], tmp_path: Path) -> Callable[[], Path]:
    """A copy of ``saved`` to damage."""

    def copy() -> Path:
        for path in saved[0].iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        return tmp_path

    return copy
