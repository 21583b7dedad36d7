"""Search spaces by name, found through entry points: anyone adds one without touching this package."""

from importlib.metadata import entry_points
from typing import Any

from kdnas.errors import InputError
from kdnas.space.base import SearchSpace

GROUP = "kdnas.spaces"


def list_spaces() -> list[str]:
    """The names of all installed search spaces."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def make_space(name: str, **options: Any) -> SearchSpace:
    """The search space ``name`` with the given options.

    Args:
        name: As ``list_spaces`` shows it.
        options: ``in_channels``, ``image_size``, ``feature_dim`` and the space's own options.

    Raises:
        InputError: No such space, or an option that the space does not take.
    """
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        raise InputError(f"unknown search space {name!r}; installed: {', '.join(sorted(found)) or 'none'}")
    cls = found[name].load()
    for option in options:
        if option not in cls.option_names:
            raise InputError(f"space {name!r} has no option {option!r}; it takes {', '.join(cls.option_names)}")
    try:
        return cls(**options)
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"space {name!r} refuses its options {options}: {error}") from None
