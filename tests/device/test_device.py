"""Device classes: what the packaged ones promise, what a user's file may say, and how its faults are told."""

import json
import tomllib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kdnas.device import DeviceClass, class_of, device_toml, list_devices, load_device
from kdnas.device.files import _keys_at
from kdnas.errors import InputError

NAMES = ["mcu-256kB", "wearable", "mcu-512kB", "phone", "gateway"]
COSTS = {"params", "macs", "sram_bytes", "flash_bytes", "latency_s", "energy_j"}
WEARABLE = (files("kdnas.device") / "classes" / "wearable.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("devices")


def fault(folder: Path, text: str | bytes) -> str:
    """The message for a device file with this content."""
    path = folder / "own.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        load_device(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def to_toml(table: dict, prefix: str = "") -> str:
    """Plain TOML of nested dicts, lists and values (JSON values are TOML values, null apart)."""
    lines, inner = [], []
    for key, value in table.items():
        if isinstance(value, dict):
            inner.append(f"[{prefix}{key}]\n" + to_toml(value, f"{prefix}{key}."))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            inner += [f"[[{prefix}{key}]]\n" + to_toml(item, f"{prefix}{key}.") for item in value]
        else:
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(lines + inner)


# The registry.


def test_the_classes_are_listed_from_small_to_large() -> None:
    assert list_devices() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_class_has_positive_budgets_and_explains_every_number(name: str) -> None:
    device = load_device(name)
    assert device.name == name
    assert device.budgets and set(device.budgets) <= COSTS
    assert all(value > 0 for value in device.budgets.values())
    shares = device.share.model_dump(exclude_none=True)
    assert set(shares) == set(device.budgets)
    assert all(0 < share <= 1 for share in shares.values())
    assert set(device.notes.model_dump(exclude_none=True)) == set(shares)
    cited = {number for source in device.sources for number in source.numbers}
    stated = {f"hardware.{key}" for key in device.hardware.model_fields_set}
    stated |= {f"energy.{key}" for key in device.energy.model_fields_set}
    stated |= {f"link.{key}" for key in device.link.model_fields_set - {"channels"}}
    assert cited == stated


@pytest.mark.parametrize("key", sorted(COSTS - {"latency_s", "energy_j"}))
def test_budgets_grow_with_the_class(key: str) -> None:
    # Latency is no size: a faster device has the shorter deadline.
    given_budgets = [load_device(name).budgets[key] for name in NAMES if key in load_device(name).budgets]
    assert given_budgets and given_budgets == sorted(given_budgets)


@pytest.mark.parametrize("name", NAMES)
def test_the_macs_budget_alone_does_not_break_the_latency_budget(name: str) -> None:
    # Else the MACs budget could never be reached. 60 operations stand for the whole transmitter.
    device = load_device(name)
    total_s = device.latency_s(device.budgets["macs"], 0) + 60 * device.hardware.op_overhead_s
    assert total_s <= device.budgets["latency_s"]


def test_an_alias_is_the_same_class_under_its_own_name() -> None:
    alias, device = load_device("mcu"), load_device("mcu-256kB")
    assert alias.name == "mcu" and alias == device.model_copy(update={"name": "mcu"})
    assert class_of("mcu") == "mcu-256kB" and class_of("phone") == "phone"
    assert device_toml("mcu") == device_toml("mcu-256kB")


def test_energy_by_hand(folder: Path) -> None:
    device = load_device("mcu-512kB")
    spent = device.spent(289e3, 625)
    assert spent is not None
    assert spent == pytest.approx((1e-3, 0.01, 1e-3 * 4.5e-27 * 480e6**3, 4e-4), rel=1e-12)
    assert device.budgets["energy_j"] == pytest.approx(3.6e-3, rel=1e-12)
    path = folder / "own.toml"
    table = tomllib.loads(device_toml("mcu-512kB"))
    del table["energy"], table["share"]["energy_j"], table["sources"]
    path.write_text(to_toml(table))
    assert load_device(path).spent(1, 1) is None


def test_budgets_are_limit_times_share() -> None:
    device = load_device("mcu")
    window_s = 0.1 - 64 / 62.5e3
    assert device.budgets == {
        "params": int(1048576 * 0.035),
        "macs": int(130e6 * window_s * 0.1 * 0.7),
        "sram_bytes": int(262144 * 0.0625),
        "flash_bytes": int(1048576 * 0.045),
        "latency_s": pytest.approx(window_s * 0.1, rel=1e-12),
    }


def test_a_share_left_out_is_no_budget_and_frees_the_whole_window_for_macs(folder: Path) -> None:
    table = tomllib.loads(WEARABLE)
    del table["share"]["latency_s"], table["share"]["sram_bytes"]
    path = folder / "loose.toml"
    path.write_text(to_toml(table))
    device = load_device(path)
    assert set(device.budgets) == {"params", "macs", "flash_bytes"}
    assert device.budgets["macs"] == int(32e6 * device.window_s * 0.75)


# The roofline.


def test_roofline_by_hand_in_every_kind_of_number() -> None:
    device = load_device("mcu")
    macs, moved, operations = [0.0, 1.3e6, 1300.0], [2.16e6, 100.0, 2160.0], [1.0, 1.0, 0.5]
    expected = [0.01 + 20e-6, 0.01 + 20e-6, 1e-5 + 10e-6]
    plain = [device.latency_s(*values) for values in zip(macs, moved, operations, strict=True)]
    array = device.latency_s(np.array(macs), np.array(moved), np.array(operations))
    tensor = device.latency_s(*(torch.tensor(v, dtype=torch.float64) for v in (macs, moved, operations)))
    np.testing.assert_allclose([plain, array, tensor.numpy()], [expected] * 3, rtol=1e-12)


def test_roofline_has_the_gradient_of_the_binding_side() -> None:
    device = load_device("mcu")
    macs = torch.tensor([1e6, 1e3], dtype=torch.float64, requires_grad=True)
    moved = torch.tensor([1e3, 1e6], dtype=torch.float64, requires_grad=True)
    device.latency_s(macs, moved).sum().backward()
    torch.testing.assert_close(macs.grad, torch.tensor([1 / 130e6, 0.0], dtype=torch.float64))
    torch.testing.assert_close(moved.grad, torch.tensor([0.0, 1 / 216e6], dtype=torch.float64))


# A user's own file.

words = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1, max_size=20)
positive = st.floats(1e-3, 1e12)
fraction = st.floats(0.01, 1)
tables = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-z0-9][a-z0-9_-]{0,10}", fullmatch=True),
        "description": words,
        "hardware": st.fixed_dictionaries(
            {"macs_per_s": st.floats(1e6, 1e12), "bytes_per_s": positive, "op_overhead_s": st.floats(0, 1)}
            | {key: st.integers(1000, 2**40) for key in ("sram_bytes", "flash_bytes")},
            optional={"weight_bytes": st.integers(1000, 2**40)},
        ),
        "share": st.fixed_dictionaries(
            {"params": fraction}, optional=dict.fromkeys(COSTS - {"params", "energy_j"}, fraction)
        ),
        "link": st.fixed_dictionaries(
            {
                "channels": st.lists(st.sampled_from(["awgn", "rician(k_db=3, fading=fast)"]), min_size=1, max_size=2),
                "snr_db": st.lists(st.floats(-20, 30), min_size=2, max_size=2).map(sorted),
                "symbols": st.integers(1, 1000),
                "symbol_rate_hz": st.floats(1e4, 1e9),
                "deadline_s": st.floats(0.2, 10),
            }
        ),
        "codec": st.fixed_dictionaries({key: st.integers(1, 64) for key in ("tokens", "width", "depth")}),
    },
    optional={
        "notes": st.fixed_dictionaries({"macs": words}),
        "energy": st.fixed_dictionaries(
            dict.fromkeys(("clock_hz", "kappa", "tx_power_w"), positive), optional={"image_j": positive}
        ),
    },
)


