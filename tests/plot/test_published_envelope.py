"""The figure of the link against its baselines."""

import math

import pytest
from drawn import boxes_of, texts

from kdnas.config import BASELINES
from kdnas.errors import InputError
from kdnas.evaluate.results import validate_table
from kdnas.plot import envelope_figure

SNRS = (-10.0, 0.0, 10.0, 20.0)


def envelope(datasets=("fashion-mini",), seeds=(0, 1, 2)):
    rows = []
    for dataset in datasets:
        for seed in seeds:
            shared = {"dataset": dataset, "device": "wearable", "seed": seed, "teacher_params": 4_000_000,
                      "teacher_accuracy": 0.87, "transmitter_params": 40_000}  # fmt: skip
            nowhere = {"channel": None, "snr_db": None, "symbols": None, "ci95": 0.01}
            rows.append({**shared, **nowhere, "system": "teacher", "accuracy": 0.87, "transmitter_params": None})
            for place, system in enumerate(("kdnas", *BASELINES)):
                digital = system in ("digital-image", "capacity")
                for channel in ("awgn", "rayleigh"):
                    for snr in SNRS:
                        for symbols in (64, 1024) if digital else (64,):
                            accuracy = (0.84 - 0.03 * place + 0.002 * seed) / (1 + math.exp(-(snr + 14) / 5))
                            paired = None if system == "kdnas" or symbols > 64 else -0.03 * place
                            rows.append(
                                {**shared, "system": system, "channel": channel, "snr_db": snr, "symbols": symbols,
                                 "accuracy": accuracy, "ci95": 0.01, "difference": paired, "difference_ci95": 0.01}
                            )  # fmt: skip
    return rows


def test_ours_is_on_top_and_the_symbols_are_named():
    rows = envelope()
    assert validate_table({"command": "make it", "rows": rows}) == "envelope"
    figure = envelope_figure(rows)
    above, below, beside = figure.axes[0], figure.axes[1], figure.axes[-1]
    assert len(figure.axes) == 5 and "64 complex symbols per image" in "\n".join(texts(figure))
    ours = max(above.lines, key=lambda line: line.get_zorder())
    snr0 = [row["accuracy"] for row in rows if row["system"] == "kdnas" and row["channel"] == "awgn"][1::4]
    assert ours.get_ydata()[1] == pytest.approx(sum(snr0) / 3)
    assert len(above.lines) == 1 + len(BASELINES) + 1  # ours, theirs, the teacher
    assert below.get_ylim()[0] >= -0.27 and beside.get_xscale() == "log"


def test_no_texts_overlap_even_with_two_data_sets():
    for datasets in (("fashion-mini",), ("fashion-mini", "cifar10-jpeg")):
        boxes = boxes_of(envelope_figure(envelope(datasets)))
        for index, (name, box) in enumerate(boxes):
            for other, second in boxes[index + 1 :]:
                assert not box.overlaps(second), (name, other)


def test_a_data_set_without_digital_images_leaves_their_place_empty_and_seeds_are_told_of_both():
    few = [
        row for row in envelope(("cifar10-jpeg",), seeds=(0, 1)) if row["system"] not in ("digital-image", "capacity")
    ]
    figure = envelope_figure([*envelope(), *few])
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles.count("what a digital image needs, AWGN") == 1 and len(figure.axes) == 9
    assert "2 to 3 seeds" in "\n".join(texts(figure))


def test_a_run_without_differences_has_no_second_line():
    rows = [{**row, "difference": None} for row in envelope(seeds=(0,)) if row["symbols"] == 64]
    figure = envelope_figure(rows)
    assert len(figure.axes) == 2 and "95 % intervals" in "\n".join(texts(figure))


def test_without_ours_nothing_can_be_compared():
    with pytest.raises(InputError, match="no row of kdnas"):
        envelope_figure([row for row in envelope() if row["system"] != "kdnas"])


def test_the_link_alone_is_not_called_a_comparison() -> None:
    alone = [row for row in envelope() if row["system"] in ("kdnas", "teacher")]
    titles = [envelope_figure(rows).get_suptitle() for rows in (envelope(), alone)]
    assert ["baselines" in title for title in titles] == [True, False]
