"""The figure of the published table about stored knowledge: what each form of it costs, and what it keeps."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kdnas.errors import InputError
from kdnas.evaluate.statistics import summarise
from kdnas.plot.lines import Row, beside, dot, groups_of, name_lines, only, seeds_text
from kdnas.plot.pairs import mean_of, std_of
from kdnas.plot.style import (
    BLACK,
    CYCLE,
    GREEN,
    GREY,
    MARKERS,
    VERMILLION,
    heading,
    label_ends,
    new_figure,
    style,
    to_percent,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHARE = 0.05  # of an image's bytes, the most that a view is to take
_LOSS = 0.003  # of accuracy, the most that a form is to lose against the one with the most bytes
_SMALL, _LARGE = 1.05, 1.25  # times the epoch without a teacher: up to _DIMS dimensions of the target, and beyond
_DIMS = 128
_NOTHING = {"none": "no teacher", "live": "live teacher"}


def store_figure(rows: Sequence[Row]) -> "Figure":
    """Accuracy against bytes of a stored view, and the time of an epoch; one line of panels for each data set.

    Args:
        rows: Of ``store.json``.

    Returns:
        The figure: left, mean ± standard deviation over seeds, with 5 % of an image's bytes and the loss allowed
        against the form of most bytes; what stores nothing is a line across. Right, the epoch as a multiple of the
        one without a teacher, with both limits, and the same of the live teacher.

    Raises:
        InputError: A data set has no stored form, or images of several sizes.
    """
    groups = groups_of(rows, "dataset")
    forms = {dataset: _stored(dataset, group) for dataset, group in groups.items()}
    names = list(dict.fromkeys(name for own in forms.values() for name in own))
    # Past one round of colours, each meets another mark.
    looks = {name: (CYCLE[i % 7], MARKERS[(i + i // 7) % 7]) for i, name in enumerate(names)}
    heights = [max(3.1, 0.9 + 0.36 * len(own)) for own in forms.values()]
    with style():
        figure = new_figure(12.6, 1.5 + sum(heights))
        axes = figure.subplots(len(groups), 3, squeeze=False, height_ratios=heights, width_ratios=[1.5, 1.35, 0.6])
        for (dataset, group), (accuracy, epoch, live) in zip(groups.items(), axes, strict=True):
            live.sharey(epoch)
            _accuracies(accuracy, group, forms[dataset], looks)
            for place, (name, own) in enumerate(forms[dataset].items()):
                _epoch(epoch, place, own, *looks[name])
                ratios = [row["epoch_live_s"] / row["epoch_no_teacher_s"] for row in own if row["epoch_live_s"]]
                if ratios:
                    live.barh(place, mean_of(ratios), xerr=std_of(ratios), color=GREY, height=0.6, ecolor=BLACK)
                    beside(live, place, f"{mean_of(ratios):.2f} ×")
            live.tick_params(axis="y", labelleft=False)
            name_lines(epoch, [_name(name, own) for name, own in forms[dataset].items()])
            longest = max(row["epoch_s"] / row["epoch_no_teacher_s"] for row in _all(forms[dataset]))
            epoch.set_xlim(0, max(1.35, 1.04 * longest))
            live.set_xlim(left=0)
            epoch.axvline(_SMALL, color=VERMILLION, linewidth=1.6)
            epoch.axvline(_LARGE, color=VERMILLION, linewidth=1.6, linestyle="--")
            accuracy.set_title(f"{dataset}: accuracy; 5 % of an image: {_SHARE * group[0]['image_bytes']:.0f} B")
            epoch.set_title("epoch with the store")
            live.set_title("with the live teacher")
            to_percent(accuracy)
            accuracy.set_ylabel("top-1 accuracy on test images")
        axes[-1][0].set_xlabel("bytes of a stored view (log scale)")
        axes[-1][1].set_xlabel("time / epoch without a teacher")
        axes[-1][2].set_xlabel("time / without a teacher")
        _legend(figure)
        parts = [only(rows, "dataset"), seeds_text(rows), "mark and colour: the form, named in the middle"]
        heading(figure, "Stored knowledge: bytes, accuracy and time", "; ".join(filter(None, parts)))
    return figure


FIGURES: dict[str, Callable[[Sequence[Row]], "Figure"]] = {"store": store_figure}


def _stored(dataset: str, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by form, most bytes first, without those that store nothing."""
    if len({row["image_bytes"] for row in rows}) > 1:
        raise InputError(f"rows: image_bytes of {dataset} has several values; name the data sets apart")
    forms: dict[str, list[Row]] = {}
    for row in sorted((row for row in rows if row["bytes_per_view"]), key=lambda row: -row["bytes_per_view"]):
        forms.setdefault(row["form"], []).append(row)
    if not forms:
        raise InputError(f"rows: no row of {dataset} has bytes_per_view: there is nothing to draw, add a stored form")
    return forms


