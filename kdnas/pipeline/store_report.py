"""What stored knowledge costs and gives, form by form: bytes, the time of an epoch, and the student's accuracy.

Beside the forms of a store stand ``none`` (no teacher: cross-entropy on the labelled images) and ``live`` (the teacher
is run in every step). All train the same student from the same first weights with the same seed, so that what differs
is the form. Test data judge; nothing is chosen by them.
"""

import copy
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdnas import config
from kdnas.data import Batch
from kdnas.errors import InputError
from kdnas.evaluate import evaluate_classifier
from kdnas.knowledge import Lesson, Lessons, LiveTeacher
from kdnas.pipeline.context import Context
from kdnas.run.directory import RunDirectory
from kdnas.run.files import read_json, write_json
from kdnas.run.seeds import seeded
from kdnas.search.derive import derive

FORMS = ("none", "live", "fp16", "int8", "pca", "pq")
ROUNDS = 5  # timed epochs of each form, in turns
TIMED_STEPS = 50  # of an epoch that are timed, at most
SHARED = ("device", "dataset", "splits", "views", "teacher", "space_options", "space", "channel_steps", "tables")

Say = Callable[[str], None]


def form_of(name: str, settings: config.Knowledge) -> config.Knowledge | None:
    """Settings of the store that ``name`` stands for; None for ``none`` and ``live``.

    Args:
        name: ``fp16``, ``int8``, ``pca``, ``pca-DIMS``, ``pq``, ``pq-DIMS`` or ``pq-DIMSxCODES``.
        settings: All else, and the sizes of the run's own form where the name gives none.

    Raises:
        InputError: Another name.
    """
    if name in ("none", "live"):
        return None
    found = re.fullmatch(r"(fp16|int8|pca|pq)|(pca)-(\d+)|(pq)-(\d+)(?:x(\d+))?", name)
    if found is None:
        raise InputError(f"unknown form {name!r}: choose among {', '.join(FORMS)}, pca-DIMS and pq-DIMSxCODES")
    plain, pca, pca_dims, pq, pq_dims, codes = found.groups()
    sizes: dict[str, Any] = {"dims": None, "codes": None}
    if plain == settings.form:
        sizes = {"dims": settings.dims, "codes": settings.codes}
    elif not plain:
        sizes = {"dims": int(pca_dims or pq_dims), "codes": int(codes) if codes else None}
    return config.Knowledge(**{**settings.model_dump(), "form": plain or pca or pq, **sizes})


class _Stopwatch(Lessons):
    """Notes when each step asks for its lesson: from one to the next is all that a step does."""

    began: list[float]

    def __call__(self, batch: Batch, device: torch.device, teacher: bool = True, pixels: bool = True) -> Lesson:
        """As ``Lessons``."""
        if device.type == "cuda":
            torch.cuda.synchronize()
        self.began.append(time.perf_counter())
        return super().__call__(batch, device, teacher, pixels)


class _Form:
    """One form: its knowledge, and the training with it."""

    def __init__(self, name: str, context: Context) -> None:
        self.name, self.main = name, context
        s = context.settings
        knowledge = form_of(name, s.knowledge)
        self.settings = s if knowledge is None else s.model_copy(update={"knowledge": knowledge})
        self.loss = s.loss
        if name == "none":
            # What needs the teacher is left out, as in the baseline without distillation.
            self.loss = s.loss.model_copy(update={"kd": 0.0, "ce": 1.0})
        own = self.context(self.settings, context.path)
        self.store = None if knowledge is None else own.store
        self.statistics = torch.zeros(1), torch.ones(1)
        if name != "none":
            # The live teacher's features are those of the run's store before they take a form.
            exact = self.store or _Form("fp16", context).store
            assert exact is not None
            self.statistics = exact.mean, exact.std

    def context(self, settings: config.Settings, directory: Path) -> Context:
        """A context with what all forms share."""
        made = Context(settings, RunDirectory(directory), self.main.progress)
        vars(made).update({name: getattr(self.main, name) for name in SHARED})
        return made

    def lessons(self, kind: type[Lessons], posterior: str) -> Lessons:
        """Pixels with this form's knowledge."""
        c, views = self.main, self.settings.knowledge.views
        live = LiveTeacher(c.teacher, c.dataset, c.views, views) if self.name == "live" else None
        return kind(c.dataset, c.views, self.store or live, views, posterior)

    def train(
        self, network: nn.Module, directory: Path, name: str, distill: config.Distill, lessons: Lessons
    ) -> nn.Module:
        """Stage 1 on ``network``, in place; returns its classifier."""
        made = self.context(self.settings.model_copy(update={"distill": distill}), directory)
        vars(made).update({"lessons": lessons, "statistics": self.statistics})
        classifier, _ = made.distiller().clean(network, self.loss, name)
        network.eval()
        return classifier

    def row(self, network: nn.Module) -> dict[str, Any]:
        """Bytes and accuracy; trained once, and kept in the run directory."""
        path = self.main.path / "store" / f"{self.name}.json"
        if path.exists():
            found: dict[str, Any] = read_json(path)
            return found
        s, dataset = self.settings, self.main.dataset
        lessons = self.lessons(Lessons, s.knowledge.posterior)
        classifier = self.train(network, self.main.path, f"store/{self.name}", s.distill, lessons)
        judged = evaluate_classifier(network, classifier, dataset.test_images, dataset.test_labels)
        image_bytes = int(np.prod(dataset.image_shape))
        told = self.store.report if self.store is not None else {}
        row = {
            "form": self.name,
            "dims": self.store.target_dim if self.store is not None else
            self.main.teacher.feature_dim if self.name == "live" else None,
            "feature_bytes": told.get("feature_bytes"), "top_bytes": told.get("top_bytes"),
            "bytes_per_view": told.get("bytes_per_sample"), "image_bytes": image_bytes,
            "share": told["bytes_per_sample"] / image_bytes if told else None,
            **judged,
        }  # fmt: skip
        write_json(path, row)
        return row


