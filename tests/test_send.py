"""Sending with the shortest prefix that meets what is asked for."""

import pytest
import torch
from torch import nn

from kdnas.codec import CAT
from kdnas.codec.adaptation import AccuracyTable
from kdnas.errors import InputError
from kdnas.link import Link

ROWS = [
    {"channel": channel, "snr_db": snr, "symbols": n, "accuracy": base + 0.2 * step, "ci95": 0.0}
    for channel, base in (("awgn", 0.4), ("rayleigh", 0.3))
    for snr in (0.0, 10.0)
    for step, n in enumerate((2, 4, 8))
]


@pytest.fixture
def link():
    torch.manual_seed(0)
    codec = CAT(6, 8)
    made = Link(nn.Sequential(nn.Flatten(), nn.Linear(9, 6)), codec.encoder, codec.decoder, nn.Linear(6, 3))
    made.accuracies = AccuracyTable(ROWS)
    return made.eval().requires_grad_(False)


IMAGES = torch.rand(5, 1, 3, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("asked", "used", "met"),
    [
        ({"min_accuracy": 0.5}, 4, True),  # by the worst channel
        ({"min_accuracy": 0.6, "channel": "awgn"}, 4, True),
        ({"min_accuracy": 0.9}, 8, False),
        ({"deadline_s": 4e-3, "symbol_rate_hz": 1e3}, 4, True),
        ({"deadline_s": 0.3, "symbol_rate_hz": 10}, 2, True),  # 0.3 * 10 is 3, whatever floats say
        ({"min_accuracy": 0.7, "deadline_s": 5e-3, "symbol_rate_hz": 1e3}, 4, False),
        ({"min_accuracy": 0.3, "deadline_s": 5e-3, "symbol_rate_hz": 1e3}, 2, True),
        ({"deadline_s": 0.0, "symbol_rate_hz": 1e3}, 1, False),
    ],
)
def test_the_shortest_prefix_that_meets_it_is_sent(link, asked, used, met):
    sent = link.send(IMAGES, 5.0, **asked)
    assert sent.symbols.shape == (5, used) and sent.met == met
    assert torch.equal(sent.symbols, link.encode(IMAGES, 5.0, used))


def test_what_cannot_be_asked_is_refused(link):
    for asked, words in (
        ({}, "min_accuracy, deadline_s, or both"),
        ({"min_accuracy": 80}, "from 0 to 1, not 80"),
        ({"deadline_s": 1.0}, "needs symbol_rate_hz"),
        ({"deadline_s": float("inf"), "symbol_rate_hz": 1e3}, "finite"),
        ({"deadline_s": float("nan"), "symbol_rate_hz": 1e3}, "finite"),
        ({"min_accuracy": 0.5, "channel": "ether"}, "'ether'"),
    ):
        with pytest.raises(InputError, match=words):
            link.send(IMAGES, 5.0, **asked)
    with pytest.raises(InputError, match="not NaN"):
        link.send(IMAGES, float("nan"), deadline_s=1.0, symbol_rate_hz=1e3)
    with pytest.raises(InputError, match=r"not torch\.uint8: give images\.float\(\) / 255"):
        link.encode(IMAGES.byte(), 5.0)
    link.image_shape = (1, 28, 28)
    for other in (IMAGES, torch.zeros(2, 3, 28, 28), torch.zeros(1, 28, 28)):
        with pytest.raises(InputError, match=r"trained on images of 1x28x28: it takes a batch Bx1x28x28, not"):
            link.encode(other, 5.0)
        with pytest.raises(InputError, match="trained on"):
            link(other, 5.0, generator=torch.Generator())
    link.accuracies = None
    with pytest.raises(InputError, match="no adaptation table"):
        link.send(IMAGES, 5.0, min_accuracy=0.5)