def _all(forms: dict[str, list[Row]]) -> list[Row]:
    return [row for own in forms.values() for row in own]


def _accuracies(ax: "Axes", rows: Sequence[Row], forms: dict[str, list[Row]], looks: dict[str, Any]) -> None:
    whole = mean_of([row["accuracy"] for row in next(iter(forms.values()))])
    ax.axhspan(whole - _LOSS, whole, color=GREEN, alpha=0.16, linewidth=0)
    for name, own in forms.items():
        colour, marker = looks[name]
        values = [row["accuracy"] for row in own]
        sizes = [row["bytes_per_view"] for row in own]
        ax.errorbar(
            mean_of(sizes), mean_of(values), yerr=std_of(values), fmt=marker, color=colour, markersize=8,
            markeredgecolor=BLACK, markeredgewidth=0.6, capsize=3, zorder=3, label=name,
        )  # fmt: skip
        ax.plot(sizes, values, ".", color=BLACK, markersize=3.2, zorder=4)
    sizes = [row["bytes_per_view"] for row in _all(forms)]
    limit = _SHARE * rows[0]["image_bytes"]
    ax.set_xscale("log")
    ax.set_xlim(min(*sizes, limit) / 1.5, max(*sizes, limit) * 1.5)
    ax.axvline(limit, color=VERMILLION, linewidth=1.6)
    _plain_log(ax)
    nothing = summarise([row for row in rows if not row["bytes_per_view"]], by=("form",))
    for index, line in enumerate(nothing):
        ax.axhline(line["mean"], color=GREY, linestyle=(":", "--", "-.")[index % 3], linewidth=1.3, label=line["form"])
    ax.set_ylim(ax.get_ylim())  # final, for the labels
    ends = [(line["mean"], _NOTHING.get(line["form"], line["form"]), GREY) for line in nothing]
    label_ends(ax, ax.get_xlim()[1], ends)


def _epoch(ax: "Axes", place: int, rows: Sequence[Row], colour: str, marker: str) -> None:
    ratios = [row["epoch_s"] / row["epoch_no_teacher_s"] for row in rows]
    mean = mean_of(ratios)
    ax.barh(place, mean, xerr=std_of(ratios), color=colour, height=0.6, alpha=0.55, ecolor=BLACK)
    ax.plot(0.045, place, marker, color=colour, markersize=7, markeredgecolor=BLACK, markeredgewidth=0.6, clip_on=False)
    over = mean > _limit(rows[0].get("dims"))
    beside(ax, place, f"{mean:.3f} ×", color=VERMILLION if over else BLACK)


def _limit(dims: int | None) -> float:
    """The limit for a target of ``dims`` dimensions; the smaller one where they are not told."""
    return _LARGE if dims is not None and dims > _DIMS else _SMALL


def _name(name: str, rows: Sequence[Row]) -> str:
    size = f"{mean_of([row['bytes_per_view'] for row in rows]):.0f} B"
    dims = only(rows, "dims", "{} dims")
    return f"{name}\n" + ", ".join(filter(None, (dims, size)))


def _plain_log(ax: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.minorticks_off()


def _legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        dot(GREY, "mean ± std over seeds", size=8),
        dot(BLACK, "single seeds", marker=".", size=4),
        Patch(color=GREEN, alpha=0.25, linewidth=0, label=f"at most {100 * _LOSS:.1f} points below the most bytes"),
        Line2D([], [], color=VERMILLION, label=f"left: 5 % of an image; right: {_SMALL:g} ×, limit to {_DIMS} dims"),
        Line2D([], [], color=VERMILLION, linestyle="--", label=f"{_LARGE:g} ×, limit beyond"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=5, fontsize=8.5, columnspacing=1.3)
