"""A network as a block diagram, from a plain list of its layers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdnas.errors import InputError
from kdnas.plot.cost import quantity
from kdnas.plot.style import CYCLE, GREY, heading, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PITCH = 0.46  # inches from one block to the next


def architecture_figure(layers: Sequence[Mapping[str, Any]], title: str = "Architecture") -> "Figure":
    """A block diagram, input at the top: name and details in each block, shape and parameters beside it.

    Args:
        layers: ``{name, kind, detail, shape, params}`` in the order of the data: ``kind`` gives the block its
            colour (``skip``, ``identity`` and ``none`` are drawn hollow), ``shape`` is that of the output
            without the batch, ``params`` a count.
        title: The figure's title.

    Returns:
        The figure; the bars at the right are each block's share of the parameters.

    Raises:
        InputError: No layer.
    """
    from matplotlib.patches import FancyBboxPatch

    if not layers:
        raise InputError("layers: the list is empty, so there is no architecture to draw")
    kinds = [kind for kind in dict.fromkeys(layer["kind"] for layer in layers) if not _hollow(kind)]
    colours = {kind: CYCLE[index % len(CYCLE)] for index, kind in enumerate(kinds)}
    total = sum(layer["params"] for layer in layers)
    largest = max(max(layer["params"] for layer in layers), 1)
    count = len(layers)
    # Columns as wide as their longest text, in inches (9.5 pt bold and 8.5 pt).
    name_w, kind_w, detail_w, shape_w = (
        inch * max(len(text) for text in column) + 0.22
        for inch, column in (
            (0.083, [layer["name"] for layer in layers]),
            (0.077, [layer["kind"] for layer in layers]),
            (0.067, [layer["detail"] for layer in layers]),
            (0.067, [*map(_shape, layers), "output"]),
        )
    )
    box_w = max(0.2 + name_w + kind_w + detail_w, 3.0)
    shape_x = box_w + 0.2 + shape_w / 2
    bars_x = shape_x + shape_w / 2 + 0.1
    right = bars_x + 2.3
    with style():
        figure = new_figure(right + 0.3, 1.15 + _PITCH * (count + 0.6))
        ax = figure.subplots()
        ax.set_axis_off()
        ax.set_xlim(0, right)
        ax.set_ylim(count - 0.4, -1.0)
        for x, text, side in (
            (0.15, "layer", "left"),
            (shape_x, "output", "center"),
            (bars_x, "parameters", "left"),
        ):
            ax.text(x, -0.75, text, ha=side, va="center", color=GREY, fontsize=8.5)
        for row, layer in enumerate(layers):
            hollow = _hollow(layer["kind"])
            colour = GREY if hollow else colours[layer["kind"]]
            box = FancyBboxPatch(
                (0.05, row - 0.32), box_w, 0.64, boxstyle="round,pad=0,rounding_size=0.06", linewidth=1.2,
                edgecolor=colour, facecolor="white" if hollow else (colour, 0.13),
                linestyle="--" if hollow else "-", mutation_aspect=2.0,
            )  # fmt: skip
            ax.add_patch(box)
            ink = GREY if hollow else "black"
            ax.text(0.2, row, layer["name"], va="center", fontweight="bold", color=ink)
            place = 0.2 + name_w
            ax.text(place, row, layer["kind"], va="center", color=colour, fontweight="bold", fontsize=8.5)
            ax.text(place + kind_w, row, layer["detail"], va="center", fontsize=8.5, color=ink)
            if row:
                ax.annotate(
                    "", (box_w / 2, row - 0.32), (box_w / 2, row - 0.68), annotation_clip=False,
                    arrowprops={"arrowstyle": "-|>", "color": GREY, "lw": 1.0, "shrinkA": 0, "shrinkB": 0},
                )  # fmt: skip
            ax.text(shape_x, row, _shape(layer), ha="center", va="center", fontsize=8.5)
            width = 1.15 * layer["params"] / largest
            ax.barh(row, width, left=bars_x, height=0.4, color=colour, alpha=0.75)
            if layer["params"]:
                share = f"{quantity('params', layer['params'])}  ({100 * layer['params'] / total:.0f} %)"
                ax.text(bars_x + width + 0.06, row, share, va="center", fontsize=8)
        heading(figure, title, f"{count} layers, {quantity('params', total)} parameters")
    return figure


def _shape(layer: Mapping[str, Any]) -> str:
    return " × ".join(str(size) for size in layer["shape"])


def _hollow(kind: str) -> bool:
    return kind in ("skip", "identity", "none")
