"""What the scripts that make published tables share: options of every run, and the command that makes a table again."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kdnas.errors import InputError
from kdnas.run.files import read_json, write_json


def add_run_options(parser: argparse.ArgumentParser, what: str = "run", threads: int | None = 1) -> None:
    """``--preset``, ``--threads`` and ``--set``, which act on every ``what``."""
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help=f"settings of every {what}")


def command(script: str, given: argparse.Namespace, *names: str) -> str:
    """The command that makes the table again: the options of ``names``, then what there is of ``add_run_options``.

    Args:
        script: Its file name.
        given: What was parsed; a positional ``table`` comes first. Options without a value are left out, and folders
            of images are named without their place.
        names: Of the options, in their order.
    """
    words = [f"python scripts/{script}", *([given.table] if "table" in given else [])]
    for name in (*names, "preset", "threads", "set"):
        value = getattr(given, name, None)
        if value is not None and value != []:
            words.append(f"--{name.replace('_', '-')}")
            words += [_written(one) for one in (value if isinstance(value, list) else [value])]
    return " ".join(words)


def publish(path: Path, again: str, rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
    """Write a table; rows that stand there and differ from all new ones in ``keys`` are kept, with their command.

    So the commands that made a table, one after another, make it again.

    Args:
        path: The published file.
        again: The command that makes ``rows``.
        rows: At least one.
        keys: Columns; those that the rows have not are left out.
    """
    keys = [key for key in keys if key in rows[0]]
    made = {tuple(row.get(key) for key in keys) for row in rows}
    kept: list[dict[str, Any]] = []
    commands: list[str] = []
    if path.exists():
        before = read_json(path)
        kept = [row for row in before["rows"] if tuple(row.get(key) for key in keys) not in made]
        commands = before["command"].split(" && ") if kept else []
    write_json(
        path, {"command": " && ".join([*(c for c in commands if c != again), again]), "rows": [*kept, *rows]}
    )  # fmt: skip
    print(f"wrote {path}: {len(kept) + len(rows)} rows")


def run_script(main: Callable[[], None]) -> None:
    """Run a script with the exit codes of ``kdnas``: 2 and a line for what the user can mend, 130 for Ctrl-C."""
    script = Path(sys.argv[0]).name
    try:
        main()
    except InputError as error:
        print(f"{script}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\n{script}: stopped; the same command goes on from what is finished", file=sys.stderr)
        sys.exit(130)


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return f"folder:{Path(text[7:]).name}" if text.startswith("folder:") else text
