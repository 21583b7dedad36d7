import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import kdnas
from kdnas.cli import app
from kdnas.config import make_settings
from kdnas.errors import InputError
from kdnas.evaluate.distill_rows import TailorRow
from kdnas.pipeline.context import Context
from kdnas.run.directory import RunDirectory
from kdnas.space import Architecture, make_space

FLEET = """
[[device]]
name = "near"
class = "mcu"
compute_hz = 216e6
cycles_per_mac = 1.66
kappa = 3.2e-26
symbol_rate_hz = 62.5e3
tx_power_w = 0.04
channel = "awgn"
snr_db = [8.0, 15.0]
deadline_s = 0.1
energy_j = 6e-3
accuracy_floor = 0.05
budget_units = 20_000_000

[[device]]
name = "slow"
class = "mcu"
compute_hz = 1e6
cycles_per_mac = 1.66
kappa = 3.2e-26
symbol_rate_hz = 62.5e3
tx_power_w = 0.04
channel = "rayleigh"
snr_db = { mean = 5.0, std = 3.0 }
deadline_s = 0.02
energy_j = 6e-3
accuracy_floor = 0.05
budget_units = 20_000_000
"""
TINY: dict[str, Any] = {
    "preset": "smoke", "data.limit": 300, "data.labels": 100, "knowledge.views": 1, "threads": 1,
    "tailor.systems": ["dynamic", "static", "none"], "tailor.slices": 2, "evaluate.draws": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def tailored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    place, lines = tmp_path_factory.mktemp("tailor"), list[str]()
    (place / "fleet.toml").write_text(FLEET)
    given = {**TINY, "tailor.fleet": str(place / "fleet.toml")}
    return kdnas.api.tailor(out=place / "run", say=lines.append, **given), lines


def rows_of(run: Path) -> list[dict[str, Any]]:
    return json.loads((run / "tailor.json").read_text())["rows"]


def test_every_device_and_system_is_reported(tailored: tuple[Path, list[str]]) -> None:
    rows = rows_of(tailored[0])
    assert [(r["device"], r["system"]) for r in rows] == [
        (d, s) for d in ("near", "slow") for s in ("dynamic", "static", "none")
    ]
    for row in rows:
        TailorRow.model_validate(row)
        assert row["latency_compute_s"] == pytest.approx(row["latency_s"] - (row["symbols"] or 1) / 62.5e3)
    dynamic, static, none = rows[:3]
    assert dynamic["feasible"] and dynamic["binding"] is None and dynamic["units"] < static["units"]
    assert dynamic["energy_j"] <= static["energy_j"] and dynamic["symbols"] <= static["symbols"] == 64
    assert none["units"] == 0 and none["steps"][0]["steps"] == static["steps"][0]["steps"] == 14
    assert dynamic["steps"][0]["rung"] == "superclass" and static["steps"][0]["rung"] == "features"


def test_what_cannot_be_in_time_is_told_before_training(tailored: tuple[Path, list[str]]) -> None:
    run, lines = tailored
    assert lines[0].startswith("slow: infeasible (latency)") and "nothing is trained" in lines[0]
    slow = rows_of(run)[3]
    assert slow["binding"] == "latency" and slow["accuracy"] is None and slow["units"] == 0 and slow["steps"] == []
    assert not (run / "devices" / "slow").exists()


def test_each_link_loads_and_is_what_was_judged(tailored: tuple[Path, list[str]]) -> None:
    run, _ = tailored
    row, link = rows_of(run)[0], kdnas.load(run / "devices" / "near")
    with torch.no_grad():
        assert link.encode(torch.rand(2, 1, 28, 28), 10.0, row["symbols"]).shape == (2, row["symbols"])
    assert link.info.device == "mcu" and link.info.channels == ["awgn"]
    assert kdnas.load(run / "devices" / "near" / "baselines" / "none").symbols == 64
    assert list((run / "tensorboard" / "devices" / "near" / "dynamic" / "course").glob("events*"))
    assert not (run / "checkpoints" / "devices" / "near" / "dynamic").exists()


def test_finished_devices_are_kept_and_a_lost_one_is_made_again_to_the_bit(tailored: tuple[Path, list[str]]) -> None:
    run, _ = tailored
    before, weights = rows_of(run), (run / "devices" / "near" / "encoder.safetensors").read_bytes()
    (run / "stages" / "tailor" / "near-dynamic.json").unlink()
    (run / "tailor.json").unlink()
    lines: list[str] = []
    kdnas.api.tailor(resume=run, say=lines.append)
    assert sum("done before" in line for line in lines) == 5
    assert rows_of(run) == before
    assert (run / "devices" / "near" / "encoder.safetensors").read_bytes() == weights


def test_only_evaluate_reads_test_labels(tailored: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every choice is made without them: with other test labels the same link is made, and judged otherwise."""
    run, _ = tailored
    before, weights = rows_of(run), (run / "devices" / "near" / "encoder.safetensors").read_bytes()
    data = Context(make_settings(RunDirectory.open(run).settings), RunDirectory.open(run), False).dataset
    wrong = (data.test_labels + 1) % 10
    monkeypatch.setattr("kdnas.pipeline.tailor.evaluate_link", _with_labels(wrong))
    (run / "stages" / "tailor" / "near-dynamic.json").rename(run / "kept.json")
    (run / "tailor.json").rename(run / "kept-report.json")
    try:
        kdnas.api.tailor(resume=run)
        after = rows_of(run)[0]
        assert (run / "devices" / "near" / "encoder.safetensors").read_bytes() == weights
        assert after["steps"] == before[0]["steps"] and after["symbols"] == before[0]["symbols"]
        assert after["accuracy"] != before[0]["accuracy"]
    finally:
        (run / "kept.json").rename(run / "stages" / "tailor" / "near-dynamic.json")
        (run / "kept-report.json").rename(run / "tailor.json")


def _with_labels(labels: torch.Tensor) -> Any:
    from kdnas.evaluate import evaluate_link

    return lambda link, images, _, **kwargs: evaluate_link(link, images, labels, **kwargs)


def test_the_command_prints_the_report(tailored: tuple[Path, list[str]]) -> None:
    run, _ = tailored
    done = CliRunner().invoke(app, ["tailor", "--resume", str(run), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["rows"] == rows_of(run)
    done = CliRunner().invoke(app, ["tailor", "--resume", str(run)], env={"COLUMNS": "200"})
    assert "infeasible: latency" in done.stdout and "near" in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "device=mcu"], "takes its devices from the fleet"),
        (["--set", "distill.snr_margin_db=3"], "acts on nothing in a tailoring"),
        (["--fleet", "nope"], "unknown fleet 'nope'"),
        (["--architecture", "mcu"], "takes CLASS=FILE"),
        (["--architecture", "mcu=a", "--architecture", "mcu=b"], "given twice"),
        (["--architecture", "toaster=x.json"], "no device of class 'toaster'"),
        (["--run", "/nonexistent"], "not a run directory"),
        (["--set", "tailor.superclasses=11", "--preset", "smoke"], "of 10 classes"),
    ],
)
def test_wrong_words_are_told_in_a_line_and_leave_nothing(words: list[str], told: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["tailor", *words, "--out", str(tmp_path / "run")])
    assert done.exit_code == 2 and told in done.output and len(done.output.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_finished_tailoring_keeps_its_settings(tailored: tuple[Path, list[str]], tmp_path: Path) -> None:
    run, _ = tailored
    with pytest.raises(InputError, match=r"keeps its settings: leave out 'tailor\.slices'"):
        kdnas.api.tailor(resume=run, **{"tailor.slices": 9})
    with pytest.raises(InputError, match="has no architecture yet"):
        kdnas.api.tailor(run=run, out=tmp_path / "x")
    with pytest.raises(InputError, match=r"the settings of that run hold: leave out 'data\.labels'"):
        kdnas.api.tailor(run=run, out=tmp_path / "x", **{"data.labels": 100})


def test_a_run_ends_with_its_fleet_and_a_finished_run_can_be_tailored(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(FLEET)
    tiny = {key: value for key, value in TINY.items() if key != "tailor.systems"}
    tiny |= {"distill.epochs": 1, "distill.link_epochs": 1, "distill.steps": 2, "evaluate.lengths": [64]}
    space = make_space("mobile", in_channels=1, image_size=28, feature_dim=64)
    choices = {label: min(values) for label, values in space.domains().items()}
    Architecture("mobile", space.options, choices).save(tmp_path / "own.json")
    fleet = {"tailor.fleet": str(tmp_path / "fleet.toml")}
    with pytest.raises(InputError, match="no device of class 'phone'"):
        kdnas.api.run(out=tmp_path / "run", device="phone", **{**tiny, **fleet, "tailor.enabled": True})
    assert not (tmp_path / "run").exists()
    run = kdnas.api.run(
        out=tmp_path / "run", device="mcu-256kB", architecture=tmp_path / "own.json",
        **{**tiny, **fleet, "tailor.enabled": True},
    )  # fmt: skip
    assert [row["device"] for row in rows_of(run)] == ["near", "slow"]
    assert json.loads((run / "stages" / "tailor.json").read_text())["devices"] == 2
    assert Architecture.load(run / "devices" / "near" / "architecture.json").choices == choices
    again = kdnas.api.tailor(run=run, out=tmp_path / "again", **{"threads": 1})
    assert rows_of(again) == rows_of(run)  # the same architecture, teacher, store and seed
