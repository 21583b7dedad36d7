"""Make the tables about distillation in runs/published/: one subcommand each.

    python scripts/publish_distill.py few-labels --dataset fashion-mnist folder:cifar10-jpeg --seeds 0 1 2
    python scripts/publish_distill.py losses --dataset fashion-mini --seeds 0 1 2
    python scripts/publish_distill.py all-labels --dataset fashion-mnist folder:cifar10-jpeg --seeds 0 1 2
    python scripts/publish_distill.py stages --dataset fashion-mini --seeds 0 1 2 3 4
    python scripts/publish_distill.py weights --dataset fashion-mini --seeds 0 1 2 --systems feature-10 feature-30
    python scripts/publish_distill.py weights --dataset fashion-mini --seeds 0 1 2 \
        --systems link-feature-1 link-feature-30 --out runs/published/link_feature.json

All systems of a table train the same architecture, a published one, from the same first weights with the same batches
and steps, and are judged on test data once, at the end; ``weights``, which chooses a default, is judged on the images
of the architecture split that have no label in the experiment. A data set that is a folder is named after the folder.
What is finished is kept in --work and not done again, whatever has changed since in the code: begin another then.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from publishing import add_run_options, command, publish, run_script
from torch import Tensor, nn

from kdnas.config import make_settings, parse_assignments, parse_value
from kdnas.evaluate import evaluate_link, evaluate_teacher
from kdnas.knowledge.lessons import Lessons
from kdnas.loss import KnowledgeLoss
from kdnas.pipeline.context import Context
from kdnas.run.directory import RunDirectory
from kdnas.run.files import hash_of, read_json, write_json
from kdnas.run.seeds import seeded
from kdnas.run.tensors import read_tensors, write_tensors
from kdnas.space import Architecture, make_space
from kdnas.zoo import resolve

# What each system changes in the settings.
Changes = dict[str, dict[str, Any]]
# Features and logits keep their default weights.
EVERYTHING = {
    "loss.cosine": 0.1, "loss.decoupled": 0.3, "loss.distance": 0.1, "loss.angle": 0.03, "loss.bottleneck": 0.001,
}  # fmt: skip
FEW_LABELS: Changes = {
    "ce": {"loss.kd": 0.0},
    "ib": {"loss.kd": 0.0, "loss.bottleneck": 0.001},
    "kd": {"distill.unlabelled": False},
    "kd-all": {},
    "full": EVERYTHING,
}
_PARTS = ("ce", "feature", "logit", *(key.removeprefix("loss.") for key in EVERYTHING))
LOSSES: Changes = {
    "full": EVERYTHING,
    **{f"no-{part}": {**EVERYTHING, f"loss.{part}": 0.0} for part in _PARTS},
    "default": {},
}
ALL_LABELS: Changes = {"ce": {"loss.kd": 0.0}, "kd": {}}
# One stage has as many steps as two, on the same number of images; the encoder learns at the rate of stage 1, and
# features weigh what they weigh there.
STAGES: Changes = {
    "two-stage": {},
    "one-stage": {
        "distill.epochs": 0, "distill.link_epochs": 20, "distill.link_batch_size": 96, "distill.encoder_rate": 2.0,
        "distill.link_feature": 30.0,
    },
    "codec-only": {"distill.encoder_rate": 0.0},
}  # fmt: skip
ABLATIONS: Changes = {
    "rising-snr": {"distill.snr": "rising"},
    "consistency": {"loss.consistency": 1.0},
    "feature-noise": {"distill.feature_noise": 0.2},
}
# What features weigh beside labels and posteriors, which weigh 1: a choice, so it is not made on test data.
WEIGHTS: Changes = {
    **{f"feature-{w:g}": {"loss.feature": w, "distill.link_feature": w} for w in (0.1, 10, 30, 100)},
    **{f"link-feature-{w:g}": {"distill.link_feature": w} for w in (1, 10, 30)},
}

# Settings that stage 1 does not read begin so.
LINK_ONLY = (
    "distill.link_", "distill.encoder_rate", "distill.snr", "distill.feature_noise", "loss.consistency",
)  # fmt: skip


class Case(NamedTuple):
    """One data set with its labels and seed; the seed of the students may be another than that of data and teacher."""

    dataset: str
    labels: int | str
    data_seed: int

    @property
    def name(self) -> str:
        """Of the data set, without a path."""
        return Path(self.dataset.removeprefix("folder:")).name

    def context(self, given: argparse.Namespace) -> Context:
        """Its teacher and store, made where the cache has none."""
        settings = make_settings(
            parse_assignments(given.set),
            {"dataset": self.dataset, "data.labels": self.labels, "seed": self.data_seed, "preset": given.preset,
             "device": given.device, "threads": given.threads},
        )  # fmt: skip
        place = given.work / f"{self.name}-{self.labels}-s{self.data_seed}-{hash_of(given.preset, *given.set)}"
        run = (
            RunDirectory.open(place)
            if (place / "run.json").exists()
            else RunDirectory.create(place, settings.model_dump(mode="json"), {})
        )
        if run.settings["device"] != settings.device:  # what is kept there has that device's codec and channels
            raise SystemExit(f"{place} is of device {run.settings['device']}: begin another --work")
        return Context(settings, run, progress=False)


class _Student:
    """An encoder and a classifier as ``evaluate_teacher`` wants them."""

    def __init__(self, encoder: nn.Module, classifier: nn.Module) -> None:
        self.encoder, self.classifier = encoder.eval(), classifier.eval()

    def features(self, images: Tensor) -> Tensor:
        return self.encoder(images)

    def logits(self, features: Tensor) -> Tensor:
        return self.classifier(features)


def for_images(context: Context, name: str) -> Architecture:
    """The published architecture ``name``, for the images at hand."""
    found = Architecture.load(resolve(name) / "architecture.json")
    channels, size, _ = context.dataset.image_shape
    space = make_space(found.space, **{**found.options, "in_channels": channels, "image_size": size})
    return Architecture(found.space, space.options, space.check(found.choices))


def network(context: Context, name: str, seed: int) -> nn.Module:
    """``for_images``, its first weights drawn from ``seed``."""
    architecture = for_images(context, name)
    space = architecture.make_space()  # made before: it draws weights too
    with seeded(seed, "encoder"):
        return space.network(architecture.choices)


def trained(context: Context, changes: dict[str, Any], given: argparse.Namespace, seed: int, name: str) -> Any:
    """A distiller for a system, its loss, and a fresh network."""
    settings = make_settings(context.settings.model_dump(mode="json"), changes)
    wants_teacher = settings.loss.kd > 0
    lessons = (
        context.lessons if wants_teacher else Lessons(context.dataset, context.views, None, settings.knowledge.views)
    )
    from kdnas.distill import Distiller

    distiller = Distiller(
        lessons, context.splits, settings.distill, classes=len(context.dataset.classes),
        feature_dim=settings.spaces.feature_dim, statistics=context.statistics, directory=context.path / name,
        seed=seed, accelerator=settings.accelerator, progress=False,
    )  # fmt: skip
    return distiller, settings, network(context, given.architecture, seed)


def kept(context: Context, name: str, make: Any) -> Any:
    """What ``make`` returns, or what it returned before."""
    path = context.path / f"{name}.json"
    if not path.exists():
        write_json(path, make())
    return read_json(path)


def clean(
    context: Context, system: str, changes: dict[str, Any], given: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Stage 1 of one system; its accuracy on test data."""
    name = f"{system}-{given.architecture}-{seed}-{hash_of(changes)}"

    def make() -> dict[str, Any]:
        distiller, settings, net = trained(context, changes, given, seed, name)
        classifier, _ = distiller.clean(net, settings.loss, system)
        images, labels = context.dataset.test_images, context.dataset.test_labels
        row = evaluate_teacher(_Student(net, classifier), images, labels, batch_size=500)[0]
        return {"accuracy": row["accuracy"], "ci95": row["ci95"], "params": sum(p.numel() for p in net.parameters())}

    return {"architecture": given.architecture, **kept(context, name, make)}


