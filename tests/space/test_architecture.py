"""Architectures as files."""

import json
from pathlib import Path

import pytest
import torch

from kdnas.errors import InputError
from kdnas.space import Architecture, list_spaces, make_space


def some(name: str, seed: int = 0) -> Architecture:
    space = make_space(name, feature_dim=8)
    choices = space.random(torch.Generator().manual_seed(seed))
    return Architecture(name, space.options, choices, {"params": 7, "latency_s": 0.5}, {"data": "0" * 16})


@pytest.mark.parametrize("name", list_spaces())
def test_saved_and_loaded_it_is_the_same(name: str, tmp_path: Path) -> None:
    architecture = some(name)
    architecture.save(tmp_path / "a.json")
    again = Architecture.load(tmp_path / "a.json")
    assert again == architecture
    assert again.hash == architecture.hash
    assert again.network()(torch.rand(1, 1, 28, 28)).shape == (1, 8)


def test_the_hash_names_space_options_and_choices_alone() -> None:
    one, other = some("mobile"), some("mobile", seed=1)
    assert one.hash != other.hash
    assert one.hash == Architecture("mobile", one.options, dict(reversed(one.choices.items()))).hash
    assert one.hash != Architecture("mobile", one.options | {"feature_dim": 9}, one.choices).hash
    assert one.hash != Architecture("cell", one.options, one.choices).hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "not an architecture of schema 1"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"choices": []}, "'choices' must be a dict"),
        ({"space": None}, "'space' must be a str"),
        ({"hash": "f" * 16}, "changed by hand or damaged"),
        ({"options": {"feature_dim": 9}}, "changed by hand or damaged"),
    ],
)
def test_a_damaged_file_is_refused(change: dict, message: str, tmp_path: Path) -> None:
    some("mobile").save(tmp_path / "a.json")
    document = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(document | change))
    with pytest.raises(InputError, match=message):
        Architecture.load(tmp_path / "a.json")


def test_what_is_no_json_or_no_object_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[1]", "7"):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(InputError, match=r"a\.json"):
            Architecture.load(tmp_path / "a.json")
    with pytest.raises(InputError, match="cannot read"):
        Architecture.load(tmp_path / "missing.json")


def test_choices_of_another_space_are_refused() -> None:
    mobile, cell = some("mobile"), some("cell")
    with pytest.raises(InputError, match="is it of another space"):
        Architecture("mobile", mobile.options, cell.choices).network()
    with pytest.raises(InputError, match="unknown search space 'nowhere'"):
        Architecture("nowhere", mobile.options, mobile.choices).network()
    with pytest.raises(InputError, match="space 'cell' has no option 'width'"):
        Architecture("cell", mobile.options, cell.choices).network()
