"""Make the tables of the search in runs/published/: budgets.json, collapse.json, search_baselines.json.

    python scripts/publish_search.py budgets      # every device class and seed: what is found against its budgets
    python scripts/publish_search.py collapse     # what protects a search from collapsing, and what does not
    python scripts/publish_search.py baselines    # the search against other ways to get an architecture

Rows that are there are kept and finished runs in the working directory are taken as they are, so that a stopped command
goes on. No choice made here reads test images; ``baselines`` reports accuracy on them.
"""

import argparse
import json
import math
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from publishing import command, run_script

from kdnas.config import Settings, make_settings
from kdnas.cost import CostTables
from kdnas.errors import InputError
from kdnas.pipeline import api, stages
from kdnas.pipeline.context import Context
from kdnas.run.directory import RunDirectory
from kdnas.run.files import read_json, write_json
from kdnas.run.seeds import generator
from kdnas.run.tensors import read_tensors, write_tensors
from kdnas.space import Architecture, make_space

PUBLISHED = Path("runs/published")
QUICK = {"preset": "quick", "dataset": "fashion-mini", "data.labels": 1000, "tune.check": 0}

# The two levels from the first step, at a temperature of 1: DARTS as it was published, with our losses and steps.
PLAIN = {
    "search.warmup_epochs": 0, "search.epochs": 11, "search.temperature": [1.0, 1.0], "search.shrink": False,
}  # fmt: skip
WARM = {"search.warmup_epochs": 5, "search.epochs": 6}
PROTECTIONS: dict[str, dict[str, Any]] = {
    "none": PLAIN,
    "warm-up": PLAIN | WARM,
    "beta decay": PLAIN | {"search.beta_decay": 1.0},
    "skip decay": PLAIN | {"search.skip_decay": 1.0},
    "early stop": PLAIN | {"search.eigenvalue_every": 1, "search.eigenvalue_stop": 1.33},
    "annealing": PLAIN | {"search.temperature": [1.0, 0.02]},
    "warm-up, annealing": PLAIN | WARM | {"search.temperature": [1.0, 0.02]},
    "warm-up, single path": PLAIN | WARM | {"search.relaxation": "gumbel", "search.temperature": [5.0, 0.1]},
    "warm-up, shrinking": PLAIN | WARM | {"search.shrink": True},
    "warm-up, annealing, shrinking": {},
}


def context_of(place: Path, **settings: Any) -> Context:
    """A context of its own in ``place``, which is emptied before."""
    shutil.rmtree(place, ignore_errors=True)
    made = make_settings({**QUICK, **settings})
    return Context(made, RunDirectory.create(place, made.model_dump(mode="json")), progress=False)


def searched(place: Path, **settings: Any) -> Path:
    """A run in ``place`` with its study and its search done: of an earlier command, gone on with, or made now."""
    begun = (place / "run.json").exists()
    if not (place / "stages" / "tune.json").exists():
        api.tune(**({"resume": place} if begun else {"out": place, **QUICK, **settings}), say=print, progress=False)
    if not (place / "stages" / "search.json").exists():
        api.search(resume=place, say=print, progress=False)
    return place


