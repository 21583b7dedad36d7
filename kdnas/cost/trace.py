"""A network's tensors as a graph for the planner, traced from the network itself."""

import operator
import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.fx.passes.shape_prop import ShapeProp
from torch.utils._python_dispatch import TorchDispatchMode

from kdnas.cost.planner import Node

# Written over their input: folded into the operation before them, or made value by value.
_IN_PLACE_MODULES = (nn.BatchNorm2d, nn.LayerNorm, nn.ReLU, nn.ReLU6, nn.GELU, nn.Hardswish, nn.Dropout)
_IN_PLACE = {torch.relu, F.relu, F.relu6, F.gelu, F.hardswish, F.layer_norm, "softmax", "relu", F.softmax}
# The same bytes by another name; a padding of zeros is never stored.
_VIEWS = {
    "flatten", "transpose", "contiguous", "unflatten", "permute", "unbind", "view", "reshape", "squeeze", "unsqueeze",
    operator.getitem, torch.flatten, F.pad, nn.functional.pad,
}  # fmt: skip
_SUMS = {operator.add, operator.iadd, torch.add}
_SCALES = {operator.mul, operator.sub, operator.truediv, operator.add}


def tensors_of(network: nn.Module, image: Tensor) -> list[Node]:
    """The tensors of ``network`` for one image, at one byte for each value.

    The rules are those of the steps: batch norm, ReLU, softmax and GELU are made in place where nothing else reads
    what they read, sums over one of their terms, a concatenation over all its parts together; convolutions (depthwise
    ones too), linear layers and poolings are not. Scaling by a constant is folded into a neighbour; reshaping moves
    nothing. Parameters are not counted.

    Args:
        network: In plain torch, without branches on data.
        image: (1, C, H, W).
    """
    traced = fx.symbolic_trace(network)
    traced.graph.eliminate_dead_code()
    ShapeProp(traced).propagate(image)
    modules = dict(traced.named_modules())
    stands: dict[fx.Node, tuple[str, ...]] = {}  # the tensors that a traced node reads, by the name they have here
    nodes: list[Node] = []
    for node in traced.graph.nodes:
        sources = tuple(dict.fromkeys(name for source in node.all_input_nodes for name in stands.get(source, ())))
        target: Any = type(modules[node.target]) if node.op == "call_module" else node.target
        if node.op in ("get_attr", "output"):
            continue
        if target in _VIEWS or target is nn.Identity or _scales(node, target):
            stands[node] = sources
            continue
        groups: tuple[tuple[str, ...], ...] = ()
        if target in _IN_PLACE or (isinstance(target, type) and issubclass(target, _IN_PLACE_MODULES)):
            groups = (sources,)
        elif target in _SUMS:
            groups = tuple((source,) for source in sources)
        elif target is torch.cat:
            groups = (sources,)
        stands[node] = (node.name,)
        nodes.append(Node(node.name, sources, _values(node), groups))
    return nodes


def _scales(node: fx.Node, target: Any) -> bool:
    return target in _SCALES and sum(isinstance(argument, fx.Node) for argument in node.args) == 1


def _values(node: fx.Node) -> int:
    shape: torch.Size = node.meta["tensor_meta"].shape
    return shape.numel()


@torch.no_grad()
def peak_by_running(network: nn.Module, image: Tensor) -> int:
    """The most values that torch holds at once while it runs ``network`` in the order in which it is written.

    A measurement for comparison: batch norm is folded and a ReLU overwrites the convolution before it, but every sum
    makes a tensor of its own, and the image is held throughout. Parameters are not counted.

    Args:
        network: In plain torch, in evaluation mode, without branches on data.
        image: (1, C, H, W).
    """
    traced = fuse(fx.symbolic_trace(network))
    assert isinstance(traced, fx.GraphModule)
    for node in traced.graph.nodes:
        source = node.args[0] if node.args else None
        if node.target is torch.relu and isinstance(source, fx.Node) and len(source.users) == 1:
            node.target = torch.relu_
    traced.graph.eliminate_dead_code()
    traced.recompile()
    with _Alive() as alive:
        for parameter in (*traced.parameters(), *traced.buffers()):
            alive.sizes[parameter.untyped_storage()._cdata] = 0
        alive.add(image)
        traced(image)
    return alive.peak


class _Alive(TorchDispatchMode):
    """Counts the values in all storages made inside it that are still referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.add(value)
        return out

    def add(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        if storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = storage.nbytes() // value.element_size()
            weakref.finalize(storage, self.sizes.pop, storage._cdata)
            self.peak = max(self.peak, sum(self.sizes.values()))
