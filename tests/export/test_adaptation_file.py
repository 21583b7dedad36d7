"""adaptation.json: written beside a link, opened with it, and refused where it is damaged or of another link."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from link_samples import META, make_link

from kdnas.errors import InputError
from kdnas.export import load_link, save_adaptation, save_link

ROWS = [
    {"system": "kdnas", "channel": "awgn", "snr_db": 0.0, "symbols": n, "accuracy": accuracy, "ci95": 0.02, "n": 50}
    for n, accuracy in ((4, 0.5), (12, 0.8))
]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    architecture, link = make_link("mobile", 0)
    save_link(tmp_path, architecture, link, META)
    save_adaptation(tmp_path, ROWS, 0.8)
    return tmp_path


def test_a_link_opens_with_its_table(saved: Path) -> None:
    link = load_link(saved)
    images = torch.rand(2, 1, 28, 28)
    short, long = (link.send(images, 3.0, min_accuracy=wanted) for wanted in (0.4, 0.6))
    assert (short.symbols.shape, long.symbols.shape) == ((2, 4), (2, 12))
    assert short.accuracy == pytest.approx(0.5 - 0.8416 * 0.02 / 1.96, abs=1e-5)


def test_a_link_without_a_table_opens_and_a_new_link_takes_the_old_table_away(saved: Path) -> None:
    architecture, link = make_link("mobile", 1)
    save_link(saved, architecture, link, META)
    assert load_link(saved).accuracies is None


def _changed(path: Path, change: Callable[[dict], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(link="0" * 64), "another link"),
        (lambda d: d["rows"][0].update(accuracy=80), "rows: 0: accuracy"),
        (lambda d: d.update(rows=[]), "rows"),
        (lambda d: d.update(more=1), "more"),
        (lambda d: d["rows"].append(d["rows"][0]), "each point once"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(saved: Path, change: Callable[[dict], None], words: str) -> None:
    _changed(saved / "adaptation.json", change)
    with pytest.raises(InputError, match=words):
        load_link(saved)


def test_a_truncated_table_is_refused(saved: Path) -> None:
    path = saved / "adaptation.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(InputError, match=r"adaptation\.json"):
        load_link(saved)
