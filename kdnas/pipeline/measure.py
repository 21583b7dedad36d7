"""A table of latencies of this machine: networks of a space are measured, their operations follow."""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import torch

from kdnas.codec import CAT, channel_encoder_steps
from kdnas.cost.latency import Table, fit_table
from kdnas.device import DeviceClass
from kdnas.export.latency import Model, encoder_model, measured_s, transmitter_model
from kdnas.link import Link
from kdnas.ops import Op, Step
from kdnas.run.files import hash_of
from kdnas.run.seeds import generator, seeded
from kdnas.space.base import Choices, SearchSpace

# Whole transmitters among the measured networks: what they take beyond their encoders is the channel encoder's.
TRANSMITTERS = 3
# Fewer networks tell little of any operation.
LEAST = 10
# Candidates for each network: the one with the most operations that were in no network yet is taken.
CANDIDATES = 8


def steps_of(space: SearchSpace, choices: Mapping[str, Any]) -> list[Step]:
    """The steps of one architecture that run."""
    return [step for unit in space.units() for step in unit.steps(choices) if step.ops]


def every_step(space: SearchSpace) -> Iterator[Step]:
    """Steps that run in some architecture of the space, each operation at least once."""
    domains = space.domains()
    for unit in space.units():
        for values in product(*(domains[label] for label in unit.labels)):
            yield from (step for step in unit.steps(dict(zip(unit.labels, values, strict=True))) if step.ops)


def covering(space: SearchSpace, count: int, seed: int) -> list[Choices]:
    """Random architectures that together have as many of the space's operations as ``count`` of them may."""
    draw, seen, found = generator(seed, "latency"), set[Op | None](), []
    for _ in range(count):
        candidates = [space.random(draw) for _ in range(CANDIDATES)]
        ops = [{step.op for step in steps_of(space, choices)} for choices in candidates]
        best = max(range(CANDIDATES), key=lambda i: len(ops[i] - seen))
        seen |= ops[best]
        found.append(candidates[best])
    return found


def encoder_of(space: SearchSpace, choices: Mapping[str, Any], dtype: str, seed: int) -> Model:
    """The model of one architecture for one random image."""
    options = space.options
    with seeded(seed, "latency", hash_of(dict(choices))):
        image = torch.rand(1, options["in_channels"], options["image_size"], options["image_size"])
        return encoder_model(space.network(choices).eval(), image, dtype)


def measure(
    space: SearchSpace, device: DeviceClass, *, classes: int | None = 10, dtype: str = "fp32", networks: int = 300,
    threads: int = 1, seed: int = 0, say: Callable[[str], None] = lambda line: None,
) -> tuple[Table, dict[str, Any]]:  # fmt: skip
    """The seconds of every operation of the space, and of the device's channel encoder, on this machine.

    Args:
        space: Whose networks are measured.
        device: Whose channel encoder is.
        classes: For which it has words; None: for none.
        dtype: ``fp32`` or ``int8``.
        networks: How many are drawn.
        threads: That ONNX Runtime computes with.
        seed: Of the architectures and their weights.
        say: Told what is done.

    Returns:
        The table, and about it: ``networks``, ``operations``, ``seen`` (how many of these a measured network had; the
        others have what their kind, work and traffic tell), ``error`` (median relative error of networks left out in
        the validation).

    Raises:
        InputError: The extra ``export`` is not installed.
    """
    chosen = covering(space, networks, seed)
    models, steps = [], []
    for index, choices in enumerate(chosen):
        models.append(encoder_of(space, choices, dtype, seed))
        steps.append(steps_of(space, choices))
        if (index + 1) % 50 == 0:
            say(f"{index + 1} of {networks} networks written")
    options = space.options
    for choices in chosen[:TRANSMITTERS]:
        with seeded(seed, "latency", "link"):
            size = {**device.codec.model_dump(), "classes": classes}
            codec = CAT(options["feature_dim"], device.link.symbols, encoder=size)
            decoder = torch.nn.Linear(options["feature_dim"], 2)
            link = Link(space.network(choices), codec.encoder, codec.decoder, decoder).eval()
            shape = (options["in_channels"], options["image_size"], options["image_size"])
            models.append(transmitter_model(link, shape, dtype))
        steps.append([*steps_of(space, choices), *channel_encoder_steps(codec.encoder.config)])
    say(f"measuring {len(models)} networks")
    seen = {step.op for own in steps for step in own if step.ops}
    table, error = fit_table(steps, measured_s(models, threads), list(every_step(space)))
    return table, {"networks": len(models), "operations": len(table), "seen": len(seen), "error": error}


def comments(space: SearchSpace, device: DeviceClass, dtype: str, threads: int, about: Mapping[str, Any]) -> list[str]:
    """What a table says of itself, a line each."""
    options = ", ".join(f"{name} {value}" for name, value in space.options.items())
    codec = ", ".join(f"{name} {value}" for name, value in device.codec.model_dump().items())
    return [
        f"seconds that each operation adds to a network: {dtype}, {threads} thread(s) of ONNX Runtime on this machine",
        f"space {space.name} ({options}); channel encoder of {device.name} ({codec}, symbols {device.link.symbols}): "
        "only its whole is measured, and shared among its operations by kind, work and traffic",
        f"from {about['networks']} whole networks, which had {about['seen']} of {about['operations']} operations; the "
        f"others go by kind, work and traffic; validated: median error {about['error']:.1%}",
    ]
