"""Losses against their closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdnas.errors import InputError
from kdnas.loss import KnowledgeLoss, cross_entropy, feature_error, soft_divergence

pytestmark = pytest.mark.usefixtures("float64")


def logits_and(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator), torch.randn(*shape, generator=generator)


def test_cross_entropy_is_the_mean_over_labelled_images() -> None:
    logits, _ = logits_and(5, 4)
    labels = torch.tensor([2, -1, 0, -1, 3])
    by_hand = [
        math.log(sum(math.exp(float(v)) for v in logits[i])) - float(logits[i, k]) for i, k in ((0, 2), (2, 0), (4, 3))
    ]
    assert float(cross_entropy(logits, labels)) == pytest.approx(sum(by_hand) / 3)
    # Unlabelled images neither count nor get a gradient.
    logits.requires_grad_()
    cross_entropy(logits, labels).backward()
    assert logits.grad is not None and not logits.grad[[1, 3]].any() and logits.grad[[0, 2, 4]].all()


def test_cross_entropy_of_no_label_is_zero_with_a_gradient_of_zero() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((3,), -1))
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None and not logits.grad.any()


def test_uniform_logits_cost_the_log_of_the_classes() -> None:
    assert float(cross_entropy(torch.zeros(7, 10), torch.arange(7))) == pytest.approx(math.log(10))


@settings(max_examples=30, deadline=None)
@given(temperature=st.floats(0.3, 10), seed=st.integers(0, 100))
def test_soft_divergence_is_that_of_the_softened_logits(temperature: float, seed: int) -> None:
    torch.set_default_dtype(torch.float64)
    student, teacher = logits_and(6, 5, seed=seed)
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    by_hand = (p * (p.log() - q.log())).sum(1).mean() * temperature**2
    got = soft_divergence(student, teacher.softmax(1), temperature)
    assert float(got) == pytest.approx(float(by_hand), rel=1e-6, abs=1e-12)
    assert float(got) >= -1e-12


def test_soft_divergence_is_zero_at_the_teacher_and_its_gradient_is_t_times_the_difference() -> None:
    student, teacher = logits_and(6, 5)
    assert float(soft_divergence(teacher + 3, teacher.softmax(1), 2.0)) == pytest.approx(0, abs=1e-12)
    student.requires_grad_()
    soft_divergence(student, teacher.softmax(1), 4.0).backward()
    difference = (student / 4).softmax(1) - (teacher / 4).softmax(1)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, 4 * difference.detach() / 6, rtol=1e-5, atol=1e-7)


def test_soft_divergence_bears_probabilities_of_zero() -> None:
    target = torch.tensor([[1.0, 0.0, 0.0]])
    assert torch.isfinite(soft_divergence(torch.tensor([[0.0, 5.0, -5.0]]), target, 2.0))


def test_the_feature_error_is_one_for_the_mean_and_zero_for_the_truth() -> None:
    features = 5 + 3 * torch.randn(4000, 6, generator=torch.Generator().manual_seed(0))
    mean, std = features.mean(0), features.std(0, unbiased=False)
    assert float(feature_error(torch.zeros(4000, 6), features, mean, std)) == pytest.approx(1)
    assert float(feature_error((features - mean) / std, features, mean, std)) == 0


def test_features_that_never_vary_do_not_divide_by_zero() -> None:
    features = torch.tensor([[1.0, 7.0], [3.0, 7.0]])
    mean, std = features.mean(0), features.std(0, unbiased=False)
    assert float(feature_error(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), features, mean, std)) == 0


class Case:
    """One batch and its three plain losses."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.z, self.logits = torch.randn(8, 4), torch.randn(8, 5)
        self.labels = torch.tensor([0, 1, 2, -1, -1, 3, 4, -1])
        self.features, self.probabilities = torch.randn(8, 6), torch.randn(8, 5).softmax(1)
        self.mean, self.std = torch.randn(6), torch.rand(6) + 0.5

    def loss(self, **weights: float) -> KnowledgeLoss:
        torch.manual_seed(1)
        return KnowledgeLoss(4, 6, self.mean, self.std, **weights)

    def parts(self, loss: KnowledgeLoss) -> dict[str, Tensor]:
        return loss(self.z, self.logits, self.labels, self.features, self.probabilities)


def test_the_sum_is_weighted_by_name() -> None:
    case = Case()
    loss = case.loss(ce=0.3, kd=2.0, feature=0.7, logit=1.1, temperature=3.0)
    parts = case.parts(loss)
    assert set(parts) == {"ce", "feature", "logit", "loss"}
    assert torch.equal(parts["ce"], cross_entropy(case.logits, case.labels))
    assert torch.equal(parts["logit"], soft_divergence(case.logits, case.probabilities, 3.0))
    assert torch.equal(parts["feature"], feature_error(loss.projector(case.z), case.features, case.mean, case.std))
    by_hand = 0.3 * parts["ce"] + 2 * (0.7 * parts["feature"] + 1.1 * parts["logit"])
    torch.testing.assert_close(parts["loss"], by_hand)


@pytest.mark.parametrize(
    ("weights", "names"),
    [
        ({"kd": 0.0}, {"ce"}),
        ({"feature": 0.0}, {"ce", "logit"}),
        ({"logit": 0.0}, {"ce", "feature"}),
        ({"ce": 0.0}, {"feature", "logit"}),
    ],
)
def test_a_term_without_weight_is_not_computed(weights: dict[str, float], names: set[str]) -> None:
    case = Case()
    loss = case.loss(**weights)
    assert set(case.parts(loss)) == names | {"loss"}
    assert loss.needs_teacher == bool(names & {"feature", "logit"})
    if not loss.needs_teacher:
        alone = loss(case.z, case.logits, case.labels, None, None)
        assert torch.equal(alone["loss"], cross_entropy(case.logits, case.labels))


def test_a_loss_without_any_weight_is_refused() -> None:
    for weights in ({"ce": 0.0, "kd": 0.0}, {"ce": 0.0, "feature": 0.0, "logit": 0.0}):
        with pytest.raises(InputError, match="no loss has a weight"):
            Case().loss(**weights)


def test_the_projector_learns_and_the_statistics_are_kept() -> None:
    case = Case()
    loss = case.loss()
    case.parts(loss)["loss"].backward()
    assert loss.projector.weight.grad is not None and loss.projector.weight.grad.any()
    assert set(loss.state_dict()) == {"projector.weight", "projector.bias", "mean", "std"}
    assert loss.mean.data_ptr() != case.mean.data_ptr()
