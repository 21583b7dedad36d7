"""Figures of the published tables about the codec, each from the rows of its table alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from kdnas.plot.lines import Row, groups_of, only, seeds_text
from kdnas.plot.pairs import mean_of, paired_points, two_errors
from kdnas.plot.style import (
    CHANNEL_NAMES,
    CYCLE,
    GREY,
    MARKERS,
    colour_ramp,
    heading,
    new_figure,
    style,
    to_percent,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 3.0  # points at which the colour of a difference is full
_ADAPTED = {"adaptive": "length chosen at each SNR, by wanted accuracy", "fixed": "fixed length"}
_CONSTELLATIONS = {"qpsk": "QPSK", "16qam": "16-QAM", "64qam": "64-QAM", "256qam": "256-QAM"}


def one_model_figure(rows: Sequence[Row]) -> "Figure":
    """The model for all SNRs and lengths against those made for one length, or one SNR, alone.

    Args:
        rows: Of ``lengths.json`` or ``snrs.json``.

    Returns:
        The figure: for each data set and channel a map of the differences by length and SNR, in percentage points,
        paired by seed, with two standard errors.

    Raises:
        InputError: At some point the two have no seed in common.
    """
    groups = groups_of(rows, "dataset", "channel")
    snrs, lengths = sorted({row["snr_db"] for row in rows}), sorted({row["symbols"] for row in rows})
    with style():
        columns = min(2, len(groups))
        lines = -(-len(groups) // columns)
        figure = new_figure(1.2 + columns * (0.8 + 0.6 * len(snrs)), 1.2 + lines * (1.0 + 0.42 * len(lengths)))
        axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for ax in axes.flat[len(groups) :]:
            ax.set_visible(False)
        for group, ax in zip(groups.values(), axes.flat, strict=False):
            means = _difference_map(ax, group, snrs, lengths)
            ax.set_title(f"{_panel(rows, group)}: mean {_plus(mean_of(means))}")
        for ax in axes[-1]:
            ax.set_xlabel("SNR $E_s/N_0$ (dB)")
        for ax in axes[:, 0]:
            ax.set_ylabel("complex symbols per image")
        dataset = only(rows, "dataset")
        text = f"points, paired by seed, ± 2 SE; {seeds_text(rows)}; below 0: the one model is worse"
        heading(
            figure,
            "One model against models made for one length, or one SNR",
            f"{dataset}, {text}" if dataset else text,
        )
    return figure


def constellation_figure(rows: Sequence[Row]) -> "Figure":
    """What sending the points of a constellation costs against sending any complex number.

    Args:
        rows: Of ``constellation.json``.

    Returns:
        The figure: differences in percentage points against SNR, paired by seed, one line for each constellation, with
        bands of two standard errors; a column for each data set and channel, a row for the shortest and the full
        length.

    Raises:
        InputError: Nothing was sent without a constellation, or with none of its seeds.
    """
    rows = [{**row, "system": row["constellation"]} for row in rows]
    names = {name: text for name, text in _CONSTELLATIONS.items() if any(row["system"] == name for row in rows)}
    return _against(rows, names, "none", "any complex number", "What a constellation costs")


def trained_on_figure(rows: Sequence[Row]) -> "Figure":
    """What it costs to meet other channels than in training.

    Args:
        rows: Of ``channels.json``.

    Returns:
        The figure: differences to the model of all channels, as in ``constellation_figure``; a line for each channel
        that a model was trained on alone.

    Raises:
        InputError: No model was trained on all channels, or with none of the seeds.
    """
    rows = [{**row, "system": row["trained_on"]} for row in rows]
    alone = dict.fromkeys(row["system"] for row in rows if row["system"] != "all")
    names = {name: f"trained on {CHANNEL_NAMES.get(name, name).removesuffix(' channel')} alone" for name in alone}
    return _against(rows, names, "all", "training on all", "What training on one channel costs on others")


def _against(rows: Sequence[Row], names: Mapping[str, str], base: str, base_text: str, title: str) -> "Figure":
    """Differences of systems to ``base`` against SNR: a column by channel, a row for the shortest and full length."""
    groups, lengths = groups_of(rows, "dataset", "channel"), sorted({row["symbols"] for row in rows})
    with style():
        shown = [lengths[0], lengths[-1]] if len(lengths) > 1 else lengths
        figure = new_figure(max(7.4, 1.0 + 4.2 * len(groups)), 1.7 + 2.5 * len(shown))
        axes = figure.subplots(len(shown), len(groups), sharex=True, sharey=True, squeeze=False)
        for group, column in zip(groups.values(), axes.T, strict=True):
            for length, ax in zip(shown, column, strict=True):
                here = [row for row in group if row["symbols"] == length]
                for index, (name, text) in enumerate(names.items()):
                    look = {"color": CYCLE[index], "marker": MARKERS[index], "label": text}
                    _line(ax, _along_snr(here, partial(paired_points, system=name, base=base)), **look)
                ax.axhline(0, color=GREY, linewidth=1.0)
            column[0].set_title(_panel(rows, group))
            column[-1].set_xlabel("SNR $E_s/N_0$ (dB)")
        for ax, length in zip(axes[:, 0], shown, strict=True):
            ax.set_ylabel(f"{length} {'symbol' if length == 1 else 'symbols'}: points\nover {base_text}")
        _legend(figure, axes[0][0])
        heading(figure, title, _subtitle(rows))
    return figure


def told_wrong_figure(rows: Sequence[Row]) -> "Figure":
    """What it costs to be told a wrong SNR, trained with the right one or with wrong ones.

    Args:
        rows: Of ``mismatch.json``.

    Returns:
        The figure: differences to being told the right SNR in percentage points against the true SNR, paired by seed
        and averaged over lengths, with bands of two standard errors; solid: trained with the right SNR.

    Raises:
        InputError: Nobody was told the right SNR, or with none of the seeds.
    """
    groups = groups_of(rows, "dataset", "channel")
    offsets = sorted({row["snr_offset_db"] for row in rows if row["snr_offset_db"]})
    colours = dict(zip(offsets, colour_ramp(len(offsets)), strict=True))
    with style():
        figure = new_figure(max(7.4, 1.0 + 4.2 * len(groups)), 4.4)
        axes = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
        for group, ax in zip(groups.values(), axes, strict=True):
            for offset in offsets:
                for system, dash, name in (
                    ("one-model", "-", "told the right SNR"),
                    ("told-wrong", "--", "wrong ones"),
                ):
                    own = [row for row in group if row["system"] == system]
                    if own:
                        text = f"{offset:+g} dB; in training {name}".replace("-", "−")
                        look = {"color": colours[offset], "linestyle": dash, "marker": "o", "label": text}
                        _line(ax, _along_snr(own, partial(_told, offset=offset)), **look)
            ax.axhline(0, color=GREY, linewidth=1.0)
            ax.set_title(_panel(rows, group))
            ax.set_xlabel("true SNR $E_s/N_0$ (dB)")
        axes[0].set_ylabel("points over the right SNR,\nmean over lengths")
        _legend(figure, axes[0], columns=2)
        heading(figure, "What it costs to be told a wrong SNR", _subtitle(rows))
    return figure


def adaptation_figure(rows: Sequence[Row]) -> "Figure":
    """Accuracy against the symbols used: the length chosen at each SNR, and fixed lengths.

    Args:
        rows: Of ``adaptation.json``.

    Returns:
        The figure: means over SNRs and seeds; one mark for each wanted accuracy, or length; a panel for each data set
        and channel.
    """
    groups = groups_of(rows, "dataset", "channel")
    with style():
        figure = new_figure(max(7.4, 1.0 + 3.9 * len(groups)), 4.4)
        axes = figure.subplots(1, len(groups), sharey=only(rows, "dataset") != "", squeeze=False)[0]
        for group, ax in zip(groups.values(), axes, strict=True):
            for index, (system, name) in enumerate(_ADAPTED.items()):
                marks = _marks(group, system)
                x, y = ([mean_of([row[key] for row in own]) for own in marks] for key in ("mean_symbols", "accuracy"))
                ax.plot(x, y, color=CYCLE[index], marker=MARKERS[index], label=name)
            ax.set_xscale("log", base=2)
            lengths = sorted({row["mean_symbols"] for row in group if row["system"] == "fixed"})
            ax.set_xticks(lengths, [f"{length:g}" for length in lengths])
            ax.minorticks_off()
            ax.set_title(_panel(rows, group))
            ax.set_xlabel("complex symbols per image, mean over SNRs")
        axes[0].set_ylabel("top-1 accuracy on test images,\nmean over SNRs")
        to_percent(*axes)
        _legend(figure, axes[0])
        dataset = only(rows, "dataset")
        heading(figure, "Rate and accuracy", (f"{dataset}, " if dataset else "") + f"mean over {seeds_text(rows)}")
    return figure


FIGURES: dict[str, Callable[[Sequence[Row]], "Figure"]] = {
    "one model": one_model_figure,
    "constellation": constellation_figure,
    "adaptation": adaptation_figure,
    "told wrong": told_wrong_figure,
    "trained on": trained_on_figure,
}


def _marks(rows: Sequence[Row], system: str) -> list[list[Row]]:
    """The rows of one system by wanted accuracy or length, rising."""
    key = "target" if system == "adaptive" else "mean_symbols"
    own = [row for row in rows if row["system"] == system]
    return [[row for row in own if row[key] == value] for value in sorted({row[key] for row in own})]


def _difference_map(ax: "Axes", rows: Sequence[Row], snrs: Sequence[float], lengths: Sequence[int]) -> list[float]:
    """Draw one map and return its mean differences; points that have no row stay white."""
    import numpy as np

    values = np.full((len(lengths), len(snrs)), np.nan)
    for i, length in enumerate(lengths):
        for j, snr_db in enumerate(snrs):
            here = [row for row in rows if (row["symbols"], row["snr_db"]) == (length, snr_db)]
            if here:
                points = paired_points(here, "one-model", "dedicated")
                values[i, j], error = mean_of(points), two_errors(points)
                text = _plus(values[i, j]) + ("" if error is None else f"\n±{error:.1f}")
                ax.text(j, i, text, ha="center", va="center", fontsize=7.5, linespacing=1.1)
    ax.imshow(values, cmap="RdBu", vmin=-_MOST, vmax=_MOST, aspect="auto", alpha=0.75)
    ax.set_xticks(range(len(snrs)), [f"{snr:g}".replace("-", "−") for snr in snrs])
    ax.set_yticks(range(len(lengths)), [str(length) for length in lengths])
    ax.grid(visible=False)
    ax.tick_params(length=0)
    return [float(value) for value in values[~np.isnan(values)]]


def _along_snr(rows: Sequence[Row], differences: Callable[[list[Row]], list[float]]) -> list[tuple[float, list[float]]]:
    """By rising SNR: the differences, one for each seed."""
    snrs = sorted({row["snr_db"] for row in rows})
    return [(snr_db, differences([row for row in rows if row["snr_db"] == snr_db])) for snr_db in snrs]


def _told(rows: Sequence[Row], offset: float) -> list[float]:
    """Accuracy when told ``offset`` dB too much less that when told the truth, mean over lengths, for each seed."""
    named = [{**row, "system": row["snr_offset_db"]} for row in rows]
    by_length = [[row for row in named if row["symbols"] == n] for n in sorted({row["symbols"] for row in rows})]
    points = [paired_points(own, offset, 0.0) for own in by_length]  # type: ignore[arg-type]
    return [mean_of(seed) for seed in zip(*points, strict=True)]


def _line(ax: "Axes", points: Iterable[tuple[float, list[float]]], **look: Any) -> None:
    """Means against SNR, with a band of two standard errors where there are several seeds."""
    found = list(points)
    x, means = [snr_db for snr_db, _ in found], [mean_of(values) for _, values in found]
    ax.plot(x, means, **look)
    errors = [two_errors(values) for _, values in found]
    if all(error is not None for error in errors):
        low = [mean - (error or 0) for mean, error in zip(means, errors, strict=True)]
        high = [mean + (error or 0) for mean, error in zip(means, errors, strict=True)]
        ax.fill_between(x, low, high, color=look["color"], alpha=0.16, linewidth=0)
    ax.set_xticks(x)


def _panel(rows: Sequence[Row], group: Sequence[Row]) -> str:
    name = str(CHANNEL_NAMES.get(group[0]["channel"], group[0]["channel"]))
    return name if only(rows, "dataset") else f"{group[0]['dataset']}, {name}"


def _legend(figure: "Figure", ax: "Axes", columns: int = 4) -> None:
    handles, _ = ax.get_legend_handles_labels()
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, fontsize=8.5, columnspacing=1.4)


def _subtitle(rows: Sequence[Row]) -> str:
    dataset = only(rows, "dataset")
    bands = "; bands ± 2 SE" if len({row["seed"] for row in rows}) > 1 else ""
    return (f"{dataset}, " if dataset else "") + f"{seeds_text(rows)}, paired{bands}"


def _plus(value: float) -> str:
    """A difference with its sign and one place."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")
