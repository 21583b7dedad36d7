"""An architecture as a file: the choices made in a space, and what they cost."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas.errors import InputError
from kdnas.run.files import hash_of, read_json, write_json

if TYPE_CHECKING:
    from torch import nn

    from kdnas.space.base import SearchSpace

SCHEMA = 1


@dataclass(frozen=True)
class Architecture:
    """One network of a search space, by its choices.

    Attributes:
        space: The name of the search space.
        options: The space's options: ``in_channels``, ``image_size``, ``feature_dim`` and its own.
        choices: The value of every choice, by label; choices of skipped blocks too.
        costs: Exact costs of the encoder: ``params``, ``macs``, ``sram_bytes``, ``flash_bytes`` (and ``latency_s``).
        hashes: What it was made from, by name.
    """

    space: str
    options: dict[str, Any]
    choices: dict[str, Any]
    costs: dict[str, float] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """16 hex digits that name the network: space, options and choices."""
        return hash_of(self.space, self.options, self.choices)

    def make_space(self) -> "SearchSpace":
        """The search space it is of.

        Raises:
            InputError: The space is not installed, or does not take the options.
        """
        from kdnas.space.registry import make_space

        return make_space(self.space, **self.options)

    def network(self) -> "nn.Module":
        """The network in plain torch, freshly initialised: (B, C, H, W) in [0, 1] to (B, feature_dim).

        Raises:
            InputError: The choices are not of the space.
        """
        space = self.make_space()
        return space.network(space.check(self.choices))

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        write_json(path, {"schema": SCHEMA, **asdict(self), "hash": self.hash})

    @classmethod
    def load(cls, path: str | Path) -> "Architecture":
        """Read it from JSON.

        Raises:
            InputError: The file is damaged, of another schema, or its hash does not fit its content.
        """
        document = read_json(path)
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise InputError(f"{path} is not an architecture of schema {SCHEMA}")
        known = {"schema", "space", "options", "choices", "costs", "hashes", "hash"}
        for key in document:
            if key not in known:
                raise InputError(f"{path} has the unknown key {key!r}; it may hold {', '.join(sorted(known))}")
        for key, kind in (("space", str), ("options", dict), ("choices", dict)):
            if not isinstance(document.get(key), kind):
                raise InputError(f"{path}: {key!r} must be a {kind.__name__}")
        found = cls(
            document["space"], document["options"], document["choices"],
            document.get("costs", {}), document.get("hashes", {}),
        )  # fmt: skip
        if "hash" in document and document["hash"] != found.hash:
            raise InputError(f"{path} was changed by hand or damaged: its hash does not fit; remove the key 'hash'")
        return found
