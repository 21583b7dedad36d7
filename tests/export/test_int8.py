from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from link_samples import META
from torch import Tensor

from kdnas.codec import channel_encoder_steps
from kdnas.cost import exact_costs
from kdnas.errors import InputError
from kdnas.export.halves import onnx_session, run_onnx
from kdnas.export.int8 import int8_flash_bytes, int8_link, int8_operations, quantised
from kdnas.link import Link
from kdnas.space import Architecture

K = 12


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def both(saved: tuple[Path, Link, Architecture], exported: Path) -> tuple[Link, bytes, bytes]:
    """A link, its transmitter's file, and the same in int8."""
    model = (exported / "transmitter.onnx").read_bytes()
    return saved[1], model, quantised(model, images(128), snr_db=(-5.0, 20.0), symbols=K)


def test_all_weights_of_products_are_int8_with_a_scale_for_each_channel(both: tuple[Link, bytes, bytes]) -> None:
    graph = onnx.load_from_string(both[2]).graph
    values = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    weighted = 0
    for node in products:
        assert [made[name].op_type for name in node.input] == ["DequantizeLinear"] * len(node.input)
        weight = made[node.input[1]]
        if weight.input[0] in values:  # the two products of attention have no weights
            weighted += 1
            stored, scale = values[weight.input[0]], values[weight.input[1]]
            channel = 0 if node.op_type == "Conv" else next(a.i for a in weight.attribute if a.name == "axis")
            assert stored.dtype == np.int8 and scale.shape == (stored.shape[channel],)
            assert not values[weight.input[2]].any()  # symmetric
    assert weighted == len(products) - 2
    floats = sum(value.size for value in values.values() if value.dtype == np.float32 and value.ndim >= 2)
    assert floats == 0 and len(both[2]) < len(both[1])


def test_the_file_holds_as_many_bytes_as_the_budget_counts(
    both: tuple[Link, bytes, bytes], saved: tuple[Path, Link, Architecture]
) -> None:
    link, architecture = both[0], saved[2]
    space = architecture.make_space()
    steps = [step for unit in space.units() for step in unit.steps(space.check(architecture.choices))]
    counted = exact_costs([*steps, *channel_encoder_steps(link.channel_encoder.config)])["flash_bytes"]
    kept = int8_flash_bytes(both[2])
    assert 0.97 * counted < kept <= counted
    weights = sum(p.numel() for p in link.encoder.parameters()) + sum(
        p.numel() for p in link.channel_encoder.parameters()
    )
    assert kept > 0.95 * weights


def test_what_is_counted_as_int8_is_all_but_the_ends(both: tuple[Link, bytes, bytes]) -> None:
    integer, other = int8_operations(both[2])
    before = Counter(node.op_type for node in onnx.load_from_string(both[1]).graph.node)
    for kind in ("Conv", "Gemm", "MatMul", "Softmax", "LayerNormalization", "Gelu"):
        assert integer[kind] == before[kind] > 0 and other[kind] == 0
    for kind in ("Sqrt", "Log", "Pow"):  # lengths and SNRs, the class's share of the power, its normalisation
        assert integer[kind] == 0 and other[kind] == before[kind]
    assert other["Sqrt"] > 0 and other["Log"] > 0
    float_integer, float_other = int8_operations(both[1])
    assert not float_integer and float_other == before


def test_the_symbols_are_near_those_of_the_float_transmitter_and_of_power_1(both: tuple[Link, bytes, bytes]) -> None:
    link, model, small = both
    pixels = images(64, seed=1)
    for length in (1, 5, K):
        arguments = {"images": pixels, "snr_db": torch.linspace(-5, 20, 64), "length": torch.full((64,), length)}
        exact, found = (run_onnx(onnx_session(data), arguments) for data in (model, small))
        power = found.square().sum((1, 2)) / length
        torch.testing.assert_close(power, torch.ones(64), rtol=1e-3, atol=1e-3)
        assert (found[:, length:] == 0).all()
        error = (found - exact).square().sum((1, 2)) / length
        assert 0 < error.mean() < 0.05  # noise 13 dB below the symbols, with random weights
    assert link.symbols == K


def test_quantising_is_a_function_of_images_and_seed(both: tuple[Link, bytes, bytes]) -> None:
    again = quantised(both[1], images(128), snr_db=(-5.0, 20.0), symbols=K)
    assert again == both[2]
    about = {entry.key: entry.value for entry in onnx.load_from_string(again).metadata_props}
    assert about["device"] == META["device"] and "onnx.infer" not in about
    assert quantised(both[1], images(45, seed=1), snr_db=(-5.0, 20.0), symbols=K) != again  # and no whole batches
    with pytest.raises(InputError, match="training images"):
        quantised(both[1], images(0), snr_db=(-5.0, 20.0), symbols=K)


def test_a_link_with_an_onnx_transmitter_is_the_link(both: tuple[Link, bytes, bytes]) -> None:
    link, model, _ = both
    same = int8_link(link, model)
    floats = images(7).float() / 255
    with torch.no_grad():
        for length in (1, 4, None):
            sent = same.encode(floats, 3.0, length)
            torch.testing.assert_close(sent, link.encode(floats, 3.0, length), rtol=1e-4, atol=1e-4)
            assert torch.equal(same.decode(sent, 3.0), link.decode(sent, 3.0))
    assert same.symbols == K and not same.training and not same.transmitter_csi
    link.channel_encoder.told = "effective"
    assert int8_link(link, model).transmitter_csi
    link.channel_encoder.told = "average"
