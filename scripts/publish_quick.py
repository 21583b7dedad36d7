"""Make runs/published/quick.json: whole runs over devices and seeds, and random architectures beside them.

    python scripts/publish_quick.py --devices mcu wearable phone --seeds 0 1 2 --random 8

Finished runs in the working directory are taken as they are, stopped ones go on. A random architecture is drawn
uniformly from those inside the same budgets, and trained and judged exactly like the found one (both stages, the same
labels, steps and seed); it is judged at 10 dB and full length.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from publishing import add_run_options, command, run_script

from kdnas.config import make_settings, parse_assignments
from kdnas.errors import InputError
from kdnas.evaluate import validate_published
from kdnas.pipeline import api
from kdnas.pipeline.context import Context
from kdnas.run.directory import RunDirectory
from kdnas.run.files import write_json
from kdnas.run.seeds import generator
from kdnas.space import Architecture

COSTS = ("params", "macs", "sram_bytes", "flash_bytes")


def random_architectures(context: Context, count: int) -> list[dict[str, Any]]:
    """``count`` distinct choices drawn uniformly among those inside the encoder's budgets."""
    draw = generator(context.settings.seed, "random architectures")
    found: list[dict[str, Any]] = []
    for _ in range(100_000):
        choices = context.space.random(draw)
        costs = context.tables.exact(choices)
        if all(costs[name] <= limit for name, limit in context.encoder_budgets.items()) and choices not in found:
            found.append(choices)
        if len(found) == count:
            return found
    raise InputError(f"only {len(found)} of 100,000 random architectures fit {context.device.name}: ask for fewer")


def finished(directory: Path, **settings: Any) -> dict[str, Any]:
    """The results of a run in ``directory``: of an earlier one, or gone on with, or made now."""
    if (directory / "run.json").exists():
        api.run(resume=directory, say=print, progress=False)
    else:
        api.run(out=directory, say=print, progress=False, **settings)
    return json.loads((directory / "results.json").read_text())


def rows_of(results: dict[str, Any], system: str | None = None) -> list[dict[str, Any]]:
    """The curves of one run in the published form."""
    rows = []
    for row in results["curves"]:
        if system is not None and row["system"] != "kdnas":
            continue
        own = row["system"] != "teacher"
        rows.append(
            {
                **{key: results[key] for key in ("device", "dataset", "seed")},
                "system": system or row["system"],
                "labels": results["labels"],
                **{key: row[key] for key in ("channel", "snr_db", "symbols", "accuracy", "ci95")},
                **{key: results["transmitter"][key] if own else None for key in COSTS},
                **({} if own else {"params": results["teacher"]["params"]}),
            }
        )
    return rows


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", nargs="+", default=["mcu", "wearable", "phone"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--random", type=int, default=8, help="random architectures for each device")
    parser.add_argument("--random-seeds", nargs="+", type=int, default=[0], help="seeds with random architectures")
    add_run_options(parser, threads=None)
    parser.add_argument("--dataset", default="fashion-mini")
    parser.add_argument("--labels", default=1000, type=int)
    parser.add_argument("--work", type=Path, default=Path("runs/quick"))
    parser.add_argument("--out", type=Path, default=Path("runs/published/quick.json"))
    parser.add_argument("--collect", action="store_true", help="train nothing: publish what --work holds")
    given = parser.parse_args()
    common = {
        "preset": given.preset,
        "dataset": given.dataset,
        "data.labels": given.labels,
        "threads": given.threads,
        **parse_assignments(given.set),
    }
    if given.threads:
        torch.set_num_threads(given.threads)

    rows: list[dict[str, Any]] = []
    for seed in given.seeds:
        for device in given.devices:
            directory = given.work / f"{device}-s{seed}"
            if given.collect and not (directory / "results.json").exists():
                raise InputError(f"{directory} has no results yet: run without --collect")
            results = (
                json.loads((directory / "results.json").read_text())
                if given.collect
                else finished(directory, device=device, seed=seed, **common)
            )
            rows += rows_of(results)
            if seed not in given.random_seeds:
                continue
            run = RunDirectory.open(directory)
            context = Context(make_settings(run.settings), run, progress=False)
            for number, choices in enumerate(random_architectures(context, given.random), 1):
                place = given.work / f"{device}-s{seed}-random{number}"
                if given.collect and not (place / "results.json").exists():
                    continue
                rows += rows_of(random_run(context, choices, place, common), f"random-{number}")
    again = command("publish_quick.py", given, "devices", "seeds", "random", "random_seeds", "dataset", "labels")
    write_json(given.out, validate_published({"command": again, "rows": rows}))
    print(f"wrote {given.out}: {len(rows)} rows")


def random_run(context: Context, choices: dict[str, Any], place: Path, common: dict[str, Any]) -> dict[str, Any]:
    """Distil and evaluate one given architecture as a run of its own."""
    if not (place / "results.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        Architecture(context.settings.space, context.space_options, choices).save(place / "architecture.json")
        where = {"evaluate.snrs_db": [10.0], "evaluate.lengths": [context.device.link.symbols]}
        again = (
            {"resume": place}
            if (place / "run.json").exists()
            else {"out": place, "device": context.settings.device, "seed": context.settings.seed, **common, **where}
        )
        api.distill(say=print, progress=False, architecture=place / "architecture.json", **again)
        api.evaluate(place, say=print)
    return json.loads((place / "results.json").read_text())


if __name__ == "__main__":
    run_script(main)
