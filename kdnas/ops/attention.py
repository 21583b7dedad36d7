"""Transformer blocks in plain torch, and what they cost.

The source of the classes is copied as it stands into exported files: nothing in them may use anything but torch.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnas.ops.blocks import ConvBN
from kdnas.ops.steps import Op, Step, conv_step, linear_step

# Channels of a query, a key and a value in every head.
HEAD_CHANNELS = 16
# Queries, keys and values; the two products; output; the MLP's two layers.
BLOCK_STEPS = 5


class PatchEmbedding(nn.Module):
    """A map to tokens: a convolution of stride 2 makes one token of each place, and a learned position is added.

    Args:
        inputs: Channels of the map.
        width: Channels of a token.
        tokens: T, the number of places after the convolution.
    """

    def __init__(self, inputs: int, width: int, tokens: int) -> None:
        super().__init__()
        self.patches = ConvBN(inputs, width, 3, 2, relu=False)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))

    def extra_repr(self) -> str:
        """The main numbers, for pictures."""
        return f"{self.position.shape[0]} tokens of {self.position.shape[1]}"

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, T, width), T = ceil(H / 2) ceil(W / 2)."""
        return as_tokens(self.patches(x)) + self.position


def as_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H W, C)."""
    return x.flatten(2).transpose(1, 2).contiguous()


class TransformerBlock(nn.Module):
    """Attention among the tokens, then two linear layers on each token; both residual, with the layer norm before.

    The block of the vision transformer (arXiv 2010.11929, section 3.1), with ``HEAD_CHANNELS`` in each head whatever
    the width is.

    Args:
        width: Channels of a token.
        heads: Attention heads.
        hidden: Channels between the two linear layers.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * HEAD_CHANNELS)
        self.out = nn.Linear(heads * HEAD_CHANNELS, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def extra_repr(self) -> str:
        """The main numbers, for pictures."""
        return f"{self.out.in_features // HEAD_CHANNELS} heads, hidden {self.up.out_features}"

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to (B, T, width)."""
        x = x + self.out(attend(self.qkv(self.norm1(x))))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def attend(qkv: Tensor) -> Tensor:
    """Softmax attention, each head by itself: (B, T, 3 h d) to (B, T, h d), where d is ``HEAD_CHANNELS``.

    A token holds the query, the key and the value of its first head, then those of the next one: fewer heads are a
    prefix.
    """
    query, key, value = qkv.unflatten(2, (-1, 3, HEAD_CHANNELS)).permute(3, 0, 2, 1, 4).unbind(0)  # each (B, h, T, d)
    scores = (query * HEAD_CHANNELS**-0.5) @ key.transpose(2, 3)  # (B, h, T, T)
    return (scores.softmax(3) @ value).transpose(1, 2).flatten(2)


def embedding_step(name: str, inputs: int, width: int, size: int) -> Step:
    """``PatchEmbedding`` on a map of side ``size``: its convolution, and one byte for each entry of the position."""
    step = conv_step(name, inputs, width, 3, size, stride=2)
    position = (-(-size // 2)) ** 2 * width
    return replace(
        step,
        params=step.params + position,
        weights=step.weights + position,
        moved_bytes=step.moved_bytes + position,
    )


def transformer_steps(name: str, tokens: int, width: int, heads: int, hidden: int) -> list[Step]:
    """The ``BLOCK_STEPS`` steps of ``TransformerBlock(width, heads, hidden)`` on ``tokens`` tokens.

    The scale and shift of a layer norm are folded into the linear layer after it: they are parameters that need no
    flash. Softmax, GELU and the norm itself have no multiply-accumulates of a matrix. The products of attention, Q Kᵀ
    and scores times V, are counted for all heads together: 2 T² h d. The block's input (for the last two layers: the
    first sum) is held for the residual sum while anything else runs; queries, keys and values are one tensor, held
    until attention is done, beside it the scores of all heads and the result. GELU, softmax and sums are made in place.
    """
    inner = heads * HEAD_CHANNELS
    stream, scores = tokens * width, heads * tokens**2  # bytes
    products = Step(
        f"{name}.attention", macs=2 * tokens**2 * inner, held_bytes=4 * tokens * inner + scores + stream,
        moved_bytes=4 * tokens * inner + 2 * scores, ops=2, op=Op("attention", inner, inner, groups=heads, size=tokens),
    )  # fmt: skip
    qkv = linear_step(f"{name}.qkv", width, 3 * inner, rows=tokens, held_bytes=stream)
    up = linear_step(f"{name}.up", width, hidden, rows=tokens, held_bytes=stream)
    return [
        replace(qkv, params=qkv.params + 2 * width),
        products,
        linear_step(f"{name}.out", inner, width, rows=tokens, held_bytes=stream),
        replace(up, params=up.params + 2 * width),
        linear_step(f"{name}.down", hidden, width, rows=tokens, held_bytes=stream),
    ]
