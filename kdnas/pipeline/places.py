"""Where runs go, and paths that also hold from another directory."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdnas.config import Settings, make_settings


def default_directory(settings: Settings, verb: str) -> Path:
    """``runs/DEVICE-DATASET-PRESET-sSEED`` (with the verb in front where it is not ``run``)."""
    return classes_directory(settings, verb, settings.device, [settings.seed])


def classes_directory(settings: Settings, verb: str, devices: str | Sequence[str], seeds: Sequence[int]) -> Path:
    """``runs/DEVICES-DATASET-PRESET-sSEEDS`` (with the verb in front where it is not ``run``)."""
    names = devices if isinstance(devices, str) else ",".join(devices)
    parts = [] if verb == "run" else [verb]
    stems = "+".join(Path(name.strip()).stem for name in names.split(","))
    dataset = re.sub(r"[^\w.-]+", "-", settings.dataset)
    return Path("runs") / "-".join([*parts, stems, dataset, settings.preset, "s" + "-".join(map(str, seeds))])


def storage_of(given: Mapping[str, Any]) -> str | None:
    """The storage that was given, with its password; the path of an SQLite file made absolute."""
    storage = make_settings(given).tune.storage
    return storage if storage is None or "://" in storage else str(Path(storage).resolve())


def absolute(settings: Settings) -> dict[str, Any]:
    """All settings, with paths that also hold when a run is resumed from another directory."""
    flat = settings.model_dump(mode="json")
    if Path(settings.device).suffix == ".toml":
        flat["device"] = str(Path(settings.device).resolve())
    flat["tune"]["storage"] = storage_of(flat)
    if settings.tune.warm_start is not None and Path(settings.tune.warm_start).is_dir():
        flat["tune"]["warm_start"] = str(Path(settings.tune.warm_start).resolve())
    if settings.data.root is not None:
        flat["data"]["root"] = str(settings.data.root.resolve())
    elif settings.dataset.startswith("folder:"):
        flat["dataset"] = f"folder:{Path(settings.dataset.removeprefix('folder:')).resolve()}"
    return flat
