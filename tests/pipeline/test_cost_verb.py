"""What ``cost`` says of a link by the number of its classes."""

from pathlib import Path

import pytest

from kdnas.config import MOST_WORDS
from kdnas.device import list_devices, load_device
from kdnas.errors import InputError
from kdnas.pipeline import api
from kdnas.zoo import list_architectures


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


def test_one_class_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 or more classes"):
        api.cost(list_architectures()[0], classes=1)
    with pytest.raises(InputError, match="2 or more classes"):
        api.measure(tmp_path / "latency.csv", classes=1)
