"""Seconds of each operation of a device: as a file, as a cost, and found from the seconds of whole networks.

The file is CSV with the header ``kind,inputs,outputs,kernel,stride,groups,dilation,size,latency_s``: an operation as
``kdnas.ops.Op`` describes it, and the seconds that one of them adds to a network. Lines that begin with ``#`` are
comments. ``kdnas device measure`` writes one; a device of one's own is measured by any means and written so. The
latency of a network is the sum over its operations.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdnas.errors import InputError
from kdnas.ops import Op, Step
from kdnas.run.files import atomic_write

Table = dict[Op, float]
Array = NDArray[np.float64]

COLUMNS = (*Op._fields, "latency_s")
# Strengths of the pull of each operation towards what its kind, work and traffic tell; one is chosen by validation.
_RIDGE = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)
_FOLDS = 5
# What an operation takes at least, as a share of what its kind, work and traffic tell.
_LEAST = 0.05


def parse_table(text: str, source: str) -> Table:
    """The table that the text of a CSV file holds.

    Args:
        text: Of the file.
        source: How messages name it.

    Raises:
        InputError: A wrong header, a number that is none or out of its range, an operation told twice, or no
            operation at all. The message names the line.
    """
    table: Table = {}
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    if not lines or [word.strip() for word in lines[0][1].split(",")] != list(COLUMNS):
        raise InputError(f"{source}: line {lines[0][0] if lines else 1}: the header must be {','.join(COLUMNS)}")
    for number, line in lines[1:]:
        where = f"{source}: line {number}: "
        words = [word.strip() for word in next(csv.reader([line]))]
        if len(words) != len(COLUMNS):
            raise InputError(f"{where}{len(words)} values, where the header has {len(COLUMNS)} columns")
        sizes = []
        for name, word in zip(COLUMNS[1:-1], words[1:-1], strict=True):
            if not word.isascii() or not word.isdecimal() or int(word) < 1:
                raise InputError(f"{where}{name} is {word[:40]!r}: give a whole number, at least 1")
            sizes.append(int(word))
        try:
            seconds = float(words[-1])
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < float("inf"):
            raise InputError(f"{where}latency_s is {words[-1][:40]!r}: give seconds, at least 0")
        op = Op(words[0], *sizes)
        if not op.kind:
            raise InputError(f"{where}kind is empty")
        if op in table:
            raise InputError(f"{where}an earlier line has this operation too: leave one out")
        table[op] = seconds
    if not table:
        raise InputError(f"{source}: it lists no operation")
    return table


def load_table(path: str | Path) -> Table:
    """Read a table of latencies.

    Raises:
        InputError: It cannot be read, or as in ``parse_table``.
    """
    try:
        return parse_table(Path(path).read_text(encoding="utf-8-sig"), str(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"cannot read {path}: it is not a UTF-8 text file") from None


def save_table(path: str | Path, table: Mapping[Op, float], comments: Sequence[str] = ()) -> None:
    """Write a table, its operations in order, under comments of one line each."""
    text = io.StringIO()
    for line in comments:
        text.write(f"# {line}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([*op, f"{seconds:.6g}"] for op, seconds in sorted(table.items()))
    atomic_write(Path(path), text.getvalue().encode())


def network_seconds(table: Mapping[Op, float], steps: Sequence[Step]) -> float:
    """The latency of a network: the sum over its operations that run.

    Raises:
        KeyError: The table lacks one.
    """
    return sum(table[step.op] for step in steps if step.ops and step.op is not None)


def fit_table(
    networks: Sequence[Sequence[Step]], seconds: Sequence[float], others: Sequence[Step] = ()
) -> tuple[Table, float]:
    """The seconds of each operation, from those of whole networks.

    So an operation takes what it adds to a network, fused and with its data where the operation before left them; what
    a network costs beside its operations, such as the call, falls to those that every network has. Least squares on
    relative errors, in two parts: seconds of each kind as overhead + MACs + bytes moved, and for each operation its
    own deviation from that, held small by a ridge that cross-validation over the networks chooses.

    Args:
        networks: The steps of each.
        seconds: That each was measured to take.
        others: Steps that the table shall list too; an operation of none of the networks gets what its kind, work and
            traffic tell.

    Returns:
        The table, and the median relative error of networks that were left out of it in the validation.
    """
    everything = [*others, *(step for steps in networks for step in steps)]
    stand_ins: dict[Op, Step] = {step.op: step for step in everything if step.ops and step.op}
    ops = sorted(stand_ins)
    index = {op: i for i, op in enumerate(ops)}
    counts = np.zeros((len(networks), len(ops)))
    for row, steps in zip(counts, networks, strict=True):
        for step in steps:
            if step.ops and step.op:
                row[index[step.op]] += 1
    features = _features([stand_ins[op] for op in ops])
    measured = np.asarray(seconds, dtype=np.float64)
    fold = np.random.default_rng(0).permutation(len(measured)) % min(_FOLDS, len(measured))
    found = np.empty((len(_RIDGE), len(measured)))
    for left in range(int(fold.max()) + 1):
        inside, outside = fold != left, fold == left
        found[:, outside] = [counts[outside] @ values for values in _solve(counts[inside], measured[inside], features)]
    errors = np.median(np.abs(found / measured - 1), axis=1)
    best = int(np.argmin(errors))
    values = _solve(counts, measured, features)[best]
    return dict(zip(ops, values.tolist(), strict=True)), float(errors[best])


def _features(steps: Sequence[Step]) -> Array:
    """(operations, 3 kinds): overhead, MACs and bytes of each operation, in the columns of its kind."""
    kinds = sorted({_kind(step) for step in steps})
    features = np.zeros((len(steps), 3 * len(kinds)))
    for row, step in zip(features, steps, strict=True):
        start = 3 * kinds.index(_kind(step))
        row[start : start + 3] = step.ops, 1e-5 * step.macs, 1e-4 * step.moved_bytes
    return features


def _kind(step: Step) -> str:
    op = step.op
    assert op is not None
    return f"{op.kind}, {op.kernel}, {'each' if op.groups > 1 else 'all'}"


def _solve(counts: Array, seconds: Array, features: Array) -> list[Array]:
    """Seconds of each operation, for every strength of the ridge."""
    relative = counts / seconds[:, None]
    ones = np.ones(len(seconds))
    usual = features @ _nonnegative(relative @ features, ones)
    usual = np.maximum(usual, _LEAST * usual[usual > 0].min())
    design = relative * usual
    gram = design @ design.T
    mean = float(np.trace(gram)) / len(gram)
    missed = ones - design.sum(1)
    deviations = [design.T @ np.linalg.solve(gram + r * mean * np.eye(len(gram)), missed) for r in _RIDGE]
    return [usual * np.maximum(1 + deviation, _LEAST) for deviation in deviations]


def _nonnegative(matrix: Array, target: Array) -> Array:
    """The least-squares solution without negative values, by coordinate descent."""
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1
    unit = matrix / scale
    gram, wanted = unit.T @ unit + 1e-9 * np.eye(len(scale)), unit.T @ target
    found = np.zeros(len(scale))
    for _ in range(2000):
        before = found.copy()
        for i in range(len(found)):
            found[i] = max(0.0, found[i] + (wanted[i] - gram[i] @ found) / gram[i, i])
        if np.abs(found - before).max() < 1e-9 * max(1.0, float(found.max())):
            break
    return found / scale
