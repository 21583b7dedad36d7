"""The class's share of the power after calibration: against links in which it is known what it should be."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdnas.codec import CAT
from kdnas.data import Splits
from kdnas.distill.calibrate import RAISES, calibrate_share
from kdnas.link import Link

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


def link(words_say: int) -> Link:
    """One whose receiver believes the word alone, and answers the class that is ``words_say`` further."""
    torch.manual_seed(0)
    codec = CAT(CLASSES, SYMBOLS, encoder={"classes": CLASSES}, decoder={"classes": CLASSES})
    classifier, answers = nn.Linear(CLASSES, CLASSES), nn.Linear(CLASSES, CLASSES)
    with torch.no_grad():
        for layer, weight in (
            (classifier, 100 * torch.eye(CLASSES)),
            (codec.decoder.centres, torch.eye(CLASSES)),
            (answers, torch.eye(CLASSES).roll(words_say, 0)),
        ):
            layer.weight.copy_(weight)
            layer.bias.zero_()
        codec.decoder.head.weight.zero_()
        codec.decoder.head.bias.zero_()
    codec.encoder.start_from(classifier)
    return Link(nn.Flatten(), codec.encoder, codec.decoder, answers).eval()


def biases(of: Link) -> list[float]:
    return [half.share.layer.bias.item() for half in (of.channel_encoder, of.channel_decoder)]  # type: ignore[union-attr, operator]


def test_the_class_gets_more_power_where_its_word_is_right_and_no_more_where_it_is_wrong() -> None:
    for said, wanted in ((0, lambda by: by > 0), (1, lambda by: by == 0)):
        made, told = link(said), Told()
        before = biases(made)
        by = calibrate_share(made, told, told.splits, **AT)  # type: ignore[arg-type]
        assert by in RAISES and wanted(by)
        assert biases(made) == pytest.approx([bias + by for bias in before])


def test_what_is_chosen_is_where_nothing_more_is_gained() -> None:
    made, told = link(0), Told()
    chosen = calibrate_share(made, told, told.splits, **AT)  # type: ignore[arg-type]
    assert chosen == calibrate_share(link(0), told, told.splits, **AT)  # type: ignore[arg-type]
    assert chosen == RAISES[-1] or calibrate_share(made, told, told.splits, **AT) == 0  # type: ignore[arg-type]
    for half in (made.channel_encoder, made.channel_decoder):
        half.share.layer.bias.data.fill_(100.0)  # type: ignore[union-attr, operator]
    # Where the word has all of the power every raise is worth the same: the least is taken.
    assert calibrate_share(made, told, told.splits, **AT) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("teacher", [True, False])
def test_the_teacher_judges_what_has_no_label_where_it_may(teacher: bool) -> None:
    told = Told(known=40)
    assert calibrate_share(link(0), told, told.splits, **AT, unlabelled=teacher) > 0  # type: ignore[arg-type]
    assert [len(ids) for ids in told.asked] == ([COUNT - 40] if teacher else [])


def test_a_codec_without_words_is_left_as_it_is() -> None:
    for decoder in ({}, {"classes": CLASSES}):  # without a classifier in the transmitter no word is sent
        _is_left_alone(CAT(CLASSES, SYMBOLS, decoder=decoder))
    _is_left_alone(CAT(CLASSES, SYMBOLS, encoder={"classes": CLASSES}))


def _is_left_alone(codec: CAT) -> None:
    told = Told()
    plain = Link(nn.Flatten(), codec.encoder, codec.decoder, nn.Linear(CLASSES, CLASSES)).eval()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    assert calibrate_share(plain, told, told.splits, **AT) == 0  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert not told.asked
