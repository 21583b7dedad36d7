import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import kdnas
from kdnas import config
from kdnas.cli import app
from kdnas.data import Batch
from kdnas.errors import InputError
from kdnas.evaluate import evaluate_classifier
from kdnas.pipeline.store_report import FORMS, form_of

runner = CliRunner()
TINY = [
    "--preset", "smoke", "--set", "threads=1", "--set", "distill.epochs=1", "--set", "distill.steps=3",
    "--set", "data.limit=300", "--set", "data.labels=100", "--set", "knowledge.views=1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fp16", ("fp16", None, None)), ("pca", ("pca", 9, None)), ("pca-128", ("pca", 128, None)),
        ("pq", ("pq", None, None)), ("pq-32", ("pq", 32, None)), ("pq-32x8", ("pq", 32, 8)),
    ],
)  # fmt: skip
def test_a_form_by_its_name(name: str, expected: tuple[str, int | None, int | None]) -> None:
    found = form_of(name, config.Knowledge(form="pca", dims=9, views=3))  # type: ignore[call-arg]
    assert found is not None and (found.form, found.dims, found.codes) == expected and found.views == 3


@pytest.mark.parametrize("name", ["int4", "pca-", "pca-x", "fp16-3", "pq-64x", "int8-", "pca-3x3", ""])
def test_an_unknown_form_is_named(name: str) -> None:
    with pytest.raises(InputError, match=rf"unknown form '{name}'"):
        form_of(name, config.Knowledge())  # type: ignore[call-arg]
    assert form_of("none", config.Knowledge()) is form_of("live", config.Knowledge()) is None  # type: ignore[call-arg]


def test_accuracy_of_a_classifier_is_counted_over_all_images() -> None:
    images = torch.randint(0, 256, (7, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Dropout(0.9)).train()
    with torch.no_grad():
        encoder[1].weight.copy_(torch.eye(4))
        encoder[1].bias.zero_()
    labels = images.flatten(1).int().argmax(1)
    labels[:3] = (labels[:3] + 1) % 4
    told = evaluate_classifier(encoder, nn.Identity().requires_grad_(False), images, labels, batch_size=3)
    assert told["accuracy"] == pytest.approx(4 / 7) and told["n"] == 7 and 0.2 < told["ci95"] < 0.5
    assert encoder.training
    with pytest.raises(InputError, match="needs images"):
        evaluate_classifier(encoder, nn.Identity(), images[:0], labels[:0])


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    path = tmp_path_factory.mktemp("report") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdnas.pipeline.store_report.ROUNDS", 1)
        result = runner.invoke(app, ["teach", *TINY, "--report", "--json", "--out", str(path)])
    assert result.exit_code == 0, result.output
    return path, json.loads(result.stdout)["document"]


def test_the_report_has_every_form_with_its_bytes_times_and_accuracy(reported: tuple[Path, dict]) -> None:
    path, document = reported
    assert document == json.loads((path / "store_report.json").read_text())
    rows = {row["form"]: row for row in document["rows"]}
    assert tuple(rows) == FORMS
    whole = {"fp16": 2 * 1280, "int8": 1280 + 4, "pca": 64, "pq": 16}
    for form, row in rows.items():
        assert (
            0 <= row["accuracy"] <= 1
            and row["ci95"] > 0
            and row["n"] == rows["none"]["n"] > 0
            and row["image_bytes"] == 784
        )
        assert row["epoch_s"] > 0 and row["epoch_ratio"] > 0
        assert row["feature_bytes"] == whole.get(form)
        if form in whole:
            assert row["top_bytes"] == 20 and row["bytes_per_view"] == whole[form] + 20
            assert row["share"] == pytest.approx(row["bytes_per_view"] / 784)
    assert rows["pca"]["dims"] == rows["pq"]["dims"] == 64 and rows["live"]["dims"] == 1280
    assert document["epoch_no_teacher_s"] == rows["none"]["epoch_s"] and rows["none"]["epoch_ratio"] == 1
    assert document["epoch_live_s"] == rows["live"]["epoch_s"]


@pytest.mark.slow
def test_students_that_are_trained_are_kept_and_others_join_them(reported: tuple[Path, dict]) -> None:
    path, document = reported
    before = {file: file.stat().st_mtime_ns for file in (path / "store").glob("*.json")}
    again = kdnas.api.store_report(path, forms=["int8", "pca-8"], rounds=1)
    assert [row["form"] for row in again["rows"]] == ["none", "int8", "pca-8"] and again["epoch_live_s"] is None
    assert again["rows"][2]["feature_bytes"] == again["rows"][2]["dims"] == 8
    accuracy = {row["form"]: row["accuracy"] for row in document["rows"]}
    assert [row["accuracy"] for row in again["rows"][:2]] == [accuracy["none"], accuracy["int8"]]
    assert before.items() <= {file: file.stat().st_mtime_ns for file in (path / "store").glob("*.json")}.items()


def test_the_report_is_printed_as_a_table(reported: tuple[Path, dict], capsys: pytest.CaptureFixture[str]) -> None:
    from kdnas.cli import _store_report

    _store_report(reported[0])
    printed = capsys.readouterr().out
    assert "stored knowledge of fashion-mini" in printed and "1,284 + 20 B" in printed


@pytest.mark.slow
def test_a_form_trains_like_the_run_itself(reported: tuple[Path, dict]) -> None:
    """The row of the run's own form is what stage 1 of the run's own distiller makes of the same student."""
    import shutil

    from kdnas.config import make_settings
    from kdnas.pipeline.context import Context
    from kdnas.pipeline.store_report import student
    from kdnas.run.directory import RunDirectory

    path, document = reported
    directory = RunDirectory(path.with_name("alone"))
    shutil.copytree(path, directory.path, ignore=shutil.ignore_patterns("checkpoints", "store", "tensorboard"))
    context = Context(make_settings(RunDirectory.open(path).settings), directory, progress=False)
    network, choices = student(context)
    costs = context.tables.exact(choices)
    assert all(costs[name] <= limit for name, limit in context.encoder_budgets.items())
    classifier, _ = context.distiller().clean(network, context.settings.loss, "own")
    told = evaluate_classifier(network, classifier, context.dataset.test_images, context.dataset.test_labels)
    row = next(row for row in document["rows"] if row["form"] == "int8")
    assert told == {name: row[name] for name in ("accuracy", "ci95", "n")}
    batch = Batch(torch.tensor([0]), torch.tensor([0]), 0, (0, 0, 0))
    assert context.lessons(batch, torch.device("cpu")).features.shape == (1, 1280)  # type: ignore[union-attr]
