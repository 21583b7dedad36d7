"""Figures of a published table: several devices and seeds, with their spread."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdnas.errors import InputError
from kdnas.evaluate.statistics import summarise
from kdnas.plot.cost import COST_NAMES, quantity
from kdnas.plot.curves import draw_line, draw_teacher, style_legend, y_limits
from kdnas.plot.style import (
    BLACK,
    BLUE,
    CHANNEL_NAMES,
    GREY,
    SYSTEM_COLOURS,
    SYSTEM_NAMES,
    heading,
    new_figure,
    style,
    to_percent,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
_COSTS = ("params", "macs", "sram_bytes", "flash_bytes")
_MARKERS = {"kdnas": "o", "no-kd": "s", "teacher": "D"}


def devices_figure(rows: Sequence[Row], *, channel: str = "awgn", snr_db: float = 10.0) -> "Figure":
    """Each device class: accuracy of every system at one SNR and full length, and what the transmitter costs.

    Args:
        rows: Rows of a published table, of one data set and one number of labels. Systems ``random-...``
            (randomly chosen architectures) are drawn as small ticks with their median.
        channel: Of the accuracies.
        snr_db: Of the accuracies, in dB.

    Returns:
        The figure: seeds as small marks, mean ± standard deviation over seeds as a large one.

    Raises:
        InputError: A device has no row at that channel and SNR.
    """
    from matplotlib.ticker import MaxNLocator

    devices = list(dict.fromkeys(row["device"] for row in rows))
    with style():
        figure = new_figure(11.6, 2.0 + 0.95 * len(devices))
        axes = figure.subplots(1, 1 + len(_COSTS), sharey=True, width_ratios=[3.6, 1, 1, 1, 1])
        shown: set[str] = set()
        for place, device in enumerate(devices):
            here = [row for row in rows if row["device"] == device]
            points = [row for row in here if row["channel"] == channel and row["snr_db"] == snr_db]
            if not any(row["system"] == "kdnas" for row in points):
                raise InputError(f"rows: no row of system kdnas on {device} at {snr_db:g} dB, channel {channel}")
            full = max(row["symbols"] for row in points)
            points = [row for row in points if row["symbols"] == full]
            points += [row for row in here if row["system"] == "teacher"]
            shown |= _device_accuracy(axes[0], place, points)
            kdnas = [row for row in points if row["system"] == "kdnas"]
            for ax, key in zip(axes[1:], _COSTS, strict=True):
                values = [row[key] for row in kdnas if row[key] is not None]
                if values:
                    mean = sum(values) / len(values)
                    ax.plot(values, [place] * len(values), "|", color=BLUE, alpha=0.7, markersize=9)
                    ax.plot(mean, place, "o", color=BLUE, markersize=7)
                    ax.annotate(
                        quantity(key, mean),
                        (mean, place),
                        (0, 9),
                        textcoords="offset points",
                        ha="center",
                        fontsize=8,
                    )
        axes[0].set_yticks(range(len(devices)), devices, fontsize=10.5)
        axes[0].set_ylim(len(devices) - 0.45, -0.55)
        axes[0].set_title(f"accuracy at {snr_db:g} dB, {CHANNEL_NAMES.get(channel, channel)}, full length")
        axes[0].set_xlabel("top-1 accuracy on test images")
        to_percent(axes[0], axis="x")
        axes[0].xaxis.set_major_locator(MaxNLocator(7))
        low, high = axes[0].get_xlim()
        axes[0].set_xlim(low, high + 0.2 * (high - low))  # room for the texts right of the marks
        for ax, key in zip(axes[1:], _COSTS, strict=True):
            ax.set_title(COST_NAMES[key].removesuffix(" per image"), fontsize=9.5)
            ax.set_xscale("log")
            # Every point carries its value, so that ticks would only crowd the narrow panel.
            ax.tick_params(axis="x", which="both", bottom=False, labelbottom=False)
            ax.grid(axis="x", visible=False)
            ax.set_xlabel("log scale", color=GREY, fontsize=8.5)
            low, high = ax.get_xlim()
            ax.set_xlim(low / 2.2, high * 2.2)
        for ax in axes:
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="y", visible=False)
            for line in range(len(devices) - 1):
                ax.axhline(line + 0.5, color="#d0d0d0", linewidth=0.8)
        _systems_legend(figure, shown)
        first = rows[0]
        seeds = len({row["seed"] for row in rows if row["system"] == "kdnas"})
        text = f"{first['dataset']}, {_labels(first['labels'])}, {_seeds(seeds)}"
        text += "; costs are the transmitter's, mean over seeds"
        heading(figure, "Accuracy and cost by device class", text)
    return figure


def seed_bands_figure(rows: Sequence[Row]) -> "Figure":
    """Accuracy against SNR at full length, mean over seeds with bands of one standard deviation.

    Args:
        rows: Rows of a published table, of one data set and one number of labels.

    Returns:
        The figure: one row of panels for each channel, one column for each device class; ``kdnas`` solid,
        ``no-kd`` dashed, the teacher's mean dotted.

    Raises:
        InputError: No row has a channel.
    """
    sent = [row for row in rows if row["channel"] is not None and row["system"] in ("kdnas", "no-kd")]
    if not sent:
        raise InputError("rows: no row of kdnas or no-kd has a channel, so there is nothing to draw")
    devices = list(dict.fromkeys(row["device"] for row in sent))
    channels = list(dict.fromkeys(row["channel"] for row in sent))
    full = {device: max(row["symbols"] for row in sent if row["device"] == device) for device in devices}
    sent = [row for row in sent if row["symbols"] == full[row["device"]]]
    lines = [{**row, "accuracy": row["mean"]} for row in summarise(sent)]
    teachers = summarise([row for row in rows if row["system"] == "teacher"], by=("device",))
    clean = {row["device"]: row["mean"] for row in teachers}
    with style():
        figure = new_figure(0.9 + 3.1 * len(devices), 1.6 + 2.6 * len(channels))
        axes = figure.subplots(len(channels), len(devices), sharex=True, sharey=True, squeeze=False)
        bands = [{**row, "ci95": row["std"]} for row in lines]
        limits = y_limits(bands, max(clean.values(), default=None))
        for channel, line in zip(channels, axes, strict=True):
            for device, ax in zip(devices, line, strict=True):
                for system, look in (("no-kd", "--"), ("kdnas", "-")):
                    here = (device, channel, system)
                    chosen = [row for row in lines if (row["device"], row["channel"], row["system"]) == here]
                    if chosen:
                        colour = SYSTEM_COLOURS[system]
                        draw_line(ax, chosen, "snr_db", band="std", color=colour, linestyle=look, marker="o")
                if device in clean:
                    draw_teacher(ax, clean[device])
                if channel == channels[0]:
                    ax.set_title(f"{device}, {full[device]} symbols")
                if device == devices[0]:
                    ax.set_ylabel(f"{CHANNEL_NAMES.get(channel, channel)}\naccuracy")
                ax.set_ylim(limits)
                ax.set_xticks(sorted({row["snr_db"] for row in lines}))
        for ax in axes[-1]:
            ax.set_xlabel("SNR $E_s/N_0$ (dB)")
        to_percent(*axes.flat)
        systems = sorted({row["system"] for row in sent})
        seeds = len({row["seed"] for row in sent})
        teacher = "teacher, no channel" if clean else ""
        style_legend(
            figure,
            systems,
            "± 1 std over seeds" if seeds > 1 else "",
            teacher=teacher,
            colours=SYSTEM_COLOURS,
        )
        first = rows[0]
        text = f"{first['dataset']}, {_labels(first['labels'])}, {_seeds(seeds)}, full length"
        heading(figure, "Accuracy against SNR by device class", text)
    return figure


def _device_accuracy(ax: "Axes", place: int, points: Sequence[Row]) -> set[str]:
    systems = [system for system in _MARKERS if any(row["system"] == system for row in points)]
    chance = [row["accuracy"] for row in points if row["system"].startswith("random")]
    shown = set(systems)
    heights = {"kdnas": -0.22, "no-kd": -0.02, "teacher": 0.18}
    for system in systems:
        y = place + heights[system]
        colour = SYSTEM_COLOURS[system]
        values = [row["accuracy"] for row in points if row["system"] == system]
        total = summarise([row for row in points if row["system"] == system], by=("system",))[0]
        ax.plot(values, [y] * len(values), "|", color=colour, alpha=0.7, markersize=8)
        ax.errorbar(
            total["mean"],
            y,
            xerr=total["std"],
            fmt=_MARKERS[system],
            color=colour,
            markersize=7,
            capsize=3,
            zorder=3,
        )
        spread = "" if total["std"] is None else f" ± {100 * total['std']:.1f}"
        text = f"{100 * total['mean']:.1f}{spread} %"
        right = max([*values, total["mean"] + (total["std"] or 0)])
        ax.annotate(text, (right, y), (9, 0), textcoords="offset points", va="center", fontsize=8, color=colour)
    if chance:
        import numpy as np

        y = place + 0.36
        ax.plot(chance, [y] * len(chance), "|", color=GREY, markersize=8)
        ax.plot(np.median(chance), y, "^", color=GREY, markersize=6)
        spot = (max(chance), y)
        text = f"median {100 * np.median(chance):.1f} %"
        ax.annotate(text, spot, (9, 0), textcoords="offset points", va="center", fontsize=8, color=GREY)
        shown.add("random")
    return shown


def _systems_legend(figure: "Figure", shown: set[str]) -> None:
    from matplotlib.lines import Line2D

    names = {
        **SYSTEM_NAMES,
        "no-kd": "no KD: same network without the teacher",
        "teacher": "teacher, no channel",
    }
    handles: list[Any] = [
        Line2D([], [], color=SYSTEM_COLOURS[system], marker=_MARKERS[system], markersize=7, label=names[system])
        for system in _MARKERS
        if system in shown
    ]
    if "random" in shown:
        name = "random architectures in the same budgets"
        handles.append(Line2D([], [], color=GREY, marker="^", linestyle="", label=name))
    handles.append(Line2D([], [], color=BLACK, marker="|", linestyle="", markersize=8, label="single runs"))
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), fontsize=8.5, columnspacing=1.4)


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _labels(labels: int | str) -> str:
    return "all labels" if labels == "all" else f"{labels:,} labels"
