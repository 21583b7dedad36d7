"""Make the tables about the codec in runs/published/: one subcommand each.

    python scripts/publish_codec.py lengths --dataset fashion-mini --seeds 0 1 2 3 4
    python scripts/publish_codec.py snrs --dataset fashion-mini --seeds 0 1 2 3 4
    python scripts/publish_codec.py constellation --dataset fashion-mini --seeds 0 1 2
    python scripts/publish_codec.py mismatch --dataset fashion-mini --seeds 0 1 2
    python scripts/publish_codec.py channels --dataset fashion-mini --seeds 0 1 2
    python scripts/publish_codec.py adaptation --dataset fashion-mini --seeds 0 1 2

All links train the same architecture, a published one, from the same first stage (made once for a data set and seed),
with the same images, batches and steps, and are judged on test data once, at the end. ``one-model`` is made for all
SNRs and lengths; a ``dedicated`` one for one length, or at one SNR. ``adaptation`` lets the one model choose its length
at each SNR, for a wanted accuracy, by its table of the architecture split. ``channels`` tests models that were trained
on all channels of the device class, or on one, on these and on others.

What is finished is kept in --work and not done again, whatever has changed since in the code: begin another --work
then. Several processes may share one --work, each with data sets, seeds and --models of its own; a last call with all
of them writes the table.
"""

import argparse
import copy
import fcntl
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from publish_distill import Case, for_images, kept, network
from publishing import add_run_options, command, publish, run_script
from torch import Tensor, nn

from kdnas.codec.adaptation import AccuracyTable
from kdnas.config import make_settings
from kdnas.device import load_device
from kdnas.evaluate import evaluate_link
from kdnas.export import load_link
from kdnas.link import FULL_SHARE, Link
from kdnas.loss import KnowledgeLoss
from kdnas.pipeline.context import Context
from kdnas.pipeline.stages import save
from kdnas.run.files import hash_of
from kdnas.run.tensors import read_tensors, torch_device, write_tensors

OFFSETS_DB = [-3.0, 0.0, 3.0]
TARGETS = (0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85)
OPTIONS = ("dataset", "labels", "seeds", "snrs", "lengths", "device", "architecture")
CONSTELLATIONS = ("qpsk", "16qam", "64qam", "256qam")
UNSEEN = ("rician", "multipath")
"""Channels that no model of the table ``channels`` is trained on."""

TABLES = ("lengths", "snrs", "constellation", "mismatch", "channels", "adaptation")


class Model(NamedTuple):
    """A link to train: what it changes in the settings, and for which SNR, length or channel alone it is made."""

    name: str
    changes: Mapping[str, Any] = MappingProxyType({})
    snr_db: float | None = None
    symbols: int | None = None
    channel: str | None = None


ONE = Model("one-model")


def models(given: argparse.Namespace) -> list[Model]:
    """What the table compares."""
    if given.table == "lengths":
        made = [ONE, *(Model(f"length-{n}", symbols=n) for n in given.lengths)]
    elif given.table == "snrs":
        made = [ONE, *(Model(f"snr-{snr:g}", snr_db=snr) for snr in given.snrs)]
    elif given.table == "constellation":
        made = [ONE, *(Model(name, {"codec.constellation": name}) for name in CONSTELLATIONS)]
    elif given.table == "channels":
        made = [ONE, *(Model(f"{name}-alone", channel=name) for name in load_device(given.device).link.channels)]
    elif given.table == "mismatch":
        made = [ONE, Model("told-wrong", {"distill.snr_error_db": 3.0})]
    else:
        made = [ONE]
    return [model for model in made if not given.models or model.name in given.models]


