"""The training loop: it stops and goes on to the bit, and says what is wrong with a checkpoint."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import nn

from kdnas.data import batches
from kdnas.errors import InputError
from kdnas.run.seeds import generator
from kdnas.run.training import checkpoint_path, fit

LABELS = torch.arange(40) % 4
INPUTS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))


class Task(LightningModule):
    """A small network with noise in its step, seeded from the batch as the contract wants."""

    def __init__(self, stop_at: int | None = None, fault: type[BaseException] = RuntimeError) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
        self.stop_at, self.fault = stop_at, fault
        self.seen: list[tuple[int, int, int]] = []

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        self.seen.append(batch.key)
        if self.current_epoch == self.stop_at and index == 1:
            raise self.fault("stopped")
        x = INPUTS[batch.ids]
        x = x + torch.randn(x.shape, generator=generator(*batch.key))
        return nn.functional.cross_entropy(self.layers(x), LABELS[batch.ids])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 0.01)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)}


def train(task: Task, directory: Path, epochs: int = 4) -> Task:
    loader = batches(
        torch.arange(40), LABELS, torch.arange(0), batch_size=8, labelled_fraction=1.0, steps=3, views=1, seed=5
    )
    fit(task, loader, epochs=epochs, directory=directory, name="task", accelerator="cpu", progress=False)
    return task


def same(one: Task, other: Task) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("stop_at", [0, 1, 3])
def test_what_was_stopped_goes_on_to_the_bit(stop_at: int, tmp_path: Path) -> None:
    whole = train(Task(), tmp_path / "whole")
    with pytest.raises(RuntimeError, match="stopped"):
        train(Task(stop_at), tmp_path / "parts")
    assert (checkpoint_path(tmp_path / "parts", "task") is None) == (stop_at == 0)
    torch.manual_seed(77)
    again = train(Task(), tmp_path / "parts")
    assert same(again, whole)
    assert again.seen == [(5, epoch, step) for epoch in range(stop_at, 4) for step in range(3)]


def test_ctrl_c_stays_ctrl_c(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(Task(1, KeyboardInterrupt), tmp_path)
    assert same(train(Task(), tmp_path), train(Task(), tmp_path / "whole"))


def test_what_is_finished_is_not_trained_again(tmp_path: Path) -> None:
    first = train(Task(), tmp_path)
    again = train(Task(), tmp_path)
    assert again.seen == [] and same(again, first)
    assert len(train(Task(), tmp_path, epochs=5).seen) == 3


def test_checkpoints_and_tensorboard_are_in_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    train(Task(), tmp_path / "run", epochs=1)
    assert checkpoint_path(tmp_path / "run", "task") == tmp_path / "run" / "checkpoints" / "task.ckpt"
    assert list((tmp_path / "run" / "tensorboard" / "task").glob("events*"))
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("damage", ["truncated", "other", "empty"])
def test_a_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    train(Task(), tmp_path, epochs=1)
    path = tmp_path / "checkpoints" / "task.ckpt"
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "other": b"no checkpoint at all", "empty": b""}[damage])
    with pytest.raises(InputError, match=r"checkpoint .*task\.ckpt is damaged: remove it and resume again"):
        train(Task(), tmp_path, epochs=2)


class Diverging(Task):
    """Its loss is NaN from one epoch on."""

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return super().training_step(batch, index) * (math.nan if self.current_epoch == 2 else 1.0)


def test_a_training_that_diverged_is_told_and_that_epoch_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the training 'task' diverged, its loss is nan: .* lower learning rate"):
        train(Diverging(), tmp_path)
    path = checkpoint_path(tmp_path, "task")
    assert path is not None
    kept = torch.load(path, weights_only=True)
    assert kept["epoch"] == 1 and all(value.isfinite().all() for value in kept["state_dict"].values())


def test_the_bar_leaves_standard_output_to_results(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    loader = batches(
        torch.arange(40), LABELS, torch.arange(0), batch_size=8, labelled_fraction=1.0, steps=3, views=1, seed=5
    )
    fit(Task(), loader, epochs=1, directory=tmp_path, name="task", accelerator="cpu", progress=True)
    seen = capfd.readouterr()
    assert seen.out == "" and "Epoch" in seen.err
