"""Adapting a teacher to a data set with the labels of the weights split alone."""

import math
import time
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdnas.data import Dataset, Splits, Views, batches
from kdnas.errors import InputError
from kdnas.knowledge.calibration import expected_calibration_error, fit_temperature
from kdnas.knowledge.probe import fit_probe
from kdnas.knowledge.teacher import (
    AdaptedTeacher,
    InputSpec,
    folded,
    load_backbone,
    load_teacher,
    save_teacher,
)
from kdnas.run.files import hash_of
from kdnas.run.paths import cache_dir
from kdnas.run.tensors import torch_device

EPOCHS = 10  # of fine-tuning, for checkpoints and logs: its length is set in steps
PROBED = 1 << 16  # feature vectors that the linear probe learns from, at most (or one view)
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
    steps: int | None = None,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    smoothing: float = 0.1,
    calibrate: bool = False,
    seed: int = 0,
    accelerator: str = "auto",
    progress: bool = True,
    cache: bool = True,
) -> tuple[AdaptedTeacher, dict[str, Any]]:
    """Make the registered teacher ``name`` a classifier of ``dataset``.

    ``probe`` fits a linear classifier on the features of ``n_views`` views of the labelled images of the
    weights split. ``finetune`` starts from that and trains the last links of the network too (those after
    ``backbone.frozen``), on kept activations of the others. A network without pretrained weights is trained
    whole.

    Args:
        name: One of ``list_teachers()``.
        dataset: Its test images are not touched.
        splits: The teacher learns from ``weights_labelled`` alone; ``architecture_labelled`` judges it.
        views: The augmentation.
        directory: The run directory: logs, and the checkpoint of a fine-tuning that was stopped.
        method: ``probe`` or ``finetune``.
        image_size: Side of the network's input, in pixels, at least 28.
        n_views: Views that it learns from.
        steps: Of fine-tuning; None for 200 with 800 labelled images, and as the root of their number else.
        batch_size: Images per step of it.
        learning_rate: Of it, at its peak.
        smoothing: Of its labels.
        calibrate: Divide the logits by the temperature fitted on ``architecture_labelled``. Off by default:
            then what is stored of the teacher depends on the labels of the weights split alone.
        seed: Of the order of the images and of dropout.
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        progress: Show a progress bar.
        cache: Look for the adapted teacher in the cache and leave it there.

    Returns:
        The teacher, and a report: ``teacher``, ``method``, ``params``, ``labels``, ``seconds``, ``hash``,
        ``reused``; ``temperature`` (in use); and of the labelled images of the architecture split
        ``accuracy`` and ``ece`` (view 0, temperature 1), ``accuracy_views`` and ``ece_views`` (mean posterior
        of the ``n_views`` views), ``fitted_temperature`` and ``fitted_ece`` (with that temperature).

    Raises:
        InputError: An unknown teacher or method; a probe of a network without pretrained weights.
        KeyboardInterrupt: Ctrl-C; the next call with the same ``directory`` goes on from the last epoch.
    """
    if method not in ("probe", "finetune"):
        raise InputError(f"adapt.method = {method!r} is neither 'probe' nor 'finetune'")
    if steps is None:
        steps = round(200 * math.sqrt(len(splits.weights_labelled) / 800))
    if min(n_views, steps, batch_size) < 1 or image_size < 28:
        raise InputError("adapt: n_views, steps and batch_size must be at least 1, image_size at least 28")
    started = time.perf_counter()
    device = torch_device(accelerator)
    backbone = load_backbone(name)
    if method == "probe" and not backbone.pretrained:
        raise InputError(f"the teacher {name} has no pretrained weights: set adapt.method = 'finetune'")
    tuning = (steps, batch_size, learning_rate, smoothing, seed) if method == "finetune" else ()
    key = hash_of(
        "adapt", VERSION, name, dict(backbone.layers.state_dict()), dataset.hash, splits.hash, views.hash,
        method, image_size, n_views, calibrate, tuning,
    )  # fmt: skip
    place = cache_dir() / "teachers" / key
    if cache and (place / "teacher.json").exists():
        teacher, report = load_teacher(place)
        return teacher.to(device), {**report, "reused": True}

    from kdnas.knowledge.finetune import Activations, FineTune
    from kdnas.run.training import fit

    ids, classes = splits.weights_labelled, len(dataset.classes)
    spec = InputSpec(backbone.channels, image_size, tuple(backbone.mean), tuple(backbone.std))
    if backbone.pretrained:
        backbone.layers = folded(backbone.layers)
    layers = backbone.layers.to(device)
    tail = layers[backbone.frozen :]
    activations = Activations(layers[: backbone.frozen], spec, dataset, views, n_views, ids, device)
    if backbone.pretrained:
        with torch.no_grad():
            probed = max(1, min(n_views, PROBED // len(ids)))
            features = torch.cat([tail(activations(part, v)) for v in range(probed) for part in ids.split(200)])
        head = fit_probe(features, dataset.train_labels[ids].repeat(probed).to(device), classes)
    else:
        head = nn.utils.skip_init(nn.Linear, backbone.feature_dim, classes, device=device)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    if method == "finetune":
        epochs = min(EPOCHS, steps)
        each = math.ceil(steps / epochs)
        loader = batches(
            ids, dataset.train_labels, ids[:0], batch_size=batch_size, labelled_fraction=1.0, steps=each,
            views=n_views, seed=seed,
        )  # fmt: skip
        module = FineTune(
            tail, head, activations, steps=epochs * each, learning_rate=learning_rate, smoothing=smoothing,
            key=key,
        )  # fmt: skip
        fit(
            module, loader, epochs=epochs, directory=Path(directory), name="teacher", accelerator=device.type,
            progress=progress,
        )  # fmt: skip

    teacher = AdaptedTeacher(backbone, head, image_size).to(device)
    judged = _judge(teacher, dataset, splits.architecture_labelled, views, n_views)
    if calibrate:
        teacher = AdaptedTeacher(backbone, head, image_size, judged["fitted_temperature"]).to(device)
    report = {
        "teacher": name,
        "method": method,
        "params": teacher.parameter_count,
        "labels": len(ids),
        **judged,
        "temperature": teacher.temperature,
        "seconds": round(time.perf_counter() - started, 2),
        "hash": teacher.hash,
    }
    if cache:
        save_teacher(teacher, place, report)
    return teacher, {**report, "reused": False}


def _judge(teacher: AdaptedTeacher, dataset: Dataset, ids: Tensor, views: Views, n_views: int) -> dict[str, float]:
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