@settings(max_examples=60, deadline=None)
@given(table=tables)
def test_round_trip_through_toml_and_json(folder: Path, table: dict) -> None:
    path = folder / "own.toml"
    path.write_text(to_toml(table), encoding="utf-8")
    device = load_device(path)
    given_back = device.model_dump(mode="json", exclude_unset=True)
    assert given_back == table
    assert DeviceClass.model_validate(device.model_dump()) == device
    assert DeviceClass.model_validate_json(device.model_dump_json()).hash == device.hash


KEY_LINES = [n for n, line in enumerate(WEARABLE.splitlines()) if " = " in line and not line.startswith("#")]


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_misspelt_key_is_named_with_its_line(folder: Path, data: st.DataObject) -> None:
    number = data.draw(st.sampled_from(KEY_LINES))
    lines = WEARABLE.splitlines()
    key, rest = lines[number].split(" = ", 1)
    place = data.draw(st.integers(0, len(key) - 1))
    letter = data.draw(st.sampled_from("abcxyz_"))
    kind = data.draw(st.sampled_from(["insert", "replace", "drop"]))
    typo = key[:place] + ("" if kind == "drop" else letter) + key[place + (kind != "insert") :]
    headers = [line.strip("[]").split("]")[0] for line in lines[:number] if line.startswith("[")]
    known = _keys_at(tuple(headers[-1:]))
    if typo in known or not typo:
        return
    lines[number] = f"{typo} = {rest}"
    message = fault(folder, "\n".join(lines))
    assert f"line {number + 1}: unknown key" in message
    assert f"{typo}'" in message


