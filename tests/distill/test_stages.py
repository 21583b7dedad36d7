from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from kdnas import config
from kdnas.codec import CAT
from kdnas.codec.cat import SHARPNESS
from kdnas.data import Batch, Splits, Views, batches, load_dataset, make_splits
from kdnas.distill import Distiller
from kdnas.distill.calibrate import raise_shares
from kdnas.distill.stages import CleanStage, LinkStage
from kdnas.errors import InputError
from kdnas.knowledge.lessons import Lessons
from kdnas.knowledge.store import Target
from kdnas.link import FULL_SHARE, Link
from kdnas.loss import KnowledgeLoss
from kdnas.run.training import fit

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
    channels: tuple[str, ...] = ("awgn",), loss: dict | None = None, classes: int | None = None,
    full_share: float = FULL_SHARE, codec: CAT | None = None, **settings: object,
) -> Link:  # fmt: skip
    dataset, splits, views = world
    sizes = {"epochs": 1, "link_epochs": 2, "steps": 3, "batch_size": 16, "link_batch_size": 16}
    s = config.Distill(**{**sizes, **settings})  # type: ignore[arg-type]
    lessons = Lessons(dataset, views, store or Sayings(), 2)  # type: ignore[arg-type]
    distiller = Distiller(
        lessons, splits, s, classes=10, feature_dim=8, statistics=(torch.zeros(2), torch.ones(2)), directory=out,
        seed=0, accelerator="cpu", progress=False,
    )  # fmt: skip
    encoder = small()
    classifier, knowledge = distiller.clean(encoder, config.Loss(kd=kd, **loss or {}), "stage1")
    torch.manual_seed(1)
    codec = codec or CAT(8, 8, encoder={"classes": classes}, decoder={"classes": classes})
    distiller.before = {k: v.clone() for k, v in encoder.state_dict().items()}  # type: ignore[attr-defined]
    link = distiller.through_link(
        encoder, classifier, knowledge, codec, snr_db=snr_db, channels=channels, name="stage2", full_share=full_share
    )
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
    trained((dataset, splits, views), tmp_path / "c", store=Forbidden(), kd=0.0, classes=10)


