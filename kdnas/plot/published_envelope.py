"""The figure of the link against everything it is compared with."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdnas.errors import InputError
from kdnas.evaluate.statistics import summarise
from kdnas.plot.curves import draw_line, draw_teacher
from kdnas.plot.lines import Row, groups_of, only, seeds_text
from kdnas.plot.pairs import mean_of, two_errors
from kdnas.plot.style import (
    BLACK,
    BLUE,
    CHANNEL_NAMES,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    colour_ramp,
    heading,
    new_figure,
    style,
    to_percent,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OURS = "kdnas"
_BROWN = "#7A4A1E"  # the ninth system: the palette has eight colours
# By system, those on top last: its name and its look.
_LOOKS: dict[str, tuple[str, dict[str, Any]]] = {
    "capacity": ("JPEG/WebP at capacity, no code", {"color": GREY, "linestyle": "-.", "marker": ""}),
    "digital-image": ("JPEG/WebP + LDPC + QAM", {"color": BLACK, "linestyle": "--", "marker": "X"}),
    "digital-features": ("quantised features + LDPC + QAM", {"color": SKY, "linestyle": "--", "marker": "P"}),
    "digital-class": ("class at the device, simplex code", {"color": _BROWN, "linestyle": "--", "marker": "d"}),
    "codebook": ("codebook", {"color": PURPLE, "marker": "v"}),
    "rkd-sc": ("RKD-SC, conference", {"color": VERMILLION, "marker": "^"}),
    "adjscc": ("SNR attention (ADJSCC)", {"color": GREEN, "marker": "D"}),
    "deep-jscc": ("deep JSCC", {"color": ORANGE, "marker": "s"}),
    _OURS: ("kdnas", {"color": BLUE, "marker": "o", "linewidth": 2.6, "zorder": 3}),
}
_WORST = -0.25  # differences below are not shown: the cliffs stand above them
_BUDGET_SNRS = (0.0, 10.0, 20.0)  # dB, at which images are given more symbols


def envelope_figure(rows: Sequence[Row]) -> "Figure":
    """Accuracy against SNR of the link and its baselines, their differences, and what a digital image needs.

    Args:
        rows: Of ``envelope.json``.

    Returns:
        The figure, two lines of panels for each data set and device: above accuracy by channel, below the difference to
        kdnas, paired by image, draw and seed; right the accuracy of digital images by symbols. Bands are one standard
        deviation over seeds, or the 95 % interval of a single one; bars below are two standard errors over seeds.

    Raises:
        InputError: There is no row of kdnas.
    """
    groups = groups_of(rows, "dataset", "device")
    for key, group in groups.items():
        if not any(row["system"] == _OURS for row in group):
            raise InputError(f"rows: no row of {_OURS} ({key}), which all is compared with")
    channels = list(dict.fromkeys(row["channel"] for row in rows if row["channel"] is not None))
    budgets = any(_over_budget(group) for group in groups.values())
    paired = any(row.get("difference") is not None for row in rows)
    lines = 1 + paired
    with style():
        figure = new_figure(1.2 + 4.1 * (len(channels) + budgets), 1.5 + (2.9 * lines + 0.5) * len(groups))
        grid = figure.add_gridspec(
            lines * len(groups), len(channels) + budgets, height_ratios=[1.3, 1][:lines] * len(groups)
        )
        for place, (key, group) in enumerate(groups.items()):
            above: list[Axes] = []
            below: list[Axes] = []
            for column, channel in enumerate(channels):
                ours = _at_full_length(group, channel)
                name = CHANNEL_NAMES.get(channel, channel)
                above.append(figure.add_subplot(grid[lines * place, column], sharey=above[0] if above else None))
                _accuracies(above[-1], ours, group)
                above[-1].set_title(name if len(groups) == 1 else f"{key}, {name}")
                if paired:
                    shared = below[0] if below else None
                    below.append(figure.add_subplot(grid[lines * place + 1, column], sharex=above[-1], sharey=shared))
                    _differences(below[-1], ours)
                (below or above)[-1].set_xlabel("SNR $E_s/N_0$ (dB)")
                above[-1].set_xticks(sorted({row["snr_db"] for row in ours}))
            above[0].set_ylabel("top-1 accuracy on test images")
            if below:
                below[0].set_ylabel("points over kdnas")
                low = min((row["difference"] for row in group if row.get("difference") is not None), default=0.0)
                below[0].set_ylim(bottom=max(_WORST, low - 0.02))
            if _over_budget(group):  # where no digital image was sent, its place stays empty
                last = figure.add_subplot(grid[lines * place : lines * (place + 1), -1])
                _symbols(last, group)
                above.append(last)
            to_percent(*above)
        _legend(figure, rows, paired)
        alone = {row["system"] for row in rows} <= {_OURS, "teacher"}
        title = "The link against its teacher" if alone else "The link against its baselines, at equal complex symbols"
        heading(figure, title, _subtitle(rows))
    return figure


FIGURES: dict[str, Callable[[Sequence[Row]], "Figure"]] = {"envelope": envelope_figure}


def _at_full_length(group: Sequence[Row], channel: str) -> list[Row]:
    """Rows of a channel at as many symbols as ours sends."""
    symbols = _symbols_of_ours(group)
    return [row for row in group if row["channel"] == channel and row["symbols"] == symbols]


def _symbols_of_ours(group: Sequence[Row]) -> int:
    return max(row["symbols"] for row in group if row["system"] == _OURS)


def _over_budget(group: Sequence[Row]) -> list[Row]:
    """Digital images over AWGN, where some have more symbols than ours."""
    own = _symbols_of_ours(group)
    rows = [row for row in group if row["system"] in ("digital-image", "capacity") and row["channel"] == "awgn"]
    rows = [row for row in rows if row["symbols"] >= own]
    return rows if any(row["symbols"] > own for row in rows) else []


def _means(rows: Sequence[Row], by: str) -> list[dict[str, Any]]:
    """Mean by ``by`` with the half-width of the band: one standard deviation over seeds, or the interval of one."""
    alone = {row[by]: row["ci95"] for row in rows}
    return [
        {by: row[by], "accuracy": row["mean"], "band": alone[row[by]] if row["std"] is None else row["std"]}
        for row in summarise(rows, by=(by,))
    ]


def _accuracies(ax: "Axes", rows: Sequence[Row], group: Sequence[Row]) -> None:
    for system, (_, look) in _LOOKS.items():
        chosen = [row for row in rows if row["system"] == system]
        if chosen:
            draw_line(ax, _means(chosen, "snr_db"), "snr_db", band="band", **look)
    draw_teacher(ax, mean_of([row["teacher_accuracy"] for row in group]))


def _differences(ax: "Axes", rows: Sequence[Row]) -> None:
    ax.axhline(0, color=BLUE, linewidth=2.0)
    snrs = sorted({row["snr_db"] for row in rows})
    step = 0.03 * (snrs[-1] - snrs[0]) / max(1, len(snrs) - 1)
    for index, (system, (_, look)) in enumerate(_LOOKS.items()):
        points: dict[float, list[Row]] = {}
        for row in rows:
            if row["system"] == system and row.get("difference") is not None:
                points.setdefault(row["snr_db"], []).append(row)
        if points:
            aside = step * (index - len(_LOOKS) / 2)  # so that no interval hides another
            values = [[row["difference"] for row in points[snr]] for snr in sorted(points)]
            errors = [
                two_errors(own) or points[snr][0]["difference_ci95"]
                for snr, own in zip(sorted(points), values, strict=True)
            ]
            x = [snr + aside for snr in sorted(points)]
            ax.errorbar(x, [mean_of(own) for own in values], yerr=errors, capsize=2, linewidth=1.1, **_thin(look))
    from matplotlib.ticker import FuncFormatter

    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(100 * value, 3):g}".replace("-", "−")))


def _thin(look: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in look.items() if key not in ("linewidth", "zorder")}


def _symbols(ax: "Axes", group: Sequence[Row]) -> None:
    """Accuracy of digital images by symbols: solid by LDPC, dash-dot at capacity; ours as a star."""
    rows, own = _over_budget(group), _symbols_of_ours(group)
    for snr_db, colour in zip(_BUDGET_SNRS, colour_ramp(len(_BUDGET_SNRS)), strict=True):
        text = f"{snr_db:g} dB"
        for system, look in (("digital-image", "-"), ("capacity", "-.")):
            chosen = [row for row in rows if row["snr_db"] == snr_db and row["system"] == system]
            if chosen:
                draw_line(
                    ax, _means(chosen, "symbols"), "symbols", band="band", color=colour, linestyle=look, label=text
                )
                text = ""
        ours = [row for row in _at_full_length(group, "awgn") if row["system"] == _OURS and row["snr_db"] == snr_db]
        if ours:
            ax.plot(own, mean_of([row["accuracy"] for row in ours]), "*", color=colour, markersize=13, zorder=4)
    draw_teacher(ax, mean_of([row["teacher_accuracy"] for row in group]))
    symbols = sorted({row["symbols"] for row in rows})
    ax.set_xscale("log", base=2)
    ax.set_xticks(symbols, [str(count) for count in symbols], rotation=45)
    ax.minorticks_off()
    ax.set_xlabel("complex symbols per image")
    ax.set_title("what a digital image needs, AWGN")
    handles, labels = ax.get_legend_handles_labels()
    shown = [(handle, label) for handle, label in zip(handles, labels, strict=True) if label]
    ax.legend(
        *zip(*shown, strict=True), loc="lower right", title=f"LDPC; dash-dot: capacity\nstars: kdnas, {own} symbols"
    ) if shown else None


def _legend(figure: "Figure", rows: Sequence[Row], paired: bool) -> None:
    from matplotlib.lines import Line2D

    systems = {row["system"] for row in rows}
    handles = [
        Line2D([], [], label=name, **look) for system, (name, look) in reversed(_LOOKS.items()) if system in systems
    ]
    handles.append(Line2D([], [], color=BLACK, linestyle=":", label="teacher, no channel"))
    figure.legend(handles=handles, loc="outside lower left", ncols=5, fontsize=8.5)


def _subtitle(rows: Sequence[Row]) -> str:
    ours = [row for row in rows if row["system"] == _OURS]
    several = len({row["seed"] for row in rows}) > 1
    parts = [
        only(rows, "dataset"), only(rows, "device"), only(ours, "symbols", "{} complex symbols per image"),
        seeds_text(rows), "bands ± 1 std over seeds, bars ± 2 SE" if several else "bands and bars: 95 % intervals",
    ]  # fmt: skip
    return ", ".join(part for part in parts if part)
