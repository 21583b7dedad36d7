"""What the TensorBoard page shows beside the curves that Lightning writes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def _writer(directory: Path, name: str) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(directory / "tensorboard" / name))


def _add_hparams(writer: Any, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """One row of the HParams tab, in the writer's own run."""
    from torch.utils.tensorboard.summary import hparams

    for summary in hparams(dict(settings), dict(metrics)):
        writer.file_writer.add_summary(summary)
    for name, value in metrics.items():
        writer.add_scalar(name, value)


def add_run(directory: Path, settings: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """The run itself in the HParams tab: its settings, its costs, and its best accuracy over each channel."""
    flat = {
        f"{section}.{key}" if key else section: value
        for section, values in settings.items()
        for key, value in (values.items() if isinstance(values, dict) else [("", values)])
        if isinstance(value, bool | int | float | str)
    }
    metrics = {f"run/{name}": float(value) for name, value in results["transmitter"].items()}
    for row in results["curves"]:
        if row["system"] == "kdnas":
            name = f"run/best accuracy, {row['channel']}"
            metrics[name] = max(metrics.get(name, 0.0), row["accuracy"])
    with _writer(directory, "run") as writer:
        _add_hparams(writer, flat, metrics)


def add_trial(directory: Path, row: Mapping[str, Any], device: str, seed: int) -> None:
    """One trial in the HParams tab: its weights, its accuracy and its costs over the budgets.

    TensorBoard above several run directories shows the trials of all of them: so device and seed go along.
    """
    worst = 1 + max(row["constraints"].values()) if row["constraints"] else None
    metrics = {"trial/accuracy": row["accuracy"], "trial/worst cost over budget": worst}
    metrics = {name: value for name, value in metrics.items() if value is not None}
    with _writer(directory, f"trials/{row['trial']:03d}") as writer:
        told = {"device": device, "seed": seed, "state": row["state"], "feasible": row["feasible"]}
        _add_hparams(writer, {**row["parameters"], **told}, metrics)


def add_savings(directory: Path, savings: Mapping[str, float]) -> None:
    """What pruning saved of the study."""
    with _writer(directory, "study") as writer:
        for name, value in savings.items():
            writer.add_scalar(f"study/{name.replace('_', ' ')}", value)


def add_search(
    directory: Path,
    report: Mapping[str, Any],
    domains: Mapping[str, Sequence[Any]],
    layers: Sequence[Mapping[str, Any]],
) -> None:
    """The search: α as a heat map after every epoch, the architecture as a picture and as text."""
    from kdnas.plot import alphas_figure, architecture_figure, figure_to_array

    history = [{"epoch": row["epoch"], "probs": row["probabilities"]} for row in report["history"]]
    with _writer(directory, "search") as writer:
        for end in range(1, len(history) + 1):
            image = figure_to_array(alphas_figure(history[:end], domains))
            writer.add_image("search/probabilities", image, history[end - 1]["epoch"], dataformats="HWC")
        picture = figure_to_array(architecture_figure(layers, "Architecture found"))
        writer.add_image("architecture", picture, dataformats="HWC")
        lines = ["| choice | value |", "|---|---|", *(f"| {k} | {v} |" for k, v in report["choices"].items())]
        lines += [
            "",
            "| cost | encoder |",
            "|---|---|",
            *(f"| {k} | {v:,.6g} |" for k, v in report["costs"].items()),
        ]
        writer.add_text("architecture", "\n".join(lines))
        writer.add_scalar("search/discretisation gap", report["gap"])


def add_figures(directory: Path, files: Sequence[Path]) -> None:
    """The figures of the run as images."""
    import numpy as np
    from PIL import Image

    with _writer(directory, "figures") as writer:
        for path in files:
            writer.add_image(f"figures/{path.stem}", np.asarray(Image.open(path).convert("RGB")), dataformats="HWC")
