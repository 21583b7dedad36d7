"""Accuracy against SNR by length, and against length by SNR."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdnas.errors import InputError
from kdnas.plot.style import (
    BLACK,
    CHANNEL_NAMES,
    CYCLE,
    GREY,
    MARKERS,
    colour_ramp,
    heading,
    label_ends,
    new_figure,
    style,
    to_percent,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]


def accuracy_against_snr(results: Mapping[str, Any]) -> "Figure":
    """Accuracy against SNR, one panel for each channel, one colour for each length; bands are 95 % intervals.

    Args:
        results: A valid ``results.json`` document.

    Returns:
        The figure: ``kdnas`` solid, ``no-kd`` dashed in the colour of the same length, the teacher a dotted
        line.

    Raises:
        InputError: No curve has a channel.
    """
    lengths = _values(results["curves"], "symbols")
    colours = dict(zip(lengths, (CYCLE * len(lengths))[: len(lengths)], strict=False))

    def finish(ax: "Axes") -> None:
        ax.set_xlabel("SNR $E_s/N_0$ (dB)")
        ax.set_xticks(_values(results["curves"], "snr_db"))

    return _panels(
        results,
        "Accuracy against SNR, by length",
        along="snr_db",
        split="symbols",
        colours=colours,
        name=lambda length: f"{length} symbols",
        finish=finish,
    )


def accuracy_against_length(results: Mapping[str, Any]) -> "Figure":
    """Accuracy against the number of complex symbols, one panel for each channel, one colour for each SNR.

    Args:
        results: A valid ``results.json`` document.

    Returns:
        The figure; line styles as in ``accuracy_against_snr``.

    Raises:
        InputError: No curve has a channel.
    """
    snrs = _values(results["curves"], "snr_db")

    def finish(ax: "Axes") -> None:
        lengths = _values(results["curves"], "symbols")
        ax.set_xlabel("complex symbols per image")
        ax.set_xscale("log", base=2)
        ax.set_xticks(lengths, [str(length) for length in lengths])
        ax.minorticks_off()

    return _panels(
        results,
        "Accuracy against length, by SNR",
        along="symbols",
        split="snr_db",
        colours=dict(zip(snrs, colour_ramp(len(snrs)), strict=True)),
        name=lambda snr: f"{snr:g} dB".replace("-", "−"),
        finish=finish,
    )


def accuracy_told_wrong(results: Mapping[str, Any]) -> "Figure":
    """Accuracy against the true SNR at full length, one colour for each error of the SNR that both ends are told.

    Args:
        results: A valid ``results.json`` document that has a ``mismatch``.

    Returns:
        The figure; line styles as in ``accuracy_against_snr``.

    Raises:
        InputError: No curve has a channel.
    """
    top = max(row["symbols"] for row in results["mismatch"])
    rows = [{**row, "snr_offset_db": row.get("snr_offset_db", 0.0)} for row in results["curves"]] + results["mismatch"]
    rows = [row for row in rows if row["symbols"] == top]
    offsets = _values(rows, "snr_offset_db")

    def finish(ax: "Axes") -> None:
        ax.set_xlabel("true SNR $E_s/N_0$ (dB)")
        ax.set_xticks(_values(rows, "snr_db"))

    return _panels(
        {**results, "curves": rows},
        f"Accuracy at {top} symbols where the SNR is told wrong",
        along="snr_db",
        split="snr_offset_db",
        colours=dict(zip(offsets, colour_ramp(len(offsets)), strict=True)),
        name=lambda offset: f"{offset:+g} dB".replace("-", "−") if offset else "told right",
        finish=finish,
    )


def draw_line(ax: "Axes", rows: Sequence[Row], along: str, *, band: str = "ci95", **line: Any) -> None:
    """A line over ``rows`` sorted by ``along``, and the band ``accuracy`` ± ``band`` where not null."""
    rows = sorted(rows, key=lambda row: row[along])
    x = [row[along] for row in rows]
    y = [row["accuracy"] for row in rows]
    ax.plot(x, y, **line)
    if all(row[band] is not None for row in rows):
        low = [max(0.0, row["accuracy"] - row[band]) for row in rows]
        high = [min(1.0, row["accuracy"] + row[band]) for row in rows]
        ax.fill_between(x, low, high, color=line["color"], alpha=0.16, linewidth=0)


def draw_teacher(ax: "Axes", accuracy: float) -> None:
    """The teacher's clean accuracy as a dotted line across."""
    ax.axhline(accuracy, color=BLACK, linestyle=":", linewidth=1.4)


