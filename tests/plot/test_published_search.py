import copy
import json
import subprocess
import sys

import numpy as np
import pytest
from drawn import boxes_of, dots_of, means_of, names, seeds_of, texts
from figure_samples import published

from kdnas import api
from kdnas.errors import InputError
from kdnas.evaluate.results import table_kind, validate_table
from kdnas.plot import (
    budgets_figure,
    collapse_figure,
    nas_bench_201_figure,
    search_baselines_figure,
    search_speed_figure,
)

SYSTEMS = [("largest", None), ("kdnas", "softmax"), ("kdnas", "partial"), ("kdnas", "gumbel"), ("nni", None)]
PROTECTIONS = [
    "none", "warm-up", "beta decay", "skip decay", "early stop", "annealing", "warm-up, annealing",
    "warm-up, single path", "warm-up, shrinking", "warm-up, annealing, shrinking",
]  # fmt: skip
ARCH = "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_1x1~2|"


def speed():
    rows = []
    for space, base in (("mobile", 0.1371), ("cell", 0.0412), ("cell-16", 1.934)):
        for (system, relaxation), ratio in zip(SYSTEMS, (1.0, 2.13, 2.9, 1.84, 11.27), strict=True):
            if (space, relaxation) == ("mobile", "partial"):
                continue
            rows.append(
                {
                    "space": space, "system": system, "relaxation": relaxation, "step_s": base * ratio,
                    "images_per_s": 64 / base / ratio, "peak_bytes": int(9e7 * ratio), "batch_size": 64,
                    "ratio_to_largest": None if system == "largest" else ratio, "nni_over_this": None,
                    "device": "cpu", "threads": 1, "torch": "2.9",
                }
            )  # fmt: skip
    return rows


def budgets():
    limits = {
        "mcu": {"params": 35_000, "macs": 700_000, "sram_bytes": 32_768, "flash_bytes": 65_536},
        "wearable": {"params": 60_000, "macs": 2_000_000, "sram_bytes": 40_960, "flash_bytes": 131_072},
        "phone": {"params": 100_000, "macs": 4_000_000, "latency_s": 0.004},
        "gateway": {"params": 115_343, "macs": 18_400_000, "latency_s": 0.002},
    }
    shares = {"params": 0.81, "macs": 0.97, "sram_bytes": 0.287, "flash_bytes": 0.571, "latency_s": 0.42}
    return [
        {
            "device": device, "seed": seed, "cost": cost, "value": budget * (shares[cost] + 0.0125 * seed),
            "budget": budget, "largest_fits": device == "gateway",
        }
        for seed in range(3) for device, own in limits.items() for cost, budget in own.items()
    ]  # fmt: skip


def collapse():
    return [
        {
            "space": space, "device": "wearable", "protection": protection, "seed": seed,
            "gap": 0.34 - 0.036 * index + 0.02 * seed * (10 - index) / 10, "accuracy_relaxed": 0.8,
            "accuracy_derived": 0.46 + 0.036 * index, "accuracy_unlabelled": 0.45 + 0.037 * index - 0.01 * seed,
            "skips": max(0, (14 if space == "cell" else 7) - 2 * index + seed),
            "eigenvalue": None if index % 2 else 0.4, "entropy": 0.5, "binding_use": 0.97, "likely_over_budget": 1.2,
        }
        for space in ("mobile", "cell") for seed in range(3) for index, protection in enumerate(PROTECTIONS)
    ]  # fmt: skip


def baselines():
    accuracies = {"kdnas": 0.843, "random": 0.829, "mobilenet-v2": 0.815, "no-kd-search": 0.838, "no-penalty": 0.847}
    return [
        {
            "device": "wearable", "system": system, "seed": seed, "accuracy": mean + 0.006 * (seed - 1), "ci95": 0.013,
            "params": 50_000 + 1000 * seed, "macs": 1_650_000 + 30_000 * seed,
            "in_budget": system != "no-penalty" or seed == 0,
        }
        for seed in range(3) for system, mean in accuracies.items()
    ]  # fmt: skip


def nas_bench():
    return [
        {
            "system": system, "seed": seed, "arch": ARCH, "published_params": 587_002, "published_macs": 82_400_778,
            "skips": (4 if system == "darts" else 1) + (seed == 2), "accuracy_relaxed": 0.52,
            "accuracy_derived": 0.52 - (0.3 if system == "darts" else -0.01), "eigenvalues": [0.1, 0.5],
            "gap": (0.3 if system == "darts" else -0.01) + 0.012 * seed, "search_s": 900.0, "steps": 600,
            "channels": 8, "cells": 1,
        }
        for seed in range(3) for system in ("darts", "kdnas")
    ]  # fmt: skip


ROWS = {
    "search speed": speed, "budgets": budgets, "collapse": collapse, "search baselines": baselines,
    "NAS-Bench-201": nas_bench,
}  # fmt: skip


