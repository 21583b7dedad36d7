"""Whole sets of figures from JSON files alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas.evaluate.results import validate_published, validate_results, validate_table
from kdnas.plot import (
    published_codec,
    published_costs,
    published_distill,
    published_envelope,
    published_halves,
    published_search,
    published_store,
    published_tailor,
    published_tune,
)
from kdnas.plot.architecture import architecture_figure
from kdnas.plot.cost import cost_against_budget
from kdnas.plot.curves import accuracy_against_length, accuracy_against_snr, accuracy_told_wrong
from kdnas.plot.published import devices_figure, seed_bands_figure
from kdnas.plot.search import alphas_figure, ranks_figure, trials_figure
from kdnas.plot.style import save
from kdnas.run.files import read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# By the kind of table, as ``table_kind`` names it.
_FIGURES = {
    **published_search.FIGURES,
    **published_codec.FIGURES,
    **published_distill.FIGURES,
    **published_store.FIGURES,
    **published_tailor.FIGURES,
    **published_costs.FIGURES,
    **published_tune.FIGURES,
    **published_halves.FIGURES,
    **published_envelope.FIGURES,
}


def plot_run(run_dir: str | Path) -> list[Path]:
    """Draw everything that ``run_dir/results.json`` has, into ``run_dir/figures``.

    Args:
        run_dir: A run directory, or a folder of the zoo copied elsewhere; only its ``results.json`` is read.

    Returns:
        The PNG and SVG files written.

    Raises:
        InputError: The file is missing or malformed (the message names the key), or cannot be written.
    """
    source = Path(run_dir) / "results.json"
    results = validate_results(read_json(source), str(source))
    figures: dict[str, Figure] = {}
    if results.get("baselines"):
        figures["baselines"] = published_envelope.envelope_figure(_as_envelope(results))
        own = [row for row in results["curves"] if row["system"] not in results["baselines"]]
        results = {**results, "curves": own}
    if any(row["channel"] is not None for row in results["curves"]):
        figures["accuracy-snr"] = accuracy_against_snr(results)
        figures["accuracy-length"] = accuracy_against_length(results)
    if results.get("mismatch"):
        figures["accuracy-told-wrong"] = accuracy_told_wrong(results)
    if results["budgets"]:
        figures["cost-budget"] = cost_against_budget(results)
    search = results.get("search", {})
    if search.get("layers"):
        title = f"Encoder found for {results['device']}, {results['dataset']}"
        figures["architecture"] = architecture_figure(search["layers"], title)
    if search.get("alphas"):
        figures["choices"] = alphas_figure(search["alphas"], search.get("choices"))
    if any(t["accuracy"] is not None and t["ratio"] is not None for t in search.get("trials", [])):
        figures["trials"] = trials_figure(search["trials"])
    if search.get("ranks"):
        figures["ranks"] = ranks_figure(search["ranks"])
    return _save_all(figures, Path(run_dir) / "figures")


def plot_published(json_file: str | Path, out_dir: str | Path) -> list[Path]:
    """Draw a published table: for each data set and number of labels, the devices figure and the seed bands.

    Args:
        json_file: ``{"command": ..., "rows": [...]}``.
        out_dir: Where the figures go, named after the file.

    Returns:
        The PNG and SVG files written.

    Raises:
        InputError: The file is missing or malformed (the message names the key), or cannot be written.
    """
    rows = validate_published(read_json(json_file), str(json_file))["rows"]
    tables = list(dict.fromkeys((row["dataset"], row["labels"]) for row in rows))
    figures = {}
    for dataset, labels in tables:
        chosen = [row for row in rows if (row["dataset"], row["labels"]) == (dataset, labels)]
        name = Path(json_file).stem
        if len(tables) > 1:
            name += f"-{dataset.replace(':', '-').replace('/', '-')}-{labels}"
        figures[f"{name}-devices"] = devices_figure(chosen)
        if len({row["snr_db"] for row in chosen if row["snr_db"] is not None}) > 1:
            figures[f"{name}-snr"] = seed_bands_figure(chosen)
    return _save_all(figures, Path(out_dir))


def plot_table(json_file: str | Path, out_dir: str | Path) -> list[Path]:
    """Draw a published table of any kind; what kind it is, the keys of its rows tell.

    Args:
        json_file: ``{"command": ..., "rows": [...]}``.
        out_dir: Where the figures go, named after the file.

    Returns:
        The PNG and SVG files written.

    Raises:
        InputError: The file is missing, of no known kind, or malformed (the message names the key).
    """
    document = read_json(json_file)
    kind = validate_table(document, str(json_file))
    if kind == "quick":
        return plot_published(json_file, out_dir)
    return save(_FIGURES[kind](document["rows"]), Path(out_dir) / Path(json_file).stem)


def _as_envelope(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The curves of a run as rows of ``envelope.json``, as far as its figure needs them."""
    shared = {
        "teacher_accuracy": results["teacher"]["accuracy"],
        **{k: results[k] for k in ("dataset", "device", "seed")},
    }
    return [{**row, **shared} for row in results["curves"] if row["channel"] is not None]


def _save_all(figures: "dict[str, Figure]", directory: Path) -> list[Path]:
    return [file for name, figure in figures.items() for file in save(figure, directory / name)]
