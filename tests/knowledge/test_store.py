import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_samples import CLASSES, DATA, FEATURES, IMAGES, VIEWS, WEIGHTS, FakeTeacher, build, make_dataset, truth

from kdnas.config import make_settings
from kdnas.data import Views
from kdnas.errors import InputError
from kdnas.knowledge import Store, identity_of
from kdnas.knowledge.store.store import row_type
from kdnas.loss import spread
from kdnas.run.files import sha256_file, write_json


@pytest.mark.parametrize(("form", "tolerance"), [("fp16", 2**-11), ("int8", 0.5 / 127)])
def test_what_is_read_is_what_the_teacher_said(tmp_path, form, tolerance):
    store = build(tmp_path, form=form)
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


def test_the_teacher_is_never_run_twice_for_a_view(tmp_path):
    teacher = FakeTeacher()
    first = build(tmp_path, teacher, n_views=2)
    assert teacher.seen == 2 * IMAGES
    assert first.report["shards_computed"] == 2 and not first.report["reused"]
    more = build(tmp_path, teacher, n_views=3)
    assert teacher.seen == 3 * IMAGES
    assert more.report["shards_computed"] == 1
    again = build(tmp_path, teacher, n_views=2)
    assert teacher.seen == 3 * IMAGES
    assert again.report["reused"] and again.n_views == 2


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"teacher": FakeTeacher(1)}, "teacher"),
        ({"dataset": make_dataset(1)}, "data"),
        ({"views": Views(shift=2)}, "views"),
        ({"form": "int8"}, "form"),
        ({"top_k": 2}, "top_k"),
        ({"ids": torch.arange(1, IMAGES)}, "ids"),
        ({"ids": torch.arange(IMAGES).flip(0)}, "ids"),
        ({"shard_images": 5}, "shard_images"),
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


def shard(directory: Path, view: int = 1) -> Path:
    return directory / f"view-{view}" / "000000000-000000023.npy"


@pytest.mark.parametrize("harm", ["flip", "truncate", "side file"])
def test_a_damaged_shard_is_named(tmp_path, harm):
    build(tmp_path)
    path = shard(tmp_path)
    content = bytearray(path.read_bytes())
    if harm == "side file":
        told = json.loads(path.with_suffix(".json").read_text())
        write_json(path.with_suffix(".json"), {**told, "sha256": "0" * 64})
    elif harm == "truncate":
        path.write_bytes(content[:-9])
    else:
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"view-1/{path.name} is damaged"):
        build(tmp_path)


def test_a_shard_that_was_removed_is_made_again(tmp_path):
    build(tmp_path)
    before = shard(tmp_path).read_bytes()
    shard(tmp_path).unlink()
    teacher = FakeTeacher()
    assert build(tmp_path, teacher).report["shards_computed"] == 1
    assert teacher.seen == IMAGES and shard(tmp_path).read_bytes() == before


def test_a_pickle_in_place_of_an_array_is_not_opened(tmp_path):
    build(tmp_path)
    path = shard(tmp_path, 0)
    np.save(path, np.array([{"a": 1}] * IMAGES, dtype=object), allow_pickle=True)
    told = json.loads(path.with_suffix(".json").read_text())
    write_json(path.with_suffix(".json"), {**told, "sha256": sha256_file(path)})
    with pytest.raises(InputError, match=rf"view-0/{path.name} is damaged"):
        build(tmp_path)


