import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdnas.data import Dataset, Views
from kdnas.errors import InputError
from kdnas.knowledge import InputSpec, Store, identity_of
from kdnas.knowledge.store import quantise, spread

CLASSES, FEATURES, IMAGES = 5, 7, 23


class FakeTeacher:
    """Features are a fixed random projection of the pixels; it counts the images that it was shown."""

    name = "fake"
    feature_dim = FEATURES
    classes = CLASSES
    input = InputSpec(1, 8, (0.0,), (1.0,))
    parameter_count = 64 * FEATURES

    def __init__(self, seed=0):
        draws = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(64, FEATURES, generator=draws)
        self.head = torch.randn(FEATURES, CLASSES, generator=draws)
        self.hash = f"fake-{seed}"
        self.seen = 0

    def features(self, images):
        self.seen += len(images)
        return images.flatten(1) @ self.weight

    def logits(self, features):
        return features @ self.head


def make_dataset(seed=0, n=IMAGES):
    draws = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=draws)
    labels = torch.arange(n) % CLASSES
    names = tuple("abcde")
    return Dataset("fake", names, images, labels, images[:5], labels[:5], "made here")


DATA, VIEWS = make_dataset(), Views(shift=1)
WEIGHTS = torch.arange(0, IMAGES, 2)


def build(directory, teacher=None, dataset=DATA, views=VIEWS, n_views=3, **kwargs):
    kwargs = {"weights_ids": WEIGHTS, "top_k": CLASSES, "directory": directory, "progress": False, **kwargs}
    return Store.build(teacher or FakeTeacher(), dataset, views, n_views, **kwargs)


def truth(view, ids, teacher=None):
    teacher = teacher or FakeTeacher()
    features = teacher.features(VIEWS.apply(DATA.train_images[ids], ids, view))
    return features, teacher.logits(features).softmax(1)


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp16", 2**-11), ("int8", 0.5 / 127)])
def test_what_is_read_is_what_the_teacher_said(tmp_path, dtype, tolerance):
    store = build(tmp_path, dtype=dtype)
    ids = torch.tensor([22, 3, 3, 0])
    for view in range(3):
        features, probs = truth(view, ids)
        read = store.read(ids, view)
        bound = features.abs().amax(1, keepdim=True) * tolerance * 1.001
        assert ((read.features - features).abs() <= bound).all()
        assert torch.allclose(read.probs, probs, atol=1e-3)
        assert torch.allclose(read.probs.sum(1), torch.ones(4), atol=1e-6)


def test_mean_probs_are_the_mean_over_the_views(tmp_path):
    store = build(tmp_path)
    ids = torch.tensor([5, 1])
    expected = torch.stack([store.read(ids, view).probs for view in range(3)]).mean(0)
    assert torch.allclose(store.mean_probs(ids), expected, atol=1e-7)


def test_mean_and_std_are_of_the_weights_split_over_all_views(tmp_path):
    store = build(tmp_path)
    features = torch.cat([store.read(WEIGHTS, view).features for view in range(3)])
    assert torch.allclose(store.mean, features.mean(0), atol=1e-5)
    assert torch.allclose(store.std, features.std(0, unbiased=False), atol=1e-4)
    other = build(tmp_path, weights_ids=torch.arange(3))
    assert not torch.allclose(other.mean, store.mean)


def test_the_missing_mass_goes_to_the_other_classes_in_equal_parts(tmp_path):
    store = build(tmp_path, top_k=2)
    ids = torch.arange(IMAGES)
    _, probs = truth(1, ids)
    read = store.read(ids, 1).probs
    top, index = probs.topk(2, dim=1)
    expected = ((1 - top.sum(1)) / (CLASSES - 2))[:, None].expand(-1, CLASSES).clone().scatter_(1, index, top)
    assert torch.allclose(read, expected, atol=1e-3)


@given(st.integers(2, 12).flatmap(lambda c: st.tuples(st.just(c), st.integers(1, c), st.integers(0, 1000))))
@settings(max_examples=50, deadline=None)
def test_spread_gives_a_distribution(sizes):
    classes, kept, seed = sizes
    probs = (3 * torch.randn(4, classes, generator=torch.Generator().manual_seed(seed))).softmax(1)
    top, index = probs.topk(kept, dim=1)
    rebuilt = spread(top.half().float(), index, classes)
    assert (rebuilt >= 0).all()
    assert torch.allclose(rebuilt.sum(1), torch.ones(4), atol=1e-6)
    assert torch.allclose(rebuilt.gather(1, index), top, atol=2e-3)


def test_quantised_features_are_within_half_a_step_and_zero_stays_zero():
    features = torch.randn(9, 31, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 9)[:, None]
    features[4] = 0
    steps, scale = quantise(features)
    assert steps.dtype == torch.int8
    assert ((steps * scale[:, None] - features).abs() <= 0.5001 * scale[:, None]).all()


def test_the_teacher_is_never_run_twice_for_a_view(tmp_path):
    teacher = FakeTeacher()
    first = build(tmp_path, teacher, n_views=2)
    assert teacher.seen == 2 * IMAGES
    assert first.report["views_computed"] == 2 and not first.report["reused"]
    more = build(tmp_path, teacher, n_views=3)
    assert teacher.seen == 3 * IMAGES
    assert more.report["views_computed"] == 1
    again = build(tmp_path, teacher, n_views=2)
    assert teacher.seen == 3 * IMAGES
    assert again.report["reused"] and again.n_views == 2


