"""A vision transformer, weight-entangled: a search space for the larger classes of devices.

A convolutional stem and a patch embedding make about 7 x 7 tokens (vision transformer, arXiv 2010.11929), transformer
blocks work on them, their mean is the feature. Searched: the width of the tokens, one for the whole network, and for
each block its heads (16 channels each), the ratio of its MLP and, but for the first, whether it is there at all. As in
AutoFormer (arXiv 2107.00651) all choices share one largest set of weights, of which a smaller layer is the first rows
and columns. That paper samples one network per step; here the choices are mixed by probabilities. Heads and the hidden
channels of the MLP enter the sum after them linearly, so that a mixture of masks is the mixture of what they give. The
width does not: where tokens are read, always by a layer norm, the norms over each width are mixed.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from nni.mutable import label_scope
from nni.nas.nn.pytorch import ParametrizedModule
from torch import Tensor, nn
from torch.func import functional_call

from kdnas.errors import InputError
from kdnas.ops import ConvBN, Step, Unit, conv_step, linear_step, pool_step
from kdnas.ops.attention import (
    BLOCK_STEPS,
    HEAD_CHANNELS,
    PatchEmbedding,
    TransformerBlock,
    as_tokens,
    attend,
    embedding_step,
    transformer_steps,
)
from kdnas.space.base import Relaxed, SearchSpace, nni, relax_with
from kdnas.space.relaxation import Relaxation

HEADS = [2, 3, 4]
RATIOS = [1, 2, 4]
# Channels of the tokens and of the stem, before the width multiplier.
WIDTHS = [32, 48, 64]
STEM = 16


class TokenHead(nn.Module):
    """The mean of the tokens, a layer norm and a linear layer.

    Args:
        width: Channels of a token.
        outputs: Length of the feature vector.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, outputs)

    def extra_repr(self) -> str:
        """The main numbers, for pictures."""
        return f"{self.linear.in_features} to {self.linear.out_features}"

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to (B, outputs)."""
        return self.linear(self.norm(x.mean(1)))


class ViTEncoder(nn.Module):
    """A small vision transformer: images in [0, 1] to features.

    Args:
        in_channels: 1 (grey) or 3 (RGB).
        stem: (outputs, kernel, stride) of the first convolution.
        width: Channels of a token.
        tokens: Number of tokens: the image has a fixed size.
        blocks: (heads, hidden) of each block; None where the search skipped one.
        feature_dim: Length of the feature vector.
    """

    def __init__(
        self,
        in_channels: int,
        stem: tuple[int, int, int],
        width: int,
        tokens: int,
        blocks: list[tuple[int, int] | None],
        feature_dim: int,
    ) -> None:
        super().__init__()
        self.stem = ConvBN(in_channels, *stem)
        self.embedding = PatchEmbedding(stem[0], width, tokens)
        self.blocks = nn.Sequential(*[TransformerBlock(width, *b) if b else nn.Identity() for b in blocks])
        self.head = TokenHead(width, feature_dim)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [0, 1] to (B, feature_dim)."""
        return self.head(self.blocks(self.embedding(self.stem(images * 4 - 2))))


class SearchEmbedding(ParametrizedModule):
    """A patch embedding whose width may be a choice."""

    def __init__(self, inputs: int, width: int, tokens: int) -> None:
        super().__init__()
        self.part = PatchEmbedding(inputs, width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, tokens, width)."""
        return self.part(x)


class SearchBlock(ParametrizedModule):
    """A transformer block whose width, heads, MLP ratio and presence may be choices."""

    def __init__(self, width: int, heads: int, ratio: int, keep: bool) -> None:
        super().__init__()
        self.part = TransformerBlock(width, heads, ratio * width) if keep else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to (B, T, width)."""
        return self.part(x)


class SearchHead(ParametrizedModule):
    """A head whose input width may be a choice."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.part = TokenHead(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to (B, outputs)."""
        return self.part(x)


Mixed = list[tuple[Any, Tensor]]
"""The values of a choice that are possible, each with its probability."""