def test_damaged_descriptions(tmp_path):
    build(tmp_path)
    shard(tmp_path, 2).with_suffix(".json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        build(tmp_path)
    told = json.loads((tmp_path / "store.json").read_text())
    write_json(tmp_path / "store.json", {**told, "runs": [[0, IMAGES - 1]]})
    with pytest.raises(InputError, match=r"store\.json is damaged"):
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
    for change in (
        {"n_views": 0}, {"form": "fp8"}, {"top_k": 0}, {"shard_images": 0}, {"workers": 0},
        {"dims": 3}, {"codes": 2}, {"form": "pca", "codes": 2}, {"form": "pca", "dims": 8}, {"form": "pca", "dims": 0},
        {"form": "pq", "dims": 6, "codes": 4},
    ):  # fmt: skip
        with pytest.raises(InputError, match="knowledge"):
            build(tmp_path, **change)


def test_features_beyond_fp16_are_refused_and_int8_takes_them(tmp_path):
    class Loud(FakeTeacher):
        def features(self, images):
            return super().features(images) * 1e6

    with pytest.raises(InputError, match="int8"):
        build(tmp_path / "a", Loud())
    assert build(tmp_path / "b", Loud(), form="int8").read(torch.tensor([0]), 0).features.abs().max() > 1e6


def test_bytes_per_sample(tmp_path):
    half = build(tmp_path / "a")
    small = build(tmp_path / "b", form="int8", top_k=2)
    assert half.report["bytes_per_sample"] == 2 * FEATURES + 2 * CLASSES  # all classes, in their order
    assert small.report["bytes_per_sample"] == FEATURES + 4 + 2 * (2 + 1)
    assert (small.report["feature_bytes"], small.report["top_bytes"]) == (FEATURES + 4, 6)
    assert half.report["bytes"] == sum(path.stat().st_size for path in (tmp_path / "a").rglob("*.npy"))
    assert row_type(small.form, 2, 300)["top-classes"].base == np.uint16


def test_posteriors_too_large_for_memory_are_averaged_for_each_batch(tmp_path, monkeypatch):
    store = build(tmp_path, shard_images=4)
    ids = torch.tensor([5, 22, 1])
    expected = store.mean_probs(ids)
    monkeypatch.setattr("kdnas.knowledge.store.store.KEPT_BYTES", IMAGES * CLASSES * 4 - 1)
    again = build(tmp_path, shard_images=4)
    assert torch.equal(again.mean_probs(ids), expected) and "_mean_probs" not in vars(again)


def test_the_cache_is_used_where_no_directory_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path))
    store = build(None, n_views=1)
    assert store.directory.parent == tmp_path / "knowledge"
    assert store.directory.name == identity_of(FakeTeacher(), DATA, VIEWS, top_k=CLASSES).key
    assert build(None, n_views=1).report["reused"]


@pytest.mark.parametrize(("code", "said"), [(13, "Permission denied"), (28, "No space left on device")])
@pytest.mark.parametrize("form", ["int8", "pca"])
def test_what_cannot_be_written_is_an_input_error_and_leaves_no_half_file(tmp_path, monkeypatch, code, said, form):
    build(tmp_path, n_views=1, form=form)
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())

    def refuse(*args, **kwargs):
        raise OSError(code, said)

    with monkeypatch.context() as patch:
        patch.setattr("kdnas.run.files.os.fsync", refuse)
        with pytest.raises(InputError, match=rf"cannot write .*{said}.*KDNAS_CACHE"):
            build(tmp_path, n_views=2, form=form)
        with pytest.raises(InputError, match=rf"cannot write .*{said}.*KDNAS_CACHE"):
            build(tmp_path / "new", n_views=1, form=form)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before
    assert build(tmp_path, n_views=2, form=form).report["shards_computed"] == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"knowledge.dims": 8}, "goes with the forms pca and pq, not with 'int8'"),
        ({"knowledge.form": "pca", "knowledge.codes": 8}, "goes with the form pq, not with 'pca'"),
        ({"knowledge.shard_images": 0}, "knowledge.shard_images"),
        ({"knowledge.workers": 0}, "knowledge.workers"),
    ],
)
def test_settings_that_a_form_does_not_use_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        make_settings(given)
    assert make_settings({"knowledge.form": "pq", "knowledge.dims": 32, "knowledge.codes": 8}).knowledge.dims == 32