FIGURES = {
    "search speed": search_speed_figure, "budgets": budgets_figure, "collapse": collapse_figure,
    "search baselines": search_baselines_figure, "NAS-Bench-201": nas_bench_201_figure,
}  # fmt: skip


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("kind", ROWS)
def test_texts_are_inside_the_picture_and_no_two_overlap(kind, seeds):
    figure = FIGURES[kind]([row for row in ROWS[kind]() if row.get("seed", 0) < seeds])
    boxes = boxes_of(figure)
    assert len(boxes) > 10
    for index, (text, box) in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text
        assert [other for other, second in boxes[index + 1 :] if box.overlaps(second)] == [], text


@pytest.mark.parametrize("kind", ROWS)
def test_every_kind_is_told_by_its_keys_and_drawn_by_the_same_verb(kind, tmp_path):
    (tmp_path / "some.json").write_text(json.dumps({"command": "made up", "rows": ROWS[kind]()}))
    assert validate_table({"command": "made up", "rows": ROWS[kind]()}) == kind
    files = api.plot(tmp_path / "some.json", tmp_path / "out")
    assert [file.name for file in files] == ["some.png", "some.svg"]
    assert all(file.read_bytes().startswith((b"\x89PNG", b"<?xml")) for file in files)


def test_the_quick_table_is_still_drawn(tmp_path):
    (tmp_path / "quick.json").write_text(json.dumps(published()))
    assert validate_table(published()) == "quick"
    assert "quick-devices.png" in {file.name for file in api.plot(tmp_path / "quick.json")}


def test_speed_has_a_bar_for_each_system_and_its_ratio():
    figure = search_speed_figure(speed())
    assert [ax.get_title(loc="left") for ax in figure.axes[::2]] == [
        "mobile: time of a step", "cell: time of a step", "cell-16: time of a step",
    ]  # fmt: skip
    mobile, memory, cell = figure.axes[:3]
    assert names(mobile) == ["largest network, trained", "kdnas, softmax", "kdnas, gumbel", "NNI's DARTS"]
    assert [bar.get_width() for bar in mobile.patches] == pytest.approx([0.1371 * r for r in (1, 2.13, 1.84, 11.27)])
    assert [bar.get_width() for bar in memory.patches] == pytest.approx([90 * r for r in (1, 2.13, 1.84, 11.27)])
    assert mobile.get_xlabel() == "seconds per step"
    assert cell.get_xlabel() == "milliseconds per step"
    assert [bar.get_width() for bar in cell.patches][1] == pytest.approx(87.756)
    assert mobile.get_xlim()[0] == memory.get_xlim()[0] == 0
    assert [text.get_text() for text in mobile.texts][:2] == ["0.137 s", "0.292 s,  2.13 × the largest"]
    assert [text.get_text() for text in memory.texts][3] == "1,014 MB"


def test_speed_on_two_devices_is_not_mixed():
    rows = [{**row, "device": device} for device in ("cpu", "H200") for row in speed() if row["space"] == "cell"]
    figure = search_speed_figure(rows)
    assert [ax.get_title(loc="left").split(":")[0] for ax in figure.axes[::2]] == ["cell, cpu", "cell, H200"]


def test_budgets_shows_every_seed_the_limit_and_what_binds():
    figure = budgets_figure(budgets())
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["mcu", "wearable", "phone", "gateway (the space's largest network fits too)"]
    ax = figure.axes[0]
    limit, *dots = ax.lines
    assert list(limit.get_xdata()) == [1, 1]
    assert [line.get_xdata().tolist() for line in dots][1] == pytest.approx([0.97, 0.9825, 0.995])
    assert len({line.get_marker() for line in dots}) == len({line.get_color() for line in dots}) == 4
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((0.9, 1.0))
    assert [tick.get_fontweight() for tick in ax.get_yticklabels()] == ["normal", "bold", "normal", "normal"]
    assert ax.texts[1].get_text() == "98.2 % (97.0 to 99.5) of 700 k"
    assert figure.axes[2].texts[2].get_text() == "43.2 % (42.0 to 44.5) of 4 ms"


def test_what_is_over_a_budget_is_inside_the_picture():
    rows = budgets()
    rows[1]["value"] = 2 * rows[1]["budget"]
    assert budgets_figure(rows).axes[0].get_xlim()[1] > 2


def test_collapse_has_a_panel_for_gap_accuracy_and_skips():
    figure = collapse_figure(collapse())
    assert len(figure.axes) == 6
    gap, accuracy, skips = figure.axes[:3]
    assert names(gap) == PROTECTIONS
    assert gap.get_title(loc="left") == "mobile: discretisation gap"
    assert ["points" in ax.get_xlabel() for ax in figure.axes[::3]] == [False, True]
    assert seeds_of(gap)[0] == pytest.approx([34, 36, 38])
    assert means_of(gap)[0] == pytest.approx(36)
    assert seeds_of(accuracy)[9] == pytest.approx([0.783, 0.773, 0.763])
    assert seeds_of(skips)[0] == [7, 8, 9]
    assert [len(seeds_of(ax)) for ax in figure.axes] == [10] * 6
    assert gap.texts[0].get_text() == "36.0"
    assert accuracy.texts[0].get_text() == "44.0 %"


