import sys

import pytest
import torch
from tiny_teachers import CLASSES, DATA, SPLITS, install, run, tiny, tiny_scratch
from torch import nn

from kdnas.data import Dataset, make_splits
from kdnas.errors import InputError
from kdnas.knowledge import AdaptedTeacher, list_teachers, load_backbone, load_teacher, save_teacher
from kdnas.run.files import atomic_write, read_json, write_json


@pytest.fixture(autouse=True)
def house(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path)


@pytest.mark.parametrize("method", ["probe", "finetune"])
def test_it_learns_and_reports(tmp_path, method):
    teacher, report = run(tmp_path, method=method, steps=60)
    assert report["accuracy"] >= 0.8 and report["accuracy_views"] >= 0.8
    assert 0 <= report["ece"] < 0.35
    assert report["params"] == teacher.parameter_count == sum(p.numel() for p in teacher.parameters())
    assert report["labels"] == 120 and report["hash"] == teacher.hash and not report["reused"]
    assert teacher.features(torch.rand(2, 1, 17, 17)).shape == (2, 12)
    assert teacher.logits(torch.rand(2, 12)).shape == (2, CLASSES)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_network_without_weights_is_trained_whole(tmp_path):
    before = tiny_scratch().layers[0].conv.weight
    teacher, report = run(tmp_path, "tiny_scratch", steps=60, learning_rate=1e-2)
    assert report["accuracy"] >= 0.8
    assert not torch.equal(teacher.layers[0].conv.weight, before)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in teacher.modules())
    with pytest.raises(InputError, match="no pretrained weights"):
        run(tmp_path, "tiny_scratch", method="probe")


def test_fine_tuning_moves_what_is_not_frozen_only(tmp_path):
    probe, _ = run(tmp_path, method="probe")
    tuned, _ = run(tmp_path, method="finetune")
    assert torch.equal(probe.layers[0].conv.weight, tuned.layers[0].conv.weight)
    assert not torch.equal(probe.layers[1].conv.weight, tuned.layers[1].conv.weight)


def test_only_the_labels_of_the_weights_split_are_read(tmp_path):
    lies = DATA.train_labels.clone()
    others = torch.ones(len(lies), dtype=torch.bool)
    others[SPLITS.weights_labelled] = False
    lies[others] = (lies[others] + 1) % CLASSES
    liar = Dataset("bars", DATA.classes, DATA.train_images, lies, DATA.test_images, DATA.test_labels, "lies")
    teacher, report = run(tmp_path / "a", cache=False)
    misled, misreport = run(tmp_path / "b", dataset=liar, cache=False)
    assert teacher.hash == misled.hash
    assert misreport["accuracy"] < report["accuracy"]


def test_the_same_arguments_give_the_same_teacher_and_the_seed_matters(tmp_path):
    first, _ = run(tmp_path / "a", cache=False)
    again, _ = run(tmp_path / "b", cache=False)
    other, _ = run(tmp_path / "c", cache=False, seed=1)
    assert first.hash == again.hash != other.hash


def test_a_fine_tuning_that_was_stopped_goes_on_to_the_same_teacher(tmp_path, monkeypatch):
    from kdnas.knowledge import finetune

    whole, _ = run(tmp_path / "a", cache=False)
    step = finetune.FineTune.training_step
    seen = []

    def dies(self, batch, index):
        seen.append(batch.key)
        if len(seen) == 13:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(finetune.FineTune, "training_step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", cache=False)
    resumed, _ = run(tmp_path / "b", cache=False)
    assert resumed.hash == whole.hash
    assert len(seen) == 13 + 20 - 12  # the six whole epochs of two steps are not repeated


def test_the_cache_is_used_and_its_key_holds_every_argument(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["kdnas.knowledge.adapt"], "EPOCHS", 2)
    teacher, report = run(tmp_path)
    again, told = run(tmp_path)
    assert told == {**report, "reused": True} and again.hash == teacher.hash
    changes = {
        "seed": 1, "steps": 10, "n_views": 1, "splits": make_splits(DATA.train_labels, 150, 1), "rate_decay": 0.5,
        "mixup": 0.5, "patience": 9, "unfreeze": 1, "self_training": 1,
    }  # fmt: skip
    for name, value in changes.items():
        assert not run(tmp_path / name, **{name: value})[1]["reused"]


def test_the_checkpoint_of_another_adaptation_is_refused(tmp_path):
    run(tmp_path, cache=False)
    with pytest.raises(InputError, match="other settings"):
        run(tmp_path, cache=False, seed=1)


