"""Figures, drawn from JSON files alone; matplotlib is imported when the first one is made."""

from kdnas.plot.architecture import architecture_figure
from kdnas.plot.cost import cost_against_budget
from kdnas.plot.curves import accuracy_against_length, accuracy_against_snr, accuracy_told_wrong
from kdnas.plot.draw import plot_published, plot_run, plot_table
from kdnas.plot.published import devices_figure, seed_bands_figure
from kdnas.plot.published_codec import (
    adaptation_figure,
    constellation_figure,
    one_model_figure,
    told_wrong_figure,
    trained_on_figure,
)
from kdnas.plot.published_costs import latency_figure, sram_figure
from kdnas.plot.published_distill import (
    all_labels_figure,
    few_labels_figure,
    loss_ablation_figure,
    stages_figure,
)
from kdnas.plot.published_envelope import envelope_figure
from kdnas.plot.published_halves import int8_figure, link_speed_figure
from kdnas.plot.published_search import (
    budgets_figure,
    collapse_figure,
    nas_bench_201_figure,
    search_baselines_figure,
    search_speed_figure,
)
from kdnas.plot.published_store import store_figure
from kdnas.plot.published_tailor import tailor_figure
from kdnas.plot.published_tune import pareto_figure, proxies_figure, tuning_figure, workers_figure
from kdnas.plot.search import alphas_figure, ranks_figure, trials_figure
from kdnas.plot.style import figure_to_array, save

__all__ = [
    "accuracy_against_length",
    "accuracy_against_snr",
    "accuracy_told_wrong",
    "adaptation_figure",
    "all_labels_figure",
    "alphas_figure",
    "architecture_figure",
    "budgets_figure",
    "collapse_figure",
    "constellation_figure",
    "cost_against_budget",
    "devices_figure",
    "envelope_figure",
    "few_labels_figure",
    "figure_to_array",
    "int8_figure",
    "latency_figure",
    "link_speed_figure",
    "loss_ablation_figure",
    "nas_bench_201_figure",
    "one_model_figure",
    "pareto_figure",
    "plot_published",
    "plot_run",
    "plot_table",
    "proxies_figure",
    "ranks_figure",
    "save",
    "search_baselines_figure",
    "search_speed_figure",
    "seed_bands_figure",
    "sram_figure",
    "stages_figure",
    "store_figure",
    "tailor_figure",
    "told_wrong_figure",
    "trained_on_figure",
    "trials_figure",
    "tuning_figure",
    "workers_figure",
]
