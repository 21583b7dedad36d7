"""Depthwise convolutions whose gradients a CPU computes faster than torch's own way does; their values are the same.

oneDNN has fast kernels for the forward pass of every depthwise convolution, but not for every gradient: that of a 7x7
kernel takes ten times as long as the forward pass, and that of a dilated convolution with stride 2 a hundred times.
Such a gradient is a depthwise convolution itself, and is computed here as the forward pass of one.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# On wider maps oneDNN's own gradient of the kernel is as fast.
_WIDEST = 16


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
    """``F.conv2d`` with one group for each channel.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, k, k).
        stride: Of both sides.
        padding: Of all four borders.
        dilation: Of both sides.

    Returns:
        (B, C, H', W').
    """
    if stride == dilation > 1 and padding % dilation == 0:
        # All pixels that it reads stand at multiples of the stride: it is a plain convolution of those.
        x, stride, padding, dilation = x[:, :, ::stride, ::stride], 1, padding // dilation, 1
    if x.device.type != "cpu" or (weight.shape[-1] <= 5 and dilation == 1):
        return F.conv2d(x, weight, None, stride, padding, dilation, len(weight))
    result: Tensor = _Depthwise.apply(x, weight, stride, padding, dilation)
    return result


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise ``nn.Conv2d``, by ``depthwise_conv2d``."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H', W')."""
        return depthwise_conv2d(x, self.weight, self.stride[0], int(self.padding[0]), self.dilation[0])


def speed_up(module: nn.Module) -> None:
    """Make the depthwise convolutions in ``module`` ``DepthwiseConv2d``, in place; their weights and names stay."""
    for conv in module.modules():
        if (
            type(conv) is nn.Conv2d
            and conv.groups == conv.in_channels == conv.out_channels
            and conv.bias is None
            and conv.padding_mode == "zeros"
            and not isinstance(conv.padding, str)
            and all(a == b for a, b in (conv.kernel_size, conv.stride, conv.padding, conv.dilation))
        ):
            conv.__class__ = DepthwiseConv2d


class _Depthwise(torch.autograd.Function):
    """A backward pass of differentiable operations: second derivatives (the Hessian in α) are right as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, dilation
        return F.conv2d(x, weight, None, stride, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (grad,), (x, weight), (stride, padding, dilation) = gradients, ctx.saved_tensors, ctx.geometry
        channels, _, kernel, _ = weight.shape
        need_x, need_weight = ctx.needs_input_grad[:2]
        grad_x = grad_weight = None
        if need_x and stride == 1 and 2 * padding == dilation * (kernel - 1):
            grad_x, need_x = F.conv2d(grad, weight.flip(2, 3), None, 1, padding, dilation, channels), False
        if need_weight and grad.shape[-1] <= _WIDEST:
            # dw[u, v] = Σ over images, i and j of grad[i, j] · padded x[i · stride + u · dilation, and so for j and v]:
            # a convolution of x with grad as its kernel, stride and dilation in each other's place.
            images, kernels = _side_by_side(x), _side_by_side(grad).transpose(0, 1)
            each = F.conv2d(images, kernels, None, dilation, padding, stride, len(kernels))
            each = each[0, :, :kernel, :kernel].unflatten(0, (-1, channels))  # (B, C, k, k)
            grad_weight, need_weight = each.sum(0).unsqueeze(1), False
        if need_x or need_weight:
            slow_x, slow_weight, _ = torch.ops.aten.convolution_backward(
                grad, x, weight, None, [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], channels,
                [need_x, need_weight, False],
            )  # fmt: skip
            grad_x, grad_weight = slow_x if need_x else grad_x, slow_weight if need_weight else grad_weight
        return grad_x, grad_weight, None, None, None


def _side_by_side(x: Tensor) -> Tensor:
    """(B, C, H, W) to (1, B · C, H, W), each image with channels of its own, which are innermost in memory."""
    return x.permute(2, 3, 0, 1).flatten(2).permute(2, 0, 1).unsqueeze(0)
