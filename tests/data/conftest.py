import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Every test has an empty cache of its own."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("KDNAS_CACHE", str(path))
    return path
