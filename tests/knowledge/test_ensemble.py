"""Several teachers as one."""

import pytest
import torch
from tiny_teachers import CLASSES, DATA, SPLITS, install, run, tiny, tiny_scratch
from torch import nn

from kdnas.errors import InputError
from kdnas.knowledge import AdaptedTeacher, load_teacher, save_teacher
from kdnas.knowledge.ensemble import Ensemble, join
from kdnas.run.files import atomic_write


@pytest.fixture(autouse=True)
def house(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path)


def member(make, size, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AdaptedTeacher(make(), nn.Linear(12, CLASSES), size)


def pair():
    return join([member(tiny, 28, 0), member(tiny_scratch, 33, 1)], DATA, SPLITS.weights_labelled)


IMAGES = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_the_posterior_is_the_mean_of_the_members_and_follows_from_the_features():
    whole = pair()
    first, second = whole.members
    expected = (first(IMAGES).softmax(1) + second(IMAGES).softmax(1)) / 2
    features = whole.features(IMAGES)
    assert features.shape == (5, 24) and whole.feature_dim == 24 and whole.classes == CLASSES
    assert torch.allclose(whole.logits(features).exp(), expected, atol=1e-5)
    assert torch.allclose(whole(IMAGES).softmax(1), expected, atol=1e-5)
    assert whole.parameter_count == first.parameter_count + second.parameter_count
    assert whole.input.size == 33


def test_features_are_standardised_on_the_given_images():
    whole = pair()
    images = DATA.train_images[SPLITS.weights_labelled].float() / 255
    features = whole.features(images)
    assert torch.allclose(features.mean(0), torch.zeros(24), atol=1e-4)
    stds = features.std(0, correction=0)
    assert float(stds.max()) < 1 + 1e-4 and torch.allclose(stds.median(), torch.tensor(1.0), atol=1e-4)


def test_a_feature_that_never_moves_is_not_blown_up():
    dead = member(tiny, 28, 0)
    dead.layers[1].conv.weight[3] = 0
    dead.layers[1].conv.bias[3] = -1
    whole = join([dead, member(tiny, 28, 1)], DATA, SPLITS.weights_labelled)
    assert torch.isfinite(whole.features(IMAGES)).all() and float(whole.std.min()) > 0
    expected = (dead(IMAGES).softmax(1) + whole.members[1](IMAGES).softmax(1)) / 2
    assert torch.allclose(whole(IMAGES).softmax(1), expected, atol=1e-5)


def test_the_temperature_divides_the_logarithm_of_the_mean():
    cold = pair()
    warm = Ensemble(list(cold.members), cold.mean, cold.std, 2.0)
    assert torch.allclose(warm(IMAGES) * 2, cold(IMAGES), atol=1e-5) and warm.hash != cold.hash


def test_the_hash_follows_members_order_and_statistics():
    first, second = member(tiny, 28, 0), member(tiny, 28, 1)
    zero, one = torch.zeros(24), torch.ones(24)
    hashes = {
        Ensemble([first, second], zero, one).hash,
        Ensemble([second, first], zero, one).hash,
        Ensemble([first, first], zero, one).hash,
        Ensemble([first, second], zero, 2 * one).hash,
        Ensemble([first, second], one, one).hash,
    }
    assert len(hashes) == 5 and Ensemble([first, second], zero, one).hash in hashes


def test_a_saved_ensemble_comes_back_the_same_and_a_damaged_one_does_not(tmp_path):
    whole = pair()
    save_teacher(whole, tmp_path, {"told": 1})
    loaded, report = load_teacher(tmp_path)
    assert isinstance(loaded, Ensemble) and report == {"told": 1}
    assert torch.equal(loaded(IMAGES), whole(IMAGES)) and torch.equal(loaded.features(IMAGES), whole.features(IMAGES))
    weights = (tmp_path / "teacher.safetensors").read_bytes()
    atomic_write(tmp_path / "teacher.safetensors", weights[:-4] + b"\0\0\0\1")
    with pytest.raises(InputError, match="its weights changed"):
        load_teacher(tmp_path)


def test_members_are_adapted_one_by_one_reported_and_cached(tmp_path):
    alone, single = run(tmp_path / "a", "tiny", steps=10, method="probe")
    whole, report = run(tmp_path / "b", "tiny+tiny", steps=4)
    twins, _ = run(tmp_path / "c", "tiny+tiny", method="probe")
    assert [r["teacher"] for r in report["members"]] == ["tiny", "tiny"] and report["teacher"] == "tiny+tiny"
    assert report["params"] == whole.parameter_count == sum(r["params"] for r in report["members"])
    assert report["hash"] == whole.hash and not report["reused"]
    first, second = whole.members
    assert first.hash != second.hash  # the second of a name has another seed
    assert twins.members[0].hash == alone.hash == single["hash"]
    again, told = run(tmp_path / "d", "tiny+tiny", steps=4)
    assert again.hash == whole.hash and told["reused"] and told == {**report, "reused": True}


def test_calibration_is_of_the_whole(tmp_path):
    plain, before = run(tmp_path / "a", "tiny+tiny", method="probe")
    scaled, after = run(tmp_path / "b", "tiny+tiny", method="probe", calibrate=True)
    assert after["temperature"] == before["fitted_temperature"] != 1
    assert torch.allclose(scaled(IMAGES) * after["temperature"], plain(IMAGES), atol=1e-4)


def test_faulty_names_are_refused_before_anything_is_adapted(tmp_path):
    with pytest.raises(InputError, match="unknown teacher 'giant'"):
        run(tmp_path, "tiny+giant")
    with pytest.raises(InputError, match="one side of a '\\+'"):
        run(tmp_path, "tiny+")
    assert not (tmp_path / "run").exists()
