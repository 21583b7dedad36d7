"""Published architectures, which ship in the package as ``<device>-<dataset>/``; runs are opened likewise."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from kdnas.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from kdnas.link import Link

ROOT = Path(__file__).parent


def list_architectures() -> list[str]:
    """The names of the published architectures."""
    return sorted(path.parent.name for path in ROOT.glob("*/link.json"))


def resolve(run_or_name: str | Path) -> Path:
    """The directory of a published architecture, or of a run.

    Args:
        run_or_name: A name of ``list_architectures``, which wins, or a directory.

    Raises:
        InputError: Neither; a name that is nearly right is suggested.
    """
    names = list_architectures()
    if str(run_or_name) in names:
        return ROOT / run_or_name
    path = Path(run_or_name)
    if path.is_dir():
        return path
    near = get_close_matches(str(run_or_name), names, 1)
    hint = f"did you mean {near[0]!r}?" if near else "see `kdnas list architectures`"
    raise InputError(f"{str(run_or_name)!r} is neither the directory of a run nor a published architecture; {hint}")


def load(run_or_name: str | Path) -> "Link":
    """The ready link of a run directory or a published architecture, in evaluation mode, on the CPU.

    Args:
        run_or_name: As ``resolve`` takes it.

    Returns:
        The link: ``link.encode(images, snr_db, symbols)`` on the device, ``link.decode(received, snr_db)`` on
        the server. ``link.info`` holds its class names and what it was made for.

    Raises:
        InputError: Not found, incomplete, or damaged.
    """
    from kdnas.export import load_link

    return load_link(resolve(run_or_name))


def load_encoder(run_or_name: str | Path) -> "nn.Module":
    """The encoder alone, in evaluation mode: float32 (B, C, H, W) in [0, 1] to features (B, D).

    It normalises inside.

    Args:
        run_or_name: As ``resolve`` takes it.

    Raises:
        InputError: Not found, incomplete, or damaged.
    """
    from kdnas import export

    return export.load_encoder(resolve(run_or_name))


def publish(run_dir: str | Path, name: str | None = None, out: str | Path | None = None) -> Path:
    """Copy a finished run's architecture, weights and results into the package, or to ``out``.

    Args:
        run_dir: Its directory.
        name: In the zoo: ``<device>-<dataset>`` in lower case unless given.
        out: A directory to copy to instead of the zoo.

    Returns:
        The directory of the published architecture.

    Raises:
        InputError: The run is not finished or is damaged, its results are of another, or the name is unfit.
    """
    from kdnas.evaluate import validate_results
    from kdnas.export.adaptation import NAME as ADAPTATION
    from kdnas.export.files import FILES, HASHED, check_hashes, load_link, read_info
    from kdnas.run.files import atomic_write, read_json

    run_dir = resolve(run_dir)
    info = read_info(run_dir)
    name = name or f"{info.device}-{info.dataset}".lower()
    if out is None and not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise InputError(f"{name!r} is no name for an architecture: give one of lower-case letters, digits, and . _ -")
    path = run_dir / "results.json"
    if not path.is_file():
        raise InputError(f"{path} is missing: evaluate the run before it is published")
    results = validate_results(read_json(path), str(path))
    for key in ("device", "dataset"):
        if results[key] != getattr(info, key):
            raise InputError(
                f"{path} is of {key} {results[key]!r}, link.json of {getattr(info, key)!r}: evaluate again"
            )
    load_link(run_dir)
    check_hashes(run_dir, info, HASHED)

    target = ROOT / name if out is None else Path(out)
    # link.json is last: without it nothing is listed, and its hashes refuse a mixture.
    measured = [ADAPTATION] if (run_dir / ADAPTATION).exists() else []
    if not measured:
        (target / ADAPTATION).unlink(missing_ok=True)  # of the link that stood there before
    for file in ("results.json", *measured, *FILES):
        atomic_write(target / file, (run_dir / file).read_bytes())
    return target
