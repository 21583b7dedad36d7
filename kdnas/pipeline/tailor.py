"""Tailoring a fleet: one teacher and one store, a model for each device, one report; device by device resumable."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdnas.config import make_settings
from kdnas.device import class_of
from kdnas.errors import InputError
from kdnas.evaluate import evaluate_link
from kdnas.export import load_link, save_link
from kdnas.knowledge.lessons import Lessons
from kdnas.pipeline import stages
from kdnas.pipeline.context import Context
from kdnas.pipeline.places import absolute, default_directory
from kdnas.run.directory import RunDirectory
from kdnas.run.files import write_json
from kdnas.run.seeds import seed_of
from kdnas.run.tensors import torch_device
from kdnas.search.derive import derive
from kdnas.space import Architecture
from kdnas.tailor.algorithm import Outcome, Plan, Slice, none, static, tailor
from kdnas.tailor.fleet import Fleet, load_fleet, parse_fleet
from kdnas.tailor.ladder import RUNGS, rung_loss, units_per_step
from kdnas.tailor.qos import EdgeDevice
from kdnas.tailor.student import Held, LinkStudent, SliceTrainer
from kdnas.tailor.superclasses import cluster, confusion, default_count

Say = Callable[[str], None]

# Of a finished run, what its tailoring may set anew; all else belongs to its teacher and its architecture.
OF_ITS_OWN = ("tailor.", "evaluate.", "threads", "accelerator")

# Of ``distill``: a slice has its own, trains at the SNRs of its device, and goes on from the slice before.
SET_BY_SLICES = tuple(
    f"distill.{name}"
    for name in (
        "epochs", "link_epochs", "steps", "batch_size", "link_batch_size", "learning_rate", "link_learning_rate",
        "encoder_rate", "patience", "snr", "schedule", "snr_margin_db", "init",
    )
)  # fmt: skip


class Tailoring:
    """One fleet, tailored.

    Args:
        context: Settings, directory and data; its device class is not looked at.
        fleet: The devices.
        architectures: Class to the file of its architecture; for a class without one, the architecture of the space is
            taken that uses the class's budgets and favours no choice (no search).
        say: Called with a line of progress now and then.
    """

    def __init__(self, context: Context, fleet: Fleet, architectures: Mapping[str, Path], say: Say) -> None:
        self.context, self.fleet, self.say = context, fleet, say
        self.files = {class_of(name): path for name, path in architectures.items()}
        self.settings = context.settings
        self.classes: dict[str, Context] = {}
        self.architectures: dict[str, Architecture] = {}
        self.superclasses: torch.Tensor | None = None

    def check(self) -> None:
        """Refuse what can be refused, and say what can never work, before anything is trained.

        Raises:
            InputError: As ``Context.check_same``; or an architecture does not fit its class.
        """
        if self.settings.accelerator == "cuda" and not torch.cuda.is_available():
            raise InputError("accelerator = 'cuda', but torch finds no CUDA device: leave it on 'auto'")
        self.context.check_same()
        classes = len(self.context.dataset.classes)
        if (self.settings.tailor.superclasses or 1) > classes:
            raise InputError(
                f"tailor.superclasses = {self.settings.tailor.superclasses} of {classes} classes: use fewer"
            )
        for device in self.fleet.device:
            name = device.device_class
            if name not in self.classes:
                self.classes[name] = self._context_of(name)
                self.architectures[name] = self._architecture_of(self.classes[name])
            length, limit = device.longest(self.macs(device), self.most(device))
            if length == 0:
                cost = device.cost(self.macs(device), 1)
                needs = (
                    f"{cost.latency_s:.3g} s of {device.deadline_s:.3g} s" if limit == "latency"
                    else f"{cost.energy_j:.3g} J of {device.energy_j:.3g} J"
                )  # fmt: skip
                self.say(f"{device.name}: infeasible ({limit}): a single symbol takes {needs}; nothing is trained")

    def _context_of(self, name: str) -> Context:
        """The context of a class: its budgets and codec, everything else shared."""
        made = Context(self.settings.model_copy(update={"device": name}), self.context.directory, self.context.progress)
        for part in ("dataset", "splits", "views"):
            made.__dict__[part] = getattr(self.context, part)
        return made

    def _architecture_of(self, context: Context) -> Architecture:
        name = class_of(context.device.name)
        if name in self.files:
            return stages.architecture_of(context, self.files[name])
        flat = {label: np.zeros(len(values)) for label, values in context.tables.domains.items()}
        choices = derive(context.tables, flat, context.encoder_budgets, self.settings.search.budget_use)
        return Architecture(
            self.settings.space, context.space_options, choices, context.tables.exact(choices),
            {"data": context.dataset.hash, "device": context.device.hash},
        )  # fmt: skip

    def macs(self, device: EdgeDevice) -> float:
        """Multiply-accumulates of the device's whole transmitter."""
        context = self.classes[device.device_class]
        choices = self.architectures[device.device_class].choices
        return context.transmitter_costs(context.tables.steps(choices))["macs"]

    def most(self, device: EdgeDevice) -> int:
        """The most symbols that the codec of the device's class has."""
        return self.classes[device.device_class].device.link.symbols

    def run(self) -> dict[str, Any]:
        """Tailor every device by every system that is not done yet; writes and returns ``tailor.json``."""
        s, store = self.settings, self.context.store
        weights = torch.cat([self.context.splits.weights_labelled, self.context.splits.weights_unlabelled])
        names = self.context.dataset.classes
        self.superclasses = cluster(
            confusion(store.mean_probs(weights)), s.tailor.superclasses or default_count(len(names))
        )
        groups = [[n for n, g in zip(names, self.superclasses.tolist(), strict=True) if g == group]
                  for group in range(int(self.superclasses.max()) + 1)]  # fmt: skip
        self.say("superclasses: " + "; ".join(", ".join(group) for group in groups))
        rows = []
        for device in self.fleet.device:
            for system in s.tailor.systems:
                done = self.context.directory.report(f"tailor/{device.name}-{system}")
                rows.append(done["row"] if done else self._device(device, system))
                self.say(f"{system}: {told(rows[-1])}" + (" (done before)" if done else ""))
        document = {
            "schema": 1, "dataset": self.context.dataset.name, "seed": s.seed, "labels": s.data.labels,
            "superclasses": groups, "fleet": self.fleet.document(), "rows": rows,
        }  # fmt: skip
        write_json(self.context.path / "tailor.json", document)
        return document

    def _device(self, device: EdgeDevice, system: str) -> dict[str, Any]:
        """One device by one system: trained, exported, judged on test data, and reported."""
        name, context = f"devices/{device.name}/{system}", self.classes[device.device_class]
        with self.context.directory.stage(f"tailor/{device.name}-{system}") as report:
            longest, limit = device.longest(self.macs(device), self.most(device))
            student = self._student(device, system, name)
            plan = self._plan(device)
            board = _Board(self.context.path, name, device.accuracy_floor)
            if system == "dynamic":
                outcome = tailor(student, plan, longest, self.most(device), limit, board.add)
            else:
                outcome = (static if system == "static" else none)(student, plan, longest, limit)
                for part in outcome.slices:
                    board.add(part)
            board.close()
            place = self.context.path / "devices" / device.name
            place = place if system == "dynamic" else place / "baselines" / system
            if outcome.slices:
                low, high = device.training_range_db()
                save_link(
                    place, self.architectures[device.device_class], student.link,
                    {"device": context.device.name, "dataset": context.dataset.name,
                     "classes": list(context.dataset.classes), "channels": [device.channel], "snr_db": [low, high]},
                )  # fmt: skip
            report["row"] = self._row(device, system, outcome, student, place)
        # A finished device is never trained again; its slices' checkpoints have done their work.
        shutil.rmtree(self.context.path / "checkpoints" / name, ignore_errors=True)
        return report["row"]

    def _plan(self, device: EdgeDevice) -> Plan:
        t, store = self.settings.tailor, self.context.store
        assert self.superclasses is not None
        units = units_per_step(
            t.batch_size, int(self.superclasses.max()) + 1, len(self.superclasses), len(store.mean)
        )  # fmt: skip
        steps = t.steps + t.link_steps
        return Plan(device.accuracy_floor, units, device.budget_units, steps, t.slices, t.patience, t.decay)

    def _student(self, device: EdgeDevice, system: str, name: str) -> LinkStudent:
        s, context, whole = self.settings, self.classes[device.device_class], self.context
        t = s.tailor
        # Both stages are those of `distill`; these are the settings that a slice has of its own.
        changes = {
            "batch_size": t.batch_size, "link_batch_size": t.batch_size, "encoder_rate": t.encoder_rate, "epochs": 1,
            "link_epochs": 1, "patience": 0, "snr": "uniform", "schedule": "cosine",
        }  # fmt: skip
        lessons = (
            Lessons(whole.dataset, whole.views, None, s.knowledge.views) if system == "none" else whole.lessons
        )  # fmt: skip

        def trainer(number: int, steps: int) -> SliceTrainer:
            # The peaks fall from slice to slice, so that their schedules together are nearly one over the whole budget.
            peak = max(1 - number / t.slices, 0.1)  # short slices at the end of a budget may be more than ``slices``
            rates = {"learning_rate": t.learning_rate * peak, "link_learning_rate": t.link_learning_rate * peak}
            return SliceTrainer(
                lessons, whole.splits, s.distill.model_copy(update={**changes, **rates, "steps": steps}),
                classes=len(whole.dataset.classes), feature_dim=s.spaces.feature_dim, statistics=whole.statistics,
                directory=whole.path, seed=seed_of(s.seed, "tailor", device.name, number) % 2**31,
                accelerator=s.accelerator, progress=whole.progress, superclasses=self.superclasses,
            )  # fmt: skip

        return LinkStudent(
            stages.fresh(context, self.architectures[device.device_class].choices), context.codec(), device,
            self._held(), trainer=trainer, loss=lambda rung: rung_loss(rung, t.weights, s.loss.temperature), name=name,
            settings=t, seed=s.seed,
        )  # fmt: skip

    def _held(self) -> Held:
        data, splits = self.context.dataset, self.context.splits
        ids = torch.cat([splits.architecture_labelled, splits.architecture_unlabelled])
        labels = data.train_labels[splits.architecture_labelled]
        return Held(data.train_images[ids], ids, labels, self.context.store.mean_probs(ids))

    def _row(
        self, device: EdgeDevice, system: str, outcome: Outcome, student: LinkStudent, place: Path
    ) -> dict[str, Any]:
        """The report on one device; what needs a trained model is null where nothing was trained."""
        s, data = self.settings, self.context.dataset
        cost = device.cost(self.macs(device), max(1, outcome.length))
        accuracy = divergence = None
        if outcome.slices:
            points = evaluate_link(
                load_link(place).to(torch_device(s.accelerator)), data.test_images, data.test_labels, system=system,
                channels=[device.channel], snrs_db=device.snrs_db(s.tailor.snrs), lengths=[outcome.length],
                draws=s.evaluate.draws, batch_size=s.evaluate.batch_size, seed=s.seed,
            )  # fmt: skip
            accuracy = sum(point["accuracy"] for point in points) / len(points)
            divergence = student.divergence(outcome.length)
        inside = device.breaks(self.macs(device), max(1, outcome.length)) is None
        feasible = accuracy is not None and accuracy >= device.accuracy_floor and inside
        return {
            "dataset": data.name, "system": system, "device": device.name, "device_class": device.device_class,
            "seed": s.seed, "accuracy": accuracy, "accuracy_floor": device.accuracy_floor,
            "latency_s": cost.latency_s, "latency_compute_s": cost.compute_s,
            "energy_j": cost.energy_j, "energy_compute_j": cost.compute_j,
            "symbols": outcome.length or None, "units": outcome.units, "feasible": feasible,
            "binding": None if feasible else outcome.binding or "accuracy",
            "steps": [
                {"rung": None if part.rung is None else RUNGS[part.rung], "steps": part.steps, "units": part.units,
                 "accuracy": part.accuracy, "lower": part.lower}
                for part in outcome.slices
            ],
            "promised": outcome.met,
            "expected": None if outcome.estimate is None else outcome.estimate._asdict(),
            "divergence": divergence, "deadline_s": device.deadline_s, "budget_j": device.energy_j,
            "budget_units": device.budget_units,
        }  # fmt: skip


