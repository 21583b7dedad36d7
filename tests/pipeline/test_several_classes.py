import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kdnas.cli import _pareto_report, app
from kdnas.config import make_settings
from kdnas.device import list_devices, load_device
from kdnas.errors import InputError
from kdnas.pipeline import api, classes
from kdnas.plot import pareto_figure

runner = CliRunner()


def test_all_is_every_class_once_and_no_class_is_named_twice(tmp_path: Path) -> None:
    names = classes.classes_of("all")
    assert {load_device(name).name for name in names} == {load_device(name).name for name in list_devices()}
    assert len({load_device(name).name for name in names}) == len(names)
    assert classes.classes_of("phone, mcu") == ["phone", "mcu"]
    shutil.copy(Path(classes.__file__).parents[1] / "device/classes/phone.toml", tmp_path / "own.toml")
    wearable = (tmp_path / "own.toml").read_text().replace('"phone"', '"mine"')
    (tmp_path / "mcu.toml").write_text(wearable)
    faulty = {
        f"phone,{tmp_path / 'own.toml'}": "twice", "mcu,mcu-256kB": "twice", f"mcu,{tmp_path / 'mcu.toml'}": "share",
        "phone,fridge": "fridge", ",": "all",
    }  # fmt: skip
    for text, why in faulty.items():
        with pytest.raises(InputError, match=why):
            classes.classes_of(text)


