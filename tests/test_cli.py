import json
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kdnas.cli import app
from kdnas.pipeline import api

runner = CliRunner()

ZOO = files("kdnas") / "zoo"
BAD = {
    "unknown key": (["run", "--set", "search.epoch=3"], "search.epochs"),
    "wrong type": (["run", "--set", "search.epochs=many"], "search.epochs"),
    "a word of another case": (["run", "--set", "data.labels=ALL"], "unable to parse string as an integer or 'all'"),
    "no equals sign": (["run", "--set", "search.epochs"], "key=value"),
    "unknown preset": (["run", "--preset", "fast"], "quick"),
    "unknown device": (["run", "--preset", "smoke", "--device", "fridge"], "wearable"),
    "unknown data set": (["teach", "--preset", "smoke", "--dataset", "imagenet"], "fashion-mini"),
    "missing folder": (["teach", "--preset", "smoke", "--dataset", "folder:nowhere"], "nowhere"),
    "unknown space": (["search", "--preset", "smoke", "--space", "maze"], "mobile"),
    "unknown space option": (["search", "--preset", "smoke", "--set", "spaces.options.widht=2"], "widht"),
    "unknown teacher": (["teach", "--preset", "smoke", "--teacher", "socrates"], "resnet"),
    "unknown teacher option": (["teach", "--preset", "smoke", "--set", "adapt.options.stepz=2"], "stepz"),
    "too few labels": (["teach", "--preset", "smoke", "--set", "data.labels=5"], "label"),
    "missing config": (["run", "--config", "nothing.toml"], "nothing.toml"),
    "no run to resume": (["run", "--resume", "nowhere"], "run.json"),
    "no run to evaluate": (["evaluate", "nowhere"], "run.json"),
    "nothing to plot": (["plot", "nowhere.json"], "nowhere.json"),
    "unknown architecture": (["cost", "nobody"], "nobody"),
    "a cost of other data": (["cost", "mcu-fashion-mini", "--dataset", "cifar10"], "'dataset' does not act"),
    "a cost of training": (["cost", "mcu-fashion-mini", "--set", "distill.epochs=3"], "'distill.epochs' does not act"),
    "an argument as a setting": (["cost", "mcu-fashion-mini", "--set", "plan=true"], "unknown setting 'plan'"),
    "a path as a setting": (["evaluate", "nowhere", "--set", "run=there"], "unknown setting 'run'"),
    "a directory as a setting": (["tailor", "--set", "out=there"], "unknown setting 'out'"),
    "a measurement of a preset": (["device", "measure", "--set", "preset=smoke"], "'preset' does not act"),
    "unknown list": (["list", "colours"], "devices"),
    "export of nothing": (["export", "nowhere", "--to-zoo"], "nowhere"),
    "ONNX of nothing": (["export", "nowhere", "--format", "onnx"], "nowhere"),
    "ONNX in the zoo": (["export", "nowhere", "--format", "onnx", "--to-zoo"], "--to-zoo"),
    "ONNX into the package": (["export", "mcu-fashion-mini", "--format", "onnx"], "--out"),
    "unknown format": (["export", "mcu-fashion-mini", "--format", "tflite"], "torch, onnx"),
    "too few networks to measure": (["device", "measure", "--networks", "3"], "at least 10"),
    "a table in a directory's place": (["device", "measure", "--out", "."], "name the CSV file"),
    "two names of one class": (
        [
            "tailor",
            "--architecture",
            f"mcu={ZOO}/mcu-fashion-mini",
            "--architecture",
            f"mcu-256kB={ZOO}/mcu-fashion-mini",
        ],
        "another name",
    ),
    "unknown data type": (["device", "measure", "--dtype", "fp16"], "int8"),
    "superclasses elsewhere": (["run", "--preset", "smoke", "--set", "loss.superclass=1"], "kdnas tailor"),
    "agreement with no stage": (
        ["run", "--preset", "smoke", "--set", "loss.consistency=1", "--set", "distill.epochs=0"],
        "distill.epochs",
    ),
    "unknown fleet": (["tailor", "--fleet", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, named = BAD[case]
    result = runner.invoke(app, arguments)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("[")]
    assert result.exit_code == 2, result.output
    assert len(lines) == 1 and named in lines[0], lines
    assert "Traceback" not in result.output


def test_a_bad_device_file_is_named_with_its_line(tmp_path: Path) -> None:
    shipped = files("kdnas.device") / "classes" / "wearable.toml"
    text = re.sub(r"(?m)^macs_per_s = .*$", 'macs_per_s = "fast"', shipped.read_text())
    (tmp_path / "own.toml").write_text(text)
    result = runner.invoke(app, ["show", "device", str(tmp_path / "own.toml")])
    assert result.exit_code == 2 and "own.toml: line " in result.stderr and "macs_per_s" in result.stderr


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = runner.invoke(app, ["run", "--preset", "smoke", "--out", str(tmp_path / "file" / "run")])
    assert result.exit_code == 2 and str(tmp_path / "file") in result.stderr


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    result = runner.invoke(app, ["run", "--preset", "smoke", "--out", str(tmp_path)])
    assert result.exit_code == 2 and "--resume" in result.stderr


@pytest.mark.parametrize("what", ["devices", "datasets", "channels", "spaces", "teachers", "architectures", "cache"])
def test_lists_are_json(what: str) -> None:
    result = runner.invoke(app, ["list", what, "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout) == api.list_(what)


def test_settings_are_all_described() -> None:
    from kdnas.config import known_keys

    assert all(field.description for field in known_keys().values())
    result = runner.invoke(app, ["show", "settings", "smoke", "--json"])
    assert json.loads(result.stdout) == api.show("settings", "smoke") and api.show("settings")["preset"] == "quick"


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys, contextlib\nfrom kdnas.cli import main\nsys.argv = ['kdnas', '--help']\n"
        "with contextlib.suppress(SystemExit):\n    main()\n"
        "heavy = {'torch', 'nni', 'pytorch_lightning', 'optuna', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ.copy())
    assert done.returncode == 0, done.stderr


def test_ctrl_c_can_be_resumed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stopped(**kwargs: object) -> Path:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "run.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "run", stopped)
    result = runner.invoke(app, ["run", "--preset", "smoke", "--out", str(tmp_path / "run")])
    assert result.exit_code == 130 and f"--resume {tmp_path / 'run'}" in result.stderr


def test_device_lists_and_shows_what_list_and_show_do() -> None:
    assert runner.invoke(app, ["device", "list"]).stdout == runner.invoke(app, ["list", "devices"]).stdout
    for more in ([], ["--json"], ["--toml"]):
        shown = runner.invoke(app, ["device", "show", "mcu-512kB", *more])
        assert shown.exit_code == 0 and "480" in shown.stdout
        assert shown.stdout == runner.invoke(app, ["show", "device", "mcu-512kB", *more]).stdout


def test_cost_tells_every_cost_who_holds_the_peak_and_the_least_there_is() -> None:
    asked = ["cost", "gateway-fashion-mini", "--device", "mcu-512kB", "--plan"]
    told, found = runner.invoke(app, asked), json.loads(runner.invoke(app, [*asked, "--json"]).stdout)
    over = runner.invoke(app, ["cost", "gateway-fashion-mini", "--device", "mcu"])
    assert told.exit_code == over.exit_code == 0 and "over budget" in over.stdout  # told, and no error
    assert set(found["budgets"]) == set(found["transmitter"])  # this class limits every cost
    peaks = [row["name"] for row in found["layers"] if row["peak"]]
    held = found["transmitter"]["sram_bytes"]
    assert f"the peak of activation memory, {held:,} B, is held by {', '.join(peaks)}" in told.stdout
    assert found["planned_sram_bytes"] == found["encoder"]["sram_bytes"]  # `mobile` runs in its best order
    assert f"holds {found['planned_sram_bytes']:,} B, at {found['planned_peak']}" in told.stdout
    sent = next(row for row in found["layers"] if row["name"] == "channel.send")
    assert sent["energy_j"] == pytest.approx(64 / 62.5e3 * 0.04, rel=1e-12)
    assert sum(row["energy_j"] for row in found["layers"]) == pytest.approx(found["transmitter"]["energy_j"], rel=1e-9)


def test_a_device_is_set_like_any_setting() -> None:
    for asked in (["--set", "device=phone"], ["--device", "phone"], ["--device", "phone", "--set", "device=mcu"]):
        assert (
            json.loads(runner.invoke(app, ["cost", "mcu-fashion-mini", "--json", *asked]).stdout)["device"] == "phone"
        )


def test_a_cost_takes_what_acts_on_it_from_the_file_of_a_whole_study(tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    text = 'device = "phone"\ndataset = "cifar10"\nspace = "cell"\n[codec]\nwidth = 24\n[distill]\nepochs = 3\n'
    study.write_text(text)

    def cost(*asked: str) -> Any:
        told = runner.invoke(app, ["cost", *asked, "--json"])
        assert told.exit_code == 0, told.stderr
        return json.loads(told.stdout)

    of_file = cost("mcu-fashion-mini", "--config", str(study))
    assert of_file == cost("mcu-fashion-mini", "--device", "phone", "--set", "codec.width=24")
    assert cost("mcu-fashion-mini", "--config", str(study), "--device", "mcu")["device"] == "mcu"
    cell = "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"
    text = cost(cell, "--space", "nas_bench_201", "--config", str(study))
    assert text == cost(
        cell, "--space", "nas_bench_201", "--dataset", "cifar10", "--device", "phone", "--set", "codec.width=24"
    )


@pytest.mark.parametrize("command", [["cost", "mcu-fashion-mini"], ["evaluate", "nowhere"], ["device", "measure"]])
def test_a_settings_file_with_a_typing_error_is_refused_everywhere(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text("[distill]\nepohcs = 3\n")
    told = runner.invoke(app, [*command, "--config", str(tmp_path / "study.toml")])
    assert told.exit_code == 2 and "did you mean 'distill.epochs'?" in told.stderr


@pytest.mark.parametrize("name", ["mcu-256kB", "mcu-512kB", "wearable", "phone", "gateway"])
def test_a_device_of_ones_own_starts_from_a_shipped_one(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(runner.invoke(app, ["show", "device", name, "--toml"]).stdout)
    mine = runner.invoke(app, ["show", "device", str(tmp_path / "mine.toml"), "--json"])
    assert json.loads(mine.stdout) == json.loads(runner.invoke(app, ["show", "device", name, "--json"]).stdout)


def test_the_report_is_of_the_link_whatever_it_was_compared_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kdnas.cli import _report

    point = {"channel": "awgn", "snr_db": 5.0, "ci95": 0.01}
    results = {
        "device": "mcu", "dataset": "toy", "seed": 0, "transmitter": {"params": 9}, "budgets": {},
        "teacher": {"accuracy": 0.9}, "baselines": {"capacity": {"transmitter_params": 0}},
        "curves": [{**point, "system": "kdnas", "symbols": 64, "accuracy": 0.8},
                   {**point, "system": "capacity", "symbols": 8192, "accuracy": 0.9}],
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(results))
    _report(tmp_path)
    printed = " ".join(capsys.readouterr().out.split())
    assert "64 complex symbols" in printed and "80.0%" in printed and "capacity" not in printed


def test_an_architecture_is_shown_or_what_is_wrong_with_it(tmp_path: Path) -> None:
    name = "wearable-fashion-mini"
    shown = json.loads(runner.invoke(app, ["show", "architecture", name]).stdout)
    own = tmp_path / "architecture.json"
    assert runner.invoke(app, ["show", "architecture", str(tmp_path)]).exit_code == 2  # there is none yet
    own.write_text(json.dumps(shown))
    for where in (own, tmp_path):
        assert json.loads(runner.invoke(app, ["show", "architecture", str(where)]).stdout) == shown
    for broken in ("{", json.dumps({**shown, "space": "nowhere"})):
        own.write_text(broken)
        done = runner.invoke(app, ["show", "architecture", str(tmp_path)])
        assert done.exit_code == 2 and str(own) in done.output and len(done.output.strip().splitlines()) == 1
