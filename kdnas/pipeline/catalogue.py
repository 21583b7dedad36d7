"""What there is, by kind, and one thing in full."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdnas.errors import InputError


def _devices() -> list[str]:
    from kdnas.device import list_devices

    return list_devices()


def _datasets() -> list[str]:
    from kdnas.data import list_datasets

    return list_datasets()


def _channels() -> list[str]:
    from kdnas.channel import describe_channel, list_channels

    return [describe_channel(name) for name in list_channels()]


def _spaces() -> list[str]:
    from kdnas.space import list_spaces

    return list_spaces()


def _teachers() -> list[str]:
    from kdnas.knowledge import list_teachers

    return list_teachers()


def _architectures() -> list[str]:
    from kdnas.zoo import list_architectures

    return list_architectures()


def _cache() -> list[dict[str, Any]]:
    from kdnas.data.cache import list_cache

    return [
        {key: str(value) if isinstance(value, Path) else value for key, value in row.items()} for row in list_cache()
    ]


LISTS: dict[str, Callable[[], list[Any]]] = {
    "devices": _devices,
    "datasets": _datasets,
    "channels": _channels,
    "spaces": _spaces,
    "teachers": _teachers,
    "architectures": _architectures,
    "cache": _cache,
}


def list_(what: str) -> list[Any]:
    """What there is of a kind: names, or for ``cache`` one ``{name, kind, bytes, path}`` for each entry.

    Args:
        what: ``devices``, ``datasets``, ``channels`` (with their options), ``spaces``, ``teachers``,
            ``architectures`` or ``cache``.

    Raises:
        InputError: There is no such kind.
    """
    if what not in LISTS:
        raise InputError(f"cannot list {what!r}; there are {', '.join(LISTS)}")
    return LISTS[what]()


def show(what: str, name: str | None = None) -> dict[str, Any]:
    """One thing in full, as JSON has it.

    Args:
        what: ``device`` (budgets too), ``settings``, or ``architecture``.
        name: A device class or a TOML file (``wearable`` unless given); a preset (``quick`` unless given); an
            architecture of the zoo, a directory that holds one, or its file.

    Raises:
        InputError: There is no such thing, or its file is damaged.
    """
    if what == "device":
        from kdnas.device import load_device

        device = load_device(name or "wearable")
        return {**device.model_dump(mode="json", exclude_none=True), "budgets": dict(device.budgets)}
    if what == "settings":
        from kdnas.config import make_settings

        return make_settings({"preset": name or "quick"}).model_dump(mode="json")
    if what == "architecture":
        from kdnas.space import Architecture
        from kdnas.zoo import resolve

        if name is None:
            raise InputError("which architecture? see `kdnas list architectures`")
        path = Path(name) if Path(name).is_file() else resolve(name) / "architecture.json"
        Architecture.load(path)  # or tell what is wrong with it
        return dict(json.loads(path.read_text()))
    raise InputError(f"cannot show {what!r}; there are device, settings, architecture")
