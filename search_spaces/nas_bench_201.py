"""NAS-Bench-201, to the letter (arXiv 2001.00326): one cell of 4 nodes and 6 edges, 5 operations, 15,625 networks.

With ``channels=16``, ``cells=5`` and RGB images of 32 x 32 pixels, the network is the published one with our linear
head in place of its classifier; ``published_costs`` counts it as its authors do.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from nni.nas.nn.pytorch import LayerChoice
from torch import Tensor, nn

from kdnas.cost import exact_costs
from kdnas.errors import InputError
from kdnas.ops import ConvBN, Step, Unit, conv_step, linear_step, pool_step
from kdnas.ops.cells import ZeroOperation
from kdnas.ops.nas_bench_201 import (
    EDGES,
    OPERATIONS,
    BenchCell,
    BenchOperation,
    BenchReduction,
    inplace_step,
    operation_steps,
    reduction_steps,
)
from kdnas.space.base import Choices, SearchSpace, inherit_edges, relax_with
from kdnas.space.mixture import Mixture


def stack(channels: int, cells: int, edges: Callable[[int], nn.ModuleDict]) -> nn.Sequential:
    """Three stages of cells, each with twice the channels of the one before, and a residual block between two.

    Args:
        channels: Of the first stage.
        cells: Of each stage.
        edges: From the channels of a cell to its edges.
    """
    blocks: list[nn.Module] = []
    for width in (channels, 2 * channels, 4 * channels):
        if blocks:
            blocks.append(BenchReduction(width // 2, width))
        blocks += [BenchCell(edges(width)) for _ in range(cells)]
    return nn.Sequential(*blocks)


class BenchEncoder(nn.Module):
    """A network of NAS-Bench-201: images in [0, 1] to features.

    Args:
        in_channels: 1 (grey) or 3 (RGB).
        stem: (outputs, kernel, stride) of the first convolution; its outputs are the channels of the first stage.
        cells: Cells in each of the three stages.
        edges: Edge name to operation, of every cell; edges that are not there bring nothing.
        feature_dim: Length of the feature vector.
    """

    def __init__(
        self, in_channels: int, stem: tuple[int, int, int], cells: int, edges: dict[str, str], feature_dim: int
    ) -> None:
        super().__init__()
        self.stem = ConvBN(in_channels, *stem, relu=False)

        def operations(width: int) -> nn.ModuleDict:
            return nn.ModuleDict({edge: BenchOperation(kind, width) for edge, kind in edges.items()})

        self.blocks = stack(stem[0], cells, operations)
        self.norm = nn.BatchNorm2d(4 * stem[0])
        self.head = nn.Linear(4 * stem[0], feature_dim)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [0, 1] to (B, feature_dim)."""
        x = self.blocks(self.stem(images * 4 - 2))
        return self.head(torch.relu(self.norm(x)).mean((2, 3)))


def to_string(choices: Mapping[str, Any]) -> str:
    """The published notation: ``|OP~0|+|OP~0|OP~1|+|OP~0|OP~1|OP~2|``, the edges of each node with their sources."""
    nodes = [[f"{choices[f'edge_{source}_{node}']}~{source}" for source in range(node)] for node in (1, 2, 3)]
    return "+".join(f"|{'|'.join(edges)}|" for edges in nodes)


def from_string(text: str) -> Choices:
    """The choices that the published notation stands for.

    Raises:
        InputError: It is not in that notation; names the first thing that is wrong.
    """
    nodes = text.strip().split("+")
    if len(nodes) != 3:
        raise InputError(f"a cell of NAS-Bench-201 has 3 nodes, joined by '+': {text!r} has {len(nodes)}")
    choices: Choices = {}
    for node, edges in enumerate(nodes, 1):
        if not re.fullmatch(r"\|.*\|", edges):
            raise InputError(f"node {node} of a NAS-Bench-201 cell stands between bars, as in '|none~0|': {edges!r}")
        parts = edges[1:-1].split("|")
        if len(parts) != node:
            raise InputError(f"node {node} of a NAS-Bench-201 cell has {node} edges: {edges!r} has {len(parts)}")
        for source, part in enumerate(parts):
            kind, _, origin = part.rpartition("~")
            if origin != str(source):
                raise InputError(f"edge {part!r} of node {node} must come from node {source}: 'OPERATION~{source}'")
            if kind not in OPERATIONS:
                raise InputError(f"unknown operation {kind!r} of NAS-Bench-201; there are {', '.join(OPERATIONS)}")
            choices[f"edge_{source}_{node}"] = kind
    return choices


def published_costs(choices: Mapping[str, Any], classes: int = 10) -> dict[str, int]:
    """Parameters and multiply-accumulates as NAS-Bench-201 lists them, for RGB images of 32 x 32 pixels.

    Its network ends in a linear classifier. Its "FLOP" (in M, 10^6) are multiply-accumulates: of convolutions and
    the classifier, whose every bias adds one, also of edges whose result nothing reads; none of poolings, batch norms
    and sums (``flop_benchmark.py`` of its authors' AutoDL-Projects). Its "Params" are in 10^6 likewise. For some
    networks with equivalent cells the released 200-epoch tables have other numbers, a fault that its authors mended
    later (issue 36 of D-X-Y/NATS-Bench).
    """
    space = NasBench201Space(in_channels=3, image_size=32, feature_dim=classes, channels=16, cells=5)
    costs = exact_costs([step for unit in space.units() for step in unit.steps(choices)])
    return {"published_params": int(costs["params"]), "published_macs": int(costs["macs"]) + classes}


def _always(steps: list[Step], choices: Mapping[str, Any]) -> list[Step]:
    return steps