def test_a_codec_that_is_trained_further_goes_on_with_the_share_that_it_learned(
    world: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the slices of a tailoring do: what one raises, the next does not build upon."""
    monkeypatch.setattr("kdnas.distill.distiller.calibrate_share", lambda link, *a, **k: raise_shares(link, 3.0))
    raised: list[float] = []
    steps = LinkStage.training_step

    def seen(self: LinkStage, batch: Batch, index: int) -> Tensor:
        raised.append(self.link.channel_encoder.share.raised.item())  # type: ignore[union-attr, operator]
        return steps(self, batch, index)

    monkeypatch.setattr(LinkStage, "training_step", seen)
    codec = CAT(8, 8, encoder={"classes": 10}, decoder={"classes": 10})
    for name in ("a", "b"):
        trained(world, tmp_path / name, codec=codec)
        assert [half.share.raised.item() for half in (codec.encoder, codec.decoder)] == [3.0, 3.0]
    assert len(raised) == 12 and set(raised) == {0.0}


@pytest.mark.parametrize("full_share, lengths", [(0.2, [1, 8]), (1.0, [8])])
def test_the_power_of_the_class_is_set_by_held_out_images_where_the_link_will_work(
    world: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_share: float, lengths: list[int]
) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "kdnas.distill.distiller.calibrate_share",
        lambda link, lessons, splits, **how: seen.append({"training": link.training, "splits": splits, **how}),
    )
    for unlabelled in (True, False):
        trained(
            world, tmp_path / str(unlabelled), snr_db=(0.0, 9.0), channels=("awgn", "rayleigh"), full_share=full_share,
            unlabelled=unlabelled,
        )  # fmt: skip
        assert seen.pop() == {
            "training": False, "splits": world[1], "snrs_db": [0.0, 3.0, 6.0, 9.0], "channels": ("awgn", "rayleigh"),
            "lengths": lengths, "seed": 0, "unlabelled": unlabelled,
        }  # fmt: skip


CHANGES: list[dict] = [
    {"kd": 3.0}, {"snr_db": (-10.0, 0.0)}, {"channels": ("rayleigh",)}, {"labelled_fraction": 0.75},
    {"schedule": "constant"}, {"snr": "rising"}, {"snr": "uniform"},
    {"feature_noise": 0.5}, {"snr_error_db": 3.0}, {"link_draws": 2}, {"link_feature": 0.0},
    {"unlabelled": False}, {"epochs": 0}, {"loss": {"bottleneck": 0.1}},
    {"loss": {"bottleneck": 0.1, "prior": "log-uniform"}},
    {"loss": {"consistency": 1.0}}, {"loss": {"angle": 1.0}},
]  # fmt: skip


@pytest.fixture(scope="module")
def plain(world: tuple, tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    return weights(trained(world, tmp_path_factory.mktemp("plain")))


def test_the_same_again_is_the_same(world: tuple, plain: Tensor, tmp_path: Path) -> None:
    assert torch.equal(plain, weights(trained(world, tmp_path)))


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_input_acts(world: tuple, plain: Tensor, tmp_path: Path, change: dict) -> None:
    changed, once_more = trained(world, tmp_path / "a", **change), trained(world, tmp_path / "b", **change)
    assert not torch.equal(plain, weights(changed))
    assert torch.equal(weights(changed), weights(once_more))


def test_without_unlabelled_images_only_labelled_ones_are_asked_for(world: tuple, tmp_path: Path) -> None:
    seen: set[int] = set()

    class Noting(Sayings):
        def read(self, ids: Tensor, view: int) -> Target:
            seen.update(ids.tolist())
            return super().read(ids, view)

    trained(world, tmp_path, store=Noting(), unlabelled=False, steps=6)
    assert seen and seen <= set(world[1].weights_labelled.tolist())


def test_agreement_with_a_stage_that_is_left_out_is_refused(world: tuple, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="consistency compares with stage 1"):
        trained(world, tmp_path, epochs=0, loss={"consistency": 1.0})


def stage(world: tuple, **settings: object) -> LinkStage:
    dataset, splits, views = world
    s = config.Distill(encoder_rate=1.0, **settings)  # type: ignore[arg-type]
    codec = CAT(8, 8)
    loss = KnowledgeLoss(config.Loss(kd=0.0), 8, torch.zeros(2), torch.ones(2))
    link = Link(small(), codec.encoder, codec.decoder, nn.Linear(8, 10))
    lessons = Lessons(dataset, views, None)
    return LinkStage(
        link, (-6.0, 12.0), ("awgn",), lessons=lessons, loss=loss, splits=splits, rates=[(link, 0.01)], settings=s,
        total_steps=30,
    )  # fmt: skip


def test_a_rising_snr_visits_its_levels_one_epoch_each_and_begins_again(world: tuple) -> None:
    rising = stage(world, snr="rising")
    levels = [rising.snr_range(epoch) for epoch in range(9)]
    assert all(low == high for low, high in levels)
    assert [low for low, _ in levels] == [-6, -3, 0, 3, 6, 9, 12, -6, -3]
    assert stage(world).snr_range(5) == (-6, 12)


class Judged(CleanStage):
    """A stage whose architecture split says what the test wants it to."""

    said: tuple[float, ...] = ()

    def on_train_epoch_end(self) -> None:
        if not self.stopped:
            self._judge(self.said[self.current_epoch])


def judged(world: tuple, out: Path, said: tuple[float, ...], epochs: int, patience: int) -> tuple[Judged, list[Tensor]]:
    dataset, splits, views = world
    s = config.Distill(patience=patience)  # type: ignore[call-arg]
    torch.manual_seed(0)
    loss = KnowledgeLoss(config.Loss(kd=0.0), 8, torch.zeros(2), torch.ones(2))  # type: ignore[call-arg]
    encoder, head = small(), nn.Linear(8, 10)
    module = Judged(
        encoder, head, lessons=Lessons(dataset, views, None), loss=loss, splits=splits,
        rates=[(encoder, 0.01), (head, 0.01)], settings=s, total_steps=30,
    )  # fmt: skip
    module.said = said
    after: list[Tensor] = []

    class Keep(Callback):
        def on_train_epoch_end(self, trainer: object, pl_module: object) -> None:
            after.append(head.weight.detach().clone())

    ids = splits.weights_labelled
    loader = batches(ids, dataset.train_labels, ids[:0], batch_size=8, labelled_fraction=1.0, steps=2, views=1, seed=0)
    fit(module, loader, epochs=epochs, directory=out, name="s", accelerator="cpu", progress=False, callbacks=[Keep()])
    return module, after


def test_early_stopping_waits_as_long_as_told_and_goes_back_to_the_best_epoch(world: tuple, tmp_path: Path) -> None:
    said = (3.0, 2.0, 2.5, 2.2, 1.0, 0.5)
    module, after = judged(world, tmp_path, said, 6, patience=2)
    assert len(after) == 4  # the best is the second; the third and fourth were waited for
    module.take_best()
    assert torch.equal(module.classifier.weight, after[1]) and not torch.equal(after[1], after[3])
    patient, seen = judged(world, tmp_path / "patient", said, 6, patience=3)
    patient.take_best()
    assert len(seen) == 6 and torch.equal(patient.classifier.weight, seen[5])


def test_early_stopping_that_is_resumed_ends_as_one_that_was_not(world: tuple, tmp_path: Path) -> None:
    said = (3.0, 2.0, 2.5, 2.2, 1.0, 0.5)
    whole, _ = judged(world, tmp_path / "whole", said, 6, patience=2)
    judged(world, tmp_path / "parts", said, 3, patience=2)
    again, _ = judged(world, tmp_path / "parts", said, 6, patience=2)
    done, _ = judged(world, tmp_path / "parts", said, 6, patience=2)  # resumed after it had stopped
    for module in (whole, again, done):
        module.take_best()
    assert torch.equal(whole.classifier.weight, again.classifier.weight)
    assert torch.equal(whole.classifier.weight, done.classifier.weight)


def test_each_part_of_the_loss_and_its_pull_are_on_tensorboard(world: tuple, tmp_path: Path) -> None:
    trained(world, tmp_path, loss={"bottleneck": 0.1, "consistency": 0.5}, steps=11)
    for name, parts in (
        ("stage1", {"ce", "feature", "logit", "bottleneck"}),
        ("stage2", {"consistency", "bottleneck", "ce"}),
    ):
        events = EventAccumulator(str(tmp_path / "tensorboard" / name)).Reload()
        tags = set(events.Tags()["scalars"])
        for part in parts:
            assert {f"loss/{part}", f"gradient/{part}"} <= tags
            assert all(e.value > 0 for e in events.Scalars(f"gradient/{part}"))
        assert {"accuracy/architecture split", "loss/architecture split"} <= tags


def test_a_classifier_that_no_loss_trains_is_not_judged_nor_sets_the_share_of_the_class(
    world: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = {"ce": 0.0, "logit": 0.0, "feature": 1.0}
    monkeypatch.setattr("kdnas.distill.distiller.calibrate_share", lambda *a, **k: pytest.fail("it says nothing"))
    trained(world, tmp_path, loss=features, steps=11, classes=10)
    tags = set(EventAccumulator(str(tmp_path / "tensorboard" / "stage1")).Reload().Tags()["scalars"])
    assert "loss/feature" in tags and not any("architecture split" in tag for tag in tags)
    with pytest.raises(InputError, match=r"distill\.patience"):
        trained(world, tmp_path / "patient", loss=features, patience=1)
    for part in ("ce", "logit", "decoupled"):  # any of them teaches it
        assert KnowledgeLoss(config.Loss(**{**features, part: 1.0}), 8, torch.zeros(2), torch.ones(2)).trains_classifier


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_encoder_moves_in_stage_2_only_where_its_rate_says_so(world: tuple, tmp_path: Path, rate: float) -> None:
    link = trained(world, tmp_path, encoder_rate=rate)
    same = all(torch.equal(v, link.before[k]) for k, v in link.encoder.state_dict().items())
    assert same == (rate == 0)


def test_features_count_less_in_stage_2_than_in_stage_1(world: tuple, tmp_path: Path) -> None:
    capped, light = (
        trained(world, tmp_path / str(most), kd=2.0, epochs=0, loss={"feature": feature}, link_feature=most)
        for feature, most in ((30.0, 0.5), (0.5, 30.0))
    )
    assert torch.equal(weights(capped), weights(light))
    loss = KnowledgeLoss(config.Loss(kd=2.0, feature=30.0), 8, torch.zeros(2), torch.ones(2))
    with loss.feature_at_most(0.5):
        assert loss.weights["feature"] == 1.0
    assert loss.weights["feature"] == 60.0


def test_an_image_that_is_sent_several_times_passes_the_encoder_once(world: tuple) -> None:
    sent = stage(world, link_draws=3, link_batch_size=16)
    counts = {"encoder": 0, "codec": 0}
    sent.link.encoder.register_forward_hook(lambda m, x, y: counts.update(encoder=counts["encoder"] + len(y)))
    sent.link.channel_encoder.register_forward_hook(lambda m, x, y: counts.update(codec=counts["codec"] + len(y)))
    sent.log_dict = lambda *args: None  # type: ignore[method-assign, assignment]
    ids = world[1].weights_labelled[:16]
    sent.training_step(Batch(ids, world[0].train_labels[ids], 0, (0, 0, 0)), 0)
    assert counts == {"encoder": 16, "codec": 48}


def test_a_classifier_in_the_transmitter_begins_as_that_of_stage_1(world: tuple, tmp_path: Path) -> None:
    dataset, splits, views = world
    s = config.Distill(epochs=1, link_epochs=1, steps=1, batch_size=16, link_batch_size=16, link_learning_rate=1e-12)
    distiller = Distiller(
        Lessons(dataset, views, Sayings(), 2), splits, s, classes=10, feature_dim=8,
        statistics=(torch.zeros(2), torch.ones(2)), directory=tmp_path, seed=0, accelerator="cpu", progress=False,
    )  # fmt: skip
    encoder = small()
    classifier, knowledge = distiller.clean(encoder, config.Loss(), "stage1")
    wanted = classifier.weight.detach().clone()
    codec = CAT(8, 4, encoder={"tokens": 2, "classes": 10})
    distiller.through_link(encoder, classifier, knowledge, codec, snr_db=(0.0, 10.0), channels=("awgn",), name="stage2")
    torch.testing.assert_close(codec.encoder.classifier.weight, SHARPNESS * wanted, rtol=0, atol=1e-6)
    # Where both go on, the transmitter's reads what is sent and the receiver's what arrives.
    other = torch.nn.Linear(8, 10)
    distiller.through_link(
        encoder, classifier, knowledge, codec, snr_db=(0.0, 10.0), channels=("awgn",), name="again", sender=other
    )
    torch.testing.assert_close(codec.encoder.classifier.weight, SHARPNESS * other.weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(classifier.weight, wanted, rtol=0, atol=1e-6)
