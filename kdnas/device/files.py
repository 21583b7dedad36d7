"""Device classes as TOML files: those of the package and a user's own, with faults told in one line."""

import difflib
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from kdnas.device.model import DeviceClass
from kdnas.errors import InputError

_CLASSES = files("kdnas.device") / "classes"
ALIASES = {"mcu": "mcu-256kB"}
"""Other names of packaged classes: what is loaded by one keeps it as its own name, as earlier results have it."""


def list_devices() -> list[str]:
    """The names of the device classes in the package, from the smallest budgets to the largest."""
    return sorted(_names(), key=lambda name: (load_device(name).budgets.get("macs", 0), name))


def class_of(name: str) -> str:
    """The class that ``name`` stands for, by its name in `list_devices`; any other name as it is."""
    return ALIASES.get(name, name)


def _names() -> list[str]:
    return [entry.name.removesuffix(".toml") for entry in _CLASSES.iterdir() if entry.name.endswith(".toml")]


def device_toml(name: str) -> str:
    """The TOML text of a device class of the package: a start for one's own.

    Raises:
        InputError: No such class.
    """
    load_device(name)
    return (_CLASSES / f"{class_of(name)}.toml").read_text(encoding="utf-8")


def load_device(name_or_path: str | Path) -> DeviceClass:
    """Load a device class by its name, or a user's own from a TOML file.

    Args:
        name_or_path: A name of `list_devices` or another that it has (`ALIASES`), or the path of a ``.toml`` file.

    Raises:
        InputError: The name is unknown or the file unreadable; or it has an unknown key, a wrong type,
            a number out of its range, a missing table, or no such latency table. The message names the
            file, the line and the key.
    """
    name = str(name_or_path)
    try:
        if class_of(name) in _names():
            text = (_CLASSES / f"{class_of(name)}.toml").read_text(encoding="utf-8")
        elif Path(name).suffix == ".toml" or Path(name).is_file():
            text = Path(name).read_text(encoding="utf-8")
        else:
            known = ", ".join(list_devices())
            raise InputError(f"unknown device {name!r}: choose among {known}, or give the path of a .toml file")
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None
    except ValueError:  # not UTF-8, or a path with a null character
        raise InputError(f"cannot read {name!r}: it is not a UTF-8 text file") from None
    try:
        device = DeviceClass.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise InputError(f"{name}: {_explain(error, text)}") from None
    changes: dict[str, Any] = {"name": name} if name in ALIASES else {}
    if device.latency_table is not None:
        table = (Path(name).parent / device.latency_table).resolve()
        if not table.is_file():
            line = _line_of(text, ("latency_table",))
            raise InputError(f"{name}: line {line}: latency_table: there is no file {table}")
        changes["latency_table"] = str(table)
    return device.model_copy(update=changes)


def _explain(error: ValidationError, text: str) -> str:
    """The first fault as ``line N: key: reason``; a misspelt key before the missing one that it leaves."""
    fault = min(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    path = tuple(fault["loc"])
    if fault["type"] == "device":
        path = tuple(int(part) if part.isdecimal() else part for part in fault["ctx"]["key"].split("."))
    # Escaped, because TOML allows any character in a quoted key and the message must stay one line.
    key = ".".join(str(part) for part in path).encode("unicode_escape").decode()
    if fault["type"] == "extra_forbidden":
        known = _keys_at(path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, n=1)
        told = f"unknown key '{key}'; "
        told += f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    elif fault["type"] == "missing":
        told = f"missing {'table' if len(path) == 1 and _keys_at(path) else 'key'} {key!r}"
    elif fault["type"] == "device":
        told = f"{key} {fault['msg']}"
    else:
        value = repr(fault["input"])
        told = f"{key}: {fault['msg'].replace('Input should', 'should')}, not {value[:60]}"
    line = _line_of(text, path)
    return f"line {line}: {told}" if line else told


def _keys_at(path: tuple[int | str, ...]) -> list[str]:
    """The keys that the table at ``path`` may have; none where ``path`` is no table."""
    model: type[BaseModel] = DeviceClass
    for part in path:
        if isinstance(part, str):  # a number is a place in [[sources]]
            kind = model.model_fields[part].annotation
            models = [k for k in (kind, *get_args(kind)) if isinstance(k, type) and issubclass(k, BaseModel)]
            if not models:
                return []
            model = models[0]
    return list(model.model_fields)


def _line_of(text: str, path: tuple[int | str, ...]) -> int | None:
    """The line where the value at ``path``, or else the nearest table around it, begins in TOML ``text``.

    A statement ends where the lines so far are valid TOML again, and begins after the last place where they
    were: so this needs no parser of its own, and is right for dotted keys, inline tables and long values.
    """
    lines = text.split("\n")  # splitlines() would also cut at characters that TOML keeps inside a string
    for length in range(len(path), 0, -1):
        done = 0
        for end in range(1, len(lines) + 1):
            try:
                value: Any = tomllib.loads("\n".join(lines[:end]))
            except tomllib.TOMLDecodeError:
                continue
            try:
                for part in path[:length]:
                    value = value[part]
                return done + 1
            except (KeyError, IndexError, TypeError):
                done = end
    return None
