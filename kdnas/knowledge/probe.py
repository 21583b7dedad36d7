"""The linear probe: multinomial logistic regression on features that do not move."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def fit_probe(
    features: Tensor, labels: Tensor, classes: int, *, penalty: float = 1e-2, iterations: int = 60
) -> nn.Linear:
    """Fit a linear classifier by L-BFGS; the problem is convex, so no seed and no schedule matter.

    Minimises the mean cross-entropy plus ``penalty`` times the squared weights, on features standardised
    here; the standardisation then becomes part of the layer that is returned.

    Args:
        features: (N, F).
        labels: (N,) int64, in [0, classes).
        classes: How many there are.
        penalty: Weight of the squared weights (of the standardised problem).
        iterations: Of L-BFGS at most.

    Returns:
        Linear, F to ``classes``.
    """
    mean, std = features.mean(0), features.std(0).clamp_min(1e-3)
    standard = (features - mean) / std
    weight = torch.zeros(features.shape[1], classes, device=features.device, requires_grad=True)
    bias = torch.zeros(classes, device=features.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(standard @ weight + bias, labels) + penalty * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    layer = nn.Linear(features.shape[1], classes, device=features.device)
    with torch.no_grad():
        layer.weight.copy_((weight / std[:, None]).T)
        layer.bias.copy_(bias - (mean / std) @ weight)
    return layer
