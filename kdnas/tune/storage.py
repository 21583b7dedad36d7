"""Where studies are kept: an SQLite file, or a PostgreSQL database that many machines share."""

import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from sqlalchemy import event

from kdnas.config import without_password
from kdnas.errors import InputError

_OPENING = 60.0  # seconds in which workers that start at once make the tables in each other's way


def database_url(storage: str) -> str:
    """What SQLAlchemy calls ``storage``.

    Args:
        storage: ``postgresql://user:password@host/database``, ``sqlite:///path``, or the path of an SQLite file.

    Raises:
        InputError: A database of another kind, or one whose driver is not installed.
    """
    scheme, found, rest = storage.partition("://")
    if not found:
        return f"sqlite:///{Path(storage).absolute()}"
    if scheme == "sqlite":
        return storage
    if scheme not in ("postgresql", "postgres"):
        raise InputError(
            f"tune.storage = {without_password(storage)!r}: give postgresql://user@host/database, or the path of an "
            "SQLite file"
        )
    if find_spec("psycopg") is None:
        raise InputError("a study in PostgreSQL needs psycopg: pip install 'kdnas[postgresql]'")
    return f"postgresql+psycopg://{rest}"


def open_storage(storage: str) -> optuna.storages.RDBStorage:
    """The storage, its tables made where it has none.

    Args:
        storage: As in ``database_url``. The password of a PostgreSQL user may also come from ``PGPASSWORD`` or
            ``~/.pgpass``, as for every client of PostgreSQL.

    Raises:
        InputError: It cannot be reached, it is no such database, or no URL of one.
    """
    url = database_url(storage)
    try:
        host = sqlalchemy.make_url(url).host or ""
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise InputError(f"{without_password(storage)} is no URL: give postgresql://user@host:port/database") from None
    if "@" in host:
        raise InputError(f"{without_password(storage)}: write an @ of the password as %40")
    url = url.replace("{", "{{").replace("}", "}}")  # Optuna takes it for a format string
    sqlite = url.startswith("sqlite")
    kwargs: dict[str, Any] = {"connect_args": {"timeout": 120}} if sqlite else {"pool_pre_ping": True}
    began = time.monotonic()
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                opened = optuna.storages.RDBStorage(url, engine_kwargs=kwargs)
            break
        except (sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
            crowded = isinstance(error, sqlalchemy.exc.IntegrityError) or "already exists" in str(error)
            if crowded and time.monotonic() - began < _OPENING:
                time.sleep(0.2)  # another worker makes the tables just now
                continue
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise InputError(f"cannot open the storage {without_password(storage)}: {reason}") from None
    if sqlite:
        _one_at_a_time(opened.engine)
    return opened


def _one_at_a_time(engine: sqlalchemy.Engine) -> None:
    """SQLite has no SELECT FOR UPDATE: let every transaction lock the file from its start (SQLAlchemy's recipe)."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # else pysqlite begins transactions by itself, and late

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
