"""The semantic encoder of gateway for fashion-mini.

Found by kdnas in the space 'mobile': images of 1 x 28 x 28 to 64 features.

Input: float32 images (B, C, H, W) in [0, 1]; they are normalised inside. Output: float32 features (B, D).
It needs torch alone, and the weights in encoder.safetensors beside it:

    from encoder import load
    encoder = load()
"""

import json
from pathlib import Path

import torch
from torch import Tensor, nn


class ConvBN(nn.Module):
    """Convolution, batch normalisation and (by default) ReLU; 'same' padding at stride 1.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        kernel: Odd side length of the kernel.
        stride: Stride.
        groups: Groups of the convolution (``inputs`` for a depthwise one).
        relu: End with a ReLU.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = relu

    def extra_repr(self) -> str:
        """The main numbers, for pictures."""
        c = self.conv
        return f"{c.kernel_size[0]}x{c.kernel_size[0]}, {c.in_channels} to {c.out_channels}, stride {c.stride[0]}"

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride))."""
        x = self.bn(self.conv(x))
        return torch.relu(x) if self.relu else x


class InvertedResidual(nn.Module):
    """The block of MobileNetV2 (arXiv 1801.04381): expand 1x1, depthwise, project 1x1, and a shortcut where asked.

    Args:
        inputs: Input channels.
        hidden: Channels between expansion and projection.
        outputs: Output channels.
        kernel: Odd side length of the depthwise kernel.
        stride: Stride of the depthwise convolution.
        residual: Add the input to the output (needs equal shapes).
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, kernel: int, stride: int = 1, residual: bool = False
    ) -> None:
        super().__init__()
        self.expand = ConvBN(inputs, hidden, 1)
        self.depthwise = ConvBN(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvBN(hidden, outputs, 1, relu=False)
        self.residual = residual

    def extra_repr(self) -> str:
        """The main numbers, for pictures."""
        c = self.depthwise.conv
        shortcut = ", shortcut" if self.residual else ""
        return f"{c.kernel_size[0]}x{c.kernel_size[0]}, hidden {c.out_channels}, stride {c.stride[0]}{shortcut}"

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride))."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MobileEncoder(nn.Module):
    """A chain of inverted residuals: images in [0, 1] to features.

    Args:
        in_channels: 1 (grey) or 3 (RGB).
        stem: (outputs, kernel, stride) of the first convolution.
        blocks: (inputs, hidden, outputs, kernel, stride, residual) of each block; None where the search skipped one.
        feature_dim: Length of the feature vector.
    """

    def __init__(
        self,
        in_channels: int,
        stem: tuple[int, int, int],
        blocks: list[tuple[int, int, int, int, int, bool] | None],
        feature_dim: int,
    ) -> None:
        super().__init__()
        self.stem = ConvBN(in_channels, *stem)
        self.blocks = nn.Sequential(*[InvertedResidual(*b) if b else nn.Identity() for b in blocks])
        self.head = nn.Linear([b for b in blocks if b][-1][2], feature_dim)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [0, 1] to (B, feature_dim)."""
        x = self.stem(images * 4 - 2)
        x = self.blocks(x)
        return self.head(x.mean((2, 3)))


# The names that the safetensors format gives to torch's types.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file by name: a header's size, the header as JSON, then the raw values.

    Raises:
        ValueError: The file is truncated or is no safetensors file.
    """
    data = Path(path).read_bytes()
    body = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:body]).items():
        if name != "__metadata__":
            start, end = (body + offset for offset in entry["data_offsets"])
            if end > len(data):
                raise ValueError(f"{path} is truncated")
            flat = torch.frombuffer(bytearray(data[start:end]), dtype=DTYPES[entry["dtype"]])
            tensors[name] = flat.reshape(entry["shape"])
    return tensors


def build() -> MobileEncoder:
    """The encoder with fresh weights, in training mode."""
    return MobileEncoder(
        in_channels=1,
        stem=(8, 3, 2),
        blocks=[
            (8, 48, 8, 5, 1, False),
            None,
            (8, 48, 32, 7, 2, False),
            (32, 32, 32, 7, 1, True),
            (32, 192, 48, 7, 2, False),
            None,
        ],
        feature_dim=64,
    )


def load(path: str | Path | None = None) -> nn.Module:
    """The trained encoder in evaluation mode, its weights from encoder.safetensors beside this file."""
    encoder = build()
    encoder.load_state_dict(read_safetensors(path or Path(__file__).with_name("encoder.safetensors")))
    return encoder.eval()
