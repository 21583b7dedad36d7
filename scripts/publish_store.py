"""Make runs/published/store.json: what each form of stored knowledge costs and gives, over seeds.

    python scripts/publish_store.py --dataset fashion-mnist --labels 1000 --seeds 0 1 2
    python scripts/publish_store.py --dataset folder:../shared/data/cifar10-jpeg --seeds 0 1 2

Each seed is a run of ``kdnas teach`` in the working directory, and ``kdnas teach --report`` of it: students that are
trained are kept, so that a stopped command goes on; the times of a seed are measured at its end, all forms in turns.
Rows of other data sets that the table holds already are kept. A data set that is a folder is named after the folder.
"""

import argparse
from pathlib import Path
from typing import Any

from publishing import add_run_options, command, publish, run_script

from kdnas.config import parse_assignments
from kdnas.errors import InputError
from kdnas.pipeline import api
from kdnas.run.files import read_json

FORMS = ["none", "live", "fp16", "int8", "pca-64", "pca-128", "pq"]


def short(dataset: str) -> str:
    """A data set's name in the table: of a folder, the folder's."""
    return Path(dataset.removeprefix("folder:")).name


def reported(place: Path, given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The report of one seed: of an earlier command where it is complete, gone on with, or made now."""
    path = place / "store_report.json"
    if path.exists():
        found: dict[str, Any] = read_json(path)
        if {row["form"] for row in found["rows"]} >= set(given.forms):
            return found
    if given.collect:
        raise InputError(f"{place} has no report of all forms yet: run without --collect")
    settings = {
        "preset": given.preset, "dataset": given.dataset, "data.labels": given.labels, "device": given.device,
        "seed": seed, "threads": given.threads, **parse_assignments(given.set),
    }  # fmt: skip
    if (place / "run.json").exists():
        api.teach(resume=place, say=print)
    else:
        api.teach(out=place, say=print, **settings)
    return api.store_report(place, forms=given.forms, say=print)


def rows_of(report: dict[str, Any], given: argparse.Namespace) -> list[dict[str, Any]]:
    """One seed's report in the published form."""
    own = ("form", "dims", "feature_bytes", "top_bytes", "bytes_per_view", "image_bytes", "epoch_s", "epoch_ratio")
    return [
        {
            "dataset": short(given.dataset),
            "seed": report["seed"],
            **{key: row[key] for key in (*own, "accuracy", "ci95", "n")},
            **{key: report[key] for key in ("epoch_no_teacher_s", "epoch_live_s", "labels", "device", "params")},
        }
        for row in report["rows"]
        if row["form"] in given.forms
    ]


def labels(text: str) -> int | str:
    """A number, or ``all``."""
    return text if text == "all" else int(text)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="fashion-mini")
    parser.add_argument("--device", default="wearable")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--labels", type=labels, default=1000)
    parser.add_argument("--forms", nargs="+", default=FORMS)
    add_run_options(parser, threads=None)
    parser.add_argument("--work", type=Path, default=Path("runs/store"))
    parser.add_argument("--out", type=Path, default=Path("runs/published/store.json"))
    parser.add_argument("--collect", action="store_true", help="train nothing: publish what --work holds")
    given = parser.parse_args()

    rows: list[dict[str, Any]] = []
    for seed in given.seeds:
        rows += rows_of(reported(given.work / f"{short(given.dataset)}-s{seed}", given, seed), given)
    own = command("publish_store.py", given, "dataset", "device", "seeds", "labels", "forms")
    publish(given.out, own, rows, ["dataset"])


if __name__ == "__main__":
    run_script(main)
