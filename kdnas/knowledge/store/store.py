"""The store: what a teacher says of every image and view, computed once and read from disk ever after.

The pre-stored distillation of arXiv 2506.13243 (our definition: features, and top-K probabilities with the missing mass
spread over the other classes as in TinyViT, arXiv 2207.10666, section 3.1). A folder holds ``store.json`` (what it is
of), ``form.safetensors`` where the form of the features is fitted, and the shards of each view.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdnas.data import Dataset, Views
from kdnas.errors import InputError
from kdnas.knowledge.store.fit import BATCH, fitted_form, form_hash, read_form
from kdnas.knowledge.store.forms import Form, bytes_per_vector
from kdnas.knowledge.store.identity import Identity, begins, claim, identity_of, stale, stored_ids
from kdnas.knowledge.store.shards import Span, open_shard, remove_outgrown, share, spans, write_shard
from kdnas.knowledge.teacher import Teacher
from kdnas.loss import spread
from kdnas.run.files import hash_of
from kdnas.run.paths import cache_dir

KEPT_BYTES = 256 << 20  # of mean posteriors held in memory, at most; beyond, they are computed for each batch


class Target(NamedTuple):
    """What the teacher says of a batch.

    Attributes:
        features: (B, target_dim) float32.
        probs: (B, classes) float32, each row sums to 1.
    """

    features: Tensor
    probs: Tensor


def row_type(form: Form, top_k: int, classes: int) -> np.dtype:
    """What is said of one image in one view; where all classes are kept, in their order and without their numbers."""
    fields = [*form.fields, ("top-probs", np.float16, (top_k,))]
    if top_k < classes:
        fields.append(("top-classes", np.uint8 if classes <= 256 else np.uint16, (top_k,)))
    return np.dtype(fields)


class Store:
    """Knowledge on disk, open for reading. Make one with ``build`` or ``open``.

    It can be sent to another process, which then reads the same files.

    Attributes:
        directory: Where it lies.
        identity: What it is of.
        form: How its features are read.
        n_views: Views 0 … n_views - 1 can be read.
        report: Of ``build``: ``reused``, ``shards_computed``, ``seconds``, ``bytes``; and of one image in one view
            ``bytes_per_sample``, which is ``feature_bytes`` + ``top_bytes``.
    """

    def __init__(
        self, directory: Path, identity: Identity, form: Form, ids: Tensor, weights_ids: Tensor, n_views: int
    ) -> None:
        self.directory, self.identity, self.form, self.n_views = directory, identity, form, n_views
        self.report: dict[str, Any] = {}
        self._ids, self._weights_ids = ids, weights_ids
        self._row = np.full(int(ids.max()) + 1, -1)
        self._row[ids.numpy()] = np.arange(len(ids))
        self._type = row_type(form, identity.top_k, identity.classes)
        self._map(verify=True)

    def _map(self, verify: bool) -> None:
        size, form = self.identity.shard_images, form_hash(self.form)
        self._shards = [
            [
                open_shard(self.directory, span, self._type, form, verify=verify)
                for span in spans(v, len(self._ids), size)
            ]
            for v in range(self.n_views)
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_shards"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._map(verify=False)

    @classmethod
    def build(
        cls,
        teacher: Teacher,
        dataset: Dataset,
        views: Views,
        n_views: int,
        *,
        weights_ids: Tensor,
        form: Literal["fp16", "int8", "pca", "pq"] = "fp16",
        dims: int | None = None,
        codes: int | None = None,
        top_k: int = 10,
        ids: Tensor | None = None,
        shard_images: int = 4096,
        workers: int = 1,
        directory: str | Path | None = None,
        progress: bool = True,
    ) -> "Store":
        """Run ``teacher`` over every shard that is not stored yet, and open the store.

        Several processes may build the same store at once: they share the work.

        Args:
            teacher: Whose knowledge.
            dataset: Of whose training images (labels are not looked at).
            views: The family of views; n_views of it are stored.
            n_views: At least 1. A store of fewer views is completed, one of more is used as it is.
            weights_ids: Images of the weights split: ``mean`` and ``std`` are over these, and a form is fitted on
                view 0 of at most 8,192 of them. A form that is stored is kept.
            form: How features are stored (``kdnas.knowledge.store.forms``).
            dims: Principal components, of ``pca`` and ``pq`` alone; None for 64, or all where there are fewer.
            codes: Sub-vectors, of ``pq`` alone; None for 16, or the largest divisor of ``dims`` below it.
            top_k: How many probabilities are kept per image; at most all classes.
            ids: (N,) int64, distinct; None for all training images. A store whose ids these extend is completed, one
                of more images, which begins with these, is used as it is.
            shard_images: Images in a shard.
            workers: Threads that run the teacher.
            directory: None for a folder of the cache that is named by the identity.
            progress: Show a progress bar.

        Raises:
            InputError: ``directory`` holds other or damaged knowledge; no permission or space; features too large for
                fp16; too few images for a form.
        """
        if n_views < 1:
            raise InputError(f"knowledge.views = {n_views} must be at least 1")
        if workers < 1:
            raise InputError(f"knowledge.workers = {workers} must be at least 1")
        started = time.perf_counter()
        ids = torch.arange(len(dataset.train_images)) if ids is None else ids
        identity = identity_of(
            teacher, dataset, views, form=form, dims=dims, codes=codes, top_k=top_k, ids=ids, weights_ids=weights_ids,
            shard_images=shard_images,
        )  # fmt: skip
        place = cache_dir() / "knowledge" / identity.key if directory is None else Path(directory)
        stored = claim(place, identity, ids)
        sizes = [size for size in (identity.dims, identity.codes) if size is not None]
        fitted = fitted_form(place, form, teacher.feature_dim, sizes, teacher, dataset, views, weights_ids)
        everything = [span for view in range(n_views) for span in spans(view, len(stored), shard_images)]
        missing = [span for span in everything if not span.path(place).exists()]
        work = partial(_compute, place, identity, fitted, teacher, dataset, views, stored)
        with _progress(len(missing), progress) as advance:

            def one(span: Span) -> None:
                work(span)
                advance()

            computed = share(missing, lambda span: span.path(place).exists(), one, workers)
        remove_outgrown(place, everything)
        store = cls(place, identity, fitted, stored, weights_ids, n_views)
        feature_bytes = bytes_per_vector(fitted)
        store.report = {
            "reused": computed == 0,
            "shards_computed": computed,
            "seconds": round(time.perf_counter() - started, 2),
            "bytes": sum(span.path(place).stat().st_size for span in everything),
            "bytes_per_sample": store._type.itemsize,
            "feature_bytes": feature_bytes,
            "top_bytes": store._type.itemsize - feature_bytes,
        }
        return store

    @classmethod
    def open(
        cls, directory: str | Path, identity: Identity, *, ids: Tensor, weights_ids: Tensor, n_views: int
    ) -> "Store":
        """Open a store for reading, if it is the wanted one, complete and undamaged.

        Args:
            directory: Of ``build``.
            identity: What it must be of (``identity_of``).
            ids: The images that it was built for, or the first of them.
            weights_ids: As in ``build``.
            n_views: How many views are needed.

        Raises:
            InputError: It is of another teacher, data set, …; a shard is missing; or a file is damaged.
        """
        directory = Path(directory)
        stored = stored_ids(directory, identity)
        if not begins(stored, ids):
            raise stale(directory, "ids", hash_of(stored), identity.ids)
        form = read_form(directory, identity.form, identity.feature_dim)
        return cls(directory, identity, form, stored, weights_ids, n_views)

    @property
    def target_dim(self) -> int:
        """Length of the feature that is read."""
        return self.form.dim

    def read(self, ids: Tensor, view: int) -> Target:
        """What the teacher says of view ``view`` of the images ``ids`` (B,).

        Raises:
            ValueError: An image or view that is not stored.
        """
        rows = self._rows(ids)
        if not 0 <= view < self.n_views:
            raise ValueError(f"view {view} is not stored: there are {self.n_views}")
        parts = self._parts(rows, view)
        return Target(self.form.decode(parts), self._probs(parts))

    def mean_probs(self, ids: Tensor) -> Tensor:
        """(B, classes) float32: mean over the stored views of the probabilities of images ``ids`` (B,)."""
        rows = self._rows(ids)
        if len(self._ids) * self.identity.classes * 4 > KEPT_BYTES:
            return self._mean_of(rows)
        return self._mean_probs[torch.from_numpy(rows)]

    @cached_property
    def _mean_probs(self) -> Tensor:
        rows = np.arange(len(self._ids))
        return torch.cat([self._mean_of(rows[start : start + 8192]) for start in range(0, len(rows), 8192)])

    def _mean_of(self, rows: NDArray[np.int64]) -> Tensor:
        total = torch.zeros(len(rows), self.identity.classes)
        for view in range(self.n_views):
            total += self._probs(self._parts(rows, view))
        return total / self.n_views

    @property
    def mean(self) -> Tensor:
        """(target_dim,) float32: mean of what is read as features over the weights split and all views."""
        return self._statistics[0]

    @property
    def std(self) -> Tensor:
        """(target_dim,) float32: standard deviation likewise; 0 where a feature never moves.

        Principal components have one for all, the root of their mean variance, so that each counts by its own.
        """
        return self._statistics[1]

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        total, squares = torch.zeros(2, self.target_dim, dtype=torch.float64).unbind()
        for view in range(self.n_views):
            for ids in self._weights_ids.split(2048):
                features = self.form.decode(self._parts(self._rows(ids), view)).to(torch.float64)
                total += features.sum(0)
                squares += features.square().sum(0)
        count = self.n_views * len(self._weights_ids)
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        if self.form.fitted:
            variance = variance.mean().expand_as(variance)
        return mean.float(), variance.sqrt().float()

    def _rows(self, ids: Tensor) -> NDArray[np.int64]:
        numbers = ids.cpu().numpy()
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= len(self._row)):
            raise ValueError("an image id is not in the store")
        rows = self._row[numbers]
        if (rows < 0).any():
            raise ValueError("an image id is not in the store")
        return rows

    def _parts(self, rows: NDArray[np.int64], view: int) -> np.ndarray:
        """(B,) structured: one copy of each row, from whichever shard it lies in."""
        shards, size = self._shards[view], self.identity.shard_images
        if len(shards) == 1:
            found = shards[0][rows]
        else:
            found = np.empty((len(rows), self._type.itemsize), np.uint8)
            order = np.argsort(rows)
            number = rows[order] // size
            edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(rows)]
            for start, stop in pairwise(edges):
                if stop > start:
                    at, shard = order[start:stop], int(number[start])
                    found[at] = shards[shard][rows[at] - shard * size]
        return found.view(self._type)[:, 0]

    def _probs(self, parts: np.ndarray) -> Tensor:
        top = torch.from_numpy(parts["top-probs"].copy()).float()
        if top.shape[1] == self.identity.classes:
            return top / top.sum(1, keepdim=True)
        classes = torch.from_numpy(parts["top-classes"].astype(np.int64))
        return spread(top, classes, self.identity.classes)


@contextmanager
def _progress(shards: int, show: bool) -> Iterator[Callable[[], None]]:
    """Gives what is called after each shard."""
    if not (show and shards):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"storing the teacher's knowledge ({shards} shards)", total=shards)
        yield partial(bar.advance, task)


def _compute(
    place: Path, identity: Identity, form: Form, teacher: Teacher, dataset: Dataset, views: Views, ids: Tensor,
    span: Span,
) -> None:  # fmt: skip
    """Run the teacher over one shard and write it."""
    rows = np.zeros(span.stop - span.first, row_type(form, identity.top_k, identity.classes))
    for start in range(span.first, span.stop, BATCH):
        part = ids[start : min(start + BATCH, span.stop)]
        features = teacher.features(views.apply(dataset.train_images[part], part, span.view)).float()
        probs = teacher.logits(features).softmax(1).cpu()
        own = rows[start - span.first :][: len(part)]
        for name, values in form.encode(features.cpu()).items():
            own[name] = values
        if identity.top_k == identity.classes:
            own["top-probs"] = probs.half().numpy()
        else:
            top, index = probs.topk(identity.top_k, dim=1)
            own["top-probs"], own["top-classes"] = top.half().numpy(), index.numpy()
    write_shard(place, span, rows, form_hash(form))
