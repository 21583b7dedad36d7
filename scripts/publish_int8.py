"""Make runs/published/int8.json: what the published architectures lose when their transmitters are quantised to int8.

    python scripts/publish_int8.py --devices mcu wearable phone gateway --seeds 0 1 2
    python scripts/publish_int8.py --runs runs/tune/tuning-study-*-s?-*

Each published architecture is trained in both stages, and judged on test data through the link with its transmitter in
float32 and in int8, with the same images and noise; the receiver stays in float32. --runs takes the links of these run
directories instead, each with the architecture that was found there. Every row says what share of the class's budget
the binding cost takes, and how many bytes of flash were counted and are in the int8 file.

Trained links in --work are taken as they are, stopped ones go on: processes with different devices or seeds may share
it, and the last command, with all of them, only measures. Training takes a GPU where there is one; ONNX Runtime
computes on the CPU. A machine without the extra `export` can train with --train-only for another, to which --work is
copied.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from publishing import add_run_options, command, run_script

from kdnas.config import make_settings, parse_assignments
from kdnas.evaluate import accuracy_ci95, evaluate_answers, paired_difference
from kdnas.export import load_link
from kdnas.export.int8 import int8_flash_bytes, int8_operations
from kdnas.pipeline import api
from kdnas.pipeline.context import Context
from kdnas.pipeline.stages import architecture_of, int8_link
from kdnas.run.directory import RunDirectory
from kdnas.run.files import hash_of, read_json, write_json
from kdnas.zoo import resolve


def trained(device: str, seed: int, given: argparse.Namespace) -> Path:
    """The run directory of the published architecture, trained."""
    settings = {
        **parse_assignments(given.set), "device": device, "dataset": given.dataset, "seed": seed,
        "preset": given.preset, "threads": given.threads,
    }  # fmt: skip
    place: Path = given.work / f"{device}-{given.dataset}-s{seed}-{hash_of(given.preset, *given.set)}"
    if (place / "run.json").exists():
        return api.distill(resume=place, say=print)
    architecture = resolve(f"{device}-{given.dataset}") / "architecture.json"
    return api.distill(out=place, say=print, architecture=architecture, **settings)


def rows_of(place: Path) -> list[dict[str, Any]]:
    """Both transmitters at every channel, SNR and length, kept where it is finished."""
    kept = place / "int8.json"
    if kept.exists():
        return list(read_json(kept))
    directory = RunDirectory.open(place)
    context = Context(make_settings(directory.settings), directory, progress=False)
    s, radio = context.settings, context.device.link
    link = load_link(place)
    exact, small = (
        evaluate_answers(
            each, context.dataset.test_images, context.dataset.test_labels, channels=radio.channels,
            snrs_db=s.evaluate.snrs_db, lengths=sorted({min(16, radio.symbols), radio.symbols}),
            draws=s.evaluate.draws, batch_size=s.evaluate.batch_size, seed=s.seed,
        )
        for each in (link, int8_link(context, link, context.path))
    )  # fmt: skip
    files = [place / name for name in ("transmitter.onnx", "transmitter.int8.onnx")]
    integer, other = int8_operations(files[1].read_bytes())
    costs = context.transmitter_costs(context.tables.steps(architecture_of(context).choices))
    uses = {name: costs[name] / limit for name, limit in context.device.budgets.items()}
    of_all = {
        "device": context.device.name, "dataset": context.dataset.name, "seed": s.seed,
        "bytes_fp32": files[0].stat().st_size, "bytes_int8": files[1].stat().st_size,
        "operations_int8": integer.total(), "operations_float": other.total(),
        "binding": max(uses, key=lambda name: uses[name]), "binding_use": max(uses.values()),
        "flash_bytes": costs["flash_bytes"], "flash_bytes_file": int8_flash_bytes(files[1].read_bytes()),
        "flash_budget": context.device.budgets.get("flash_bytes"),
    }  # fmt: skip
    rows = []
    for point, right in exact.items():
        difference, ci95 = paired_difference(small[point].numpy(), right.numpy())
        rows.append(
            {**of_all, "channel": point.channel, "snr_db": point.snr_db, "symbols": point.symbols,  # type: ignore[union-attr]
             "accuracy_fp32": accuracy_ci95(right.numpy())[0], "accuracy_int8": accuracy_ci95(small[point].numpy())[0],
             "difference": difference, "difference_ci95": ci95}
        )  # fmt: skip
    write_json(kept, rows)
    return rows


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", nargs="+", default=["mcu", "wearable", "phone", "gateway"])
    parser.add_argument("--runs", nargs="+", type=Path, metavar="RUN", help="trained runs: nothing else is trained")
    parser.add_argument("--dataset", default="fashion-mini")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add_run_options(parser)
    parser.add_argument("--work", type=Path, default=Path("runs/int8"))
    parser.add_argument("--train-only", action="store_true", help="measure nothing, and write no table")
    parser.add_argument("--out", type=Path, default=Path("runs/published/int8.json"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows: list[dict[str, Any]] = []
    places = given.runs or (trained(device, seed, given) for device in given.devices for seed in given.seeds)
    for place in places:
        if given.train_only:
            continue
        own = rows_of(place)
        rows += own
        worst = min(row["difference"] for row in own)
        mean = sum(row["difference"] for row in own) / len(own)
        told = f"int8 less float32 {100 * mean:+.2f} points, at worst {100 * worst:+.2f}"
        print(f"{own[0]['device']}, seed {own[0]['seed']}: {told}", flush=True)
    if given.train_only:
        return
    names = ["runs"] if given.runs else ["devices", "dataset", "seeds"]
    write_json(given.out, {"command": command("publish_int8.py", given, *names), "rows": rows})
    print(f"wrote {given.out}: {len(rows)} rows")


if __name__ == "__main__":
    run_script(main)
