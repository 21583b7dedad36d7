"""Figures of the tables about tuning, and of the report over device classes, each from its rows alone."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kdnas.errors import InputError
from kdnas.evaluate.pareto import pareto_front
from kdnas.evaluate.statistics import rank_correlation
from kdnas.plot.cost import COST_NAMES, quantity
from kdnas.plot.lines import Row, accuracy_axis, beside, dot, dots, groups_of, name_lines, only, seeds_text, signed
from kdnas.plot.pairs import mean_of, std_of, two_errors
from kdnas.plot.style import (
    BLUE,
    CHANNEL_NAMES,
    CYCLE,
    GREY,
    MARKERS,
    ORANGE,
    heading,
    new_figure,
    style,
    to_percent,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PROXY_NAMES = {"clean": "no channel", "noise": "bare features through the channel", "codec": "a short codec training"}
_JUDGED_NAMES = {"labels": "labelled images", "all": "all images, by the teacher"}


def pareto_figure(rows: Sequence[Row]) -> "Figure":
    """Accuracy against each cost, one mark for each device class and seed, with the front over their means.

    Args:
        rows: Of ``pareto.json``.

    Returns:
        The figure: a panel for each cost, logarithmic; classes on the front of a panel are joined by a line.
    """
    classes = groups_of(rows, "device")
    costs = [cost for cost in COST_NAMES if all(cost in row for row in rows)]
    with style():
        figure = new_figure(2.7 * len(costs) + 0.4, 4.2)
        axes = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
        means = {name: mean_of([row["accuracy"] for row in group]) for name, group in classes.items()}
        for ax, cost in zip(axes, costs, strict=True):
            places = {name: mean_of([row[cost] for row in group]) for name, group in classes.items()}
            for index, (name, group) in enumerate(classes.items()):
                look = {"color": CYCLE[index % len(CYCLE)], "marker": MARKERS[index % len(MARKERS)]}
                ax.plot([row[cost] for row in group], [row["accuracy"] for row in group], linestyle="", markersize=4,
                        alpha=0.55, **look)  # fmt: skip
                std = std_of([row["accuracy"] for row in group])
                ax.errorbar(places[name], means[name], yerr=std, capsize=3, markersize=8, zorder=3, **look)
            front = pareto_front(list(places.values()), list(means.values()))
            line = sorted((places[name], means[name]) for name, on in zip(classes, front, strict=True) if on)
            ax.plot(*zip(*line, strict=True), color=GREY, linewidth=1.3, zorder=1)
            ax.set_xscale("log")
            ax.margins(x=0.14)
            ax.set_xlabel(COST_NAMES[cost])
            low, high = min(places.values()), max(places.values())
            ax.set_xticks([low, high] if high > 1.5 * low else [low], [], minor=False)
            ax.set_xticklabels([quantity(cost, v) for v in ([low, high] if high > 1.5 * low else [low])])
            ax.minorticks_off()
        axes[0].set_ylabel("top-1 accuracy on test images")
        to_percent(axes[0])
        handles = [
            dot(CYCLE[i % len(CYCLE)], name, marker=MARKERS[i % len(MARKERS)], size=7) for i, name in enumerate(classes)
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), fontsize=8.5)
        channel = rows[0]["channel"]
        text = f"{only(rows, 'dataset')}, {seeds_text(rows)}; {CHANNEL_NAMES.get(channel, channel)}, full length"
        snrs = sorted({row["snr_db"] for row in rows})
        text += f", {' or '.join(f'{snr:g}' for snr in snrs)} dB"
        heading(figure, "What accuracy costs, by device class", f"{text}; grey: what no other class beats")
    return figure


def tuning_figure(rows: Sequence[Row]) -> "Figure":
    """The study's weights against fixed ones: test accuracy by device class, and the paired difference.

    Args:
        rows: Of ``tuning.json``.

    Returns:
        The figure: single seeds and their mean; right of each class the gain with two standard errors.

    Raises:
        InputError: A device class has no seed with both.
    """
    classes = groups_of(rows, "device")
    names: list[str] = []
    with style():
        figure = new_figure(8.8, 1.9 + 0.72 * len(classes))
        ax = figure.subplots()
        for name, group in classes.items():
            found = {
                system: {row["seed"]: row["accuracy"] for row in group if row["system"] == system}
                for system in ("study", "default")
            }
            both = sorted(found["study"].keys() & found["default"].keys())
            if not both:
                raise InputError(f"rows: {name} has no seed with both study and default")
            for system, colour in (("study", BLUE), ("default", ORANGE)):
                values = [found[system][seed] for seed in both]
                dots(ax, len(names), values, colour, std_of(values))
                names.append(f"{name}, {'the study’s' if system == 'study' else 'fixed'}")
            gains = [100 * (found["study"][seed] - found["default"][seed]) for seed in both]
            error = two_errors(gains)
            text = signed(mean_of(gains)) + ("" if error is None else f" ± {error:.1f}") + " points"
            beside(ax, len(names) - 1.5, text, fontweight="bold")
        name_lines(ax, names)
        accuracy_axis(ax, 7)
        ax.set_xlabel("top-1 accuracy on test images")
        heading(
            figure, "Weights of a study against fixed ones",
            f"{seeds_text(rows)}; right: the gain of the study, paired by seed, ± two standard errors",
        )  # fmt: skip
    return figure


def proxies_figure(rows: Sequence[Row]) -> "Figure":
    """What cheap measures say of trials against the accuracy after full training, with their rank correlations.

    Args:
        rows: Of ``proxies.json``.

    Returns:
        The figure: a panel for each measure and way of judging.
    """
    kinds = list(dict.fromkeys((row["proxy"], row["judged"]) for row in rows))
    proxies = list(dict.fromkeys(proxy for proxy, _ in kinds))
    judges = list(dict.fromkeys(judged for _, judged in kinds))
    with style():
        figure = new_figure(1.0 + 3.2 * len(proxies), 1.2 + 2.9 * len(judges))
        axes = figure.subplots(len(judges), len(proxies), squeeze=False, sharey=True)
        for line, judged in enumerate(judges):
            for column, proxy in enumerate(proxies):
                ax, here = axes[line][column], [r for r in rows if (r["proxy"], r["judged"]) == (proxy, judged)]
                x, y = [row["value"] for row in here], [row["trained"] for row in here]
                ax.scatter(x, y, s=34, color=BLUE, linewidths=0, zorder=3)
                ax.margins(0.1)
                rho = mean_correlation(here)
                told = "not defined" if rho is None else f"{rho:.2f}".replace("-", "−")
                ax.set_title(f"{_PROXY_NAMES.get(proxy, proxy)}\nρ = {told}", fontsize=9.5)
                to_percent(ax)
                to_percent(ax, axis="x")
                if line == len(judges) - 1:
                    ax.set_xlabel("value as a trial")
            axes[line][0].set_ylabel(f"judged by {_JUDGED_NAMES.get(judged, judged)}\n\naccuracy, fully trained")
        count = len({(row["device"], row["seed"], row["architecture"]) for row in rows})
        parts = [only(rows, "device"), f"{count} architectures", "Spearman's ρ within a class and seed"]
        heading(figure, "Do cheap measures rank architectures?", ", ".join(filter(None, parts)))
    return figure


def mean_correlation(rows: Sequence[Row]) -> float | None:
    """Spearman's correlation of value and trained accuracy, the mean over device classes and seeds."""
    found = [
        rank_correlation([row["value"] for row in group], [row["trained"] for row in group])
        for group in groups_of([{**row, "run": f"{row['device']} {row['seed']}"} for row in rows], "run").values()
    ]
    known = [rho for rho in found if rho is not None]
    return mean_of(known) if known else None


