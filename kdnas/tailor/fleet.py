"""Fleets as TOML files: those of the package and a user's own, with faults told in one line."""

import difflib
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from kdnas.device import class_of, list_devices
from kdnas.errors import InputError
from kdnas.tailor.qos import EdgeDevice, NormalSnr, _Table

_FLEETS = files("kdnas.tailor") / "fleets"


class Fleet(_Table):
    """Devices to tailor to, in the order of the file (the tables ``[[device]]``)."""

    device: Annotated[tuple[EdgeDevice, ...], Field(min_length=1, strict=False)]

    def of_class(self, name: str) -> "Fleet":
        """Its devices of one class.

        Raises:
            InputError: It has none.
        """
        chosen = tuple(device for device in self.device if class_of(device.device_class) == class_of(name))
        if not chosen:
            raise InputError(
                f"the fleet has no device of class {name!r}: add one to its file, or set tailor.enabled = false"
            )
        return Fleet(device=chosen)

    def document(self) -> dict[str, Any]:
        """Plain values from which ``parse_fleet`` makes the same fleet."""
        return self.model_dump(mode="json", by_alias=True)


def list_fleets() -> list[str]:
    """The names of the fleets in the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in _FLEETS.iterdir() if entry.name.endswith(".toml"))


def load_fleet(name_or_path: str | Path) -> Fleet:
    """Load a fleet by its name, or a user's own from a TOML file.

    Args:
        name_or_path: A name of ``list_fleets``, or the path of a ``.toml`` file.

    Raises:
        InputError: The name is unknown or the file unreadable; it is not TOML (with the line); or a device has an
            unknown key, a wrong value, or lacks one. The message names the file, the device and the key.
    """
    name = str(name_or_path)
    try:
        if name in list_fleets():
            text = (_FLEETS / f"{name}.toml").read_text(encoding="utf-8")
        elif Path(name).suffix == ".toml" or Path(name).is_file():
            text = Path(name).read_text(encoding="utf-8")
        else:
            raise InputError(
                f"unknown fleet {name!r}: choose among {', '.join(list_fleets())}, or give the path of a .toml file"
            )
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None
    except ValueError:  # not UTF-8, or a path with a null character
        raise InputError(f"cannot read {name!r}: it is not a UTF-8 text file") from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name}: not valid TOML: {error}") from None
    return parse_fleet(document, name)


def parse_fleet(document: Mapping[str, Any], source: str) -> Fleet:
    """Check a fleet's document.

    Args:
        document: As TOML or JSON gives it.
        source: How messages name it.

    Raises:
        InputError: As in ``load_fleet``; also for two devices of one name, or a class that is none.
    """
    try:
        fleet = Fleet.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{source}: {_explain(error, document)}") from None
    names = [device.name for device in fleet.device]
    for index, device in enumerate(fleet.device):
        where = f"{source}: device {index + 1} ({device.name}): "
        if device.name in names[:index]:
            raise InputError(f"{where}name: an earlier device has it too; give each its own")
        if class_of(device.device_class) not in list_devices():
            raise InputError(f"{where}class: {device.device_class!r} is none of {', '.join(list_devices())}")
        _check_channel(device.channel, where)
    return fleet


def _check_channel(name: str, where: str) -> None:
    from kdnas.channel import get_channel  # brings torch, which only a whole fleet needs

    try:
        get_channel(name)
    except InputError as error:
        raise InputError(f"{where}channel: {error}") from None


def _explain(error: ValidationError, document: Mapping[str, Any]) -> str:
    """The first fault as ``device N (name): key: reason``; a misspelt key before the missing one that it leaves."""
    fault = min(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    path = [part for part in fault["loc"] if part not in ("table", "range")]  # which form of snr_db was taken
    where = ""
    if len(path) > 1 and path[0] == "device" and isinstance(path[1], int):
        given = document["device"][path[1]]
        name = given.get("name") if isinstance(given, Mapping) else None
        where = f"device {path[1] + 1}{f' ({name})' if isinstance(name, str) else ''}: "
        known = [info.alias or key for key, info in EdgeDevice.model_fields.items()]
        known = list(NormalSnr.model_fields) if path[2:3] == ["snr_db"] else known
        path = path[2:]
    else:
        known = list(Fleet.model_fields)
    key = ".".join(str(part) for part in path)
    if fault["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(path[-1]), known, n=1)
        told = f"unknown key {key!r}; " + (f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}")
    elif fault["type"] == "missing":
        told = f"missing key {key!r}" if where else "no [[device]] table: give at least one"
    elif fault["type"] == "value_error":
        told = fault["msg"].removeprefix("Value error, ")
    else:
        told = f"{key or 'it'}: {fault['msg'].replace('Input should', 'should')}, not {repr(fault['input'])[:60]}"
    # Escaped, because TOML allows any character in a quoted key and the message must stay one line.
    return (where + told).encode("unicode_escape").decode()
