"""Seconds of whole networks in ONNX Runtime, on this machine."""

import gc
import io
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdnas.export.halves import Transmitter, hushed, need_onnx, onnx_session, to_onnx
from kdnas.export.int8 import outside_products, quantised
from kdnas.link import Link

# Every model in turn, many times over, so that a busy moment of the machine falls on all alike: ``ROUNDS`` times a few
# runs to warm up and ``RUNS`` timed ones, of which the median counts. Of the rounds, the lower quartile: what else runs
# on a machine can only add.
ROUNDS, WARM_UP, RUNS, QUANTILE = 15, 4, 25, 0.25

Model = tuple[bytes, dict[str, Tensor]]
"""An ONNX file, and arguments by name for one image."""


def encoder_model(encoder: nn.Module, image: Tensor, dtype: str) -> Model:
    """An encoder as an ONNX file for one image.

    Its batch norms are given statistics as a training would: with those of a fresh network all biases are one tensor,
    which ONNX Runtime does not quantise.

    Args:
        encoder: (1, C, H, W) float32 to features; in evaluation mode; it is changed.
        image: (1, C, H, W).
        dtype: ``fp32`` or ``int8``.

    Raises:
        InputError: The extra ``export`` is not installed.
    """
    need_onnx()
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
    written = io.BytesIO()
    with hushed():  # by tracing, which takes a tenth of the time that torch.export takes
        torch.onnx.export(
            encoder, (image,), written,  # type: ignore[arg-type]
            dynamo=False, input_names=["images"], output_names=["features"],
        )  # fmt: skip
    data = written.getvalue()
    return _integers(data, image) if dtype == "int8" else data, {"images": image}


def transmitter_model(link: Link, image_shape: tuple[int, int, int], dtype: str) -> Model:
    """A transmitter, as ``export_onnx`` writes it, with arguments for one image.

    Args:
        link: In evaluation mode.
        image_shape: (C, H, W).
        dtype: ``fp32`` or ``int8``.

    Raises:
        InputError: The extra ``export`` is not installed.
    """

    def arguments(batch: int) -> dict[str, Tensor]:
        images = torch.randint(256, (batch, *image_shape), dtype=torch.uint8)
        return {"images": images, "snr_db": torch.full((batch,), 5.0), "length": torch.full((batch,), link.symbols)}

    data = to_onnx(Transmitter(link).eval(), [arguments(2)], "symbols", "transmitter.onnx")
    if dtype == "int8":
        data = quantised(data, arguments(32)["images"], snr_db=(5.0, 6.0), symbols=link.symbols)
    return data, arguments(1)


def measured_s(models: Sequence[Model], threads: int = 1) -> list[float]:
    """Seconds of each model for one image, all measured in turns.

    Args:
        models: Of which each is opened once.
        threads: That ONNX Runtime computes with.
    """
    calls = [_bound(data, arguments, threads) for data, arguments in models]
    times = np.empty((len(calls), ROUNDS))
    gc.disable()
    try:
        for turn in range(ROUNDS):
            for index, (session, binding) in enumerate(calls):
                for _ in range(WARM_UP):
                    session.run_with_iobinding(binding)
                runs = []
                for _ in range(RUNS):
                    start = time.perf_counter()
                    session.run_with_iobinding(binding)
                    runs.append(time.perf_counter() - start)
                times[index, turn] = np.median(runs)
    finally:
        gc.enable()
    values: list[float] = np.quantile(times, QUANTILE, axis=1).tolist()
    return values


def _bound(data: bytes, arguments: Mapping[str, Tensor], threads: int) -> tuple[Any, Any]:
    session = onnx_session(data, threads)
    binding = session.io_binding()
    for name, value in arguments.items():
        binding.bind_cpu_input(name, value.numpy())
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return session, binding


def _integers(data: bytes, image: Tensor) -> bytes:
    """The file in int8, as ``kdnas.export.int8`` has it but for its scales, which no time depends on."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Once(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter([{"images": image.numpy()}])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as directory, hushed():
        prepared, made = Path(directory) / "prepared.onnx", Path(directory) / "int8.onnx"
        quant_pre_process(onnx.load_from_string(data), prepared)
        quantize_static(
            prepared, made, Once(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8, nodes_to_exclude=outside_products(onnx.load(prepared).graph),
        )  # fmt: skip
        return made.read_bytes()
