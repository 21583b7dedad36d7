"""Tensors on disk (safetensors, written atomically) and the device that they are computed on."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from kdnas.errors import InputError
from kdnas.run.files import atomic_write


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors (for example a state dict) as a .safetensors file that is whole or absent."""
    atomic_write(path, save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}))


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a .safetensors file.

    Raises:
        InputError: It is missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: give a .safetensors file") from None
    except (SafetensorError, OSError) as error:
        line = str(error).splitlines()[0]
        raise InputError(f"{path} is truncated or no safetensors file ({line}): get or export it again") from None


def torch_device(accelerator: str) -> torch.device:
    """``auto`` is a CUDA device where there is one, else the CPU; or ``cpu``, ``cuda``."""
    cuda = accelerator == "cuda" or (accelerator == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if cuda else "cpu")
