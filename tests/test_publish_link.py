"""The script of envelope.json: systems made one by one in the same place, and rows that pair."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kdnas.evaluate.results import validate_table

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "distill.epochs=1", "distill.link_epochs=1", "distill.steps=4", "evaluate.snrs_db=[0.0, 10.0]", "evaluate.draws=2",
    "accelerator=cpu",
]  # fmt: skip


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    spec = importlib.util.spec_from_file_location("publish_link", ROOT / "scripts/publish_link.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def publish(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, place: Path, *systems: str, table: str = "envelope"
) -> list[dict]:
    words = [table, "--preset", "smoke", "--labels", "200", "--seeds", "0", "--work", str(place / "work")]
    words += ["--out", str(place / f"{table}.json"), *(["--systems", *systems] if systems else []), "--set", *SMALL]
    monkeypatch.setattr(sys, "argv", ["publish_link.py", *words])
    script.main()
    document = json.loads((place / f"{table}.json").read_text())
    assert validate_table(document) == "envelope"
    assert "--labels 200 --device wearable --architecture wearable-fashion-mini --preset smoke" in document["command"]
    return document["rows"]


def by_point(rows: list[dict], system: str) -> dict[tuple, dict]:
    return {(row["channel"], row["snr_db"], row["symbols"]): row for row in rows if row["system"] == system}


def test_systems_are_made_one_by_one_and_pair(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Images coded in every way take long: not here.
    monkeypatch.setattr(script.Baselines, "prepare", lambda self: None)
    first = publish(script, monkeypatch, tmp_path, "kdnas")
    assert {row["system"] for row in first} == {"teacher", "kdnas"}
    assert publish(script, monkeypatch, tmp_path, table="kept") == first
    rows = publish(script, monkeypatch, tmp_path, "deep-jscc")
    assert [row for row in rows if row["system"] != "deep-jscc"] == first
    ours, other = by_point(rows, "kdnas"), by_point(rows, "deep-jscc")
    assert ours.keys() == other.keys() and len(ours) == 4
    for point, row in other.items():
        assert row["difference"] == pytest.approx(row["accuracy"] - ours[point]["accuracy"])
        assert row["difference_ci95"] > 0 and ours[point]["difference"] is None
        assert row["transmitter_params"] <= ours[point]["transmitter_params"]
    assert len({row["teacher_accuracy"] for row in rows}) == 1
    # A system that is new is added to the place of the old ones, of which nothing is trained again.
    monkeypatch.setattr("kdnas.distill.Distiller.clean", None)
    monkeypatch.setattr("kdnas.distill.Distiller.through_link", None)
    more = publish(script, monkeypatch, tmp_path, "digital-class")
    assert [row for row in more if row["system"] != "digital-class"] == rows
    classes = by_point(more, "digital-class")
    assert classes.keys() == ours.keys() and all(row["difference"] is not None for row in classes.values())


@pytest.mark.slow
def test_every_system_is_published(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sionna")
    rows = publish(script, monkeypatch, tmp_path, *script.SYSTEMS)
    assert {row["system"] for row in rows} == {"teacher", *script.SYSTEMS}
    assert publish(script, monkeypatch, tmp_path, "capacity") == rows
    assert all(row["symbols"] == 64 or row["system"] in ("teacher", "digital-image", "capacity") for row in rows)


def test_what_is_kept_needs_no_coded_images(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: object) -> None:
        raise AssertionError("images were coded")

    monkeypatch.setattr(script.Baselines, "prepare", refused)
    rows = publish(script, monkeypatch, tmp_path, table="kept")
    assert [row["system"] for row in rows] == ["teacher", *["kdnas"] * 4]
    with pytest.raises(SystemExit) as caught:
        publish(script, monkeypatch, tmp_path, "deep-jscc", table="kept")
    assert caught.value.code == 2
