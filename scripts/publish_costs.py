"""Make runs/published/latency.json and sram.json: the cost models against measurements.

    python scripts/publish_costs.py latency --dtypes fp32 int8 --networks 300 --held-out 50
    python scripts/publish_costs.py sram --networks 20

``latency`` measures networks of the space on this machine, fits the table of operations (kept in --work, and gone on
with), and compares its sums with the measured seconds of other networks, drawn uniformly. Run it on a quiet machine;
one thread. Rows of other spaces and data types that the table holds already are kept.
``sram`` compares the bytes that the steps of a network hold with the best order of execution and with torch.
"""

import argparse
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from publishing import publish, run_script

from kdnas.cost import exact_costs
from kdnas.cost.latency import load_table, network_seconds, save_table
from kdnas.cost.planner import plan
from kdnas.cost.trace import peak_by_running, tensors_of
from kdnas.device import load_device
from kdnas.evaluate import rank_correlation
from kdnas.export.latency import measured_s
from kdnas.pipeline import measure as measuring
from kdnas.run.seeds import generator
from kdnas.space import list_spaces, make_space


def latency_rows(given: argparse.Namespace, name: str, dtype: str) -> list[dict[str, Any]]:
    """One row for each held-out network."""
    space, device = make_space(name), load_device(given.device)
    path = given.work / f"{name}-{dtype}.csv"
    if not path.exists():
        table, about = measuring.measure(
            space,
            device,
            dtype=dtype,
            networks=given.networks,
            seed=given.seed,
            say=lambda line: print(line, flush=True),
        )
        save_table(path, table, measuring.comments(space, device, dtype, 1, about))
        print(f"{path}: {about}", flush=True)
    table, draw = load_table(path), generator(given.seed, "held out")
    fitted = measuring.covering(space, given.networks, given.seed)
    chosen: list[dict[str, Any]] = []
    while len(chosen) < given.held_out:
        choices = space.random(draw)
        if choices not in fitted and choices not in chosen:
            chosen.append(choices)
    steps = [measuring.steps_of(space, choices) for choices in chosen]
    seconds = measured_s([measuring.encoder_of(space, choices, dtype, given.seed) for choices in chosen])
    rows = [
        {
            "space": name, "network": f"{name}-{index}", "dtype": dtype,
            "predicted_s": network_seconds(table, own), "measured_s": measured,
            "macs": exact_costs(own)["macs"], "operations": len(own),
        }
        for index, (own, measured) in enumerate(zip(steps, seconds, strict=True))
    ]  # fmt: skip
    predicted = [network_seconds(table, own) for own in steps]
    error = statistics.median(abs(p / m - 1) for p, m in zip(predicted, seconds, strict=True))
    print(f"{name}, {dtype}: median error {error:.1%}, rank correlation {rank_correlation(predicted, seconds):.3f}")
    return rows


def sram_rows(given: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    """One row for each random network of a space."""
    space, draw, rows = make_space(name), generator(given.seed, "sram", name), []
    options = space.options
    image = torch.rand(1, options["in_channels"], options["image_size"], options["image_size"])
    for index in range(given.networks):
        choices = space.random(draw)
        network = space.network(choices).eval()
        rows.append(
            {
                "space": name, "network": f"{name}-{index}",
                "model_bytes": exact_costs(measuring.steps_of(space, choices))["sram_bytes"],
                "planner_bytes": plan(tensors_of(network, image)).peak_bytes,
                "measured_bytes": peak_by_running(network, image),
            }
        )  # fmt: skip
        print(f"{rows[-1]}", flush=True)
    return rows


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    latency = kinds.add_parser("latency")
    latency.add_argument("--spaces", nargs="+", default=["mobile"])
    latency.add_argument("--dtypes", nargs="+", default=["fp32", "int8"])
    latency.add_argument("--networks", type=int, default=300, help="that the table is fitted to")
    latency.add_argument("--held-out", type=int, default=50, help="others, that it is judged on")
    latency.add_argument("--device", default="wearable", help="whose channel encoder is in the table too")
    latency.add_argument("--work", type=Path, default=Path("runs/latency"))
    sram = kinds.add_parser("sram")
    sram.add_argument("--spaces", nargs="+", default=list_spaces())
    sram.add_argument("--networks", type=int, default=20, help="of each space")
    for own in (latency, sram):
        own.add_argument("--seed", type=int, default=0)
        own.add_argument("--out", type=Path, default=Path("runs/published"), help="directory")
    given = parser.parse_args()
    torch.set_num_threads(1)
    again = shlex.join(["python", "scripts/publish_costs.py", *sys.argv[1:]])
    if given.kind == "latency":
        rows = [row for name in given.spaces for dtype in given.dtypes for row in latency_rows(given, name, dtype)]
        publish(given.out / "latency.json", again, rows, ("space", "dtype"))
    else:
        rows = [row for name in given.spaces for row in sram_rows(given, name)]
        publish(given.out / "sram.json", again, rows, ("space",))


if __name__ == "__main__":
    run_script(main)
