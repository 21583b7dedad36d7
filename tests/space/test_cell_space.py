"""Cells: their wiring, their mixture, and the edges that are not there."""

import pytest
import torch
from supernets import Supernet
from torch import nn

from kdnas.ops.cells import EDGES, OPERATIONS, Cell, CellOperation, ZeroOperation
from kdnas.space import make_space
from kdnas.space.mixture import Mixture


def test_both_kinds_of_cell_choose_among_seven_operations_on_nine_edges() -> None:
    domains = make_space("cell").domains()
    assert len(EDGES) == 9
    assert set(domains) == {f"{kind}/edge_{edge}" for kind in ("normal", "reduction") for edge in EDGES}
    assert all(values == OPERATIONS for values in domains.values())


@pytest.mark.parametrize(("cells", "reductions"), [(3, (1, 2)), (4, (1, 2)), (5, (1, 3)), (8, (2, 5))])
def test_reductions_stand_at_one_and_two_thirds(cells: int, reductions: tuple[int, int]) -> None:
    space = make_space("cell", cells=cells, channels=4)
    assert space.reductions == reductions
    network = space.network(dict.fromkeys(space.domains(), "sep_conv_3x3")).eval()
    seen = []
    for cell in network.cells:
        cell.register_forward_hook(lambda cell, args, out: seen.append(tuple(out.shape[1:])))
    network(torch.rand(1, 1, 28, 28))
    sides = [4 * 2 ** sum(i >= r for r in reductions) for i in range(cells)]
    assert seen == [(3 * c, *([{4: 14, 8: 7, 16: 4}[c]] * 2)) for c in sides]


@pytest.mark.parametrize("kind", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
def test_operations_keep_channels_and_divide_the_side(kind: str, stride: int, size: int) -> None:
    operation = ZeroOperation(stride) if kind == "none" else CellOperation(kind, 4, stride)
    out = operation(torch.rand(2, 4, size, size))
    assert out.shape == (2, 4, -(-size // stride), -(-size // stride))
    assert (kind == "none") == (not out.any())


def test_a_node_sums_its_edges_and_the_cell_puts_nodes_side_by_side(float64: None) -> None:
    class Times(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.factor * x

    factors = {edge: float(prime) for edge, prime in zip(EDGES, (2, 3, 5, 7, 11, 13, 17, 19, 23), strict=True)}
    edges = nn.ModuleDict({edge: Times(factor) for edge, factor in factors.items()})
    cell = Cell(2, 2, 2, False, False, edges)
    cell.first, cell.second = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    a, b = torch.rand(1, 2, 3, 3), torch.rand(1, 2, 3, 3)
    n2 = 2 * a + 3 * b
    n3 = 5 * a + 7 * b + 11 * n2
    n4 = 13 * a + 17 * b + 19 * n2 + 23 * n3
    torch.testing.assert_close(cell(a, b), torch.cat([n2, n3, n4], 1))


def test_a_cell_without_edges_gives_zeros_of_the_right_shape() -> None:
    cell = Cell(3, 6, 4, True, True, nn.ModuleDict())
    out = cell(torch.rand(2, 3, 14, 14), torch.rand(2, 6, 7, 7))
    assert out.shape == (2, 12, 4, 4) and not out.any()


def test_none_everywhere_still_gives_features() -> None:
    space = make_space("cell")
    features = space.network(dict.fromkeys(space.domains(), "none"))(torch.rand(2, 1, 28, 28))
    assert features.shape == (2, 64)
    assert torch.equal(features[0], features[1])


def test_the_relaxed_edge_is_the_mixture_and_never_runs_none(float64: None) -> None:
    net = Supernet("cell")
    edge = next(m for m in net.space.modules() if isinstance(m, Mixture))
    edge.eval()
    x = torch.rand(2, 8, 14, 14)
    p = edge.probabilities("operation")
    every = [q * operation(x) for q, operation in zip(p, edge.operations.values(), strict=True)]
    torch.testing.assert_close(edge(x), torch.stack(every).sum(0), rtol=1e-14, atol=1e-14)

    def never(*args: object) -> None:
        raise AssertionError("the zero operation was computed")

    edge.operations["none"].register_forward_pre_hook(never)
    assert edge(x).shape == x.shape


def test_cells_of_a_kind_share_their_alphas_and_not_their_weights() -> None:
    net = Supernet("cell")
    edges = [cell.edges["0_2"] for cell in net.space.cells]
    normal, reduction = [edges[0], edges[2], edges[4]], [edges[1], edges[3]]
    assert len({id(edge.alpha["normal/edge_0_2"]) for edge in normal}) == 1
    assert len({id(edge.alpha["reduction/edge_0_2"]) for edge in reduction}) == 1
    assert len({id(p) for edge in edges for p in edge.operations.parameters()}) == sum(
        len(list(edge.operations.parameters())) for edge in edges
    )
