"""The variational information bottleneck: features become noisy, and a term bounds how much they tell of the image.

Minimising CE + beta * KL(p(t|x) || r(t)) bounds I(t; x) from above and I(t; y) from below (Alemi et al., arXiv
1612.00410; for communication: variational feature encoding, arXiv 2102.04170; robust IB, arXiv 2209.10382). Here
t = z + sigma * noise with learned sigma(z). Through the link z is what the channel decoder gives, itself random by
the channel's noise n: as KL is convex, E_n KL(p(t|x, n) || r) is not below the wanted KL(p(t|x, SNR) || r).
"""

from typing import Literal

import torch
from torch import Tensor, nn


def gaussian_rate(mean: Tensor, log_std: Tensor, prior_mean: Tensor, prior_log_std: Tensor) -> Tensor:
    """KL(N(mean, std²) || N(prior_mean, prior_std²)) of each dimension, in nats; any shapes that broadcast."""
    variance = (2 * (log_std - prior_log_std)).exp()
    shift = ((mean - prior_mean) / prior_log_std.exp()).square()
    return 0.5 * (variance + shift - 1) - (log_std - prior_log_std)


# Of the sigmoid fit of Molchanov et al., arXiv 1701.05369, eq. 14.
_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695


def log_uniform_rate(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, std²) || log-uniform) of each dimension, in nats, less its least value.

    The prior is improper, so only differences mean something: 0 is a dimension that is all noise. Its weight falls
    on dimensions with a high mean against their noise, which prunes dimensions one by one. The closed form is the fit
    of arXiv 1701.05369, eq. 14 (error below 0.02 nats).
    """
    log_alpha = 2 * log_std - (mean.square() + 1e-8).log()
    gained = _K1 * torch.sigmoid(_K2 + _K3 * log_alpha) - 0.5 * nn.functional.softplus(-log_alpha) - _K1
    return -gained


class Bottleneck(nn.Module):
    """Adds learned noise to features and measures the rate that is left.

    Args:
        dim: D.
        prior: ``learned`` is a Gaussian whose mean and variance are learned per dimension; ``log-uniform`` is fixed.
    """

    def __init__(self, dim: int, prior: Literal["learned", "log-uniform"] = "learned") -> None:
        super().__init__()
        self.log_std = nn.Linear(dim, dim)
        nn.init.zeros_(self.log_std.weight)
        nn.init.constant_(self.log_std.bias, -2.0)  # little noise to begin with: the task comes first
        self.prior = (
            nn.ParameterDict({"mean": nn.Parameter(torch.zeros(dim)), "log_std": nn.Parameter(torch.zeros(dim))})
            if prior == "learned"
            else None
        )

    def forward(self, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Noisy features (B, D), and the rate: the mean over batch and dimensions, in nats per dimension.

        Args:
            z: (B, D).
            generator: Of the noise, on any device.
        """
        log_std = self.log_std(z).clamp(-6.0, 3.0)
        noise = torch.randn(z.shape, generator=generator, device=generator.device, dtype=z.dtype).to(z.device)
        if self.prior is None:
            rate = log_uniform_rate(z, log_std)
        else:
            rate = gaussian_rate(z, log_std, self.prior["mean"], self.prior["log_std"])
        return z + log_std.exp() * noise, rate.mean()
