"""Reading weights with torch alone: this source is copied into every ``encoder.py``."""

import json
from pathlib import Path

import torch
from torch import Tensor

# The names that the safetensors format gives to torch's types.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file by name: a header's size, the header as JSON, then the raw values.

    Raises:
        ValueError: The file is truncated or is no safetensors file.
    """
    data = Path(path).read_bytes()
    body = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:body]).items():
        if name != "__metadata__":
            start, end = (body + offset for offset in entry["data_offsets"])
            if end > len(data):
                raise ValueError(f"{path} is truncated")
            flat = torch.frombuffer(bytearray(data[start:end]), dtype=DTYPES[entry["dtype"]])
            tensors[name] = flat.reshape(entry["shape"])
    return tensors
