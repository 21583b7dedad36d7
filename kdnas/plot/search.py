"""What the search did: its trials, how well they rank, and the choices as they settle."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdnas.errors import InputError
from kdnas.evaluate.statistics import rank_correlation
from kdnas.plot.style import BLUE, GREY, VERMILLION, heading, new_figure, style, to_percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS_PER_PANEL = 48


def trials_figure(trials: Sequence[Mapping[str, Any]]) -> "Figure":
    """Accuracy of each trial against its worst cost over budget.

    Args:
        trials: ``{number, accuracy, ratio, feasible}``: accuracy as a fraction on the architecture split,
            ``ratio`` the largest of cost / budget (1 is the limit); both null for a trial that was stopped
            early.

    Returns:
        The figure: trials inside the budgets as discs, the others as crosses, the best one inside ringed.

    Raises:
        InputError: No trial has both numbers.
    """
    done = [trial for trial in trials if trial["accuracy"] is not None and trial["ratio"] is not None]
    if not done:
        raise InputError("trials: none has both an accuracy and a cost ratio; raise tune.trials or turn pruning off")
    inside = [trial for trial in done if trial["feasible"]]
    outside = [trial for trial in done if not trial["feasible"]]
    with style():
        figure = new_figure(6.6, 4.4)
        ax = figure.subplots()
        ax.axvline(1.0, color=VERMILLION, linewidth=1.8, label="budget")
        for group, marker, colour, name in (
            (inside, "o", BLUE, "inside every budget"),
            (outside, "X", GREY, "over a budget"),
        ):
            if group:
                x, y = [t["ratio"] for t in group], [t["accuracy"] for t in group]
                ax.scatter(x, y, s=46, marker=marker, color=colour, linewidths=0, label=name, zorder=3)
        if inside:
            best = max(inside, key=lambda trial: trial["accuracy"])
            ax.scatter(
                best["ratio"], best["accuracy"], s=150, facecolors="none", edgecolors="black", linewidths=1.3,
                label=f"best inside: trial {best['number']}, {100 * best['accuracy']:.1f} %", zorder=4,
            )  # fmt: skip
        for trial in done:
            side = -1 if trial["ratio"] <= 1 else 1  # away from the budget's line
            ax.annotate(
                str(trial["number"]),
                (trial["ratio"], trial["accuracy"]),
                (7 * side, 4),
                textcoords="offset points",
                ha="right" if side < 0 else "left",
                fontsize=7.5,
                color=GREY,
            )
        ax.margins(0.08)
        ax.set_xlabel("largest cost / budget")
        ax.set_ylabel("accuracy, architecture split")
        to_percent(ax)
        figure.legend(loc="outside lower left", ncols=4, fontsize=8.5, handletextpad=0.3, columnspacing=1.2)
        missing = len(trials) - len(done)
        stopped = f", {missing} stopped early (not shown)" if missing else ""
        heading(figure, "Trials of the tuning", f"{len(trials)} trials{stopped}; numbers are trial numbers")
    return figure


def ranks_figure(pairs: Sequence[Mapping[str, float]]) -> "Figure":
    """Accuracy after full training against accuracy as a trial: does the short trial rank architectures?

    Args:
        pairs: ``{trial_accuracy, trained_accuracy}``, fractions on the architecture split.

    Returns:
        The figure, with Spearman's rank correlation in its title line.

    Raises:
        InputError: No pair.
    """
    if not pairs:
        raise InputError("ranks: no architecture was trained in full, so there is nothing to draw")
    x = [pair["trial_accuracy"] for pair in pairs]
    y = [pair["trained_accuracy"] for pair in pairs]
    rho = rank_correlation(x, y)
    with style():
        figure = new_figure(5.4, 4.6)
        ax = figure.subplots()
        ax.scatter(x, y, s=46, color=BLUE, linewidths=0, zorder=3)
        ax.margins(0.1)
        ax.set_xlabel("accuracy as a trial (inherited weights)")
        ax.set_ylabel("accuracy after full training")
        to_percent(ax)
        to_percent(ax, axis="x")
        text = "not defined" if rho is None else f"{rho:.2f}".replace("-", "−")
        heading(figure, "Do trials rank architectures?", f"Spearman's ρ = {text}, {len(pairs)} architectures")
    return figure


def alphas_figure(history: Sequence[Mapping[str, Any]], choices: Mapping[str, Sequence[Any]] | None = None) -> "Figure":
    """The probability of every choice over the epochs of a search: rows are choices, columns epochs.

    Args:
        history: ``{epoch, probs: {label: [probability of each choice]}}``, one for each epoch, the same
            labels in all.
        choices: What the choices of a label are called, for example ``{"block1/kernel": [3, 5, 7]}``; without
            it they are numbered from 0.

    Returns:
        The figure; labels are separated by white lines, and long lists continue in further panels.

    Raises:
        InputError: No epoch, or an epoch whose labels or numbers of choices differ from the first one's, or
            a label whose names are not as many as its choices.
    """
    import numpy as np

    if not history or not history[0]["probs"]:
        raise InputError("alphas: no epoch with probabilities, so there is nothing to draw")
    history = sorted(history, key=lambda item: item["epoch"])
    sizes = {label: len(values) for label, values in history[0]["probs"].items()}
    for item in history:
        if {label: len(values) for label, values in item["probs"].items()} != sizes:
            raise InputError(f"alphas: epoch {item['epoch']} has other labels or choices than the first one")
    for label, names in (choices or {}).items():
        if label in sizes and len(names) != sizes[label]:
            raise InputError(f"choices: {label} has {len(names)} names for {sizes[label]} probabilities")
    epochs = [item["epoch"] for item in history]
    panels = _fill_panels(sizes)
    rows = max(sum(sizes[label] for label in panel) for panel in panels)
    with style():
        figure = new_figure(1.2 + max(4.6, 3.9 * len(panels)), 1.7 + 0.155 * rows)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for ax, panel in zip(axes, panels, strict=True):
            table = np.array([[p for label in panel for p in item["probs"][label]] for item in history]).T
            image = ax.imshow(table, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
            ends = np.cumsum([sizes[label] for label in panel])
            names = [str(name) for label in panel for name in (choices or {}).get(label, range(sizes[label]))]
            ax.set_yticks(range(len(names)), names, fontsize=6)
            ax.tick_params(axis="y", length=0, pad=2)
            for label, end in zip(panel, ends, strict=True):
                ax.annotate(
                    label,
                    (0.0, end - sizes[label] / 2 - 0.5),
                    (-9.0 - 4.2 * max(map(len, names)), 0),  # left of the longest choice
                    xycoords=("axes fraction", "data"),
                    textcoords="offset points",
                    ha="right",
                    va="center",
                    fontsize=8,
                )
            for end in ends[:-1]:
                ax.axhline(end - 0.5, color="white", linewidth=1.6)
            ax.set_ylim(rows - 0.5, -0.5)
            ax.set_facecolor("white")
            step = math.ceil(len(epochs) / 8)
            ax.set_xticks(range(0, len(epochs), step), [str(epoch) for epoch in epochs[::step]])
            ax.set_xlabel("epoch")
            ax.grid(visible=False)
            for side in ax.spines.values():
                side.set_visible(False)
        bar = figure.colorbar(image, ax=list(axes), location="right", fraction=0.03, pad=0.02, shrink=0.6)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.set_label("probability of the choice")
        heading(figure, "Choices over the search", f"{len(sizes)} choices, {len(epochs)} epochs")
    return figure


def _fill_panels(sizes: Mapping[str, int]) -> list[list[str]]:
    panels: list[list[str]] = [[]]
    total = sum(sizes.values())
    share = total / math.ceil(total / _ROWS_PER_PANEL)  # equally long panels
    filled = 0
    for label, size in sizes.items():
        if filled + size / 2 > share * len(panels) and panels[-1]:
            panels.append([])
        panels[-1].append(label)
        filled += size
    return panels
