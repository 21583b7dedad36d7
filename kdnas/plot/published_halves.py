"""Figures of the published tables about a link's halves: the speed of its parts, and what int8 costs."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kdnas.errors import InputError
from kdnas.plot.lines import (
    Row,
    accuracy_axis,
    bars,
    beside,
    dot,
    groups_of,
    name_lines,
    only,
    seeds_text,
    signed,
    spread,
)
from kdnas.plot.pairs import mean_of, std_of
from kdnas.plot.style import (
    BLACK,
    BLUE,
    CHANNEL_NAMES,
    GREEN,
    GREY,
    ORANGE,
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

_WAYS = {
    ("torch", "fp32"): ("torch", GREY, "s"),
    ("onnxruntime", "fp32"): ("ONNX Runtime", BLUE, "o"),
    ("onnxruntime", "int8"): ("ONNX Runtime, int8", GREEN, "D"),
}
_SHARE = 0.1  # of a training step, the most that the channel is to take
_LOSS = 0.005  # of accuracy, the most that int8 is to lose
_AT_DB = 10.0  # the SNR of the accuracies in the figure of int8


def link_speed_figure(rows: Sequence[Row]) -> "Figure":
    """Throughput of the parts of a link by runtime, one column for each batch; the channel's share of training.

    Args:
        rows: Of ``link_speed.json``.

    Returns:
        The figure, one line of panels for each device class; the numbers right of a panel are its marks'.
    """
    groups = groups_of(rows, "device")
    parts = [row for row in rows if row["share"] is None and row["part"] != "training step"]
    names = list(dict.fromkeys(row["part"] for row in parts))
    batches = sorted({row["batch"] for row in parts})
    with style():
        figure = new_figure(4.4 * len(batches) + 3.6, 1.6 + len(groups) * (0.75 + 0.33 * len(names)))
        widths = [1.25] * len(batches) + [0.8]
        axes = figure.subplots(len(groups), len(widths), squeeze=False, width_ratios=widths, sharex="col")
        for (device, group), line in zip(groups.items(), axes, strict=True):
            for batch, ax in zip(batches, line, strict=False):
                for place, part in enumerate(names):
                    own = [row for row in group if row["part"] == part and row["batch"] == batch]
                    _throughputs(ax, place, own)
                name_lines(ax, names if ax is line[0] else [""] * len(names))
                _log_rates(ax)
                ax.set_title(f"{device}: batches of {batch}" if batch > 1 else f"{device}: single images")
            _shares(line[-1], [row for row in group if row["share"] is not None])
        for ax in axes[-1][:-1]:
            ax.set_xlabel("images per second (log scale)")
        axes[-1][-1].set_xlabel("share of a step of stage 2")
        _speed_legend(figure, {(row["runtime"], row["dtype"]) for row in parts})
        threads = only(rows, "threads", "{} threads")
        text = f"more is better (right: less); {threads}" if threads else "more is better (right: less)"
        heading(figure, "Speed of a link's parts", text)
    return figure


def int8_figure(rows: Sequence[Row]) -> "Figure":
    """Accuracy through the link with the transmitter in float32 and in int8, and the size of its file.

    Args:
        rows: Of ``int8.json``.

    Returns:
        The figure, a line for each device class: accuracies at 10 dB and full length on the first channel; the
        difference at every point, with the loss allowed; kilobytes.

    Raises:
        InputError: A device class has no row at 10 dB.
    """
    groups = groups_of(rows, "device", "dataset")
    with style():
        figure = new_figure(11.6, 1.9 + 0.72 * len(groups))
        accuracy, change, size = figure.subplots(1, 3, sharey=True, width_ratios=[1.35, 1.35, 1])
        for place, (name, group) in enumerate(groups.items()):
            full, channel = max(row["symbols"] for row in group), group[0]["channel"]
            at = [row for row in group if (row["symbols"], row["channel"], row["snr_db"]) == (full, channel, _AT_DB)]
            if not at:
                raise InputError(f"rows: {name} has no row at {_AT_DB:g} dB, {channel}, {full} symbols")
            for shift, key, colour in ((-0.18, "accuracy_fp32", GREY), (0.18, "accuracy_int8", GREEN)):
                _seeds(accuracy, place + shift, [row[key] for row in at], colour)
            means = [mean_of([row[key] for row in at]) for key in ("accuracy_fp32", "accuracy_int8")]
            beside(accuracy, place, f"{100 * means[0]:.1f} → {100 * means[1]:.1f} %")
            differences = [100 * row["difference"] for row in group]
            change.scatter(differences, spread(place, len(differences)), s=11, c=SKY, edgecolors=BLACK, linewidths=0.5)
            change.plot(mean_of(differences), place, "D", color=GREEN, markersize=7.5, zorder=3)
            told = [signed(value) for value in (mean_of(differences), min(differences), max(differences))]
            beside(change, place, f"{told[0]} ({told[1]} to {told[2]})")
        for place, group in enumerate(groups.values()):
            for shift, key, colour in ((-0.18, "bytes_fp32", GREY), (0.18, "bytes_int8", GREEN)):
                kilobytes = mean_of([row[key] for row in group]) / 1e3
                size.barh(place + shift, kilobytes, color=colour, height=0.32)
                size.annotate(
                    f"{kilobytes:.0f} kB", (kilobytes, place + shift), (4, 0), textcoords="offset points", va="center",
                    fontsize=8.5,
                )  # fmt: skip
        size.set_xlim(0, 1.25 * size.get_xlim()[1])
        change.axvline(0, color=GREY, linewidth=1.0)
        change.axvline(-100 * _LOSS, color=VERMILLION, linewidth=1.6)
        name_lines(accuracy, list(groups))
        accuracy_axis(accuracy, 5)
        first = CHANNEL_NAMES.get(rows[0]["channel"], str(rows[0]["channel"]))
        accuracy.set_title(f"at {_AT_DB:g} dB, {first}, full length")
        change.set_title("int8 less float32")
        size.set_title("the file")
        accuracy.set_xlabel("top-1 accuracy on test images")
        change.set_xlabel("percentage points, at every channel, SNR and length")
        size.set_xlabel("kB of the transmitter's ONNX file")
        _int8_legend(figure)
        text = f"{seeds_text(rows)}; the receiver stays in float32"
        heading(figure, "The transmitter in int8, through the link", text)
    return figure


def _throughputs(ax: "Axes", place: int, rows: Sequence[Row]) -> None:
    told = []
    for shift, (key, (_, colour, mark)) in zip((-0.2, 0.0, 0.2), _WAYS.items(), strict=True):
        for row in rows:
            if (row["runtime"], row["dtype"]) == key:
                ax.plot(row["images_per_s"], place + shift, mark, color=colour, markersize=6.5)
                told.append(_rate(row["images_per_s"]))
    beside(ax, place, " / ".join(told))


def _log_rates(ax: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 3.0)))
    shown = FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
    ax.xaxis.set_major_formatter(shown)
    ax.xaxis.set_minor_formatter(NullFormatter())


def _shares(ax: "Axes", rows: Sequence[Row]) -> None:
    texts = [f"{100 * row['share']:.1f} %" for row in rows]
    if rows:
        bars(ax, [row["share"] for row in rows], [ORANGE] * len(rows), texts, room=0.3)
    names = [str(row.get("channels") or "").replace("+", ", ") for row in rows]
    name_lines(ax, [name if len(name) < 20 else f"{name.count(', ') + 1} channels" for name in names])
    ax.axvline(_SHARE, color=VERMILLION, linewidth=1.6)
    ax.set_xlim(0, max(1.3 * _SHARE, *(1.35 * row["share"] for row in rows)) if rows else 1.3 * _SHARE)
    ax.set_title("channel in training")
    to_percent(ax, axis="x")


def _rate(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"


def _speed_legend(figure: "Figure", shown: set[tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    handles: list[Any] = [
        dot(colour, name, marker=mark, size=6.5) for key, (name, colour, mark) in _WAYS.items() if key in shown
    ]
    handles.append(Line2D([], [], color=VERMILLION, label=f"most that the channel is to take, {100 * _SHARE:g} %"))
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), fontsize=8.5)


def _seeds(ax: "Axes", place: float, values: Sequence[float], colour: str) -> None:
    """The mean and standard deviation of ``values`` large, each value small, all at one height."""
    ax.errorbar(
        mean_of(values), place, xerr=std_of(values), fmt="D", color=colour, markersize=7.5, capsize=3.5, zorder=2.5
    )
    ax.scatter(values, [place] * len(values), s=11, c=SKY, edgecolors=BLACK, linewidths=0.5, zorder=4)


def _int8_legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D

    handles: list[Any] = [
        dot(GREY, "float32", marker="D", size=7.5), dot(GREEN, "int8", marker="D", size=7.5),
        dot(BLACK, "left: single seeds (mean ± std); middle: single seeds and points", SKY),
        Line2D([], [], color=VERMILLION, label=f"most that int8 is to lose, {100 * _LOSS:g} points"),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), fontsize=8.5)


FIGURES: dict[str, Callable[[Sequence[Row]], "Figure"]] = {"link speed": link_speed_figure, "int8": int8_figure}
