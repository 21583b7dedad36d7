"""Adapting a teacher, or an ensemble of them, to a data set with the labels of the weights split."""

import copy
import math
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from kdnas.data import Dataset, Splits, Views, batches
from kdnas.errors import InputError
from kdnas.knowledge.calibration import expected_calibration_error, fit_temperature
from kdnas.knowledge.ensemble import Ensemble, join
from kdnas.knowledge.probe import fit_probe
from kdnas.knowledge.teacher import (
    AdaptedTeacher,
    Backbone,
    InputSpec,
    folded,
    load_backbone,
    load_teacher,
    save_teacher,
    split_name,
)
from kdnas.run.files import hash_of
from kdnas.run.paths import cache_dir
from kdnas.run.tensors import torch_device

EPOCHS = 10  # of fine-tuning, for checkpoints and logs: its length is set in steps
IMAGE_SIZE = 64  # pixels, where neither the settings nor the network say
PROBED = 1 << 16  # feature vectors that the linear probe learns from, at most (or one view)
UNLABELLED = 0.5  # share of the batches of self-training
VERSION = 1  # raise it when adapt's result changes for the same arguments


@dataclass(frozen=True)
class Recipe:
    """How a teacher is adapted: the arguments of ``adapt`` that decide what comes out.

    The fields from ``rate_decay`` on came later: at their defaults they leave result and cache key as they were.
    """

    method: str
    image_size: int | None
    n_views: int
    steps: int
    batch_size: int
    learning_rate: float
    smoothing: float
    calibrate: bool
    seed: int
    rate_decay: float = 1.0
    mixup: float = 0.0
    patience: int = 0
    unfreeze: int = 0
    self_training: int = 0

    @property
    def extras(self) -> dict[str, Any]:
        """The later fields that are not at their default."""
        later = fields(self)[[field.name for field in fields(self)].index("rate_decay") :]
        return {f.name: getattr(self, f.name) for f in later if getattr(self, f.name) != f.default}

    def check(self, splits: Splits) -> None:
        """Refuse what cannot be done.

        Raises:
            InputError: It names the argument.
        """
        if self.method not in ("probe", "finetune"):
            raise InputError(f"adapt.method = {self.method!r} is neither 'probe' nor 'finetune'")
        if min(self.n_views, self.steps, self.batch_size) < 1 or (self.image_size or 28) < 28:
            raise InputError("adapt: n_views, steps and batch_size must be at least 1, image_size at least 28")
        if not 0 < self.rate_decay <= 1 or not 0 <= self.mixup <= 1:
            raise InputError("adapt: rate_decay must be above 0 and at most 1, mixup in [0, 1]")
        if min(self.patience, self.unfreeze, self.self_training) < 0:
            raise InputError("adapt: patience, unfreeze and self_training must not be negative")
        if self.method == "probe" and self.extras:
            raise InputError(
                f"adapt.{next(iter(self.extras))} is about fine-tuning: leave it out, or set adapt.method = 'finetune'"
            )
        if self.self_training and not len(splits.weights_unlabelled):
            raise InputError("adapt.self_training needs images without a label: set it to 0, or lower data.labels")


@dataclass(frozen=True)
class _Place:
    """Where an adaptation works: the run directory, the name of its stage there, and how it shows itself."""

    directory: Path
    stage: str
    device: torch.device
    progress: bool
    cache: bool


