"""The space of DARTS, to the letter (arXiv 1806.09055): normal and reduction cells of 14 edges, 8 operations.

The published search keeps, in the end, the two strongest edges of each node (``strongest``) and writes them down as a
``Genotype``. Here each edge is a choice of its own among all 8 operations, so that a relaxed network can end as any
network it mixes; the choices with exactly two edges other than ``none`` at each node are the genotypes.

Poolings have no batch norm, neither in the supernet nor in the network, and every batch norm has its scale and shift
in both. The published supernet has a batch norm after each pooling and no scales and shifts, its final networks are as
here: so a frozen supernet can be the network to the bit.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

from nni.mutable import label_scope
from nni.nas.nn.pytorch import LayerChoice
from torch import Tensor, nn

from kdnas.errors import InputError
from kdnas.ops import ConvBN, Step, Unit, conv_step, linear_step, pool_step
from kdnas.ops.cells import ZeroOperation
from kdnas.ops.darts import EDGES, OPERATIONS, DartsCell, DartsOperation, operation_steps, reduce_step
from kdnas.ops.nas_bench_201 import inplace_step
from kdnas.space.base import Choices
from kdnas.space.cells import CellStack

NODES = (2, 3, 4, 5)
SCOPES = {"normal": "normal", "reduce": "reduction"}
"""The two cells of a ``Genotype``, and what the labels of their choices begin with."""


def stack(stem: int, channels: list[int], edges: Callable[[bool, int], nn.ModuleDict]) -> nn.ModuleList:
    """Cells in a row; one with more channels than the one before it reduces.

    Args:
        stem: Channels of the stem's output.
        channels: Of the states of each cell.
        edges: From whether a cell reduces, and its channels, to its edges.
    """
    cells = nn.ModuleList()
    before, inputs, last, shrink = stem, stem, channels[0], False
    for width in channels:
        reduces = width > last
        cells.append(DartsCell(before, inputs, width, reduces, shrink, edges(reduces, width)))
        before, inputs, last, shrink = inputs, 4 * width, width, reduces
    return cells


class DartsEncoder(nn.Module):
    """A network of DARTS: images in [0, 1] to features.

    Args:
        in_channels: 1 (grey) or 3 (RGB).
        stem: (outputs, kernel, stride) of the first convolution.
        channels: Of the states of each cell; a cell with more than the one before it reduces.
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
        self.stem = ConvBN(in_channels, *stem, relu=False)

        def operations(reduces: bool, width: int) -> nn.ModuleDict:
            edges = nn.ModuleDict()
            for edge, kind in (reduction if reduces else normal).items():
                edges[edge] = DartsOperation(kind, width, 2 if reduces and edge[0] in "01" else 1)
            return edges

        self.cells = stack(stem[0], channels, operations)
        self.head = nn.Linear(4 * channels[-1], feature_dim)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [0, 1] to (B, feature_dim)."""
        before = x = self.stem(images * 4 - 2)
        for cell in self.cells:
            before, x = x, cell(before, x)
        return self.head(x.mean((2, 3)))


class Genotype(NamedTuple):
    """A pair of cells in the published notation, which is also its ``repr``.

    Attributes:
        normal: (operation, source state) of two edges for each of the nodes 2 to 5 in turn.
        normal_concat: The states that the output lines up; always [2, 3, 4, 5] here.
        reduce: As ``normal``, of the reduction cell.
        reduce_concat: As ``normal_concat``.
    """

    normal: list[tuple[str, int]]
    normal_concat: list[int]
    reduce: list[tuple[str, int]]
    reduce_concat: list[int]


def to_genotype(choices: Mapping[str, Any]) -> Genotype:
    """The published form of ``choices``; the two edges of a node by their source.

    Raises:
        InputError: A node has more or fewer than two edges other than ``none``; names the node.
    """
    cells: dict[str, list[tuple[str, int]]] = {}
    for field, scope in SCOPES.items():
        cells[field] = []
        for node in NODES:
            kinds = [(choices[f"{scope}/edge_{source}_{node}"], source) for source in range(node)]
            kept = [(kind, source) for kind, source in kinds if kind != "none"]
            if len(kept) != 2:
                raise InputError(
                    f"a Genotype has 2 edges at each node; node {node} of the {scope} cell has {len(kept)} other "
                    "than 'none'"
                )
            cells[field] += kept
    return Genotype(cells["normal"], list(NODES), cells["reduce"], list(NODES))


def from_genotype(genotype: Genotype) -> Choices:
    """The choices of a ``Genotype``: ``none`` on every edge that it does not name.

    Raises:
        InputError: It is not of this space; names the first thing that is wrong.
    """
    choices: Choices = {f"{scope}/edge_{edge}": "none" for scope in SCOPES.values() for edge in EDGES}
    for field, scope in SCOPES.items():
        edges, concat = getattr(genotype, field), getattr(genotype, f"{field}_concat")
        if list(concat) != list(NODES):
            raise InputError(f"{field}_concat is {list(concat)}; in this space it is {list(NODES)}")
        if len(edges) != 2 * len(NODES):
            raise InputError(f"{field} has {len(edges)} edges; in this space it has two for each of 4 nodes")
        for index, (kind, source) in enumerate(edges):
            node = NODES[index // 2]
            label = f"{scope}/edge_{source}_{node}"
            if kind not in OPERATIONS[1:]:
                raise InputError(f"{field}: unknown operation {kind!r}; there are {', '.join(OPERATIONS[1:])}")
            if label not in choices:
                raise InputError(f"{field}: node {node} has no edge from state {source!r}")
            if choices[label] != "none":
                raise InputError(f"{field}: node {node} has two edges from state {source}; this space has one")
            choices[label] = kind
    return choices


def parse_genotype(text: str) -> Genotype:
    """A ``Genotype`` from its published text, ``Genotype(normal=[('sep_conv_3x3', 0), …``; nothing of it is run.

    Raises:
        InputError: It is not in that notation.
    """
    fields: dict[str, Any] = {}
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Genotype"):
            raise ValueError
        for keyword in call.keywords:
            value = keyword.value
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "range":
                states = range(*(ast.literal_eval(bound) for bound in value.args))
                fields[str(keyword.arg)] = list(states[: len(NODES) + 1])
            elif str(keyword.arg).endswith("_concat"):
                fields[str(keyword.arg)] = list(ast.literal_eval(value))
            else:
                edges = ast.literal_eval(value)
                fields[str(keyword.arg)] = [(str(kind), int(source)) for kind, source in edges]
        if call.args or len(fields) != len(call.keywords):
            raise ValueError
        return Genotype(**fields)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise InputError(
            "a Genotype is written Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=[2, 3, 4, 5], "
            f"reduce=[…], reduce_concat=[2, 3, 4, 5]), not {text!r}"
        ) from None


def strongest(log_probabilities: Mapping[str, Sequence[float]]) -> Choices:
    """The published discretisation (arXiv 1806.09055, section 2.4): each node keeps its two strongest edges.

    An edge is as strong as its most probable operation other than ``none``, which it keeps; of equals the first.

    Args:
        log_probabilities: Label to the log-probabilities of its values, in the order of ``OPERATIONS``.
    """
    choices: Choices = {}
    for scope in SCOPES.values():
        for node in NODES:
            best = []
            for source in range(node):
                values = [float(value) for value in log_probabilities[f"{scope}/edge_{source}_{node}"]]
                best.append(max(zip(values[1:], OPERATIONS[1:], strict=True), key=lambda pair: pair[0]))
            kept = sorted(range(node), key=lambda source: -best[source][0])[:2]
            for source in range(node):
                choices[f"{scope}/edge_{source}_{node}"] = best[source][1] if source in kept else "none"
    return choices


def _always(steps: list[Step], choices: Mapping[str, Any]) -> list[Step]:
    return steps


class DartsSpace(CellStack):
    """A stem, a stack of cells, a linear head; searched is the operation on each edge of both kinds of cell.

    All normal cells share their choices (``normal/edge_0_2`` ...), and so do all reduction cells.

    Args:
        in_channels: 1 or 3.
        image_size: Side of the square images, 28 to 224 pixels. Above 64 (128) pixels the stem has stride 2 (4), which
            is not in the published network for CIFAR.
        feature_dim: Length of the feature vector.
        channels: Of the states in the first cell (16 in the published search, 36 in its final network); the stem has
            three times as many, and each reduction doubles them.
        cells: Number of cells, at least 3 (8 and 20); those at one and two thirds of the depth are reductions.

    Raises:
        InputError: An option is out of its range.
    """

    name: ClassVar[str] = "darts"
    edge_names: ClassVar[list[str]] = EDGES
    encoder: ClassVar[type[nn.Module]] = DartsEncoder

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        feature_dim: int = 64,
        channels: int = 8,
        cells: int = 3,
    ) -> None:
        super().__init__(in_channels, image_size, feature_dim, channels, cells)
        stride = 1 if image_size <= 64 else 2 if image_size <= 128 else 4
        self.stem_shape = (3 * channels, max(3, stride + 1), stride)

        def candidates(reduces: bool, width: int) -> nn.ModuleDict:
            edges = nn.ModuleDict()
            with label_scope("reduction" if reduces else "normal"):
                for edge in EDGES:
                    stride = 2 if reduces and edge[0] in "01" else 1
                    operations = {kind: DartsOperation(kind, width, stride) for kind in OPERATIONS[1:]}
                    edges[edge] = LayerChoice({"none": ZeroOperation(stride), **operations}, label=f"edge_{edge}")
            return edges

        self.stem = ConvBN(in_channels, *self.stem_shape, relu=False)
        self.cells = stack(self.stem_shape[0], self.channels, candidates)
        self.head = nn.Linear(4 * self.channels[-1], feature_dim)

    def parse(self, text: str) -> Choices:
        """The choices of a ``Genotype`` in its published text."""
        return self.check(from_genotype(parse_genotype(text)))

    def units(self) -> list[Unit]:
        """Stem, the inputs of each cell, each edge, and head; an edge depends on its own choice alone.

        An edge is counted whether or not its result reaches the output. Memory is planned for a cell as a whole, so
        that it does not depend on other edges' choices. Everything that reads a cell's output begins with a ReLU
        (but the head, and no cell follows there): it is made once and in place. While the first input is prepared, the
        previous cell's output is held beside what that step reads and writes; while the second is, the first. While
        an edge runs, these are held: both prepared inputs, all four nodes, the previous cell's output where a next
        cell will read it, and what the running step reads and writes besides. An operation reads a copy of its state,
        made by the ReLU that it begins with, as other edges read the state without. Sums, the concatenation of
        nodes and of the halves of a ``FactorizedReduce``, and ``skip_connect`` at stride 1 are made in place.
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
            earlier = 0 if index == 0 else before * before_size**2  # the first cell reads the same stem twice
            held = 0 if index == 0 else previous
            prepare = [inplace_step(f"{name}.relu", inputs, size, held_bytes=earlier)]
            if before_size > size:
                prepare.append(reduce_step(f"{name}.first", before, width, before_size, held_bytes=held))
            else:
                prepare.append(conv_step(f"{name}.first", before, width, 1, size, held_bytes=held))
            prepare.append(conv_step(f"{name}.second", inputs, width, 1, size, held_bytes=state))
            units.append(Unit(f"{name}.inputs", (), partial(_always, prepare)))

            out = -(-size // 2) if reduces else size
            held = 2 * state + 4 * width * out**2 + (previous if index + 1 < len(self.channels) else 0)
            for edge in EDGES:
                label = f"{self.kind(index)}/edge_{edge}"
                side, stride = (size, 2 if reduces else 1) if edge[0] in "01" else (out, 1)

                def steps(
                    choices: Mapping[str, Any], name: str = f"{name}.edge_{edge}", label: str = label,
                    width: int = width, side: int = side, stride: int = stride, held: int = held,
                ) -> list[Step]:  # fmt: skip
                    return operation_steps(name, choices[label], width, side, stride, held_bytes=held)

                units.append(Unit(f"{name}.edge_{edge}", (label,), steps))
            before, inputs, before_size, size = inputs, 4 * width, size, out

        head = [
            pool_step("head.pool", inputs, size, 1),
            linear_step("head.linear", inputs, self.options["feature_dim"]),
        ]
        return [*units, Unit("head", (), partial(_always, head))]
