"""The class's share of the power after calibration: against links in which it is known what it should be."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdnas.codec import CAT
from kdnas.data import Splits
from kdnas.distill.calibrate import RAISES, calibrate_share
from kdnas.link import Conditions, Link, Outcome

CLASSES, SYMBOLS, COUNT = 4, 16, 400
AT: dict[str, Any] = {"snrs_db": [0.0, 10.0], "channels": ["awgn", "rayleigh"], "lengths": [8, SYMBOLS], "seed": 0}


class Told:
    """Lessons whose images are their own features, the class's axis; a teacher, where there is one, knows all."""

    def __init__(self, known: int = COUNT) -> None:
        self.labels = torch.arange(COUNT) % CLASSES
        images = torch.eye(CLASSES)[self.labels][:, :, None, None]
        self.dataset = SimpleNamespace(train_images=images, train_labels=self.labels, classes=list("abcd"))
        self.views = SimpleNamespace(apply=lambda pixels, ids, view: pixels)
        self.asked: list[Tensor] = []
        nothing = torch.zeros(0, dtype=torch.int64)
        self.splits = Splits(nothing, nothing, torch.arange(known), torch.arange(known, COUNT))

    def __call__(self, batch: Any, device: torch.device, pixels: bool) -> Any:
        self.asked.append(batch.ids)
        return SimpleNamespace(probabilities=torch.eye(CLASSES)[self.labels[batch.ids]])


class Known(Link):
    """One that answers those images right, or so many of them, which a test says of a raise and a point."""

    def __init__(self, right: Callable[[float, Conditions], float | Tensor]) -> None:
        codec = CAT(CLASSES, SYMBOLS, encoder={"classes": CLASSES}, decoder={"classes": CLASSES})
        super().__init__(nn.Flatten(), codec.encoder, codec.decoder, nn.Identity())
        self.right, self.heard = right, []  # type: ignore[var-annotated]
        self.eval()

    def through(self, features: Tensor, conditions: Conditions, generator: Any) -> Outcome:
        by, also = raises(self)
        assert by == also
        self.heard.append((by, conditions, generator))
        right = self.right(by, conditions)
        if isinstance(right, float):
            right = torch.arange(len(features)) < round(right * len(features))
        answered = torch.where(right[:, None], features, features.roll(1, 1))
        return Outcome(features, answered)


def raises(of: Link) -> list[float]:
    return [half.share.raised.item() for half in (of.channel_encoder, of.channel_decoder)]  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("best", RAISES)
def test_the_share_is_raised_to_where_most_is_answered_right(best: float) -> None:
    told, known = Told(), Known(lambda by, at: 0.9 - 0.1 * abs(by - best))
    known.channel_encoder.share.raised.fill_(7.0)  # type: ignore[union-attr, operator]
    known.channel_decoder.share.raised.fill_(7.0)  # type: ignore[union-attr, operator]
    assert calibrate_share(known, told, told.splits, **AT) == best  # type: ignore[arg-type]
    assert raises(known) == [best, best]


def test_every_channel_snr_and_length_counts_the_same_and_meets_the_same_noise_at_every_raise() -> None:
    told = Told()
    for weight, best in ((0.3, RAISES[-1]), (-0.3, 0.0)):  # much at one of the eight points, little against it
        known = Known(
            lambda by, at, w=weight: (
                0.5 + by / 4 * w if at.channels == ("rayleigh",) and at.length[0] == 8 and at.snr_db[0] == 10
                else 0.5 - by / 4 * w / 32
            )
        )  # fmt: skip
        assert calibrate_share(known, told, told.splits, **AT) == best  # type: ignore[arg-type]
    points = {(at.channels, float(at.snr_db[0]), int(at.length[0])) for _, at, _ in known.heard}
    assert points == {((c,), snr, n) for c in ("awgn", "rayleigh") for snr in (0.0, 10.0) for n in (8, SYMBOLS)}
    noises = [
        [(noise.draw, noise.seed) for by, _, noise in known.heard if by == wanted] for wanted in RAISES
    ]  # fmt: skip
    assert all(noise == noises[0] for noise in noises) and len(set(noises[0])) == 8


@pytest.mark.parametrize("won, lost, chosen", [(3, 2, 0.0), (30, 2, 1.0)])
def test_the_least_is_taken_that_is_within_a_standard_error_of_the_best(won: int, lost: int, chosen: float) -> None:
    told, image = Told(), torch.arange(COUNT)
    known = Known(lambda by, at: image < 200 if by == 0 else (image >= lost) & (image < 200 + won))
    assert calibrate_share(known, told, told.splits, **AT) == chosen  # type: ignore[arg-type]


@pytest.mark.parametrize("unlabelled", [True, False])
def test_the_teacher_judges_what_has_no_label_where_it_may(unlabelled: bool) -> None:
    told, known = Told(known=40), Known(lambda by, at: 0.5)
    calibrate_share(known, told, told.splits, **AT, unlabelled=unlabelled)  # type: ignore[arg-type]
    assert [len(ids) for ids in told.asked] == ([COUNT - 40] if unlabelled else [])
    assert len(known.heard[0][1].length) == (COUNT if unlabelled else 40)


def test_at_little_energy_the_word_answers_and_gets_more_power() -> None:
    """The real way through: a receiver that reads the word alone, where features and word share the power."""
    torch.manual_seed(0)
    codec = CAT(CLASSES, SYMBOLS, encoder={"classes": CLASSES}, decoder={"classes": CLASSES})
    classifier, answers = nn.Linear(CLASSES, CLASSES), nn.Linear(CLASSES, CLASSES)
    for layer, gain in ((classifier, 100.0), (codec.decoder.centres, 1.0), (answers, 1.0)):
        layer.weight.data.copy_(gain * torch.eye(CLASSES))
        layer.bias.data.zero_()
    codec.decoder.head.weight.data.zero_()
    codec.decoder.head.bias.data.zero_()
    codec.encoder.start_from(classifier)
    made, told = Link(nn.Flatten(), codec.encoder, codec.decoder, answers).eval(), Told()
    assert calibrate_share(made, told, told.splits, **AT) > 0  # type: ignore[arg-type]
    learned = torch.full((1, 1), codec.encoder.share.layer.bias.item())
    at = (torch.zeros(1, 16), torch.zeros(1), torch.tensor([1]))  # E / N_0 = 1
    assert torch.allclose(torch.logit(codec.encoder.share(*at)), learned + raises(made)[0], atol=1e-4)


def test_a_codec_without_words_is_left_as_it_is() -> None:
    words = {"classes": CLASSES}
    for codec in (
        CAT(CLASSES, SYMBOLS), CAT(CLASSES, SYMBOLS, encoder=words), CAT(CLASSES, SYMBOLS, decoder=words),
    ):  # fmt: skip
        told = Told()
        plain = Link(nn.Flatten(), codec.encoder, codec.decoder, nn.Linear(CLASSES, CLASSES)).eval()
        before = {name: value.clone() for name, value in plain.state_dict().items()}
        assert calibrate_share(plain, told, told.splits, **AT) == 0  # type: ignore[arg-type]
        assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
        assert not told.asked
