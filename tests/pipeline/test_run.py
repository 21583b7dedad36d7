import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import kdnas
from kdnas.cli import app
from kdnas.config import make_settings
from kdnas.device import load_device
from kdnas.errors import InputError
from kdnas.evaluate import validate_results
from kdnas.export.halves import onnx_session, run_onnx
from kdnas.pipeline import stages
from kdnas.pipeline.context import Context
from kdnas.run.directory import RunDirectory
from kdnas.run.files import sha256_file
from kdnas.space import Architecture

runner = CliRunner()


def test_the_run_leaves_everything_and_fits_the_device(smoke_run: Path) -> None:
    for name in (
        "run.json", "architecture.json", "encoder.py", "encoder.safetensors", "link.safetensors", "link.json",
        "results.json", "study.db", "inherited.safetensors", "figures/accuracy-snr.png", "tensorboard/search",
        "baselines/no-kd/link.json",
    ):  # fmt: skip
        assert (smoke_run / name).exists(), name
    results = validate_results(json.loads((smoke_run / "results.json").read_text()))
    device = load_device("wearable")
    assert results["budgets"] == device.budgets
    for name, limit in device.budgets.items():
        assert results["transmitter"][name] <= limit
    assert {row["system"] for row in results["curves"]} == {"kdnas", "no-kd", "teacher"}
    recorded = json.loads((smoke_run / "run.json").read_text())
    assert recorded["versions"]["torch"] == torch.__version__ and recorded["settings"]["preset"] == "smoke"


def test_costs_in_the_results_are_those_of_the_saved_networks(smoke_run: Path) -> None:
    results = json.loads((smoke_run / "results.json").read_text())
    link = kdnas.load(smoke_run)
    encoder = sum(p.numel() for p in link.encoder.parameters())
    channel = sum(p.numel() for p in link.channel_encoder.parameters())
    assert results["encoder"]["params"] == encoder
    assert results["transmitter"]["params"] == encoder + channel
    found = kdnas.api.cost(smoke_run, "wearable")
    assert found["transmitter"] == results["transmitter"] and found["fits"]


def test_after_a_study_the_search_keeps_the_best_of_several(smoke_run: Path) -> None:
    """The best trial's weights and the settings' own; the architectures are compared, whatever their searches say."""
    found, tuned = (json.loads((smoke_run / "stages" / f"{name}.json").read_text()) for name in ("search", "tune"))
    first, own = found["finalists"]
    assert first["weights"] == f"trial {tuned['best']['trial'] + 1}"
    assert first["kd"] == tuned["best"]["parameters"]["kd"] and own["kd"] == 1.0 and own["weights"] == "settings"
    best = max(found["finalists"], key=lambda each: each["value"])
    assert all(found[key] == best[key] for key in ("choices", "costs", "kd", "penalty", "gap"))
    assert Architecture.load(smoke_run / "architecture.json").choices == best["choices"]