def adapt(
    name: str,
    dataset: Dataset,
    splits: Splits,
    *,
    views: Views,
    directory: str | Path,
    method: Literal["probe", "finetune"] = "finetune",
    image_size: int | None = None,
    n_views: int = 8,
    steps: int | None = None,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    smoothing: float = 0.1,
    rate_decay: float = 1.0,
    mixup: float = 0.0,
    patience: int = 0,
    unfreeze: int = 0,
    self_training: int = 0,
    calibrate: bool = False,
    seed: int = 0,
    accelerator: str = "auto",
    progress: bool = True,
    cache: bool = True,
) -> tuple[AdaptedTeacher | Ensemble, dict[str, Any]]:
    """Make the teacher ``name`` a classifier of ``dataset``.

    ``probe`` fits a linear classifier on the features of ``n_views`` views of the labelled images of the
    weights split. ``finetune`` starts from that and trains the last links of the network too (those after
    ``backbone.frozen``), on kept activations of the others. A network without pretrained weights is trained
    whole. The members of an ensemble are adapted one by one; one that occurs again has another seed.

    Args:
        name: One of ``list_teachers()``, a family and its member (``hf:…``, ``timm:…``), or several joined by ``+``.
        dataset: Its test images are not touched.
        splits: The teacher learns from ``weights_labelled`` alone (and, without their labels, from
            ``weights_unlabelled`` in self-training); ``architecture_labelled`` judges it, and stops it where
            ``patience`` is set.
        views: The augmentation.
        directory: The run directory: logs, and the checkpoint of a fine-tuning that was stopped.
        method: ``probe`` or ``finetune``.
        image_size: Side of the network's input, in pixels, at least 28; None for the network's own, or 64.
        n_views: Views that it learns from.
        steps: Of fine-tuning; None for 200 with 800 labelled images, and as the root of their number else.
        batch_size: Images per step of it.
        learning_rate: Of it, at its peak.
        smoothing: Of its labels.
        rate_decay: Learning rate of each link over that of the next, from the classifier down; in (0, 1].
        mixup: The largest share of another image that is mixed into an image, in [0, 1].
        patience: Epochs (tenths of the steps) without a better likelihood on ``architecture_labelled`` after
            which fine-tuning ends; the best epoch's weights are kept. 0 trains to the end.
        unfreeze: How many more links are trained, as far as there are.
        self_training: Rounds in which the network is fine-tuned anew, from the start, on the labelled images
            and on unlabelled ones with the posteriors of the round before.
        calibrate: Divide the logits by the temperature fitted on ``architecture_labelled``. Off by default:
            then what is stored of the teacher depends on the labels of the weights split alone (unless
            ``patience`` is set).
        seed: Of the order of the images and of dropout.
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        progress: Show a progress bar.
        cache: Look for the adapted teacher in the cache and leave it there.

    Returns:
        The teacher, and a report: ``teacher``, ``method``, ``params``, ``labels``, ``seconds``, ``hash``,
        ``reused``; ``temperature`` (in use); and of the labelled images of the architecture split
        ``accuracy`` and ``ece`` (view 0, temperature 1), ``accuracy_views`` and ``ece_views`` (mean posterior
        of the ``n_views`` views), ``fitted_temperature`` and ``fitted_ece`` (with that temperature). With
        ``patience``, ``epochs``: the best epoch of each fine-tuning, from 1. Of an ensemble, ``members``: the
        report of each.

    Raises:
        InputError: An unknown teacher or method; an argument out of range; a probe of a network without
            pretrained weights.
        KeyboardInterrupt: Ctrl-C; the next call with the same ``directory`` goes on from the last epoch.
    """
    if steps is None:
        steps = round(200 * math.sqrt(len(splits.weights_labelled) / 800))
    recipe = Recipe(
        method, image_size, n_views, steps, batch_size, learning_rate, smoothing, calibrate, seed, rate_decay, mixup,
        patience, unfreeze, self_training,
    )  # fmt: skip
    recipe.check(splits)
    place = _Place(Path(directory), "teacher", torch_device(accelerator), progress, cache)
    names = split_name(name)
    if len(names) > 1:
        return _adapt_ensemble(names, dataset, splits, views, recipe, place)
    return _adapt_one(name, dataset, splits, views, recipe, place)


