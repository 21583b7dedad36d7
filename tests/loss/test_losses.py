"""Losses against their closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdnas import config
from kdnas.errors import InputError
from kdnas.loss import (
    KnowledgeLoss,
    angle_error,
    cosine_error,
    cross_entropy,
    decoupled_divergence,
    distance_error,
    feature_error,
    soft_divergence,
    spread,
    standardised,
    superclass_divergence,
    top_k_divergence,
)

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


def test_the_divergence_from_a_top_k_posterior_is_that_from_the_posterior_with_the_missing_mass_spread() -> None:
    student, teacher = logits_and(6, 7)
    top, index = teacher.softmax(1).topk(3, dim=1)
    rest = (1 - top.sum(1, keepdim=True)) / 4
    whole = rest.expand(-1, 7).clone().scatter_(1, index, top)
    torch.testing.assert_close(spread(top, index, 7), whole)
    torch.testing.assert_close(top_k_divergence(student, top, index, 2.0), soft_divergence(student, whole, 2.0))


def test_superclasses_sum_the_probabilities_of_their_classes() -> None:
    student, teacher = logits_and(6, 5)
    superclasses = torch.tensor([0, 1, 0, 2, 1])
    p, q = (torch.stack([v.softmax(1)[:, superclasses == g].sum(1) for g in range(3)], 1) for v in (teacher, student))
    by_hand = (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(superclass_divergence(student, teacher.softmax(1), superclasses, 1.0), by_hand)
    # One superclass for each class is the plain divergence; a single one knows nothing.
    plain = soft_divergence(student, teacher.softmax(1), 3.0)
    torch.testing.assert_close(superclass_divergence(student, teacher.softmax(1), torch.arange(5), 3.0), plain)
    assert float(superclass_divergence(student, teacher.softmax(1), torch.zeros(5).long(), 3.0)) == pytest.approx(0)


@settings(max_examples=25)
@given(temperature=st.floats(0.5, 6), beta=st.floats(0, 8), seed=st.integers(0, 100))
def test_decoupled_parts_by_hand(temperature: float, beta: float, seed: int) -> None:
    torch.set_default_dtype(torch.float64)
    student, teacher = logits_and(4, 5, seed=seed)
    labels = torch.tensor([2, -1, 0, -1])
    total = 0.0
    for s, t, label in zip(student / temperature, teacher / temperature, labels, strict=True):
        target = int(label) if label >= 0 else int(t.argmax())
        p, q = t.softmax(0), s.softmax(0)
        total += float(
            p[target] * (p[target] / q[target]).log() + (1 - p[target]) * ((1 - p[target]) / (1 - q[target])).log()
        )
        others = [k for k in range(5) if k != target]
        a, b = t[others].softmax(0), s[others].softmax(0)
        total += beta * float((a * (a / b).log()).sum())
    got = decoupled_divergence(student, teacher.softmax(1), labels, temperature, beta)
    assert float(got) == pytest.approx(total * temperature**2 / 4, rel=1e-5, abs=1e-8)


def test_the_decoupled_divergence_is_the_plain_one_where_the_rest_has_the_teachers_own_weight() -> None:
    # arXiv 2203.08679, eq. 6: KD = target part + (1 - p_target) * the others' part.
    student, teacher = logits_and(1, 6)
    label = torch.tensor([3])
    outside = 1 - float(teacher.softmax(1)[0, 3])
    got = decoupled_divergence(student, teacher.softmax(1), label, 1.0, beta=outside)
    torch.testing.assert_close(got, soft_divergence(student, teacher.softmax(1), 1.0), rtol=1e-6, atol=1e-9)


def test_the_feature_error_is_one_for_the_mean_and_zero_for_the_truth() -> None:
    features = 5 + 3 * torch.randn(4000, 6, generator=torch.Generator().manual_seed(0))
    target = standardised(features, features.mean(0), features.std(0, unbiased=False))
    assert float(feature_error(torch.zeros(4000, 6), target)) == pytest.approx(1)
    assert float(feature_error(target, target)) == 0


def test_features_that_never_vary_do_not_divide_by_zero() -> None:
    features = torch.tensor([[1.0, 7.0], [3.0, 7.0]])
    target = standardised(features, features.mean(0), features.std(0, unbiased=False))
    assert torch.equal(target, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))


def test_the_cosine_error_looks_at_directions_alone() -> None:
    one, other = logits_and(200, 50)
    assert float(cosine_error(3 * one, one)) == pytest.approx(0, abs=1e-12)
    assert float(cosine_error(-one, one)) == pytest.approx(2)
    # Unrelated vectors: each cosine has standard deviation 1 / sqrt(50), 200 of them; within 4 standard errors.
    assert abs(float(cosine_error(one, other)) - 1) < 4 / math.sqrt(50 * 200)


def test_relations_by_distance_and_angle_by_hand() -> None:
    one, other = logits_and(7, 3)

    def distances(z: Tensor) -> Tensor:
        d = torch.tensor([[float((a - b).square().sum()) ** 0.5 for b in z] for a in z])
        return d / (d.sum() / 42)

    def cosines(z: Tensor) -> Tensor:
        def cosine(i: int, j: int, k: int) -> float:
            a, b = z[i] - z[j], z[k] - z[j]
            size = float(a.norm() * b.norm())
            return float(a @ b) / size if size else 0.0

        return torch.tensor([[[cosine(i, j, k) for k in range(7)] for i in range(7)] for j in range(7)])

    def huber(a: Tensor, b: Tensor) -> Tensor:
        e = (a - b).abs()
        return torch.where(e < 1, e.square() / 2, e - 0.5).mean()

    def relative(a: Tensor, b: Tensor) -> Tensor:
        return huber(a, b) / huber(b.mean().expand_as(b), b)

    torch.testing.assert_close(distance_error(one, other), relative(distances(one), distances(other)))
    torch.testing.assert_close(angle_error(one, other), relative(cosines(one), cosines(other)))


@pytest.mark.parametrize("error", [distance_error, angle_error])
def test_relations_do_not_see_scale_shift_rotation_or_further_dimensions(error: object) -> None:
    one, _ = logits_and(40, 6)
    turned = torch.cat([(one @ torch.linalg.qr(logits_and(6, 6)[0])[0]) * 7 + 2, torch.zeros(40, 3)], 1)
    assert float(error(one, turned)) == pytest.approx(0, abs=1e-12)  # type: ignore[operator]


@pytest.mark.parametrize("error", [distance_error, angle_error])
def test_relations_have_a_finite_right_gradient_even_between_equal_images(error: object) -> None:
    one, other = logits_and(5, 3)
    assert torch.autograd.gradcheck(lambda z: error(z, other), one.requires_grad_())  # type: ignore[operator]
    twin = one.detach()[[0, 0, 1, 2]].requires_grad_()
    error(twin, other[:4]).backward()  # type: ignore[operator]
    assert twin.grad is not None and twin.grad.isfinite().all() and twin.grad.any()


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
        superclasses = torch.tensor([0, 1, 1, 0, 2])
        return KnowledgeLoss(config.Loss(**weights), 4, self.mean, self.std, superclasses)  # type: ignore[arg-type]

    def parts(self, loss: KnowledgeLoss) -> dict[str, Tensor]:
        return loss(self.z, self.logits, self.labels, self.features, self.probabilities)


def test_the_sum_is_weighted_by_name() -> None:
    case = Case()
    terms = {
        "feature": 0.7, "cosine": 0.2, "logit": 1.1, "decoupled": 0.4, "superclass": 0.6, "distance": 0.5, "angle": 0.9,
    }  # fmt: skip
    loss = case.loss(ce=0.3, kd=2.0, temperature=3.0, decoupled_beta=1.5, **terms)
    parts = case.parts(loss)
    target = standardised(case.features, case.mean, case.std)
    projected = loss.projector(case.z)
    own = {
        "ce": cross_entropy(case.logits, case.labels),
        "feature": feature_error(projected, target),
        "cosine": cosine_error(projected, target),
        "logit": soft_divergence(case.logits, case.probabilities, 3.0),
        "decoupled": decoupled_divergence(case.logits, case.probabilities, case.labels, 3.0, 1.5),
        "superclass": superclass_divergence(case.logits, case.probabilities, torch.tensor([0, 1, 1, 0, 2]), 3.0),
        "distance": distance_error(case.z, target),
        "angle": angle_error(case.z, target),
    }
    assert set(parts) == {*own, "loss"}
    for name, value in own.items():
        assert torch.equal(parts[name], value), name
    torch.testing.assert_close(parts["loss"], 0.3 * own["ce"] + 2 * sum(terms[name] * own[name] for name in terms))


TERMS = ("feature", "cosine", "logit", "decoupled", "superclass", "distance", "angle")
OFF = dict.fromkeys(TERMS, 0.0)


@pytest.mark.parametrize("names", [(), *((name,) for name in TERMS), TERMS], ids=str)
def test_a_term_without_weight_is_not_computed(names: tuple[str, ...]) -> None:
    case = Case()
    loss = case.loss(**OFF | dict.fromkeys(names, 1.0))
    assert set(case.parts(loss)) == {"ce", *names, "loss"}
    assert loss.needs_teacher == bool(names)
    if not names:
        alone = loss(case.z, case.logits, case.labels, None, None)
        assert torch.equal(alone["loss"], cross_entropy(case.logits, case.labels))
    assert not case.loss(**OFF | dict.fromkeys(names, 1.0) | {"kd": 0.0}).needs_teacher


def test_every_weight_in_the_settings_is_of_a_part() -> None:
    not_weights = {"kd", "temperature", "decoupled_beta", "prior"}
    assert set(config.Loss.model_fields) - not_weights == set(Case().loss().weights)


def test_consistency_pulls_to_the_posterior_without_a_channel_alone() -> None:
    case = Case()
    loss = case.loss(kd=0.0, ce=1e-9, consistency=2.0, temperature=1.5)
    clean = torch.randn(8, 5, requires_grad=True)
    noisy = case.logits.clone().requires_grad_()
    parts = loss(case.z, noisy, case.labels, None, None, clean=clean)
    torch.testing.assert_close(parts["consistency"], soft_divergence(noisy, clean.softmax(1), 1.5))
    parts["loss"].backward()
    assert clean.grad is None and noisy.grad is not None and noisy.grad.any()
    assert "consistency" not in loss(case.z, noisy, case.labels, None, None)


def test_a_loss_without_any_weight_is_refused() -> None:
    for weights in ({"ce": 0.0, "kd": 0.0}, {"ce": 0.0, **OFF}, {"ce": 0.0, **OFF, "bottleneck": 1.0}):
        with pytest.raises(InputError, match="no loss has a weight"):
            Case().loss(**weights)


def test_superclasses_that_nobody_made_are_asked_for() -> None:
    with pytest.raises(InputError, match="needs superclasses"):
        KnowledgeLoss(config.Loss(superclass=1.0), 4, torch.zeros(6), torch.ones(6))  # type: ignore[call-arg]


def test_the_projector_learns_and_the_statistics_are_kept() -> None:
    case = Case()
    loss = case.loss()
    case.parts(loss)["loss"].backward()
    assert loss.projector.weight.grad is not None and loss.projector.weight.grad.any()
    assert set(loss.state_dict()) == {"projector.weight", "projector.bias", "mean", "std"}
    assert loss.mean.data_ptr() != case.mean.data_ptr()


def test_gradient_norms_are_those_of_each_weighted_part() -> None:
    case = Case()
    loss = case.loss(ce=0.5, kd=2.0, feature=0.7, logit=0.4)
    head = torch.nn.Linear(4, 5)
    z = case.z.requires_grad_()

    def parts() -> dict[str, Tensor]:
        return loss(z, head(z), case.labels, case.features, case.probabilities)

    norms = loss.gradient_norms(parts(), z)
    assert set(norms) == {"ce", "feature", "logit"}
    for name, weight in (("ce", 0.5), ("feature", 1.4), ("logit", 0.8)):
        (alone,) = torch.autograd.grad(parts()[name], z)
        torch.testing.assert_close(norms[name], weight * alone.norm())