class _Board:
    """The course of one tailoring on the TensorBoard page, against the steps trained."""

    def __init__(self, directory: Path, name: str, floor: float) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = directory / "tensorboard" / name / "course"
        shutil.rmtree(place, ignore_errors=True)  # of a tailoring that was killed
        self.writer, self.floor, self.steps, self.units = SummaryWriter(str(place)), floor, 0, 0

    def add(self, part: Slice) -> None:
        self.steps, self.units = self.steps + part.steps, self.units + part.units
        values = {"accuracy": part.accuracy, "lower bound": part.lower, "floor": self.floor, "units": self.units}
        if part.rung is not None:
            values["rung"] = part.rung
        for name, value in values.items():
            self.writer.add_scalar(f"tailor/{name}", value, self.steps)

    def close(self) -> None:
        self.writer.close()


def told(row: Mapping[str, Any]) -> str:
    """One device's report in a line."""
    if row["accuracy"] is None:
        return f"{row['device']}: infeasible ({row['binding']})"
    verdict = "feasible" if row["feasible"] else f"infeasible ({row['binding']})"
    return (
        f"{row['device']}: {verdict}; {row['accuracy']:.1%} (floor {row['accuracy_floor']:.0%}), "
        f"{row['symbols']} symbols, {1e3 * row['latency_s']:.3g} ms, {1e3 * row['energy_j']:.3g} mJ, "
        f"{row['units'] / 1e6:.3g} M units in {sum(part['steps'] for part in row['steps'])} steps"
    )


