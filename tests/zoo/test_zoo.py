import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import kdnas
from kdnas import zoo
from kdnas.codec import CAT
from kdnas.errors import InputError
from kdnas.evaluate import results_document
from kdnas.export import save_adaptation, save_link
from kdnas.link import Link
from kdnas.space import Architecture, make_space

FILES = (
    "architecture.json",
    "encoder.py",
    "encoder.safetensors",
    "link.safetensors",
    "link.json",
    "results.json",
)
COSTS = {"params": 10, "macs": 10, "sram_bytes": 10, "flash_bytes": 10, "latency_s": 0.1}


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run, and an empty zoo."""
    monkeypatch.setattr(zoo, "ROOT", tmp_path / "zoo")
    space = make_space("mobile", feature_dim=8)
    choices = space.random(torch.Generator().manual_seed(0))
    codec = CAT(8, 4, encoder={"tokens": 2}, decoder={"tokens": 2})
    link = Link(space.network(choices), codec.encoder, codec.decoder, nn.Linear(8, 2)).eval()
    meta = {
        "device": "mcu",
        "dataset": "toy",
        "classes": ["a", "b"],
        "channels": ["awgn"],
        "snr_db": [0.0, 10.0],
    }
    directory = tmp_path / "run"
    save_link(directory, Architecture("mobile", space.options, choices), link, meta)
    point = {
        "system": "kdnas",
        "channel": "awgn",
        "snr_db": 10.0,
        "symbols": 4,
        "accuracy": 0.5,
        "ci95": 0.1,
        "n": 10,
    }
    results = results_document(
        device="mcu", dataset="toy", seed=0, transmitter=COSTS, encoder=COSTS, budgets={"params": 20},
        teacher={"name": "t", "params": 1, "accuracy": 0.9}, curves=[point],
    )  # fmt: skip
    (directory / "results.json").write_text(json.dumps(results))
    (directory / "checkpoint").write_text("not for others")
    return directory


def test_a_published_run_opens_by_its_name(run_dir: Path) -> None:
    assert kdnas.list_architectures() == []
    target = zoo.publish(run_dir)
    assert kdnas.list_architectures() == ["mcu-toy"] and zoo.resolve("mcu-toy") == target
    assert sorted(path.name for path in target.iterdir()) == sorted(FILES)
    images = torch.rand(3, 1, 28, 28)
    by_run, by_name = kdnas.load(run_dir), kdnas.load("mcu-toy")
    with torch.no_grad():
        sent = by_run.encode(images, 5.0)
        assert torch.equal(sent, by_name.encode(images, 5.0))
        assert torch.equal(by_run.decode(sent, 5.0), by_name.decode(sent, 5.0))
        assert torch.equal(kdnas.load_encoder("mcu-toy")(images), by_name.encoder(images))
    assert zoo.publish(run_dir) == target and zoo.publish(run_dir, "other").name == "other"
    row = {"channel": "awgn", "snr_db": 0.0, "symbols": 4, "accuracy": 0.5, "ci95": 0.1, "n": 9}
    save_adaptation(run_dir, [row], 0.8)
    zoo.publish(run_dir)
    assert kdnas.load("mcu-toy").accuracies.lengths == [4]
    (run_dir / "adaptation.json").unlink()
    zoo.publish(run_dir)
    assert kdnas.load("mcu-toy").accuracies is None


def test_near_misses_are_suggested(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kdnas list architectures"):
        kdnas.load("mcu-toi")
    zoo.publish(run_dir)
    with pytest.raises(InputError, match="did you mean 'mcu-toy'"):
        kdnas.load("mcu-toi")
    with pytest.raises(InputError, match="neither"):
        zoo.resolve(run_dir / "results.json")
    with pytest.raises(InputError, match=r"no link\.json"):
        kdnas.load(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "architecture.json",
        "encoder.py",
        "encoder.safetensors",
        "link.safetensors",
        "link.json",
        "results.json",
    ],
)
def test_an_incomplete_or_changed_run_is_not_published(run_dir: Path, name: str) -> None:
    content = (run_dir / name).read_bytes()
    (run_dir / name).write_bytes(content[:-3])
    with pytest.raises(InputError, match=name):
        zoo.publish(run_dir)
    (run_dir / name).unlink()
    with pytest.raises(InputError, match=name):
        zoo.publish(run_dir)
    assert zoo.list_architectures() == [] and not zoo.ROOT.exists()


def test_results_of_another_run_are_not_published(run_dir: Path) -> None:
    path = run_dir / "results.json"
    path.write_text(path.read_text().replace('"mcu"', '"phone"'))
    with pytest.raises(InputError, match="device 'phone'"):
        zoo.publish(run_dir)


@pytest.mark.parametrize("name", ["../mcu", "a/b", "Big", "x y", "-x"])
def test_unfit_names_are_refused(run_dir: Path, name: str) -> None:
    with pytest.raises(InputError, match="no name"):
        zoo.publish(run_dir, name)


def test_import_and_listing_pull_no_torch() -> None:
    code = "import kdnas, sys; kdnas.list_architectures(); kdnas.load; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="nothing"):
        _ = kdnas.nothing


def test_everything_shipped_is_sound() -> None:
    for name in kdnas.list_architectures():
        encoder = kdnas.load(name).encoder
        assert not encoder.training


def test_a_loaded_link_is_for_use() -> None:
    link = kdnas.load("wearable-fashion-mini")
    sent = link.encode(torch.rand(2, 1, 28, 28), snr_db=5.0)
    assert sent.numpy().shape == (2, link.symbols)
    assert not any(p.requires_grad for p in [*link.parameters(), *kdnas.load_encoder("mcu-fashion-mini").parameters()])


def test_the_shipped_links_choose_their_length() -> None:
    for name in kdnas.list_architectures():
        link = kdnas.load(name)
        images = torch.rand(2, 1, 28, 28)
        good, bad = (link.send(images, snr_db, min_accuracy=0.75) for snr_db in (15.0, -10.0))
        assert good.met and good.symbols.shape[1] < bad.symbols.shape[1] <= link.symbols
        assert torch.equal(good.symbols, link.encode(images, 15.0, good.symbols.shape[1]))
