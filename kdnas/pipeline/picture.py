"""A plain description of a network, block by block, for figures and texts."""

from typing import Any

import torch
from torch import Tensor, nn

from kdnas.data import Dataset


def layers(network: nn.Module, dataset: Dataset) -> list[dict[str, Any]]:
    """Its blocks in order: ``name``, ``kind``, ``detail``, output ``shape`` without the batch, and ``params``.

    Containers that only line up others are opened; every other child of the network is one block.
    """
    rows: list[dict[str, Any]] = []
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            rows.append(
                {
                    "name": name, "kind": "skip" if isinstance(module, nn.Identity) else type(module).__name__,
                    "detail": module.extra_repr(), "shape": list(output.shape[1:]),
                    "params": sum(p.numel() for p in module.parameters()),
                }
            )  # fmt: skip

        handles.append(module.register_forward_hook(hook))

    def walk(prefix: str, module: nn.Module) -> None:
        for name, child in module.named_children():
            full = f"{prefix}{name}"
            if isinstance(child, nn.Sequential | nn.ModuleList):
                walk(f"{full}.", child)
            else:
                watch(full, child)

    walk("", network)
    training = network.training
    network.eval()
    with torch.no_grad():
        network(torch.zeros(1, *dataset.image_shape))
    network.train(training)
    for handle in handles:
        handle.remove()
    return rows