def opened(case: Case, given: argparse.Namespace) -> tuple[Context, dict[str, Tensor]]:
    """Teacher, store, and the weights after stage 1, made by the first process that needs them."""
    given.work.mkdir(parents=True, exist_ok=True)
    with (given.work / f"{case.name}-s{case.data_seed}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        context = case.context(given)
        path = context.path / f"stage1-{given.architecture}.safetensors"
        if not path.exists():
            whole = parts(context, given)
            whole["classifier"], whole["loss"] = context.distiller().clean(
                whole["encoder"], context.settings.loss, path.stem
            )
            write_tensors(path, whole.state_dict())
        return context, read_tensors(path)


def parts(context: Context, given: argparse.Namespace) -> nn.ModuleDict:
    """What stage 1 trains: encoder, classifier and loss, fresh."""
    settings = context.settings
    return nn.ModuleDict(
        {
            "encoder": network(context, given.architecture, settings.seed),
            "classifier": nn.Linear(settings.spaces.feature_dim, len(context.dataset.classes)),
            "loss": context.distiller().knowledge_loss(settings.loss),
        }
    )


def trained(context: Context, stage1: dict[str, Tensor], model: Model, given: argparse.Namespace) -> Link:
    """The second stage of ``model``, from the end of stage 1; made once for all tables."""
    place = context.path / "links" / f"{model.name}-{hash_of(dict(model.changes), given.architecture)}"
    if not (place / "link.json").exists():
        save(context, place, for_images(context, given.architecture), link_of(context, stage1, model, given))
    return load_link(place).to(torch_device(context.settings.accelerator))


def link_of(context: Context, stage1: dict[str, Tensor], model: Model, given: argparse.Namespace) -> Link:
    """``trained``, anew."""
    whole = parts(context, given)
    whole.load_state_dict(stage1)
    own = copy.copy(context)  # the same data, teacher and store
    own.settings = make_settings(context.settings.model_dump(mode="json"), model.changes)
    knowledge = whole["loss"]
    assert isinstance(knowledge, KnowledgeLoss)
    return own.distiller().through_link(
        whole["encoder"], whole["classifier"], knowledge, own.codec(model.symbols),
        channels=own.device.link.channels if model.channel is None else [model.channel],
        snr_db=own.training_snr_db if model.snr_db is None else (model.snr_db, model.snr_db),
        full_share=1.0 if model.symbols else FULL_SHARE, name=f"stage2-{given.architecture}-{model.name}",
    )  # fmt: skip


def points(context: Context, stage1: dict[str, Tensor], model: Model, given: argparse.Namespace) -> dict[str, Any]:
    """Accuracy of ``model`` where it is made for and the table looks.

    Returns:
        ``points`` on test data, and ``held`` on labelled images of the architecture split, by which lengths are chosen.
    """
    grid = {
        "snrs_db": given.snrs if model.snr_db is None else [model.snr_db],
        "lengths": given.lengths if model.symbols is None else [model.symbols],
        "snr_offsets_db": OFFSETS_DB if given.table == "mismatch" else [0.0],
    }
    if given.table == "channels":
        grid["channels"] = [*context.device.link.channels, *UNSEEN]

    def make() -> dict[str, Any]:
        settings, data, ids = context.settings, context.dataset, context.splits.architecture_labelled
        link = trained(context, stage1, model, given)
        how: dict[str, Any] = {
            "system": model.name, "channels": context.device.link.channels, "draws": settings.evaluate.draws,
            "batch_size": settings.evaluate.batch_size, "seed": settings.seed, **grid,
        }  # fmt: skip
        return {
            "points": evaluate_link(link, data.test_images, data.test_labels, **how),
            "held": evaluate_link(link, data.train_images[ids], data.train_labels[ids], ids, **how),
        }

    key = hash_of(dict(model.changes), grid, given.architecture)
    return dict(kept(context, f"{model.name}-{key}", make))


def row_of(table: str, model: Model, point: dict[str, Any]) -> dict[str, Any]:
    """What the table says of one point."""
    same = {key: point[key] for key in ("channel", "symbols", "snr_db", "accuracy", "ci95")}
    if table == "constellation":
        return {"constellation": "none" if model is ONE else model.name, **same}
    if table == "channels":
        return {"trained_on": model.channel or "all", **same}
    if table == "mismatch":
        return {"system": model.name, "snr_offset_db": point.get("snr_offset_db", 0.0), **same}
    return {"system": "one-model" if model is ONE else "dedicated", **same}


def adapted(found: dict[str, Any], confidence: float) -> list[dict[str, Any]]:
    """What choosing the length at each SNR gives, by wanted accuracy, and what fixed lengths give; means over SNRs.

    ``promised`` is the share of SNRs at which the table said that the accuracy is met, ``met`` at which it was.
    """
    table = AccuracyTable(found["held"], confidence)
    at = {(row["channel"], row["snr_db"], row["symbols"]): row["accuracy"] for row in found["points"]}
    made = []
    for channel in table.channels:
        for target in TARGETS:
            choices = {snr: table.choose(snr, channel, min_accuracy=target) for snr in table.snrs_db}
            reached = [at[channel, snr, choice.symbols] for snr, choice in choices.items()]
            made.append(
                {"channel": channel, "system": "adaptive", "target": target,
                 "mean_symbols": _mean([choice.symbols for choice in choices.values()]), "accuracy": _mean(reached),
                 "promised": _mean([choice.met for choice in choices.values()]),
                 "met": _mean([accuracy >= target for accuracy in reached])}
            )  # fmt: skip
        for symbols in table.lengths:
            reached = [at[channel, snr, symbols] for snr in table.snrs_db]
            made.append(
                {"channel": channel, "system": "fixed", "target": None, "mean_symbols": symbols,
                 "accuracy": _mean(reached), "promised": None, "met": None}
            )  # fmt: skip
    return made


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def rows(given: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of the table."""
    made = []
    for dataset in given.dataset:
        for seed in given.seeds:
            case = Case(dataset, given.labels, seed)
            context, stage1 = opened(case, given)
            for model in models(given):
                found = points(context, stage1, model, given)
                own = (
                    adapted(found, context.settings.evaluate.confidence)
                    if given.table == "adaptation"
                    else [row_of(given.table, model, point) for point in found["points"]]
                )
                made += [{"dataset": case.name, "seed": seed, **row} for row in own]
                mean = _mean([point["accuracy"] for point in found["points"]])
                print(json.dumps({"dataset": case.name, "seed": seed, "model": model.name, "mean": mean}), flush=True)
    return made


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--dataset", nargs="+", default=["fashion-mini"], help="data sets, or folder:PATH")
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--snrs", nargs="+", type=float, default=[-10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0])
    parser.add_argument("--lengths", nargs="+", type=int, default=[4, 8, 16, 32, 64])
    parser.add_argument("--models", nargs="+", help="train only these (one-model, length-4, snr--10 ...); no table")
    parser.add_argument("--device", default="wearable")
    parser.add_argument("--architecture", default="wearable-fashion-mini", help="published architecture of the encoder")
    add_run_options(parser, "link")
    parser.add_argument("--work", type=Path, default=Path("runs/codec"))
    parser.add_argument("--out", type=Path, help="the published file (default: runs/published/TABLE.json)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    made = rows(given)
    if given.models:
        return
    out = given.out or Path("runs/published") / f"{given.table}.json"
    publish(out, command("publish_codec.py", given, *OPTIONS), made, ["dataset"])


if __name__ == "__main__":
    run_script(main)
