"""Figures of the published tables about what distillation is worth, each from the rows of its table alone."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from kdnas.errors import InputError
from kdnas.evaluate.statistics import summarise
from kdnas.plot.curves import draw_line
from kdnas.plot.lines import (
    Row,
    accuracy_axis,
    beside,
    dot,
    dots,
    groups_of,
    labels_text,
    name_lines,
    only,
    seeds_text,
    spread,
)
from kdnas.plot.pairs import mean_of, paired_points, std_of, two_errors
from kdnas.plot.style import (
    BLACK,
    BLUE,
    CHANNEL_NAMES,
    GREEN,
    GREY,
    MARKERS,
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

# By system: its name, colour and mark.
_TEACHING = {
    "ce": ("CE alone", GREY, "o"),
    "kd": ("KD on labelled", ORANGE, "s"),
    "kd-all": ("KD on all images", BLUE, "D"),
    "ib": ("CE + bottleneck", PURPLE, "^"),
    "full": ("everything", GREEN, "v"),
}
_STAGES = {
    "two-stage": ("two stages", BLUE, "o"),
    "one-stage": ("one stage", ORANGE, "s"),
    "codec-only": ("codec only", GREEN, "D"),
    "rising-snr": ("rising SNR", VERMILLION, "^"),
    "consistency": ("consistency", PURPLE, "v"),
    "feature-noise": ("noise on features", BLACK, "P"),
}
_LOSS_PARTS = {
    "ce": "cross-entropy",
    "feature": "features",
    "cosine": "cosine of features",
    "logit": "logits",
    "decoupled": "decoupled logits",
    "distance": "distances",
    "angle": "angles",
}
_GOAL = 0.5  # percentage points that KD is to be above CE with all labels


def few_labels_figure(rows: Sequence[Row]) -> "Figure":
    """Accuracy against the number of labels by what teaches, one panel for each data set.

    Args:
        rows: Of ``few_labels.json``.

    Returns:
        The figure: means with bands of one standard deviation over seeds, the seeds as small marks; "all" stands at
        the number of images where that is known, else right of all numbers.
    """
    groups = groups_of(rows, "dataset")
    with style():
        figure = new_figure(max(7.4, 1.0 + 4.6 * len(groups)), 5.0)
        axes = figure.subplots(1, len(groups), squeeze=False)[0]
        for (dataset, group), ax in zip(groups.items(), axes, strict=True):
            places = _label_places(group)
            for system, (name, colour, marker) in _TEACHING.items():
                own = [{**row, "place": places[row["labels"]]} for row in group if row["system"] == system]
                if own:
                    look = {"color": colour, "marker": marker, "label": name}
                    _mean_band(ax, own, "place", **look)
                    seeds = [row["accuracy"] for row in own]
                    ax.plot([row["place"] for row in own], seeds, marker, color=colour, markersize=2.6, alpha=0.55)
            _teacher_line(ax, group, places)
            ax.set_xscale("log")
            names = {place: "all" if labels == "all" else _thousands(place) for labels, place in places.items()}
            if any(row.get("images") == places.get("all", 0) for row in group):
                names[places["all"]] = f"all\n({_thousands(places['all'])})"
            ax.set_xticks(list(names), list(names.values()))
            ax.minorticks_off()
            ax.set_title(dataset)
            ax.set_xlabel("labels (log scale)")
        axes[0].set_ylabel("top-1 accuracy on test images")
        to_percent(*axes)
        systems = {row["system"] for row in rows}
        handles = [_line(*look) for system, look in _TEACHING.items() if system in systems]
        if any(row.get("teacher_accuracy") is not None for row in rows):
            handles.append(_line("teacher, same labels", BLACK, "", ":"))
        _line_legend(figure, handles, rows, "± 1 std over seeds", small=True)
        heading(figure, "What labels are worth, by what teaches", _subtitle(rows))
    return figure


def all_labels_figure(rows: Sequence[Row]) -> "Figure":
    """Distillation against cross-entropy alone, one line of panels for each data set (labels, epochs, student).

    Args:
        rows: Of ``all_labels.json``.

    Returns:
        The figure: left the accuracy of each seed without and with the teacher; right their difference, paired by
        seed, with its mean ± standard deviation and the goal.

    Raises:
        InputError: CE alone stands without another system, or has none of its seeds.
    """
    groups = groups_of(rows, "dataset", "labels", "epochs", "teacher", "architecture")
    systems = {
        key: [name for name in _TEACHING if name != "ce" and any(row["system"] == name for row in group)]
        for key, group in groups.items()
    }
    for key, own in systems.items():
        if not own:
            raise InputError(f"rows: no row of a system but ce ({key}); add rows of kd, kd-all, ib or full")
    counts = [len(own) for own in systems.values()]
    with style():
        figure = new_figure(9.8, 2.0 + 0.62 * len(groups) + 0.5 * sum(counts))
        # Data sets differ in accuracy by more than a teacher gives: only the differences share their axis.
        axes = figure.subplots(
            len(groups), 2, sharey="row", squeeze=False, height_ratios=counts, width_ratios=[1.35, 1]
        )
        for (key, group), (accuracy, change) in zip(groups.items(), axes, strict=True):
            for place, system in enumerate(systems[key]):
                _, colour, _ = _TEACHING[system]
                _dumbbells(accuracy, place, group, system, colour)
                points = paired_points(group, system, "ce")
                std = std_of(points)
                dots(change, place, points, colour, std=std)
                beside(change, place, _plus(mean_of(points)) + ("" if std is None else f" ± {std:.2f}"))
            name_lines(accuracy, [_TEACHING[system][0] for system in systems[key]])
            change.axvline(0, color=GREY, linewidth=1.0)
            change.axvline(_GOAL, color=VERMILLION, linewidth=1.8)
            by = f"by {group[0]['teacher']}, less CE alone" if group[0].get("teacher") else "difference to CE alone"
            accuracy.set_title(_title(group[0], epochs=True))
            change.set_title(by)
            accuracy_axis(accuracy, 5)
        limits = [ax.get_xlim() for ax in axes[:, 1]]
        for ax in axes[:, 1]:
            ax.set_xlim(min(low for low, _ in limits), max(high for _, high in limits))
        axes[-1][0].set_xlabel("top-1 accuracy on test images")
        axes[-1][1].set_xlabel("percentage points, paired by seed")
        handles = [
            dot(GREY, "CE alone, mean", marker="o", size=7.5),
            dot(BLACK, "with the teacher, mean (right: ± std)", marker="D", size=7.5),
            dot(BLACK, "single seeds (white: CE alone)", SKY),
            _line(f"goal: +{_GOAL:g} points", VERMILLION, ""),
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=4, fontsize=8.5, columnspacing=1.4)
        heading(figure, "Distillation against cross-entropy alone", _subtitle(rows, "; right: mean ± std over seeds"))
    return figure


def stages_figure(rows: Sequence[Row]) -> "Figure":
    """Accuracy against SNR by way of training, and the difference to two stages; one column for each channel.

    Args:
        rows: Of ``stages.json``.

    Returns:
        The figure: above, means with bands of one standard deviation over seeds; below, differences to two stages (or
        to the first system, in a table like it without them), paired by seed, with two standard errors.

    Raises:
        InputError: Two stages have none of another system's seeds at some SNR.
    """
    groups = groups_of(rows, "channel", "dataset")
    looks = _looks(rows, _STAGES)
    first = "two-stage" if set(looks) & set(_STAGES) else next(iter(looks))
    base = "two stages" if first == "two-stage" else first
    snrs = sorted({row["snr_db"] for row in rows})
    step = 0.05 * min((high - low for low, high in pairwise(snrs)), default=1.0)
    with style():
        figure = new_figure(max(7.4, 1.0 + 4.4 * len(groups)), 7.6)
        axes = figure.subplots(2, len(groups), sharex=True, sharey="row", squeeze=False, height_ratios=[1.25, 1])
        for group, (above, below) in zip(groups.values(), axes.T, strict=True):
            own = [system for system in looks if any(row["system"] == system for row in group)]
            for index, system in enumerate(own):
                name, colour, marker = looks[system]
                chosen = [row for row in group if row["system"] == system]
                _mean_band(above, chosen, "snr_db", color=colour, marker=marker, label=name)
                if system != first:
                    aside = step * (index - len(own) / 2)  # so that no interval hides another
                    _differences(below, group, system, first, aside, color=colour, marker=marker, label=name)
            below.axhline(0, color=looks[first][1] if first in looks else GREY, linewidth=1.7)
            channel = CHANNEL_NAMES.get(group[0]["channel"], group[0]["channel"])
            above.set_title(channel if only(rows, "dataset") else f"{group[0]['dataset']}, {channel}")
            below.set_xlabel("SNR $E_s/N_0$ (dB)")
            below.set_xticks(snrs)
        axes[0][0].set_ylabel("top-1 accuracy on " + ("test images" if first == "two-stage" else "held-out images"))
        axes[1][0].set_ylabel(f"points over {base},\npaired by seed")
        to_percent(*axes[0])
        _line_legend(figure, [_line(*look) for look in looks.values()], rows, "above: ± 1 std; bars below: ± 2 SE")
        title = "Two stages of training against one" if first == "two-stage" else "Training through the channel"
        heading(figure, title, _subtitle(rows, f"; below 0: worse than {base}"))
    return figure


def loss_ablation_figure(rows: Sequence[Row]) -> "Figure":
    """What each part of the loss is worth: the change where it is left out, or stands alone.

    Args:
        rows: Of ``loss_ablation.json``.

    Returns:
        The figure: one panel for each data set and number of labels; dots are seeds, paired with those of the whole
        loss, the large mark is their mean ± two standard errors.

    Raises:
        InputError: The whole loss has none of an ablation's seeds.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["labels"]), []).append(row)
    parts = {
        key: sorted(dict.fromkeys(row["system"] for row in group if row["system"] != "full"), key=_only_last)
        for key, group in groups.items()
    }
    counts = [max(1, len(own)) for own in parts.values()]
    with style():
        figure = new_figure(7.6, 1.9 + 0.55 * len(groups) + 0.34 * sum(counts))
        axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=counts)[:, 0]
        for (key, group), ax in zip(groups.items(), axes, strict=True):
            for place, system in enumerate(parts[key]):
                points = paired_points(group, system, "full")
                error = two_errors(points)
                dots(ax, place, points, BLUE if system.startswith("no-") else ORANGE, std=error)
                beside(ax, place, _plus(mean_of(points)) + ("" if error is None else f" ± {error:.2f}"))
            name_lines(ax, [_loss_name(system) for system in parts[key]])
            ax.axvline(0, color=GREY, linewidth=1.4)
            whole = [row["accuracy"] for row in group if row["system"] == "full"]
            ax.set_title(f"{_title(group[0])}: the whole loss has {100 * mean_of(whole):.1f} %")
        axes[-1].set_xlabel("change against the whole loss (percentage points, paired by seed)")
        handles = [
            dot(BLUE, "without one part: mean ± 2 SE", marker="D", size=7.5),
            dot(ORANGE, "one part alone, or the default: mean ± 2 SE", marker="D", size=7.5),
            dot(BLACK, "single seeds", SKY),
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=3, fontsize=8.5, columnspacing=1.4)
        heading(figure, "What each part of the loss is worth", f"{seeds_text(rows)}; left of 0: worse than the whole")
    return figure


