"""``adaptation.json`` beside ``link.json``: what accuracy the link has where, measured on the architecture split."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdnas.codec.adaptation import AccuracyTable
from kdnas.errors import InputError
from kdnas.run.files import sha256_file, write_json

NAME = "adaptation.json"

Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _Row(_Strict):
    channel: Text
    snr_db: float
    symbols: Annotated[int, Field(ge=1)]
    accuracy: Share
    ci95: Annotated[float, Field(ge=0)]


class _File(_Strict):
    """The content of ``adaptation.json``: ``link`` is the SHA-256 of the ``link.safetensors`` that was measured."""

    schema_: Literal[1] = Field(alias="schema")
    link: Text
    images: Annotated[int, Field(ge=1)]
    confidence: Annotated[float, Field(ge=0.5, lt=1)]
    rows: Annotated[list[_Row], Field(min_length=1)]


def save_adaptation(directory: Path, rows: Sequence[Mapping[str, Any]], confidence: float) -> None:
    """Write the table of the link in ``directory``.

    Args:
        directory: Holds ``link.safetensors``.
        rows: Of ``evaluate_link``, one system, images of the architecture split.
        confidence: Of the one-sided bounds by which a length is chosen, at least 0.5.
    """
    kept = [{key: row[key] for key in _Row.model_fields} for row in rows]
    document = {
        "schema": 1, "link": sha256_file(directory / "link.safetensors"), "images": rows[0]["n"],
        "confidence": confidence, "rows": kept,
    }  # fmt: skip
    write_json(directory / NAME, document)


def load_adaptation(directory: Path) -> AccuracyTable | None:
    """The table beside a link; None where there is none.

    Raises:
        InputError: It is damaged, or of another link.
    """
    path = directory / NAME
    if not path.exists():
        return None
    try:
        found = _File.model_validate_json(path.read_text())
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        reason = "it cannot be read"
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = ": ".join([*(str(part) for part in first["loc"]), first["msg"]])
        raise InputError(f"{path}: {reason}; remove the file, and evaluate the run again") from None
    if found.link != sha256_file(directory / "link.safetensors"):
        raise InputError(f"{path} was measured with another link.safetensors: remove it, and evaluate the run again")
    return AccuracyTable([row.model_dump() for row in found.rows], found.confidence)
