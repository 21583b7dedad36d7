"""A chain of inverted-residual blocks, weight-entangled: the default search space.

Three stages of blocks after a stem. Searched: the width of each stage, and for each block its depthwise kernel (3, 5,
7), its expansion (1, 3, 6) and, but for the first of a stage, whether it is there at all. All choices of a block share
one largest set of weights (weight entanglement): a smaller kernel is the centre of the largest, a narrower layer its
first channels. Mixing therefore mixes *masks on weights*, not activations, and a mixed step costs what a step of the
largest network costs (the idea of Single-Path NAS, arXiv 1904.02877, and FBNetV2, arXiv 2004.05565).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from nni.mutable import label_scope
from nni.nas.nn.pytorch import ParametrizedModule
from torch import Tensor, nn
from torch.func import functional_call

from kdnas.errors import InputError
from kdnas.ops import ConvBN, InvertedResidual, Step, Unit, conv_step, linear_step, pool_step
from kdnas.space.base import Relaxed, SearchSpace, nni, relax_with
from kdnas.space.depthwise import depthwise_conv2d
from kdnas.space.relaxation import Relaxation

KERNELS = [3, 5, 7]
EXPANSIONS = [1, 3, 6]
# Channels offered to each stage, before the width multiplier.
WIDTHS = [[8, 12, 16], [16, 24, 32], [32, 48, 64]]
STEM = 8


class MobileEncoder(nn.Module):
    """A chain of inverted residuals: images in [0, 1] to features.

    Args:
        in_channels: 1 (grey) or 3 (RGB).
        stem: (outputs, kernel, stride) of the first convolution.
        blocks: (inputs, hidden, outputs, kernel, stride, residual) of each block; None where the search skipped one.
        feature_dim: Length of the feature vector.
    """

    def __init__(
        self,
        in_channels: int,
        stem: tuple[int, int, int],
        blocks: list[tuple[int, int, int, int, int, bool] | None],
        feature_dim: int,
    ) -> None:
        super().__init__()
        self.stem = ConvBN(in_channels, *stem)
        self.blocks = nn.Sequential(*[InvertedResidual(*b) if b else nn.Identity() for b in blocks])
        self.head = nn.Linear([b for b in blocks if b][-1][2], feature_dim)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [0, 1] to (B, feature_dim)."""
        x = self.stem(images * 4 - 2)
        x = self.blocks(x)
        return self.head(x.mean((2, 3)))


class SearchBlock(ParametrizedModule):
    """An inverted residual whose widths, kernel, expansion and presence may be choices."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, expansion: int, keep: bool, stride: int, residual: bool
    ) -> None:
        super().__init__()
        self.block = (
            InvertedResidual(inputs, inputs * expansion, outputs, kernel, stride, residual) if keep else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride))."""
        return self.block(x)


class SearchHead(ParametrizedModule):
    """Global average and a linear layer whose input width may be a choice."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs)."""
        return self.linear(x.mean((2, 3)))


def _prefix_masks(sizes: list[int]) -> Tensor:
    """(len(sizes), max(sizes)): row i is one up to sizes[i]."""
    return (torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]).float()


def scaled_batch_norm(x: Tensor, bn: nn.BatchNorm2d, scale: Tensor) -> Tensor:
    """``bn(x) * scale`` with a scale per channel (C,), at no cost beyond the norm's own."""
    result: Tensor = functional_call(bn, {"weight": bn.weight * scale, "bias": bn.bias * scale}, (x,))
    return result