def stage(context: Context, say: Say) -> None:
    """The last stage of ``kdnas run``: the fleet's devices of the run's class, with the run's own architecture."""
    with context.directory.stage("tailor") as report:
        fleet = parse_fleet(context.directory.document["fleet"], "the fleet in run.json")
        own = {context.device.name: context.path / "architecture.json"}
        tailoring = Tailoring(context, fleet, own, say)
        tailoring.check()
        document = tailoring.run()
        report |= {"devices": len(fleet.device), "feasible": sum(row["feasible"] for row in document["rows"])}


def begin(
    given: Mapping[str, Any], out: Path | None, run: Path | None, architectures: Mapping[str, Path],
) -> RunDirectory:  # fmt: skip
    """A new run directory for a fleet: the fleet and the architectures are copied into it.

    Args:
        given: Settings by dotted key.
        out: Where; by default ``runs/tailor-FLEET-DATASET-PRESET-sSEED``.
        run: A run whose settings and architecture are taken.
        architectures: Class to the file of its architecture.

    Raises:
        InputError: Something given is wrong; nothing was written.
    """
    if "device" in given:
        raise InputError(
            "`kdnas tailor` takes its devices from the fleet: leave out 'device', or give --fleet FILE.toml"
        )
    for key in given:
        if key in SET_BY_SLICES:
            raise InputError(f"{key!r} acts on nothing in a tailoring, whose slices set it: see tailor.*")
    files = dict(architectures)
    base: dict[str, Any] = {}
    if run is not None:
        for key in given:
            if not key.startswith(OF_ITS_OWN):
                raise InputError(f"with --run the settings of that run hold: leave out {key!r}, or leave out --run")
        finished = RunDirectory.open(run)
        base, name = finished.settings, finished.document.get("device_class", {}).get("name")
        if not (run / "architecture.json").is_file() or name is None:
            raise InputError(f"{run} has no architecture yet: finish it with `kdnas run --resume {run}`")
        if name in files:
            raise InputError(f"--run and --architecture both give the architecture of class {name!r}: leave one out")
        files[name] = run / "architecture.json"
    settings = make_settings(absolute(make_settings(base, given)))
    fleet = load_fleet(settings.tailor.fleet)
    served = {class_of(device.device_class) for device in fleet.device}
    loaded: dict[str, Architecture] = {}
    for name, path in files.items():
        own = class_of(name)
        if own not in served:
            raise InputError(
                f"the fleet has no device of class {name!r}, for which there is an architecture: see --fleet"
            )
        if own in loaded:
            raise InputError(f"{name} is another name of a class that has its architecture: leave one out")
        loaded[own] = Architecture.load(path / "architecture.json" if path.is_dir() else path)
    named = settings.model_copy(update={"device": Path(settings.tailor.fleet).stem})
    directory = RunDirectory.create(
        out or default_directory(named, "tailor"), settings.model_dump(mode="json"),
        {"verb": "tailor", "fleet": fleet.document(), "run": None if run is None else str(run.resolve()),
         "architectures": {name: found.hash for name, found in loaded.items()}},
    )  # fmt: skip
    for name, found in loaded.items():
        found.save(directory.path / "architectures" / f"{name}.json")
    return directory