FIGURES: dict[str, Callable[[Sequence[Row]], "Figure"]] = {
    "few labels": few_labels_figure,
    "all labels": all_labels_figure,
    "stages": stages_figure,
    "loss ablation": loss_ablation_figure,
}


def _label_places(rows: Sequence[Row]) -> dict[int | str, float]:
    """Where each number of labels stands on the axis, rising."""
    numbers = sorted({row["labels"] for row in rows if row["labels"] != "all"})
    places: dict[int | str, float] = {labels: labels for labels in numbers}
    if any(row["labels"] == "all" for row in rows):
        images = max((row["images"] for row in rows if row.get("images") is not None), default=None)
        places["all"] = images or (4 * numbers[-1] if numbers else 1)
    return places


def _mean_band(ax: "Axes", rows: Sequence[Row], along: str, **line: Any) -> None:
    lines = [{**row, "accuracy": row["mean"]} for row in summarise(rows, by=(along,))]
    draw_line(ax, lines, along, band="std", **line)


def _teacher_line(ax: "Axes", rows: Sequence[Row], places: dict[int | str, float]) -> None:
    # Several students of one seed have the same teacher, which counts once.
    told = {(row["labels"], row["seed"]): row.get("teacher_accuracy") for row in rows if row.get("teacher_accuracy")}
    means = summarise([{"labels": labels, "accuracy": value} for (labels, _), value in told.items()], by=("labels",))
    line = sorted((places[row["labels"]], row["mean"]) for row in means)
    if len(line) == 1:
        ax.axhline(line[0][1], color=BLACK, linestyle=":", linewidth=1.4, label="teacher")
    elif line:
        ax.plot(*zip(*line, strict=True), color=BLACK, linestyle=":", linewidth=1.4, label="teacher")


