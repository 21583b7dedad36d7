"""What the stages of a run share, each part made when it is first needed."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdnas import config
from kdnas.channel import get_channel
from kdnas.codec import CAT, channel_encoder_steps
from kdnas.cost import Cost, CostTables, costs_of, exact_costs
from kdnas.data import Dataset, Splits, Views, load_dataset, make_splits
from kdnas.device import DeviceClass, load_device
from kdnas.distill import Distiller
from kdnas.errors import InputError
from kdnas.export.halves import need_onnx
from kdnas.knowledge import AdaptedTeacher, Store, adapt
from kdnas.knowledge.ensemble import Ensemble
from kdnas.knowledge.lessons import Lessons
from kdnas.ops import Step
from kdnas.run import ranks
from kdnas.run.directory import RunDirectory
from kdnas.run.seeds import seeded
from kdnas.search.derive import derive
from kdnas.search.engine import Searcher, search_batches
from kdnas.space.base import SearchSpace
from kdnas.space.registry import make_space


class Context:
    """One run: its settings and directory, and everything that follows from them.

    Args:
        settings: Resolved.
        directory: Of the run.
        progress: Show progress bars.
    """

    def __init__(self, settings: config.Settings, directory: RunDirectory, progress: bool = True) -> None:
        self.settings, self.directory, self.progress = settings, directory, progress
        self.teacher_report: dict[str, Any] = {}

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.directory.path

    @cached_property
    def device(self) -> DeviceClass:
        """The device class."""
        return load_device(self.settings.device)

    @cached_property
    def dataset(self) -> Dataset:
        """The data set."""
        s = self.settings
        return load_dataset(
            s.dataset, root=s.data.root, image_size=s.data.image_size, channels=s.data.channels, limit=s.data.limit,
            seed=s.seed,
        )  # fmt: skip

    @cached_property
    def splits(self) -> Splits:
        """Weights and architecture split, labelled and not."""
        return make_splits(self.dataset.train_labels, self.settings.data.labels, self.settings.seed)

    @cached_property
    def views(self) -> Views:
        """The augmentation."""
        return Views(self.settings.data.flip, self.settings.data.shift, self.settings.seed)

    @cached_property
    def teacher(self) -> AdaptedTeacher | Ensemble:
        """The adapted teacher, from the cache where it is there."""
        s = self.settings
        try:
            teacher, self.teacher_report = adapt(
                s.teacher, self.dataset, self.splits, views=self.views, directory=self.path, seed=s.seed,
                accelerator=s.accelerator, progress=self.progress, **s.adapt.model_dump(exclude={"options"}),
                **s.adapt.options,
            )  # fmt: skip
        except TypeError as error:
            if "keyword" not in str(error):
                raise
            raise InputError(f"adapt.options: {str(error).partition(') ')[2] or error}") from None
        return teacher

    @cached_property
    def store(self) -> Store:
        """Stored knowledge, from the cache where it is there."""
        s = self.settings.knowledge
        weights_ids = torch.cat([self.splits.weights_labelled, self.splits.weights_unlabelled])
        return Store.build(
            self.teacher, self.dataset, self.views, s.views, weights_ids=weights_ids, form=s.form, dims=s.dims,
            codes=s.codes, top_k=min(s.top_k, len(self.dataset.classes)), shard_images=s.shard_images,
            workers=s.workers, progress=self.progress,
        )  # fmt: skip

    @cached_property
    def lessons(self) -> Lessons:
        """Pixels with stored knowledge."""
        return Lessons(
            self.dataset, self.views, self.store, self.settings.knowledge.views, self.settings.knowledge.posterior
        )

    @cached_property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """(mean, std) of the stored features over the weights split."""
        return self.store.mean, self.store.std

    @cached_property
    def space_options(self) -> dict[str, Any]:
        """All options of the search space; those that the data set fixes cannot be set."""
        s = self.settings.spaces
        channels, size, _ = self.dataset.image_shape
        fixed = {"in_channels": channels, "image_size": size, "feature_dim": s.feature_dim}
        for option in s.options:
            if option in fixed:
                raise InputError(
                    f"spaces.options.{option} follows from the data set or spaces.feature_dim: leave it out"
                )
        return make_space(self.settings.space, **fixed, **s.options).options

    @cached_property
    def space(self) -> SearchSpace:
        """The search space, not relaxed."""
        return make_space(self.settings.space, **self.space_options)

    def codec(self, symbols: int | None = None) -> CAT:
        """A fresh CAT, sized to the device; for fewer ``symbols`` than the device's where they are given."""
        own, given = self.device.codec, self.settings.codec
        encoder = {name: getattr(given, name) or getattr(own, name) for name in ("tokens", "width", "depth")}
        encoder |= {"order": given.order, "constellation": given.constellation, "told": given.told}
        classes = given.words(len(self.dataset.classes))
        with seeded(self.settings.seed, "codec"):
            return CAT(
                self.settings.spaces.feature_dim, symbols or self.device.link.symbols,
                encoder=encoder | {"classes": classes}, decoder={"classes": classes},
            )  # fmt: skip

    @property
    def training_snr_db(self) -> tuple[float, float]:
        """Lowest and highest SNR of stage 2, in dB: the device's range and the margin."""
        (low, high), margin = self.device.link.snr_db, self.settings.distill.snr_margin_db
        return low - margin, high + margin

    @cached_property
    def costs(self) -> list[Cost]:
        """What is counted of a network on the device."""
        return costs_of(self.device)

    @cached_property
    def channel_steps(self) -> list[Step]:
        """The steps of the channel encoder, which counts against the device's budgets."""
        return channel_encoder_steps(self.codec().encoder.config)

    @cached_property
    def channel_costs(self) -> dict[str, float]:
        """The channel encoder's own costs."""
        return exact_costs(self.channel_steps, self.costs)

    @cached_property
    def tables(self) -> CostTables:
        """The costs of the space on the device, encoder alone."""
        return CostTables(self.space.units(), self.space.domains(), self.costs)

    @cached_property
    def encoder_budgets(self) -> dict[str, float]:
        """The class's budgets less the channel encoder; for SRAM the whole, as the two run one after the other.

        Raises:
            InputError: The channel encoder alone breaks a budget.
        """
        left = {}
        for name, limit in self.device.budgets.items():
            own = self.channel_costs[name]
            if own >= limit:
                raise InputError(
                    f"the channel encoder alone needs {own:.6g} of the {name} budget {limit:.6g} of "
                    f"{self.device.name}: make it smaller with --set codec.width=…"
                )
            left[str(name)] = limit if name == "sram_bytes" else limit - own
        return left

    def transmitter_costs(self, encoder_steps: list[Step]) -> dict[str, float]:
        """Costs of encoder and channel encoder, one after the other."""
        return exact_costs([*encoder_steps, *self.channel_steps], self.costs)

    def check_same(self) -> None:
        """Refuse to go on in a run whose data or device class has changed: its test images may have been trained on.

        Raises:
            InputError: The images, their labels or their split are others than the run's teacher saw, or the device
                file is another.
        """
        taught = self.directory.report("teach")
        if taught is not None:
            before = taught["data"]
            if (self.dataset.hash, self.splits.hash) != (before["hash"], before["splits"]):
                raise InputError(
                    f"the images of {before['name']} were changed since {self.path} began: start a new run, or bring "
                    "them back"
                )
        device = self.directory.document.get("device")  # a fleet has devices of its own
        if device is not None and device != self.device.hash:
            raise InputError(
                f"the device file {self.settings.device} was changed since {self.path} began: start a new run"
            )

    def check(self) -> None:
        """Refuse what can be refused before anything is trained.

        Raises:
            InputError: An unknown device, channel, data set, space or option, labels that the data lack, an extra that
                is not installed, or budgets that no architecture of the space fits.
        """
        if self.settings.accelerator == "cuda" and not torch.cuda.is_available():
            raise InputError("accelerator = 'cuda', but torch finds no CUDA device: leave it on 'auto'")
        if self.settings.evaluate.int8:
            need_onnx()
        loss = self.settings.loss
        if loss.kd * loss.superclass > 0:
            raise InputError("loss.superclass needs superclasses, which `kdnas tailor` makes: set it to 0 elsewhere")
        if loss.consistency > 0 and self.settings.distill.epochs == 0:
            raise InputError("loss.consistency compares with stage 1: set distill.epochs above 0, or it to 0")
        for name in (*self.device.link.channels, *(self.settings.evaluate.channels or ())):
            get_channel(name)
        _ = self.splits
        self.space.check_relaxation(self.settings.search.relaxation)
        flat = {label: np.zeros(len(values)) for label, values in self.tables.domains.items()}
        derive(self.tables, flat, self.encoder_budgets)

    def check_ranks(self) -> None:
        """Refuse a search that the processes which have joined cannot share.

        Raises:
            InputError: Its batches cannot be shared equally, it would run on a GPU, or its loss compares the images
                of a batch with each other.
        """
        ranks.check_device(self.settings.accelerator)
        loss = self.settings.loss
        if ranks.world() > 1 and loss.kd * (loss.distance + loss.angle) > 0:
            raise InputError("loss.distance and loss.angle need whole batches: search with them in one process")
        search_batches(self.settings.search, self.splits, self.dataset.train_labels)

    @cached_property
    def searcher(self) -> Searcher:
        """The search engine for this device class."""
        return Searcher(
            self.settings.space, self.space_options, self.lessons, self.splits, self.tables, self.encoder_budgets,
            classes=len(self.dataset.classes), statistics=self.statistics,
            seed=self.settings.seed, accelerator=self.settings.accelerator,
        )  # fmt: skip

    def distiller(self, teacher: bool = True, settings: config.Distill | None = None) -> Distiller:
        """The trainer of encoders and links; without the teacher for baselines that must not see it.

        Args:
            teacher: Read stored knowledge.
            settings: Of the stages, instead of the run's.
        """
        lessons = self.lessons if teacher else Lessons(self.dataset, self.views, None, self.settings.knowledge.views)
        return Distiller(
            lessons, self.splits, settings or self.settings.distill, classes=len(self.dataset.classes),
            feature_dim=self.settings.spaces.feature_dim, statistics=self.statistics, directory=self.path,
            seed=self.settings.seed, accelerator=self.settings.accelerator, progress=self.progress,
        )  # fmt: skip