def test_no_minus_before_nothing():
    figure = collapse_figure([{**collapse()[0], "gap": gap, "protection": str(gap)} for gap in (-0.0004, -0.004)])
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.0", "−0.4"]


def test_baselines_show_mean_spread_and_who_is_over_a_budget():
    figure = search_baselines_figure(baselines())
    ax = figure.axes[0]
    assert names(ax)[:2] == ["kdnas", "best of random"]
    assert seeds_of(ax)[0] == pytest.approx([0.837, 0.843, 0.849])
    assert means_of(ax) == pytest.approx([0.843, 0.829, 0.815, 0.838, 0.847])
    (bars,) = ax.containers[0].lines[2]
    assert bars.get_segments()[0][:, 0] == pytest.approx([0.837, 0.849])  # the sample's standard deviation
    shown = [text.get_text() for text in ax.texts]
    assert shown == [
        "84.3 ± 0.6 %",
        "82.9 ± 0.6 %",
        "81.5 ± 0.6 %",
        "83.8 ± 0.6 %",
        "84.7 ± 0.6 %, 2 of 3 over a budget",
    ]
    white = [int((np.asarray(dots.get_facecolors()) == 1).all(1).sum()) for dots in dots_of(ax)]
    assert white == [0, 0, 0, 0, 2]
    assert "single seeds over a budget" in texts(figure)


def test_a_single_seed_has_no_spread():
    rows = [row for row in baselines() if row["seed"] == 0]
    figure = search_baselines_figure(rows)
    assert figure.axes[0].texts[0].get_text() == "83.7 %"
    assert "single seeds over a budget" not in texts(figure)


def test_nas_bench_shows_gap_and_skips_by_system():
    figure = nas_bench_201_figure(nas_bench())
    gap, skips = figure.axes
    assert names(gap) == ["DARTS", "kdnas"]
    assert [len(values) for values in seeds_of(gap)] == [3, 3]
    assert means_of(gap) == pytest.approx([31.2, 0.2])
    assert seeds_of(skips) == [[4, 4, 5], [1, 1, 2]]
    assert skips.get_xlim()[1] > 6


def changed(kind, index=0, **changes):
    rows = copy.deepcopy(ROWS[kind]())
    rows[index].update(changes)
    return {"command": "made up", "rows": rows}


def without(kind, key, index=0):
    document = changed(kind)
    del document["rows"][index][key]
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "rows: missing or empty"),
        ({"command": "x", "rows": []}, "rows: missing or empty"),
        ({"command": "x", "rows": [3]}, "rows: missing or empty"),
        ({"rows": budgets()}, "command: Field required"),
        ({"command": "x", "rows": [{"colour": "red"}]}, "rows[0]: no key of any table that can be drawn (quick, "),
        (without("budgets", "largest_fits"), "nearest to budgets, which needs also: largest_fits"),
        (without("collapse", "gap", 4), "rows[4].gap: Field required"),
        (changed("search speed", 2, step_s="fast"), "rows[2].step_s: Input should be a valid number"),
        (changed("search speed", 2, step_s=0.0), "rows[2].step_s: Input should be greater than 0"),
        (changed("budgets", 1, value=float("nan")), "rows[1].value: Input should be a finite number"),
        (changed("budgets", 1, largest_fits=1), "rows[1].largest_fits: Input should be a valid boolean"),
        (changed("collapse", 0, gap=36.0), "rows[0].gap: Input should be less than or equal to 1"),
        (changed("search baselines", 3, accuracy=84.3), "rows[3].accuracy: Input should be less than or equal to 1"),
        (changed("NAS-Bench-201", 0, eigenvalues=[0.1, None]), "rows[0].eigenvalues[1]: Input should be"),
        (changed("NAS-Bench-201", 1, system="darts"), "rows[1] repeats an earlier row (same system, seed)"),
    ],
)  # fmt: skip
def test_a_bad_table_is_refused_in_one_line(document, message, tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        api.plot(tmp_path / "bad.json")
    assert str(caught.value).startswith(str(tmp_path / "bad.json") + ": ") and message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["bad.json"]


def test_more_keys_than_are_drawn_are_no_fault():
    assert table_kind(changed("budgets", power_w=0.1)) == "budgets"
    assert validate_table(changed("budgets", power_w=0.1)) == "budgets"


def test_importing_the_figures_of_the_search_does_not_import_matplotlib_or_torch():
    code = "import sys, kdnas.plot.published_search; print([m for m in ('matplotlib', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