def test_a_misspelt_key_gets_a_suggestion(folder: Path) -> None:
    message = fault(folder, WEARABLE.replace("sram_bytes = 524288", "sram_byte = 524288"))
    assert message.endswith("line 5: unknown key 'hardware.sram_byte'; did you mean 'sram_bytes'?")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("symbols = 64", 'symbols = "64"', "line 21: link.symbols: should be a valid integer, not '64'"),
        ("symbols = 64", "symbols = true", "line 21: link.symbols: should be a valid integer, not True"),
        ("symbols = 64", "symbols = -64", "line 21: link.symbols: should be greater than 0, not -64"),
        (
            "macs_per_s = 32e6",
            "macs_per_s = inf",
            "line 7: hardware.macs_per_s: should be a finite number, not inf",
        ),
        ("macs = 0.75", "macs = 1.5", "line 13: share.macs: should be less than or equal to 1, not 1.5"),
        ("macs = 0.75", "macs = 0", "line 13: share.macs: should be greater than 0, not 0"),
        ("[-5.0, 15.0]", "[15.0, -5.0]", "line 20: link.snr_db is [low, high], not [15.0, -5.0]"),
        ("[-5.0, 15.0]", "[\n-5.0\n]", "line 20: missing key 'link.snr_db.1'"),
        (
            '["awgn", "rayleigh"]',
            '["awgn", "rician(k_db=6"]',
            "line 19: link.channels.1: should read NAME or NAME(OPTION=VALUE, ...), not 'rician(k_db=6'",
        ),
        ("deadline_s = 0.5", "deadline_s = 6e-5", "line 23: link.deadline_s leaves no time to compute"),
        ("tokens = 8\n", "", "line 25: missing key 'codec.tokens'"),
        ("sram_bytes = 524288", "weight_bytes = 1000", "line 14: share.sram_bytes needs hardware.sram_bytes"),
        ("params = 0.058", "params = 1e-9", "line 12: share.params leaves a budget of less than one"),
        ("[hardware]", "[hardwear]", "unknown key 'hardwear'; did you mean 'hardware'?"),
        ('"hardware.macs_per_s"', '"hardware.speed"', "sources.1.numbers names 'hardware.speed'"),
        ('name = "wearable"', 'name = "../x"', "line 1: name: "),
        ('name = "wearable"', "name = wearable", "not valid TOML: Invalid value (at line 1"),
        ('name = "wearable"', '"na\\nme" = 1', "line 1: unknown key 'na\\nme'"),
        ("[codec]", "codec = 3\n[codes]", "line 25: unknown key 'link.codec'"),
    ],
)
def test_faults_are_told_in_one_line(folder: Path, old: str, new: str, told: str) -> None:
    assert old in WEARABLE
    assert told in fault(folder, WEARABLE.replace(old, new, 1))


