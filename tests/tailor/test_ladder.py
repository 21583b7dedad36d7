import pytest
import torch

from kdnas import config
from kdnas.config import make_settings
from kdnas.errors import InputError
from kdnas.loss import KnowledgeLoss
from kdnas.tailor.ladder import RUNGS, rung_loss, units_per_step

WEIGHTS = make_settings().tailor.weights


def test_units_are_the_numbers_that_a_step_matches() -> None:
    batch = 8
    pairs = len([(i, j) for i in range(batch) for j in range(i)])
    one = units_per_step(batch, superclasses=3, classes=10, features=100)
    assert one == (24, 24 + 80, 24 + 80 + pairs, 24 + 80 + pairs + 800)


def test_each_rung_adds_its_terms_to_the_loss_and_nothing_else() -> None:
    groups = torch.tensor([0, 0, 1])
    z, logits, features = torch.randn(5, 4), torch.randn(5, 3), torch.randn(5, 6)
    before: set[str] = set()
    added = []
    for rung in (None, *range(len(RUNGS))):
        settings = rung_loss(rung, WEIGHTS, 2.0)
        loss = KnowledgeLoss(settings, 4, torch.zeros(6), torch.ones(6), superclasses=groups)
        parts = set(loss(z, logits, torch.tensor([0, 1, 2, -1, -1]), features, torch.rand(5, 3).softmax(1)))
        assert parts > before and loss.needs_teacher == (rung is not None)
        added.append(parts - before)
        before = parts
    assert added == [{"ce", "loss"}, {"superclass"}, {"logit"}, {"distance", "angle"}, {"feature"}]


def test_no_term_of_the_settings_is_forgotten() -> None:
    """A term that the ladder does not know would be on at every rung by its default."""
    weights = set(config.Loss.model_fields) - {"temperature", "decoupled_beta", "prior", "ce", "kd"}
    off = rung_loss(None, WEIGHTS, 2.0).model_dump()
    assert all(off[name] == 0 for name in weights) and off["kd"] == 0 and off["ce"] == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"tailor.weights.cosine": 1.0}, "terms of the ladder"),
        ({"tailor.weights": {"logit": 1.0}}, "terms of the ladder"),
        ({"tailor.weights.logit": 0.0}, "every rung"),
        ({"tailor.systems": ["static", "static"]}, "once"),
        ({"tailor.confidence": 0.4}, "tailor.confidence"),
    ],
)
def test_settings_of_the_ladder_are_checked(given: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        make_settings(given)
