"""Stored knowledge: what a teacher says of every image and view, computed once and read from disk ever after.

The pre-stored distillation of arXiv 2506.13243 (our definition: features, and top-K probabilities with the
missing mass spread over the other classes as in TinyViT, arXiv 2207.10666, section 3.1). A view is a folder
of plain ``.npy`` files that appears in one rename; a memory map reads them.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdnas.data import Dataset, Views
from kdnas.errors import InputError
from kdnas.knowledge.teacher import Teacher
from kdnas.run.files import hash_of, read_json, sha256_file, write_json
from kdnas.run.paths import cache_dir

SCHEMA = 1
BATCH = 200


class Target(NamedTuple):
    """What the teacher says of a batch.

    Attributes:
        features: (B, F) float32.
        probs: (B, classes) float32, each row sums to 1.
    """

    features: Tensor
    probs: Tensor


@dataclass(frozen=True)
class Identity:
    """What stored knowledge is of; a store whose identity differs from the wanted one is stale.

    Attributes:
        teacher, views, data, ids: Hashes of the teacher, the views, the data set and the image ids.
        dtype: ``fp16`` or ``int8`` (with a scale per vector).
        top_k: How many probabilities are kept per image.
        classes, feature_dim: Sizes of what is stored.
    """

    teacher: str
    views: str
    data: str
    ids: str
    dtype: str
    top_k: int
    classes: int
    feature_dim: int

    @property
    def key(self) -> str:
        """16 hex digits of all of it; names the store in the cache."""
        return hash_of("knowledge", SCHEMA, vars(self))


def identity_of(
    teacher: Teacher,
    dataset: Dataset,
    views: Views,
    *,
    dtype: str = "fp16",
    top_k: int = 10,
    ids: Tensor | None = None,
) -> Identity:
    """The identity that a store of this knowledge has; ``ids`` defaults to all training images.

    Raises:
        InputError: An unknown ``dtype`` or a ``top_k`` below 1.
    """
    if dtype not in ("fp16", "int8"):
        raise InputError(f"knowledge dtype = {dtype!r} is neither 'fp16' nor 'int8'")
    if top_k < 1:
        raise InputError(f"knowledge top_k = {top_k} must be at least 1")
    ids = torch.arange(len(dataset.train_images)) if ids is None else ids
    return Identity(
        teacher=teacher.hash,
        views=views.hash,
        data=dataset.hash,
        ids=hash_of(ids),
        dtype=dtype,
        top_k=min(top_k, teacher.classes),
        classes=teacher.classes,
        feature_dim=teacher.feature_dim,
    )


def quantise(features: Tensor) -> tuple[Tensor, Tensor]:
    """Round features (B, F) to int8 with one scale per vector: returns (B, F) int8 and (B,) float32.

    The scale is max|f| / 127, so the error of an entry is at most half of it.
    """
    scale = features.abs().amax(1) / 127
    steps = features / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    return steps.round().clamp(-127, 127).to(torch.int8), scale


def spread(top: Tensor, index: Tensor, classes: int) -> Tensor:
    """Rebuild probabilities (B, classes) from the top-K (B, K) and their classes (B, K).

    The mass that is missing from the top-K goes to the other classes in equal parts; with K = classes the
    rows are scaled to sum to 1 (they are off by rounding alone).
    """
    others = classes - top.shape[1]
    total = top.sum(1, keepdim=True)
    if others == 0:
        top, rest = top / total, torch.zeros_like(total)
    else:
        top = top / total.clamp_min(1)
        rest = (1 - total).clamp_min(0) / others
    return rest.expand(-1, classes).clone().scatter_(1, index, top)


class Store:
    """Knowledge on disk, open for reading. Make one with ``build`` or ``open``.

    Attributes:
        directory: Where it lies.
        identity: What it is of.
        n_views: Views 0 … n_views - 1 can be read.
        report: Of ``build``: ``reused``, ``views_computed``, ``seconds``, ``bytes``, ``bytes_per_sample`` (of
            one image in one view).
    """

    def __init__(self, directory: Path, identity: Identity, ids: Tensor, weights_ids: Tensor, n_views: int) -> None:
        self.directory = directory
        self.identity = identity
        self.n_views = n_views
        self.report: dict[str, Any] = {}
        self._row = torch.full((int(ids.max()) + 1,), -1, dtype=torch.int64)
        self._row[ids] = torch.arange(len(ids))
        self._weights_ids = weights_ids
        self._maps = [
            {name: _load(directory / f"view-{view}" / f"{name}.npy") for name in _files(identity)}
            for view in range(n_views)
        ]

    @classmethod
    def build(
        cls,
        teacher: Teacher,
        dataset: Dataset,
        views: Views,
        n_views: int,
        *,
        weights_ids: Tensor,
        dtype: Literal["fp16", "int8"] = "fp16",
        top_k: int = 10,
        ids: Tensor | None = None,
        directory: str | Path | None = None,
        progress: bool = True,
    ) -> "Store":
        """Run ``teacher`` over every image of every view that is not stored yet, and open the store.

        Args:
            teacher: Whose knowledge.
            dataset: Of whose training images (labels are not looked at).
            views: The family of views; n_views of it are stored.
            n_views: At least 1. A store of fewer views is completed, one of more is used as it is.
            weights_ids: Images of the weights split: ``mean`` and ``std`` are over these.
            dtype: ``fp16``, or ``int8`` with a scale per vector (half the bytes).
            top_k: How many probabilities are kept per image; at most all classes.
            ids: (N,) int64, distinct; None for all training images.
            directory: None for a folder of the cache that is named by the identity.
            progress: Show a progress bar.

        Raises:
            InputError: ``directory`` holds other or damaged knowledge; no permission; features too large for
                fp16.
        """
        if n_views < 1:
            raise InputError(f"knowledge views = {n_views} must be at least 1")
        started = time.perf_counter()
        ids = torch.arange(len(dataset.train_images)) if ids is None else ids
        identity = identity_of(teacher, dataset, views, dtype=dtype, top_k=top_k, ids=ids)
        place = cache_dir() / "knowledge" / identity.key if directory is None else Path(directory)
        if (place / "store.json").exists():
            _check_identity(place, identity)
        else:
            write_json(place / "store.json", {"schema": SCHEMA, **vars(identity)})
        missing = [view for view in range(n_views) if not (place / f"view-{view}").exists()]
        for view in _track(missing, n_views, progress):
            _write_view(place, identity, teacher, dataset, views, ids, view)
        store = cls.open(place, identity, ids=ids, weights_ids=weights_ids, n_views=n_views)
        size = sum(file.stat().st_size for v in range(n_views) for file in (place / f"view-{v}").glob("*.npy"))
        store.report = {
            "reused": not missing,
            "views_computed": len(missing),
            "seconds": round(time.perf_counter() - started, 2),
            "bytes": size,
            "bytes_per_sample": size / (len(ids) * n_views),
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
            ids: The images that it was built for.
            weights_ids: As in ``build``.
            n_views: How many views are needed.

        Raises:
            InputError: It is of another teacher, data set, …; a view is missing; or a file is damaged.
        """
        directory = Path(directory)
        _check_identity(directory, identity)
        for view in range(n_views):
            _check_view(directory / f"view-{view}", identity, len(ids))
        return cls(directory, identity, ids, weights_ids, n_views)

    def read(self, ids: Tensor, view: int) -> Target:
        """What the teacher says of view ``view`` of the images ``ids`` (B,).

        Raises:
            ValueError: An image or view that is not stored.
        """
        rows = self._rows(ids)
        if not 0 <= view < self.n_views:
            raise ValueError(f"view {view} is not stored: there are {self.n_views}")
        return Target(self._features(rows, view), self._probs(rows, view))

    def mean_probs(self, ids: Tensor) -> Tensor:
        """(B, classes) float32: mean over the stored views of the probabilities of images ``ids`` (B,)."""
        return self._mean_probs[self._rows(ids)]

    @cached_property
    def _mean_probs(self) -> Tensor:
        rows = torch.arange(int(self._row.max()) + 1)
        return torch.stack([self._probs(rows, view) for view in range(self.n_views)]).mean(0)

    @property
    def mean(self) -> Tensor:
        """(F,) float32: mean of the stored features over the weights split and all views."""
        return self._statistics[0]

    @property
    def std(self) -> Tensor:
        """(F,) float32: standard deviation likewise; 0 where a feature never moves."""
        return self._statistics[1]

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        total, squares = torch.zeros(2, self.identity.feature_dim, dtype=torch.float64).unbind()
        for view in range(self.n_views):
            for rows in self._rows(self._weights_ids).split(2048):
                features = self._features(rows, view).to(torch.float64)
                total += features.sum(0)
                squares += features.square().sum(0)
        count = self.n_views * len(self._weights_ids)
        mean = total / count
        return mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()

    def _rows(self, ids: Tensor) -> Tensor:
        ids = ids.cpu()
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= len(self._row)):
            raise ValueError("an image id is not in the store")
        rows = self._row[ids]
        if (rows < 0).any():
            raise ValueError("an image id is not in the store")
        return rows

    def _features(self, rows: Tensor, view: int) -> Tensor:
        files, index = self._maps[view], rows.numpy()
        features = torch.from_numpy(files["features"][index]).float()
        if self.identity.dtype == "int8":
            features *= torch.from_numpy(files["scales"][index])[:, None]
        return features

    def _probs(self, rows: Tensor, view: int) -> Tensor:
        files, index = self._maps[view], rows.numpy()
        top = torch.from_numpy(files["top-probs"][index]).float()
        classes = torch.from_numpy(files["top-classes"][index].astype(np.int64))
        return spread(top, classes, self.identity.classes)


