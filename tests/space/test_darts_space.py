"""The space of DARTS: its cells, its genotypes, and the size of its published network."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from typer.testing import CliRunner

from kdnas.cli import app
from kdnas.cost import CostTables
from kdnas.errors import InputError
from kdnas.export import encoder_source
from kdnas.ops.cells import ZeroOperation
from kdnas.ops.darts import EDGES, OPERATIONS, DartsCell, DartsOperation, FactorizedReduce
from kdnas.space import make_space
from search_spaces.darts import NODES, Genotype, from_genotype, parse_genotype, strongest, to_genotype

# The cells of the second-order search, as quark0/darts (cnn/genotypes.py) prints them.
DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)


def test_both_kinds_of_cell_choose_among_eight_operations_on_fourteen_edges() -> None:
    domains = make_space("darts").domains()
    assert len(EDGES) == 14 and len(OPERATIONS) == 8
    assert set(domains) == {f"{kind}/edge_{edge}" for kind in ("normal", "reduction") for edge in EDGES}
    assert all(values == OPERATIONS for values in domains.values())


def test_the_published_network_has_the_published_size() -> None:
    """3.349342 "MB" (10^6 parameters): what the authors' ``train.py`` prints of DARTS_V2 without the auxiliary head."""
    with torch.device("meta"):
        space = make_space("darts", in_channels=3, image_size=32, feature_dim=10, channels=36, cells=20)
        choices = space.parse(DARTS_V2)
        network = space.network(choices)
    assert sum(p.numel() for p in network.parameters()) == 3349342
    costs = CostTables(space.units(), space.domains()).exact(choices)
    # 528 M multiply-accumulates: widely given for this network, for example in public lists of genotypes.
    assert costs["params"] == 3349342 and round(costs["macs"] / 1e6) == 528
    assert space.reductions == (6, 13) and network.stem.conv.weight.shape == (108, 3, 3, 3)


@pytest.mark.parametrize(("cells", "reductions"), [(3, (1, 2)), (4, (1, 2)), (5, (1, 3)), (8, (2, 5))])
def test_reductions_stand_at_one_and_two_thirds(cells: int, reductions: tuple[int, int]) -> None:
    space = make_space("darts", cells=cells, channels=4)
    assert space.reductions == reductions
    network = space.network(dict.fromkeys(space.domains(), "dil_conv_5x5")).eval()
    seen = []
    for cell in network.cells:
        cell.register_forward_hook(lambda cell, args, out: seen.append(tuple(out.shape[1:])))
    network(torch.rand(1, 1, 28, 28))
    widths = [4 * 2 ** sum(i >= r for r in reductions) for i in range(cells)]
    assert seen == [(4 * c, *([{4: 28, 8: 14, 16: 7}[c]] * 2)) for c in widths]
    halved = [isinstance(cell.first, FactorizedReduce) for cell in network.cells]
    assert halved == [index - 1 in reductions for index in range(cells)]


