from typing import ClassVar

import pytest
import torch
from torch import nn

from kdnas.channel import ImageNoise, noise_for
from kdnas.codec import CAT
from kdnas.errors import InputError
from kdnas.evaluate import Point, accuracy_row, draws_ci95, evaluate_answers, evaluate_link, evaluate_teacher
from kdnas.link import Link, constant_conditions

GRID = {"channels": ["awgn", "rayleigh"], "snrs_db": [-5.0, 5.0], "lengths": [2, 8], "draws": 3}


class Counting(nn.Module):
    """Counts the samples that pass a module."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.seen = 0

    @property
    def symbols(self):
        return self.inner.symbols

    def forward(self, first, *rest):
        self.seen += len(first)
        return self.inner(first, *rest)


class Signs(nn.Module):
    """Sends the sign of the first feature in every symbol, as BPSK over I."""

    symbols = 8

    def forward(self, z, snr_db, length):
        sent = torch.arange(8) < length[:, None]
        return torch.complex(z[:, :1].sign() * sent, torch.zeros(len(z), 8))


class MatchedFilter(nn.Module):
    """The optimal receiver of ``Signs``."""

    def forward(self, y, snr_db, length, effective_snr_db):
        total = y.real.sum(1, keepdim=True)
        return torch.cat([-total, total], 1)


def bpsk_link():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    nn.init.constant_(encoder[1].weight, 1.0)
    nn.init.constant_(encoder[1].bias, -2.0)
    return Link(encoder, Signs(), MatchedFilter(), nn.Identity())


def bpsk_data(count):
    labels = torch.arange(count) % 2
    images = (labels * 255).to(torch.uint8)[:, None, None, None].expand(count, 1, 2, 2)
    return images, labels


def cat_link(seed=0):
    torch.manual_seed(seed)
    codec = CAT(4, 8)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Dropout(0.5))
    return Link(encoder, codec.encoder, codec.decoder, nn.Linear(4, 3))


def cat_data(count=40):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 3, (count,), generator=generator)


def test_accuracy_is_that_of_theory_for_bpsk():
    # P(right) = Phi(sqrt(2 k SNR)) over AWGN, and (1 + sqrt(kS / (1 + kS))) / 2 over Rayleigh block fading.
    images, labels = bpsk_data(2000)
    rows = evaluate_link(
        bpsk_link(), images, labels, system="kdnas", channels=["awgn", "rayleigh"], snrs_db=[-10, -5, 0],
        lengths=[1, 4], draws=8,
    )  # fmt: skip
    assert len(rows) == 12
    for row in rows:
        snr = row["symbols"] * 10 ** (row["snr_db"] / 10)
        if row["channel"] == "awgn":
            right = 0.5 * (1 + torch.erf(torch.tensor(snr) ** 0.5).item())
        else:
            right = 0.5 * (1 + (snr / (1 + snr)) ** 0.5)
        sigma = (right * (1 - right) / 16000) ** 0.5
        assert abs(row["accuracy"] - right) < 4.5 * sigma  # 12 points: false alarm below 1e-4
        assert row["ci95"] == pytest.approx(1.96 * sigma, rel=0.1)
        assert row["n"] == 2000


def test_rows_cover_the_grid_and_carry_the_names():
    rows = evaluate_link(cat_link(), *cat_data(), system="no-kd", **GRID)
    points = [(row["channel"], row["snr_db"], row["symbols"]) for row in rows]
    assert points == [(c, s, k) for c in GRID["channels"] for s in GRID["snrs_db"] for k in GRID["lengths"]]
    assert all(list(row) == ["system", "channel", "snr_db", "symbols", "accuracy", "ci95", "n"] for row in rows)
    assert {row["system"] for row in rows} == {"no-kd"}


def test_answers_of_each_image_and_draw_make_the_rows():
    link, (images, labels) = cat_link(), cat_data()
    answers = evaluate_answers(link, images, labels, clean=True, **GRID)
    assert {tuple(correct.shape) for point, correct in answers.items() if point} == {(40, 3)}
    assert list(answers)[-1] is None and answers[None].shape == (40, 1)
    rows = evaluate_link(link, images, labels, system="kdnas", clean=True, **GRID)
    assert rows == [accuracy_row("kdnas", point, correct) for point, correct in answers.items()]
    # Each image's answers are those that it has alone.
    point = Point("rayleigh", -5.0, 8)
    alone = evaluate_answers(
        link, images[7:8], labels[7:8], torch.tensor([7]), channels=["rayleigh"], snrs_db=[-5.0], lengths=[8], draws=3
    )
    assert torch.equal(alone[point][0], answers[point][7])


def test_what_is_named_twice_counts_once():
    link, (images, labels) = cat_link(), cat_data()
    twice = {key: [*values, *values] if isinstance(values, list) else values for key, values in GRID.items()}
    again, once = (evaluate_answers(link, images, labels, **how) for how in (twice, GRID))
    assert list(again) == list(once) and all(torch.equal(again[point], once[point]) for point in once)


def test_result_depends_neither_on_batches_nor_on_the_order_of_images():
    link, (images, labels) = cat_link(), cat_data()
    rows = evaluate_link(link, images, labels, system="kdnas", batch_size=40, **GRID)
    assert rows == evaluate_link(link, images, labels, system="kdnas", batch_size=7, **GRID)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    again = evaluate_link(link, images[order], labels[order], order, system="kdnas", batch_size=40, **GRID)
    for row, other in zip(rows, again, strict=True):
        assert row == pytest.approx(other)


def test_a_wrong_snr_is_told_and_meets_the_same_noise():
    offsets = {**GRID, "snr_offsets_db": [0.0, 6.0, -6.0]}
    rows = evaluate_link(bpsk_link(), *bpsk_data(200), system="kdnas", **offsets)
    plain = evaluate_link(bpsk_link(), *bpsk_data(200), system="kdnas", **GRID)
    assert [row for row in rows if "snr_offset_db" not in row] == plain
    assert len(rows) == 3 * len(plain)
    for row in rows:  # BPSK and its matched filter heed no SNR
        assert row["snr_db"] in GRID["snrs_db"]
        assert {**row, "snr_offset_db": 0} in [{**other, "snr_offset_db": 0} for other in plain]
    link, data = cat_link(), cat_data()
    answers = evaluate_answers(link, *data, **offsets)
    changed = [not torch.equal(answers[p], answers[p._replace(snr_offset_db=0.0)]) for p in answers if p.snr_offset_db]
    assert any(changed)


def test_a_link_is_measured_on_channels_that_it_was_not_made_for():
    names = ["rician(k_db=3, fading=fast)", "multipath(taps=3, cp=2, carriers=4)", "erasure(p=0.3, burst=2)"]
    rows = evaluate_link(cat_link(), *cat_data(), system="kdnas", **{**GRID, "channels": names})
    assert {row["channel"] for row in rows} == set(names)


class TestDrawsUntilTheIntervalIsNarrow:
    point: ClassVar = {"channels": ["rayleigh"], "snrs_db": [-8.0, 30.0], "lengths": [2]}
    data: ClassVar = bpsk_data(300)

    def test_rounds_go_on_where_they_are_needed_and_add_to_what_was_drawn(self):
        answers = evaluate_answers(bpsk_link(), *self.data, draws=4, ci95=0.01, **self.point)
        many, few = answers.values()
        assert few.shape[1] == 4 < many.shape[1]  # at 30 dB one round is enough
        assert draws_ci95(many) <= 0.01 < draws_ci95(many[:, :-4])  # the first round that is narrow enough
        alone = evaluate_answers(bpsk_link(), *self.data, draws=many.shape[1], **self.point)
        assert torch.equal(next(iter(alone.values())), many)

    def test_rounds_end_at_the_most_draws_and_rows_say_what_was_reached(self):
        link = bpsk_link()
        link.encoder = Counting(link.encoder)
        row, easy = evaluate_link(
            link, *self.data, system="kdnas", draws=4, ci95=1e-4, max_draws=10, batch_size=100, **self.point
        )
        assert row["draws"] == 10 and row["ci95_draws"] > 1e-4
        assert 4 <= easy["draws"] <= 10
        assert link.encoder.seen == 300  # its features serve every round
        assert row["ci95"] > row["ci95_draws"]  # images differ beside their draws

    @pytest.mark.parametrize("bad", [{"ci95": 0.0}, {"ci95": 1.0}, {"draws": 1}, {"max_draws": 3}])
    def test_bad_goals_are_named(self, bad):
        with pytest.raises(InputError, match="ci95"):
            evaluate_link(bpsk_link(), *self.data, system="kdnas", **{"draws": 4, "ci95": 0.1, **self.point, **bad})


def test_seed_ids_and_draws_act():
    images, labels = bpsk_data(200)
    point = {"system": "kdnas", "channels": ["rayleigh"], "snrs_db": [-5.0], "lengths": [3]}
    base = evaluate_link(bpsk_link(), images, labels, draws=2, **point)
    assert base == evaluate_link(bpsk_link(), images, labels, draws=2, **point)
    assert base != evaluate_link(bpsk_link(), images, labels, draws=2, seed=1, **point)
    assert base != evaluate_link(bpsk_link(), images, labels, draws=3, **point)
    assert base != evaluate_link(bpsk_link(), images, labels, torch.arange(200) + 500, draws=2, **point)


def test_noise_is_that_of_the_image_and_draw():
    # Predict every answer from the published noise, and compare the accuracy exactly.
    images, labels = bpsk_data(50)
    ids = torch.arange(100, 150)
    (row,) = evaluate_link(
        bpsk_link(), images, labels, ids, system="kdnas", channels=["awgn"], snrs_db=[-8.0], lengths=[2],
        draws=3, seed=5,
    )  # fmt: skip
    sent = (2 * labels - 1).float()
    right = []
    for draw in range(3):
        noise = noise_for(ids, draw, 2, seed=5).real * 10 ** (8 / 20)
        right.append((2 * sent + noise.sum(1)).sign() == sent)
    assert row["accuracy"] == pytest.approx(torch.stack(right).float().mean().item())


def test_a_transmitter_with_csi_codes_anew_for_every_draw():
    link, (images, labels) = cat_link(), cat_data()
    link.channel_encoder.told = "effective"
    how = {"channels": ["rayleigh"], "snrs_db": [0.0], "lengths": [4], "draws": 3, "seed": 7}
    point, correct = next(iter(evaluate_answers(link, images, labels, **how).items()))
    at = constant_conditions(len(images), point.snr_db, point.channel, point.symbols)
    for draw in range(3):
        noise = ImageNoise(torch.arange(len(images)), draw, 7)
        logits = link.through(link.encoder(images.float() / 255), at, noise).logits
        assert torch.equal(correct[:, draw], logits.argmax(1) == labels)


def test_encoder_runs_once_for_an_image_and_the_channel_encoder_once_for_a_point():
    link, (images, labels) = cat_link(), cat_data()
    link.encoder, link.channel_encoder = Counting(link.encoder), Counting(link.channel_encoder)
    link.channel_decoder = Counting(link.channel_decoder)
    evaluate_link(link, images, labels, system="kdnas", batch_size=16, **GRID)
    assert link.encoder.seen == 40
    assert link.channel_encoder.seen == 40 * 4
    assert link.channel_decoder.seen == 40 * 4 * 2 * 3


def test_mode_is_restored_and_dropout_is_off():
    link, (images, labels) = cat_link(), cat_data()
    link.train()
    first = evaluate_link(link, images, labels, system="kdnas", **GRID)
    assert link.training
    assert first == evaluate_link(link, images, labels, system="kdnas", **GRID)


def test_clean_row_and_progress():
    images, labels = bpsk_data(10)
    link = bpsk_link()
    link.semantic_decoder = nn.Module()
    link.semantic_decoder.forward = lambda z: z if z.shape[1] == 2 else torch.cat([-z, z], 1)
    calls = []
    rows = evaluate_link(
        link, images, labels, system="kdnas", channels=["awgn"], snrs_db=[0], lengths=[1], clean=True,
        batch_size=4, progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    clean = rows[-1]
    assert (clean["channel"], clean["snr_db"], clean["symbols"], clean["accuracy"]) == (None, None, None, 1.0)
    assert calls == [(4, 10), (8, 10), (10, 10)]


def test_teacher_is_one_row_without_a_channel():
    class Bright:
        def features(self, images):
            assert images.dtype == torch.float32
            assert images.max() <= 1
            return images.mean((1, 2, 3))[:, None]

        def logits(self, features):
            return torch.cat([0.5 - features, features - 0.5], 1)

    images, labels = bpsk_data(10)
    labels = torch.cat([labels[:8], 1 - labels[8:]])
    (row,) = evaluate_teacher(Bright(), images, labels, batch_size=4)
    assert row["accuracy"] == pytest.approx(0.8)
    assert row["system"] == "teacher"
    assert row["channel"] is row["snr_db"] is row["symbols"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": ["ricean"]}, "rician"),
        ({"lengths": [9]}, "1 to 8 symbols"),
        ({"lengths": [0]}, "1 to 8 symbols"),
        ({"draws": 0}, "at least 1 draw"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(InputError, match=message):
        evaluate_link(cat_link(), *cat_data(), system="kdnas", **{**GRID, **change})


def test_no_images_is_named():
    with pytest.raises(InputError, match="images"):
        evaluate_link(cat_link(), *cat_data(0), system="kdnas", **GRID)
