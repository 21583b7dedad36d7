"""What stored knowledge is of, written beside it in ``store.json``: a store of anything else is refused."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from kdnas.data import Dataset, Views
from kdnas.errors import InputError
from kdnas.knowledge.store.fit import FIT, sample_of
from kdnas.knowledge.store.forms import FITTED, form_sizes
from kdnas.knowledge.store.shards import cannot_write
from kdnas.knowledge.teacher import Teacher
from kdnas.run.files import hash_of, read_json, write_json

SCHEMA = 2


@dataclass(frozen=True)
class Identity:
    """What stored knowledge is of; a store whose identity differs from the wanted one is stale.

    Attributes:
        teacher, views, data, ids: Hashes of the teacher, the views, the data set and the image ids.
        form: ``fp16``, ``int8``, ``pca`` or ``pq``.
        dims, codes: Principal components and sub-vectors; null where the form has none.
        sample: Hash of how the form is fitted, and on which images; empty where it is not.
        top_k: How many probabilities are kept per image.
        shard_images: Images in a shard.
        classes, feature_dim: Sizes of what the teacher says.
    """

    teacher: str
    views: str
    data: str
    ids: str
    form: str
    dims: int | None
    codes: int | None
    sample: str
    top_k: int
    shard_images: int
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
    form: str = "fp16",
    dims: int | None = None,
    codes: int | None = None,
    top_k: int = 10,
    ids: Tensor | None = None,
    weights_ids: Tensor | None = None,
    shard_images: int = 4096,
) -> Identity:
    """The identity that a store of this knowledge has; arguments as in ``Store.build``.

    Raises:
        InputError: An unknown ``form``, sizes that it does not use or that do not fit, a ``top_k`` or ``shard_images``
            below 1.
    """
    dims, codes = form_sizes(form, teacher.feature_dim, dims, codes)
    if top_k < 1:
        raise InputError(f"knowledge.top_k = {top_k} must be at least 1")
    if shard_images < 1:
        raise InputError(f"knowledge.shard_images = {shard_images} must be at least 1")
    ids = torch.arange(len(dataset.train_images)) if ids is None else ids
    weights_ids = ids if weights_ids is None else weights_ids
    return Identity(
        teacher=teacher.hash,
        views=views.hash,
        data=dataset.hash,
        ids=hash_of(ids),
        form=form,
        dims=dims,
        codes=codes,
        sample=hash_of(FIT, sample_of(weights_ids)) if form in FITTED else "",
        top_k=min(top_k, teacher.classes),
        shard_images=shard_images,
        classes=teacher.classes,
        feature_dim=teacher.feature_dim,
    )


def _runs(ids: Tensor) -> list[list[int]]:
    """Ids as runs [first, stop] of consecutive ones, in their order."""
    breaks = (torch.nonzero(ids.diff() != 1).flatten() + 1).tolist()
    return [[int(ids[start]), int(ids[stop - 1]) + 1] for start, stop in pairwise([0, *breaks, len(ids)])]


def begins(whole: Tensor, start: Tensor) -> bool:
    """Whether ``whole`` begins with ``start``."""
    return len(start) <= len(whole) and torch.equal(whole[: len(start)], start)


def stale(directory: Path, part: str, found: object, wanted: object) -> InputError:
    """The one line for a store of something else."""
    return InputError(
        f"the stored knowledge in {directory} is stale: its {part} is {found}, not {wanted}; remove that folder, or "
        "choose another"
    )


def stored_ids(directory: Path, wanted: Identity) -> Tensor:
    """The ids of a store that is, but for these, the wanted one.

    Raises:
        InputError: It is of something else, or its description is damaged.
    """
    found = read_json(directory / "store.json")
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise InputError(f"{directory} is not stored knowledge of schema {SCHEMA}: remove that folder and run again")
    for part, value in vars(wanted).items():
        if part not in ("ids", "sample") and found.get(part) != value:
            raise stale(directory, part, found.get(part), value)
    try:
        ids = torch.cat([torch.arange(first, stop) for first, stop in found["runs"]])
        whole = hash_of(ids) == found["ids"]
    except (KeyError, TypeError, ValueError, RuntimeError):
        whole = False
    if not whole:
        raise InputError(f"{directory / 'store.json'} is damaged (its ids): remove {directory} and run again")
    return ids


def claim(place: Path, identity: Identity, ids: Tensor) -> Tensor:
    """Make the store's description, or extend its ids; returns the ids that are to be stored.

    Raises:
        InputError: It is of something else, damaged, or cannot be written.
    """
    if (place / "store.json").exists():
        stored = stored_ids(place, identity)
        if begins(stored, ids):
            return stored
        if not begins(ids, stored):
            raise stale(place, "ids", hash_of(stored), identity.ids)
    try:
        write_json(place / "store.json", {"schema": SCHEMA, **vars(identity), "runs": _runs(ids)})
    except InputError as error:
        raise cannot_write(place, error) from None
    return ids