def teacher_accuracy(context: Context) -> float:
    """Of the teacher on test data."""

    def make() -> dict[str, Any]:
        row = evaluate_teacher(context.teacher, context.dataset.test_images, context.dataset.test_labels)[0]
        return {"accuracy": row["accuracy"]}

    return float(kept(context, "teacher", make)["accuracy"])


def clean_table(given: argparse.Namespace, systems: Changes, labels: Sequence[int | str]) -> list[dict[str, Any]]:
    """Rows of few_labels.json and the tables like it."""
    rows = []
    for dataset in given.dataset:
        for seed in given.seeds:
            for count in labels:
                case = Case(dataset, count, seed if given.data_seed is None else given.data_seed)
                context = case.context(given)
                for system, changes in systems.items():
                    row = clean(context, system, changes, given, seed)
                    rows.append(
                        {"dataset": case.name, "labels": count, "system": system, "seed": seed, **row,
                         "teacher": context.settings.teacher, "teacher_accuracy": teacher_accuracy(context),
                         "images": len(context.dataset.train_images),
                         "epochs": context.settings.distill.epochs * context.settings.distill.steps
                         * context.settings.distill.batch_size / len(context.dataset.train_images)}
                    )  # fmt: skip
                    print(json.dumps(rows[-1]), flush=True)
    return rows


