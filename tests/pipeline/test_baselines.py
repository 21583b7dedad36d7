"""What a run is compared with: trained by the same hand, no larger, kept, and reported."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import kdnas
from kdnas.config import BASELINES, make_settings
from kdnas.errors import InputError
from kdnas.evaluate import validate_results
from kdnas.pipeline.baselines import NEED_SIONNA, Baselines
from kdnas.pipeline.context import Context
from kdnas.pipeline.stages import architecture_of, clean_stage
from kdnas.run.directory import RunDirectory
from kdnas.run.tensors import read_tensors


def results_of(run: Path) -> dict:
    return validate_results(json.loads((run / "results.json").read_text()))


def check(run: Path, names: list[str]) -> dict:
    results = results_of(run)
    ours = results["transmitter"]["params"]
    assert set(results["baselines"]) == set(names)
    for name in names:
        assert results["baselines"][name]["transmitter_params"] <= ours
        rows = [row for row in results["curves"] if row["system"] == name]
        points = {(row["channel"], row["snr_db"]) for row in rows if row["symbols"] == 64}
        assert points == {(channel, snr) for channel in ("awgn", "rayleigh") for snr in (0.0, 10.0)}
    return results


def test_baselines_are_trained_once_kept_reported_and_drawn(smoke_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(smoke_run, run)
    names = ["deep-jscc", "adjscc", "rkd-sc", "codebook", "digital-class"]
    kdnas.api.evaluate(run, baselines=names[:2])
    check(run, names[:2])
    link = kdnas.load(run / "baselines" / "adjscc")
    assert link.info.codec.name == "snr-attention" and link.symbols == 64
    before = {name: (run / "baselines" / name / "report.json").stat().st_mtime_ns for name in names[:2]}
    kdnas.api.evaluate(run, baselines=names)
    kdnas.api.evaluate(run)  # what is kept stays in the results
    results = check(run, names)
    for name, time in before.items():
        assert (run / "baselines" / name / "report.json").stat().st_mtime_ns == time
    assert [row for row in results["curves"] if row["system"] not in names] == results_of(smoke_run)["curves"]
    figures = {path.stem for path in kdnas.api.plot(run)}
    assert {"baselines", "accuracy-snr"} <= figures
    # Other settings of the evaluation: measured again, not trained again.
    weights = (run / "baselines" / "adjscc" / "link.safetensors").stat().st_mtime_ns
    kdnas.api.evaluate(run, baselines=["adjscc"], **{"evaluate.snrs_db": [5.0]})
    assert set(results_of(run)["baselines"]) == {"adjscc"}
    assert (run / "baselines" / "adjscc" / "link.safetensors").stat().st_mtime_ns == weights


def test_baselines_with_a_teacher_begin_as_ours_does(smoke_run: Path) -> None:
    run = RunDirectory.open(smoke_run)
    inherited = read_tensors(smoke_run / "inherited.safetensors")
    drawn = {}
    for init in ("scratch", "inherited"):
        context = Context(make_settings(run.settings, {"distill.init": init}), run, progress=False)
        baselines = Baselines(context, architecture_of(context), smoke_run / "baselines")
        drawn[init] = baselines.network(teacher=False).state_dict()
        first = baselines.network().state_dict()
        for name, value in first.items():
            assert torch.equal(value, inherited[name] if init == "inherited" else drawn[init][name])
    assert all(torch.equal(value, drawn["inherited"][name]) for name, value in drawn["scratch"].items())
    assert any(not torch.equal(value, inherited[name]) for name, value in drawn["scratch"].items())


def test_the_class_alone_arrives_as_stage_1_told_it(smoke_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(smoke_run, run)
    kdnas.api.evaluate(run, baselines=["digital-class"])
    (row,) = [
        row for row in check(run, ["digital-class"])["curves"]
        if (row["system"], row["channel"], row["snr_db"]) == ("digital-class", "awgn", 10.0)
    ]  # fmt: skip
    directory = RunDirectory.open(run)
    context = Context(make_settings(directory.settings), directory, progress=False)
    network = Baselines(context, architecture_of(context), run / "baselines").network()
    classifier, _ = clean_stage(context, network, context.settings.loss, "kdnas")
    with torch.no_grad():
        told = classifier(network.eval()(context.dataset.test_images.float() / 255)).argmax(1)
    assert row["accuracy"] == pytest.approx(float((told == context.dataset.test_labels).float().mean()))
    report = json.loads((run / "baselines/digital-class/report.json").read_text())
    assert report["transmitter_params"] == sum(p.numel() for p in [*network.parameters(), *classifier.parameters()])


def test_unknown_baselines_and_missing_extras_are_refused_first(
    smoke_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    with pytest.raises(InputError, match=r"unknown baseline 'jpeg'.*deep-jscc"):
        kdnas.api.evaluate(smoke_run, baselines=["jpeg"])
    for module in ("sionna", "sionna.phy"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in NEED_SIONNA:
        with pytest.raises(InputError, match=r"kdnas\[baselines\]"):
            kdnas.api.evaluate(smoke_run, baselines=["deep-jscc", name])
    assert not (smoke_run / "baselines" / "deep-jscc").exists()
    directory = RunDirectory.open(smoke_run)
    context = Context(make_settings(directory.settings), directory, progress=False)
    others = Baselines(context, architecture_of(context), smoke_run / "baselines")
    others.symbols = 4
    with pytest.raises(InputError, match=r"4 symbols tells 2 to 8 classes apart, not 10"):
        others.check(["digital-class"])
    monkeypatch.undo()
    pytest.importorskip("sionna.phy")
    others.symbols = 1
    with pytest.raises(InputError, match=r"in 1 symbols: leave that baseline out"):
        others.check(["digital-features"])


@pytest.mark.slow
def test_digital_baselines_and_their_bound(smoke_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("sionna")
    run = tmp_path / "run"
    shutil.copytree(smoke_run, run)
    kdnas.api.evaluate(run, baselines=True)
    results = check(run, list(BASELINES))
    at = {
        (row["system"], row["snr_db"], row["symbols"]): row["accuracy"]
        for row in results["curves"]
        if row["channel"] == "awgn"
    }
    # With many symbols the image arrives as it is, and the teacher is as good as without a channel.
    for system in ("digital-image", "capacity"):
        assert at[system, 10.0, 8192] == pytest.approx(results["teacher"]["accuracy"], abs=0.1)
        assert at[system, 10.0, 8192] > at[system, 0.0, 64]
    report = json.loads((run / "baselines/digital-image/report.json").read_text())
    assert report["transmitter_params"] == 0
    assert {row["symbols"] for row in report["chosen"]} == {64, 128, 256, 512, 1024, 2048, 4096, 8192}
