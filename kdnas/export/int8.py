"""The transmitter in int8: post-training static quantisation by ONNX Runtime, calibrated on training images.

``transmitter.int8.onnx`` has the inputs and the output of ``transmitter.onnx``. Weights are int8 with a scale for each
output channel, biases int32, activations int8 with a scale and a zero point for each tensor, all written as pairs of
QuantizeLinear and DequantizeLinear (QDQ) around float operations: a runtime for integers fuses each with its pairs.

Every convolution and matrix product is in int8, and so is whatever stands between two of them: sums, products, ReLU,
pooling, softmax, layer norm, sigmoid, GELU (the last two are tables of 256 entries there). Float remain what leads to
the first product (the scaling of pixels, which a runtime folds into the first QuantizeLinear; four numbers that say SNR
and length) and what follows the last one: a gain for each symbol, the class's share of the power and its
normalisation, a few operations on each of k symbols, which the radio wants as real numbers. A microcontroller therefore
needs a floating-point unit or a fixed-point routine for some 10 k operations an image, and integers for all else.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdnas.errors import InputError
from kdnas.export.halves import hushed, need_onnx, onnx_session, run_onnx
from kdnas.link import Link, draw_conditions

# Most images of a calibration, and most pixels unless these are too few images: ONNX Runtime holds every activation.
CALIBRATION_IMAGES, CALIBRATION_PIXELS = 512, 2**19
# Of an activation's values in the calibration, the share whose range its scale covers: agreement with the float
# transmitter on unlabelled training images is 99.4 % with it and 99.1 % with the whole range.
PERCENTILE = 99.99
_PRODUCTS = ("Conv", "Gemm", "MatMul")
_BATCH = 32


def quantised(model: bytes, images: Tensor, *, snr_db: tuple[float, float], symbols: int, seed: int = 0) -> bytes:
    """A transmitter with int8 weights and activations.

    Args:
        model: The bytes of ``transmitter.onnx``.
        images: (N, C, H, W) uint8 training images; at most ``CALIBRATION_IMAGES`` of them, drawn, are used.
        snr_db: Lowest and highest SNR in dB of the calibration.
        symbols: k.
        seed: Of the images, SNRs and lengths of the calibration.

    Returns:
        The bytes of ``transmitter.int8.onnx``.

    Raises:
        InputError: The extra ``export`` is not installed, or there are no images.
    """
    need_onnx()
    if not len(images):
        raise InputError("quantisation needs training images to calibrate with: there are none")
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as directory, hushed():
        prepared, made = Path(directory) / "prepared.onnx", Path(directory) / "int8.onnx"
        original = onnx.load_from_string(model)
        quant_pre_process(original, prepared)
        graph = onnx.load(prepared).graph
        quantize_static(
            prepared, made, _Calibration(images, snr_db, symbols, seed), quant_format=QuantFormat.QDQ,
            per_channel=True, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile, nodes_to_exclude=outside_products(graph),
            extra_options={"CalibPercentile": PERCENTILE},
        )  # fmt: skip
        result = onnx.load(made)
    result.producer_name, result.producer_version, result.doc_string = "kdnas", "", ""
    del result.metadata_props[:]
    result.metadata_props.extend(original.metadata_props)
    return result.SerializeToString(deterministic=True)


def int8_operations(model: bytes) -> tuple[Counter[str], Counter[str]]:
    """How many operations of each type compute with int8 numbers, and how many do not.

    An operation is in int8 where it reads from a DequantizeLinear and its output goes into a QuantizeLinear alone: an
    integer runtime fuses it with these. A ReLU after a convolution is part of that QuantizeLinear and not there.
    """
    import onnx

    graph = onnx.load_from_string(model).graph
    made = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    integer, other = Counter[str](), Counter[str]()
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        from_int8 = any(name in made and made[name].op_type == "DequantizeLinear" for name in node.input)
        to_int8 = all(reader.op_type == "QuantizeLinear" for name in node.output for reader in readers.get(name, []))
        (integer if from_int8 and to_int8 else other)[node.op_type] += 1
    return integer, other


def int8_flash_bytes(model: bytes) -> int:
    """Bytes of what a device must keep of a quantised transmitter, beside the code: what ``flash_bytes`` foretells.

    Counted in the file: int8 weights with a float32 scale for each output channel, int32 biases, float constants. Not
    counted is what follows from these or is of no size: zero points (0 for weights and biases), the scales of biases
    (those of weights times the input's), scales of activations, shapes, and the graph's names.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(model).graph
    arrays = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    total, told = 0, set[str]()
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            told.update(node.input[1:])
            stored = arrays.get(node.input[0])
            if stored is not None:
                told.add(node.input[0])
                total += stored.nbytes + (arrays[node.input[1]].nbytes if stored.dtype == "int8" else 0)
    return total + sum(a.nbytes for name, a in arrays.items() if a.dtype == "float32" and name not in told)


class Int8Transmitter(nn.Module):
    """A transmitter's ONNX file in place of a channel encoder; it takes the images themselves as features."""

    def __init__(self, model: bytes, symbols: int, threads: int = 1, told: str = "average") -> None:
        super().__init__()
        self.session, self.symbols, self.told = onnx_session(model, threads), symbols, told

    def forward(self, images: Tensor, snr_db: Tensor, length: Tensor) -> Tensor:
        """(B, C, H, W) float32 in [0, 1], (B,) and (B,) int64 to (B, k) complex64."""
        pixels = (images * 255).round().to(torch.uint8)
        sent = run_onnx(self.session, {"images": pixels, "snr_db": snr_db, "length": length})
        return torch.view_as_complex(sent).to(images.device)


def int8_link(link: Link, model: bytes, threads: int = 1) -> Link:
    """A link whose transmitter is an ONNX file, run by ONNX Runtime, and whose receiver is that of ``link``."""
    told = "effective" if link.transmitter_csi else "average"
    transmitter = Int8Transmitter(model, link.symbols, threads, told)
    return Link(nn.Identity(), transmitter, link.channel_decoder, link.semantic_decoder).eval()


class _Calibration:
    """Training images under random conditions, as ONNX Runtime reads them: batches of inputs by name."""

    def __init__(self, images: Tensor, snr_db: tuple[float, float], symbols: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        most = min(CALIBRATION_IMAGES, max(_BATCH, CALIBRATION_PIXELS // images[0, 0].numel()))
        count = min(most, len(images))
        count -= count % _BATCH if count > _BATCH else 0  # of whole batches: ONNX Runtime wants them equal
        chosen = images[torch.randperm(len(images), generator=draw)[:count]]
        met = draw_conditions(len(chosen), snr_db, ("awgn",), symbols, draw)
        self.batches = self._split(chosen, met.snr_db, met.length)

    def _split(self, *inputs: Tensor) -> Iterator[dict[str, Any]]:
        for parts in zip(*(value.split(_BATCH) for value in inputs), strict=True):
            yield dict(zip(("images", "snr_db", "length"), (part.numpy() for part in parts), strict=True))

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, or None after the last one."""
        return next(self.batches, None)


def outside_products(graph: Any) -> list[str]:
    """The names of the nodes that no product precedes, or that none follows."""
    nodes = list(graph.node)  # in an order in which inputs come first
    after = _reached(nodes, lambda node: node.input, lambda node: node.output)
    before = _reached(nodes[::-1], lambda node: node.output, lambda node: node.input)
    return [n.name for n in nodes if n.op_type not in _PRODUCTS and not (n.name in after and n.name in before)]


def _reached(nodes: Iterable[Any], come: Any, go: Any) -> set[str]:
    """The names of the nodes that a product leads to, tensors flowing from ``come`` to ``go``."""
    names: set[str] = set()
    tensors: set[str] = set()
    for node in nodes:
        led = any(name in tensors for name in come(node))
        if led:
            names.add(node.name)
        if led or node.op_type in _PRODUCTS:
            tensors.update(go(node))
    return names