def stages_table(given: argparse.Namespace, systems: Changes, held_out: bool = False) -> list[dict[str, Any]]:
    """Rows of stages.json, or of a table like it that is judged on held-out training images."""
    rows = []
    for dataset in given.dataset:
        for seed in given.seeds:
            case = Case(dataset, given.labels[0], seed if given.data_seed is None else given.data_seed)
            context = case.context(given)
            for system, changes in systems.items():
                points = through_link(context, system, changes, given, seed, held_out)
                rows += [
                    {"dataset": case.name, "system": system, "seed": seed,
                     **{key: point[key] for key in ("channel", "snr_db", "symbols", "accuracy", "ci95")}}
                    for point in points
                ]  # fmt: skip
                print(system, seed, [f"{100 * p['accuracy']:.1f}" for p in points], flush=True)
    return rows


def through_link(
    context: Context,
    system: str,
    changes: dict[str, Any],
    given: argparse.Namespace,
    seed: int,
    held_out: bool,
) -> list[dict[str, Any]]:
    """Both stages of one system; its accuracy at every channel and SNR on test data, or on ``held_out`` images."""
    name = f"{system}-{given.architecture}-{seed}-{hash_of(changes)}" + ("-held-out" if held_out else "")
    before = {key: value for key, value in changes.items() if not key.startswith(LINK_ONLY)}
    first = context.path / f"stage1-{given.architecture}-{seed}-{hash_of(before)}.safetensors"
    data, ids = context.dataset, context.splits.architecture_unlabelled
    images, labels = (
        (data.train_images[ids], data.train_labels[ids]) if held_out else (data.test_images, data.test_labels)
    )

    def make() -> dict[str, Any]:
        distiller, settings, net = trained(context, changes, given, seed, name)
        # Systems that differ in stage 2 alone share stage 1.
        whole = nn.ModuleDict(
            {
                "encoder": net,
                "classifier": nn.Linear(settings.spaces.feature_dim, len(data.classes)),
                "loss": distiller.knowledge_loss(settings.loss),
            }
        )
        if first.exists():
            whole.load_state_dict(read_tensors(first))
        else:
            whole["classifier"], whole["loss"] = distiller.clean(net, settings.loss, "stage1")
            write_tensors(first, whole.state_dict())
        knowledge = whole["loss"]
        assert isinstance(knowledge, KnowledgeLoss)
        radio = context.device.link
        link = distiller.through_link(
            net, whole["classifier"], knowledge, context.codec(), snr_db=context.training_snr_db,
            channels=radio.channels, name="stage2",
        )  # fmt: skip
        points = evaluate_link(
            link, images, labels, system=system, channels=radio.channels,
            snrs_db=settings.evaluate.snrs_db, lengths=[radio.symbols], draws=settings.evaluate.draws,
            batch_size=settings.evaluate.batch_size, seed=seed,
        )  # fmt: skip
        return {"points": points}

    return list(kept(context, name, make)["points"])


TABLES: dict[str, tuple[str, Changes, list[str]]] = {
    "few-labels": ("few_labels.json", FEW_LABELS, ["100", "500", "1000", "5000", "all"]),
    "losses": ("loss_ablation.json", LOSSES, ["1000"]),
    "all-labels": ("all_labels.json", ALL_LABELS, ["all"]),
    "stages": ("stages.json", {**STAGES, **ABLATIONS}, ["1000"]),
    "weights": ("feature_weight.json", WEIGHTS, ["1000"]),  # of both stages, or of stage 2 alone
}
OPTIONS = ("dataset", "labels", "seeds", "systems", "data_seed", "device", "architecture")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--dataset", nargs="+", default=["fashion-mini"], help="data sets, or folder:PATH")
    parser.add_argument("--labels", nargs="+", help="numbers of labels, or all (default: the table's)")
    parser.add_argument("--systems", nargs="+", help="only these (default: the table's)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data-seed", type=int, help="one seed for data, labels and teacher of all students")
    parser.add_argument("--device", default="wearable")
    parser.add_argument("--architecture", default="wearable-fashion-mini", help="published architecture of the student")
    add_run_options(parser, "system")
    parser.add_argument("--work", type=Path, default=Path("runs/distill"))
    parser.add_argument("--out", type=Path, help="the published file (default: the table's, in runs/published)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    file, systems, labels = TABLES[given.table]
    given.labels = [parse_value(text) for text in given.labels or labels]
    if given.systems:
        unknown = set(given.systems) - set(systems)
        if unknown:
            parser.error(f"no system {', '.join(sorted(unknown))}: there are {', '.join(systems)}")
        systems = {name: systems[name] for name in given.systems}
    if given.table in ("stages", "weights"):
        rows = stages_table(given, systems, held_out=given.table == "weights")
    else:
        rows = clean_table(given, systems, given.labels)
    out = given.out or Path("runs/published") / file
    publish(out, command("publish_distill.py", given, *OPTIONS), rows, ["dataset", "teacher", "architecture"])


if __name__ == "__main__":
    run_script(main)