def _adapt_ensemble(
    names: list[str], dataset: Dataset, splits: Splits, views: Views, recipe: Recipe, place: _Place
) -> tuple[Ensemble, dict[str, Any]]:
    """Adapt each member by itself and join them; the arguments are those of ``adapt``."""
    started = time.perf_counter()
    members, reports = [], []
    for at, name in enumerate(names):
        # Calibration is of the whole: the mean of calibrated posteriors is none.
        own = replace(recipe, seed=recipe.seed + names[:at].count(name), calibrate=False)
        member, report = _adapt_one(name, dataset, splits, views, own, replace(place, stage=f"teacher-{at}"))
        members.append(member)
        reports.append(report)
    hashes = [member.hash for member in members]
    key = hash_of("ensemble", VERSION, hashes, dataset.hash, splits.hash, views.hash, recipe.n_views, recipe.calibrate)
    kept = cache_dir() / "teachers" / key
    if place.cache and (kept / "teacher.json").exists():
        found, told = load_teacher(kept)
        assert isinstance(found, Ensemble)
        return found.to(place.device), {**told, "reused": True}
    ids = torch.cat([splits.weights_labelled, splits.weights_unlabelled])
    teacher = join(members, dataset, ids)
    judged = _judge(teacher, dataset, splits.architecture_labelled, views, recipe.n_views)
    if recipe.calibrate:
        teacher = Ensemble(members, teacher.mean, teacher.std, judged["fitted_temperature"])
    return teacher, _finish(teacher, judged, recipe, splits, started, {"members": reports}, kept, place)


def _adapt_one(
    name: str, dataset: Dataset, splits: Splits, views: Views, recipe: Recipe, place: _Place
) -> tuple[AdaptedTeacher, dict[str, Any]]:
    """Adapt one network; the arguments are those of ``adapt``."""
    started = time.perf_counter()
    backbone = load_backbone(name)
    if recipe.method == "probe" and not backbone.pretrained:
        raise InputError(f"the teacher {name} has no pretrained weights: set adapt.method = 'finetune'")
    own: int = getattr(backbone, "default_size", IMAGE_SIZE)
    image_size = recipe.image_size or own
    tuning: tuple[float, ...] = ()
    if recipe.method == "finetune":
        tuning = (recipe.steps, recipe.batch_size, recipe.learning_rate, recipe.smoothing, recipe.seed)
    key = hash_of(
        "adapt", VERSION, name, dict(backbone.layers.state_dict()), dataset.hash, splits.hash, views.hash,
        recipe.method, image_size, recipe.n_views, recipe.calibrate, tuning, *filter(None, [recipe.extras]),
    )  # fmt: skip
    kept = cache_dir() / "teachers" / key
    if place.cache and (kept / "teacher.json").exists():
        found, told = load_teacher(kept)
        assert isinstance(found, AdaptedTeacher)
        return found.to(place.device), {**told, "reused": True}

    head, extra = _train(backbone, dataset, splits, views, recipe, image_size, key, place)
    teacher = AdaptedTeacher(backbone, head, image_size).to(place.device)
    judged = _judge(teacher, dataset, splits.architecture_labelled, views, recipe.n_views)
    if recipe.calibrate:
        teacher = AdaptedTeacher(backbone, head, image_size, judged["fitted_temperature"]).to(place.device)
    return teacher, _finish(teacher, judged, recipe, splits, started, extra, kept, place)


