import copy
import json
from pathlib import Path
from typing import Any

import pytest
from drawn import boxes_of, texts

from kdnas import api
from kdnas.errors import InputError
from kdnas.evaluate.results import table_kind, validate_table
from kdnas.plot import pareto_figure, proxies_figure, tuning_figure, workers_figure
from kdnas.plot.published_tune import mean_correlation

DEVICES = {"mcu": 0.83, "wearable": 0.85, "phone": 0.845, "gateway": 0.86}


def pareto() -> list[dict[str, Any]]:
    return [
        {
            "device": device, "dataset": "fashion-mini", "labels": 1000, "seed": seed, "channel": "awgn",
            "snr_db": 10.0, "symbols": 64, "accuracy": accuracy + 0.002 * seed, "ci95": 0.015,
            "params": 30_000 * (1 + place), "macs": 10**6 * (1 + place), "sram_bytes": 9_000 * (1 + place),
            "flash_bytes": 40_000 * (1 + place), "latency_s": 0.001, "teacher_accuracy": 0.87,
        }
        for place, (device, accuracy) in enumerate(DEVICES.items()) for seed in range(3)
    ]  # fmt: skip


def tuning() -> list[dict[str, Any]]:
    return [
        {"device": device, "seed": seed, "system": system, "accuracy": accuracy + gain + 0.002 * seed, "ci95": 0.015,
         "params": 30_000, "macs": 10**6, "binding_use": 0.95}
        for device, accuracy in DEVICES.items() for seed in range(3)
        for system, gain in (("study", 0.012), ("default", 0.0))
    ]  # fmt: skip


def proxies() -> list[dict[str, Any]]:
    return [
        {"device": "mcu", "seed": seed, "architecture": index, "proxy": proxy, "judged": judged,
         "value": 0.5 + sign * index / 100, "trained": 0.8 + index / 100 + seed / 10}
        for seed in range(2) for index in range(5) for proxy, sign in (("clean", -1), ("noise", 1))
        for judged in ("labels", "all")
    ]  # fmt: skip


def workers() -> list[dict[str, Any]]:
    return [
        {"workers": count, "trials": 12, "trials_per_hour": 60.0 * count**0.5, "efficiency": count**-0.5, "cores": 2}
        for count in (1, 2, 4)
    ]


TABLES = {
    "pareto": (pareto, pareto_figure), "tuning": (tuning, tuning_figure), "proxies": (proxies, proxies_figure),
    "workers": (workers, workers_figure),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_is_known_by_its_keys_checked_and_drawn(kind: str, tmp_path: Path) -> None:
    rows, figure = TABLES[kind]
    document = {"command": "make it", "rows": rows()}
    assert validate_table(document) == table_kind(document) == kind
    (tmp_path / "table.json").write_text(json.dumps(document))
    assert [path.name for path in api.plot(tmp_path / "table.json")] == ["table.png", "table.svg"]
    boxes = boxes_of(figure(rows()))
    for index, (text, box) in enumerate(boxes):
        for other, over in boxes[index + 1 :]:
            assert not box.overlaps(over), (text, other)


@pytest.mark.parametrize("kind", TABLES)
def test_twins_and_wrong_values_are_named(kind: str) -> None:
    rows, _ = TABLES[kind]
    twins = {"command": "make it", "rows": [*rows(), rows()[0]]}
    with pytest.raises(InputError, match="rows"):
        validate_table(twins)
    wrong = copy.deepcopy(rows())
    key = next(key for key, value in wrong[0].items() if isinstance(value, float))
    wrong[0][key] = "much"
    with pytest.raises(InputError, match=rf"rows\[0\]\.{key}"):
        validate_table({"command": "make it", "rows": wrong})


def test_gains_are_paired_by_seed() -> None:
    assert texts(tuning_figure(tuning())).count("1.2 ± 0.0 points") == len(DEVICES)
    with pytest.raises(InputError, match="mcu"):
        tuning_figure([row for row in tuning() if row["system"] == "study"])


def test_correlations_are_taken_within_a_seed() -> None:
    rows = [row for row in proxies() if row["judged"] == "all"]
    assert mean_correlation([row for row in rows if row["proxy"] == "noise"]) == pytest.approx(1)
    assert mean_correlation([row for row in rows if row["proxy"] == "clean"]) == pytest.approx(-1)
    assert mean_correlation(rows[:1]) is None


def test_the_front_joins_what_is_not_beaten() -> None:
    figure = pareto_figure(pareto())
    front = next(line for line in figure.axes[0].lines if line.get_color() == "#666666")
    assert [round(x) for x in front.get_xdata()] == [30_000, 60_000, 120_000]  # the phone is beaten by the wearable
