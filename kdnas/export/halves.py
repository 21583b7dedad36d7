"""The halves of a link as ONNX files: the transmitter for a device, the receiver for a server, neither with torch.

``encoder.onnx``      images -> features
``transmitter.onnx``  images, snr_db, length -> symbols: the encoder and the channel encoder in one
``receiver.onnx``     received, snr_db, effective_snr_db, length -> logits

| name               | type, shape           | what it is                                                          |
|--------------------|-----------------------|---------------------------------------------------------------------|
| `images`           | uint8 (B, C, H, W)    | pixels 0 ... 255; they are normalised inside                        |
| `snr_db`           | float32 (B,)          | average SNR E_s/N_0 in dB, known to both ends; after fading where   |
|                    |                       | the codec of ``link.json`` is told the effective one                |
| `length`           | int64 (B,)            | k', complex symbols sent, 1 ... k                                   |
| `features`         | float32 (B, D)        |                                                                     |
| `symbols`          | float32 (B, k, 2)     | I and Q; mean power 1 over the first k', 0 after them (see below)   |
| `received`         | float32 (B, k, 2)     | equalised I and Q; what stands past k' is ignored                   |
| `effective_snr_db` | float32 (B, k)        | SNR in dB of each of `received`; `snr_db` where there is no fading  |
| `logits`           | float32 (B, classes)  | in the order of the metadata's `classes`                            |

B is free. With a constellation (``codec.constellation``) the symbols are its points and their power is at most 1; a
symbol on the border of two points, to within rounding, may be the other one. The metadata of each file say what it is
of (``ABOUT``). ONNX has no complex numbers, hence I and Q; how symbols travel between programs is in
``kdnas.export.wire``.
"""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdnas.errors import InputError
from kdnas.export.files import LinkInfo, load_architecture, load_link
from kdnas.link import Link
from kdnas.run.files import atomic_write

OPSET = 20  # the first with GELU, which LayerNormalization (17) precedes
TOLERANCE = 1e-4  # of what a file computes against torch, relative where values are above 1
ABOUT = ("device", "dataset", "classes", "channels", "snr_db", "feature_dim", "symbols", "architecture")


class Encoder(nn.Module):
    """Pixels to features."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.encoder = link.encoder

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 to (B, D)."""
        return self.encoder(images.float() / 255)


class Transmitter(nn.Module):
    """Pixels to I and Q."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.encoder, self.channel_encoder = Encoder(link), link.channel_encoder

    def forward(self, images: Tensor, snr_db: Tensor, length: Tensor) -> Tensor:
        """(B, C, H, W) uint8, (B,) and (B,) int64 to (B, k, 2)."""
        return torch.view_as_real(self.channel_encoder(self.encoder(images), snr_db, length))


class Receiver(nn.Module):
    """I and Q to logits."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.channel_decoder, self.semantic_decoder = link.channel_decoder, link.semantic_decoder

    def forward(self, received: Tensor, snr_db: Tensor, effective_snr_db: Tensor, length: Tensor) -> Tensor:
        """(B, k, 2), (B,), (B, k) and (B,) int64 to (B, classes)."""
        features = self.channel_decoder(torch.view_as_complex(received), snr_db, length, effective_snr_db)
        return self.semantic_decoder(features)


# File name: the module, and the name of what comes out.
HALVES: dict[str, tuple[type[nn.Module], str]] = {
    "encoder.onnx": (Encoder, "features"),
    "transmitter.onnx": (Transmitter, "symbols"),
    "receiver.onnx": (Receiver, "logits"),
}


def export_onnx(directory: str | Path, out: str | Path) -> list[Path]:
    """Write a link's ONNX files. Each is run in ONNX Runtime first, and must give what torch gives.

    Args:
        directory: Of the link (``save_link``).
        out: Made if it is missing.

    Returns:
        The files, in the order of ``HALVES``.

    Raises:
        InputError: The link is incomplete, the extra ``export`` is not installed, an operation has no counterpart in
            ONNX, or ONNX Runtime computes something else.
    """
    link, options = load_link(directory), load_architecture(directory).options
    shape = (options["in_channels"], options["image_size"], options["image_size"])
    made = {name: half_onnx(link, name, shape) for name in HALVES}
    for name, data in made.items():
        atomic_write(Path(out) / name, data)
    return [Path(out) / name for name in made]


