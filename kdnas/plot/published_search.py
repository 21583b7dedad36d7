"""Figures of the published tables about the search, each from the rows of its table alone."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kdnas.evaluate.statistics import summarise
from kdnas.plot.cost import COST_NAMES, quantity
from kdnas.plot.lines import (
    Row,
    accuracy_axis,
    bars,
    beside,
    dot,
    dots,
    dots_legend,
    groups_of,
    name_lines,
    only,
    seeds_text,
    signed,
    spread,
)
from kdnas.plot.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    heading,
    new_figure,
    style,
    to_percent,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def search_speed_figure(rows: Sequence[Row]) -> "Figure":
    """Seconds of a step of the search by system, and its peak memory, one line of panels for each space.

    Args:
        rows: Of ``search_speed.json``.

    Returns:
        The figure: bars from 0, with their numbers, and how many times as long as the largest network's step.
    """
    groups = groups_of(rows, "space", "device")
    counts = [len(group) for group in groups.values()]
    with style():
        figure = new_figure(10.2, 1.5 + 0.62 * len(groups) + 0.31 * sum(counts))
        axes = figure.subplots(len(groups), 2, sharey="row", squeeze=False, height_ratios=counts, width_ratios=[1.5, 1])
        for (name, group), (time, memory) in zip(groups.items(), axes, strict=True):
            seconds = max(row["step_s"] for row in group) >= 1
            colours = [_SPEED_COLOURS.get(row["system"], PURPLE) for row in group]
            lengths = [row["step_s"] * (1 if seconds else 1e3) for row in group]
            texts = [_duration(row["step_s"], seconds) + _times(row["ratio_to_largest"]) for row in group]
            bars(time, lengths, colours, texts, room=0.62)
            megabytes = [row["peak_bytes"] / 1e6 for row in group]
            bars(memory, megabytes, colours, [f"{value:,.0f} MB" for value in megabytes], room=0.3)
            name_lines(time, [_speed_label(row) for row in group])
            time.set_title(f"{name}: time of a step")
            memory.set_title("peak memory")
            time.set_xlabel("seconds per step" if seconds else "milliseconds per step")
            memory.set_xlabel("MB over what was held before")
        parts = [only(rows, "device"), only(rows, "batch_size", "batches of {}")]
        parts.append(only(rows, "threads", "{} threads"))
        heading(figure, "Speed of the search", "; ".join(["less is better", *filter(None, parts)]))
    return figure


def budgets_figure(rows: Sequence[Row]) -> "Figure":
    """How much of each budget the found transmitters use: dots are seeds, one panel for each device class.

    Args:
        rows: Of ``budgets.json``.

    Returns:
        The figure, with 90 to 100 % of a budget shaded and the limit drawn; the cost that binds is bold.
    """
    groups = groups_of(rows, "device")
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
                ax.plot(values, spread(place, len(values)), marker, color=colour, alpha=0.85, markersize=6, zorder=3)
                bold = "bold" if cost == binding else "normal"
                beside(ax, place, _use(group, cost, values), fontweight=bold)
            name_lines(ax, [COST_NAMES.get(cost, cost) for cost in uses])
            ax.get_yticklabels()[list(uses).index(binding)].set_fontweight("bold")
            fits = [row["largest_fits"] for row in group]
            note = " (the space's largest network fits too)" if all(fits) else ""
            ax.set_title(device + note)
            ax.set_xlim(0, right)
        to_percent(axes[-1], axis="x")
        axes[-1].set_xlabel("cost of the whole transmitter / budget of the device class")
        handles = [band, limit, dot(GREY, "single seeds (mark and colour: the cost)")]
        names = ["90 to 100 % of the budget", "budget", handles[2].get_label()]
        figure.legend(handles, names, loc="outside lower left", ncols=3, fontsize=8.5)
        text = f"{seeds_text(rows)}; right: mean (lowest to highest) of the limit; bold: the cost that binds"
        heading(figure, "What is found, against its budgets", text)
    return figure


def collapse_figure(rows: Sequence[Row]) -> "Figure":
    """What protects a search: gap, accuracy of the derived network and skips, one line of panels for each space.

    Args:
        rows: Of ``collapse.json``.

    Returns:
        The figure: dots are seeds, the large mark and the number are their mean.
    """
    groups = groups_of(rows, "space", "device")
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
                    dots(ax, place, values, BLUE)
                    mean = sum(values) / len(values)
                    beside(ax, place, f"{100 * mean:.1f} %" if key == "accuracy_unlabelled" else signed(mean))
            name_lines(line[0], names[name])
            line[0].axvline(0, color=GREY, linewidth=1.0)
            line[0].set_title(f"{name}: discretisation gap")
            line[1].set_title("derived network's accuracy")
            line[2].set_title("skips")
        axes[-1][0].set_xlabel("relaxed less derived (percentage points)")
        axes[-1][1].set_xlabel("top-1 on the unlabelled images")
        axes[-1][2].set_xlabel("choices that skip")
        accuracy_axis(axes[-1][1], 4)
        _skips_axis(axes[-1][2], max(row["skips"] for row in rows))
        dots_legend(figure)
        parts = [only(rows, "device", "device class {}"), seeds_text(rows), "right of each panel: the mean"]
        heading(figure, "What protects the search from collapse", "; ".join(filter(None, parts)))
    return figure


def search_baselines_figure(rows: Sequence[Row]) -> "Figure":
    """Test accuracy by the way an architecture was found, all trained alike; one panel for each device class.

    Args:
        rows: Of ``search_baselines.json``.

    Returns:
        The figure: dots are seeds (hollow where over a budget), the large mark is mean ± standard deviation.
    """
    groups = groups_of(rows, "device")
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
                dots(ax, place, [row["accuracy"] for row in own], colour, std=total["std"], hollow=hollow)
                std = "" if total["std"] is None else f" ± {100 * total['std']:.1f}"
                text = f"{100 * total['mean']:.1f}{std} %"
                if any(hollow):
                    text += ", over a budget" if all(hollow) else f", {sum(hollow)} of {len(own)} over a budget"
                beside(ax, place, text, color=VERMILLION if any(hollow) else BLACK)
            name_lines(ax, [SYSTEM_LABELS.get(system, system) for system in systems[device]])
            ax.set_title(device)
        axes[-1].set_xlabel("top-1 accuracy on test images")
        accuracy_axis(axes[-1], 6)
        dots_legend(figure, spread=True, hollow=over)
        heading(figure, "The search against other ways to an architecture", f"{seeds_text(rows)}, all trained alike")
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
                dots(ax, place, values, colour)
                beside(ax, place, signed(sum(values) / len(values)))
        name_lines(gaps, [SYSTEM_LABELS.get(system, system) for system in systems])
        gaps.axvline(0, color=GREY, linewidth=1.0)
        gaps.set_title("discretisation gap")
        gaps.set_xlabel("relaxed less derived (percentage points)")
        skips.set_title("skips")
        skips.set_xlabel(f"edges that skip, of the cell's {_EDGES}")
        _skips_axis(skips, _EDGES)
        dots_legend(figure)
        words = {"steps": "{} steps", "channels": "{} channels", "cells": "cells in a stage: {}"}
        sizes = [only(rows, key, text) for key, text in words.items()]
        sizes.append("right of each panel: the mean")
        heading(figure, "Searches in NAS-Bench-201", "; ".join([seeds_text(rows), *filter(None, sizes)]))
    return figure


FIGURES: dict[str, Callable[[Sequence[Row]], "Figure"]] = {
    "search speed": search_speed_figure,
    "budgets": budgets_figure,
    "collapse": collapse_figure,
    "search baselines": search_baselines_figure,
    "NAS-Bench-201": nas_bench_201_figure,
}


def _skips_axis(ax: "Axes", most: float) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlim(-0.04 * max(most, 1) - 0.1, 1.04 * max(most, 1) + 0.1)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


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
