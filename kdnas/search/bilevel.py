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

    Eq. 8 takes the product of the mixed second derivative with ∇_w' L_val as a central difference. On networks with
    ReLUs the difference crosses their kinks, and its error is larger than the correction; the exact product, by a
    second backward pass, costs the same. The weights stand as before when it returns.

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
        put(start, 0.0)
        slopes = _gradients(train(), weights, create_graph=True)
        along = _dot(slopes, towards)
        mixed = average(_gradients(along, alphas)) if along.requires_grad else [torch.zeros_like(a) for a in alphas]
    finally:
        put(start, 0.0)
    return loss.detach(), [d - rate * m for d, m in zip(direct, mixed, strict=True)]


def dominant_eigenvalue(
    loss: Loss, alphas: Sequence[nn.Parameter], random: torch.Generator, iterations: int = 8
) -> float:
    """The eigenvalue of largest magnitude of ∇²_α L_val, by the Lanczos iteration with exact products.

    It grows before a search collapses (Robust DARTS, arXiv 1909.09656). From the same products, Lanczos is far closer
    than the power iteration where the two ends of the spectrum are alike, as they are here.

    Args:
        loss: L_val at the present α.
        alphas: α.
        random: Draws the first vector.
        iterations: Products with the Hessian, each a backward pass through the gradient.
    """
    gradients = _gradients(loss(), alphas, create_graph=True)
    if not any(gradient.requires_grad for gradient in gradients):
        return 0.0  # the loss is linear in α
    flat = torch.cat([gradient.flatten() for gradient in gradients])

    def product(vector: Tensor) -> Tensor:
        found = torch.autograd.grad(flat @ vector.to(flat), list(alphas), retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(a) if p is None else p for a, p in zip(alphas, found, strict=True)]
        return torch.cat([part.flatten() for part in parts]).double().cpu()

    vector = torch.randn(len(flat), generator=random, dtype=torch.float64)
    basis = (vector / vector.norm()).unsqueeze(0)  # (steps so far, n), orthonormal
    projected = torch.zeros(iterations, iterations, dtype=torch.float64)
    steps = min(iterations, len(flat))
    for i in range(steps):
        new = product(basis[i])
        along = basis @ new
        projected[: i + 1, i] = projected[i, : i + 1] = along
        for _ in range(2):  # twice: once loses orthogonality to rounding
            new = new - basis.T @ (basis @ new)
        if float(new.norm()) <= 1e-10 * float(projected.abs().max()) or i + 1 == steps:
            break
        basis = torch.cat([basis, (new / new.norm()).unsqueeze(0)])
    values = torch.linalg.eigvalsh(projected[: i + 1, : i + 1])
    return float(values[values.abs().argmax()])
