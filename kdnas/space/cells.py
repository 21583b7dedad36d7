"""What spaces of DARTS-style cells share: two kinds of cell, whose edges are choices, stacked between stem and head."""

from collections.abc import Mapping
from typing import Any, ClassVar

from nni.nas.nn.pytorch import LayerChoice
from torch import Tensor, nn

from kdnas.errors import InputError
from kdnas.space.base import SearchSpace, inherit_edges, relax_with
from kdnas.space.mixture import Mixture


class CellStack(SearchSpace):
    """A stem, a stack of cells, a linear head; searched is the operation on each edge of both kinds of cell.

    All normal cells share their choices (``normal/edge_0_2`` ...), and so do all reduction cells, which stand at one
    and two thirds of the depth. A subclass makes ``stem``, ``cells`` (each with its ``edges``, of ``LayerChoice``) and
    ``head``.

    Args:
        in_channels: 1 or 3.
        image_size: Side of the square images, 28 to 224 pixels.
        feature_dim: Length of the feature vector.
        channels: Of the states in the first cell; each reduction doubles them.
        cells: Number of cells, at least 3.

    Raises:
        InputError: An option is out of its range.
    """

    edge_names: ClassVar[list[str]]
    encoder: ClassVar[type[nn.Module]]
    """Takes ``in_channels``, ``stem``, ``channels``, ``normal``, ``reduction``, ``feature_dim``."""
    stem_shape: tuple[int, int, int]
    """(outputs, kernel, stride) of the first convolution."""
    stem: nn.Module
    cells: nn.ModuleList
    head: nn.Module

    def __init__(self, in_channels: int, image_size: int, feature_dim: int, channels: int, cells: int) -> None:
        super().__init__()
        if in_channels not in (1, 3) or not 28 <= image_size <= 224 or min(feature_dim, channels, cells - 2) < 1:
            raise InputError(
                f"space {self.name!r} takes in_channels 1 or 3, image_size 28 to 224, feature_dim >= 1, "
                "channels >= 1, cells >= 3"
            )
        self.options = {
            "in_channels": in_channels, "image_size": image_size, "feature_dim": feature_dim,
            "channels": channels, "cells": cells,
        }  # fmt: skip
        self.reductions = (cells // 3, 2 * cells // 3)
        self.channels = [channels * 2 ** sum(index >= r for r in self.reductions) for index in range(cells)]

    def kind(self, index: int) -> str:
        """``normal`` or ``reduction``: which cell stands at ``index``."""
        return "reduction" if index in self.reductions else "normal"

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [0, 1] to (B, feature_dim)."""
        before = x = self.stem(images * 4 - 2)
        for cell in self.cells:
            before, x = x, cell(before, x)
        features: Tensor = self.head(x.mean((2, 3)))
        return features

    def extra_oneshot_hooks(self, strategy: Any) -> list[Any]:
        """How NNI strategies relax this space."""
        return [relax_with(LayerChoice, Mixture)]

    def network(self, choices: Mapping[str, Any]) -> nn.Module:
        """The ``encoder`` of ``choices``."""
        kinds: dict[str, dict[str, str]] = {"normal": {}, "reduction": {}}
        for scope, edges in kinds.items():
            for edge in self.edge_names:
                if choices[f"{scope}/edge_{edge}"] != "none":
                    edges[edge] = choices[f"{scope}/edge_{edge}"]
        config = {
            "in_channels": self.options["in_channels"],
            "stem": self.stem_shape,
            "channels": self.channels,
            **kinds,
            "feature_dim": self.options["feature_dim"],
        }
        network = self.encoder(**config)
        network.config = config  # type: ignore[assignment]
        return network

    def inherit(self, choices: Mapping[str, Any], supernet: SearchSpace) -> nn.Module:
        """The network of ``choices`` with its weights inside ``supernet``, copied."""
        return inherit_edges(
            self.network(choices), supernet, lambda index, edge: choices[f"{self.kind(index)}/edge_{edge}"]
        )
