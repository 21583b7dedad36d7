"""The figure of the published table about tailoring: each device's floor, its cost, and what binds."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kdnas.plot.lines import Row, accuracy_axis, beside, dot, groups_of, only, seeds_text
from kdnas.plot.pairs import mean_of, std_of
from kdnas.plot.style import BLACK, BLUE, GREY, ORANGE, VERMILLION, heading, new_figure, style, to_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# By system: its name, colour, mark, and height on the line of a device.
_SYSTEMS = {
    "dynamic": ("dynamic distillation", BLUE, "D", -0.26),
    "static": ("static distillation, full granularity", ORANGE, "s", 0.0),
    "none": ("no distillation", GREY, "o", 0.26),
}


def tailor_figure(rows: Sequence[Row]) -> "Figure":
    """Each device: accuracy against its floor, distilled units, and energy of the three ways to distil.

    Args:
        rows: Of ``tailor.json``.

    Returns:
        The figure: means ± standard deviation over seeds; a mark is hollow where a seed found nothing that fits, and
        the constraint that binds is named at the right. Energies are drawn as a share of the device's largest, the
        values beside them.
    """
    groups = groups_of(rows, "dataset")
    devices = {dataset: _by_class(group) for dataset, group in groups.items()}
    counts = [len(own) for own in devices.values()]
    with style():
        figure = new_figure(12.8, 1.9 + 0.5 * len(groups) + 0.72 * sum(counts))
        axes = figure.subplots(
            len(groups), 3, sharex="col", sharey="row", squeeze=False, height_ratios=counts, width_ratios=[1.3, 0.8, 1]
        )
        for (dataset, group), (accuracy, units, energy) in zip(groups.items(), axes, strict=True):
            for place, device in enumerate(devices[dataset]):
                own = [row for row in group if row["device"] == device]
                for floor in {row["accuracy_floor"] for row in own}:
                    accuracy.plot([floor, floor], [place - 0.43, place + 0.43], color=BLACK, linewidth=2.2, zorder=2)
                most = max((row["energy_j"] for row in own if row["energy_j"] is not None), default=0.0)
                for system, (_, colour, marker, height) in _SYSTEMS.items():
                    chosen = [row for row in own if row["system"] == system]
                    if chosen:
                        _marks(accuracy, place + height, chosen, "accuracy", colour, marker)
                        _marks(units, place + height, chosen, "units", colour, marker)
                        _energy(energy, place + height, chosen, most, colour)
                        _misfit(energy, place + height, chosen)
            _name_devices((accuracy, units, energy), group, devices[dataset])
            accuracy.set_title(f"{dataset}: accuracy and floor" if len(groups) > 1 else "accuracy and floor")
            units.set_title("distilled units")
            energy.set_title("energy of an image")
        _units_axis(axes[-1][1], [row["units"] for row in rows if row["units"]])
        accuracy_axis(axes[-1][0], 5)
        to_percent(axes[-1][2], axis="x")
        axes[-1][0].set_xlabel("top-1 accuracy on test images, through the device's link")
        axes[-1][1].set_xlabel("units (log scale)")
        axes[-1][2].set_xlabel("share of the device's largest")
        axes[-1][2].set_xlim(0, 1.36)  # the values stand right of the bars
        axes[-1][2].set_xticks([0, 0.5, 1.0])
        _legend(figure)
        text = "; ".join(
            filter(None, [only(rows, "dataset"), seeds_text(rows), "at the right: what binds where nothing fits"])
        )
        heading(figure, "Distillation tailored to each device", text)
    return figure


FIGURES: dict[str, Callable[[Sequence[Row]], "Figure"]] = {"tailor": tailor_figure}


def _by_class(rows: Sequence[Row]) -> list[str]:
    """The devices, those of one class together."""
    classes = list(dict.fromkeys(row["device_class"] for row in rows))
    ordered = sorted(rows, key=lambda row: classes.index(row["device_class"]))
    return list(dict.fromkeys(row["device"] for row in ordered))


def _marks(ax: "Axes", y: float, rows: Sequence[Row], key: str, colour: str, marker: str) -> None:
    values = [row[key] for row in rows if row[key] is not None]
    if not values:
        return
    hollow = not all(row["feasible"] for row in rows)
    ax.plot(values, [y] * len(values), "|", color=colour, alpha=0.8, markersize=7)
    ax.errorbar(
        mean_of(values), y, xerr=std_of(values), fmt=marker, color=colour, markersize=6.5, capsize=2.5, zorder=3,
        markerfacecolor="white" if hollow else colour, markeredgewidth=1.4,
    )  # fmt: skip


def _energy(ax: "Axes", y: float, rows: Sequence[Row], most: float, colour: str) -> None:
    told = [row for row in rows if row["energy_j"] is not None]
    if not told or not most:
        return
    whole = [row["energy_j"] / most for row in told]
    computing = mean_of([row["energy_compute_j"] / most for row in told])
    mean = mean_of(whole)
    ax.barh(y, computing, color=colour, height=0.2)
    ax.barh(
        y, mean - computing, left=computing, xerr=std_of(whole), ecolor=BLACK, height=0.2, color="white",
        edgecolor=colour, hatch="/////", linewidth=0.9,
    )  # fmt: skip
    right = max(mean + (std_of(whole) or 0), mean)
    text = _joules(mean_of([row["energy_j"] for row in told]))
    ax.annotate(text, (right, y), (4, 0), textcoords="offset points", va="center", fontsize=7.5)


def _misfit(ax: "Axes", y: float, rows: Sequence[Row]) -> None:
    bindings = [row["binding"] for row in rows if not row["feasible"]]
    if bindings:
        share = "" if len(bindings) == len(rows) else f" ({len(bindings)} of {len(rows)} seeds)"
        beside(ax, y, "infeasible: " + ", ".join(dict.fromkeys(bindings)) + share, color=VERMILLION)


def _name_devices(axes: Sequence["Axes"], rows: Sequence[Row], devices: Sequence[str]) -> None:
    classes = {row["device"]: row["device_class"] for row in rows}
    names = [name if name == classes[name] else f"{name}\n({classes[name]})" for name in devices]
    axes[0].set_yticks(range(len(devices)), names)
    axes[0].set_ylim(len(devices) - 0.45, -0.55)
    for ax in axes:
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
        for place in range(len(devices) - 1):
            same = classes[devices[place]] == classes[devices[place + 1]]
            ax.axhline(place + 0.5, color="#d0d0d0" if same else GREY, linewidth=0.8)


def _units_axis(ax: "Axes", units: Sequence[float]) -> None:
    """Logarithmic, and linear from 0 to the decade of the fewest, since no distillation has 0 units."""
    import math

    from matplotlib.ticker import FuncFormatter

    least = 10.0 ** math.floor(math.log10(min(units, default=1.0)))
    top = max(units, default=1.0)
    ax.set_xscale("symlog", linthresh=least)
    decades = range(round(math.log10(least)), math.floor(math.log10(top)) + 1)
    ticks = [0.0, *(10.0**decade for decade in decades)]
    ax.set_xticks([*ticks[:1], *ticks[1:][:: 1 + len(decades) // 5]])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    ax.minorticks_off()
    ax.set_xlim(-0.18 * least, 2.2 * top)


def _count(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _joules(value: float) -> str:
    for size, unit in ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-9:.3g} nJ"


def _legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [dot(colour, name, marker=mark, size=6.5) for name, colour, mark, _ in _SYSTEMS.values()]
    handles += [
        dot(BLACK, "nothing fits in some seed", face="white", marker="D", size=6.5),
        Line2D([], [], color=BLACK, linewidth=2.2, label="accuracy floor"),
        Line2D([], [], color=GREY, marker="|", linestyle="", markersize=7, label="single seeds (mean ± std)"),
        Patch(facecolor=GREY, label="computing"),
        Patch(facecolor="white", edgecolor=GREY, hatch="/////", label="transmitting"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=4, fontsize=8.5, columnspacing=1.4)
