"""Found networks as files: plain-torch source, weights, and the link; and back again."""

from kdnas.export.files import (
    LinkInfo,
    load_architecture,
    load_encoder,
    load_link,
    load_weights,
    read_info,
    save_link,
)
from kdnas.export.source import encoder_source

__all__ = [
    "LinkInfo",
    "encoder_source",
    "load_architecture",
    "load_encoder",
    "load_link",
    "load_weights",
    "read_info",
    "save_link",
]