@pytest.mark.parametrize("kind", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
def test_operations_keep_channels_and_divide_the_side(kind: str, stride: int, size: int) -> None:
    operation = ZeroOperation(stride) if kind == "none" else DartsOperation(kind, 4, stride)
    out = operation(torch.rand(2, 4, size, size))
    assert out.shape == (2, 4, -(-size // stride), -(-size // stride))
    assert (kind == "none") == (not out.any())


def convolutions(operation: nn.Module) -> list[Tensor]:
    return [m.weight for m in operation.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_by_hand(stride: int, float64: None) -> None:
    x, normed = torch.randn(2, 4, 8, 8), nn.BatchNorm2d(4)  # in training, so that its statistics are the batch's
    separable = DartsOperation("sep_conv_5x5", 4, stride)
    a, b, c, d = convolutions(separable)
    y = normed(F.conv2d(F.conv2d(F.relu(x), a, stride=stride, padding=2, groups=4), b))
    y = normed(F.conv2d(F.conv2d(F.relu(y), c, padding=2, groups=4), d))
    torch.testing.assert_close(separable(x), y)
    dilated = DartsOperation("dil_conv_3x3", 4, stride)
    a, b = convolutions(dilated)
    y = normed(F.conv2d(F.conv2d(F.relu(x), a, stride=stride, padding=2, dilation=2, groups=4), b))
    torch.testing.assert_close(dilated(x), y)
    average = DartsOperation("avg_pool_3x3", 4, stride)(torch.ones(1, 4, 8, 8))
    assert torch.equal(average, torch.ones_like(average))  # the padding is left out


@pytest.mark.parametrize(("outputs", "size"), [(4, 8), (5, 8), (4, 7), (1, 8)])
def test_a_factorized_reduction_reads_every_second_pixel_twice(outputs: int, size: int, float64: None) -> None:
    reduce, x = FactorizedReduce(3, outputs), torch.randn(2, 3, size, size)
    first, *second = convolutions(reduce)
    here = torch.einsum("oi,bihw->bohw", first[:, :, 0, 0], F.relu(x)[:, :, ::2, ::2])
    parts = [here]
    for weight in second:
        odd = F.relu(x)[:, :, 1::2, 1::2]
        odd = F.pad(odd, (0, here.shape[3] - odd.shape[3], 0, here.shape[2] - odd.shape[2]))
        parts.append(torch.einsum("oi,bihw->bohw", weight[:, :, 0, 0], odd))
    torch.testing.assert_close(reduce(x), nn.BatchNorm2d(outputs)(torch.cat(parts, 1)))
    assert sum(weight.numel() for weight in (first, *second)) == 3 * outputs


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_a_node_sums_its_edges_and_the_cell_puts_nodes_side_by_side(float64: None) -> None:
    primes = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43)
    edges = nn.ModuleDict({edge: Times(float(prime)) for edge, prime in zip(EDGES, primes, strict=True)})
    cell = DartsCell(2, 2, 2, False, False, edges)
    cell.first, cell.second = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    a, b = torch.rand(1, 2, 3, 3), torch.rand(1, 2, 3, 3)
    n2 = 2 * a + 3 * b
    n3 = 5 * a + 7 * b + 11 * n2
    n4 = 13 * a + 17 * b + 19 * n2 + 23 * n3
    n5 = 29 * a + 31 * b + 37 * n2 + 41 * n3 + 43 * n4
    torch.testing.assert_close(cell(a, b), torch.cat([n2, n3, n4, n5], 1))


def test_a_cell_without_edges_gives_zeros_of_the_right_shape() -> None:
    out = DartsCell(3, 8, 4, True, True, nn.ModuleDict())(torch.rand(2, 3, 15, 15), torch.rand(2, 8, 8, 8))
    assert out.shape == (2, 16, 4, 4) and not out.any()


def test_the_exported_source_is_the_network() -> None:
    space = make_space("darts", in_channels=3, channels=4)
    network = space.network(space.random(torch.Generator().manual_seed(1))).eval()
    namespace: dict = {"__name__": "encoder"}
    exec(encoder_source(network), namespace)
    copy = namespace["build"]()
    copy.load_state_dict(network.state_dict())
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(copy.eval()(images), network(images))


def test_none_everywhere_still_gives_features() -> None:
    space = make_space("darts")
    features = space.network(dict.fromkeys(space.domains(), "none"))(torch.rand(2, 1, 28, 28))
    assert features.shape == (2, 64)
    assert torch.equal(features[0], features[1])


@pytest.mark.parametrize(("size", "side"), [(28, 28), (64, 64), (65, 33), (129, 33), (224, 56)])
def test_only_larger_images_have_a_stem_with_a_stride(size: int, side: int) -> None:
    space = make_space("darts", image_size=size, channels=2)
    network = space.network(dict.fromkeys(space.domains(), "none"))
    assert network.stem(torch.rand(1, 1, size, size)).shape == (1, 6, side, side)


@st.composite
def genotypes(draw: st.DrawFn) -> Genotype:
    cells = []
    for _ in range(2):
        edges = []
        for node in NODES:
            sources = sorted(draw(st.permutations(range(node)))[:2])
            edges += [(draw(st.sampled_from(OPERATIONS[1:])), source) for source in sources]
        cells.append(edges)
    return Genotype(cells[0], [2, 3, 4, 5], cells[1], [2, 3, 4, 5])


@given(genotypes())
def test_every_genotype_is_choices_and_text(genotype: Genotype) -> None:
    choices = from_genotype(genotype)
    assert to_genotype(choices) == genotype
    assert parse_genotype(repr(genotype)) == genotype
    assert sum(kind != "none" for kind in choices.values()) == 16


def test_a_published_text_is_read_and_written() -> None:
    genotype = parse_genotype(DARTS_V2)
    assert repr(genotype) == DARTS_V2
    choices = make_space("darts").parse(f" {DARTS_V2}\n")
    assert choices["normal/edge_0_5"] == "skip_connect" and choices["normal/edge_2_5"] == "dil_conv_3x3"
    assert choices["reduction/edge_2_5"] == "skip_connect" and choices["reduction/edge_3_5"] == "none"
    # The same network; a node's edges stand by their source.
    again = to_genotype(choices)
    assert from_genotype(again) == choices
    assert again.normal[4:6] == [("skip_connect", 0), ("sep_conv_3x3", 1)] and again.normal[:4] == genotype.normal[:4]
    assert parse_genotype(DARTS_V2.replace("[2, 3, 4, 5]", "range(2, 6)")) == genotype


@pytest.mark.parametrize(
    "text",
    [
        "", "Genotype", "Genotype(", "Genotype()", "Gene" + DARTS_V2, DARTS_V2 + "()", f"[{DARTS_V2}]",
        DARTS_V2.replace("normal=", "usual="), DARTS_V2.replace("reduce_concat=[2, 3, 4, 5]", "reduce_concat=2"),
        DARTS_V2.replace("('sep_conv_3x3', 0)", "('sep_conv_3x3',)", 1), DARTS_V2.replace("[2, 3, 4, 5]", "open('x')"),
        DARTS_V2.replace("('sep_conv_3x3', 0)", "__import__('os').abort()", 1), DARTS_V2.replace("normal=[", "**[", 1),
        "Genotype(" * 300, "\0",
    ],
)  # fmt: skip
def test_other_texts_are_refused_and_never_run(text: str) -> None:
    with pytest.raises(InputError, match=r"a Genotype is written Genotype\(normal="):
        parse_genotype(text)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("normal_concat=[2, 3, 4, 5]", "normal_concat=[4, 5, 6]", r"normal_concat is \[4, 5, 6\]"),
        ("normal_concat=[2, 3, 4, 5]", "normal_concat=range(2, 10**9)", "a Genotype is written"),
        ("normal_concat=[2, 3, 4, 5]", "normal_concat=range(2, 1000000000)", "normal_concat is"),
        ("reduce=[('max_pool_3x3', 0), ", "reduce=[", "reduce has 7 edges"),
        ("dil_conv_3x3", "dil_conv_7x7", "normal: unknown operation 'dil_conv_7x7'"),
        ("dil_conv_3x3", "none", "normal: unknown operation 'none'"),
        ("('dil_conv_3x3', 2)", "('dil_conv_3x3', 5)", "normal: node 5 has no edge from state 5"),
        ("('dil_conv_3x3', 2)", "('dil_conv_3x3', 0)", "normal: node 5 has two edges from state 0"),
    ],
)
def test_what_is_no_genotype_of_this_space_is_named(old: str, new: str, words: str) -> None:
    assert old in DARTS_V2
    with pytest.raises(InputError, match=words):
        make_space("darts").parse(DARTS_V2.replace(old, new))


def test_choices_of_other_than_two_edges_a_node_are_no_genotype() -> None:
    choices = from_genotype(parse_genotype(DARTS_V2))
    for kind, count in (("none", 1), ("skip_connect", 3)):
        edge = "reduction/edge_0_4" if kind == "none" else "reduction/edge_3_4"
        with pytest.raises(InputError, match=f"node 4 of the reduction cell has {count} other"):
            to_genotype({**choices, edge: kind})


def test_the_strongest_edges_by_hand() -> None:
    flat = {label: np.log(np.full(8, 1 / 8)) for label in make_space("darts").domains()}
    # All alike: the first two edges with the first operation that is not none.
    assert {edge for edge, kind in strongest(flat).items() if kind == "max_pool_3x3"} == {
        f"{scope}/edge_{source}_{node}" for scope in ("normal", "reduction") for source in (0, 1) for node in NODES
    }
    # Most of it on none: that counts for nothing, the best of the rest does.
    flat["normal/edge_3_4"] = np.log([0.90, 0.01, 0.01, 0.01, 0.01, 0.01, 0.04, 0.01])
    flat["normal/edge_2_4"] = np.log([0.00001, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.29999])
    flat["normal/edge_1_4"] = np.log([0.4, 0.05, 0.05, 0.15, 0.05, 0.1, 0.1, 0.1])
    found = strongest(flat)
    assert [found[f"normal/edge_{source}_4"] for source in range(4)] == ["none", "skip_connect", "dil_conv_5x5", "none"]


@given(st.integers(0, 2**31))
def test_the_strongest_edges_are_a_genotype_that_no_swap_makes_likelier(seed: int) -> None:
    labels = [f"{scope}/edge_{edge}" for scope in ("normal", "reduction") for edge in EDGES]
    alphas = np.random.default_rng(seed).normal(size=(28, 8))
    logp = dict(zip(labels, alphas - np.log(np.exp(alphas).sum(1, keepdims=True)), strict=True))
    choices = strongest(logp)
    assert from_genotype(to_genotype(choices)) == choices
    for label, kind in choices.items():
        node = label[-1]
        rivals = [other for other in labels if other[:-3] == label[:-3] and other[-1] == node]
        if kind != "none":
            own = logp[label][OPERATIONS.index(kind)]
            assert own == logp[label][1:].max()
            assert sum(logp[other][1:].max() > own for other in rivals) < 2


def test_the_command_line_costs_a_genotype() -> None:
    runner = CliRunner()
    whole = ["--dataset", "cifar10", "--set", "spaces.options={channels=36, cells=20}", "--json"]
    result = runner.invoke(app, ["cost", DARTS_V2, "--space", "darts", *whole])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["encoder"]["params"] == 3349342 + (576 + 1) * (64 - 10) and "published_params" not in found
    result = runner.invoke(app, ["cost", DARTS_V2])
    assert result.exit_code == 2 and "give --space" in result.stderr
    result = runner.invoke(app, ["cost", DARTS_V2.replace("sep", "sap"), "--space", "darts"])
    assert result.exit_code == 2 and "unknown operation 'sap_conv_3x3'" in result.stderr