class NasBench201Space(SearchSpace):
    """Stem, three stages of cells that all share six choices, a linear head.

    Args:
        in_channels: 1 or 3.
        image_size: Side of the square images, 28 to 224 pixels. Above 64 (128) pixels the stem has stride 2 (4), which
            is not in the benchmark.
        feature_dim: Length of the feature vector.
        channels: Of the first stage, 16 in the benchmark; the others have twice and four times as many.
        cells: Of each stage, 5 in the benchmark; one is a proxy that a CPU can search.

    Raises:
        InputError: An option is out of its range.
    """

    name: ClassVar[str] = "nas_bench_201"

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        feature_dim: int = 64,
        channels: int = 16,
        cells: int = 5,
    ) -> None:
        super().__init__()
        if in_channels not in (1, 3) or not 28 <= image_size <= 224 or min(feature_dim, channels, cells) < 1:
            raise InputError(
                "space 'nas_bench_201' takes in_channels 1 or 3, image_size 28 to 224, feature_dim >= 1, "
                "channels >= 1, cells >= 1"
            )
        self.options = {
            "in_channels": in_channels, "image_size": image_size, "feature_dim": feature_dim,
            "channels": channels, "cells": cells,
        }  # fmt: skip
        stride = 1 if image_size <= 64 else 2 if image_size <= 128 else 4
        self.stem_shape = (channels, max(3, stride + 1), stride)

        def candidates(width: int) -> nn.ModuleDict:
            edges = nn.ModuleDict()
            for edge in EDGES:
                operations = {kind: BenchOperation(kind, width) for kind in OPERATIONS[1:]}
                edges[edge] = LayerChoice({"none": ZeroOperation(), **operations}, label=f"edge_{edge}")
            return edges

        self.stem = ConvBN(in_channels, *self.stem_shape, relu=False)
        self.blocks = stack(channels, cells, candidates)
        self.norm = nn.BatchNorm2d(4 * channels)
        self.head = nn.Linear(4 * channels, feature_dim)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [0, 1] to (B, feature_dim)."""
        x = self.blocks(self.stem(images * 4 - 2))
        return self.head(torch.relu(self.norm(x)).mean((2, 3)))

    def extra_oneshot_hooks(self, strategy: Any) -> list[Any]:
        """How NNI strategies relax this space."""
        return [relax_with(LayerChoice, Mixture)]

    def network(self, choices: Mapping[str, Any]) -> nn.Module:
        """The ``BenchEncoder`` of ``choices``."""
        config = {
            "in_channels": self.options["in_channels"],
            "stem": self.stem_shape,
            "cells": self.options["cells"],
            "edges": {edge: choices[f"edge_{edge}"] for edge in EDGES if choices[f"edge_{edge}"] != "none"},
            "feature_dim": self.options["feature_dim"],
        }
        network = BenchEncoder(**config)
        network.config = config  # type: ignore[assignment]
        return network

    def inherit(self, choices: Mapping[str, Any], supernet: SearchSpace) -> nn.Module:
        """The network of ``choices`` with its weights inside ``supernet``, copied."""
        return inherit_edges(self.network(choices), supernet, lambda _, edge: choices[f"edge_{edge}"])

    def parse(self, text: str) -> Choices:
        """The choices of a string in the published notation: see ``from_string``."""
        return self.check(from_string(text))

    def published_costs(self, choices: Mapping[str, Any]) -> dict[str, int]:
        """What NAS-Bench-201 lists for CIFAR-10, whatever this space's options are: see the function of this name."""
        return published_costs(choices)

    def units(self) -> list[Unit]:
        """Stem, each edge of each cell, each residual block, and head; an edge depends on its own choice alone.

        An edge is counted whether or not its result reaches the output, as in the benchmark. Batch norms are folded
        into the convolutions before them, but for the last one, which follows a sum: with its ReLU it is a step of
        its own, in place (flash counts convolutions and linear layers alone, so its scales and shifts are only among
        the parameters).

        Memory is planned for a cell as a whole, so that it does not depend on other edges' choices: while an edge
        runs, all four nodes are held, and what the running step reads and writes besides. A convolution reads a copy
        of its node, made by the ReLU before it, as other edges read the same node without ReLU. Sums and
        ``skip_connect`` are made in place. For residual blocks see ``reduction_steps``.
        """
        size, inputs = self.options["image_size"], self.options["in_channels"]
        width, kernel, stride = self.stem_shape
        stem = conv_step("stem", inputs, width, kernel, size, stride=stride)
        units = [Unit("stem", (), partial(_always, [stem]))]
        size = -(-size // stride)
        for stage in range(3):
            if stage:
                name = f"reduction{stage}"
                units.append(Unit(name, (), partial(_always, reduction_steps(name, width, 2 * width, size))))
                size, width = -(-size // 2), 2 * width
            for cell in range(self.options["cells"]):
                for edge in EDGES:
                    label, name = f"edge_{edge}", f"stage{stage}.cell{cell}.edge_{edge}"

                    def steps(
                        choices: Mapping[str, Any], name: str = name, label: str = label, width: int = width,
                        size: int = size,
                    ) -> list[Step]:  # fmt: skip
                        return operation_steps(name, choices[label], width, size, held_bytes=4 * width * size**2)

                    units.append(Unit(name, (label,), steps))
        head = [
            inplace_step("head.norm", width, size, params=2 * width),
            pool_step("head.pool", width, size, 1),
            linear_step("head.linear", width, self.options["feature_dim"]),
        ]
        return [*units, Unit("head", (), partial(_always, head))]
