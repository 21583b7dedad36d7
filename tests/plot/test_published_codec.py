import json

import pytest
from codec_samples import LENGTHS, ROWS, SNRS, adaptation, constellation, one_model, told_wrong, trained_on
from drawn import boxes_of, line, texts

from kdnas import api
from kdnas.errors import InputError
from kdnas.evaluate.results import validate_table
from kdnas.plot import (
    adaptation_figure,
    constellation_figure,
    one_model_figure,
    told_wrong_figure,
    trained_on_figure,
)

FIGURES = {
    "adaptation": adaptation_figure, "one model": one_model_figure, "constellation": constellation_figure,
    "told wrong": told_wrong_figure, "trained on": trained_on_figure,
}  # fmt: skip


def table(rows):
    return {"command": "made up", "rows": rows}


@pytest.mark.parametrize("only", ["one seed", "all"])
@pytest.mark.parametrize("kind", ROWS)
def test_texts_are_inside_the_picture_and_no_two_overlap(kind, only):
    rows = ROWS[kind]()
    if only == "one seed":
        rows = [row for row in rows if row["seed"] == 0 and row["dataset"] == rows[0]["dataset"]]
    figure = FIGURES[kind](rows)
    boxes = boxes_of(figure)
    assert len(boxes) > 10
    for index, (text, box) in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text
        assert [other for other, second in boxes[index + 1 :] if box.overlaps(second)] == [], text


@pytest.mark.parametrize("kind", ROWS)
def test_every_kind_is_told_by_its_rows_and_drawn_by_the_same_verb(kind, tmp_path):
    rows = [row for row in ROWS[kind]() if row["seed"] == 0 and row["dataset"] == "fashion-mini"]
    assert validate_table(table(rows)) == kind
    (tmp_path / "some.json").write_text(json.dumps(table(rows)))
    assert [file.name for file in api.plot(tmp_path / "some.json", tmp_path / "out")] == ["some.png", "some.svg"]


@pytest.mark.parametrize("kind", ROWS)
def test_a_key_forgotten_is_named(kind):
    for key in ("dataset", "channel", "seed", "accuracy"):
        rows = ROWS[kind]()
        del rows[0][key]
        with pytest.raises(InputError, match=f"nearest to {kind}, which needs also: {key}$"):
            validate_table(table(rows))


def test_rows_of_other_systems_are_no_model_for_all():
    rows = [{**row, "system": f"{row['system']}-{row['symbols']}"} for row in one_model()]
    assert validate_table(table(rows)) == "stages"


def test_the_map_shows_paired_differences_with_their_errors():
    figure = one_model_figure(one_model())
    assert len(figure.axes) == 4  # two data sets, two channels
    for ax in figure.axes:
        values = ax.images[0].get_array()
        assert values.shape == (len(LENGTHS), len(SNRS))
        for row, length in zip(values, LENGTHS, strict=True):
            assert row.tolist() == pytest.approx([-100 * 0.03 * 2 / length] * len(SNRS))
    assert "−1.5\n±0.9" in texts(figure)  # seeds -0.75, -1.5, -2.25: 2 * 0.75 / sqrt(3)
    assert any("mean −0.6" in text for text in texts(figure))


def test_points_that_were_not_measured_stay_white():
    rows = [row for row in one_model() if (row["symbols"], row["snr_db"]) != (8, 0.0)]
    values = one_model_figure(rows).axes[0].images[0].get_array()
    assert values.mask.sum() == 1 and values.mask[1, 2]


def test_constellations_are_compared_with_none_at_the_ends_of_the_lengths():
    figure = constellation_figure(constellation())
    assert len(figure.axes) == 8
    for ax in figure.axes:
        for name, cost in (("QPSK", 2.0), ("16-QAM", 0.8), ("256-QAM", 0.1)):
            assert list(line(ax, name).get_ydata()) == pytest.approx([-1.2 * cost] * len(SNRS))
    with pytest.raises(InputError, match="qpsk and none have no seed in common"):
        constellation_figure([row for row in constellation() if row["constellation"] != "none"])


def test_training_on_one_channel_is_compared_with_training_on_all():
    figure = trained_on_figure(trained_on())
    assert len(figure.axes) == 8
    for ax, channel in zip(figure.axes, ["awgn", "rayleigh"] * 4, strict=True):
        for name, text, cost in (("awgn", "AWGN", 4.0), ("rayleigh", "Rayleigh fading", 1.0)):
            lost = 0.0 if name == channel else -1.2 * cost
            assert list(line(ax, f"trained on {text} alone").get_ydata()) == pytest.approx([lost] * len(SNRS))


def test_a_wrong_snr_is_compared_with_the_right_one():
    figure = told_wrong_figure(told_wrong())
    for ax in figure.axes:
        for label, cost in (("−3 dB; in training told the right SNR", 0.6), ("+3 dB; in training wrong ones", 0.06)):
            assert list(line(ax, label).get_ydata()) == pytest.approx([-cost] * len(SNRS))


def test_rate_and_accuracy_are_means_over_seeds():
    rows = adaptation()
    figure = adaptation_figure(rows)
    assert len(figure.axes) == 4
    fixed, chosen = line(figure.axes[0], "fixed length"), figure.axes[0].lines[0]
    assert list(fixed.get_xdata()) == list(LENGTHS) and list(chosen.get_xdata()) == pytest.approx(
        [0.6 * n for n in LENGTHS]
    )
    own = [row for row in rows if (row["dataset"], row["channel"], row["mean_symbols"]) == ("fashion-mini", "awgn", 4)]
    assert fixed.get_ydata()[0] == pytest.approx(sum(row["accuracy"] for row in own) / 3)