def workers_figure(rows: Sequence[Row]) -> "Figure":
    """Trials per hour against the number of workers.

    Args:
        rows: Of ``workers.json``.

    Returns:
        The figure, with the line of perfect sharing through the fewest workers.
    """
    rows = sorted(rows, key=lambda row: row["workers"])
    x, y = [row["workers"] for row in rows], [row["trials_per_hour"] for row in rows]
    with style():
        figure = new_figure(5.6, 4.3)
        ax = figure.subplots()
        ax.plot([0, max(x)], [0, max(x) * y[0] / x[0]], color=GREY, linestyle="--", label="perfect sharing")
        ax.plot(x, y, marker="o", color=BLUE, label="measured")
        for row in rows:
            ax.annotate(f"{row['efficiency']:.0%}", (row["workers"], row["trials_per_hour"]), (6, -12),
                        textcoords="offset points", fontsize=9)  # fmt: skip
        cores = only(rows, "cores", "{} cores")
        ax.set_xticks(x)
        ax.set_xlim(0, 1.15 * max(x))
        ax.set_ylim(0, 1.15 * max(*y, max(x) * y[0] / x[0]))
        ax.set_xlabel("workers on one machine" + (f" of {cores}" if cores else ""))
        ax.set_ylabel("trials per hour")
        figure.legend(loc="outside lower left", ncols=2)
        heading(figure, "Workers that share a study", "per cent: trials per hour and worker over those of one")
    return figure


FIGURES: dict[str, Callable[[Sequence[Row]], "Figure"]] = {
    "pareto": pareto_figure,
    "tuning": tuning_figure,
    "proxies": proxies_figure,
    "workers": workers_figure,
}
