"""Settings: defaults, presets, files, the command line, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from kdnas.config import PRESETS, Settings, known_keys, load_config, make_settings, parse_assignments, parse_value
from kdnas.errors import InputError


def to_toml(table: dict[str, Any], prefix: str = "") -> str:
    """Plain TOML; None is left out."""
    lines, inner = [], []
    for key, value in table.items():
        if isinstance(value, dict):
            inner.append(f"[{prefix}{key}]\n" + to_toml(value, f"{prefix}{key}."))
        elif value is not None:
            lines.append(f"{key} = {json.dumps(value)}\n")
    return "".join(lines + inner)


def refused(*layers: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        make_settings(*layers)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_setting_has_a_default_and_a_description() -> None:
    for key, field in known_keys().items():
        assert not field.is_required(), key
        assert field.description, key


def test_every_preset_is_valid_and_changes_something() -> None:
    made = {preset: make_settings({"preset": preset}) for preset in PRESETS}
    assert len({settings.model_dump_json() for settings in made.values()}) == len(PRESETS)
    for preset, values in PRESETS.items():
        for key, value in values.items():
            section, name = key.split(".")
            assert getattr(getattr(made[preset], section), name) == value
    assert make_settings() == make_settings({"preset": "quick"}) == Settings()


def test_later_layers_win_over_earlier_ones_and_all_over_the_preset() -> None:
    file = {"preset": "smoke", "search.epochs": 7, "search.steps": 9}
    settings = make_settings(file, {"search.steps": 11, "seed": None})
    assert (settings.search.epochs, settings.search.steps, settings.seed) == (7, 11, 0)
    assert settings.search.batch_size == PRESETS["smoke"]["search.batch_size"]
    assert make_settings(file, {"preset": "quick"}).search.batch_size == Settings().search.batch_size


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_go_through_toml_and_json(preset: str, tmp_path: Path) -> None:
    settings = make_settings({"preset": preset, "data.limit": 70, "loss.kd": 0.25, "spaces.options": {"depth": 3}})
    path = tmp_path / "settings.toml"
    path.write_text(to_toml(settings.model_dump(mode="json")))
    assert make_settings(load_config(path)) == settings
    assert make_settings(json.loads(settings.model_dump_json())) == settings


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().seed = 1


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("search.epoch", "search.epochs"),
        ("serch.epochs", "search.epochs"),
        ("devise", "device"),
        ("seeds", "seed"),
        ("data.lables", "data.labels"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_one(key: str, near: str) -> None:
    assert refused({key: 1}) == f"unknown setting {key!r}; did you mean {near!r}?"


@pytest.mark.parametrize(
    "key", ["zzzzzz", "data.limit.more", "search.epochs.more", "seed.more", "data", "", ".", "a.b.c"]
)
def test_other_unknown_keys_are_named(key: str) -> None:
    for preset in ("quick", "smoke"):
        message = refused({key: 1, "preset": preset})
        assert key.removesuffix(".more") in message and "setting" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "one"), ("seed", -1), ("seed", 1.5), ("device", 7), ("dataset", ["a"]), ("threads", 0),
        ("accelerator", "tpu"), ("data.labels", "some"), ("data.labels", 2.5), ("data.image_size", 27),
        ("data.channels", 2), ("data.flip", "perhaps"), ("loss.kd", -0.1), ("loss.temperature", 0),
        ("search.temperature", 1.0), ("search.penalty", 0.5), ("search.labelled_fraction", 1.1),
        ("search.penalty", {"params": "much"}), ("evaluate.snrs_db", []), ("evaluate.lengths", [1.5]),
        ("evaluate.channels", []), ("evaluate.snr_offsets_db", [3.0, 3.0]), ("evaluate.ci95", 1.0),
        ("knowledge.form", "fp8"), ("adapt.method", "magic"), ("spaces.options", 3), ("tune.enabled", "maybe"),
        ("loss.kd", float("nan")), ("search.learning_rate", float("nan")), ("loss.kd", float("inf")),
        ("search.penalty", {"macs": -1.0}), ("search.penalty", {"memory": 1.0}), ("search.temperature", (1.0, 0.0)),
        ("evaluate.lengths", [0]), ("data.labels", 0),
    ],
)  # fmt: skip
def test_a_wrong_type_or_range_is_named(key: str, value: Any) -> None:
    message = refused({key: value})
    assert message.startswith(f"setting '{key}") and "got " in message


def test_an_unknown_preset_is_named() -> None:
    assert refused({"preset": "quickly"}) == "unknown preset 'quickly'; there are smoke, quick, standard, paper"
    assert "unknown preset" in refused({"preset": ["quick"]})


def test_what_is_given_is_not_changed() -> None:
    layer = {"search.penalty": {"params": 1.0}}
    make_settings(layer, {"search.penalty.macs": 2.0})
    assert layer == {"search.penalty": {"params": 1.0}}


def test_one_entry_of_a_table_can_be_set_and_the_others_stay() -> None:
    default = Settings().search.penalty
    settings = make_settings({"search.penalty.macs": 2.0})
    assert settings.search.penalty == {**default, "macs": 2.0}


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*missing\.toml"):
        load_config(tmp_path / "missing.toml")
    path = tmp_path / "bad.toml"
    for content in (b"seed = \n", b"seed = 1\nseed = 2\n", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.toml is not valid TOML"):
            load_config(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-2.5", -2.5), ("1e-3", 1e-3), ("true", True), ("false", False), ('"1"', "1"), ("cell", "cell"),
        ("[1, 2]", [1, 2]), ("{a = 1}", {"a": 1}), ("all", "all"), ("a=b", "a=b"), ("", ""),
        ("folder:/a b", "folder:/a b"), ("[1", "[1"), ("True", "True"), ("1 2", "1 2"),
    ],
)  # fmt: skip
def test_values_are_toml_or_else_text(text: str, value: Any) -> None:
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


PLAIN = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(value=PLAIN)
def test_plain_values_survive_the_command_line(value: Any) -> None:
    found = parse_assignments([f" some.key = {json.dumps(value, ensure_ascii=False)} "])
    assert found == {"some.key": value}


@given(text=st.text(max_size=30))
def test_any_text_is_parsed_to_something(text: str) -> None:
    found = parse_assignments([f"dataset={text}"])
    assert set(found) == {"dataset"}
    try:
        settings = make_settings(found)
    except InputError as error:
        assert "dataset" in str(error) and "\n" not in str(error)
    else:
        assert isinstance(settings, BaseModel)


@given(word=st.text(max_size=20).filter(lambda word: "=" not in word))
def test_a_word_without_an_equals_sign_is_refused(word: str) -> None:
    with pytest.raises(InputError, match="--set takes key=value"):
        parse_assignments([word])


def test_assignments_win_from_left_to_right() -> None:
    assert parse_assignments(["seed=1", "seed=2", "dataset=folder:a=b"]) == {"seed": 2, "dataset": "folder:a=b"}


def test_a_loss_that_trains_no_classifier_is_refused():
    features = {"loss.ce": 0.0, "loss.logit": 0.0}
    with pytest.raises(InputError, match=r"no loss trains a classifier"):
        make_settings(features)
    for key, value in (("loss.ce", 1.0), ("loss.decoupled", 0.3)):
        make_settings({**features, key: value})
    with pytest.raises(InputError, match=r"no loss trains a classifier"):  # nothing is distilled at all
        make_settings({**features, "loss.logit": 1.0, "loss.kd": 0.0})


@pytest.mark.parametrize(
    ("key", "values"),
    [("channels", ["awgn", "awgn"]), ("snrs_db", [0.0, 5.0, 0]), ("lengths", [8, 8]), ("snr_offsets_db", [3.0, 3.0]),
     ("baselines", ["deep-jscc", "deep-jscc"])],
)  # fmt: skip
def test_what_is_evaluated_is_named_once(key: str, values: list) -> None:
    with pytest.raises(InputError, match=rf"evaluate\.{key}.*name each once"):
        make_settings({f"evaluate.{key}": values})
    make_settings({f"evaluate.{key}": values[:1]})