class RelaxedBlock(Relaxed):
    """The entangled form of ``SearchBlock``: the largest block, with masks on its weights mixed by probabilities."""

    def __init__(self, source: SearchBlock, memo: Mapping[str, nn.Parameter], softmax: Relaxation) -> None:
        arguments = dict(source.args)
        stride, residual = arguments.pop("stride"), arguments.pop("residual")
        super().__init__(arguments, memo, softmax)
        self.stride, self.residual = stride, residual
        inputs, outputs = self.domains["inputs"], self.domains["outputs"]
        kernels, expansions = self.domains["kernel"], self.domains["expansion"]
        self.full = InvertedResidual(
            max(inputs), max(inputs) * max(expansions), max(outputs), max(kernels), self.stride, self.residual
        )
        hidden = _prefix_masks([e * i for e in expansions for i in inputs])
        self.hidden_masks: Tensor
        self.output_masks: Tensor
        self.kernel_masks: Tensor
        self.keeps: Tensor
        self.register_buffer("hidden_masks", hidden, persistent=False)
        self.register_buffer("output_masks", _prefix_masks(outputs), persistent=False)
        reach = (torch.arange(max(kernels)) - max(kernels) // 2).abs()
        inside = torch.maximum(reach[:, None], reach[None, :])
        masks = torch.stack([(inside <= k // 2).float() for k in kernels])
        self.register_buffer("kernel_masks", masks, persistent=False)  # (K, k_max, k_max)
        keeps = torch.tensor([float(keep) for keep in self.domains["keep"]])
        self.register_buffer("keeps", keeps, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, max inputs, H, W) to (B, max outputs, H', W'); channels past every likely width are near zero."""
        p_inputs, p_expansion = self.probabilities("inputs"), self.probabilities("expansion")
        hidden = torch.outer(p_expansion, p_inputs).flatten() @ self.hidden_masks  # (hidden,)
        outputs = self.probabilities("outputs") @ self.output_masks * (self.probabilities("keep") @ self.keeps)
        kernel = torch.tensordot(self.probabilities("kernel"), self.kernel_masks, 1)  # (k_max, k_max)

        block = self.full
        y = block.expand(x)
        conv, bn = block.depthwise.conv, block.depthwise.bn
        y = depthwise_conv2d(y, conv.weight * kernel, self.stride, conv.kernel_size[0] // 2)
        y = torch.relu(bn(y))
        # A hidden channel reaches the rest of the network through the projection alone: masking its column is enough.
        y = F.conv2d(y, block.project.conv.weight * hidden[:, None, None])
        y = scaled_batch_norm(y, block.project.bn, outputs)
        return x + y if self.residual else y

    def freeze(self, sample: dict[str, Any]) -> nn.Module:
        """``SearchBlock``'s content for ``sample``, weights sliced from the largest block."""
        chosen = {name: self.value(name, sample) for name in self.domains}
        frozen = SearchBlock(**chosen, stride=self.stride, residual=self.residual)
        if not self.value("keep", sample):
            return frozen
        inputs, outputs = self.value("inputs", sample), self.value("outputs", sample)
        hidden = inputs * self.value("expansion", sample)
        trim = (max(self.domains["kernel"]) - self.value("kernel", sample)) // 2
        side = slice(trim, max(self.domains["kernel"]) - trim)
        slices = {
            "expand.conv.weight": (slice(hidden), slice(inputs)),
            "depthwise.conv.weight": (slice(hidden), slice(None), side, side),
            "project.conv.weight": (slice(outputs), slice(hidden)),
        }
        rows = {"expand": hidden, "depthwise": hidden, "project": outputs}
        weights = {}
        for name, value in self.full.state_dict().items():
            index = slices.get(name, (slice(rows[name.split(".")[0]]),) if value.ndim else ())
            weights[f"block.{name}"] = value[index].clone()
        frozen.to(next(self.parameters()).dtype).load_state_dict(weights)
        return frozen


class RelaxedHead(Relaxed):
    """The entangled form of ``SearchHead``: masked channels arrive as zeros, so its full weight needs no mask."""

    def __init__(self, source: SearchHead, memo: Mapping[str, nn.Parameter], softmax: Relaxation) -> None:
        super().__init__({"inputs": source.args["inputs"]}, memo, softmax)
        self.full = nn.Linear(max(self.domains["inputs"]), source.args["outputs"])

    def forward(self, x: Tensor) -> Tensor:
        """(B, max inputs, H, W) to (B, outputs)."""
        return self.full(x.mean((2, 3)))

    def freeze(self, sample: dict[str, Any]) -> nn.Module:
        """``SearchHead`` for ``sample``, its weight sliced."""
        inputs = self.value("inputs", sample)
        frozen = SearchHead(inputs, self.full.out_features).to(self.full.weight.dtype)
        weight, bias = self.full.weight[:, :inputs].clone(), self.full.bias.clone()
        frozen.load_state_dict({"linear.weight": weight, "linear.bias": bias})
        return frozen


class MobileSpace(SearchSpace):
    """Entangled chain of inverted residuals.

    Args:
        in_channels: 1 or 3.
        image_size: Side of the square images, 28 to 224 pixels. Larger images are reduced more by the stem and the
            first stage, so that the last stage always works on about 4 x 4.
        feature_dim: Length of the feature vector.
        width: Multiplies all channel numbers (rounded to multiples of 4).
        depth: Blocks in each stage, at least 1; all but the first can be skipped.

    Raises:
        InputError: An option is out of its range.
    """

    name: ClassVar[str] = "mobile"

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        feature_dim: int = 64,
        width: float = 1.0,
        depth: int = 2,
    ) -> None:
        super().__init__()
        if in_channels not in (1, 3) or not 28 <= image_size <= 224 or feature_dim < 1 or width <= 0 or depth < 1:
            raise InputError(
                "space 'mobile' takes in_channels 1 or 3, image_size 28 to 224, feature_dim >= 1, width > 0, depth >= 1"
            )
        self.options = {
            "in_channels": in_channels, "image_size": image_size, "feature_dim": feature_dim,
            "width": width, "depth": depth,
        }  # fmt: skip
        # The last stage sees image_size / 2^halvings, about 3.5 to 7 pixels; two halvings are in stages 2 and 3.
        halvings = (image_size * 2 // 7).bit_length() - 1
        stride = 2 ** max(1, halvings - 3)
        self.stem_shape = (self._scaled(STEM), stride + 1, stride)
        strides = [2 if halvings > 3 else 1, 2, 2]

        self.stem = ConvBN(in_channels, *self.stem_shape)
        blocks: list[nn.Module] = []
        self.plan: list[tuple[str, int, bool]] = []  # (label, stride, skippable) of each block
        inputs: Any = self.stem_shape[0]
        for stage, widths in enumerate(WIDTHS):
            with label_scope(f"stage{stage}"):
                outputs = nni.choice("width", sorted({self._scaled(w) for w in widths}))
            for index in range(depth):
                label, skippable = f"stage{stage}block{index}", index > 0
                with label_scope(label):
                    keep = nni.choice("keep", [True, False]) if skippable else True
                    kernel, expansion = nni.choice("kernel", KERNELS), nni.choice("expansion", EXPANSIONS)
                    stride = 1 if skippable else strides[stage]
                    blocks.append(SearchBlock(inputs, outputs, kernel, expansion, keep, stride, skippable))
                self.plan.append((label, stride, skippable))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = SearchHead(inputs, feature_dim)

    def _scaled(self, channels: int) -> int:
        return max(4, round(channels * self.options["width"] / 4) * 4)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [0, 1] to (B, feature_dim)."""
        return self.head(self.blocks(self.stem(images * 4 - 2)))

    def extra_oneshot_hooks(self, strategy: Any) -> list[Any]:
        """How NNI strategies relax this space."""
        return [relax_with(SearchBlock, RelaxedBlock), relax_with(SearchHead, RelaxedHead)]

    def _block(self, index: int, choices: Mapping[str, Any]) -> tuple[int, int, int, int, int, bool] | None:
        label, stride, skippable = self.plan[index]
        stage = index // self.options["depth"]
        outputs = choices[f"stage{stage}/width"]
        if skippable and not choices[f"{label}/keep"]:
            return None
        inputs = outputs
        if not skippable:
            inputs = choices[f"stage{stage - 1}/width"] if stage else self.stem_shape[0]
        return (
            inputs,
            inputs * choices[f"{label}/expansion"],
            outputs,
            choices[f"{label}/kernel"],
            stride,
            skippable,
        )

    def network(self, choices: Mapping[str, Any]) -> nn.Module:
        """The ``MobileEncoder`` of ``choices``."""
        config = {
            "in_channels": self.options["in_channels"],
            "stem": self.stem_shape,
            "blocks": [self._block(index, choices) for index in range(len(self.plan))],
            "feature_dim": self.options["feature_dim"],
        }
        network = MobileEncoder(**config)
        network.config = config  # type: ignore[assignment]
        return network

    def inherit(self, choices: Mapping[str, Any], supernet: SearchSpace) -> nn.Module:
        """The network of ``choices`` with its weights inside ``supernet``, copied."""
        network = self.network(choices)
        weights = supernet.freeze(self.check(choices)).state_dict()
        # NNI's modules wrap the plain ones one level deeper.
        plain = {name.replace(".block.", ".").replace(".linear.", "."): value for name, value in weights.items()}
        network.load_state_dict(plain)
        return network

    def units(self) -> list[Unit]:
        """Stem, blocks and head; a block depends on its own choices and on the widths on both sides of it."""
        size = self.options["image_size"]
        outputs, kernel, stride = self.stem_shape
        stem = conv_step("stem", self.options["in_channels"], outputs, kernel, size, stride=stride)
        units = [Unit("stem", (), lambda choices: [stem])]
        size = -(-size // stride)
        for index, (label, stride, skippable) in enumerate(self.plan):
            stage = index // self.options["depth"]
            labels = [f"stage{stage}/width", f"{label}/kernel", f"{label}/expansion"]
            if skippable:
                labels.append(f"{label}/keep")
            elif stage:
                labels.insert(0, f"stage{stage - 1}/width")

            def steps(choices: Mapping[str, Any], index: int = index, size: int = size) -> list[Step]:
                name, block = self.plan[index][0], self._block(index, choices)
                if block is None:
                    return [Step(f"{name}.{part}", ops=0) for part in ("expand", "depthwise", "project")]
                inputs, hidden, outputs, kernel, stride, residual = block
                out = -(-size // stride)
                shortcut = inputs * size * size if residual else 0
                return [
                    conv_step(f"{name}.expand", inputs, hidden, 1, size),
                    conv_step(
                        f"{name}.depthwise", hidden, hidden, kernel, size, stride=stride, groups=hidden,
                        held_bytes=shortcut,
                    ),
                    conv_step(f"{name}.project", hidden, outputs, 1, out, held_bytes=shortcut),
                ]  # fmt: skip

            units.append(Unit(label, tuple(labels), steps))
            size = -(-size // stride)

        last = f"stage{len(WIDTHS) - 1}/width"

        def head(choices: Mapping[str, Any]) -> list[Step]:
            return [
                pool_step("head.pool", choices[last], size, 1),
                linear_step("head.linear", choices[last], self.options["feature_dim"]),
            ]

        return [*units, Unit("head", (last,), head)]
