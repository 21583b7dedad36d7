"""Make the tables about the link in runs/published/: one subcommand each.

    python scripts/publish_link.py envelope --dataset fashion-mini --seeds 0 1 2 3 4
    python scripts/publish_link.py envelope --dataset folder:cifar10-jpeg --seeds 0 1 2 --device gateway \
        --architecture gateway-fashion-mini
    python scripts/publish_link.py kept --dataset folder:cifar10-jpeg --seeds 0 --device gateway \
        --architecture gateway-fashion-mini --set distill.epochs=50 distill.link_epochs=20

envelope: the link and what it is compared with (``kdnas.pipeline.baselines``) train the same published architecture,
made for the images at hand, from the same first weights with the same images, labels and steps, and are judged on test
data once, at the end, with the same noise. What is finished is kept in --work and not done again, whatever has changed
since in the code: begin another --work then. Processes with different data sets, seeds or systems may share --work,
once --systems kdnas is finished for a data set and seed; the last command, with all of them, only collects the rows.

A system that is new in the code is added to an old --work by the same command with --systems NAME: all that is finished
there is read, not made again, and its rows are published with the new ones.

digital-features and digital-image need Sionna (extra baselines), but neither the teacher nor a GPU once kdnas is
finished: they may be left out with --systems on one machine and made on another, to which --work is copied.

kept: the link alone and its teacher, of whose accuracy a device may keep more where it is trained for longer, or on
more images, than all systems of the envelope are.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from publish_distill import for_images
from publishing import add_run_options, command, publish, run_script

from kdnas.config import BASELINES, make_settings, parse_assignments, parse_value
from kdnas.evaluate import accuracy_ci95, evaluate_teacher, paired_difference
from kdnas.pipeline.baselines import Baselines
from kdnas.pipeline.context import Context
from kdnas.pipeline.stages import both_stages
from kdnas.run.directory import RunDirectory
from kdnas.run.files import hash_of, read_json, write_json
from kdnas.run.tensors import torch_device

OURS = "kdnas"
SYSTEMS = (OURS, *BASELINES)


class Case:
    """One data set and seed: its run directory below --work, and the systems in it."""

    def __init__(self, dataset: str, seed: int, given: argparse.Namespace) -> None:
        self.name, self.seed = Path(dataset.removeprefix("folder:")).name, seed
        self.compared = given.table == "envelope"
        settings = make_settings(
            parse_assignments(given.set),
            {"dataset": dataset, "data.labels": parse_value(given.labels), "seed": seed, "preset": given.preset,
             "device": given.device, "threads": given.threads},
        )  # fmt: skip
        made_by = hash_of(given.preset, given.architecture, *given.set)
        place = given.work / f"{self.name}-{settings.device}-{given.labels}-s{seed}-{made_by}"
        run = (
            RunDirectory.open(place)
            if (place / "run.json").exists()
            else RunDirectory.create(place, settings.model_dump(mode="json"), {})
        )
        self.context = Context(settings, run, progress=False)
        self.systems = Baselines(self.context, for_images(self.context, given.architecture), place / "systems")

    def make(self, name: str) -> None:
        """Train and measure a system, where it is not finished."""
        if self.systems.is_kept(name):
            return
        if name == OURS:
            context, network = self.context, self.systems.network()
            link = self.systems.link(OURS, lambda: both_stages(context, network, context.settings.loss, OURS))
            if self.compared:
                self.systems.prepare()
            self.teacher()
            self.systems.keep_link(OURS, link)
        else:
            self.systems.correct(name)
        print(f"{self.name}, seed {self.seed}: {name}", flush=True)

    def teacher(self) -> dict[str, Any]:
        """Parameters, and accuracy on test data."""
        path = self.systems.directory / "teacher.json"
        if not path.exists():
            context = self.context
            row = evaluate_teacher(
                context.teacher, context.dataset.test_images, context.dataset.test_labels,
                device=torch_device(context.settings.accelerator),
            )[0]  # fmt: skip
            params = context.teacher.parameter_count
            write_json(path, {"params": params, "accuracy": row["accuracy"], "ci95": row["ci95"]})
        return dict(read_json(path))

    def rows(self) -> list[dict[str, Any]]:
        """Of every system that is finished."""
        teacher, ours = self.teacher(), self.systems.correct(OURS)
        of_all = {"dataset": self.name, "device": self.context.device.name, "seed": self.seed}
        of_teacher = {"teacher_params": teacher["params"], "teacher_accuracy": teacher["accuracy"]}
        rows = [
            {**of_all, "system": "teacher", "channel": None, "snr_db": None, "symbols": None,
             "accuracy": teacher["accuracy"], "ci95": teacher["ci95"], "transmitter_params": None, **of_teacher,
             "difference": None, "difference_ci95": None}
        ]  # fmt: skip
        for name in SYSTEMS if self.compared else (OURS,):
            if not self.systems.is_kept(name):
                continue
            info = self.systems.info(name)
            for point, right in self.systems.correct(name).items():
                accuracy, ci95 = accuracy_ci95(right.numpy())
                own = ours.get(point)
                difference: tuple[float, float] | tuple[None, None] = (None, None)
                if name != OURS and own is not None:
                    difference = paired_difference(right.numpy(), own.numpy())
                rows.append(
                    {**of_all, "system": name, **point.columns(), "accuracy": accuracy, "ci95": ci95,
                     **info, **of_teacher, "difference": difference[0],
                     "difference_ci95": difference[1]}
                )  # fmt: skip
        return rows


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["envelope", "kept"])
    parser.add_argument("--dataset", nargs="+", default=["fashion-mini"], help="data sets, or folder:PATH")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, help="envelope: make only these")
    parser.add_argument("--labels", default="1000")
    parser.add_argument("--device", default="wearable")
    parser.add_argument("--architecture", default="wearable-fashion-mini", help="published architecture of the encoder")
    add_run_options(parser, "system")
    parser.add_argument("--work", type=Path, default=Path("runs/link"))
    parser.add_argument("--out", type=Path, help="the published file (default: runs/published/TABLE.json)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.table == "kept" and given.systems:
        parser.error("--systems goes with the table envelope: kept is of the link alone")
    systems = [OURS] if given.table == "kept" else given.systems or SYSTEMS
    rows = []
    for dataset in given.dataset:
        for seed in given.seeds:
            case = Case(dataset, seed, given)
            case.systems.check([name for name in systems if name != OURS])
            for name in (OURS, *(name for name in SYSTEMS if name in systems and name != OURS)):
                case.make(name)
            rows += case.rows()
    again = command("publish_link.py", given, "dataset", "seeds", "labels", "device", "architecture")
    keys = ["dataset", "device"] if given.table == "kept" else ["dataset"]
    publish(given.out or Path("runs/published") / f"{given.table}.json", again, rows, keys)


if __name__ == "__main__":
    run_script(main)