def student(context: Context) -> tuple[nn.Module, dict[str, Any]]:
    """The network that all forms train, and its choices: what flat architecture parameters derive in the budgets."""
    flat = {label: np.zeros(len(values)) for label, values in context.tables.domains.items()}
    choices = derive(context.tables, flat, context.encoder_budgets, context.settings.search.budget_use)
    with seeded(context.settings.seed, "encoder"):
        return context.space.network(choices), choices


def epoch_seconds(forms: Sequence[_Form], network: nn.Module, rounds: int) -> dict[str, list[float]]:
    """Seconds of an epoch with each form, ``rounds`` times, in turns, so that noise of the machine hits all alike.

    Training is real, but for the checkpoint at the end of an epoch. The live teacher is run once on each batch (its
    posterior of the same view), the least that it can cost. A first epoch of each form is not counted.
    """
    settings = forms[0].settings.distill
    steps = min(settings.steps, TIMED_STEPS)
    if steps < 2:
        raise InputError("an epoch of one step cannot be timed: set distill.steps to at least 2")
    short = settings.model_copy(update={"epochs": 1, "steps": steps, "patience": 0})
    seconds: dict[str, list[float]] = {form.name: [] for form in forms}
    place = Path(tempfile.mkdtemp(prefix="kdnas-"))
    try:
        for turn in range(-1, rounds):
            for form in forms:
                posterior = "view" if form.name == "live" else form.settings.knowledge.posterior
                lessons = form.lessons(_Stopwatch, posterior)
                assert isinstance(lessons, _Stopwatch)
                lessons.began = []
                form.train(copy.deepcopy(network), place, f"{form.name}/{turn + 1}", short, lessons)
                if turn >= 0:
                    elapsed = lessons.began[-1] - lessons.began[0]
                    seconds[form.name].append(elapsed / (len(lessons.began) - 1) * settings.steps)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return seconds


def store_report(
    context: Context, say: Say, forms: Sequence[str] = FORMS, rounds: int = ROUNDS
) -> dict[str, Any]:  # fmt: skip
    """Measure every form, and keep the report as ``store_report.json`` in the run directory.

    Forms whose student is trained are not trained again; times are measured anew.

    Args:
        context: Of a run whose teacher is adapted.
        say: Called with a line now and then.
        forms: Names (``form_of``); ``none`` is always measured, as all times are compared with its.
        rounds: Timed epochs of each form.

    Returns:
        ``device``, ``dataset``, ``seed``, ``labels``, ``params`` (of the student), ``steps`` (in an epoch),
        ``epoch_no_teacher_s``, ``epoch_live_s`` (null where ``live`` is not among the forms) and ``rows``: ``form``,
        ``dims`` (of the target), ``feature_bytes`` + ``top_bytes`` = ``bytes_per_view``, ``image_bytes``, ``share`` of
        them, ``epoch_s`` (median), ``epoch_ratio`` (median over the rounds of the time over that without a teacher),
        ``accuracy``, ``ci95`` and ``n``. What does not apply is null.

    Raises:
        InputError: An unknown form, one that cannot be stored, or an epoch of a single step.
    """
    names = list(dict.fromkeys(["none", *forms]))
    for name in names:
        form_of(name, context.settings.knowledge)
    network, choices = student(context)
    made, rows = [], []
    for name in names:
        form = _Form(name, context)
        made.append(form)
        rows.append(form.row(copy.deepcopy(network)))
        say(f"{name}: {rows[-1]['accuracy']:.1%}")
    seconds = epoch_seconds(made, network, rounds)
    for row in rows:
        own = seconds[row["form"]]
        row["epoch_s"] = statistics.median(own)
        row["epoch_ratio"] = statistics.median(a / b for a, b in zip(own, seconds["none"], strict=True))
    medians = {row["form"]: row["epoch_s"] for row in rows}
    s = context.settings
    document = {
        "schema": 1, "device": context.device.name, "dataset": context.dataset.name, "seed": s.seed,
        "labels": s.data.labels, "params": int(context.tables.exact(choices)["params"]), "steps": s.distill.steps,
        "batch_size": s.distill.batch_size, "epoch_no_teacher_s": medians["none"],
        "epoch_live_s": medians.get("live"), "rows": rows,
    }  # fmt: skip
    write_json(context.path / "store_report.json", document)
    return document