def _dumbbells(ax: "Axes", place: int, rows: Sequence[Row], system: str, colour: str) -> None:
    """Without and with the teacher: a thin line for each seed, a thick one for the means."""
    sides = [{row["seed"]: row["accuracy"] for row in rows if row["system"] == name} for name in ("ce", system)]
    seeds = sorted(sides[0].keys() & sides[1].keys())
    pairs = [[side[seed] for side in sides] for seed in seeds]
    for height, pair in zip(spread(place, len(pairs)), pairs, strict=True):
        ax.plot(pair, [height, height], color=BLACK, linewidth=0.7, alpha=0.6, zorder=3)
        ax.scatter(pair, [height, height], s=15, c=["white", SKY], edgecolors=BLACK, linewidths=0.8, zorder=4)
    if pairs:
        means = [mean_of(side) for side in zip(*pairs, strict=True)]
        ax.plot(means, [place, place], color=colour, linewidth=3.2, alpha=0.5, zorder=2)
        ax.plot(means[0], place, "o", color=GREY, markersize=8, zorder=2.5)
        ax.plot(means[1], place, "D", color=colour, markersize=8, zorder=2.5)


def _differences(ax: "Axes", rows: Sequence[Row], system: str, base: str, aside: float, **look: Any) -> None:
    x, means, errors = [], [], []
    for snr_db in sorted({row["snr_db"] for row in rows if row["system"] == system}):
        points = paired_points([row for row in rows if row["snr_db"] == snr_db], system, base)
        x.append(snr_db + aside)
        means.append(mean_of(points))
        errors.append(two_errors(points) or 0.0)
    ax.errorbar(x, means, yerr=errors, capsize=2.5, elinewidth=1.1, linewidth=1.3, **look)