def _files(identity: Identity) -> dict[str, tuple[type, tuple[int, ...]]]:
    """The arrays of one view: name to (type, shape without the image axis)."""
    arrays: dict[str, tuple[type, tuple[int, ...]]] = {
        "features": (np.float16 if identity.dtype == "fp16" else np.int8, (identity.feature_dim,)),
        "top-probs": (np.float16, (identity.top_k,)),
        "top-classes": (np.uint8 if identity.classes <= 256 else np.uint16, (identity.top_k,)),
    }
    if identity.dtype == "int8":
        arrays["scales"] = (np.float32, ())
    return arrays


def _load(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _track(missing: list[int], n_views: int, progress: bool) -> Iterable[int]:
    if not (progress and missing):
        return missing
    from rich.progress import track

    return track(missing, description=f"storing the teacher's knowledge ({n_views} views)", transient=True)


def _write_view(
    place: Path, identity: Identity, teacher: Teacher, dataset: Dataset, views: Views, ids: Tensor, view: int
) -> None:
    """Compute one view in a hidden folder, then rename that to ``view-N``: whole or absent, always."""
    try:
        temporary = Path(tempfile.mkdtemp(dir=place, prefix=f".view-{view}."))
    except OSError as error:
        raise InputError(f"cannot write {place}: {error.strerror}; set KDNAS_CACHE to another folder") from None
    try:
        os.chmod(temporary, 0o755)  # mkdtemp makes private folders
        arrays = {
            name: np.lib.format.open_memmap(temporary / f"{name}.npy", "w+", dtype, (len(ids), *shape))
            for name, (dtype, shape) in _files(identity).items()
        }
        for start in range(0, len(ids), BATCH):
            part = ids[start : start + BATCH]
            features = teacher.features(views.apply(dataset.train_images[part], part, view)).float()
            top, index = teacher.logits(features).softmax(1).topk(identity.top_k, dim=1)
            rows = slice(start, start + len(part))
            if identity.dtype == "int8":
                quantised, scales = quantise(features.cpu())
                arrays["features"][rows], arrays["scales"][rows] = quantised.numpy(), scales.numpy()
            else:
                half = features.cpu().half()
                if not half.isfinite().all():
                    raise InputError("the teacher's features are not finite in fp16: set the knowledge dtype to 'int8'")
                arrays["features"][rows] = half.numpy()
            arrays["top-probs"][rows] = top.cpu().half().numpy()
            arrays["top-classes"][rows] = index.cpu().numpy()
        for array in arrays.values():
            array.flush()
        files = {name: sha256_file(temporary / f"{name}.npy") for name in arrays}
        write_json(temporary / "view.json", {"images": len(ids), "sha256": files})
        os.replace(temporary, place / f"view-{view}")
    except OSError as error:
        # Another process may have stored the view meanwhile; its copy is as good as ours.
        if not (place / f"view-{view}").exists():
            raise InputError(f"cannot write {place}: {error.strerror}; set KDNAS_CACHE to another folder") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_identity(directory: Path, wanted: Identity) -> None:
    found = read_json(directory / "store.json")
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise InputError(f"{directory} is not stored knowledge of schema {SCHEMA}: remove that folder and run again")
    for part, value in vars(wanted).items():
        if found.get(part) != value:
            raise InputError(
                f"the stored knowledge in {directory} is stale: its {part} is {found.get(part)}, "
                f"not {value}; remove that folder, or choose another"
            )


def _check_view(folder: Path, identity: Identity, images: int) -> None:
    if not folder.exists():
        raise InputError(f"the stored knowledge in {folder.parent} lacks {folder.name}: build it again to complete it")
    remedy = f"remove {folder} and run again"
    told = read_json(folder / "view.json")
    for name, (dtype, shape) in _files(identity).items():
        path = folder / f"{name}.npy"
        try:
            whole = told["sha256"][name] == sha256_file(path)
            array = _load(path) if whole else None
        except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise InputError(f"the stored knowledge {path} is damaged ({error}): {remedy}") from None
        if array is None or array.dtype != dtype or array.shape != (images, *shape):
            raise InputError(f"the stored knowledge {path} is damaged (its checksum or shape is wrong): {remedy}")