def resume(directory: RunDirectory, given: Mapping[str, Any]) -> None:
    """Check that a tailoring can go on in ``directory``.

    Raises:
        InputError: It is no run of ``kdnas tailor``, or ``given`` would change its settings or its fleet.
    """
    if directory.document.get("verb") != "tailor":
        raise InputError(f"{directory.path} is no run of `kdnas tailor`: give it as --run to tailor from it")
    settings = make_settings(directory.settings)
    for key, value in given.items():
        if make_settings(directory.settings, {key: value}) != settings:
            raise InputError(f"a resumed run keeps its settings: leave out {key!r}, or start a new run")
    if "tailor.fleet" in given and load_fleet(given["tailor.fleet"]).document() != directory.document["fleet"]:
        raise InputError(f"the fleet was changed since {directory.path} began: leave it out, or start a new run")


def discard(directory: RunDirectory) -> None:
    """Remove a tailoring in which nothing was computed; anything else is left alone."""
    if not (directory.path / "stages").exists():
        shutil.rmtree(directory.path / "architectures", ignore_errors=True)
    directory.discard()


def tailor_fleet(directory: RunDirectory, say: Say, progress: bool) -> dict[str, Any]:
    """Everything that is not done yet in the directory of a fleet; returns the report (``tailor.json``)."""
    document = directory.document
    context = Context(make_settings(directory.settings), directory, progress)
    given = {name: directory.path / "architectures" / f"{name}.json" for name in document["architectures"]}
    tailoring = Tailoring(context, parse_fleet(document["fleet"], "the fleet in run.json"), given, say)
    tailoring.check()
    if directory.report("teach") is None:
        stages.teach(context, say)
    return tailoring.run()
