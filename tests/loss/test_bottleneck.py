"""The information bottleneck: closed forms against Monte Carlo, and what it does to training."""

import math

import pytest
import torch
from torch import nn

from kdnas import config
from kdnas.loss import Bottleneck, KnowledgeLoss, gaussian_rate, log_uniform_rate

pytestmark = pytest.mark.usefixtures("float64")
DRAWS = 400_000


def draws(mean: float, std: float) -> torch.Tensor:
    return mean + std * torch.randn(DRAWS, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("mean", "std", "prior"), [(0.0, 1.0, (0.0, 1.0)), (1.5, 0.3, (0.2, 2.0)), (-2, 3, (1, 0.5))])
def test_the_gaussian_rate_is_what_monte_carlo_says(mean: float, std: float, prior: tuple[float, float]) -> None:
    p, r = torch.distributions.Normal(mean, std), torch.distributions.Normal(*prior)
    x = draws(mean, std)
    ratio = p.log_prob(x) - r.log_prob(x)
    closed = gaussian_rate(*(torch.tensor(float(v)) for v in (mean, math.log(std), prior[0], math.log(prior[1]))))
    error = 4 * float(ratio.std()) / math.sqrt(DRAWS)  # four standard errors
    assert abs(float(closed) - float(ratio.mean())) <= error + 1e-12
    library = torch.distributions.kl_divergence(p, r)
    torch.testing.assert_close(closed, library.to(closed.dtype), rtol=1e-6, atol=1e-12)


def test_the_log_uniform_rate_is_what_monte_carlo_says() -> None:
    # KL = -entropy + E ln|x| + const; the constant is the value of a pure noise, mean 0.
    def estimate(mean: float, std: float) -> float:
        return -math.log(std) + float(draws(mean, std).abs().log().mean())

    nothing = estimate(0.0, 1.0)
    for mean, std in ((1.0, 2.0), (1.0, 1.0), (1.0, 0.5), (2.0, 0.2), (-3.0, 0.1)):
        closed = float(log_uniform_rate(torch.tensor(mean), torch.tensor(math.log(std))))
        # The fit of the closed form errs by up to 0.02 nats; the estimate's standard error is 0.002.
        assert closed == pytest.approx(estimate(mean, std) - nothing, abs=0.03), (mean, std)


def test_the_log_uniform_rate_is_zero_for_noise_and_rises_with_the_signal() -> None:
    rate = log_uniform_rate(torch.tensor([0.0, 0.1, 1.0, 10.0, 100.0]), torch.zeros(5))
    assert abs(float(rate[0])) < 0.01 and (rate.diff() > 0).all()


@pytest.mark.parametrize("prior", ["learned", "log-uniform"])
def test_the_noise_has_the_learned_size_and_follows_the_generator(prior: str) -> None:
    bottleneck = Bottleneck(3, prior)  # type: ignore[arg-type]
    nn.init.constant_(bottleneck.log_std.bias, math.log(0.5))
    z = torch.tensor([[1.0, -2.0, 0.0]]).expand(60_000, 3)
    told, rate = bottleneck(z, torch.Generator().manual_seed(3))
    again, _ = bottleneck(z, torch.Generator().manual_seed(3))
    other, _ = bottleneck(z, torch.Generator().manual_seed(4))
    assert torch.equal(told, again) and not torch.equal(told, other)
    noise = told - z
    # Four standard errors of a mean and of a standard deviation over 60,000 draws.
    assert (noise.mean(0).abs() < 4 * 0.5 / math.sqrt(60_000)).all()
    assert ((noise.std(0) - 0.5).abs() < 4 * 0.5 / math.sqrt(2 * 60_000)).all()
    assert rate.ndim == 0 and bool(rate > 0)


@pytest.mark.parametrize("prior", ["learned", "log-uniform"])
def test_a_heavier_bottleneck_leaves_less_rate(prior: str) -> None:
    """Two classes told by the first of four dimensions: with a heavy rate the other three lose theirs, not that one."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (256,), generator=draw)
    images = torch.randn(256, 4, generator=draw)
    images[:, 0] = 2.0 * labels - 1

    def rates(weight: float) -> tuple[float, float]:
        torch.manual_seed(0)
        loss = KnowledgeLoss(config.Loss(kd=0.0, bottleneck=weight, prior=prior), 4, torch.zeros(1), torch.ones(1))  # type: ignore[call-arg,arg-type]
        encoder, head = nn.Linear(4, 4), nn.Linear(4, 2)
        optimiser = torch.optim.Adam([*encoder.parameters(), *head.parameters(), *loss.parameters()], 0.03)
        for step in range(300):
            z = encoder(images)
            told, rate = loss.code(z, torch.Generator().manual_seed(step))
            parts = loss(z, head(told), labels, None, None, rate=rate)
            optimiser.zero_grad()
            parts["loss"].backward()
            optimiser.step()
        right = (head(encoder(images)).argmax(1) == labels).double().mean()
        return float(parts["bottleneck"]), float(right)

    light, heavy = rates(1e-4), rates(0.1)
    assert heavy[0] < 0.5 * light[0]
    assert min(light[1], heavy[1]) > 0.98


def test_without_a_weight_there_is_no_bottleneck() -> None:
    loss = KnowledgeLoss(config.Loss(), 4, torch.zeros(1), torch.ones(1))  # type: ignore[call-arg]
    z = torch.randn(3, 4)
    told, rate = loss.code(z, torch.Generator())
    assert told is z and rate is None and loss.bottleneck is None
