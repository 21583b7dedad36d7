"""The gradients of the upper level: through the unrolled weight step, and the curvature that tells of collapse."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Loss = Callable[[], Tensor]
Average = Callable[[Sequence[Tensor]], list[Tensor]]


def _gradients(loss: Tensor, of: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """As ``torch.autograd.grad``, with zeros for what the loss does not depend on."""
    found = torch.autograd.grad(loss, list(of), create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(of, found, strict=True)]


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()


@contextmanager
def keeping_buffers(module: nn.Module) -> Iterator[None]:
    """Batch-norm statistics inside the block are gone after it: the passes in it are not training."""
    kept = [buffer.clone() for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(module.buffers(), kept, strict=True):
                buffer.copy_(value)


def unrolled_gradient(
    train: Loss,
    val: Loss,
    weights: Sequence[nn.Parameter],
    alphas: Sequence[nn.Parameter],
    rate: float,
    average: Average = list,
) -> tuple[Tensor, list[Tensor]]:
    """∇_α L_val(w - ξ ∇_w L_train(w, α), α), second order (DARTS, arXiv 1806.09055, eq. 7 and 8).

    The product of the mixed second derivative with ∇_w' L_val is a central difference of ∇_α L_train at
    w ± ε ∇_w' L_val, with ε = 0.01 / ||∇_w' L_val||. The weights stand as before when it returns.

    Args:
        train: L_train at the present values of all parameters, the same at every call.
        val: L_val likewise.
        weights: w.
        alphas: α.
        rate: ξ, the learning rate of the unrolled step of plain gradient descent.
        average: Gradients to their means over all processes, where several share a batch.

    Returns:
        L_val at the unrolled weights, and its gradient for each of ``alphas``.
    """
    start = [w.detach().clone() for w in weights]

    def put(steps: Sequence[Tensor], scale: float) -> None:
        with torch.no_grad():
            for w, w0, step in zip(weights, start, steps, strict=True):
                w.copy_(w0).add_(step, alpha=scale)

    try:
        put(average(_gradients(train(), weights)), -rate)
        loss = val()
        both = average(_gradients(loss, [*alphas, *weights]))
        direct, towards = both[: len(alphas)], both[len(alphas) :]
        norm = float(_dot(towards, towards)) ** 0.5
        if norm == 0:
            return loss.detach(), direct
        epsilon = 0.01 / norm
        put(towards, epsilon)
        above = average(_gradients(train(), alphas))
        put(towards, -epsilon)
        below = average(_gradients(train(), alphas))
    finally:
        put(start, 0.0)
    scale = rate / (2 * epsilon)
    return loss.detach(), [d - scale * (a - b) for d, a, b in zip(direct, above, below, strict=True)]


def dominant_eigenvalue(
    loss: Loss, alphas: Sequence[nn.Parameter], random: torch.Generator, iterations: int = 8
) -> float:
    """The eigenvalue of largest magnitude of ∇²_α L_val, by power iteration with exact products.

    It grows before a search collapses (Robust DARTS, arXiv 1909.09656).

    Args:
        loss: L_val at the present α.
        alphas: α.
        random: Draws the first vector.
        iterations: Products with the Hessian, each two backward passes.
    """
    gradients = _gradients(loss(), alphas, create_graph=True)
    vector = [torch.randn(a.shape, generator=random, dtype=torch.float64).to(a) for a in alphas]
    value = 0.0
    for _ in range(iterations):
        norm = _dot(vector, vector) ** 0.5
        if float(norm) == 0:
            return 0.0
        vector = [v / norm for v in vector]
        found = torch.autograd.grad(_dot(gradients, vector), list(alphas), retain_graph=True, allow_unused=True)
        product = [torch.zeros_like(a) if p is None else p for a, p in zip(alphas, found, strict=True)]
        value = float(_dot(product, vector))
        vector = product
    return value
