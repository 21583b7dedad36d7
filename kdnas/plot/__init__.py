"""Figures, drawn from JSON files alone; matplotlib is imported when the first one is made."""

from kdnas.plot.architecture import architecture_figure
from kdnas.plot.cost import cost_against_budget
from kdnas.plot.curves import accuracy_against_length, accuracy_against_snr
from kdnas.plot.draw import plot_published, plot_run
from kdnas.plot.published import devices_figure, seed_bands_figure
from kdnas.plot.search import alphas_figure, ranks_figure, trials_figure
from kdnas.plot.style import figure_to_array, save

__all__ = [
    "accuracy_against_length",
    "accuracy_against_snr",
    "alphas_figure",
    "architecture_figure",
    "cost_against_budget",
    "devices_figure",
    "figure_to_array",
    "plot_published",
    "plot_run",
    "ranks_figure",
    "save",
    "seed_bands_figure",
    "trials_figure",
]
