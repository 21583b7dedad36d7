import pytest
import torch
from torch.nn import functional as F

from kdnas.knowledge import expected_calibration_error, fit_temperature
from kdnas.knowledge.probe import fit_probe


def test_ece_of_a_hand_count():
    # Two bins in use: confidence 0.6 right half the time, confidence 0.9 always right.
    probs = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.1, 0.9]])
    labels = torch.tensor([0, 1, 0, 1])
    assert expected_calibration_error(probs, labels) == pytest.approx(0.5 * 0.1 + 0.5 * 0.1, abs=1e-6)


def test_ece_is_0_when_sure_and_right_and_1_when_sure_and_wrong():
    probs = torch.eye(3)
    assert expected_calibration_error(probs, torch.arange(3)) == 0
    assert expected_calibration_error(probs, (torch.arange(3) + 1) % 3) == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_spoilt_calibrated_logits_is_found(temperature):
    draws = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 4, generator=draws)
    labels = torch.multinomial(logits.softmax(1), 1, generator=draws)[:, 0]
    found = fit_temperature(logits * temperature, labels)
    assert found == pytest.approx(temperature, rel=0.05)  # standard error about 1 %
    before = expected_calibration_error((logits * temperature).softmax(1), labels)
    after = expected_calibration_error((logits * temperature / found).softmax(1), labels)
    assert after < 0.015
    assert temperature == 1 or after < before / 4


def test_the_probe_is_at_the_minimum_of_its_objective():
    draws = torch.Generator().manual_seed(0)
    features = torch.randn(200, 6, generator=draws) * 5 + 3
    labels = features[:, :3].argmax(1)
    layer = fit_probe(features, labels, 3, penalty=1e-2, iterations=200)
    mean, std = features.mean(0), features.std(0)
    standard = (features - mean) / std
    weight = (layer.weight.detach() * std).T.clone().requires_grad_()
    bias = (layer.bias.detach() + layer.weight.detach() @ mean).clone().requires_grad_()
    loss = F.cross_entropy(standard @ weight + bias, labels) + 1e-2 * weight.square().sum()
    loss.backward()
    assert weight.grad.abs().max() < 1e-3 and bias.grad.abs().max() < 1e-3
    assert (layer(features).argmax(1) == labels).float().mean() > 0.9
