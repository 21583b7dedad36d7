"""DARTS-style cells: a normal and a reduction cell, repeated; each of their edges is a choice of operation.

The relaxed edge is the exact mixture of DARTS (arXiv 1806.09055, eq. 2); its zero operation is not computed.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from nni.mutable import label_scope
from nni.nas.nn.pytorch import LayerChoice
from torch import Tensor, nn

from kdnas.ops import ConvBN, Step, Unit, conv_step, linear_step, pool_step
from kdnas.ops.cells import EDGES, OPERATIONS, Cell, CellOperation, ZeroOperation, operation_steps
from kdnas.space.cells import CellStack


class CellEncoder(nn.Module):
    """A stack of cells: images in [0, 1] to features.

    Args:
        in_channels: 1 (grey) or 3 (RGB).
        stem: (outputs, kernel, stride) of the first convolution.
        channels: Of the states of each cell; a cell with more than the one before it (or the stem) reduces.
        normal: Edge name to operation, of every normal cell; edges that are not there bring nothing.
        reduction: Likewise, of every reduction cell.
        feature_dim: Length of the feature vector.
    """

    def __init__(
        self,
        in_channels: int,
        stem: tuple[int, int, int],
        channels: list[int],
        normal: dict[str, str],
        reduction: dict[str, str],
        feature_dim: int,
    ) -> None:
        super().__init__()
        self.stem = ConvBN(in_channels, *stem)
        self.cells = nn.ModuleList()
        before, inputs, last, shrink = stem[0], stem[0], stem[0], False
        for width in channels:
            reduces = width > last
            edges = nn.ModuleDict()
            for edge, kind in (reduction if reduces else normal).items():
                edges[edge] = CellOperation(kind, width, 2 if reduces and edge[0] in "01" else 1)
            self.cells.append(Cell(before, inputs, width, reduces, shrink, edges))
            before, inputs, last, shrink = inputs, 3 * width, width, reduces
        self.head = nn.Linear(inputs, feature_dim)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [0, 1] to (B, feature_dim)."""
        before = x = self.stem(images * 4 - 2)
        for cell in self.cells:
            before, x = x, cell(before, x)
        return self.head(x.mean((2, 3)))


def _always(steps: list[Step], choices: Mapping[str, Any]) -> list[Step]:
    return steps


class CellSpace(CellStack):
    """A stem, a stack of cells, a linear head; searched is the operation on each edge of both kinds of cell.

    All normal cells share their choices (``normal/edge_0_2`` ...), and so do all reduction cells.

    Args:
        in_channels: 1 or 3.
        image_size: Side of the square images, 28 to 224 pixels. Larger images are reduced more by the stem,
            so that the last cell always works on about 4 x 4.
        feature_dim: Length of the feature vector.
        channels: Of the states in the first cell; each reduction doubles them.
        cells: Number of cells, at least 3; those at one and two thirds of the depth are reductions.

    Raises:
        InputError: An option is out of its range.
    """

    name: ClassVar[str] = "cell"
    edge_names: ClassVar[list[str]] = EDGES
    encoder: ClassVar[type[nn.Module]] = CellEncoder

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        feature_dim: int = 64,
        channels: int = 8,
        cells: int = 5,
    ) -> None:
        super().__init__(in_channels, image_size, feature_dim, channels, cells)
        # The last cell sees image_size / 2^halvings, about 3.5 to 7 pixels; two are in the reductions.
        halvings = (image_size * 2 // 7).bit_length() - 1
        stride = 2 ** (halvings - 2)
        self.stem_shape = (channels, stride + 1, stride)

        self.stem = ConvBN(in_channels, *self.stem_shape)
        self.cells = nn.ModuleList()
        before = inputs = channels
        for index, width in enumerate(self.channels):
            reduces = index in self.reductions
            edges = nn.ModuleDict()
            with label_scope(self.kind(index)):
                for edge in EDGES:
                    stride = 2 if reduces and edge[0] in "01" else 1
                    candidates = {kind: CellOperation(kind, width, stride) for kind in OPERATIONS[1:]}
                    edges[edge] = LayerChoice({"none": ZeroOperation(stride), **candidates}, label=f"edge_{edge}")
            self.cells.append(Cell(before, inputs, width, reduces, index - 1 in self.reductions, edges))
            before, inputs = inputs, 3 * width
        self.head = nn.Linear(inputs, feature_dim)

    def units(self) -> list[Unit]:
        """Stem, the inputs of each cell, each edge, and head; an edge depends on its own choice alone.

        Memory is planned for a cell as a whole, so that it does not depend on other edges' choices. While
        the first input is prepared, the previous cell's output is held beside what that step reads and
        writes; while the second is, the first. While an edge runs, these are held: both prepared inputs, all
        three nodes, the previous cell's output where a next cell will read it, and what the running step
        reads and writes besides. Sums, the concatenation of nodes and ``skip_connect`` at stride 1 are made
        in place.
        """
        size, inputs = self.options["image_size"], self.options["in_channels"]
        outputs, kernel, stride = self.stem_shape
        stem = conv_step("stem", inputs, outputs, kernel, size, stride=stride)
        units = [Unit("stem", (), partial(_always, [stem]))]
        size = before_size = -(-size // stride)
        before = inputs = outputs
        for index, width in enumerate(self.channels):
            name, reduces = f"cell{index}", index in self.reductions
            previous, state = inputs * size**2, width * size**2  # bytes
            held = 0 if index == 0 else previous  # the first cell reads the same stem twice
            prepare: list[Step] = []
            if before_size > size:
                prepare.append(pool_step(f"{name}.shrink", before, before_size, size, held_bytes=held))
            prepare.append(conv_step(f"{name}.first", before, width, 1, size, held_bytes=held))
            prepare.append(conv_step(f"{name}.second", inputs, width, 1, size, held_bytes=state))
            units.append(Unit(f"{name}.inputs", (), partial(_always, prepare)))

            out = -(-size // 2) if reduces else size
            held = 2 * state + 3 * width * out**2 + (previous if index + 1 < len(self.channels) else 0)
            for edge in EDGES:
                label = f"{self.kind(index)}/edge_{edge}"
                strided = reduces and edge[0] in "01"
                side, stride = (size, 2 if strided else 1) if edge[0] in "01" else (out, 1)

                def steps(
                    choices: Mapping[str, Any], name: str = f"{name}.edge_{edge}", label: str = label,
                    width: int = width, side: int = side, stride: int = stride, held: int = held,
                ) -> list[Step]:  # fmt: skip
                    return operation_steps(name, choices[label], width, side, stride, held_bytes=held)

                units.append(Unit(f"{name}.edge_{edge}", (label,), steps))
            before, inputs, before_size, size = inputs, 3 * width, size, out

        head = [
            pool_step("head.pool", inputs, size, 1),
            linear_step("head.linear", inputs, self.options["feature_dim"]),
        ]
        return [*units, Unit("head", (), partial(_always, head))]
