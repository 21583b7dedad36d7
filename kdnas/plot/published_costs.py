"""The figures of the published tables about costs: what a model says against what is measured."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kdnas.evaluate.statistics import rank_correlation
from kdnas.plot.lines import Row, groups_of, name_lines, only, spread
from kdnas.plot.style import BLACK, BLUE, GREY, ORANGE, SKY, heading, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ERROR = 0.1  # the band about equality


def latency_figure(rows: Sequence[Row]) -> "Figure":
    """Predicted against measured latency of networks that no fit has seen, a panel for each data type.

    Args:
        rows: Of ``latency.json``.

    Returns:
        The figure: the line of equality with a band of 10 %; median error and rank correlation over each panel.
    """
    groups = groups_of(rows, "dtype", "space")
    with style():
        figure = new_figure(0.8 + 4.7 * len(groups), 4.9)
        axes = figure.subplots(1, len(groups), squeeze=False)[0]
        for ax, (name, own) in zip(axes, groups.items(), strict=True):
            predicted, measured = ([1e6 * row[key] for row in own] for key in ("predicted_s", "measured_s"))
            low, high = 0.9 * min(*predicted, *measured), 1.05 * max(*predicted, *measured)
            ends = [low, high]
            ax.fill_between(
                ends, [(1 - _ERROR) * x for x in ends], [(1 + _ERROR) * x for x in ends], color=SKY, alpha=0.25,
                linewidth=0, label="within 10 %",
            )  # fmt: skip
            ax.plot(ends, ends, color=GREY, linewidth=1.2, label="equal")
            ax.plot(measured, predicted, "o", color=BLUE, markersize=5, alpha=0.8, label="one network")
            ax.set_xlim(low, high)
            ax.set_ylim(low, high)
            ax.set_aspect("equal")
            errors = sorted(abs(p / m - 1) for p, m in zip(predicted, measured, strict=True))
            rho = rank_correlation(predicted, measured)
            told = f"median error {100 * _median(errors):.1f} %"
            ax.set_title(f"{name}: {told}" + (f", rank correlation {rho:.3f}" if rho is not None else ""), fontsize=10)
            ax.set_xlabel("measured (µs)")
        axes[0].set_ylabel("sum over the table's operations (µs)")
        axes[0].legend(loc="upper left", fontsize=8.5)
        networks = len({row["network"] for row in rows})
        parts = [only(rows, "space", "space {}"), f"{networks} networks that the fit has not seen"]
        heading(figure, "Latency: model against measurement", "; ".join(filter(None, parts)))
    return figure


def sram_figure(rows: Sequence[Row]) -> "Figure":
    """Activation memory by the steps and as torch runs the network, over that of the best order of execution.

    Args:
        rows: Of ``sram.json``.

    Returns:
        The figure: a line for each space, a mark for each network; 1 is the least there is.
    """
    groups = groups_of(rows, "space")
    with style():
        figure = new_figure(8.6, 1.9 + 0.75 * len(groups))
        ax = figure.subplots()
        for place, own in enumerate(groups.values()):
            heights = [0.6 * (y - place) for y in spread(place, len(own))]
            for key, colour, marker, lift, label in (
                ("model_bytes", BLUE, "o", -0.17, "by the steps, as budgets count it"),
                ("measured_bytes", ORANGE, "D", 0.17, "held by torch, in the order written"),
            ):
                ax.plot(
                    [row[key] / row["planner_bytes"] for row in own], [place + lift + y for y in heights], marker,
                    color=colour, markersize=4.5, alpha=0.75, linestyle="", label=None if place else label,
                )  # fmt: skip
        ax.axvline(1, color=BLACK, linewidth=1.4, label="best order of execution")
        name_lines(ax, list(groups))
        ax.set_xlabel("bytes of activations / those of the best order")
        figure.legend(loc="outside lower left", ncols=3, fontsize=8.5)
        heading(figure, "Activation memory: model, plan and measurement", f"{len(rows)} random networks, int8")
    return figure


FIGURES: dict[str, Callable[[Sequence[Row]], "Figure"]] = {"latency": latency_figure, "sram": sram_figure}


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
