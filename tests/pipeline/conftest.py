from pathlib import Path

import pytest

import kdnas


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole run of the smallest preset, shared by all tests that only look at it."""
    return kdnas.api.run(preset="smoke", device="wearable", out=tmp_path_factory.mktemp("runs") / "smoke", threads=1)
