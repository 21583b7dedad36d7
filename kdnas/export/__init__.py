"""Found networks as files: plain-torch source, weights, and the link; and back again; its halves as ONNX."""

from kdnas.export.adaptation import save_adaptation
from kdnas.export.files import (
    LinkInfo,
    load_architecture,
    load_encoder,
    load_link,
    load_weights,
    read_info,
    save_link,
)
from kdnas.export.halves import HALVES, export_onnx
from kdnas.export.source import encoder_source
from kdnas.export.wire import Frame, pack, unpack

__all__ = [
    "HALVES",
    "Frame",
    "LinkInfo",
    "encoder_source",
    "export_onnx",
    "load_architecture",
    "load_encoder",
    "load_link",
    "load_weights",
    "pack",
    "read_info",
    "save_adaptation",
    "save_link",
    "unpack",
]
