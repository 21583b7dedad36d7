"""Batch normalisation whose statistics of training are those of all ranks' images, with the right gradient."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnas.run import ranks


class RankBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` of the concatenation of all ranks' batches; ``ranks.synchronise`` makes them."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W); B may differ between the ranks."""
        if not self.training or ranks.world() == 1:
            return super().forward(x)
        result, mean, var, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                # Without a momentum the plain mean over batches, as in nn.BatchNorm2d.
                share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(var * (count / (count - 1)), share)
        return result


class _Normalise(torch.autograd.Function):
    """Both passes by torch's own kernels for fixed statistics, and one exchange between the ranks each."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, float]:
        channels = x.shape[1]
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        own = torch.cat([mean, var, mean.new_full((1,), x.numel() / channels)])
        means, variances, counts = ranks.every(own).split([channels, channels, 1], 1)  # a row for each rank
        count = counts.sum()
        mean = (means * counts).sum(0) / count
        # A rank's second moment about the common mean, which cancels less than E[x²] - E[x]².
        var = ((variances + (means - mean).square()) * counts).sum(0) / count
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, var, float(count)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, mean, var, count = ctx.saved_tensors
        if torch.is_grad_enabled():  # this pass will be differentiated itself, as in the second order
            return _differentiable_gradients(gradients[0], x, weight, count, ctx.eps)
        inverse = (var + ctx.eps).rsqrt()
        grad, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, weight, mean, var, mean, inverse, False, ctx.eps, [ctx.needs_input_grad[0], True, True]
        )
        if ctx.needs_input_grad[0]:
            # With x̂ = (x - mean) · inverse: dx = w · inverse · (dy - E[dy] - x̂ · E[dy · x̂]), the means over all ranks.
            of_one, of_x = (ranks.total(torch.cat([grad_bias, grad_weight])) / count).split(len(mean))
            scale = inverse if weight is None else inverse * weight
            slope = -scale * of_x * inverse
            shift = -scale * of_one - slope * mean
            grad = torch.addcmul(grad + shift[:, None, None], x, slope[:, None, None])
        return grad, grad_weight, grad_bias, None


class _Total(torch.autograd.Function):
    """The sum over all ranks; so is its gradient, of the sum of what they compute from it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return ranks.total(x.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        result: Tensor = _Total.apply(gradients[0])
        return result


def _differentiable_gradients(
    grad: Tensor, x: Tensor, weight: Tensor | None, count: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, None]:
    """As ``_Normalise.backward``, of operations alone, so that what depends on x through the statistics is in it."""
    places = (0, 2, 3)

    def mean(value: Tensor) -> Tensor:
        total: Tensor = _Total.apply(value.sum(places))
        return (total / count)[:, None, None]

    centred = x - mean(x)
    inverse = (mean(centred.square()) + eps).rsqrt()
    normal = centred * inverse
    scale = inverse if weight is None else inverse * weight[:, None, None]
    grad_x = scale * (grad - mean(grad) - normal * mean(grad * normal))
    return grad_x, (grad * normal).sum(places), grad.sum(places), None
