"""What stands in a figure, for tests."""

from matplotlib.collections import PathCollection
from matplotlib.text import Text

from kdnas.plot import figure_to_array


def boxes_of(figure):
    """Every text that is drawn, and where; not the heading, whose second line is another text's place."""
    figure_to_array(figure)
    shown = [text for text in figure.texts if not text.get_text().endswith("\n")]
    shown += [*(text for legend in figure.legends for text in legend.get_texts())]
    for ax in figure.axes:
        shown += [*ax.texts, ax.xaxis.label, ax.yaxis.label, ax._left_title]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            shown += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    renderer = figure.canvas.get_renderer()
    drawn = [text for text in shown if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), Text.get_window_extent(text, renderer)) for text in drawn]


def texts(figure):
    return [item.get_text() for item in figure.findobj(Text) if item.get_text()]


def line(ax, label):
    (found,) = [item for item in ax.lines if item.get_label() == label]
    return found


def names(ax):
    return [tick.get_text() for tick in ax.get_yticklabels()]


def dots_of(ax):
    return [item for item in ax.collections if isinstance(item, PathCollection)]


def seeds_of(ax):
    """The small dots, by line: their values, lowest seed first."""
    return [dots.get_offsets()[:, 0].tolist() for dots in dots_of(ax)]


def means_of(ax):
    return [float(bar.lines[0].get_xdata()[0]) for bar in ax.containers if bar.lines]
