"""An edge of a cell as a mixture of candidate operations, for every space that is made of NNI's ``LayerChoice``."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from nni.nas.nn.pytorch import LayerChoice
from torch import Tensor, nn

from kdnas.space.base import Relaxed
from kdnas.space.depthwise import speed_up
from kdnas.space.relaxation import Relaxation


class Mixture(Relaxed):
    """Σ_k p_k · operation_k(x) (DARTS, arXiv 1806.09055, eq. 2); what has p_k = 0, and ``none``, is not run.

    Each candidate but ``none`` must be built as ``type(candidate)(kind, channels, stride)`` and keep these three as
    attributes: partial channels build narrower ones. ``none`` must map x to zeros of the output's shape.
    """

    def __init__(self, source: LayerChoice, memo: Mapping[str, nn.Parameter], softmax: Relaxation) -> None:
        super().__init__({"operation": source.choice}, memo, softmax)
        self.share = softmax.partial
        self.operations = nn.ModuleDict({kind: self._narrowed(source[kind]) for kind in source.names})
        speed_up(self.operations)

    def _narrowed(self, operation: Any) -> nn.Module:
        if self.share == 1 or not hasattr(operation, "channels"):
            return operation
        return type(operation)(operation.kind, max(1, operation.channels // self.share), operation.stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, channels, ceil(H / stride), ceil(W / stride))."""
        p = self.probabilities("operation")
        if self.share == 1:
            return self._mixed(p, x)
        part = max(1, x.shape[1] // self.share)
        mixed, rest = self._mixed(p, x[:, :part]), x[:, part:]
        if mixed.shape[-1] < x.shape[-1]:
            rest = F.max_pool2d(rest, 2, 2, ceil_mode=True)
        joined = torch.cat([mixed, rest], 1)
        # Shuffle, so that the next edges mix other channels: (B, share, part, H', W') turned.
        if x.shape[1] % part:
            return joined.roll(part, 1)
        return joined.unflatten(1, (-1, part)).transpose(1, 2).flatten(1, 2)

    def _mixed(self, p: Tensor, x: Tensor) -> Tensor:
        shares = p.tolist()
        total: Tensor | None = None
        for index, (kind, operation) in enumerate(self.operations.items()):
            if kind != "none" and shares[index] != 0:
                part = p[index] * operation(x)
                total = part if total is None else total.add_(part)
        if total is None:
            none: Tensor = self.operations["none"](x)
            return none
        return total

    def freeze(self, sample: dict[str, Any]) -> nn.Module:
        """The operation of ``sample``, with weights of its own."""
        return copy.deepcopy(self.operations[self.value("operation", sample)])
