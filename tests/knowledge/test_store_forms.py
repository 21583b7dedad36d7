import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_samples import DATA, IMAGES, VIEWS, FakeTeacher, build

from kdnas.errors import InputError
from kdnas.knowledge.store.fit import sample_of
from kdnas.knowledge.store.forms import (
    FORMS,
    Form,
    Pca,
    Pq,
    bytes_per_vector,
    form_sizes,
    k_means,
    nearest,
    principal,
    quantise,
)


def low_rank(n: int, rank: int, dims: int, noise: float = 0.0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(rank)
    own = torch.randn(n, rank, generator=draw) * torch.arange(rank, 0, -1)
    return own @ torch.randn(rank, dims, generator=draw) + noise * torch.randn(n, dims, generator=draw) + 3


def round_trip(form: Form, features: torch.Tensor) -> torch.Tensor:
    rows = np.zeros(len(features), np.dtype(form.fields))
    for name, values in form.encode(features).items():
        rows[name] = values
    return form.decode(rows)


def test_quantised_features_are_within_half_a_step_and_zero_stays_zero():
    features = torch.randn(9, 31, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 9)[:, None]
    features[4] = 0
    steps, scale = quantise(features)
    assert steps.dtype == torch.int8
    assert ((steps * scale[:, None] - features).abs() <= 0.5001 * scale[:, None]).all()


def test_principal_components_are_those_of_a_singular_value_decomposition():
    features = low_rank(300, 6, 20, 0.1)
    centred = (features.double() - features.double().mean(0)) / features.double().std(0, correction=0)
    expected = (centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:4].T).abs()
    form = Pca.fit(features, 4)
    read = round_trip(form, features)
    assert read.shape == (300, 4) and form.dim == 4 and bytes_per_vector(form) == 4
    assert ((read.abs() - expected).abs() <= 0.502 * form.scale).all()
    assert (read.std(0).diff() < 0).all()


