"""NAS-Bench-201: to the letter, with its notation and its published counts."""

import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from typer.testing import CliRunner

from kdnas.cli import app
from kdnas.data import list_datasets, load_dataset
from kdnas.errors import InputError
from kdnas.export import encoder_source
from kdnas.ops.nas_bench_201 import EDGES, OPERATIONS, BenchCell, BenchOperation, BenchReduction
from kdnas.pipeline import api
from kdnas.space import make_space
from search_spaces.nas_bench_201 import from_string, published_costs, to_string

README = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
FIRST = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
ISSUE = "|skip_connect~0|+|none~0|nor_conv_3x3~1|+|avg_pool_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"

# String, classes, "Params" and "FLOP" in 10^6 with the digits that the source prints.
PUBLISHED = [
    # Architecture 0: D-X-Y/NATS-Bench issue 24, and the table entry in automl/NASLib's tests of this space.
    (FIRST, 10, "0.129306", "15.64737"),
    (FIRST, 100, None, "15.65322"),
    # Architecture 1, the README's example: D-X-Y/NATS-Bench issue 18 (output of query_info_str_by_arch).
    (README, 10, "0.802", "113.95"),
    (README, 100, "0.808", "113.96"),
    # D-X-Y/NATS-Bench issue 36 (output of get_cost_info with hp="12").
    (ISSUE, 10, "0.802426", "113.95137"),
    # Architecture 9930, the best on CIFAR-10 by test accuracy: a printed api.show in public code.
    (BEST, 10, "1.289", "184.73"),
    (BEST, 100, "1.294", "184.74"),
    # D-X-Y/AutoDL-Projects issue 134 (output of the API, NAS-Bench-201-v1_1).
    ("|skip_connect~0|+|avg_pool_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|avg_pool_3x3~1|none~2|", 10, "0.56", None),
]


def test_one_cell_of_six_edges_gives_15625_networks() -> None:
    domains = make_space("nas_bench_201").domains()
    assert set(domains) == {f"edge_{edge}" for edge in EDGES} and len(EDGES) == 6
    assert all(values == OPERATIONS for values in domains.values()) and len(OPERATIONS) ** len(EDGES) == 15625


@pytest.mark.parametrize(("text", "classes", "params", "flops"), PUBLISHED)
def test_costs_are_the_published_ones(text: str, classes: int, params: str | None, flops: str | None) -> None:
    costs = published_costs(from_string(text), classes)
    for ours, theirs in ((costs["published_params"], params), (costs["published_macs"], flops)):
        if theirs is not None:
            assert f"{ours / 1e6:.{len(theirs.partition('.')[2])}f}" == theirs


def test_the_published_network_is_ours_with_its_classifier() -> None:
    space = make_space("nas_bench_201", in_channels=3, image_size=32, feature_dim=10, channels=16, cells=5)
    network = space.network(space.parse(BEST)).eval()
    assert sum(p.numel() for p in network.parameters()) == published_costs(from_string(BEST))["published_params"]
    shapes: list[tuple] = []
    for block in [network.stem, *network.blocks]:
        block.register_forward_hook(lambda block, args, out: shapes.append((type(block).__name__, *out.shape[1:])))
    network(torch.rand(1, 3, 32, 32))
    assert shapes == [
        ("ConvBN", 16, 32, 32),
        *[("BenchCell", 16, 32, 32)] * 5, ("BenchReduction", 32, 16, 16),
        *[("BenchCell", 32, 16, 16)] * 5, ("BenchReduction", 64, 8, 8),
        *[("BenchCell", 64, 8, 8)] * 5,
    ]  # fmt: skip


def test_stem_and_end_by_hand(float64: None) -> None:
    space = make_space("nas_bench_201", in_channels=3, channels=4, cells=1)
    network = space.network(dict.fromkeys(space.domains(), "skip_connect")).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    images = torch.rand(2, 3, 32, 32)
    x = network.stem.bn(F.conv2d(images * 4 - 2, network.stem.conv.weight, padding=1))  # no ReLU
    # A cell of shortcuts gives four times its input: one, one and two of its nodes.
    x = network.blocks[3](4 * network.blocks[1](4 * x))
    expected = network.head(F.relu(network.norm(4 * x)).mean((2, 3)))
    torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("kind", ["nor_conv_1x1", "nor_conv_3x3"])