def mixture(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The sum of p x over all (x, p), the last dimension of a shorter x filled up with zeros."""
    longest = max(x.shape[-1] for x, _ in parts)
    padded = [F.pad(p * x, (0, longest - x.shape[-1])) for x, p in parts]
    return sum(padded[1:], padded[0])


def prefix_mask(sizes: Mixed) -> Tensor:
    """(largest size,): the probability that each place is inside the size."""
    return mixture([(torch.ones_like(p).expand(size), p) for size, p in sizes])


def mixed_layer_norm(x: Tensor, norm: nn.LayerNorm, widths: Mixed) -> Tensor:
    """(..., largest width) to the same: the norms over the first channels of x, mixed by the widths' probabilities."""
    return mixture([(F.layer_norm(x[..., :w], (w,), norm.weight[:w], norm.bias[:w], norm.eps), p) for w, p in widths])


def prefix_linear(x: Tensor, linear: nn.Linear, outputs: int, mask: Tensor | None = None) -> Tensor:
    """(..., I) to (..., outputs): the first rows and columns of ``linear``, with a mask (I,) on the columns."""
    weight = linear.weight[:outputs, : x.shape[-1]]
    return F.linear(x, weight.contiguous() if mask is None else weight * mask, linear.bias[:outputs])


class RelaxedPart(Relaxed):
    """The entangled form of a ``Search...`` module: the largest part; smaller ones are its first rows and columns.

    It runs at the largest sizes whose probability is not exactly zero: past them, a mask would only add zeros. With
    one-hot probabilities it therefore does the very operations of the frozen network, and ends with the same bits.
    """

    def __init__(self, source: ParametrizedModule, memo: Mapping[str, nn.Parameter], softmax: Relaxation) -> None:
        super().__init__(source.args, memo, softmax)
        self.source = type(source)
        self.full = self.source(**{name: max(values) for name, values in self.domains.items()}).part

    def possible(self, argument: str) -> Mixed:
        """The values of a choice whose probability is not exactly zero, in the order of the domain."""
        p = self.probabilities(argument)
        shares = p.tolist()
        return [(value, p[i]) for i, value in enumerate(self.domains[argument]) if shares[i] != 0]

    def freeze(self, sample: dict[str, Any]) -> nn.Module:
        """The module for ``sample``, its weights sliced from the largest part."""
        frozen = self.source(**{name: self.value(name, sample) for name in self.domains})
        full = self.full.state_dict()
        frozen.to(next(self.parameters()).dtype)
        frozen.part.load_state_dict(
            {name: full[name][tuple(map(slice, value.shape))] for name, value in frozen.part.state_dict().items()}
        )
        return frozen


class RelaxedEmbedding(RelaxedPart):
    """Tokens of the largest possible width: the layer norms that read them do the mixing."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, tokens, largest width)."""
        width = max(w for w, _ in self.possible("width"))
        patches = self.full.patches
        weights = {k: v[:width] if v.ndim else v for k, v in patches.state_dict(keep_vars=True).items()}
        return as_tokens(functional_call(patches, weights, x)) + self.full.position[:, :width]


class RelaxedBlock(RelaxedPart):
    """The largest block, its norms mixed over the widths, its heads and hidden channels masked by probabilities."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, largest width) to the same."""
        return mixture([(self._kept(x) if keep else x, p) for keep, p in self.possible("keep")])

    def _kept(self, x: Tensor) -> Tensor:
        """What ``TransformerBlock.forward`` does, on prefixes."""
        widths, block, width = self.possible("width"), self.full, x.shape[-1]
        heads = prefix_mask([(HEAD_CHANNELS * h, p) for h, p in self.possible("heads")])  # a value per channel
        hidden = prefix_mask([(r * w, p * q) for r, p in self.possible("ratio") for w, q in widths])
        y = mixed_layer_norm(x, block.norm1, widths)
        y = attend(prefix_linear(y, block.qkv, 3 * len(heads)))
        x = x + prefix_linear(y, block.out, width, heads)
        y = mixed_layer_norm(x, block.norm2, widths)
        y = F.gelu(prefix_linear(y, block.up, len(hidden)))
        return x + prefix_linear(y, block.down, width, hidden)


class RelaxedHead(RelaxedPart):
    """The largest head, its norm mixed over the widths."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, largest width) to (B, outputs)."""
        linear = self.full.linear
        return prefix_linear(
            mixed_layer_norm(x.mean(1), self.full.norm, self.possible("width")), linear, linear.out_features
        )


class VitSpace(SearchSpace):
    """Entangled vision transformer.

    Flash holds one byte for each entry of the position embedding; it needs no scale or bias per channel. The layer
    norms need none: their scale and shift are folded into the linear layer after them. All are parameters.

    Args:
        in_channels: 1 or 3.
        image_size: Side of the square images, 28 to 224 pixels. Larger images are reduced more by the stem, so that
            there are always about 7 x 7 tokens (6 to 9 on a side).
        feature_dim: Length of the feature vector.
        width: Multiplies all channel numbers (rounded to multiples of 4) but those of a head.
        depth: Blocks, at least 1; all but the first can be skipped.

    Raises:
        InputError: An option is out of its range.
    """

    name: ClassVar[str] = "vit"

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        feature_dim: int = 64,
        width: float = 1.0,
        depth: int = 4,
    ) -> None:
        super().__init__()
        if in_channels not in (1, 3) or not 28 <= image_size <= 224 or feature_dim < 1 or width <= 0 or depth < 1:
            raise InputError(
                "space 'vit' takes in_channels 1 or 3, image_size 28 to 224, feature_dim >= 1, width > 0, depth >= 1"
            )
        self.options = {
            "in_channels": in_channels, "image_size": image_size, "feature_dim": feature_dim,
            "width": width, "depth": depth,
        }  # fmt: skip
        # The stem makes a map of about 14 x 14, the embedding halves it.
        stride = round(image_size / 14)
        self.stem_shape = (self._scaled(STEM), stride | 1, stride)
        self.map_size = -(-image_size // stride)
        self.grid = -(-self.map_size // 2)

        self.stem = ConvBN(in_channels, *self.stem_shape)
        tokens = nni.choice("width", sorted({self._scaled(w) for w in WIDTHS}))
        self.embedding = SearchEmbedding(self.stem_shape[0], tokens, self.grid**2)
        blocks: list[nn.Module] = []
        for index in range(depth):
            with label_scope(f"block{index}"):
                keep = nni.choice("keep", [True, False]) if index else True
                blocks.append(SearchBlock(tokens, nni.choice("heads", HEADS), nni.choice("ratio", RATIOS), keep))
        self.blocks = nn.Sequential(*blocks)
        self.head = SearchHead(tokens, feature_dim)

    def _scaled(self, channels: int) -> int:
        return max(4, round(channels * self.options["width"] / 4) * 4)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [0, 1] to (B, feature_dim)."""
        return self.head(self.blocks(self.embedding(self.stem(images * 4 - 2))))

    def extra_oneshot_hooks(self, strategy: Any) -> list[Any]:
        """How NNI strategies relax this space."""
        return [
            relax_with(SearchEmbedding, RelaxedEmbedding),
            relax_with(SearchBlock, RelaxedBlock),
            relax_with(SearchHead, RelaxedHead),
        ]

    def _block(self, index: int, choices: Mapping[str, Any]) -> tuple[int, int] | None:
        label = f"block{index}"
        if index and not choices[f"{label}/keep"]:
            return None
        return choices[f"{label}/heads"], choices[f"{label}/ratio"] * choices["width"]

    def network(self, choices: Mapping[str, Any]) -> nn.Module:
        """The ``ViTEncoder`` of ``choices``."""
        config = {
            "in_channels": self.options["in_channels"],
            "stem": self.stem_shape,
            "width": choices["width"],
            "tokens": self.grid**2,
            "blocks": [self._block(index, choices) for index in range(self.options["depth"])],
            "feature_dim": self.options["feature_dim"],
        }
        network = ViTEncoder(**config)
        network.config = config  # type: ignore[assignment]
        return network

    def inherit(self, choices: Mapping[str, Any], supernet: SearchSpace) -> nn.Module:
        """The network of ``choices`` with its weights inside ``supernet``, copied."""
        network = self.network(choices)
        weights = supernet.freeze(self.check(choices)).state_dict()
        # NNI's modules wrap the plain ones one level deeper.
        network.load_state_dict({name.replace(".part.", "."): value for name, value in weights.items()})
        return network

    def units(self) -> list[Unit]:
        """Stem, embedding, blocks and head; a block depends on its own choices and on the width."""
        size, tokens = self.options["image_size"], self.grid**2
        channels, kernel, stride = self.stem_shape
        stem = conv_step("stem", self.options["in_channels"], channels, kernel, size, stride=stride)
        units = [
            Unit("stem", (), lambda choices: [stem]),
            Unit(
                "embedding", ("width",),
                lambda choices: [embedding_step("embedding", channels, choices["width"], self.map_size)],
            ),
        ]  # fmt: skip
        for index in range(self.options["depth"]):
            label = f"block{index}"

            def steps(choices: Mapping[str, Any], index: int = index, label: str = label) -> list[Step]:
                block = self._block(index, choices)
                if block is None:
                    return [Step(f"{label}.unused{i}", ops=0) for i in range(BLOCK_STEPS)]
                return transformer_steps(label, tokens, choices["width"], *block)

            names = ["heads", "ratio", "keep"] if index else ["heads", "ratio"]
            units.append(Unit(label, ("width", *(f"{label}/{name}" for name in names)), steps))

        def head(choices: Mapping[str, Any]) -> list[Step]:
            width = choices["width"]
            linear = linear_step("head.linear", width, self.options["feature_dim"])
            return [pool_step("head.pool", width, self.grid, 1), replace(linear, params=linear.params + 2 * width)]

        return [*units, Unit("head", ("width",), head)]
