"""Make runs/published/tailor.json: dynamic distillation of a fleet against plain KD and no KD, over seeds.

    python scripts/publish_tailor.py --seeds 0 1 2 --threads 1

One run of `kdnas tailor` for each seed, with all three systems. Devices that are done in the working directory are
taken as they are, so that a stopped command goes on. Accuracy is that on test data, over the device's SNR distribution
and its channel, at the length that was chosen on the architecture split; latency and energy are those of one image.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from publishing import add_run_options, command, run_script

from kdnas.config import parse_assignments
from kdnas.evaluate.results import validate_table
from kdnas.pipeline import api
from kdnas.run.files import write_json

SYSTEMS = ["dynamic", "static", "none"]
COLUMNS = (
    "dataset", "system", "device", "device_class", "seed", "accuracy", "accuracy_floor", "latency_s",
    "latency_compute_s", "energy_j", "energy_compute_j", "symbols", "units", "feasible", "binding", "steps",
    "promised", "divergence",
)  # fmt: skip


def tailored(place: Path, **settings: Any) -> list[dict[str, Any]]:
    """The rows of one seed: of an earlier command, gone on with, or made now."""
    begun = (place / "run.json").exists()
    api.tailor(out=None if begun else place, resume=place if begun else None, say=print, **settings)
    return json.loads((place / "tailor.json").read_text())["rows"]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="fashion-mini")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add_run_options(parser, threads=None)
    parser.add_argument("--fleet", default="default", help="fleet of the package, or a TOML file")
    parser.add_argument("--work", type=Path, default=Path("runs/tailor"))
    parser.add_argument("--out", type=Path, default=Path("runs/published/tailor.json"))
    given = parser.parse_args()
    common = {
        "dataset": given.dataset, "preset": given.preset, "tailor.fleet": given.fleet, "tailor.systems": SYSTEMS,
        "threads": given.threads, **parse_assignments(given.set),
    }  # fmt: skip
    common = {key: value for key, value in common.items() if value is not None}

    rows: list[dict[str, Any]] = []
    for seed in given.seeds:
        found = tailored(given.work / f"s{seed}", seed=seed, **common)
        rows += [{key: row[key] for key in COLUMNS} for row in found]
    document = {"command": command("publish_tailor.py", given, "dataset", "seeds", "fleet"), "rows": rows}
    validate_table(document, str(given.out))
    write_json(given.out, document)
    print(f"wrote {given.out}: {len(rows)} rows")


if __name__ == "__main__":
    run_script(main)