def test_fewer_vectors_than_entries_have_the_same_components():
    features = low_rank(30, 5, 20, 0.1)
    few, many = principal(features, 5), principal(features.repeat(2, 1), 5)  # twice each: more than entries
    for one, other in zip(few, many, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_an_error_in_all_components_is_the_error_in_the_whole_standardised_vector(tmp_path):
    store = build(tmp_path, form="pca", dims=7, n_views=1, weights_ids=torch.arange(IMAGES))
    features = store.read(torch.arange(IMAGES), 0).features
    whole = FakeTeacher().features(VIEWS.apply(DATA.train_images, torch.arange(IMAGES), 0))
    draw = torch.randint(IMAGES, (2, 500), generator=torch.Generator().manual_seed(0))
    one, other = ((features[ids] - store.mean) / store.std for ids in draw)
    by_components = (one - other).square().mean(1)
    spread = whole.std(0, correction=0)
    by_entries = ((whole[draw[0]] - whole[draw[1]]) / torch.where(spread > 1e-6, spread, 1)).square().mean(1)
    moving = (spread > 1e-6).float().mean()
    assert torch.allclose(by_components * moving, by_entries, rtol=0.02, atol=0.02)
    assert torch.allclose(((features - store.mean) / store.std).square().mean(), torch.tensor(1.0), atol=1e-4)


def test_a_vector_with_an_entry_that_never_moves_has_components():
    features = low_rank(300, 3, 8)
    features[:, 5] = 2.0
    form = Pca.fit(features, 3)
    assert torch.isfinite(form.basis).all() and (form.basis[5].abs() < 1e-6).all()
    assert torch.isfinite(round_trip(form, features)).all()


def test_components_beyond_those_of_the_sample_are_clipped():
    features = low_rank(100, 3, 8)
    form = Pca.fit(features, 3)
    far = round_trip(form, form.mean + 1e3 * form.basis.T)
    assert torch.allclose(far.diagonal(), 127 * form.scale)


def test_a_product_quantiser_gives_back_what_it_has_a_centroid_for():
    draw = torch.Generator().manual_seed(0)
    corners = torch.randn(200, 12, generator=draw)
    form = Pq.fit(corners, 12, 3)  # fewer vectors than centroids: each sub-vector is a centroid
    truth = (corners - form.mean) @ form.basis
    assert torch.allclose(round_trip(form, corners), truth, atol=1e-4)
    assert (form.dim, bytes_per_vector(form)) == (12, 3)


def test_more_codes_lose_less_and_whole_components_lose_least():
    features = low_rank(2000, 8, 32, 0.5)
    exact = Pca.fit(features, 8)
    truth = (features - exact.mean) @ exact.basis

    def lost(form: Form) -> float:
        return float((round_trip(form, features) - truth).square().mean() / truth.var(0).mean())

    losses = [lost(Pq.fit(features, 8, codes)) for codes in (1, 2, 4, 8)]
    assert losses == sorted(losses, reverse=True) and losses[1] < 0.15
    assert lost(exact) < 1e-3
    assert losses[3] < 1e-3


def test_k_means_finds_clusters_that_are_far_apart_and_repeats_itself():
    draw = torch.Generator().manual_seed(1)
    centres = 100 * torch.randn(6, 2, generator=draw)
    points = centres[torch.arange(600) % 6] + 0.01 * torch.randn(600, 2, generator=draw)
    found = k_means(points, torch.Generator().manual_seed(0))
    assert (torch.cdist(points, found).amin(1) < 0.05).all()
    assert torch.equal(found, k_means(points, torch.Generator().manual_seed(0)))
    assert torch.equal(nearest(centres, centres), torch.arange(6))


@given(st.integers(1, 4).flatmap(lambda k: st.tuples(st.just(k), st.integers(1, 3), st.integers(0, 100))))
def test_nearest_is_nearest(sizes: tuple[int, int, int]):
    parts, dims, seed = sizes
    draw = torch.Generator().manual_seed(seed)
    points, centroids = (torch.randn(parts, n, dims, generator=draw, dtype=torch.float64) for n in (17, 9))
    assert torch.equal(nearest(points, centroids), torch.cdist(points, centroids).argmin(2))


def test_sizes_of_a_form_and_their_defaults():
    assert form_sizes("int8", 1280, None, None) == (None, None)
    assert form_sizes("pca", 1280, None, None) == (64, None)
    assert form_sizes("pca", 48, None, None) == (48, None)
    assert form_sizes("pq", 1280, None, None) == (64, 16)
    assert form_sizes("pq", 1280, 20, None) == (20, 10)
    assert form_sizes("pq", 1280, 128, 64) == (128, 64)
    with pytest.raises(InputError, match=r"codes = 3 does not divide"):
        form_sizes("pq", 1280, 64, 3)


@pytest.mark.parametrize("form", FORMS)
def test_a_store_reads_the_form_and_standardises_it(tmp_path, form):
    store = build(tmp_path, form=form, **({"dims": 4} if form in ("pca", "pq") else {}))
    said = torch.cat([store.read(torch.arange(0, IMAGES, 2), view).features for view in range(3)])
    assert store.target_dim == said.shape[1] == (4 if form in ("pca", "pq") else 7)
    assert torch.allclose(store.mean, said.mean(0), atol=1e-5)
    std = said.std(0, unbiased=False)
    common = std.square().mean().sqrt().expand_as(std)  # principal components count by their variance
    assert torch.allclose(store.std, common if form in ("pca", "pq") else std, atol=1e-4)
    assert store.report["feature_bytes"] == {"fp16": 14, "int8": 11, "pca": 4, "pq": 4}[form]


def test_a_form_is_fitted_on_view_0_of_the_weights_split_and_then_kept(tmp_path):
    weights = torch.arange(0, IMAGES, 2)
    store = build(tmp_path, form="pca", dims=3, weights_ids=weights)
    images = VIEWS.apply(DATA.train_images[weights], weights, 0)
    expected = Pca.fit(FakeTeacher().features(images), 3)
    for name, value in store.form.tensors().items():
        assert torch.allclose(value, expected.tensors()[name], atol=1e-4), name
    again = build(tmp_path, form="pca", dims=3, weights_ids=torch.arange(5))
    assert torch.equal(again.form.tensors()["basis"], store.form.tensors()["basis"])
    assert set(sample_of(weights).tolist()) == set(weights.tolist())
    assert len(sample_of(torch.arange(20_000)).unique()) == 8192


def test_too_few_images_for_the_components(tmp_path):
    with pytest.raises(InputError, match=r"2 images in the weights split are too few for knowledge.dims = 3"):
        build(tmp_path, form="pca", dims=3, weights_ids=torch.arange(2))


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
def test_a_damaged_form_is_named(tmp_path, harm):
    build(tmp_path, form="pca", dims=3)
    path = tmp_path / "form.safetensors"
    content = bytearray(path.read_bytes())
    if harm == "delete":
        path.unlink()  # what is fitted anew, on other images, is not what the shards were encoded with
    else:
        content[-1] ^= 1
        path.write_bytes(content if harm == "flip" else content[:-9])
    said = "another fit of its form" if harm == "delete" else r"form\.safetensors is damaged"
    with pytest.raises(InputError, match=said):
        build(tmp_path, form="pca", dims=3, weights_ids=torch.arange(5))


def test_each_set_of_sizes_and_sample_is_a_store_of_its_own_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path))
    stores = [
        build(None, n_views=1, form="pca", dims=3), build(None, n_views=1, form="pca", dims=4),
        build(None, n_views=1, form="pca", dims=3, weights_ids=torch.arange(9)),
        build(None, n_views=1, form="pq", dims=4), build(None, n_views=1, form="pq", dims=4, codes=2),
        build(None, n_views=1, form="int8"),
    ]  # fmt: skip
    assert len({store.directory for store in stores}) == 6
    same = build(None, n_views=1, form="int8", weights_ids=torch.arange(9))  # nothing of it was fitted
    assert same.directory == stores[-1].directory