@pytest.mark.parametrize("name", ["hardware", "share", "link", "codec"])
def test_a_missing_table_is_named(folder: Path, name: str) -> None:
    table = tomllib.loads(WEARABLE)
    del table[name], table["sources"]
    assert f"missing table '{name}'" in fault(folder, to_toml(table))


def test_a_table_that_is_a_number_and_a_share_that_limits_nothing(folder: Path) -> None:
    table = tomllib.loads(WEARABLE)
    assert "codec: " in fault(folder, to_toml(table | {"codec": 3}))
    assert "share limits nothing: give at least one of" in fault(folder, to_toml(table | {"share": {}}))


def test_names_and_files_that_are_not_there(folder: Path) -> None:
    with pytest.raises(InputError, match="unknown device 'toaster': choose among " + ", ".join(NAMES)):
        load_device("toaster")
    with pytest.raises(InputError, match=r"cannot read .*absent.toml: No such file"):
        load_device(folder / "absent.toml")
    with pytest.raises(InputError, match="Is a directory"):
        (folder / "folder.toml").mkdir()
        load_device(folder / "folder.toml")
    for odd in ("", ".", "..", "../classes/mcu", "a\0b", "a\0b.toml"):
        with pytest.raises(InputError):
            load_device(odd)
    assert "not a UTF-8 text file" in fault(folder, b"\xff\xfe")


# The hash.


def test_the_hash_changes_with_numbers_and_not_with_words(folder: Path) -> None:
    def hash_with(old: str, new: str) -> str:
        assert old in WEARABLE
        path = folder / "hash.toml"
        path.write_text(WEARABLE.replace(old, new, 1))
        return load_device(path).hash

    base = load_device("wearable").hash
    assert len(base) == 16 and int(base, 16) >= 0
    assert hash_with("A watch", "A ring") == base == hash_with("32e6 ", "32000000 ")
    numbers = [("32e6", "33e6"), ("0.058", "0.059"), ("= 64", "= 32"), ("width = 16", "width = 24")]
    hashes = {hash_with(*pair) for pair in [*numbers, ('"wearable"', '"wearable2"'), ('"awgn", ', "")]}
    assert len(hashes) == 6 and base not in hashes


def test_a_class_cannot_be_changed_once_loaded() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_device("mcu").hardware.macs_per_s = 1.0


def test_lines_are_right_in_unusual_toml(folder: Path) -> None:
    head = 'name = "own"\ndescription = """\nmacs = \u2028 7\n"""\n'
    head += "hardware.macs_per_s = 1e8\nhardware.bytes_per_s = 1e8\n"
    head += "hardware.op_overhead_s = 0\nshare = {macs = 0.5}\ncodec = {tokens = 1, width = 8, depth = 1}\n\n"
    link = '[link]\nsymbols = 8\nsymbol_rate_hz = 1e3\ndeadline_s = 1\nsnr_db = [0, 10]\nchannels = ["awgn"]\n'
    path = folder / "unusual.toml"
    path.write_text(head + link, encoding="utf-8")
    assert load_device(path).budgets == {"macs": int(1e8 * (1 - 0.008) * 0.5)}
    assert "line 8: share.macs: should be" in fault(folder, head.replace("0.5", "5") + link)
    slow = head.replace("bytes_per_s = 1e8", "bytes_per_s = 0")
    assert "line 6: hardware.bytes_per_s: should be" in fault(folder, slow + link)
    assert "line 15: link.snr_db.1: should be" in fault(folder, (head + link).replace("10]", '"x"]'))