def test_a_build_that_was_killed_goes_on_with_the_next_view(tmp_path):
    class Dies(FakeTeacher):
        def features(self, images):
            if self.seen >= IMAGES:
                raise KeyboardInterrupt
            return super().features(images)

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, Dies())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store.json", "view-0"]
    teacher = FakeTeacher()
    build(tmp_path, teacher)
    assert teacher.seen == 2 * IMAGES


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"teacher": FakeTeacher(1)}, "teacher"),
        ({"dataset": make_dataset(1)}, "data"),
        ({"views": Views(shift=2)}, "views"),
        ({"dtype": "int8"}, "dtype"),
        ({"top_k": 2}, "top_k"),
        ({"ids": torch.arange(IMAGES - 1)}, "ids"),
    ],
)
def test_a_stale_store_is_refused_with_the_reason(tmp_path, change, part):
    build(tmp_path, n_views=1)
    with pytest.raises(InputError, match=f"stale: its {part} is"):
        build(tmp_path, n_views=1, **{"weights_ids": torch.arange(3), **change})


def test_opening_needs_every_view(tmp_path):
    build(tmp_path, n_views=1)
    ids = torch.arange(IMAGES)
    identity = identity_of(FakeTeacher(), DATA, VIEWS, top_k=CLASSES)
    assert Store.open(tmp_path, identity, ids=ids, weights_ids=WEIGHTS, n_views=1).n_views == 1
    with pytest.raises(InputError, match="lacks view-1"):
        Store.open(tmp_path, identity, ids=ids, weights_ids=WEIGHTS, n_views=2)


@pytest.mark.parametrize("name", ["features", "top-probs", "top-classes"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
def test_a_damaged_file_is_named(tmp_path, name, harm):
    build(tmp_path)
    path = tmp_path / "view-1" / f"{name}.npy"
    content = bytearray(path.read_bytes())
    if harm == "delete":
        path.unlink()
    elif harm == "truncate":
        path.write_bytes(content[:-9])
    else:
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"view-1/{name}.npy is damaged"):
        build(tmp_path)


def test_a_pickle_in_place_of_an_array_is_not_opened(tmp_path):
    build(tmp_path)
    path = tmp_path / "view-0" / "features.npy"
    np.save(path, np.array([{"a": 1}] * IMAGES, dtype=object), allow_pickle=True)
    manifest = json.loads((tmp_path / "view-0" / "view.json").read_text())
    from kdnas.run.files import sha256_file, write_json

    manifest["sha256"]["features"] = sha256_file(path)
    write_json(tmp_path / "view-0" / "view.json", manifest)
    with pytest.raises(InputError, match=r"view-0/features.npy is damaged"):
        build(tmp_path)


def test_damaged_manifests(tmp_path):
    build(tmp_path)
    (tmp_path / "view-2" / "view.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        build(tmp_path)
    (tmp_path / "store.json").write_text("[]")
    with pytest.raises(InputError, match="is not stored knowledge"):
        build(tmp_path)


def test_ids_and_views_that_are_not_stored(tmp_path):
    store = build(tmp_path, ids=torch.tensor([9, 4, 2]), weights_ids=torch.tensor([4]))
    features, _ = truth(0, torch.tensor([4, 9]))
    assert torch.allclose(store.read(torch.tensor([4, 9]), 0).features, features, atol=1e-2)
    for ids, view in (([3], 0), ([-1], 0), ([IMAGES], 0), ([4], 3)):
        with pytest.raises(ValueError, match="not"):
            store.read(torch.tensor(ids), view)


def test_faulty_settings(tmp_path):
    for change in ({"n_views": 0}, {"dtype": "fp8"}, {"top_k": 0}):
        with pytest.raises(InputError, match="knowledge"):
            build(tmp_path, **change)


def test_features_beyond_fp16_are_refused_and_int8_takes_them(tmp_path):
    class Loud(FakeTeacher):
        def features(self, images):
            return super().features(images) * 1e6

    with pytest.raises(InputError, match="int8"):
        build(tmp_path / "a", Loud())
    assert build(tmp_path / "b", Loud(), dtype="int8").read(torch.tensor([0]), 0).features.abs().max() > 1e6


def test_bytes_per_sample(tmp_path):
    half = build(tmp_path / "a").report["bytes_per_sample"]
    small = build(tmp_path / "b", dtype="int8").report["bytes_per_sample"]
    header = 128 / IMAGES
    assert half == pytest.approx(2 * FEATURES + 3 * CLASSES + 3 * header)
    assert small == pytest.approx(FEATURES + 4 + 3 * CLASSES + 4 * header)


def test_the_cache_is_used_where_no_directory_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path))
    store = build(None, n_views=1)
    assert store.directory.parent == tmp_path / "knowledge"
    assert store.directory.name == identity_of(FakeTeacher(), DATA, VIEWS, top_k=CLASSES).key
    assert build(None, n_views=1).report["reused"]


def test_no_permission_is_an_input_error(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    build(tmp_path, n_views=1)
    monkeypatch.setattr("kdnas.knowledge.store.tempfile.mkdtemp", refuse)
    with pytest.raises(InputError, match=r"cannot write .*Permission denied"):
        build(tmp_path, n_views=2)