def test_architectures_are_compared_by_an_equal_training_once_each(smoke_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(smoke_run, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "finalists")
    context = Context(make_settings(RunDirectory.open(run).settings), RunDirectory.open(run), progress=False)
    found = json.loads((run / "stages" / "search.json").read_text())["finalists"]
    results: list = [SimpleNamespace(choices=each["choices"]) for each in (found[1], found[0], found[1])]
    lines: list[str] = []
    values = stages.compared(context, results, ["a", "b", "c"], lines.append)
    assert values == [found[1]["value"], found[0]["value"], found[1]["value"]]  # neither order nor search matters
    assert len(lines) == 3 and lines[0] == f"search with the weights of a: its architecture is worth {values[0]:.1%}"
    assert len(list((run / "checkpoints" / "finalists").iterdir())) == 2
    assert stages.compared(context, results[:1], ["a"], lines.append) == [0.0] and len(lines) == 3
    shutil.rmtree(run / "checkpoints" / "finalists")
    context.settings = make_settings(context.settings.model_dump(mode="json"), {"tune.final_epochs": 3})
    assert stages.compared(context, results[:2], ["a", "b"], lines.append) != values[:2]


def test_halves_of_the_loaded_link_work_apart(smoke_run: Path) -> None:
    link = kdnas.load(smoke_run)
    images = torch.rand(3, 1, 28, 28)
    with torch.no_grad():
        symbols = link.encode(images, snr_db=10.0, symbols=16)
        assert symbols.shape == (3, 16) and symbols.is_complex()
        assert torch.allclose(symbols.abs().square().mean(1), torch.ones(3), atol=1e-5)
        logits = link.decode(symbols, snr_db=10.0)
    assert logits.shape == (3, 10)
    encoder = kdnas.load_encoder(smoke_run)
    assert torch.equal(encoder(images), link.encoder(images))


def test_finished_stages_are_not_repeated(smoke_run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in smoke_run.rglob("*.safetensors")}
    lines: list[str] = []
    kdnas.api.run(resume=smoke_run, say=lines.append)
    assert all("done before" in line for line in lines)
    assert before == {p: p.stat().st_mtime_ns for p in smoke_run.rglob("*.safetensors")}


def test_a_resumed_run_stays_in_its_place(smoke_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stays in its place: leave out --out"):
        kdnas.api.run(resume=smoke_run, out=tmp_path / "elsewhere")


def test_evaluate_again_gives_the_same_numbers(smoke_run: Path) -> None:
    before = json.loads((smoke_run / "results.json").read_text())
    kdnas.api.evaluate(smoke_run)
    assert json.loads((smoke_run / "results.json").read_text()) == before


def test_a_run_whose_images_have_changed_does_not_go_on(tmp_path: Path) -> None:
    rng, images = np.random.default_rng(0), tmp_path / "images"
    for name in ("cat", "dog"):
        (images / name).mkdir(parents=True)
        for number in range(60):
            Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(images / name / f"{number}.png")
    given = {"preset": "smoke", "dataset": f"folder:{images}", "data.labels": 40, "threads": 1}
    run = kdnas.api.teach(out=tmp_path / "run", **given)
    kdnas.api.teach(resume=run)
    (images / "cat").rename(images / "lynx")  # sorted by name, dogs are now first
    with pytest.raises(InputError, match=r"were changed since .*run began: start a new run"):
        kdnas.api.distill(resume=run)
    (run / "link.json").write_text("{}")  # as if it were finished
    with pytest.raises(InputError, match=r"were changed since .*run began: start a new run"):
        kdnas.api.evaluate(run)


def test_a_finished_link_is_measured_on_other_channels_and_told_wrong_snrs(smoke_run: Path, tmp_path: Path) -> None:
    shutil.copytree(smoke_run, tmp_path / "run")
    kdnas.api.evaluate(
        tmp_path / "run",
        **{"evaluate.channels": ["rician(k_db=3)"], "evaluate.snr_offsets_db": [-3.0], "evaluate.snrs_db": [30.0],
           "evaluate.ci95": 0.01, "evaluate.max_draws": 6},
    )  # fmt: skip
    results = validate_results(json.loads((tmp_path / "run" / "results.json").read_text()))
    sent = [row for row in results["curves"] if row["channel"]]
    assert {(row["channel"], row["snr_db"]) for row in sent} == {("rician(k_db=3)", 30.0)}
    assert {row["snr_offset_db"] for row in results["mismatch"]} == {-3.0}
    assert all(2 <= row["draws"] <= 6 for row in sent + results["mismatch"])
    report = json.loads((tmp_path / "run" / "stages" / "evaluate.json").read_text())
    assert report["settings"]["channels"] == ["rician(k_db=3)"]
    assert kdnas.load(tmp_path / "run").accuracies.channels == ["awgn", "rayleigh"]  # lengths are chosen by its own
    with pytest.raises(InputError, match="is no setting of an evaluation"):
        kdnas.api.evaluate(smoke_run, **{"distill.epochs": 3})


def test_a_look_at_other_channels_leaves_the_run_as_it_is(smoke_run: Path, tmp_path: Path) -> None:
    def content() -> dict[str, str]:
        return {str(file): sha256_file(file) for file in sorted(smoke_run.rglob("*")) if file.is_file()}

    before, aside = content(), tmp_path / "aside"
    asked = ["--set", "evaluate.channels=['multipath']", "--set", "evaluate.snrs_db=[30.0]", "--json"]
    done = runner.invoke(app, ["evaluate", str(smoke_run), "--out", str(aside), *asked])
    assert done.exit_code == 0, done.output
    results = validate_results(json.loads((aside / "results.json").read_text()))
    assert {row["channel"] for row in results["curves"]} == {"multipath", None}
    assert json.loads(done.stdout)["document"] == results
    assert aside / "figures" / "accuracy-snr.png" in kdnas.api.plot(aside)
    assert content() == before
    with pytest.raises(InputError, match="leave out --out or --baselines"):
        kdnas.api.evaluate(smoke_run, out=aside, baselines=True)
    for taken in (smoke_run, smoke_run / "baselines" / "no-kd"):
        with pytest.raises(InputError, match="is a run or a link itself"):
            kdnas.api.evaluate(smoke_run, out=taken)
    for file in (aside / "results.json", aside / "results.json" / "below"):
        with pytest.raises(InputError, match=r"results\.json is a file"):
            kdnas.api.evaluate(smoke_run, out=file)
    assert content() == before


def test_an_unknown_channel_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'rician'"):
        kdnas.api.run(preset="smoke", out=tmp_path / "run", threads=1, **{"evaluate.channels": ["ricean"]})
    assert not (tmp_path / "run").exists()


def test_evaluate_adds_int8(smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    shutil.copytree(smoke_run, run)
    before = json.loads((run / "results.json").read_text())
    kdnas.api.evaluate(run, **{"evaluate.int8": True})
    after = validate_results(json.loads((run / "results.json").read_text()))
    own = {system: [row for row in after["curves"] if row["system"] == system] for system in ("kdnas", "kdnas-int8")}
    points = [[(row["channel"], row["snr_db"], row["symbols"]) for row in rows] for rows in own.values()]
    assert points[0] == points[1] != []
    differences = [abs(a["accuracy"] - b["accuracy"]) for a, b in zip(*own.values(), strict=True)]
    assert max(differences) < 0.1  # of an encoder that has learnt next to nothing
    after["curves"] = [row for row in after["curves"] if row["system"] != "kdnas-int8"]
    assert after == before
    pixels = torch.randint(256, (2, 1, 28, 28), dtype=torch.uint8)
    sent = run_onnx(
        onnx_session(run / "transmitter.int8.onnx"),
        {"images": pixels, "snr_db": torch.zeros(2), "length": torch.tensor([1, 64])},
    )
    assert sent.shape == (2, 64, 2) and not sent[0, 1:].any()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"kdnas\[export\]"):
        kdnas.api.evaluate(run, **{"evaluate.int8": True})
    with pytest.raises(InputError, match=r"kdnas\[export\]"):
        kdnas.api.run(preset="smoke", out=tmp_path / "other", **{"evaluate.int8": True})
    assert not (tmp_path / "other").exists()


def test_an_architecture_of_ones_own_enters_at_distill(smoke_run: Path, tmp_path: Path) -> None:
    found = Architecture.load(smoke_run / "architecture.json")
    own = {**found.choices, "stage0/width": 8, "stage0block0/kernel": 3}
    Architecture(found.space, found.options, own).save(tmp_path / "own.json")
    path = kdnas.api.distill(
        preset="smoke", out=tmp_path / "run", threads=1, architecture=tmp_path / "own.json",
        **{"distill.epochs": 1, "distill.link_epochs": 1, "distill.steps": 2},
    )  # fmt: skip
    assert Architecture.load(path / "architecture.json").choices == own
    assert kdnas.load(path).encode(torch.rand(1, 1, 28, 28), 0.0).shape == (1, 64)


def test_an_architecture_of_another_space_is_refused(smoke_run: Path, tmp_path: Path) -> None:
    found = Architecture.load(smoke_run / "architecture.json")
    Architecture("cell", found.options, found.choices).save(tmp_path / "own.json")
    with pytest.raises(InputError, match="space 'cell'"):
        kdnas.api.distill(preset="smoke", out=tmp_path / "run", architecture=tmp_path / "own.json")


def test_truncated_weights_are_named(smoke_run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "run"
    shutil.copytree(smoke_run, broken)
    data = (broken / "encoder.safetensors").read_bytes()
    (broken / "encoder.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"encoder\.safetensors"):
        kdnas.load(broken)


def test_a_penalty_weight_acts(tmp_path: Path) -> None:
    tiny = {"tune.enabled": False, "search.epochs": 2, "search.steps": 8, "search.warmup_epochs": 1}
    costs = []
    for weight in (0.0, 30.0):
        path = kdnas.api.search(
            preset="smoke", device="mcu", out=tmp_path / f"run{weight}", threads=1,
            **tiny, **{"search.penalty.params": weight, "search.penalty.macs": weight},
            # The penalty alone: no pull towards the use of the budgets, and nothing dropped for their sake.
            **{"search.alpha_learning_rate": 0.5, "search.budget_use": 0.0, "search.shrink": False},
        )  # fmt: skip
        report = json.loads((path / "stages" / "search.json").read_text())
        costs.append(report["history"][-1]["expected"]["params"])
    assert costs[1] < 0.8 * costs[0]


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_one_that_was_not(tmp_path: Path) -> None:
    def start(out: Path) -> subprocess.Popen[bytes]:
        begun = ["--resume", str(out)] if (out / "run.json").exists() else ["--preset", "smoke", "--out", str(out)]
        begun += [] if "--resume" in begun else ["--set", "threads=1"]
        command = [sys.executable, "-m", "kdnas.cli", "run", *begun]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ.copy())

    assert start(tmp_path / "whole").wait() == 0
    rng, out, kills = random.Random(0), tmp_path / "killed", 0
    process = start(out)
    while kills < 10:
        time.sleep(rng.uniform(4, 8))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        process = start(out)
    assert process.wait() == 0 and kills >= 4
    for name in ("architecture.json", "inherited.safetensors", "encoder.safetensors", "link.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (out / name).read_bytes(), name
    curves = [json.loads((p / "results.json").read_text())["curves"] for p in (tmp_path / "whole", out)]
    assert curves[0] == curves[1]
