"""The channels by name, and the one grammar of names with options: ``rician(k_db=6, fading=fast)``."""

import inspect
import math
import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from kdnas.channel.awgn import Awgn
from kdnas.channel.base import Channel
from kdnas.channel.csi import Csi, Knowledge
from kdnas.channel.equaliser import Equaliser
from kdnas.channel.erasure import Erasure
from kdnas.channel.fading import Fading, Scatter, rician_factor
from kdnas.channel.gains import Gains
from kdnas.channel.multipath import Multipath
from kdnas.channel.trace import read_trace
from kdnas.errors import InputError


def awgn() -> Channel:
    """Additive white Gaussian noise."""
    return Awgn()


def rayleigh(
    fading: Fading = "block", csi: Knowledge = "perfect", csi_error: float | None = None, equaliser: Equaliser = "mmse"
) -> Channel:
    """Rayleigh fading, no line of sight."""
    return Gains(Scatter(0.0, fading), Csi(csi, csi_error), equaliser)


def rician(
    k_db: float = 6.0,
    fading: Fading = "block",
    csi: Knowledge = "perfect",
    csi_error: float | None = None,
    equaliser: Equaliser = "mmse",
) -> Channel:
    """Rician fading, the line of sight k_db stronger than the rest."""
    return Gains(Scatter(rician_factor(k_db), fading), Csi(csi, csi_error), equaliser)


def multipath(
    taps: int = 4,
    spread: float = 1.5,
    cp: int = 4,
    carriers: int = 16,
    csi: Knowledge = "perfect",
    csi_error: float | None = None,
    equaliser: Equaliser = "mmse",
) -> Channel:
    """Multipath with an exponential power-delay profile, sent over by OFDM."""
    return Multipath(taps, spread, cp, carriers, Csi(csi, csi_error), equaliser)


def erasure(p: float = 0.1, burst: float | None = None, csi: Literal["perfect", "none"] = "perfect") -> Channel:
    """Lost symbols; by default independent of each other, and the receiver knows which."""
    return Gains(Erasure(p, burst), Csi(csi))


def trace(
    file: str, fading: Fading = "block", csi: Literal["perfect", "none"] = "perfect", equaliser: Equaliser = "mmse"
) -> Channel:
    """A measured trace, a CSV file of snr_db and perhaps h_re and h_im."""
    return Gains(read_trace(file, fading), Csi(csi), equaliser)


# A user's own channel is added here; the parameters of what makes it are its options (int, float, str or Literal).
CHANNELS: dict[str, Callable[..., Channel]] = {
    "awgn": awgn,
    "erasure": erasure,
    "multipath": multipath,
    "rayleigh": rayleigh,
    "rician": rician,
    "trace": trace,
}

_NAME = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*(?:\((.*)\))?\s*", re.DOTALL)
_OPTION = re.compile(r"\s*([A-Za-z0-9_]+)\s*=\s*([^=,()]*[^=,()\s])\s*", re.DOTALL)


def list_channels() -> list[str]:
    """The names that ``get_channel`` knows."""
    return sorted(CHANNELS)


def describe_channel(name: str) -> str:
    """A channel of ``list_channels`` with all its options: their defaults, the words to choose from, or the type."""
    told = []
    for option, parameter in inspect.signature(CHANNELS[name], eval_str=True).parameters.items():
        if get_origin(parameter.annotation) is Literal:
            value = "|".join(get_args(parameter.annotation))
        elif parameter.default in (None, inspect.Parameter.empty):
            value = "TEXT" if parameter.annotation is str else "NUMBER"
        else:
            value = str(parameter.default)
        told.append(f"{option}={value}")
    return f"{name}({', '.join(told)})" if told else name


def get_channel(text: str) -> Channel:
    """The channel that ``text`` describes: ``NAME`` or ``NAME(OPTION=VALUE, ...)``.

    For example ``awgn``, ``rayleigh(fading=fast, csi=noisy, csi_error=0.1)``, ``multipath(taps=6, cp=5)`` or
    ``trace(file=walk.csv)``; options that are left out have their defaults, and a value holds no comma, equals sign or
    bracket.

    Raises:
        InputError: There is no channel of that name, no such option (the nearest is named), or a bad value.
    """
    name, options = parse_channel(text)
    if name not in CHANNELS:
        near = get_close_matches(name, list_channels(), 1)
        remedy = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(list_channels())}"
        raise InputError(f"unknown channel {name!r}; {remedy}")
    known = inspect.signature(CHANNELS[name], eval_str=True).parameters
    for option in options:
        if option not in known:
            near = get_close_matches(option, known, 1)
            remedy = f"its options are {', '.join(known)}" if known else "it has none"
            raise InputError(
                f"channel {text!r}: unknown option {option!r}; " + (f"did you mean {near[0]!r}?" if near else remedy)
            )
    for option, parameter in known.items():
        if option not in options and parameter.default is inspect.Parameter.empty:
            raise InputError(f"channel {text!r} needs its option {option!r}: write {name}({option}=...)")
    try:
        return CHANNELS[name](**{key: _value(key, value, known[key].annotation) for key, value in options.items()})
    except InputError as error:
        raise InputError(f"channel {text!r}: {error}") from None


def parse_channel(text: str) -> tuple[str, dict[str, str]]:
    """Name and options of ``NAME`` or ``NAME(OPTION=VALUE, ...)``, not yet looked up.

    Raises:
        InputError: It is not of this form, or names an option twice.
    """
    whole = _NAME.fullmatch(text)
    if not whole:
        raise InputError(f"channel {text!r}: write NAME or NAME(OPTION=VALUE, OPTION=VALUE)")
    options: dict[str, str] = {}
    for part in whole[2].split(",") if whole[2] and whole[2].strip() else ():
        option = _OPTION.fullmatch(part)
        if not option:
            raise InputError(f"channel {text!r}: {part.strip()!r} should read OPTION=VALUE")
        if option[1] in options:
            raise InputError(f"channel {text!r} gives {option[1]!r} twice: leave one out")
        options[option[1]] = option[2]
    return whole[1], options


def _value(option: str, text: str, kind: Any) -> Any:
    """``text`` as the type of the option: one of some words, a whole number, a number, or text."""
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise InputError(f"{option} is one of {', '.join(get_args(kind))}, not {text!r}")
        return text
    for number in (int, float):
        if kind is number or number in get_args(kind):
            try:
                value = number(text)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise InputError(f"{option} is a {'whole ' if number is int else ''}number, not {text!r}")
            return value
    return text
