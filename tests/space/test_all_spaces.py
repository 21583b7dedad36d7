"""What every installed search space must do; a new one is tested by being installed."""

import json

import pytest
import torch
from supernets import Supernet
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from kdnas.cost import CostTables
from kdnas.errors import InputError
from kdnas.ops import InvertedResidual
from kdnas.ops.attention import PatchEmbedding, TransformerBlock
from kdnas.ops.cells import Cell
from kdnas.ops.darts import DartsCell, FactorizedReduce
from kdnas.ops.nas_bench_201 import BenchCell, BenchReduction
from kdnas.run.training import channels_last
from kdnas.space import SearchSpace, list_spaces, make_space

SPACES = list_spaces()
INPUTS = [(1, 28), (3, 28), (3, 64)]


def draws(space: SearchSpace, count: int, seed: int = 0) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    return [space.random(generator) for _ in range(count)]


def test_the_built_in_spaces_are_installed() -> None:
    assert {"mobile", "cell", "vit", "nas_bench_201", "darts"} <= set(SPACES)


def test_an_unknown_space_and_an_unknown_option_are_named() -> None:
    with pytest.raises(InputError, match=r"unknown search space 'cel'; installed: .*cell"):
        make_space("cel")
    with pytest.raises(InputError, match="no option 'widht'; it takes in_channels"):
        make_space("mobile", widht=2)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("wrong", [{"in_channels": 2}, {"image_size": 27}, {"image_size": 225}, {"feature_dim": 0}])
def test_options_out_of_range_are_refused(name: str, wrong: dict) -> None:
    with pytest.raises(InputError, match=f"space '{name}' takes .*in_channels 1 or 3, image_size 28 to 224"):
        make_space(name, **wrong)


@pytest.mark.parametrize("name", SPACES)
def test_options_are_kept_and_rebuild_the_space(name: str) -> None:
    space = make_space(name, in_channels=3, image_size=40, feature_dim=17)
    assert space.options | {"in_channels": 3, "image_size": 40, "feature_dim": 17} == space.options
    again = make_space(name, **json.loads(json.dumps(space.options)))
    assert again.options == space.options
    assert again.domains() == space.domains()


@pytest.mark.parametrize("name", SPACES)
def test_choices_are_json_and_drawn_from_the_seed(name: str) -> None:
    space = make_space(name)
    seen: dict[str, set] = {label: set() for label in space.domains()}
    for choices in draws(space, 60):
        again = json.loads(json.dumps(choices))
        assert space.check(again) == choices
        assert list(space.check(dict(reversed(again.items())))) == list(space.domains())
        for label, value in choices.items():
            seen[label].add(value)
    assert {label: set(values) for label, values in space.domains().items()} == seen
    assert draws(space, 3, seed=1) == draws(make_space(name), 3, seed=1) != draws(space, 3, seed=2)


@pytest.mark.parametrize("name", SPACES)
def test_wrong_choices_are_named(name: str) -> None:
    space = make_space(name)
    (choices,) = draws(space, 1)
    label = next(iter(choices))
    with pytest.raises(InputError, match="no choice 'other'"):
        space.check({**choices, "other": 1})
    with pytest.raises(InputError, match=f"lacks the choice '{label}'"):
        space.check({key: value for key, value in choices.items() if key != label})
    with pytest.raises(InputError, match=f"choice '{label}' is 'wrong'; space '{name}' offers"):
        space.check({**choices, label: "wrong"})


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize(("channels", "size"), [*INPUTS, (1, 45), (3, 224)])
def test_networks_map_images_to_features_and_cost_what_is_said(name: str, channels: int, size: int) -> None:
    space = make_space(name, in_channels=channels, image_size=size, feature_dim=24)
    tables = CostTables(space.units(), space.domains())
    for choices in draws(space, 2):
        with torch.device("meta"):
            network = space.network(choices)
            with FlopCounterMode(display=False) as counter:
                features = network(torch.rand(1, channels, size, size))
        assert features.shape == (1, 24)
        costs = tables.exact(choices)
        assert costs["params"] == sum(p.numel() for p in network.parameters())
        assert costs["macs"] == counter.get_total_flops() / 2
        # Flash: a byte per weight of a convolution or linear layer, and 8 for each of their output channels; a byte
        # per entry of a position embedding.
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        positions = sum(m.position.numel() for m in network.modules() if isinstance(m, PatchEmbedding))
        assert costs["flash_bytes"] == positions + sum(m.weight.numel() + 8 * m.weight.shape[0] for m in layers)
        assert all(isinstance(value, int) for value in costs.values())


@pytest.mark.parametrize("name", SPACES)
def test_the_network_is_rebuilt_from_its_config(name: str) -> None:
    space = make_space(name)
    for choices in draws(space, 3):
        network = space.network(choices)
        again = type(network)(**json.loads(json.dumps(network.config)))
        assert {k: v.shape for k, v in again.state_dict().items()} == {
            k: v.shape for k, v in network.state_dict().items()
        }
        again.load_state_dict(network.state_dict())
        images = torch.rand(2, 1, 28, 28)
        assert torch.equal(again.eval()(images), network.eval()(images))


