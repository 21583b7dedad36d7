"""Exact costs of hand-made steps, and of the channel encoder."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kdnas.codec import CAT
from kdnas.codec.cat import ChannelEncoder
from kdnas.codec.steps import channel_encoder_steps
from kdnas.cost import COSTS, ON_ANY, costs_of, exact_costs, latency_cost, layer_table
from kdnas.device import list_devices, load_device
from kdnas.ops import ConvBN, Op, Step, conv_step, linear_step, pool_step


def test_costs_are_sums_and_the_memory_a_maximum() -> None:
    steps = [
        Step("a", params=1, macs=20, weights=3, channels=4, held_bytes=500, moved_bytes=6),
        Step("b", params=7, macs=80, weights=9, channels=1, held_bytes=400, moved_bytes=2),
    ]
    latency = latency_cost(lambda macs, moved, ops: macs / 10 + moved + 100 * ops)
    on_any = {"params": 8, "macs": 100, "flash_bytes": 12 + 8 * 5, "sram_bytes": 500}
    assert exact_costs(steps) == on_any
    assert exact_costs(steps, [*ON_ANY, latency]) == {**on_any, "latency_s": 10 + 8 + 200}


@pytest.mark.parametrize("name", list_devices())
def test_a_packaged_class_has_every_cost_and_its_radio_sends_for_energy_alone(name: str) -> None:
    device = load_device(name)
    assert device.energy is not None
    costs = costs_of(device)
    step, send = conv_step("a", 3, 8, 3, 28), Step("send", symbols=10, ops=0)
    one, both = exact_costs([step], costs), exact_costs([step, send], costs)
    assert tuple(one) == COSTS
    assert one["latency_s"] == device.latency_s(step.macs, step.moved_bytes, 1)
    cycles = step.macs * device.energy.clock_hz / device.hardware.macs_per_s
    assert one["energy_j"] == pytest.approx(cycles * device.energy.kappa * device.energy.clock_hz**2, rel=1e-12)
    sent_j = 10 / device.link.symbol_rate_hz * device.energy.tx_power_w
    assert both == {**one, "energy_j": pytest.approx(one["energy_j"] + sent_j, rel=1e-12)}
    assert [row["name"] for row in layer_table([step, send], costs)] == ["a", "send"]


def test_a_device_without_a_model_of_energy_has_no_such_cost() -> None:
    device = load_device("mcu").model_copy(update={"energy": None})
    assert "energy_j" not in exact_costs([Step("a", macs=5)], costs_of(device))


def test_a_step_that_is_left_out_costs_nothing() -> None:
    ran = [conv_step("a", 2, 3, 3, 8)]
    left = [*ran, Step("b", ops=0)]
    costs = [*ON_ANY, latency_cost(lambda macs, moved, ops: 1.0)]
    assert exact_costs(left, costs) == exact_costs(ran, costs)
    assert [row["name"] for row in layer_table(left)] == ["a"]


@pytest.mark.parametrize(("stride", "groups", "kernel", "size"), [(1, 1, 3, 7), (2, 1, 5, 7), (2, 4, 3, 8)])
def test_a_convolution_step_is_what_the_module_is(stride: int, groups: int, kernel: int, size: int) -> None:
    module = ConvBN(4, 8, kernel, stride, groups)
    with FlopCounterMode(display=False) as counter:
        out = module(torch.rand(1, 4, size, size))
    step = conv_step("c", 4, 8, kernel, size, stride=stride, groups=groups, held_bytes=5)
    assert step.params == sum(p.numel() for p in module.parameters())
    assert step.macs == counter.get_total_flops() / 2
    assert (step.weights, step.channels) == (module.conv.weight.numel(), 8)
    assert step.held_bytes == 4 * size**2 + out.numel() + 5
    assert step.moved_bytes == 4 * size**2 + out.numel() + step.weights


def test_linear_and_pooling_steps_by_hand() -> None:
    assert linear_step("l", 3, 5, rows=2, held_bytes=7) == Step(
        "l", params=20, macs=30, weights=15, channels=5, held_bytes=6 + 10 + 7, moved_bytes=6 + 10 + 15,
        op=Op("linear", 3, 5, size=2),
    )  # fmt: skip
    assert linear_step("l", 3, 5, bias=False).params == 15
    assert pool_step("p", 2, 4, 2, held_bytes=1) == Step(
        "p", held_bytes=32 + 8 + 1, moved_bytes=40, op=Op("pool", 2, 2, stride=2, size=4)
    )


def test_the_table_of_layers_adds_up_and_marks_the_peak() -> None:
    steps = [conv_step("a", 1, 4, 3, 8), conv_step("b", 4, 4, 1, 8), linear_step("c", 4, 2)]
    rows = layer_table(steps)
    total = exact_costs(steps)
    for cost in ("params", "macs", "flash_bytes"):
        assert sum(row[cost] for row in rows) == total[cost]
    assert [row["peak"] for row in rows] == [False, True, False]


@pytest.mark.parametrize(
    ("dim", "symbols", "sizes"),
    [
        (64, 64, {}),
        (16, 10, {"tokens": 4, "width": 12, "heads": 3, "depth": 2, "condition": 6, "expansion": 3}),
        (5, 3, {"tokens": 2, "width": 4, "depth": 1, "heads": 1}),
        (64, 64, {"classes": 10}),
    ],
)
def test_the_channel_encoder_costs_what_is_counted(dim: int, symbols: int, sizes: dict) -> None:
    encoder = CAT(dim, symbols, encoder=sizes).encoder
    config = encoder.config
    steps = channel_encoder_steps(config)
    costs = exact_costs(steps)
    assert costs["params"] == sum(p.numel() for p in encoder.parameters())
    with FlopCounterMode(display=False) as counter:
        encoder(torch.rand(1, dim), torch.zeros(1), torch.tensor([symbols]))
    counted = sum(flops for op, flops in counter.get_flop_counts()["Global"].items() if "mm" in str(op)) / 2
    # The counter does not see attention on a CPU: scores and mixture are T x T x W each, in every block.
    tokens, width, depth = config["tokens"], config["width"], config["depth"]
    by_hand = 2 * tokens**2 * width * depth
    assert costs["macs"] == counted + by_hand
    linear = [m for m in encoder.modules() if isinstance(m, torch.nn.Linear)]
    assert costs["flash_bytes"] == sum(m.weight.numel() + 8 * m.out_features for m in linear)
    assert costs["sram_bytes"] == peak_by_running(encoder)


def peak_by_running(encoder: ChannelEncoder) -> int:
    """Bytes at the worst moment: what a layer reads and writes, and what the stated rule holds beside it."""
    z, peaks = torch.rand(1, encoder.config["feature_dim"]), []
    held: list[torch.Tensor] = []
    decided: list[torch.Tensor] = []  # what the class and its share of the power are, until they are sent
    attention = torch.nn.functional.scaled_dot_product_attention

    def count(*tensors: torch.Tensor, extra: int = 0) -> None:
        alive = {t.data_ptr(): t.numel() for t in (*held, *decided, *tensors)}
        peaks.append(sum(alive.values()) + extra)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = attention(q, k, v)
        # The three are views of one tensor: count each whole, and one score per head and pair of tokens.
        peaks.append(4 * out.numel() + q.shape[1] * q.shape[2] ** 2 + sum(t.numel() for t in (*held, *decided)))
        return out

    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, args, out: count(args[0], out))
        if name.endswith("modulation"):
            module.register_forward_hook(lambda module, args, out: held.append(out))
    encoder.condition.register_forward_pre_hook(lambda module, args: held.append(z))
    if encoder.classifier is not None:
        encoder.classifier.register_forward_hook(lambda module, args, out: decided.append(out))
        encoder.share.layer.register_forward_hook(lambda module, args, out: decided.append(out))
        # The condition is needed no longer, the posterior is what the words are read by.
        encoder.gain.register_forward_hook(lambda module, args, out: held.__setitem__(slice(None), [out, out + 1]))
    # z has gone into the tokens once they are there; the condition stays until the gains.
    encoder.condition.register_forward_hook(lambda module, args, out: held.__setitem__(slice(None), [out]))
    for block in encoder.blocks:
        block.register_forward_pre_hook(lambda block, args: held.insert(0, args[0]))
        block.register_forward_hook(lambda block, args, out: held.__setitem__(slice(None), [args[1]]))
    # The symbols are what the gains are held beside.
    encoder.head.register_forward_hook(lambda module, args, out: held.__setitem__(slice(None), [out]))
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
        encoder(z, torch.zeros(1), torch.tensor([encoder.symbols]))
    return max(peaks)
