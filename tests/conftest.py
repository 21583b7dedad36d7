"""For all tests: one thread, no GPU, a cache of their own."""

import os

# Before torch is imported, here and in every process that a test starts.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # no test fetches a model; read when huggingface_hub is first imported

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
# A busy machine is no fault of the code.
settings.register_profile("kdnas", deadline=None)
settings.load_profile("kdnas")


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDNAS_CACHE", str(tmp_path_factory.mktemp("session-cache")))
        yield


@pytest.fixture
def float64() -> Iterator[None]:
    """New tensors and modules are float64 during the test."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL database, with its password."""
    from urllib.parse import quote

    import postgres

    if postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with postgres.server() as url:
        yield url.replace("@", f":{quote(postgres.PASSWORD, safe='')}@", 1)
