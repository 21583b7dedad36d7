from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdnas import config
from kdnas.codec import CAT
from kdnas.data import Batch, Splits, Views, load_dataset, make_splits
from kdnas.distill import Distiller
from kdnas.knowledge.lessons import Lessons
from kdnas.knowledge.store import Target
from kdnas.link import Link

CPU = torch.device("cpu")


class Sayings:
    """Stands for a store: what it says tells which image and which view were asked for."""

    def read(self, ids: Tensor, view: int) -> Target:
        features = torch.stack([ids.float() % 7, torch.full((len(ids),), float(view))], 1)
        return Target(features, torch.eye(10)[(ids + view) % 10])

    def mean_probs(self, ids: Tensor) -> Tensor:
        return torch.full((len(ids), 10), 0.1)


class Forbidden:
    def __getattr__(self, name: str) -> None:
        raise AssertionError("training without distillation looked at the store")


@pytest.fixture(scope="module")
def world() -> tuple:
    dataset = load_dataset("fashion-mini", limit=300)
    return dataset, make_splits(dataset.train_labels, 100, 0), Views()


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 8))


def trained(
    world: tuple, out: Path, *, store: object = None, kd: float = 1.0, snr_db: tuple[float, float] = (0.0, 10.0),
    channels: tuple[str, ...] = ("awgn",), **settings: object,
) -> Link:  # fmt: skip
    dataset, splits, views = world
    s = config.Distill(epochs=1, link_epochs=1, steps=3, batch_size=16, link_batch_size=16, **settings)  # type: ignore[arg-type]
    lessons = Lessons(dataset, views, store or Sayings(), 2)  # type: ignore[arg-type]
    distiller = Distiller(
        lessons, splits, s, classes=10, feature_dim=8, statistics=(torch.zeros(2), torch.ones(2)), directory=out,
        seed=0, accelerator="cpu", progress=False,
    )  # fmt: skip
    encoder = small()
    classifier, loss = distiller.clean(encoder, config.Loss(kd=kd), "stage1")
    torch.manual_seed(1)
    codec = CAT(8, 8)
    distiller.before = {k: v.clone() for k, v in encoder.state_dict().items()}  # type: ignore[attr-defined]
    link = distiller.through_link(encoder, classifier, loss, codec, snr_db=snr_db, channels=channels, name="stage2")
    link.before = distiller.before  # type: ignore[attr-defined]
    return link


def weights(link: Link) -> Tensor:
    return torch.cat([p.detach().flatten() for p in link.parameters()])


def test_lessons_pair_a_view_with_its_own_features_and_the_wanted_posterior(world: tuple) -> None:
    dataset, splits, views = world
    ids = splits.weights_unlabelled[:5]
    batch = Batch(ids, torch.full((5,), -1), 1, (0, 0, 0))
    own, mean = (
        Lessons(dataset, views, Sayings(), 2, posterior)(batch, CPU)  # type: ignore[arg-type]
        for posterior in ("view", "mean")
    )
    assert torch.equal(own.images, views.apply(dataset.train_images[ids], ids, 1))
    for lesson in (own, mean):
        assert lesson.features is not None and (lesson.features[:, 1] == 1).all()
    assert own.probabilities is not None and torch.equal(own.probabilities.argmax(1), (ids + 1) % 10)
    assert mean.probabilities is not None and (mean.probabilities == 0.1).all()


def test_without_distillation_the_store_and_unlabelled_images_are_not_touched(world: tuple, tmp_path: Path) -> None:
    dataset, splits, views = world
    alone = Splits(**{**vars(splits), "weights_unlabelled": splits.weights_unlabelled[:0]})
    with_all = trained((dataset, splits, views), tmp_path / "a", store=Forbidden(), kd=0.0)
    without = trained((dataset, alone, views), tmp_path / "b", store=Forbidden(), kd=0.0)
    assert torch.equal(weights(with_all), weights(without))


@pytest.mark.parametrize(
    "change", [{"kd": 3.0}, {"snr_db": (-10.0, 0.0)}, {"channels": ("rayleigh",)}, {"labelled_fraction": 0.75}], ids=str
)
def test_every_input_acts(world: tuple, tmp_path: Path, change: dict) -> None:
    first, again = trained(world, tmp_path / "a"), trained(world, tmp_path / "b")
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(trained(world, tmp_path / "c", **change)))


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_encoder_moves_in_stage_2_only_where_its_rate_says_so(world: tuple, tmp_path: Path, rate: float) -> None:
    link = trained(world, tmp_path, encoder_rate=rate)
    same = all(torch.equal(v, link.before[k]) for k, v in link.encoder.state_dict().items())
    assert same == (rate == 0)