def test_a_convolution_is_relu_convolution_norm(kind: str, float64: None) -> None:
    operation, x = BenchOperation(kind, 4), torch.randn(2, 4, 7, 7)
    block = operation.layers[1]
    expected = block.bn(F.conv2d(F.relu(x), block.conv.weight, padding=int(kind[-1]) // 2))
    assert torch.equal(operation(x), expected) and (expected < 0).any()
    assert block.conv.weight.shape[2:] == (int(kind[-1]),) * 2 and block.conv.bias is None


def test_the_pooling_leaves_the_padding_out() -> None:
    assert torch.equal(BenchOperation("avg_pool_3x3", 2)(torch.ones(1, 2, 4, 4)), torch.ones(1, 2, 4, 4))


@pytest.mark.parametrize("size", [7, 8])
def test_a_residual_block_by_hand(size: int, float64: None) -> None:
    block, x = BenchReduction(3, 6).eval(), torch.randn(2, 3, size, size)
    y = F.relu(block.first.bn(F.conv2d(F.relu(x), block.first.conv.weight, stride=2, padding=1)))
    y = block.second.bn(F.conv2d(y, block.second.conv.weight, padding=1))
    shortcut = F.conv2d(F.avg_pool2d(x, 2, ceil_mode=True), block.shortcut[1].weight)
    torch.testing.assert_close(block(x), shortcut + y)
    assert block(x).shape == (2, 6, -(-size // 2), -(-size // 2))


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_a_node_sums_all_that_come_before_it(float64: None) -> None:
    factors = {"0_1": 2.0, "0_2": 3.0, "1_2": 5.0, "0_3": 7.0, "1_3": 11.0, "2_3": 13.0}
    x = torch.rand(1, 2, 3, 3)
    every = BenchCell(nn.ModuleDict({edge: Times(factor) for edge, factor in factors.items()}))
    torch.testing.assert_close(every(x), (7 + 11 * 2 + 13 * (3 + 5 * 2)) * x)
    for edge in factors:
        rest = {other: factor * (other != edge) for other, factor in factors.items()}
        some = BenchCell(nn.ModuleDict({other: Times(factor) for other, factor in factors.items() if other != edge}))
        a, b, c, d, e, f = rest.values()
        torch.testing.assert_close(some(x), (d + e * a + f * (b + c * a)) * x)


def test_the_exported_source_is_the_network() -> None:
    space = make_space("nas_bench_201", in_channels=3, channels=4)
    network = space.network(space.random(torch.Generator().manual_seed(1))).eval()
    namespace: dict = {"__name__": "encoder"}
    exec(encoder_source(network), namespace)
    copy = namespace["build"]()
    copy.load_state_dict(network.state_dict())
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(copy.eval()(images), network(images))


def test_none_everywhere_still_gives_features() -> None:
    space = make_space("nas_bench_201")
    network = space.network(dict.fromkeys(space.domains(), "none"))
    features = network.eval()(torch.rand(2, 1, 28, 28))
    assert features.shape == (2, 64) and len(list(network.blocks[0].parameters())) == 0
    cell = BenchCell(nn.ModuleDict())
    assert not cell(torch.rand(1, 2, 5, 5)).any()


@pytest.mark.parametrize(("size", "side"), [(28, 28), (32, 32), (64, 64), (65, 33), (128, 64), (129, 33), (224, 56)])
def test_only_larger_images_have_a_stem_with_a_stride(size: int, side: int) -> None:
    space = make_space("nas_bench_201", image_size=size, channels=2)
    network = space.network(dict.fromkeys(space.domains(), "none"))
    assert network.stem(torch.rand(1, 1, size, size)).shape == (1, 2, side, side)
    assert (network.stem.conv.kernel_size == (3, 3)) == (size <= 128)


@given(st.lists(st.sampled_from(OPERATIONS), min_size=6, max_size=6))
def test_the_notation_holds_every_cell(kinds: list[str]) -> None:
    choices = {f"edge_{edge}": kind for edge, kind in zip(EDGES, kinds, strict=True)}
    text = to_string(choices)
    assert from_string(text) == choices and from_string(f" {text}\n") == choices


def test_the_notation_by_hand() -> None:
    choices = from_string(README)
    assert choices == {
        "edge_0_1": "nor_conv_3x3", "edge_0_2": "nor_conv_3x3", "edge_1_2": "avg_pool_3x3",
        "edge_0_3": "skip_connect", "edge_1_3": "nor_conv_3x3", "edge_2_3": "skip_connect",
    }  # fmt: skip
    assert to_string(choices) == README
    assert list(make_space("nas_bench_201").parse(README)) == list(make_space("nas_bench_201").domains())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("", "has 3 nodes"),
        ("|none~0|+|none~0|none~1|", "has 3 nodes.* has 2"),
        (BEST + "+|none~0|", "has 3 nodes.* has 4"),
        (BEST.replace("|+|", "+", 1), "node 1 .* stands between bars"),
        (BEST.replace("nor_conv_3x3~1|+", "+"), "node 2 .* has 2 edges: .* has 1|stands between bars"),
        (BEST.replace("|nor_conv_3x3~1|+", "|+"), "node 2 .* has 2 edges: .* has 1"),
        (BEST.replace("skip_connect~0", "skip_connect~1"), "'skip_connect~1' of node 3 must come from node 0"),
        (BEST.replace("skip_connect~0", "skip_connect"), "'skip_connect' of node 3 must come from node 0"),
        (BEST.replace("skip_connect", "skip"), "unknown operation 'skip'.* nor_conv_1x1"),
        (BEST.replace("skip_connect", "max_pool_3x3"), "unknown operation 'max_pool_3x3'"),
    ],
)
def test_what_is_wrong_with_a_text_is_named(wrong: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        from_string(wrong)
    assert "\n" not in str(caught.value)


@given(st.text("|+~01 noeskip", max_size=40))
def test_any_other_text_is_refused(text: str) -> None:
    try:
        choices = from_string(text)
    except InputError:
        return
    assert to_string(choices) == text.strip()


def cost(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["cost", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_line_costs_a_string_and_says_what_the_benchmark_lists() -> None:
    code, out, _ = cost(BEST, "--space", "nas_bench_201", "--dataset", "cifar10", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["published_params"], found["published_macs"]) == (1288506, 184730250)
    # Ours has a head to 64 features in place of the classifier of 10, and does not count biases as multiplications.
    assert found["encoder"]["params"] == 1288506 + 65 * (64 - 10)
    assert found["encoder"]["macs"] == 184730250 - 10 + 64 * (64 - 10)
    code, out, _ = cost(BEST, "--space", "nas_bench_201", "--dataset", "cifar10")
    assert code == 0 and "1,288,506 parameters, 184,730,250 multiply-accumulates" in out
    assert "is held by stage0.cell0.edge_0_1.conv, " in out and "edge_1_3.conv and 21 more" in out
    grey = json.loads(cost(BEST, "--space", "nas_bench_201", "--json")[1])  # fashion-mini: 28 pixels, grey
    assert grey["published_macs"] == 184730250 and grey["encoder"]["macs"] < found["encoder"]["macs"]


def test_costing_a_string_reads_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("data were read")

    for place in ("kdnas.data.load.load_dataset", "kdnas.data.load_dataset", "kdnas.data.cifar.fetch"):
        monkeypatch.setattr(place, never)
    code, out, _ = cost(BEST, "--space", "nas_bench_201", "--dataset", "cifar100", "--json")
    assert code == 0 and json.loads(out)["published_params"] == 1288506


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((BEST,), "neither the directory of a run nor a published architecture"),
        ((BEST * 9,), "give --space"),
        ((BEST, "--space", "mobile"), "'mobile' has no notation"),
        (("best", "--space", "nas_bench_201"), "3 nodes"),
        ((BEST, "--space", "nas_bench_201", "--dataset", "folder:x"), "'folder:x'.* data.image_size"),
        ((BEST, "--space", "maze"), "unknown search space 'maze'"),
    ],
)
def test_the_command_line_says_what_is_wrong_in_one_line(arguments: tuple, words: str) -> None:
    code, _, err = cost(*arguments)
    assert code == 2 and len(err.splitlines()) == 1
    with pytest.raises(InputError, match=words):
        raise InputError(err)


def test_images_of_a_folder_can_be_told() -> None:
    told = ("--set", "data.channels=3", "--set", "data.image_size=32")
    code, out, _ = cost(BEST, "--space", "nas_bench_201", "--dataset", "folder:x", *told, "--json")
    assert code == 0
    assert (
        json.loads(out)["encoder"]
        == json.loads(cost(BEST, "--space", "nas_bench_201", "--dataset", "cifar10", "--json")[1])["encoder"]
    )


def test_the_images_of_every_named_data_set_are_known() -> None:
    assert {*api._IMAGES, "folder:PATH"} == set(list_datasets())
    channels, size, _ = load_dataset("fashion-mini").image_shape
    assert api._IMAGES["fashion-mini"] == (channels, size)