def trained(place: Path, architecture: Architecture, **settings: Any) -> dict[str, Any]:
    """Both stages of distillation and the evaluation of a given architecture: the same for every system."""
    if not (place / "results.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        architecture.save(place / "architecture.json")
        where = {"evaluate.snrs_db": [10.0], "evaluate.lengths": [64]}
        again = {"resume": place} if (place / "run.json").exists() else {"out": place, **QUICK, **settings, **where}
        api.distill(say=print, progress=False, architecture=place / "architecture.json", **again)
        api.evaluate(place, say=print)
    return json.loads((place / "results.json").read_text())


def budgets(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Device x seed x cost: the whole transmitter against the class's budgets."""
    for seed in given.seeds:
        for device in given.devices:
            place = searched(given.work / f"{device}-s{seed}", device=device, seed=seed, threads=given.threads)
            run = RunDirectory.open(place)
            context = Context(make_settings(run.settings), run, progress=False)
            choices = Architecture.load(place / "architecture.json").choices
            value = context.transmitter_costs(context.tables.steps(choices))
            largest = {name: most(context, name) for name in context.encoder_budgets}
            for name, budget in context.device.budgets.items():
                yield {
                    "device": device, "seed": seed, "cost": str(name), "value": value[name], "budget": budget,
                    "largest_fits": all(largest[n] <= limit for n, limit in context.encoder_budgets.items()),
                }  # fmt: skip


def most(context: Context, cost: str) -> float:
    """The largest value that any single architecture of the space can have, from above: each unit at its dearest."""
    tables = context.tables
    if cost in tables.peaks:
        return max(float(held.max()) for held in tables.peaks[cost])
    return sum(float(sums[:, tables.summed.index(cost)].max()) for sums in tables.sums)


def collapse(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Protection x seed: the discretisation gap, skips, curvature, and what the derived network is worth."""
    for space in given.spaces:
        for seed in given.seeds:
            for name, changes in PROTECTIONS.items():
                if name not in given.protections or any(
                    (r["space"], r["protection"], r["seed"]) == (space, name, seed) for r in given.kept
                ):
                    continue
                yield protected(space, seed, name, changes, given)


def protected(space: str, seed: int, name: str, changes: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """One search, from a supernet of uniform choices where it has a warm-up, else from scratch."""
    common = {"device": given.devices[0], "seed": seed, "space": space, "threads": given.threads}
    context = context_of(given.work / "collapse", **{"search.eigenvalue_every": 5, **changes}, **common)
    s = context.settings
    weights = None
    if s.search.warmup_epochs:
        kept = given.work / f"warm-{space}-s{seed}-{s.search.relaxation}.safetensors"
        if not kept.exists():
            write_tensors(kept, context.searcher.warm_up(s.search, s.loss, context.path, "warm-up", progress=False))
        weights = read_tensors(kept)
    settings = s.search.model_copy(update={"warmup_epochs": 0})
    result = context.searcher.run(
        settings, s.loss, context.path, "search", weights=weights, on_epoch=lambda *_: None, progress=False
    )
    eigenvalues = [row["eigenvalue"] for row in result.history if row.get("eigenvalue") is not None]
    with torch.no_grad():
        ids, right = context.splits.weights_unlabelled, 0
        for part in ids.split(500):  # labels that no step has seen
            images = context.views.apply(context.dataset.train_images[part], part, 0)
            found = result.classifier(result.network.eval()(images)).argmax(1)
            right += int((found == context.dataset.train_labels[part]).sum())
    used = {cost: result.costs[cost] / limit for cost, limit in context.encoder_budgets.items()}
    return {
        "space": space, "device": given.devices[0], "protection": name, "seed": seed, "gap": result.gap,
        "accuracy_relaxed": result.accuracy_relaxed, "accuracy_derived": result.accuracy_derived,
        "accuracy_unlabelled": right / len(ids), "skips": sum(result.history[-1]["skips"].values()),
        "eigenvalue": eigenvalues[-1] if eigenvalues else None, "entropy": result.history[-1]["entropy"],
        "binding_use": max(used.values()),
        "likely_over_budget": max(result.likely[cost] / limit for cost, limit in context.encoder_budgets.items()),
    }  # fmt: skip


def baselines(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """System x seed: test accuracy at 10 dB and 64 symbols after the same training."""
    device = given.devices[0]
    for name in given.systems:
        for seed in given.seeds:
            common = {"device": device, "seed": seed, "threads": given.threads}
            ours = searched(given.work / f"{device}-s{seed}", **common)
            run = RunDirectory.open(ours)
            context = Context(make_settings(run.settings), run, progress=False)
            ways: dict[str, Callable[[], Architecture]] = {
                "kdnas": partial(Architecture.load, ours / "architecture.json"),
                "random": partial(best_of_random, context, given.random, given.work / f"{device}-s{seed}-draws"),
                "mobilenet-v2": partial(mobilenet, context),
                "no-penalty": partial(found_with, NO_PENALTY, f"no-penalty-s{seed}", common, given.work),
                "no-kd-search": partial(found_with, {"loss.kd": 0.0}, f"no-kd-s{seed}", common, given.work),
            }
            place = given.work / f"{device}-s{seed}-{name}"
            if name == "kdnas" and (ours / "results.json").exists():
                results = json.loads((ours / "results.json").read_text())  # of a whole run: trained the same way
            else:
                done = (place / "results.json").exists()
                architecture = Architecture.load(place / "architecture.json") if done else ways[name]()
                own = {k: v for k, v in architecture.options.items() if v != context.space_options[k]}
                results = trained(place, architecture, **common, **({"spaces.options": own} if own else {}))
            point = next(
                row
                for row in results["curves"]
                if (row["system"], row["channel"], row["snr_db"], row["symbols"]) == ("kdnas", "awgn", 10.0, 64)
            )
            value = results["transmitter"]
            yield {
                "device": device, "system": name, "seed": seed, "accuracy": point["accuracy"], "ci95": point["ci95"],
                "params": value["params"], "macs": value["macs"],
                "in_budget": all(value[str(cost)] <= limit for cost, limit in context.device.budgets.items()),
            }  # fmt: skip


SYSTEMS = ["kdnas", "random", "mobilenet-v2", "no-penalty", "no-kd-search"]
NO_PENALTY = {
    "search.penalty": {"params": 0.0, "macs": 0.0, "sram_bytes": 0.0}, "search.use_penalty": 0.0,
}  # fmt: skip


def found_with(changes: dict[str, Any], name: str, common: dict[str, Any], work: Path) -> Architecture:
    """What study and search find with some settings changed."""
    place = searched(work / f"{common['device']}-search-{name}", **common, **changes)
    return Architecture.load(place / "architecture.json")


def search_steps(context: Context) -> int:
    """Forward and backward passes that warm-up, study and search make, had nothing been pruned."""
    s, t = context.settings.search, context.settings.tune
    return s.warmup_epochs * s.steps + 2 * (t.trials * t.epochs * t.steps + s.epochs * s.steps)


def best_of_random(context: Context, count: int, place: Path) -> Architecture:
    """The best on the architecture split of ``count`` uniform draws that use the budgets as ours must.

    Each is trained alone, for its share of all the steps that the search makes.
    """
    steps = search_steps(context) // count
    draw = generator(context.settings.seed, "random baseline")
    use, tried = context.settings.search.budget_use, 0
    best: tuple[float, dict[str, Any], dict[str, float]] = (-1.0, {}, {})
    for _ in range(200_000):
        choices = context.space.random(draw)
        costs = context.tables.exact(choices)
        shares = [costs[name] / limit for name, limit in context.encoder_budgets.items()]
        if not use <= max(shares) <= 1:
            continue
        s = context.settings
        epochs = max(1, math.ceil(steps / s.distill.steps))
        short = make_settings(s.model_dump(), {"distill.epochs": epochs, "distill.steps": math.ceil(steps / epochs)})
        again = context_like(context, short, place)
        accuracy = stages.train_clean(again, stages.fresh(again, choices), f"random/{tried:02d}")
        best = max(best, (accuracy, choices, costs), key=lambda entry: entry[0])
        tried += 1
        if tried == count:
            return Architecture(s.space, context.space_options, best[1], best[2])
    raise InputError(f"only {tried} of 200,000 random architectures use {use:.0%} of a budget: ask for fewer")


def context_like(context: Context, settings: Settings, place: Path) -> Context:
    """The same under other settings, in a directory of its own; what is computed already is shared."""
    made = Context(settings, RunDirectory(place), progress=False)
    for name in ("dataset", "splits", "views", "teacher", "store", "space", "tables", "searcher"):
        made.__dict__[name] = getattr(context, name)
    return made


def mobilenet(context: Context) -> Architecture:
    """MobileNetV2's proportions (3x3 kernels, expansion 6, no block left out), scaled by width into the budgets."""
    found = None
    for step in range(2, 41):
        options = {**context.space_options, "width": step / 20}
        space = make_space("mobile", **options)
        fixed = {"kernel": 3, "expansion": 6, "keep": True}
        choices = {
            label: fixed.get(label.split("/")[1], values[len(values) // 2]) for label, values in space.domains().items()
        }
        costs = CostTables(space.units(), space.domains(), context.costs).exact(choices)
        if all(costs[name] <= limit for name, limit in context.encoder_budgets.items()):
            found = Architecture("mobile", space.options, choices, costs)
    if found is None:
        raise InputError(f"no width of MobileNetV2 fits {context.device.name}")
    return found


TABLES = {"budgets": budgets, "collapse": collapse, "baselines": baselines}
FILES = {"budgets": "budgets.json", "collapse": "collapse.json", "baselines": "search_baselines.json"}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--devices", nargs="+", help="default: all classes for budgets, else wearable")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--spaces", nargs="+", default=["mobile", "cell"], help="of the collapse table")
    parser.add_argument("--protections", nargs="+", choices=list(PROTECTIONS), default=list(PROTECTIONS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS, help="of the table of baselines")
    parser.add_argument("--random", type=int, default=8, help="N of the best of N random architectures")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/quick"))
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    all_devices = ["mcu", "wearable", "phone", "gateway"]
    given.devices = given.devices or (all_devices if given.table == "budgets" else ["wearable"])
    out = given.out or PUBLISHED / FILES[given.table]
    given.kept = read_json(out)["rows"] if given.table == "collapse" and out.exists() else []
    own = {"baselines": ("random", "systems"), "collapse": ("spaces", "protections")}.get(given.table, ())
    again = command("publish_search.py", given, "devices", "seeds", *own)
    rows = list(given.kept)
    for row in TABLES[given.table](given):
        rows.append(row)
        print(json.dumps(row), flush=True)
        write_json(out, {"command": again, "rows": rows})


if __name__ == "__main__":
    run_script(main)