def _looks(rows: Sequence[Row], known: dict[str, tuple[str, str, str]]) -> dict[str, tuple[str, str, str]]:
    """Name, colour and mark of each system: the known ones first, and others in what is left."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    looks = {system: look for system, look in known.items() if system in systems}
    spare = [SKY, *(colour for _, colour, _ in known.values() if colour not in {look[1] for look in looks.values()})]
    for index, system in enumerate(system for system in systems if system not in known):
        looks[system] = (system, spare[index % len(spare)], MARKERS[-1 - index % len(MARKERS)])
    return looks


def _line(name: str, colour: str, marker: str, look: Literal["-", ":"] = "-") -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, marker=marker, linestyle=look, label=name)


def _line_legend(figure: "Figure", handles: list[Any], rows: Sequence[Row], band: str, small: bool = False) -> None:
    from matplotlib.patches import Patch

    if len({row["seed"] for row in rows}) > 1:
        handles.append(Patch(color=GREY, alpha=0.25, linewidth=0, label=band))
        if small:
            handles.append(dot(GREY, "single seeds", size=2.6))
    figure.legend(handles=handles, loc="outside lower left", ncols=4, fontsize=8.5, columnspacing=1.4)


def _title(row: Row, epochs: bool = False) -> str:
    parts = [row["dataset"], labels_text(row["labels"])]
    if epochs:
        parts.append("1 epoch" if row["epochs"] == 1 else f"{row['epochs']:,.3g} epochs")
    if row.get("params"):
        parts.append(f"{_thousands(round(row['params'], -3))} params")
    return ", ".join(parts)


def _subtitle(rows: Sequence[Row], more: str = "") -> str:
    dataset = only(rows, "dataset")
    return (f"{dataset}, " if dataset else "") + seeds_text(rows) + more


def _thousands(count: float) -> str:
    return f"{count / 1000:g}k" if count >= 1000 else f"{count:g}"


def _plus(value: float) -> str:
    """A difference with its sign and two places."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")


def _only_last(system: str) -> bool:
    return not system.startswith("no-")


def _loss_name(system: str) -> str:
    if system == "default":
        return "the default weights"
    how, _, part = system.partition("-")
    name = _LOSS_PARTS.get(part, part)
    return f"without {name}" if how == "no" else f"{name} alone"
