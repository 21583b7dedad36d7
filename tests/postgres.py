"""A PostgreSQL server of one's own on the loopback, from Debian's package, for the time of a test."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import free_port

PASSWORD = "s3cret:/@word"


def programs() -> Path | None:
    """Where initdb and postgres are, which Debian keeps out of PATH; None where they are not installed."""
    found = shutil.which("initdb")
    places = [*Path("/usr/lib/postgresql").glob("*/bin"), *([Path(found).parent] if found else [])]
    return next((place for place in sorted(places, reverse=True) if (place / "initdb").exists()), None)


@contextmanager
def server() -> Iterator[str]:
    """The server's URL, without the password of its user."""
    place = programs()
    assert place is not None
    # initdb refuses root; the user `postgres` may not look into the temporary directories of others.
    root = os.geteuid() == 0
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if root else []
    home = Path(tempfile.mkdtemp(prefix="kdnas-postgres-", dir="/tmp"))
    try:
        (home / "password").write_text(PASSWORD)
        if root:
            shutil.chown(home, "postgres", "postgres")
            shutil.chown(home / "password", "postgres", "postgres")
        port, data = free_port(), home / "data"
        subprocess.run(
            [*as_user, place / "initdb", "-D", data, "-U", "kdnas", "-A", "scram-sha-256", "-E", "UTF8", "--no-sync",
             "--pwfile", home / "password"],
            check=True, capture_output=True, cwd="/",
        )  # fmt: skip
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        control = [*as_user, place / "pg_ctl", "-D", data, "-w"]
        subprocess.run(
            [*control, "-l", data / "log", "-o", options, "start"], check=True, stdout=subprocess.DEVNULL, cwd="/"
        )
        try:
            yield f"postgresql://kdnas@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, cwd="/")
    finally:
        shutil.rmtree(home)
