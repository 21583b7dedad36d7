"""Make runs/published/nas_bench_201.json: what plain DARTS and KDL-DARTS find in NAS-Bench-201 on CIFAR-10.

    python scripts/publish_nas_bench_201.py --dataset folder:PATH

The published search takes 50 epochs of the whole network (17 cells of 16 channels), days on a CPU. Here the proxy is
smaller (``--channels``, ``--cells``) and the steps are fewer; all systems get the same proxy, images, batch size and
number of steps, and no teacher. Every string found can be looked up in the benchmark; nothing here reads test images.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from publishing import command, run_script

from kdnas import config
from kdnas.config import make_settings, parse_assignments
from kdnas.cost import CostTables
from kdnas.data import Views, load_dataset, make_splits
from kdnas.knowledge.lessons import Lessons
from kdnas.run.files import read_json, write_json
from kdnas.search import Searcher
from kdnas.space import make_space
from search_spaces.nas_bench_201 import published_costs, to_string

# Plain DARTS: the mixture as it is, at a temperature of 1, from the first step to the arg-max; nothing protects it.
SYSTEMS: dict[str, dict[str, Any]] = {
    "darts": {
        "search.temperature": [1.0, 1.0], "search.shrink": False, "search.alpha_learning_rate": 0.003,
        "share_warmup": 0.0,
    },
    "kdnas": {"share_warmup": 0.4},
    # As for a device class: parameters and MACs within two thirds of the largest network, nine tenths of one used.
    "kdnas-budget": {"share_warmup": 0.4, "search.penalty": {"params": 0.3, "macs": 0.3}},
}  # fmt: skip
BUDGET_SHARE = 2 / 3


def search(system: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """One search; the row that is published."""
    changes = dict(SYSTEMS[system])
    epochs = given.steps // 50
    warmup = round(changes.pop("share_warmup") * epochs)
    settings = make_settings(
        {
            "search.warmup_epochs": warmup, "search.epochs": epochs - warmup, "search.steps": 50,
            "search.batch_size": given.batch_size, "search.labelled_fraction": 1.0, "search.penalty": {},
            "search.eigenvalue_every": 2, "loss.kd": 0.0, "seed": seed, **changes,
            **(parse_assignments(given.set) if system != "darts" else {}),
        }
    )  # fmt: skip
    dataset = load_dataset(given.dataset)
    channels, size, _ = dataset.image_shape
    options = {
        "in_channels": channels, "image_size": size, "feature_dim": 64, "channels": given.channels,
        "cells": given.cells,
    }  # fmt: skip
    space = make_space("nas_bench_201", **options)
    tables = CostTables(space.units(), space.domains())
    largest = tables.exact(dict.fromkeys(space.domains(), "nor_conv_3x3"))
    budgets = {name: BUDGET_SHARE * largest[name] for name in settings.search.penalty}
    lessons = Lessons(dataset, Views(True, 2, seed), None)
    searcher = Searcher(
        "nas_bench_201", options, lessons, make_splits(dataset.train_labels, "all", seed),
        tables, budgets, classes=len(dataset.classes),
        statistics=(torch.zeros(1), torch.ones(1)), seed=seed,
    )  # fmt: skip
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        result = searcher.run(settings.search, config.Loss(kd=0.0), Path(directory), "search", progress=True)
    row = {"system": system, "seed": seed, "arch": to_string(result.choices), **published_costs(result.choices)}
    row |= {
        "skips": sum(value == "skip_connect" for value in result.choices.values()),
        "accuracy_relaxed": result.accuracy_relaxed, "accuracy_derived": result.accuracy_derived, "gap": result.gap,
        "eigenvalues": [h["eigenvalue"] for h in result.history if h.get("eigenvalue") is not None],
        "search_s": time.perf_counter() - start, "steps": given.steps, "channels": given.channels,
        "cells": given.cells,
    }  # fmt: skip
    return row


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10", help="cifar10, or folder:PATH of its images")
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600, help="steps of a search, warm-up among them")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--cells", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of all but plain DARTS")
    parser.add_argument("--out", type=Path, default=Path("runs/published/nas_bench_201.json"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    # Rows that are there are kept, so that a stopped run goes on.
    rows = read_json(given.out)["rows"] if given.out.exists() else []
    options = ("dataset", "steps", "batch_size", "channels", "cells", "systems", "seeds")
    again = command("publish_nas_bench_201.py", given, *options)
    for seed in given.seeds:
        for system in given.systems:
            if any((row["system"], row["seed"]) == (system, seed) for row in rows):
                continue
            rows.append(search(system, seed, given))
            print(system, seed, rows[-1]["arch"], f"gap {100 * rows[-1]['gap']:+.1f}", flush=True)
            write_json(given.out, {"command": again, "rows": rows})
    rows.sort(key=lambda row: (row["system"], row["seed"]))
    write_json(given.out, {"command": again, "rows": rows})


if __name__ == "__main__":
    run_script(main)
