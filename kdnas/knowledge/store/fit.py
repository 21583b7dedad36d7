"""A fitted form on disk: made once for a store, its checksum inside; all that is stored is encoded with it."""

import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kdnas.data import Dataset, Views
from kdnas.errors import InputError
from kdnas.knowledge.store.forms import FITTED, FORMS, Form
from kdnas.knowledge.store.shards import cannot_write
from kdnas.knowledge.teacher import Teacher
from kdnas.run.files import hash_of
from kdnas.run.seeds import generator

SAMPLE = 8192  # images that a form is fitted on, at most
BATCH = 200
FIT = 2  # raised whenever forms are fitted in another way: their stores are then others


def form_hash(form: Form) -> str:
    """16 hex digits of what was fitted; empty where nothing is."""
    tensors = form.tensors()
    return hash_of("form", tensors) if tensors else ""


def sample_of(weights_ids: Tensor) -> Tensor:
    """The images that a form is fitted on: at most ``SAMPLE``, in a fixed random order."""
    order = torch.randperm(len(weights_ids), generator=generator("knowledge", "sample"))
    return weights_ids[order[:SAMPLE]]


def fitted_form(
    place: Path, kind: str, feature_dim: int, sizes: list[int], teacher: Teacher, dataset: Dataset, views: Views,
    weights_ids: Tensor,
) -> Form:  # fmt: skip
    """The form of a store: read where it is there, else fitted and kept.

    Args:
        place: The store.
        kind: Name of the form.
        feature_dim: F.
        sizes: What the form is fitted with.
        teacher: Whose features.
        dataset: Of which images.
        views: View 0 is used.
        weights_ids: Of these images, ``sample_of`` them.

    Raises:
        InputError: What is there is damaged, or cannot be written; too few images.
    """
    if kind in FITTED and not (place / "form.safetensors").exists():
        said = []
        for part in sample_of(weights_ids).split(BATCH):
            said.append(teacher.features(views.apply(dataset.train_images[part], part, 0)).float().cpu())
        _write_form(place / "form.safetensors", FORMS[kind].fit(torch.cat(said), *sizes))
    return read_form(place, kind, feature_dim)  # another process may have been first: its fit holds for all


def _write_form(path: Path, form: Form) -> None:
    """Write a fitted form unless there is one: whatever is encoded with the first one that was written stays valid."""
    tensors = {name: value.contiguous() for name, value in form.tensors().items()}
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".form.") as file:
            file.write(save(tensors, {"hash": form_hash(form)}))
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.link(file.name, path)
    except FileExistsError:
        pass
    except OSError as error:
        raise cannot_write(path.parent, error) from None


def read_form(directory: Path, kind: str, feature_dim: int) -> Form:
    """The form named ``kind`` for F features, from the store in ``directory`` where it is fitted.

    Raises:
        InputError: It is missing or damaged.
    """
    if kind not in FITTED:
        form: Form = FORMS[kind](feature_dim)
        return form
    path = directory / "form.safetensors"
    remedy = f"remove {directory} and run again"
    try:
        with safe_open(path, "pt") as file:
            told = (file.metadata() or {}).get("hash")
            form = FORMS[kind](**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"the stored knowledge in {directory} lacks {path.name}: {remedy}") from None
    except (SafetensorError, OSError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"the stored knowledge {path} is damaged ({reason}): {remedy}") from None
    if told != form_hash(form):
        raise InputError(f"the stored knowledge {path} is damaged (its checksum is wrong): {remedy}")
    return form
