"""Figures of the published tables about the search, each from the rows of its table alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas.evaluate.results import validate_table
from kdnas.evaluate.statistics import summarise
from kdnas.plot.cost import COST_NAMES, quantity
from kdnas.plot.draw import plot_published
from kdnas.plot.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    heading,
    new_figure,
    save,
    style,
    to_percent,
)
from kdnas.run.files import read_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

SYSTEM_LABELS = {
    "kdnas": "kdnas",
    "kdnas-budget": "kdnas, with budgets",
    "random": "best of random",
    "mobilenet-v2": "MobileNetV2, scaled",
    "no-kd-search": "search without KD",
    "no-penalty": "search without penalty",
    "darts": "DARTS",
    "nni": "NNI's DARTS",
    "largest": "largest network, trained",
}
_SPEED_COLOURS = {"kdnas": BLUE, "nni": ORANGE, "largest": GREY}
# VERMILLION is the limit's.
_COST_LOOKS = {
    "params": (BLUE, "o"),
    "macs": (ORANGE, "s"),
    "sram_bytes": (GREEN, "D"),
    "flash_bytes": (PURPLE, "^"),
    "latency_s": (SKY, "P"),
}
_NEAR = 0.9  # of a budget, from where on it is used well
_EDGES = 6  # of a cell of NAS-Bench-201, each of which can become a skip


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
    if kind not in FIGURES:
        return plot_published(json_file, out_dir)
    return save(FIGURES[kind](document["rows"]), Path(out_dir) / Path(json_file).stem)


def search_speed_figure(rows: Sequence[Row]) -> "Figure":
    """Seconds of a step of the search by system, and its peak memory, one line of panels for each space.

    Args:
        rows: Of ``search_speed.json``.

    Returns:
        The figure: bars from 0, with their numbers, and how many times as long as the largest network's step.
    """
    groups = _groups(rows, "space", "device")
    counts = [len(group) for group in groups.values()]
    with style():
        figure = new_figure(10.2, 1.5 + 0.62 * len(groups) + 0.31 * sum(counts))
        axes = figure.subplots(len(groups), 2, sharey="row", squeeze=False, height_ratios=counts, width_ratios=[1.5, 1])
        for (name, group), (time, memory) in zip(groups.items(), axes, strict=True):
            seconds = max(row["step_s"] for row in group) >= 1
            colours = [_SPEED_COLOURS.get(row["system"], PURPLE) for row in group]
            lengths = [row["step_s"] * (1 if seconds else 1e3) for row in group]
            texts = [_duration(row["step_s"], seconds) + _times(row["ratio_to_largest"]) for row in group]
            _bars(time, lengths, colours, texts, room=0.62)
            megabytes = [row["peak_bytes"] / 1e6 for row in group]
            _bars(memory, megabytes, colours, [f"{value:,.0f} MB" for value in megabytes], room=0.3)
            _name_lines(time, [_speed_label(row) for row in group])
            time.set_title(f"{name}: time of a step")
            memory.set_title("peak memory")
            time.set_xlabel("seconds per step" if seconds else "milliseconds per step")
            memory.set_xlabel("MB over what was held before")
        parts = [_only(rows, "device"), _only(rows, "batch_size", "batches of {}")]
        parts.append(_only(rows, "threads", "{} threads"))
        heading(figure, "Speed of the search", "; ".join(["less is better", *filter(None, parts)]))
    return figure


def budgets_figure(rows: Sequence[Row]) -> "Figure":
    """How much of each budget the found transmitters use: dots are seeds, one panel for each device class.

    Args:
        rows: Of ``budgets.json``.

    Returns:
        The figure, with 90 to 100 % of a budget shaded and the limit drawn; the cost that binds is bold.
    """
    groups = _groups(rows, "device")
    costs = {device: list(dict.fromkeys(row["cost"] for row in group)) for device, group in groups.items()}
    counts = [len(names) for names in costs.values()]
    right = max(1.05, *(1.04 * row["value"] / row["budget"] for row in rows))
    with style():
        figure = new_figure(8.6, 1.7 + 0.42 * len(groups) + 0.3 * sum(counts))
        axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=counts)[:, 0]
        for (device, group), ax in zip(groups.items(), axes, strict=True):
            uses = {
                cost: [row["value"] / row["budget"] for row in group if row["cost"] == cost] for cost in costs[device]
            }
            binding = max(uses, key=lambda cost: sum(uses[cost]) / len(uses[cost]))
            band = ax.axvspan(_NEAR, 1.0, color=GREEN, alpha=0.16, linewidth=0)
            limit = ax.axvline(1.0, color=VERMILLION, linewidth=1.8)
            for place, (cost, values) in enumerate(uses.items()):
                colour, marker = _COST_LOOKS.get(cost, (BLACK, "X"))
                ax.plot(values, _spread(place, len(values)), marker, color=colour, alpha=0.85, markersize=6, zorder=3)
                bold = "bold" if cost == binding else "normal"
                _beside(ax, place, _use(group, cost, values), fontweight=bold)
            _name_lines(ax, [COST_NAMES.get(cost, cost) for cost in uses])
            ax.get_yticklabels()[list(uses).index(binding)].set_fontweight("bold")
            fits = [row["largest_fits"] for row in group]
            note = " (the space's largest network fits too)" if all(fits) else ""
            ax.set_title(device + note)
            ax.set_xlim(0, right)
        to_percent(axes[-1], axis="x")
        axes[-1].set_xlabel("cost of the whole transmitter / budget of the device class")
        handles = [band, limit, _dot(GREY, "single seeds (mark and colour: the cost)")]
        names = ["90 to 100 % of the budget", "budget", handles[2].get_label()]
        figure.legend(handles, names, loc="outside lower left", ncols=3, fontsize=8.5)
        text = f"{_seeds(rows)}; right: mean (lowest to highest) of the limit; bold: the cost that binds"
        heading(figure, "What is found, against its budgets", text)
    return figure


def collapse_figure(rows: Sequence[Row]) -> "Figure":
    """What protects a search: gap, accuracy of the derived network and skips, one line of panels for each space.

    Args:
        rows: Of ``collapse.json``.

    Returns:
        The figure: dots are seeds, the large mark and the number are their mean.
    """
    groups = _groups(rows, "space", "device")
    names = {key: list(dict.fromkeys(row["protection"] for row in group)) for key, group in groups.items()}
    counts = [len(own) for own in names.values()]
    with style():
        figure = new_figure(11.2, 1.7 + 0.62 * len(groups) + 0.32 * sum(counts))
        axes = figure.subplots(
            len(groups),
            3,
            sharex="col",
            sharey="row",
            squeeze=False,
            height_ratios=counts,
            width_ratios=[1.25, 1.25, 1],
        )
        for (name, group), line in zip(groups.items(), axes, strict=True):
            for ax, key, scale in zip(line, ("gap", "accuracy_unlabelled", "skips"), (100, 1, 1), strict=True):
                for place, protection in enumerate(names[name]):
                    values = [scale * row[key] for row in group if row["protection"] == protection]
                    _dots(ax, place, values, BLUE)
                    mean = sum(values) / len(values)
                    _beside(ax, place, f"{100 * mean:.1f} %" if key == "accuracy_unlabelled" else _signed(mean))
            _name_lines(line[0], names[name])
            line[0].axvline(0, color=GREY, linewidth=1.0)
            line[0].set_title(f"{name}: discretisation gap")
            line[1].set_title("derived network's accuracy")
            line[2].set_title("skips")
        axes[-1][0].set_xlabel("relaxed less derived (percentage points)")
        axes[-1][1].set_xlabel("top-1 on the unlabelled images")
        axes[-1][2].set_xlabel("choices that skip")
        _accuracy_axis(axes[-1][1], 4)
        _skips_axis(axes[-1][2], max(row["skips"] for row in rows))
        _dots_legend(figure)
        parts = [_only(rows, "device", "device class {}"), _seeds(rows), "right of each panel: the mean"]
        heading(figure, "What protects the search from collapse", "; ".join(filter(None, parts)))
    return figure


def search_baselines_figure(rows: Sequence[Row]) -> "Figure":
    """Test accuracy by the way an architecture was found, all trained alike; one panel for each device class.

    Args:
        rows: Of ``search_baselines.json``.

    Returns:
        The figure: dots are seeds (hollow where over a budget), the large mark is mean ± standard deviation.
    """
    groups = _groups(rows, "device")
    systems = {device: list(dict.fromkeys(row["system"] for row in group)) for device, group in groups.items()}
    counts = [len(own) for own in systems.values()]
    over = any(not row["in_budget"] for row in rows)
    with style():
        figure = new_figure(8.2, 1.7 + 0.42 * len(groups) + 0.42 * sum(counts))
        axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=counts)[:, 0]
        for (device, group), ax in zip(groups.items(), axes, strict=True):
            for place, system in enumerate(systems[device]):
                own = [row for row in group if row["system"] == system]
                colour = BLUE if system == "kdnas" else GREY
                total = summarise(own, by=("system",))[0]
                hollow = [not row["in_budget"] for row in own]
                _dots(ax, place, [row["accuracy"] for row in own], colour, std=total["std"], hollow=hollow)
                std = "" if total["std"] is None else f" ± {100 * total['std']:.1f}"
                text = f"{100 * total['mean']:.1f}{std} %"
                if any(hollow):
                    text += ", over a budget" if all(hollow) else f", {sum(hollow)} of {len(own)} over a budget"
                _beside(ax, place, text, color=VERMILLION if any(hollow) else BLACK)
            _name_lines(ax, [SYSTEM_LABELS.get(system, system) for system in systems[device]])
            ax.set_title(device)
        axes[-1].set_xlabel("top-1 accuracy on test images")
        _accuracy_axis(axes[-1], 6)
        _dots_legend(figure, spread=True, hollow=over)
        heading(figure, "The search against other ways to an architecture", f"{_seeds(rows)}, all trained alike")
    return figure


def nas_bench_201_figure(rows: Sequence[Row]) -> "Figure":
    """Gap and skips of the searches in NAS-Bench-201 by system.

    Args:
        rows: Of ``nas_bench_201.json``.

    Returns:
        The figure: dots are seeds, the large mark and the number are their mean.
    """
    systems = list(dict.fromkeys(row["system"] for row in rows))
    with style():
        figure = new_figure(8.8, 1.9 + 0.5 * len(systems))
        gaps, skips = figure.subplots(1, 2, sharey=True)
        for place, system in enumerate(systems):
            own = [row for row in rows if row["system"] == system]
            colour = BLUE if system.startswith("kdnas") else ORANGE
            for ax, values in ((gaps, [100 * row["gap"] for row in own]), (skips, [row["skips"] for row in own])):
                _dots(ax, place, values, colour)
                _beside(ax, place, _signed(sum(values) / len(values)))
        _name_lines(gaps, [SYSTEM_LABELS.get(system, system) for system in systems])
        gaps.axvline(0, color=GREY, linewidth=1.0)
        gaps.set_title("discretisation gap")
        gaps.set_xlabel("relaxed less derived (percentage points)")
        skips.set_title("skips")
        skips.set_xlabel(f"edges that skip, of the cell's {_EDGES}")
        _skips_axis(skips, _EDGES)
        _dots_legend(figure)
        words = {"steps": "{} steps", "channels": "{} channels", "cells": "cells in a stage: {}"}
        sizes = [_only(rows, key, text) for key, text in words.items()]
        sizes.append("right of each panel: the mean")
        heading(figure, "Searches in NAS-Bench-201", "; ".join([_seeds(rows), *filter(None, sizes)]))
    return figure


FIGURES: dict[str, Callable[[Sequence[Row]], "Figure"]] = {
    "search speed": search_speed_figure,
    "budgets": budgets_figure,
    "collapse": collapse_figure,
    "search baselines": search_baselines_figure,
    "NAS-Bench-201": nas_bench_201_figure,
}


def _groups(rows: Sequence[Row], *keys: str) -> dict[str, list[Row]]:
    """Rows by the first key, and by the others where they differ between rows; in order of appearance."""
    told = [key for key in keys if key == keys[0] or len({row.get(key) for row in rows}) > 1]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(", ".join(str(row.get(key)) for key in told), []).append(row)
    return groups


def _spread(place: float, count: int) -> list[float]:
    """Heights around a line for its seeds, so that equal values do not hide each other."""
    step = min(0.17, 0.5 / max(1, count - 1))
    return [place + step * (index - (count - 1) / 2) for index in range(count)]


def _dots(
    ax: "Axes",
    place: int,
    values: Sequence[float],
    colour: str,
    std: float | None = None,
    hollow: Sequence[bool] | None = None,
) -> None:
    mean = sum(values) / len(values)
    ax.errorbar(mean, place, xerr=std, fmt="D", color=colour, markersize=7.5, capsize=3.5, zorder=2.5, alpha=0.9)
    faces = ["white" if empty else SKY for empty in hollow or [False] * len(values)]
    heights = _spread(place, len(values))
    ax.scatter(values, heights, s=19, c=faces, edgecolors=BLACK, linewidths=0.8, zorder=4)


def _bars(ax: "Axes", lengths: Sequence[float], colours: Sequence[str], texts: Sequence[str], room: float) -> None:
    ax.barh(range(len(lengths)), lengths, color=colours, height=0.66)
    for place, (length, text) in enumerate(zip(lengths, texts, strict=True)):
        ax.annotate(text, (length, place), (5, 0), textcoords="offset points", va="center", fontsize=8.5)
    ax.set_xlim(0, max(lengths) * (1 + room))  # the texts stand right of the bars


def _beside(ax: "Axes", place: int, text: str, **look: Any) -> None:
    """Write ``text`` right of the panel, on the line of ``place``."""
    ax.annotate(text, (1.015, place), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, **look)


def _name_lines(ax: "Axes", names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.45, -0.55)
    for each in {ax, *ax.get_shared_y_axes().get_siblings(ax)}:
        each.tick_params(axis="y", length=0)
        each.grid(axis="y", visible=False)


def _accuracy_axis(ax: "Axes", ticks: int) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(ticks))
    to_percent(ax, axis="x")


def _skips_axis(ax: "Axes", most: float) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlim(-0.04 * max(most, 1) - 0.1, 1.04 * max(most, 1) + 0.1)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _dot(colour: str, label: str, face: str | None = None, marker: str = MARKERS[0], size: float = 4.5) -> Any:
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], color=colour, marker=marker, markersize=size, linestyle="", label=label,
        markerfacecolor=face or colour, markeredgecolor=BLACK if face else colour,
    )  # fmt: skip


def _dots_legend(figure: "Figure", spread: bool = False, hollow: bool = False) -> None:
    name = "mean ± standard deviation" if spread else "mean"
    handles = [_dot(GREY, name, marker="D", size=7.5), _dot(BLACK, "single seeds", SKY)]
    if hollow:
        handles.append(_dot(BLACK, "single seeds over a budget", "white"))
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), fontsize=8.5)


def _speed_label(row: Row) -> str:
    name = str(SYSTEM_LABELS.get(row["system"], row["system"]))
    return f"{name}, {row['relaxation']}" if row["relaxation"] else name


def _duration(value: float, seconds: bool) -> str:
    if seconds:
        return f"{value:.3g} s"
    return f"{1e3 * value:.0f} ms" if value >= 0.1 else f"{1e3 * value:.3g} ms"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f",  {ratio:.2f} × the largest"


def _use(group: Sequence[Row], cost: str, values: Sequence[float]) -> str:
    """Mean use of a budget, its range over seeds, and the limit."""
    limit = quantity(cost, next(row["budget"] for row in group if row["cost"] == cost))
    low, high = (f"{100 * value:.1f}" for value in (min(values), max(values)))
    around = "" if low == high else f" ({low} to {high})"
    return f"{100 * sum(values) / len(values):.1f} %{around} of {limit}"


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "−")  # no minus before 0.0


def _only(rows: Sequence[Row], key: str, text: str = "{}") -> str:
    """The one value of a column in words; nothing where it has several, or none."""
    values = {row.get(key) for row in rows}
    value = values.pop() if len(values) == 1 else None
    if value == 1:
        text = text.removesuffix("s")
    return "" if value is None else text.format(f"{value:,}" if isinstance(value, int) else value)


def _seeds(rows: Sequence[Row]) -> str:
    count = len({row["seed"] for row in rows})
    return "1 seed" if count == 1 else f"{count} seeds"