def style_legend(
    figure: "Figure",
    systems: Sequence[str],
    band: str,
    *,
    teacher: str = "",
    colours: Mapping[str, str] | None = None,
) -> None:
    """The legend of line styles, under the panels where it covers nothing.

    Args:
        figure: The figure.
        systems: Which of ``kdnas`` and ``no-kd`` are drawn.
        band: What the bands are; empty where there is none.
        teacher: Text of the teacher's line; empty where there is none.
        colours: Of the systems where colour tells them apart; else their lines are grey.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    looks: dict[str, tuple[Any, str]] = {
        "kdnas": ("-", "kdnas"),
        "no-kd": ("--", "no KD: same network, trained without the teacher"),
    }
    handles: list[Any] = [
        Line2D([], [], color=(colours or {}).get(system, GREY), linestyle=look, label=text)
        for system, (look, text) in looks.items()
        if system in systems
    ]
    if teacher:
        handles.append(Line2D([], [], color=BLACK, linestyle=":", label=teacher))
    if band:
        handles.append(Patch(color=GREY, alpha=0.3, linewidth=0, label=band))
    columns = 1 if figure.get_figwidth() < 6 else 2 if figure.get_figwidth() < 9 else len(handles)
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, fontsize=8.5)


def y_limits(rows: Sequence[Row], teacher: float | None) -> tuple[float, float]:
    """Limits that hold every point with its band and the teacher's line, with a little air."""
    low = min(row["accuracy"] - (row["ci95"] or 0) for row in rows)
    high = max([row["accuracy"] + (row["ci95"] or 0) for row in rows] + [teacher or 0.0])
    air = max(0.04 * (high - low), 0.01)
    return max(0.0, low - air), min(1.0, high + air)


def _panels(
    results: Mapping[str, Any],
    title: str,
    *,
    along: str,
    split: str,
    colours: Mapping[Any, Any],
    name: Callable[[Any], str],
    finish: Callable[["Axes"], None],
) -> "Figure":
    sent = [row for row in results["curves"] if row["channel"] is not None]
    if not sent:
        raise InputError("results.json: curves: no row has a channel, so there is nothing to draw; evaluate the link")
    channels = list(dict.fromkeys(row["channel"] for row in sent))
    teacher = results["teacher"]["accuracy"]
    with style():
        figure = new_figure(0.5 + 4.7 * len(channels), 4.9)
        axes = figure.subplots(1, len(channels), sharey=True, squeeze=False)[0]
        limits = y_limits(sent, teacher)
        for ax, channel in zip(axes, channels, strict=True):
            ends = []
            for index, (value, colour) in enumerate(colours.items()):
                for system, look in (("no-kd", "--"), ("kdnas", "-")):
                    here = (channel, system, value)
                    rows = [row for row in sent if (row["channel"], row["system"], row[split]) == here]
                    if not rows:
                        continue
                    solid = system == "kdnas"
                    draw_line(
                        ax, rows, along, color=colour, linestyle=look, marker=MARKERS[index % len(MARKERS)],
                        markerfacecolor=colour if solid else "white", label=f"{system} {name(value)}",
                    )  # fmt: skip
                    if solid:
                        last = max(rows, key=lambda row: row[along])
                        ends.append((last["accuracy"], name(value), colour))
            draw_teacher(ax, teacher)
            ax.set_title(CHANNEL_NAMES.get(channel, textwrap.fill(channel, 46)))
            ax.set_ylim(limits)
            finish(ax)
            label_ends(ax, max(row[along] for row in sent), ends)
        axes[0].set_ylabel("top-1 accuracy on test images")
        to_percent(*axes)
        systems = {row["system"] for row in sent}
        style_legend(figure, sorted(systems), "95 % interval", teacher=f"teacher, no channel ({100 * teacher:.1f} %)")
        images = sent[0]["n"]
        seed = f"{images:,} test images, seed {results['seed']}"
        heading(figure, title, f"{results['dataset']} on device class {results['device']}, {seed}")
    return figure


def _values(rows: Sequence[Row], column: str) -> list[Any]:
    return sorted({row[column] for row in rows if row[column] is not None})
