"""Batches: a function of (seed, epoch), fair to every image, and resumable inside Lightning."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdnas.data import batches

LABELS = torch.arange(100) % 7
LABELLED, UNLABELLED = torch.arange(0, 30), torch.arange(30, 100)


def loader(**changes):
    settings = {"batch_size": 8, "labelled_fraction": 0.5, "steps": 5, "views": 3, "seed": 0, **changes}
    return batches(LABELLED, LABELS, settings.pop("unlabelled", UNLABELLED), **settings)


def epoch(made, number):
    made.sampler.set_epoch(number)
    return [(b.ids.tolist(), b.labels.tolist(), b.view, b.key) for b in made]


def test_a_batch_has_labelled_ids_first_and_no_other_label():
    for ids, labels, view, key in epoch(loader(), 2):
        assert len(ids) == 8 and set(ids[:4]) <= set(range(30)) and set(ids[4:]) <= set(range(30, 100))
        assert labels == LABELS[ids[:4]].tolist() + [-1] * 4
        assert 0 <= view < 3 and key[:2] == (0, 2)
    assert [key for *_, key in epoch(loader(), 2)] == [(0, 2, step) for step in range(5)]


def test_an_epoch_is_a_function_of_seed_and_number():
    torch.manual_seed(0)
    used = loader()
    for number in (0, 1, 7):
        epoch(used, number)
    torch.manual_seed(9)
    assert epoch(used, 3) == epoch(loader(), 3) != epoch(loader(), 4)
    assert epoch(loader(seed=1), 3) != epoch(loader(), 3)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(4)
    before = torch.get_rng_state()
    epoch(loader(), 1)
    assert torch.equal(torch.get_rng_state(), before)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.floats(0.01, 1), st.integers(1, 9), st.integers(1, 6), st.integers(1, 4))
def test_every_image_and_view_is_used_equally_often(batch_size, fraction, steps, epochs, views):
    made = loader(batch_size=batch_size, labelled_fraction=fraction, steps=steps, views=views)
    seen = [batch for number in range(epochs) for batch in epoch(made, number)]
    ids = torch.tensor([ids for ids, *_ in seen])
    assert ids.shape == (steps * epochs, batch_size)
    counts = ids.flatten().bincount(minlength=100)
    with_label = sum(label >= 0 for label in seen[0][1])
    assert with_label == max(1, round(batch_size * fraction))
    for pool in (LABELLED, UNLABELLED):
        assert counts[pool].max() - counts[pool].min() <= 1
    used = torch.tensor([view for _, _, view, _ in seen]).bincount(minlength=views)
    assert used.max() - used.min() <= 1


def test_without_unlabelled_images_all_are_labelled():
    for ids, labels, *_ in epoch(loader(unlabelled=torch.arange(0)), 0):
        assert len(ids) == 8 and -1 not in labels


def test_no_labels_at_all_is_possible():
    for ids, labels, *_ in epoch(loader(labelled_fraction=0.0), 0):
        assert set(labels) == {-1} and set(ids) <= set(range(30, 100))


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"steps": 0}, {"views": 0}, {"labelled_fraction": 1.1}])
def test_misuse_raises(changes):
    with pytest.raises(ValueError, match="must be at least 1"):
        loader(**changes)
    with pytest.raises(ValueError, match="no labelled ids"):
        batches(UNLABELLED[:0], LABELS, UNLABELLED, batch_size=4, labelled_fraction=0.5, steps=1, views=1, seed=0)


def test_lightning_sets_the_epoch_and_a_resumed_run_sees_the_same_batches(tmp_path):
    import pytorch_lightning as pl

    from kdnas.run.training import fit

    class Recorder(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.seen = []

        def training_step(self, batch, _):
            self.seen.append((batch.ids.tolist(), batch.labels.tolist(), batch.view, batch.key))
            return self.layer(batch.ids[:1, None].float()).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-6)

    def run(epochs, directory):
        module = Recorder()
        fit(module, loader(), epochs=epochs, directory=directory, name="x", accelerator="cpu", progress=False)
        return module.seen

    whole = run(4, tmp_path / "whole")
    assert whole == [batch for number in range(4) for batch in epoch(loader(), number)]
    assert run(2, tmp_path / "parts") + run(4, tmp_path / "parts") == whole


def test_a_batch_stays_where_pixels_and_knowledge_lie():
    from lightning_fabric.utilities.apply_func import move_data_to_device

    (batch, *_) = loader(steps=1)
    for held in (batch, {"train": batch}, (batch, 0, 0)):
        moved = move_data_to_device(held, torch.device("meta"))
        found = moved["train"] if isinstance(moved, dict) else moved if moved is batch else moved[0]
        assert found is batch and found.ids.device.type == "cpu"
