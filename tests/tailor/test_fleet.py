import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas.device import class_of, list_devices
from kdnas.errors import InputError
from kdnas.tailor import EdgeDevice, load_fleet
from kdnas.tailor.fleet import Fleet, list_fleets, parse_fleet

GOOD = """
[[device]]
name = "one"
class = "phone"
compute_hz = 1e9
cycles_per_mac = 1.0
kappa = 1e-28
symbol_rate_hz = 1e5
tx_power_w = 0.1
channel = "rayleigh"
snr_db = { mean = 5.0, std = 2.0 }
deadline_s = 0.1
energy_j = 1e-3
accuracy_floor = 0.7
budget_units = 1e6
"""


def load(tmp_path: Path, text: str) -> Fleet:
    (tmp_path / "fleet.toml").write_text(text)
    return load_fleet(tmp_path / "fleet.toml")


def test_the_default_fleet_serves_every_class() -> None:
    fleet = load_fleet("default")
    assert len(fleet.device) >= 8 and {class_of(d.device_class) for d in fleet.device} == set(list_devices())
    assert max(Counter(d.name for d in fleet.device).values()) == 1
    assert list_fleets() == ["default"]


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    (one,) = load(tmp_path, GOOD).device
    assert one.device_class == "phone" and one.budget_units == 1_000_000 and one.training_range_db() == (1.0, 9.0)


numbers = st.floats(1e-6, 1e6, allow_nan=False)
devices = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}", fullmatch=True), "class": st.sampled_from(list_devices()),
        **dict.fromkeys(("compute_hz", "cycles_per_mac", "kappa", "symbol_rate_hz", "tx_power_w", "deadline_s",
                         "energy_j"), numbers),
        "channel": st.sampled_from(["awgn", "rayleigh"]),
        "snr_db": st.tuples(st.floats(-50, 10), st.floats(10, 80)).map(list)
        | st.fixed_dictionaries({"mean": st.floats(-50, 80), "std": st.floats(0, 30)}),
        "accuracy_floor": st.floats(0.01, 0.99), "budget_units": st.integers(1, 10**12),
    }
)  # fmt: skip


def toml(rows: list[dict[str, Any]]) -> str:
    """An independent writer: Python's own notation of these values is TOML's, but for strings and tables."""

    def value(x: Any) -> str:
        if isinstance(x, str):
            return f'"{x}"'
        return "{ " + ", ".join(f"{k} = {v!r}" for k, v in x.items()) + " }" if isinstance(x, dict) else repr(x)

    return "\n".join("[[device]]\n" + "\n".join(f"{k} = {value(v)}" for k, v in row.items()) for row in rows)


@given(rows=st.lists(devices, min_size=1, max_size=3, unique_by=lambda row: row["name"]))
def test_a_fleet_survives_the_file_and_the_run_directory(rows: list[dict[str, Any]]) -> None:
    fleet = parse_fleet(tomllib.loads(toml(rows)), "x")
    for row, device in zip(rows, fleet.device, strict=True):
        for key, value in row.items():
            found = getattr(device, "device_class" if key == "class" else key)
            found = found.model_dump() if hasattr(found, "model_dump") else found
            assert (list(found) if isinstance(found, tuple) else found) == value
    assert parse_fleet(fleet.document(), "x") == fleet


@given(row=devices, key=st.sampled_from([i.alias or k for k, i in EdgeDevice.model_fields.items()]), junk=st.data())
def test_any_fault_is_one_line_that_names_the_device(row: dict[str, Any], key: str, junk: st.DataObject) -> None:
    wrong = junk.draw(st.sampled_from([None, [], {}, True, "?\n", float("nan"), -1e300, [1], {"mean": "x"}]))
    with pytest.raises(InputError) as told:
        parse_fleet({"device": [row | {key: wrong}]}, "my.toml")
    line = str(told.value)
    assert line.startswith("my.toml: device 1") and "\n" not in line and key in line
    with pytest.raises(InputError, match=f"missing key '{key}'"):
        parse_fleet({"device": [{k: v for k, v in row.items() if k != key}]}, "my.toml")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("compute_hz", "compute_hertz"), r"device 1 \(one\): unknown key 'compute_hertz'; did you mean 'compute_hz'"),
        (("[[device]]", "fleet = 1\n[[device]]"), "unknown key 'fleet'; known: device"),
        (("mean = 5.0", "men = 5.0"), r"unknown key 'snr_db.men'; did you mean 'mean'"),
        (('"phone"', '"toaster"'), "class: 'toaster' is none of"),
        (('"rayleigh"', '"tunnel"'), "channel: unknown channel 'tunnel'"),
        (("deadline_s = 0.1", "deadline_s = -1.0"), "deadline_s: should be greater than 0, not -1.0"),
        (("{ mean = 5.0, std = 2.0 }", "[9, 1]"), r"snr_db is \[low, high\], not \[9"),
        (("kappa = 1e-28", "kappa = "), r"not valid TOML: .*line 7"),
        ((GOOD, ""), r"no \[\[device\]\] table"),
        ((GOOD, GOOD + GOOD), r"device 2 \(one\): name: an earlier device has it"),
    ],
)
def test_faults_are_named(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        load(tmp_path, GOOD.replace(*change))


def test_an_unknown_fleet_or_class_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown fleet 'nope': choose among default"):
        load_fleet("nope")
    with pytest.raises(InputError, match=r"cannot read .*none\.toml"):
        load_fleet(tmp_path / "none.toml")
    fleet = load(tmp_path, GOOD)
    assert fleet.of_class("phone") == fleet
    with pytest.raises(InputError, match="no device of class 'mcu'"):
        fleet.of_class("mcu")