def test_calibration_divides_by_the_reported_temperature(tmp_path):
    plain, before = run(tmp_path, method="probe")
    scaled, after = run(tmp_path, method="probe", calibrate=True)
    features = torch.rand(4, 12)
    assert before["temperature"] == 1 and after["temperature"] == before["fitted_temperature"] != 1
    assert torch.allclose(scaled.logits(features) * after["temperature"], plain.logits(features), atol=1e-5)
    assert before["ece"] == after["ece"]


def test_a_saved_teacher_comes_back_the_same(tmp_path):
    teacher, report = run(tmp_path, cache=False)
    save_teacher(teacher, tmp_path / "saved", report)
    loaded, told = load_teacher(tmp_path / "saved")
    images = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(images), teacher(images))
    assert told == report and loaded.hash == teacher.hash


def test_damaged_teachers_are_refused(tmp_path):
    teacher, report = run(tmp_path, cache=False)
    place = tmp_path / "saved"
    save_teacher(teacher, place, report)
    weights, manifest = (place / "teacher.safetensors").read_bytes(), read_json(place / "teacher.json")

    atomic_write(place / "teacher.safetensors", weights[: len(weights) // 2])
    with pytest.raises(InputError, match="is damaged"):
        load_teacher(place)
    atomic_write(place / "teacher.safetensors", weights[:-4] + b"\0\0\0\1")
    with pytest.raises(InputError, match="its weights changed"):
        load_teacher(place)
    atomic_write(place / "teacher.safetensors", weights)
    write_json(place / "teacher.json", {**manifest, "classes": 4})
    with pytest.raises(InputError, match="is damaged"):
        load_teacher(place)
    write_json(place / "teacher.json", {**manifest, "schema": 0})
    with pytest.raises(InputError, match="schema 0"):
        load_teacher(place)


def test_the_hash_changes_with_a_weight_the_size_and_the_temperature():
    def hash_of_teacher(size=32, temperature=1.0, bias=0.0):
        head = nn.Linear(12, CLASSES)
        nn.init.constant_(head.weight, 0.1)
        nn.init.constant_(head.bias, bias)
        return AdaptedTeacher(tiny(), head, size, temperature).hash

    hashes = [
        hash_of_teacher(),
        hash_of_teacher(33),
        hash_of_teacher(32, 2.0),
        hash_of_teacher(32, 1.0, 1e-6),
    ]
    assert len(set(hashes)) == 4 and hash_of_teacher() == hashes[0]


def test_an_output_does_not_depend_on_batch_mates():
    teacher = AdaptedTeacher(tiny(), nn.Linear(12, CLASSES), 28)
    images = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    mates = images.clone()
    mates[1:] = 1 - mates[1:]
    assert torch.equal(teacher(images)[0], teacher(mates)[0])
    assert torch.allclose(teacher(images)[:1], teacher(images[:1]), atol=1e-5)


def test_grey_and_rgb_and_any_size_reach_the_network():
    spec = AdaptedTeacher(tiny(), nn.Linear(12, CLASSES), 32).input
    grey = torch.full((1, 1, 28, 20), 0.75)
    assert torch.allclose(spec.prepare(grey), torch.full((1, 3, 32, 32), 0.5))
    assert torch.allclose(spec.prepare(grey.expand(-1, 3, -1, -1)), torch.full((1, 3, 32, 32), 0.5))
    assert spec.prepare(torch.rand(1, 3, 100, 90)).shape == (1, 3, 32, 32)


def test_the_registry():
    assert {"efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2", "resnet"} <= set(list_teachers())
    backbone = load_backbone("efficientnet-lite0")
    assert backbone.name == "efficientnet-lite0" and backbone.pretrained
    with pytest.raises(InputError, match="unknown teacher 'resnet152': choose one of clip, efficientnet-lite0"):
        load_backbone("resnet152")


def test_faulty_arguments(tmp_path):
    changes = (
        {"method": "pray"}, {"steps": 0}, {"image_size": 8}, {"rate_decay": 0.0}, {"rate_decay": 1.1}, {"mixup": 2.0},
        {"patience": -1}, {"unfreeze": -1}, {"self_training": -1}, {"method": "probe", "mixup": 0.5},
        {"self_training": 1, "splits": make_splits(DATA.train_labels, "all", 0)},
    )  # fmt: skip
    for change in changes:
        with pytest.raises(InputError, match="adapt"):
            run(tmp_path, **change)


def test_the_real_teacher_learns_from_few_images(tmp_path):
    teacher, report = run(tmp_path, "efficientnet-lite0", image_size=32, n_views=1, steps=2, learning_rate=1e-5)
    assert teacher.feature_dim == 1280 and report["accuracy"] > 0.8
    assert 3.3e6 < report["params"] < 3.4e6
