from collections.abc import Iterator
from urllib.parse import quote

import postgres
import pytest


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL database, with its password."""
    if postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with postgres.server() as url:
        yield url.replace("@", f":{quote(postgres.PASSWORD, safe='')}@", 1)
