"""publish_codec.py: what it compares, and what choosing lengths is worth."""

import argparse
import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location("publish_codec", SCRIPTS / "publish_codec.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module


def given(**changes):
    defaults = {"lengths": [4, 64], "snrs": [-10.0, 5.0], "models": None}
    return argparse.Namespace(**{**defaults, **changes})


def test_dedicated_models_are_for_one_length_or_one_snr(script):
    lengths = script.models(given(table="lengths"))
    assert [(m.name, m.symbols, m.snr_db) for m in lengths] == [
        ("one-model", None, None), ("length-4", 4, None), ("length-64", 64, None)
    ]  # fmt: skip
    snrs = script.models(given(table="snrs"))
    assert [(m.name, m.symbols, m.snr_db) for m in snrs] == [
        ("one-model", None, None), ("snr--10", None, -10.0), ("snr-5", None, 5.0)
    ]  # fmt: skip
    assert [m.name for m in script.models(given(table="snrs", models=["snr-5"]))] == ["snr-5"]


def test_rows_say_what_they_are_of(script):
    point = {"channel": "awgn", "symbols": 4, "snr_db": 0.0, "accuracy": 0.5, "ci95": 0.1, "n": 9}
    one, length = script.models(given(table="lengths"))[:2]
    assert script.row_of("lengths", one, point)["system"] == "one-model"
    assert script.row_of("lengths", length, point)["system"] == "dedicated"
    assert script.row_of("mismatch", one, {**point, "snr_offset_db": 3.0})["snr_offset_db"] == 3
    assert [script.row_of("constellation", m, point)["constellation"] for m in script.models(
        given(table="constellation"))] == ["none", "qpsk", "16qam", "64qam", "256qam"]  # fmt: skip


def test_models_of_one_channel_are_named_after_it(script):
    models = script.models(given(table="channels", device="mcu"))
    assert [(m.name, m.channel) for m in models] == [
        ("one-model", None), ("awgn-alone", "awgn"), ("rayleigh-alone", "rayleigh")
    ]  # fmt: skip
    point = {"channel": "multipath", "symbols": 4, "snr_db": 0.0, "accuracy": 0.5, "ci95": 0.1}
    assert [script.row_of("channels", m, point)["trained_on"] for m in models] == ["all", "awgn", "rayleigh"]


def test_adaptive_rows_are_means_of_what_the_table_chooses(script):
    # Held images promise 0.5 (4 symbols) and 0.9 (64) at 10 dB, half of it at 0 dB; test data give 0.1 less.
    held = [
        {"channel": "awgn", "snr_db": snr, "symbols": n, "accuracy": accuracy * share, "ci95": 0.0}
        for snr, share in ((0.0, 0.5), (10.0, 1.0)) for n, accuracy in ((4, 0.5), (64, 0.9))
    ]  # fmt: skip
    points = [{**row, "accuracy": row["accuracy"] - 0.1} for row in held]
    rows = script.adapted({"held": held, "points": points}, 0.8)
    (chosen,) = [row for row in rows if row["target"] == 0.4]
    assert chosen["mean_symbols"] == (64 + 4) / 2  # 0.45 needs 64 symbols at 0 dB; at 10 dB 4 are enough
    assert chosen["accuracy"] == pytest.approx((0.35 + 0.4) / 2)
    assert (chosen["promised"], chosen["met"]) == (1.0, 0.5)
    (best,) = [row for row in rows if row["target"] == 0.85]
    assert (best["mean_symbols"], best["promised"], best["met"]) == (64, 0.5, 0.0)
    fixed = {row["mean_symbols"]: row["accuracy"] for row in rows if row["system"] == "fixed"}
    assert fixed == pytest.approx({4: (0.15 + 0.4) / 2, 64: (0.35 + 0.8) / 2})


def test_what_is_kept_for_one_device_is_not_taken_for_another(script, tmp_path):
    case = script.Case("fashion-mini", 1000, 0)
    how = {"set": [], "preset": "smoke", "threads": 1, "work": tmp_path}
    for _ in range(2):
        assert case.context(given(device="wearable", **how)).settings.device == "wearable"
    with pytest.raises(SystemExit, match="is of device wearable: begin another --work"):
        case.context(given(device="gateway", **how))
