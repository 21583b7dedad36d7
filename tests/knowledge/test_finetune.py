"""The options of fine-tuning: what each of them does, and that a resumed one equals an unbroken one."""

import math
import sys

import pytest
import tiny_teachers
import torch
from tiny_teachers import CLASSES, DATA, SPLITS, install, tiny
from torch import nn
from torch.nn import functional as F

from kdnas.data import Batch, Dataset, Views
from kdnas.knowledge import finetune, selftraining
from kdnas.knowledge.finetune import Activations, FineTune, Held, SoftLabels
from kdnas.knowledge.selftraining import pool, soft_labels
from kdnas.knowledge.teacher import InputSpec

SPEC = InputSpec(3, 28, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(autouse=True)
def house(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path)
    monkeypatch.setattr(sys.modules["kdnas.knowledge.adapt"], "EPOCHS", 5)


def run(tmp_path, name="tiny", **kwargs):
    """Five epochs of two steps."""
    return tiny_teachers.run(tmp_path, name, **{"steps": 10, "cache": False, **kwargs})


def activations(ids, n_views=2):
    return Activations(tiny().layers[:1].eval(), SPEC, DATA, Views(shift=1), n_views, ids, torch.device("cpu"))


def module(**kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Linear(12, CLASSES)
    tail = tiny().layers[1:].eval()
    given = {"steps": 10, "learning_rate": 1e-3, "smoothing": 0.1, "key": "k", **kwargs}
    net = FineTune(tail, head, activations(SPLITS.weights_labelled), **given)
    net.log = lambda *args, **kwargs: None
    return net


def batch(labelled=6, unlabelled=0, step=0):
    ids = torch.cat([SPLITS.weights_labelled[:labelled], SPLITS.weights_unlabelled[:unlabelled]])
    labels = torch.cat([DATA.train_labels[ids[:labelled]], torch.full((unlabelled,), -1)])
    return Batch(ids, labels, 1, (0, 0, step))


def test_rates_decay_from_the_classifier_down():
    groups = module(rate_decay=0.5, learning_rate=0.8).configure_optimizers()["optimizer"].param_groups
    # The pool and the flattening have no parameters and do not count.
    assert [group["initial_lr"] for group in groups] == [0.4, 0.8]
    plain = module(learning_rate=0.8).configure_optimizers()["optimizer"].param_groups
    assert [group["initial_lr"] for group in plain] == [0.8]
    assert sum(p.numel() for g in groups for p in g["params"]) == sum(p.numel() for g in plain for p in g["params"])


def test_mixup_mixes_inputs_and_labels_alike(monkeypatch):
    monkeypatch.setattr(finetune, "DROPOUT", 0.0)
    net, seen = module(mixup=0.5), batch()
    order, share = net._mixing(seen, torch.device("cpu"))
    assert sorted(order.tolist()) == list(range(6)) and float(share.min()) >= 0 and float(share.max()) <= 0.5
    inputs = net.activations(seen.ids, seen.view)
    own = F.one_hot(seen.labels, CLASSES) * 0.9 + 0.1 / CLASSES
    keep = (1 - share)[:, None]
    mixed = keep[..., None, None] * inputs + share[:, None, None, None] * inputs[order]
    targets = keep * own + share[:, None] * own[order]
    expected = -(targets * net.head(net.tail(mixed)).log_softmax(1)).sum(1).mean()
    assert torch.allclose(net.training_step(seen, 0), expected, atol=1e-6)
    assert not torch.equal(net._mixing(batch(step=1), torch.device("cpu"))[1], share)


def test_posteriors_stand_in_for_labels(monkeypatch):
    monkeypatch.setattr(finetune, "DROPOUT", 0.0)
    others = activations(SPLITS.weights_unlabelled, 1)
    posteriors = torch.rand(len(others.ids), CLASSES, generator=torch.Generator().manual_seed(0)).softmax(1)
    net, seen = module(soft=SoftLabels(others, posteriors)), batch(4, 3)
    inputs = torch.cat([net.activations(seen.ids[:4], 1), others(seen.ids[4:], 0)])  # one view of those without labels
    logs = net.head(net.tail(inputs)).log_softmax(1)
    labelled = F.cross_entropy(logs[:4], seen.labels[:4], label_smoothing=0.1, reduction="sum")
    expected = (labelled - (posteriors[:3] * logs[4:]).sum()) / 7
    assert torch.allclose(net.training_step(seen, 0), expected, atol=1e-6)


def test_soft_labels_are_the_mean_posterior_over_the_views():
    net, others = module(), activations(SPLITS.weights_unlabelled[:5], 2)
    net.tail.train()
    found = soft_labels(net.tail, net.head, others)
    assert net.tail.training and found.posteriors.requires_grad is False
    net.tail.eval()
    with torch.no_grad():
        logits = [net.head(net.tail(others(others.ids, view))) for view in range(2)]
    assert torch.allclose(found.posteriors, (logits[0].softmax(1) + logits[1].softmax(1)) / 2, atol=1e-6)


def test_the_pool_is_limited_sorted_and_spread(monkeypatch):
    monkeypatch.setattr(selftraining, "POOL", 10)
    ids = torch.arange(0, 300, 3)
    picked = pool(ids)
    assert len(picked) == 10 and torch.equal(picked, ids[::10])
    assert torch.equal(pool(ids[:7]), ids[:7])


def test_unfreezing_trains_the_first_link_too(tmp_path):
    before = tiny().layers[0].conv.weight
    usual, _ = run(tmp_path / "a")
    more, _ = run(tmp_path / "b", unfreeze=1)
    all_there_is, _ = run(tmp_path / "c", unfreeze=99)
    probe, _ = run(tmp_path / "d", method="probe")
    folded = probe.layers[0].conv.weight
    assert folded.shape == before.shape and torch.equal(usual.layers[0].conv.weight, folded)
    assert not torch.equal(more.layers[0].conv.weight, folded)
    assert more.hash == all_there_is.hash


def test_the_best_epoch_is_kept_and_the_rest_is_not_trained(tmp_path, monkeypatch):
    scripted = iter([0.9, 0.5, 0.7, 0.6, 0.4])
    states = []

    def nll(self):
        states.append({name: value.clone() for name, value in self.state_dict().items()})
        return next(scripted)

    monkeypatch.setattr(FineTune, "negative_log_likelihood", nll)
    teacher, report = run(tmp_path, patience=2)
    assert len(states) == 4 and report["epochs"] == [2]  # epochs 3 and 4 were no better: the fifth never came
    assert torch.equal(teacher.head.weight, states[1]["head.weight"])
    assert not torch.equal(teacher.head.weight, states[3]["head.weight"])


def test_the_likelihood_is_that_of_the_held_images_and_leaves_the_modes_alone():
    ids = SPLITS.architecture_labelled
    net = module(held=Held(activations(ids, 1), DATA.train_labels[ids], 3))
    net.tail.train()
    found = net.negative_log_likelihood()
    assert net.tail.training and math.isfinite(found)
    net.tail.eval()
    with torch.no_grad():
        logits = net.head(net.tail(activations(ids, 1)(ids, 0)))
    assert found == pytest.approx(float(F.cross_entropy(logits, DATA.train_labels[ids])), abs=1e-6)


def test_self_training_reads_no_hidden_label(tmp_path):
    lies = DATA.train_labels.clone()
    lies[SPLITS.weights_unlabelled] = (lies[SPLITS.weights_unlabelled] + 1) % CLASSES
    liar = Dataset("bars", DATA.classes, DATA.train_images, lies, DATA.test_images, DATA.test_labels, "lies")
    teacher, _ = run(tmp_path / "a", self_training=1)
    misled, _ = run(tmp_path / "b", dataset=liar, self_training=1)
    plain, _ = run(tmp_path / "c")
    assert teacher.hash == misled.hash != plain.hash


@pytest.mark.parametrize("method", ["finetune", "patience"])
def test_only_patience_looks_at_labels_of_the_architecture_split(tmp_path, method):
    lies = DATA.train_labels.clone()
    lies[SPLITS.architecture_labelled] = (lies[SPLITS.architecture_labelled] + 1) % CLASSES
    liar = Dataset("bars", DATA.classes, DATA.train_images, lies, DATA.test_images, DATA.test_labels, "lies")
    more = {"patience": 2} if method == "patience" else {"mixup": 0.5, "rate_decay": 0.5, "self_training": 1}
    teacher, _ = run(tmp_path / "a", **more)
    misled, _ = run(tmp_path / "b", dataset=liar, **more)
    assert (teacher.hash == misled.hash) == (method == "finetune")


@pytest.mark.parametrize(("name", "dies_at"), [("tiny", 6), ("tiny", 17), ("tiny_scratch", 17)])
def test_a_resumed_fine_tuning_with_every_option_equals_an_unbroken_one(tmp_path, monkeypatch, name, dies_at):
    # Five epochs of two steps, twice over: once it dies in the first fine-tuning, else in that of self-training.
    more = {"rate_decay": 0.7, "mixup": 0.5, "patience": 9, "unfreeze": 1, "self_training": 1}
    whole, report = run(tmp_path / "a", name, **more)
    step = FineTune.training_step
    seen = []

    def dies(self, batch, index):
        seen.append(batch.key)
        if len(seen) == dies_at:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(FineTune, "training_step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", name, **more)
    resumed, again = run(tmp_path / "b", name, **more)
    assert resumed.hash == whole.hash and again["epochs"] == report["epochs"]
    assert len(seen) == 20 + 2 - dies_at % 2  # whole epochs are not repeated


def test_one_that_ended_early_does_not_go_on_when_it_is_resumed(tmp_path, monkeypatch):
    scripted = [0.5, 0.6, 0.7]
    asked = []

    def nll(self):
        asked.append(self.current_epoch)
        return scripted[len(asked) - 1]

    monkeypatch.setattr(FineTune, "negative_log_likelihood", nll)
    first, _ = run(tmp_path, patience=2)
    again, report = run(tmp_path, patience=2)  # the stage is over, but what it made was not kept
    assert again.hash == first.hash and len(asked) == 3 and report["epochs"] == [1]
