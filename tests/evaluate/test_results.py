import copy
import json

import pytest

from kdnas.errors import InputError
from kdnas.evaluate import results_document, validate_published, validate_results

COSTS = {"params": 10, "macs": 100, "sram_bytes": 1000, "flash_bytes": 12, "latency_s": 0.01, "energy_j": 1e-3}
POINT = {
    "system": "kdnas",
    "channel": "awgn",
    "snr_db": 10,
    "symbols": 8,
    "accuracy": 0.8,
    "ci95": 0.02,
    "n": 50,
}
ROW = {
    **{key: value for key, value in POINT.items() if key != "n"},
    **{key: value for key, value in COSTS.items() if key not in ("latency_s", "energy_j")},
    "device": "mcu",
    "dataset": "fashion-mini",
    "seed": 0,
    "labels": "all",
}


def document(**changes):
    arguments = {
        "device": "mcu",
        "dataset": "fashion-mini",
        "seed": 3,
        "transmitter": COSTS,
        "encoder": COSTS,
        "budgets": COSTS,
        "teacher": {"name": "resnet", "params": 1000, "accuracy": 0.9},
        "curves": [POINT],
    }
    return results_document(**{**arguments, **changes})


def test_document_has_the_form_promised():
    made = document(labels=1000, draws=4)
    assert list(made) == [
        "schema", "device", "dataset", "seed", "labels", "draws", "transmitter", "encoder", "budgets",
        "teacher", "curves",
    ]  # fmt: skip
    assert made["schema"] == 1
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert validate_results(made) is made


def test_absent_budgets_and_foreign_costs_are_left_out():
    made = document(budgets={**COSTS, "macs": None}, transmitter={**COSTS, "cycles": 1.0})
    assert list(made["budgets"]) == ["params", "sram_bytes", "flash_bytes", "latency_s", "energy_j"]
    assert list(made["transmitter"]) == list(COSTS)
    assert document(budgets={})["budgets"] == {}


def test_points_may_say_their_draws_and_how_wrong_the_snr_was_told():
    drawn = {**POINT, "draws": 12, "ci95_draws": 0.004}
    made = document(curves=[drawn], mismatch=[{**drawn, "snr_offset_db": 3.0}, {**POINT, "snr_offset_db": -3.0}])
    assert validate_results(made)["mismatch"][1]["snr_offset_db"] == -3.0
    for bad, message in (
        ([{**POINT, "snr_offset_db": 3.0}] * 2, r"mismatch\[1\] repeats"),
        ([POINT], r"mismatch\[0\].snr_offset_db"),
    ):
        with pytest.raises(InputError, match=message):
            document(mismatch=bad)
    with pytest.raises(InputError, match=r"curves\[0\].snr_offset_db: unknown key"):
        document(curves=[{**POINT, "snr_offset_db": 3.0}])


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("curves", 0, "accuracy"), 1.2, r"curves\[0\]\.accuracy"),
        (("curves", 0, "accuracy"), "0.8", r"curves\[0\]\.accuracy"),
        (("curves", 0, "accuracy"), float("nan"), r"curves\[0\]\.accuracy"),
        (("curves", 0, "ci95"), -0.1, r"curves\[0\]\.ci95"),
        (("curves", 0, "system"), "ours", r"curves\[0\]\.system"),
        (("curves", 0, "symbols"), 0, r"curves\[0\]\.symbols"),
        (("curves", 0, "symbols"), None, r"curves\[0\].*all be null"),
        (("curves", 0, "system"), "teacher", r"curves\[0\].*teacher has no channel"),
        (("curves", 0, "colour"), "red", r"curves\[0\]\.colour: unknown key"),
        (("curves",), [], "curves"),
        (("curves",), [POINT, POINT], r"curves\[1\] repeats"),
        (("schema",), 2, "schema"),
        (("seed",), True, "seed"),
        (("labels",), "some", "labels"),
        (("teacher", "params"), 1.5, r"teacher\.params"),
        (("budgets", "macs"), None, r"budgets\.macs"),
        (("budgets", "watts"), 1, r"budgets\.watts: unknown key"),
        (("encoder", "params"), 11, r"transmitter\.params is below"),
        (("remark",), "x", "remark: unknown key"),
        (("search",), {"trials": [{"number": 1}]}, r"search\.trials\[0\]\.accuracy"),
    ],
)
def test_each_bad_key_is_named_in_one_line(path, value, message):
    bad = copy.deepcopy(document())
    place = bad
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(InputError, match=message) as caught:
        validate_results(bad)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("results.json: ")


@pytest.mark.parametrize("key", ["schema", "device", "transmitter", "budgets", "teacher", "curves"])
def test_each_missing_key_is_named(key):
    bad = document()
    del bad[key]
    with pytest.raises(InputError, match=f"results.json: {key}: Field required"):
        validate_results(bad)


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_what_is_no_object_is_refused(value):
    with pytest.raises(InputError, match=r"results\.json: "):
        validate_results(value)


def test_published_table():
    table = {"command": "python scripts/benchmark.py", "rows": [ROW, {**ROW, "seed": 1}]}
    assert validate_published(table) is table
    with pytest.raises(InputError, match=r"quick\.json: rows\[1\] repeats"):
        validate_published({**table, "rows": [ROW, ROW]}, "quick.json")
    with pytest.raises(InputError, match=r"rows\[0\]\.labels"):
        validate_published({**table, "rows": [{**ROW, "labels": -5}]})
    with pytest.raises(InputError, match="command: Field required"):
        validate_published({"rows": [ROW]})