class _ActivationBytes(TorchDispatchMode):
    """Runs a network and counts int8 bytes: at every convolution, pooling, linear layer and product of attention,
    what it reads (of a product: the left factor) and writes and what containers hold meanwhile, each tensor once."""

    OPERATIONS = ("convolution", "max_pool2d_with_indices", "avg_pool2d", "mean", "addmm", "bmm")

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Tensor] = []
        self.arena: list[Tensor] = []  # inside the buffer of a cell's nodes
        self.buffer = 0
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        operation = func.overloadpacket._qualified_op_name.removeprefix("aten::")
        if operation in self.OPERATIONS:
            read = args[1] if operation == "addmm" else args[0]
            written = result[0] if isinstance(result, tuple) else result
            inside = {tensor.data_ptr() for tensor in self.arena}
            alive = {t.data_ptr(): t.numel() for t in [*self.held, read, written] if t.data_ptr() not in inside}
            self.peak = max(self.peak, sum(alive.values()) + self.buffer)
        return result


def watch_bench(network: nn.Module, count: _ActivationBytes) -> None:
    """The stated rules of NAS-Bench-201's containers: its cells and the residual blocks between stages."""

    def hold(module: nn.Module, args: tuple) -> None:
        count.held[:], count.buffer = [args[0]], 3 * args[0].numel() if isinstance(module, BenchCell) else 0

    def edge(module: nn.Module, args: tuple) -> None:
        count.arena[:] = [] if args[0].data_ptr() == count.held[0].data_ptr() else [args[0]]

    def shortcut_done(module: nn.Module, args: tuple, out: Tensor) -> None:
        count.held[:] = [out]

    def leave(module: nn.Module, args: tuple, out: Tensor) -> None:
        count.held[:], count.arena[:], count.buffer = [], [], 0

    for module in network.modules():
        if isinstance(module, BenchCell | BenchReduction):
            module.register_forward_pre_hook(hold)
            module.register_forward_hook(leave)
        if isinstance(module, BenchCell):
            for operation in module.edges.values():
                operation.register_forward_pre_hook(edge)
        if isinstance(module, BenchReduction):
            module.shortcut.register_forward_hook(shortcut_done)


def peak_by_running(network: nn.Module, images: Tensor) -> int:
    """Peak activation bytes by the stated rules of the containers: residual blocks, transformer blocks and cells."""
    count = _ActivationBytes()
    cells = [m for m in network.modules() if isinstance(m, Cell | DartsCell)]
    sizes: dict[nn.Module, int] = {}
    for cell in cells:
        cell.register_forward_hook(lambda cell, args, out: sizes.update({cell: out.numel()}))
    with torch.no_grad():
        network.eval()(images)  # a first run, for the sizes of the cells' node buffers

    for block in (m for m in network.modules() if isinstance(m, InvertedResidual) and m.residual):
        block.register_forward_pre_hook(lambda block, args: count.held.append(args[0]))
        block.register_forward_hook(lambda block, args, out: count.held.clear())

    for block in (m for m in network.modules() if isinstance(m, TransformerBlock)):
        block.register_forward_pre_hook(lambda block, args: count.held.append(args[0]))
        block.qkv.register_forward_hook(lambda module, args, out: count.held.append(out))
        block.out.register_forward_pre_hook(lambda module, args: count.held.__delitem__(-1))
        block.norm2.register_forward_pre_hook(lambda module, args: count.held.__setitem__(0, args[0]))
        block.register_forward_hook(lambda block, args, out: count.held.clear())

    for reduce in (m for m in network.modules() if isinstance(m, FactorizedReduce)):
        # Its second half is written beside the first.
        reduce.convs[0].register_forward_hook(lambda module, args, out: count.held.append(out))
        reduce.register_forward_hook(lambda module, args, out: count.held.__delitem__(-1))

    for cell in cells:

        def enter(cell: nn.Module, args: tuple) -> None:
            # The previous cell's output, while the first input is prepared; of the first cell's stem a copy is read.
            count.held[:] = [] if isinstance(cell, DartsCell) and args[0] is args[1] else [args[1]]

        def first_done(module: nn.Module, args: tuple, out: Tensor) -> None:
            count.held[:] = [out]

        def second_done(module: nn.Module, args: tuple, out: Tensor, cell: nn.Module = cell) -> None:
            count.held.append(out)
            if cell is not cells[-1]:
                count.held.append(args[0])
            count.buffer = sizes[cell]

        def edge(module: nn.Module, args: tuple) -> None:
            states = {tensor.data_ptr() for tensor in count.held[:2]}
            count.arena[:] = [] if args[0].data_ptr() in states else [args[0]]

        def leave(cell: nn.Module, args: tuple, out: Tensor) -> None:
            count.held[:], count.arena[:], count.buffer = [], [], 0

        cell.register_forward_pre_hook(enter)
        cell.first.register_forward_hook(first_done)
        cell.second.register_forward_hook(second_done)
        for operation in cell.edges.values():
            operation.register_forward_pre_hook(edge)
        cell.register_forward_hook(leave)

    watch_bench(network, count)
    with torch.no_grad(), count:
        network(images)
    return count.peak


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize(("channels", "size"), INPUTS)
def test_peak_memory_is_what_a_run_with_hooks_counts(name: str, channels: int, size: int) -> None:
    space = make_space(name, in_channels=channels, image_size=size)
    tables = CostTables(space.units(), space.domains())
    images = torch.rand(1, channels, size, size)
    found = set()
    for choices in draws(space, 12, seed=3):
        expected = peak_by_running(space.network(choices), images)
        assert tables.exact(choices)["sram_bytes"] == expected
        found.add(expected)
    for index in (0, -1):  # the first and the last value of every choice
        choices = {label: values[index] for label, values in space.domains().items()}
        expected = peak_by_running(space.network(choices), images)
        assert tables.exact(choices)["sram_bytes"] == expected
        found.add(expected)
    assert len(found) > 1


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("training", [True, False])
def test_a_one_hot_supernet_is_the_frozen_network_to_the_bit(name: str, training: bool, float64: None) -> None:
    net = Supernet(name, in_channels=3)
    images = torch.rand(4, 3, 28, 28)
    with torch.no_grad():
        net.space.train()(images)  # batch-norm statistics that are not the first ones
        for choices in draws(net.space, 4, seed=5):
            net.choose(choices)
            network = net.space.inherit(choices, net.space)
            got = net.space.train(training)(images)
            assert got.dtype == torch.float64
            assert torch.equal(got, network.train(training)(images))


