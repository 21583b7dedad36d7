"""Several device classes and seeds in one go: a run directory for each below a parent, then a report over classes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdnas.config import make_settings
from kdnas.device import class_of, list_devices, load_device
from kdnas.errors import InputError
from kdnas.evaluate.pareto import pareto_row
from kdnas.run import ranks
from kdnas.run.directory import RunDirectory
from kdnas.run.files import read_json, write_json
from kdnas.run.process import configure_process

Say = Callable[[str], None]
RunOne = Callable[[Mapping[str, Any], Path | None, Path | None], Path]
"""(settings, out, resume) to the run directory: one run of the verb at hand."""


def classes_of(text: str) -> list[str]:
    """The device classes that ``text`` names: ``all``, or names and TOML files with commas between.

    Raises:
        InputError: One is unknown, or two are the same class or would share a directory.
    """
    names = list_devices() if text == "all" else [name for name in (part.strip() for part in text.split(",")) if name]
    found: dict[str, str] = {}
    stems: dict[str, str] = {}
    for name in names:
        own = class_of(load_device(name).name)
        if (twin := found.setdefault(own, name)) != name:
            raise InputError(f"--device names {own} twice: as {twin} and as {name}")
        if (twin := stems.setdefault(Path(name).stem, name)) != name:
            raise InputError(f"the runs of {twin} and {name} would share a directory: rename one of the files")
    if not found:
        raise InputError("--device takes a class, several with commas between, or all")
    return list(found.values())


def begin(path: Path, settings: Mapping[str, Any], devices: Sequence[str], seeds: Sequence[int], verb: str) -> None:
    """Make the parent directory; the runs in it are made when it is their turn.

    Raises:
        InputError: No seed, one twice, or a class that its run would refuse: told here, before the classes in front of
            it are trained.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"the seeds are {list(seeds)}: give one or more, each once")
    devices = [str(Path(name).resolve()) if Path(name).suffix == ".toml" else name for name in devices]
    first = make_settings(settings, {"device": devices[0], "seed": seeds[0]})
    configure_process(first.threads)
    from kdnas.pipeline.context import Context

    for device in devices:
        try:
            Context(make_settings(settings, {"device": device, "seed": seeds[0]}), RunDirectory(path)).check()
        except InputError as error:
            raise InputError(f"{Path(device).stem}: {error}") from None
    RunDirectory.create(
        path, first.model_dump(mode="json"), {"classes": {"devices": devices, "seeds": list(seeds), "verb": verb}}
    )


def classes_document(path: Path) -> dict[str, Any] | None:
    """``{devices, seeds, verb}`` of a parent directory; None for any other directory."""
    if not (path / "run.json").is_file():
        return None
    found = RunDirectory.open(path).document.get("classes")
    return dict(found) if found else None


def children(path: Path) -> list[tuple[str, int, Path]]:
    """(device, seed, run directory) of each run of a parent directory, in their order."""
    document = classes_document(path)
    if document is None:
        raise InputError(f"{path} is no directory of several device classes")
    return [
        (device, seed, path / f"{Path(device).stem}-s{seed}")
        for seed in document["seeds"]
        for device in document["devices"]
    ]


def run_all(path: Path, given: Mapping[str, Any], run_one: RunOne, say: Say) -> None:
    """Run what is not finished; teacher and store of a seed are made by its first class, and found by the others.

    Args:
        path: The parent directory.
        given: ``tune.storage`` with its password, where there is one.
        run_one: Runs one of them.
        say: Called with a line for each.
    """
    settings = RunDirectory.open(path).settings
    todo = ranks.by_main(lambda: [(device, seed, str(place)) for device, seed, place in children(path)])
    for number, (device, seed, place) in enumerate(todo, 1):
        say(f"{Path(device).stem}, seed {seed} ({number} of {len(todo)})")
        if ranks.by_main((Path(place) / "run.json").exists):
            run_one(given, None, Path(place))
        else:
            run_one({**settings, **given, "device": device, "seed": seed}, Path(place), None)


def report(path: Path) -> dict[str, Any]:
    """Write ``pareto.json``, its figures, and the page of TensorBoard; returns the document.

    Raises:
        InputError: A run is not finished.
    """
    from kdnas.pipeline import board
    from kdnas.plot import plot_table

    rows = [pareto_row(read_json(place / "results.json")) for _, _, place in children(path)]
    document = {"command": f"kdnas run --resume {path.name}", "rows": rows}
    write_json(path / "pareto.json", document)
    drawn = plot_table(path / "pareto.json", path / "figures")
    board.add_figures(path, [file for file in drawn if file.suffix == ".png"])
    return document
