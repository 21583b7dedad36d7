"""What the transmitter costs, against what its device class allows."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdnas.errors import InputError
from kdnas.plot.style import BLUE, SKY, VERMILLION, heading, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COST_NAMES = {
    "params": "parameters",
    "macs": "MACs per image",
    "sram_bytes": "peak SRAM",
    "flash_bytes": "flash",
    "latency_s": "latency",
    "energy_j": "energy",
}


def cost_against_budget(results: Mapping[str, Any]) -> "Figure":
    """The transmitter's costs in per cent of each budget, encoder and channel encoder stacked.

    The two halves run one after the other, so that their peak SRAM is the larger of both: the channel
    encoder's part of that bar is only what it needs beyond the encoder's.

    Args:
        results: A valid ``results.json`` document.

    Returns:
        The figure: one bar for each budget of the device class, and the line at 100 %.

    Raises:
        InputError: The document has no budget.
    """
    encoder, total, budgets = results["encoder"], results["transmitter"], results["budgets"]
    keys = [key for key in COST_NAMES if key in budgets]
    if not keys:
        raise InputError("results.json: budgets: the device class has no limit, so there is nothing to compare")
    inner = [100 * encoder[key] / budgets[key] for key in keys]
    whole = [100 * total[key] / budgets[key] for key in keys]
    with style():
        figure = new_figure(8.2, 1.75 + 0.52 * len(keys))
        ax = figure.subplots()
        places = range(len(keys))
        ax.barh(places, inner, color=BLUE, height=0.58, label="encoder")
        rest = [w - i for w, i in zip(whole, inner, strict=True)]
        ax.barh(places, rest, left=inner, color=SKY, height=0.58, label="channel encoder")
        limit = ax.axvline(100, color=VERMILLION, linewidth=2, label="budget")
        right = max(100.0, *whole)
        for place, key, share in zip(places, keys, whole, strict=True):
            text = f"{share:.0f} %   {quantity(key, total[key])} of {quantity(key, budgets[key])}"
            over = share > 100
            ax.annotate(
                text + (", over" if over else ""),
                (1.02, place),
                xycoords=("axes fraction", "data"),
                va="center",
                color=VERMILLION if over else "black",
                fontweight="bold" if over else "normal",
            )
        ax.set_yticks(places, [COST_NAMES[key] for key in keys])
        ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()
        ax.set_xlim(0, right * 1.04)
        ax.set_xlabel("share of the budget of the device class (%)")
        ax.grid(axis="y", visible=False)
        handles, names = ax.get_legend_handles_labels()
        order = [names.index(name) for name in ("encoder", "channel encoder", "budget")]
        figure.legend([handles[i] for i in order], [names[i] for i in order], loc="outside lower left", ncols=3)
        limit.set_zorder(3)
        heading(
            figure,
            "Transmitter cost against budget",
            f"device class {results['device']}, {results['dataset']}",
        )
    return figure


def quantity(key: str, value: float) -> str:
    """A cost as a short text with its unit, for example ``35.4 k``, ``60.0 KiB``, ``8.1 ms``."""
    if key in ("latency_s", "energy_j"):
        base_unit = "s" if key == "latency_s" else "J"
        for scale, unit in ((1.0, base_unit), (1e-3, f"m{base_unit}"), (1e-6, f"µ{base_unit}")):
            if value >= 0.9995 * scale or scale == 1e-6:
                return f"{value / scale:.3g} {unit}"
    base, units = (1024, ("B", "KiB", "MiB", "GiB")) if key.endswith("_bytes") else (1000, ("", "k", "M", "G"))
    step = 0
    while value >= base - 0.5 and step < 3:
        value, step = value / base, step + 1
    digits = "0f" if value >= 100 or step == 0 else "1f"
    return f"{value:.{digits}} {units[step]}".rstrip()
