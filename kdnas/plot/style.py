"""How every figure looks, and how it leaves: PNG and SVG files, or an array for TensorBoard."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas.run.files import atomic_write

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008), without the yellow, which is too pale for lines on white.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000",
)  # fmt: skip
CYCLE = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK)
GREY = "#666666"
SYSTEM_COLOURS = {"kdnas": BLUE, "no-kd": ORANGE, "teacher": BLACK}
SYSTEM_NAMES = {"kdnas": "kdnas", "no-kd": "no KD", "teacher": "teacher"}
CHANNEL_NAMES = {
    "awgn": "AWGN channel",
    "rayleigh": "Rayleigh fading channel",
    "rician": "Rician fading channel",
    "multipath": "Multipath channel (OFDM)",
}
MARKERS = "osD^vPX"

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "kdnas",  # the same JSON gives the same SVG bytes
}


def style() -> "AbstractContextManager[None]":
    """The context in which figures are made and saved."""
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def new_figure(width: float, height: float) -> "Figure":
    """An empty Agg figure of ``width`` x ``height`` inches, outside the global state of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    return figure


def heading(figure: "Figure", title: str, subtitle: str = "") -> None:
    """Write the figure's title, and a quieter line under it, at the left above all panels."""
    figure.suptitle(f"{title}\n" if subtitle else title, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    if subtitle:
        figure.text(0.01, 1 - 0.36 / figure.get_figheight(), subtitle, ha="left", va="top", color=GREY)


def to_percent(*axes: "Axes", axis: str = "y") -> None:
    """Show fractions as per cent on an axis; the data stay fractions."""
    from matplotlib.ticker import FuncFormatter

    for ax in axes:
        shown = FuncFormatter(lambda value, _: f"{round(100 * value, 3):g} %")
        getattr(ax, f"{axis}axis").set_major_formatter(shown)


def colour_ramp(count: int) -> list[Any]:
    """``count`` colours from dark to light for an ordered quantity (viridis without its pale end)."""
    import matplotlib
    import numpy as np

    return list(matplotlib.colormaps["viridis"](np.linspace(0.0, 0.82, count))) if count > 1 else [BLUE]


def label_ends(ax: "Axes", x: float, ends: Sequence[tuple[float, str, Any]], gap: float = 0.052) -> None:
    """Write labels right of the lines' ends, moved apart where they would touch.

    Args:
        ax: Axes whose limits are final.
        x: Where the lines end, in data units.
        ends: (y in data units, text, colour) for each line.
        gap: Least distance of two labels, as a fraction of the axes' height.
    """
    low, high = ax.get_ylim()
    ordered = sorted(ends, key=lambda end: end[0])
    places = [(y - low) / (high - low) for y, _, _ in ordered]
    for _ in range(500):  # push touching neighbours apart, evenly, and down from the top, until all is well
        moved = places[-1:] > [1.0]
        places[-1:] = [min(place, 1.0) for place in places[-1:]]
        for i in range(len(places) - 1):
            if (short := gap - (places[i + 1] - places[i])) > 1e-6:
                places[i] -= short / 2
                places[i + 1] += short / 2
                moved = True
        if not moved:
            break
    for (y, text, colour), place in zip(ordered, places, strict=True):
        ax.annotate(
            text,
            xy=(x, y),
            xytext=(1.045, place),
            textcoords="axes fraction",
            color=colour,
            va="center",
            fontsize=9,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.7,
                "alpha": 0.6,
                "shrinkA": 1,
                "shrinkB": 4,
            },
        )


def save(figure: "Figure", path: Path) -> list[Path]:
    """Write a figure as ``path``.png and ``path``.svg, atomically, with the same bytes for the same content.

    Returns:
        The two files.
    """
    import io

    files = []
    with style():
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix[1:], metadata=metadata, dpi=150)
            files.append(path.with_name(path.name + suffix))
            atomic_write(files[-1], buffer.getvalue())
    return files


def figure_to_array(figure: "Figure") -> "np.ndarray":
    """A figure's pixels, uint8 (height, width, 3): ``add_image(..., dataformats="HWC")`` takes it."""
    import numpy as np

    with style():
        figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]
