"""Adapting a teacher to a data set with the labels of the weights split alone."""

import math
import time
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdnas.data import Dataset, Splits, Views, batches
from kdnas.errors import InputError
from kdnas.knowledge.calibration import expected_calibration_error
from kdnas.knowledge.probe import fit_probe
from kdnas.knowledge.teacher import (
    AdaptedTeacher,
    Backbone,
    InputSpec,
    folded,
    load_backbone,
    load_teacher,
    save_teacher,
)
from kdnas.run.files import hash_of
from kdnas.run.paths import cache_dir

EPOCHS = 10  # of fine-tuning, for checkpoints and logs: its length is set in steps
VERSION = 1  # raise it when adapt's result changes for the same arguments


def adapt(
    name: str,
    dataset: Dataset,
    splits: Splits,
    *,
    views: Views,
    directory: str | Path,
    method: Literal["probe", "finetune"] = "finetune",
    image_size: int = 64,
    n_views: int = 8,
    steps: int = 250,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    smoothing: float = 0.1,
    seed: int = 0,
    accelerator: str = "auto",
    progress: bool = True,
    cache: bool = True,
) -> tuple[AdaptedTeacher, dict[str, Any]]:
    """Make the registered teacher ``name`` a classifier of ``dataset``.

    ``probe`` fits a linear classifier on the features of ``n_views`` views of the labelled images of the
    weights split. ``finetune`` starts from that and trains the last links of the network too (those after
    ``backbone.frozen``), on kept activations of the others; a network that is not pretrained is trained
    whole.

    Args:
        name: One of ``list_teachers()``.
        dataset: Its test images are not touched.
        splits: The teacher learns from ``weights_labelled``; ``architecture_labelled`` judges it and sets
            nothing.
        views: The augmentation.
        directory: The run directory: logs, and the checkpoint of a fine-tuning that was stopped.
        method: ``probe`` or ``finetune``.
        image_size: Side of the network's input, in pixels, at least 28.
        n_views: Views that it learns from.
        steps: Of fine-tuning.
        batch_size: Images per step of it.
        learning_rate: Of it, at its peak.
        smoothing: Of its labels.
        seed: Of the order of the images and of dropout.
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        progress: Show a progress bar.
        cache: Look for the adapted teacher in the cache and leave it there.

    Returns:
        The teacher, and a report: ``teacher``, ``method``, ``params``, ``labels``, ``accuracy`` and ``ece``
        (on the architecture split, view 0), ``accuracy_views`` (mean of the posteriors of ``n_views`` views),
        ``temperature``, ``ece_uncalibrated``, ``seconds``, ``hash``, ``reused``.

    Raises:
        InputError: An unknown teacher or method; a probe of a network without pretrained weights.
        KeyboardInterrupt: Ctrl-C; the next call with the same ``directory`` goes on from the last epoch.
    """
    if method not in ("probe", "finetune"):
        raise InputError(f"adapt.method = {method!r} is neither 'probe' nor 'finetune'")
    if min(n_views, steps, batch_size) < 1 or image_size < 28:
        raise InputError("adapt: n_views, steps and batch_size must be at least 1, image_size at least 28")
    settings: dict[str, Any] = {"method": method, "image_size": image_size, "n_views": n_views}
    if method == "finetune":
        settings |= {
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "smoothing": smoothing,
        }
    key = hash_of("adapt", VERSION, name, dataset.hash, splits.hash, views.hash, settings, seed)
    place = cache_dir() / "teachers" / key
    if cache and (place / "teacher.json").exists():
        teacher, report = load_teacher(place)
        return teacher.to(_device(accelerator)), {**report, "reused": True}

    started = time.perf_counter()
    device = _device(accelerator)
    backbone = load_backbone(name)
    if method == "probe" and not backbone.pretrained:
        raise InputError(
            f"the teacher {name} has no pretrained weights to probe: set adapt.method to 'finetune'"
        )
    head = _learn(
        backbone,
        dataset,
        splits,
        views,
        n_views,
        settings,
        seed,
        device,
        Path(directory),
        accelerator,
        progress,
    )
    teacher = AdaptedTeacher(backbone, head, image_size).to(device)
    report = {
        "teacher": name,
        "method": method,
        "params": teacher.parameter_count,
        "labels": len(splits.weights_labelled),
        **_judge(teacher, dataset, splits.architecture_labelled, views, n_views),
        "seconds": round(time.perf_counter() - started, 2),
        "hash": teacher.hash,
    }
    if cache:
        save_teacher(teacher, place, report)
    return teacher, {**report, "reused": False}


def _learn(
    backbone: Backbone,
    dataset: Dataset,
    splits: Splits,
    views: Views,
    n_views: int,
    settings: dict[str, Any],
    seed: int,
    device: torch.device,
    directory: Path,
    accelerator: str,
    progress: bool,
) -> nn.Linear:
    """Fit a classifier on ``backbone``, and train it where the method says so (in place)."""
    from kdnas.knowledge.finetune import Activations, FineTune

    ids = splits.weights_labelled
    spec = InputSpec(backbone.channels, settings["image_size"], tuple(backbone.mean), tuple(backbone.std))
    layers = backbone.layers
    if backbone.pretrained:
        layers = folded(layers)
    layers = layers.to(device)
    front, tail = layers[: backbone.frozen], layers[backbone.frozen :]
    activations = Activations(front, spec, dataset, views, n_views, ids, device)
    if backbone.pretrained:
        with torch.no_grad():
            features = torch.cat(
                [tail(activations(part, v)) for v in range(n_views) for part in ids.split(200)]
            )
        head = fit_probe(features, dataset.train_labels[ids].repeat(n_views).to(device), len(dataset.classes))
    else:
        head = nn.Linear(backbone.feature_dim, len(dataset.classes), device=device)
        with torch.no_grad():
            nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    backbone.layers = layers
    if settings["method"] == "finetune":
        from kdnas.run.training import fit

        epochs = min(EPOCHS, settings["steps"])
        each = math.ceil(settings["steps"] / epochs)
        loader = batches(
            ids,
            dataset.train_labels,
            ids[:0],
            batch_size=settings["batch_size"],
            labelled_fraction=1.0,
            steps=each,
            views=n_views,
            seed=seed,
        )
        module = FineTune(
            tail,
            head,
            activations,
            steps=epochs * each,
            learning_rate=settings["learning_rate"],
            smoothing=settings["smoothing"],
        )
        fit(
            module,
            loader,
            epochs=epochs,
            directory=directory,
            name="teacher",
            accelerator=accelerator,
            progress=progress,
        )
    return head


def _device(accelerator: str) -> torch.device:
    wanted = accelerator == "cuda" or (accelerator == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if wanted else "cpu")


def _judge(
    teacher: AdaptedTeacher, dataset: Dataset, ids: Tensor, views: Views, n_views: int
) -> dict[str, float]:
    """Accuracy and calibration on the labelled images ``ids``: of view 0, and of the mean over the views."""
    labels = dataset.train_labels[ids]
    probs = torch.stack(
        [
            torch.cat(
                [teacher(views.apply(dataset.train_images[p], p, v)).softmax(1).cpu() for p in ids.split(200)]
            )
            for v in range(n_views)
        ]
    )  # (n_views, N, classes)
    mean = probs.mean(0)
    return {
        "accuracy": float((probs[0].argmax(1) == labels).float().mean()),
        "ece": expected_calibration_error(probs[0], labels),
        "accuracy_views": float((mean.argmax(1) == labels).float().mean()),
        "ece_views": expected_calibration_error(mean, labels),
    }
