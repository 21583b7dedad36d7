"""What a slice of the tailoring hands on to the next."""

from typing import Any

import torch
from test_qos import device
from torch import nn

from kdnas.codec import CAT
from kdnas.config import Loss, make_settings
from kdnas.link import Link
from kdnas.tailor.student import Held, LinkStudent


class Trainer:
    """Trains nothing; writes down which classifiers it is given."""

    def __init__(self, told: list[dict[str, Any]]) -> None:
        self.told, self.kept = told, None

    def clean(self, encoder: nn.Module, loss: Loss, name: str, classifier: nn.Module) -> tuple[nn.Module, None]:
        self.told.append({"clean": classifier})
        return classifier, None

    def through_link(self, encoder: nn.Module, decoder: nn.Module, loss: None, codec: CAT, **how: Any) -> Link:
        self.told[-1] |= {"decoder": decoder, "sender": how["sender"]}
        return Link(encoder, codec.encoder, codec.decoder, decoder)


def test_both_ends_go_on_from_their_own_classifier() -> None:
    told: list[dict[str, Any]] = []
    held = Held(
        torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.arange(2), torch.tensor([0]), torch.full((2, 3), 1 / 3)
    )
    student = LinkStudent(
        nn.Flatten(), CAT(16, 4, encoder={"tokens": 2, "classes": 3}, decoder={"tokens": 2, "classes": 3}), device(),
        held, trainer=lambda number, steps: Trainer(told), loss=lambda rung: Loss(),  # type: ignore[arg-type, return-value]
        name="one", settings=make_settings({}).tailor, seed=0,
    )  # fmt: skip
    for _ in range(2):
        student.train(0, 10)
    first, second = told
    assert first["sender"] is first["clean"] is second["clean"] is second["sender"]  # reads what is sent
    assert first["decoder"] is second["decoder"] is not first["clean"]  # reads what arrives
    torch.testing.assert_close(first["decoder"].weight, first["clean"].weight)  # and began as the other