def _train(
    backbone: Backbone,
    dataset: Dataset,
    splits: Splits,
    views: Views,
    recipe: Recipe,
    image_size: int,
    key: str,
    place: _Place,
) -> tuple[nn.Linear, dict[str, Any]]:
    """Fit the classifier, and the last links of ``backbone`` in place; what the report says of it beside."""
    from kdnas.knowledge.finetune import Activations, FineTune, Held
    from kdnas.knowledge.selftraining import VIEWS, pool, soft_labels
    from kdnas.run.training import fit

    ids, classes, device = splits.weights_labelled, len(dataset.classes), place.device
    spec = InputSpec(backbone.channels, image_size, tuple(backbone.mean), tuple(backbone.std))
    if backbone.pretrained:
        backbone.layers = folded(backbone.layers)
    layers = backbone.layers.to(device)
    frozen = max(0, backbone.frozen - recipe.unfreeze)
    front, tail = cast(nn.Sequential, layers[:frozen]), cast(nn.Sequential, layers[frozen:])

    def seen(which: Tensor, n_views: int) -> Activations:
        return Activations(front, spec, dataset, views, n_views, which, device)

    activations = seen(ids, recipe.n_views)
    if backbone.pretrained:
        with torch.no_grad():
            probed = max(1, min(recipe.n_views, PROBED // len(ids)))
            features = torch.cat([tail(activations(part, v)) for v in range(probed) for part in ids.split(200)])
        head = fit_probe(features, dataset.train_labels[ids].repeat(probed).to(device), classes)
    else:
        head = nn.utils.skip_init(nn.Linear, backbone.feature_dim, classes, device=device)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    if recipe.method == "probe":
        return head, {}

    judges = splits.architecture_labelled
    held = Held(seen(judges, 1), dataset.train_labels[judges], recipe.patience) if recipe.patience else None
    start = copy.deepcopy((tail.state_dict(), head.state_dict())) if recipe.self_training else None
    others = seen(pool(splits.weights_unlabelled), min(VIEWS, recipe.n_views)) if recipe.self_training else None
    epochs = min(EPOCHS, recipe.steps)
    each = math.ceil(recipe.steps / epochs)
    best = []
    for turn in range(1 + recipe.self_training):
        soft = None
        if turn and others is not None and start is not None:
            soft = soft_labels(tail, head, others)
            # Anew, as going on would only confirm what the network thinks already.
            tail.load_state_dict(start[0])
            head.load_state_dict(start[1])
        loader = batches(
            ids, dataset.train_labels, ids[:0] if soft is None else soft.activations.ids,
            batch_size=recipe.batch_size, labelled_fraction=1.0 if soft is None else 1 - UNLABELLED, steps=each,
            views=recipe.n_views, seed=recipe.seed,
        )  # fmt: skip
        module = FineTune(
            tail, head, activations, steps=epochs * each, learning_rate=recipe.learning_rate,
            smoothing=recipe.smoothing, key=hash_of(key, turn) if turn else key, rate_decay=recipe.rate_decay,
            mixup=recipe.mixup, soft=soft, held=held,
        )  # fmt: skip
        fit(
            module, loader, epochs=epochs, directory=place.directory,
            name=place.stage + (f"-self{turn}" if turn else ""), accelerator=device.type, progress=place.progress,
        )  # fmt: skip
        tail.to(device)  # Lightning leaves what was trained on a GPU in main memory
        head.to(device)
        if held is not None:
            module.load_state_dict(module.best["state"])
            best.append(module.best["epoch"])
    return head, {"epochs": best} if best else {}


def _finish(
    teacher: AdaptedTeacher | Ensemble,
    judged: dict[str, float],
    recipe: Recipe,
    splits: Splits,
    started: float,
    extra: dict[str, Any],
    kept: Path,
    place: _Place,
) -> dict[str, Any]:
    """The report of ``adapt``; the teacher goes into the cache."""
    report = {
        "teacher": teacher.name,
        "method": recipe.method,
        "params": teacher.parameter_count,
        "labels": len(splits.weights_labelled),
        **judged,
        "temperature": teacher.temperature,
        "seconds": round(time.perf_counter() - started, 2),
        "hash": teacher.hash,
        **extra,
    }
    if place.cache:
        save_teacher(teacher, kept, report)
    return {**report, "reused": False}


def _judge(
    teacher: AdaptedTeacher | Ensemble, dataset: Dataset, ids: Tensor, views: Views, n_views: int
) -> dict[str, float]:
    """Accuracy and calibration on the labelled images ``ids``; the keys are those of the report."""
    images, labels = dataset.train_images[ids], dataset.train_labels[ids]
    logits = torch.stack([teacher(views.apply(images, ids, view)).cpu() for view in range(n_views)])
    single, mean = logits[0].softmax(1), logits.softmax(2).mean(0)  # logits: (n_views, N, classes)
    temperature = fit_temperature(logits[0], labels)
    return {
        "accuracy": float((single.argmax(1) == labels).double().mean()),
        "ece": expected_calibration_error(single, labels),
        "accuracy_views": float((mean.argmax(1) == labels).double().mean()),
        "ece_views": expected_calibration_error(mean, labels),
        "fitted_temperature": temperature,
        "fitted_ece": expected_calibration_error((logits[0] / temperature).softmax(1), labels),
    }
