"""What ``cost`` says of a link by the number of its classes."""

import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from kdnas.config import MOST_WORDS
from kdnas.device import list_devices, load_device
from kdnas.errors import InputError
from kdnas.export import load_link
from kdnas.pipeline import api
from kdnas.zoo import list_architectures, resolve


@pytest.mark.parametrize("device", list_devices())
def test_every_class_has_a_word_unless_they_are_many(device: str) -> None:
    name = list_architectures()[0]
    none = api.cost(name, device, **{"codec.class_words": False})["channel_encoder"]["params"]
    symbols = load_device(device).link.symbols
    for classes in (2, 10, MOST_WORDS):
        found = api.cost(name, device, classes=classes)
        layers = {row["name"]: row["params"] for row in found["layers"]}
        words = [layers[f"channel.{part}"] for part in ("classifier", "share", "words")]
        assert words[2] == 2 * symbols * classes
        assert found["channel_encoder"]["params"] == none + sum(words)
    assert api.cost(name, device, classes=MOST_WORDS + 1)["channel_encoder"]["params"] == none
    many = api.cost(name, device, classes=100, **{"codec.class_words": True})["channel_encoder"]["params"]
    assert many > none + 200 * symbols


@pytest.mark.parametrize("name", list_architectures())
def test_beside_a_link_the_channel_encoder_is_that_links(name: str) -> None:
    link = load_link(resolve(name))
    assert link.info is not None
    own, device = sum(p.numel() for p in link.channel_encoder.parameters()), link.info.device
    for place in (name, resolve(name), resolve(name) / "architecture.json"):
        found = api.cost(place, device)
        assert (found["channel_encoder_of"], found["channel_encoder"]["params"]) == ("link", own)
    asked = api.cost(name, device, **{"codec.width": 20})
    assert asked["channel_encoder_of"] == "device" and asked["channel_encoder"]["params"] != own
    asked = api.cost(name, device, classes=len(link.info.classes))
    assert asked["channel_encoder_of"] == "device"


def test_a_link_of_another_architecture_is_not_its_own(tmp_path: Path) -> None:
    for name in ("link.json", "link.safetensors"):
        shutil.copy(resolve("mcu-fashion-mini") / name, tmp_path)
    shutil.copy(resolve("gateway-fashion-mini") / "architecture.json", tmp_path)
    assert api.cost(tmp_path, "mcu")["channel_encoder_of"] == "device"
    (tmp_path / "link.json").write_text("{")
    with pytest.raises(InputError, match=r"link\.json"):
        api.cost(tmp_path, "mcu")
    assert api.cost(tmp_path, "mcu", classes=10)["channel_encoder_of"] == "device"


def test_a_link_for_another_number_of_symbols_is_not_that_of_the_device(tmp_path: Path) -> None:
    name = "mcu-fashion-mini"
    symbols = load_device("mcu").link.symbols
    text = (files("kdnas") / "device/classes/mcu-256kB.toml").read_text()
    assert f"symbols = {symbols}" in text
    own = tmp_path / "own.toml"
    own.write_text(text.replace(f"symbols = {symbols}", f"symbols = {symbols // 2}"))
    found = api.cost(name, str(own))
    assert found["channel_encoder_of"] == "device"
    assert {row["name"] for row in found["layers"]} >= {"channel.classifier", "channel.words"}


def test_one_class_is_none(tmp_path: Path) -> None:
    for few in (0, 1):
        with pytest.raises(InputError, match="2 or more classes"):
            api.cost(list_architectures()[0], classes=few)
    with pytest.raises(InputError, match="2 or more classes"):
        api.measure(tmp_path / "latency.csv", classes=1)


@pytest.mark.parametrize("name", list_architectures())
def test_a_link_is_costed_on_the_class_that_it_was_made_for(name: str) -> None:
    found = api.cost(name)
    assert found["device"] == load_device(load_link(resolve(name)).info.device).name and found["fits"]