def half_onnx(link: Link, name: str, image_shape: tuple[int, int, int]) -> bytes:
    """One of ``HALVES`` as the bytes of its file.

    Args:
        link: In evaluation mode, on the CPU; its ``info``, where it has one, goes into the metadata.
        name: Of the file.
        image_shape: (C, H, W).

    Raises:
        InputError: As in ``export_onnx``.
    """
    make, output = HALVES[name]
    module, info = make(link).eval(), getattr(link, "info", None)
    examples = [arguments_of(module, link, image_shape, batch) for batch in (2, 3)]
    return to_onnx(module, examples, output, name, info)


def to_onnx(
    module: nn.Module, examples: Sequence[Mapping[str, Tensor]], output: str, name: str, info: LinkInfo | None = None
) -> bytes:
    """A module as the bytes of an ONNX file whose batch is free.

    Args:
        module: In evaluation mode, on the CPU.
        examples: Arguments by name, in the order of its ``forward``: first those to trace it with (a batch of 2 or
            more), then those of other batches, for which the file must give what the module gives.
        output: Name of what it returns.
        name: Of the file, for errors.
        info: For the metadata.

    Raises:
        InputError: As in ``export_onnx``.
    """
    need_onnx()
    data = _traced(module, examples[0], output, info)
    for arguments in examples[1:]:
        _prove(data, module, arguments, name)
    return data


def need_onnx() -> None:
    """Check that the extra ``export`` is there.

    Raises:
        InputError: It is not.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(f"ONNX needs the package {error.name}: pip install 'kdnas[export]'") from None


def onnx_session(model: bytes | str | Path, threads: int = 1) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        model: The bytes of a file, or its path.
        threads: That it computes with.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_onnx(session: Any, arguments: Mapping[str, Tensor]) -> Tensor:
    """The one output of a session for arguments by name."""
    return torch.from_numpy(session.run(None, {name: value.cpu().numpy() for name, value in arguments.items()})[0])


def arguments_of(module: nn.Module, link: Link, image_shape: tuple[int, int, int], batch: int) -> dict[str, Tensor]:
    """Random arguments of one of ``HALVES`` by name, the same for the same batch."""
    draw = torch.Generator().manual_seed(batch)
    if isinstance(module, Receiver):
        received = torch.randn(batch, link.symbols, 2, generator=draw)
    else:
        images = torch.randint(256, (batch, *image_shape), dtype=torch.uint8, generator=draw)
        if isinstance(module, Encoder):
            return {"images": images}
    snr_db = 20 * torch.rand(batch, generator=draw) - 5
    length = torch.randint(1, link.symbols + 1, (batch,), generator=draw)
    if isinstance(module, Receiver):
        effective_snr_db = snr_db[:, None] - 10 * torch.rand(batch, link.symbols, generator=draw)
        return {"received": received, "snr_db": snr_db, "effective_snr_db": effective_snr_db, "length": length}
    return {"images": images, "snr_db": snr_db, "length": length}


def _traced(module: nn.Module, arguments: Mapping[str, Tensor], output: str, info: LinkInfo | None) -> bytes:
    """The module as an ONNX file whose batch is free, without the traces of where it was made."""
    batch = torch.export.Dim("batch")
    try:
        with hushed():
            program = torch.onnx.export(
                module, tuple(arguments.values()), dynamo=True, verbose=False, input_names=list(arguments),
                output_names=[output], dynamic_shapes={name: {0: batch} for name in arguments}, opset_version=OPSET,
            )  # fmt: skip
    except Exception as error:  # of many kinds, with pages of text
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{type(module).__name__.lower()} cannot be written as ONNX ({line})") from error
    assert program is not None
    model = program.model_proto
    model.producer_name, model.producer_version, model.doc_string = "kdnas", "", ""
    graph = model.graph
    graph.name = type(module).__name__.lower()
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del model.metadata_props[:]
    about = info.model_dump(mode="json") if info is not None else {}
    for key in ABOUT if about else ():
        value = about[key]
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    return model.SerializeToString(deterministic=True)


@contextmanager
def hushed() -> Iterator[None]:
    """Keep to themselves what exporter and quantiser print, warn and log on the way; their errors come through."""
    loggers = [logging.getLogger(name) for name in (None, "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _prove(data: bytes, module: nn.Module, arguments: Mapping[str, Tensor], name: str) -> None:
    """Compare a file in ONNX Runtime with its module, at another batch size than it was traced with."""
    with torch.no_grad():
        expected = module(*arguments.values())
    found = run_onnx(onnx_session(data), arguments)
    if not np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
        worst = float((found - expected).abs().max())
        raise InputError(f"{name} computes something else in ONNX Runtime (off by {worst:.2g})")