@pytest.mark.parametrize("name", SPACES)
def test_a_one_hot_supernet_is_the_frozen_network_in_channels_last_too(name: str, float64: None) -> None:
    net = Supernet(name, in_channels=3)
    images = torch.rand(4, 3, 28, 28).contiguous(memory_format=torch.channels_last)
    (choices,) = draws(net.space, 1, seed=6)
    net.choose(choices)
    network = channels_last(net.space.inherit(choices, net.space))
    channels_last(net.space)
    with torch.no_grad():
        torch.testing.assert_close(net.space(images), network(images), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SPACES)
def test_inherited_and_frozen_weights_are_copies(name: str) -> None:
    net = Supernet(name)
    (choices,) = draws(net.space, 1)
    inherited, frozen = net.space.inherit(choices, net.space).eval(), net.space.freeze(choices).eval()
    images = torch.rand(2, 1, 28, 28)
    features = inherited(images)
    assert torch.equal(features, frozen(images))
    own = {p.data_ptr() for p in net.space.state_dict().values()}
    for network in (inherited, frozen):
        assert not own & {value.data_ptr() for value in network.state_dict().values()}
    # NNI's model of these choices, freshly made, is the same network with other weights.
    fresh = net.space.frozen(choices)
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {k: v.shape for k, v in frozen.state_dict().items()}


@pytest.mark.parametrize("name", SPACES)
def test_alpha_gradients_match_finite_differences(name: str, float64: None) -> None:
    net = Supernet(name, seed=1)
    net.space.train()
    images, target = torch.rand(3, 1, 28, 28), torch.randn(3, 64)

    def loss() -> Tensor:
        return (net.space(images) * target).sum()

    gradients = torch.autograd.grad(loss(), list(net.alphas.values()))
    assert all(g.abs().max() > 0 for g in gradients)
    step = 1e-6
    for alpha, gradient in list(zip(net.alphas.values(), gradients, strict=True))[::5]:
        with torch.no_grad():
            alpha[0] += step
            above = loss()
            alpha[0] -= 2 * step
            below = loss()
            alpha[0] += step
        assert float((above - below) / (2 * step)) == pytest.approx(float(gradient[0]), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", SPACES)
def test_alpha_gradients_do_not_depend_on_weight_gradients(name: str, float64: None) -> None:
    net = Supernet(name, seed=2)
    images, target = torch.rand(3, 1, 28, 28), torch.randn(3, 64)
    alphas = list(net.alphas.values())
    both = torch.autograd.grad((net.space(images) * target).sum(), [*alphas, *net.weights()])
    for weight in net.weights():
        weight.requires_grad_(False)
    alone = torch.autograd.grad((net.space(images) * target).sum(), alphas)
    assert all(torch.equal(a, b) for a, b in zip(alone, both, strict=False))
    for weight in net.weights():
        weight.requires_grad_(True)
    for alpha in alphas:
        alpha.requires_grad_(False)
    alone = torch.autograd.grad((net.space(images) * target).sum(), net.weights())
    assert all(torch.equal(a, b) for a, b in zip(alone, both[len(alphas) :], strict=True))
