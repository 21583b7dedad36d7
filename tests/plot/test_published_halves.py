import json

import numpy as np
import pytest
from drawn import boxes_of, names, texts
from half_samples import ROWS, SPEEDS, int8, link_speed

from kdnas import api
from kdnas.errors import InputError
from kdnas.evaluate.results import validate_table
from kdnas.plot import int8_figure, link_speed_figure

FIGURES = {"link speed": link_speed_figure, "int8": int8_figure}


def table(rows):
    return {"command": "made up", "rows": rows}


@pytest.mark.parametrize("only", ["one device", "all"])
@pytest.mark.parametrize("kind", ROWS)
def test_texts_are_inside_the_picture_and_no_two_overlap(kind, only):
    rows = ROWS[kind]()
    if only == "one device":
        rows = [row for row in rows if row["device"] == "mcu" and row.get("seed", 0) == 0]
    if (kind, only) == ("link speed", "one device"):
        rows = [row for row in rows if row["runtime"] == "torch"]  # a narrow range, with more ticks
    figure = FIGURES[kind](rows)
    boxes = boxes_of(figure)
    assert len(boxes) > 10
    for index, (text, box) in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text
        assert [other for other, second in boxes[index + 1 :] if box.overlaps(second)] == [], text


@pytest.mark.parametrize("kind", ROWS)
def test_every_kind_is_told_by_its_rows_and_drawn_by_the_same_verb(kind, tmp_path):
    assert validate_table(table(ROWS[kind]())) == kind
    (tmp_path / "some.json").write_text(json.dumps(table(ROWS[kind]())))
    assert [file.name for file in api.plot(tmp_path / "some.json")] == ["some.png", "some.svg"]


@pytest.mark.parametrize("kind", ROWS)
def test_a_key_forgotten_or_a_row_given_twice_is_named(kind):
    needed = [key for key in ROWS[kind]()[0] if key not in ("channels", "threads")]
    for key in needed:
        rows = ROWS[kind]()
        del rows[0][key]
        with pytest.raises(InputError, match=f"nearest to {kind}, which needs also: {key}$"):
            validate_table(table(rows))
    rows = ROWS[kind]()
    with pytest.raises(InputError, match="repeats an earlier row"):
        validate_table(table([*rows, rows[-1]]))


def test_a_difference_must_be_that_of_its_accuracies():
    rows = int8()
    rows[3]["difference"] += 0.01
    with pytest.raises(InputError, match=r"rows\[3\].*difference is not"):
        validate_table(table(rows))


def test_speed_shows_every_way_of_every_part():
    rows = link_speed()
    figure = link_speed_figure(rows)
    first = figure.axes[0]
    assert [ax.get_title(loc="left") for ax in figure.axes[:3]] == [
        "mcu: single images", "mcu: batches of 256", "channel in training",
    ]  # fmt: skip
    assert names(first) == ["encoder", "channel encoder", "transmitter", "receiver"]
    drawn = sorted(float(line.get_xdata()[0]) for line in first.lines)
    assert drawn == sorted(row["images_per_s"] for row in rows if row["device"] == "mcu" and row["batch"] == 1) and len(
        drawn
    ) == len(SPEEDS)
    assert "706 / 12.4k / 5.3k" in texts(first)
    share = figure.axes[2]
    assert names(share) == ["awgn, rayleigh", "4 channels"]
    assert [bar.get_width() for bar in share.patches] == [0.009, 0.072] and share.lines[0].get_xdata()[0] == 0.1


def test_int8_shows_seeds_differences_and_sizes():
    rows = int8()
    accuracy, change, size = int8_figure(rows).axes
    assert names(accuracy) == ["mcu", "gateway"]
    seeds = [dots.get_offsets()[:, 0].tolist() for dots in accuracy.collections if len(dots.get_offsets()) == 3]
    at = [r for r in rows if (r["device"], r["channel"], r["snr_db"], r["symbols"]) == ("mcu", "awgn", 10.0, 64)]
    assert seeds[0] == pytest.approx([row["accuracy_fp32"] for row in at])
    assert seeds[1] == pytest.approx([row["accuracy_int8"] for row in at])
    own = [100 * row["difference"] for row in rows if row["device"] == "mcu"]
    assert change.collections[0].get_offsets()[:, 0].tolist() == pytest.approx(own)
    assert "0.0 (−0.1 to 0.1)" in texts(change) and np.mean(own) == pytest.approx(-0.025)
    assert [bar.get_width() for bar in size.patches][:2] == pytest.approx([134.412, 67.206])
    with pytest.raises(InputError, match="mcu has no row at 10 dB"):
        int8_figure([row for row in rows if row["snr_db"] < 10])
