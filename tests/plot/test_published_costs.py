"""Figures of the tables about costs: what they show, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from drawn import boxes_of

from kdnas import api
from kdnas.errors import InputError
from kdnas.evaluate.results import validate_table
from kdnas.plot import latency_figure, sram_figure


def latency() -> list[dict]:
    draw = np.random.default_rng(0)
    return [
        {
            "space": "mobile", "network": f"mobile-{i}", "dtype": dtype, "measured_s": float(measured),
            "predicted_s": float(measured * (1.08 if i % 2 else 0.98)),
        }
        for dtype, scale in (("fp32", 1.0), ("int8", 1.6))
        for i, measured in enumerate(scale * draw.uniform(15e-6, 50e-6, 20))
    ]  # fmt: skip


def sram() -> list[dict]:
    return [
        {
            "space": space, "network": f"{space}-{i}", "model_bytes": int(over * (9000 + 500 * i)),
            "planner_bytes": 9000 + 500 * i, "measured_bytes": 9784 + 500 * i,
        }
        for space, over in (("mobile", 1.0), ("cell", 1.5))
        for i in range(4)
    ]  # fmt: skip


def test_latency_shows_every_network_about_the_line_of_equality() -> None:
    figure = latency_figure(latency())
    wanted = [f"{dtype}: median error 5.0 %, rank correlation {rho_of(dtype)}" for dtype in ("fp32", "int8")]
    assert [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes] == wanted
    for ax, dtype in zip(figure.axes, ("fp32", "int8"), strict=True):
        points = next(line for line in ax.lines if line.get_label() == "one network")
        own = [row for row in latency() if row["dtype"] == dtype]
        assert points.get_xdata() == pytest.approx([1e6 * row["measured_s"] for row in own])
        assert points.get_ydata() == pytest.approx([1e6 * row["predicted_s"] for row in own])


def rho_of(dtype: str) -> str:
    """By another way: Pearson's correlation of ranks."""
    own = [row for row in latency() if row["dtype"] == dtype]
    ranks = [np.argsort(np.argsort([row[key] for row in own])) for key in ("predicted_s", "measured_s")]
    return f"{np.corrcoef(*ranks)[0, 1]:.3f}"


def test_sram_shows_shares_of_the_best_order() -> None:
    ax = sram_figure(sram()).axes[0]
    marks = [line.get_xdata() for line in ax.lines if line.get_marker() == "o"]
    assert marks[0] == pytest.approx([1] * 4) and marks[1] == pytest.approx([1.5] * 4, rel=1e-3)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["mobile", "cell"]


@pytest.mark.parametrize("make", [lambda: latency_figure(latency()), lambda: sram_figure(sram())])
def test_texts_are_inside_the_picture(make) -> None:
    figure = make()
    for text, box in boxes_of(figure):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text


@pytest.mark.parametrize(("name", "rows"), [("latency", latency()), ("sram", sram())])
def test_a_published_table_is_told_by_its_keys_and_drawn(name: str, rows: list[dict], tmp_path: Path) -> None:
    document = {"command": "made up", "rows": rows}
    assert validate_table(document) == name
    (tmp_path / f"{name}.json").write_text(json.dumps(document))
    assert [path.name for path in api.plot(tmp_path / f"{name}.json")] == [f"{name}.png", f"{name}.svg"]
    with pytest.raises(InputError, match=r"rows.* agree|twice|same"):
        validate_table({**document, "rows": [*rows, rows[0]]})
    key = "predicted_s" if name == "latency" else "model_bytes"
    with pytest.raises(InputError, match=rf"rows\[0\].{key}"):
        validate_table({**document, "rows": [{**rows[0], key: -1}]})
