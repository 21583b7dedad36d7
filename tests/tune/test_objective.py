import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdnas.data import Batch, Splits
from kdnas.device import load_device
from kdnas.tune.objective import Objective

CLASSES, DIMS = 4, 7
CPU = torch.device("cpu")


class Told:
    """Lessons whose images are their own features; the teacher is sure of the next class."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.dataset = SimpleNamespace(train_images=images, train_labels=labels, classes=list("abcd"))
        self.views = SimpleNamespace(apply=lambda pixels, ids, view: pixels)

    def __call__(self, batch: Batch, device: torch.device, pixels: bool) -> Any:
        next_class = (self.dataset.train_labels[batch.ids] + 1) % CLASSES
        return SimpleNamespace(probabilities=nn.functional.one_hot(next_class, CLASSES).float())


def objective(radio: dict[str, Any], count: int = 400, **kwargs: Any) -> tuple[Objective, nn.Module]:
    """Classes are axes of the features, at distance 1 and in the first four of seven."""
    labels = torch.arange(count) % CLASSES
    features = torch.randn(count, DIMS, generator=torch.Generator().manual_seed(0)) * 0.1
    features[torch.arange(count), labels] += 1
    nothing = torch.zeros(0, dtype=torch.int64)
    half = torch.arange(count).split(count // 2)
    splits = Splits(nothing, nothing, *half)
    link = load_device("wearable").link.model_copy(update=radio)
    classifier = nn.Linear(DIMS, CLASSES, bias=False)
    with torch.no_grad():
        classifier.weight.copy_(torch.eye(DIMS)[:CLASSES])
    told = Told(features[:, :, None, None], labels)
    return Objective(told, splits, link, seed=3, **kwargs), classifier  # type: ignore[arg-type]


ENCODER = nn.Flatten()


def test_without_a_channel_it_is_the_accuracy_and_the_teachers_word_counts_on_the_unlabelled() -> None:
    clean, classifier = objective({}, channel=False)
    assert clean(ENCODER, classifier, CPU) == 1
    both, _ = objective({}, channel=False, judged="all")
    assert both(ENCODER, classifier, CPU) == pytest.approx(0.5)  # there the teacher is always sure of another class


def test_noise_costs_and_more_symbols_help() -> None:
    values = []
    for snr, symbols in ((40.0, 64), (0.0, 64), (0.0, 4), (-40.0, 4)):
        judge, classifier = objective({"snr_db": (snr, snr), "channels": ("awgn",), "symbols": symbols})
        values.append(judge(ENCODER, classifier, CPU))
    assert values[0] == 1 and values[0] > values[2] > values[3] and values[1] > values[2] + 0.05
    assert abs(values[3] - 1 / CLASSES) < 4 * math.sqrt(0.25 * 0.75 / 200)


@pytest.mark.parametrize("channel", ["awgn", "rayleigh", "rayleigh(fading=fast)"])
@pytest.mark.parametrize("dims", [5, 6])
def test_what_arrives_is_the_linear_estimate_of_what_was_sent(channel: str, dims: int) -> None:
    """Its squared error is 1 / (1 + SNR) of the variance: of standardised features, at the energy of k symbols."""
    snr_db, symbols = 3.0, 8
    judge, _ = objective({"snr_db": (snr_db, snr_db), "channels": (channel,), "symbols": symbols}, count=8000, draws=1)
    features = torch.randn(4000, dims, generator=torch.Generator().manual_seed(1)) * 3 + 2
    # Three complex symbols carry the energy of eight; the sixth real number of five is nothing.
    snr = 10 ** (snr_db / 10) * symbols / 3 * 6 / dims
    gains = -((torch.arange(100_000) + 0.5) / 100_000).log() if channel != "awgn" else torch.ones(1)
    expected = (1 / (1 + snr * gains)).mean().item()
    errors = [((got - features) / features.std(0)).square().mean().item() for got in judge.received(features)]
    assert errors == pytest.approx([expected] * 3, rel=0.08)


def test_all_networks_meet_the_same_noise_and_modes_are_put_back() -> None:
    judge, classifier = objective({})
    encoder = nn.Sequential(nn.Flatten(), nn.Dropout(0.5)).train()
    first = judge(encoder, classifier, CPU)
    assert first == judge(encoder, classifier, CPU) == objective({})[0](ENCODER, classifier, CPU)
    assert encoder.training and classifier.training
