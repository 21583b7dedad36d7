"""Trains encoders and links: the system and its baselines by the same hand."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn
from torch.utils.data import DataLoader

from kdnas import config
from kdnas.codec import CAT, ChannelEncoder, Codec
from kdnas.data import Batch, Splits, batches
from kdnas.distill.calibrate import calibrate_share, raise_shares
from kdnas.distill.stages import CleanStage, LinkStage, Stage
from kdnas.errors import InputError
from kdnas.knowledge.lessons import Lessons
from kdnas.link import FULL_SHARE, Link
from kdnas.loss import KnowledgeLoss
from kdnas.run.seeds import seed_of, seeded
from kdnas.run.training import channels_last, fit


class Distiller:
    """Trains encoders and links; the same object trains the system and its baselines, with the same budget.

    Args:
        lessons: Pixels and stored knowledge; without a store only losses without a teacher can be used.
        splits: Training sees the weights split; the architecture split judges.
        settings: Of the stages.
        classes: Number of classes.
        feature_dim: D.
        statistics: (mean, std), each (F,), of the teacher's features.
        directory: The run directory.
        seed: Of first weights, batches, and noise.
        accelerator: As in ``make_trainer``.
        progress: Show progress bars.
        superclasses: (classes,) int64, for losses on superclasses.
    """

    def __init__(
        self,
        lessons: Lessons,
        splits: Splits,
        settings: config.Distill,
        *,
        classes: int,
        feature_dim: int,
        statistics: tuple[Tensor, Tensor],
        directory: Path,
        seed: int,
        accelerator: str = "auto",
        progress: bool = True,
        superclasses: Tensor | None = None,
    ) -> None:
        self.lessons, self.splits, self.settings = lessons, splits, settings
        self.classes, self.feature_dim, self.statistics = classes, feature_dim, statistics
        self.directory, self.seed, self.accelerator, self.progress = directory, seed, accelerator, progress
        self.superclasses = superclasses

    def clean(
        self, encoder: nn.Module, loss: config.Loss, name: str, classifier: nn.Module | None = None
    ) -> tuple[nn.Module, KnowledgeLoss]:
        """Stage 1: train ``encoder`` in place; with ``epochs`` 0 nothing is trained, and stage 2 begins from scratch.

        Args:
            encoder: (B, C, H, W) to (B, D).
            loss: With ``kd`` 0 only labelled images are used.
            name: Of the stage, for TensorBoard and checkpoints.
            classifier: A linear classifier to go on with; a fresh one unless given.

        Returns:
            The classifier (B, D) to (B, classes), and the loss with its trained projector.

        Raises:
            InputError: ``loss.consistency`` without a stage 1 that could be agreed with.
        """
        s = self.settings
        with seeded(self.seed, "stage 1"):
            classifier = classifier or nn.Linear(self.feature_dim, self.classes)
            knowledge = self.knowledge_loss(loss)
        if s.epochs == 0:
            if loss.consistency > 0:
                raise InputError("loss.consistency compares with stage 1: set distill.epochs above 0, or it to 0")
            return classifier, knowledge
        stage = CleanStage(
            channels_last(encoder), classifier, lessons=self.lessons, loss=knowledge, splits=self.splits,
            rates=[(m, s.learning_rate) for m in (encoder, classifier, knowledge)], settings=s,
            total_steps=s.epochs * s.steps,
        )  # fmt: skip
        self._fit(stage, self._batches(knowledge, "stage 1", s.batch_size), s.epochs, name)
        return classifier, knowledge

    def through_link(
        self,
        encoder: nn.Module,
        classifier: nn.Module,
        knowledge: KnowledgeLoss,
        codec: CAT | Codec,
        *,
        snr_db: tuple[float, float],
        channels: Iterable[str],
        name: str,
        full_share: float = FULL_SHARE,
        sender: nn.Module | None = None,
    ) -> Link:
        """Stage 2: train codec and semantic decoder through the channel, and the encoder at its share of the rate.

        Args:
            encoder: From stage 1; trained further in place unless ``encoder_rate`` is 0.
            classifier: From stage 1; becomes the semantic decoder.
            knowledge: The loss of stage 1, whose projector goes on.
            codec: Fresh, or trained before: it goes on.
            snr_db: Lowest and highest SNR in dB.
            channels: Names, drawn uniformly per sample.
            name: Of the stage.
            full_share: Share of samples that send the full length, as in ``draw_conditions``.
            sender: What the transmitter's own classifier begins as; ``classifier`` unless given.

        Returns:
            The link, in evaluation mode; that of CAT with the class's share of the power set by held-out images.
        """
        s = self.settings
        if isinstance(codec.encoder, ChannelEncoder):
            codec.encoder.start_from(classifier if sender is None else sender)
        link = Link(encoder, codec.encoder, codec.decoder, classifier)
        raise_shares(link, 0.0)  # a codec that is trained further goes on with the share that it learned
        rate = s.link_learning_rate
        rates = [(m, rate) for m in (codec, classifier, knowledge)] + [(encoder, rate * s.encoder_rate)]
        stage = LinkStage(
            link, snr_db, tuple(channels), full_share, lessons=self.lessons, loss=knowledge, splits=self.splits,
            rates=rates, settings=s, total_steps=s.link_epochs * s.steps,
        )  # fmt: skip
        channels_last(encoder)
        with knowledge.feature_at_most(s.link_feature):
            self._fit(stage, self._batches(knowledge, "stage 2", s.link_batch_size), s.link_epochs, name)
        link.eval()
        if isinstance(codec.encoder, ChannelEncoder) and knowledge.trains_classifier:
            low, high = snr_db
            calibrate_share(
                link, self.lessons, self.splits, channels=stage.channels, seed=self.seed,
                unlabelled=s.unlabelled and knowledge.needs_teacher,
                snrs_db=sorted({low + (high - low) * part / 3 for part in range(4)}),
                lengths=sorted({link.symbols} if full_share == 1 else {max(1, link.symbols // 8), link.symbols}),
            )  # fmt: skip
        return link

    def _fit(self, stage: Stage, loader: DataLoader[Batch], epochs: int, name: str) -> None:
        stage.train()  # Lightning leaves the mode as it finds it, and stage 1 ends in evaluation mode
        fit(
            stage, loader, epochs=epochs, directory=self.directory, name=name, accelerator=self.accelerator,
            progress=self.progress,
        )  # fmt: skip
        stage.eval().cpu()
        stage.take_best()

    def knowledge_loss(self, loss: config.Loss) -> KnowledgeLoss:
        """A fresh loss with its projector."""
        return KnowledgeLoss(loss, self.feature_dim, *self.statistics, superclasses=self.superclasses)

    def _batches(self, loss: KnowledgeLoss, key: str, size: int) -> DataLoader[Batch]:
        s, splits = self.settings, self.splits
        everything = s.unlabelled and loss.needs_teacher
        unlabelled = splits.weights_unlabelled if everything else splits.weights_unlabelled[:0]
        return batches(
            splits.weights_labelled, self.lessons.dataset.train_labels, unlabelled, batch_size=size,
            labelled_fraction=s.labelled_fraction, steps=s.steps, views=self.lessons.n_views,
            seed=seed_of(self.seed, key) % 2**31,
        )  # fmt: skip