class Stub:
    """Runs that leave the results of one that was really run, and may be stopped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, source: Path, stopped_at: int | None = None) -> None:
        self.calls: list[tuple[str, int, bool]] = []
        self.source, self.stopped_at = source, stopped_at
        monkeypatch.setattr(api, "_go", self)

    def __call__(
        self, verb: str, given: Mapping[str, Any], out: Path | None, resume: Path | None, *_: Any
    ) -> Path:  # fmt: skip
        from kdnas.config import make_settings

        place = out or resume
        assert verb == "run" and place is not None
        settings = make_settings(given) if out else None
        if settings is not None:
            place.mkdir(parents=True)
            (place / "run.json").write_text(json.dumps({"device": settings.device, "seed": settings.seed}))
            assert settings.distill.epochs == 7 and settings.preset == "smoke"
        own = json.loads((place / "run.json").read_text())
        self.calls.append((own["device"], own["seed"], resume is not None))
        if len(self.calls) == self.stopped_at:
            raise KeyboardInterrupt
        results = json.loads((self.source / "results.json").read_text())
        (place / "results.json").write_text(json.dumps({**results, **own}))
        return place


def test_classes_and_seeds_are_run_reported_and_resumed(
    smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "all"
    stub = Stub(monkeypatch, smoke_run, stopped_at=3)
    command = ["run", "--device", "mcu,phone", "--seed", "1,0", "--preset", "smoke", "--set", "distill.epochs=7"]
    result = runner.invoke(app, [*command, "--out", str(place)])
    assert result.exit_code == 130 and f"kdnas run --resume {place}" in result.stderr
    assert stub.calls == [("mcu", 1, False), ("phone", 1, False), ("mcu", 0, False)]
    for more in (["--device", "all"], ["--set", "distill.epochs=8"]):
        assert runner.invoke(app, ["run", "--resume", str(place), *more]).exit_code == 2
    again = Stub(monkeypatch, smoke_run)
    result = runner.invoke(app, ["run", "--resume", str(place)])
    assert result.exit_code == 0, result.output
    assert again.calls == [("mcu", 1, True), ("phone", 1, True), ("mcu", 0, True), ("phone", 0, False)]
    assert "accuracy" in result.stdout and "phone" in result.stdout and str(place) in result.stderr
    rows = json.loads((place / "pareto.json").read_text())["rows"]
    assert [(row["device"], row["seed"]) for row in rows] == [("mcu", 1), ("phone", 1), ("mcu", 0), ("phone", 0)]
    costs = json.loads((smoke_run / "results.json").read_text())["transmitter"]
    assert all(row[name] == value for row in rows for name, value in costs.items())
    assert (place / "figures/pareto.png").exists() and list((place / "tensorboard/figures").iterdir())
    document = json.loads(runner.invoke(app, ["run", "--resume", str(place), "--json"]).stdout)
    assert document["document"]["rows"] == rows
    drawn = runner.invoke(app, ["plot", str(place)])
    assert drawn.exit_code == 0 and "pareto.png" in drawn.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--device", "mcu,fridge"], "fridge"),
        (["--seed", "1,1"], "--seed"),
        (["--seed", "-1"], "--seed"),
        (["--set", "seed=[]"], "seeds"),
        (["--device", "gateway,mcu", "--set", "spaces.options.width=5"], "kdnas: mcu: no architecture fits"),
        (["--set", "seed=[1, 1]"], "seeds"),
        (["--device", "all", "--set", "search.epoch=3"], "search.epochs"),
        (["--device", "all", "--architecture", "own.json"], "one device class"),
    ],
)
def test_bad_lists_are_one_line_and_leave_nothing(
    arguments: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, ["run", "--preset", "smoke", *arguments])
    lines = result.stderr.splitlines()
    assert result.exit_code == 2 and len(lines) == 1 and named in lines[0], result.output
    assert list(tmp_path.iterdir()) == []


def test_classes_begin_where_nothing_is_yet(tmp_path: Path) -> None:
    settings = make_settings({"preset": "smoke", "threads": 1}).model_dump(mode="json")
    classes.begin(tmp_path / "both", settings, ["mcu", "wearable"], [0, 1], "run")
    assert classes.classes_document(tmp_path / "both") == {
        "devices": ["mcu", "wearable"], "seeds": [0, 1], "verb": "run"
    }  # fmt: skip


def test_what_one_class_has_no_model_of_is_in_no_report(capsys: pytest.CaptureFixture[str]) -> None:
    costs = {"params": 1000, "macs": 20000, "energy_j": 0.001}
    told = {"dataset": "d", "seed": 0, "snr_db": 10.0, "channel": "awgn", "symbols": 64}
    rows = [{**told, **costs, "device": name, "accuracy": 0.8} for name in ("one", "other")]
    _pareto_report(rows)
    assert "energy" in capsys.readouterr().out
    del rows[1]["energy_j"]
    _pareto_report(rows)
    assert "energy" not in capsys.readouterr().out
    assert len(pareto_figure(rows).axes) == 2


def test_the_report_of_all_classes_fits_a_terminal_of_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    costs = {"params": 135_000, "macs": 65_500_000, "sram_bytes": 18_800, "flash_bytes": 98_300}
    costs |= {"latency_s": 0.0123, "energy_j": 0.00159}
    told = {"dataset": "d", "seed": 0, "snr_db": 10.0, "channel": "awgn", "symbols": 64, "accuracy": 0.8}
    names = [name for name in list_devices() if name != "all"]
    _pareto_report([{**told, **costs, "device": name} for name in names])
    lines = capsys.readouterr().out.splitlines()
    assert not any("…" in line for line in lines)
    assert all(sum(line.split()[:1] == [name] for line in lines) == 1 for name in names)  # none is folded


def test_one_run_is_not_resumed_in_the_directory_of_several(tmp_path: Path) -> None:
    classes.begin(tmp_path / "both", {"preset": "smoke"}, ["mcu", "phone"], [0], "run")
    result = runner.invoke(app, ["search", "--resume", str(tmp_path / "both")])
    assert result.exit_code == 2 and "several device classes" in result.stderr


@pytest.mark.slow
def test_two_classes_share_one_teacher_and_one_store(tmp_path: Path) -> None:
    place = api.run_classes(["mcu", "wearable"], preset="smoke", out=tmp_path / "both", threads=1)
    first, second = (json.loads((place / f"{name}-s0/stages/teach.json").read_text()) for name in ("mcu", "wearable"))
    assert first["key"] == second["key"] and second["teacher"]["reused"] and second["store"]["reused"]
    rows = json.loads((place / "pareto.json").read_text())["rows"]
    assert [row["device"] for row in rows] == ["mcu", "wearable"]
