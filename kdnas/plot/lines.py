"""What the figures of published tables share: one line for each thing compared, its marks, its name, its numbers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdnas.plot.style import BLACK, GREY, MARKERS, SKY, to_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]


def groups_of(rows: Sequence[Row], *keys: str) -> dict[str, list[Row]]:
    """Rows by the first key, and by the others where they differ between rows; in order of appearance."""
    told = [key for key in keys if key == keys[0] or len({row.get(key) for row in rows}) > 1]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(", ".join(str(row.get(key)) for key in told), []).append(row)
    return groups


def spread(place: float, count: int) -> list[float]:
    """Heights around a line for its seeds, so that equal values do not hide each other."""
    step = min(0.17, 0.5 / max(1, count - 1))
    return [place + step * (index - (count - 1) / 2) for index in range(count)]


def dots(
    ax: "Axes",
    place: int,
    values: Sequence[float],
    colour: str,
    std: float | None = None,
    hollow: Sequence[bool] | None = None,
) -> None:
    """Draw the mean of ``values`` (± ``std``) large on the line ``place``, each value small, ``hollow`` ones white."""
    mean = sum(values) / len(values)
    ax.errorbar(mean, place, xerr=std, fmt="D", color=colour, markersize=7.5, capsize=3.5, zorder=2.5, alpha=0.9)
    faces = ["white" if empty else SKY for empty in hollow or [False] * len(values)]
    heights = spread(place, len(values))
    ax.scatter(values, heights, s=19, c=faces, edgecolors=BLACK, linewidths=0.8, zorder=4)


def bars(ax: "Axes", lengths: Sequence[float], colours: Sequence[str], texts: Sequence[str], room: float) -> None:
    """Draw bars from 0 with their texts right of them; ``room`` is for the texts, as a share of the longest bar."""
    ax.barh(range(len(lengths)), lengths, color=colours, height=0.66)
    for place, (length, text) in enumerate(zip(lengths, texts, strict=True)):
        ax.annotate(text, (length, place), (5, 0), textcoords="offset points", va="center", fontsize=8.5)
    ax.set_xlim(0, max(lengths) * (1 + room))  # the texts stand right of the bars


def beside(ax: "Axes", place: float, text: str, **look: Any) -> None:
    """Write ``text`` right of the panel, on the line of ``place``."""
    ax.annotate(text, (1.015, place), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, **look)


def name_lines(ax: "Axes", names: Sequence[str]) -> None:
    """Write the lines' names at the left, the first one on top; grid lines across would tell nothing."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.45, -0.55)
    for each in {ax, *ax.get_shared_y_axes().get_siblings(ax)}:
        each.tick_params(axis="y", length=0)
        each.grid(axis="y", visible=False)


def accuracy_axis(ax: "Axes", ticks: int) -> None:
    """Make x an axis of per cent with about ``ticks`` ticks."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(ticks))
    to_percent(ax, axis="x")


def dot(colour: str, label: str, face: str | None = None, marker: str = MARKERS[0], size: float = 4.5) -> Any:
    """A mark for a legend, edged in black where its ``face`` has a colour of its own."""
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], color=colour, marker=marker, markersize=size, linestyle="", label=label,
        markerfacecolor=face or colour, markeredgecolor=BLACK if face else colour,
    )  # fmt: skip


def dots_legend(figure: "Figure", spread: bool = False, hollow: bool = False) -> None:
    """The legend of ``dots``, under the panels where it covers nothing."""
    name = "mean ± standard deviation" if spread else "mean"
    handles = [dot(GREY, name, marker="D", size=7.5), dot(BLACK, "single seeds", SKY)]
    if hollow:
        handles.append(dot(BLACK, "single seeds over a budget", "white"))
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), fontsize=8.5)


def signed(value: float) -> str:
    """A number with one place, a true minus, and none before 0.0."""
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "−")  # no minus before 0.0


def only(rows: Sequence[Row], key: str, text: str = "{}") -> str:
    """The one value of a column in words; nothing where it has several, or none."""
    values = {row.get(key) for row in rows}
    value = values.pop() if len(values) == 1 else None
    if value == 1:
        text = text.removesuffix("s")
    return "" if value is None else text.format(f"{value:,}" if isinstance(value, int) else value)


def seeds_text(rows: Sequence[Row]) -> str:
    """How many seeds the rows have, in words; from the fewest to the most where data sets differ."""
    counts = {
        len({row["seed"] for row in rows if row.get("dataset") == name}) for name in {r.get("dataset") for r in rows}
    }
    few, many = min(counts, default=0), max(counts, default=0)
    return "1 seed" if many == 1 else f"{many} seeds" if few == many else f"{few} to {many} seeds"


def labels_text(labels: int | str) -> str:
    """How many labels, in words."""
    if labels == "all":
        return "all labels"
    return "1 label" if labels == 1 else f"{labels:,} labels"
