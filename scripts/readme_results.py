"""Write the README's results from runs/published/quick.json: python scripts/readme_results.py [--check]."""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN = "<!-- results: made by scripts/readme_results.py from runs/published/quick.json -->"
END = "<!-- end of results -->"


def spread(values: list[float], scale: float = 100.0, digits: int = 1) -> str:
    """``mean ± std`` (the sample's, where there are two values or more)."""
    text = f"{scale * statistics.mean(values):.{digits}f}"
    return f"{text} ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def section() -> str:
    """The results in markdown."""
    document = json.loads((ROOT / "runs" / "published" / "quick.json").read_text())
    at: dict[tuple[str, str], list[dict]] = defaultdict(list)
    teacher: dict[str, list[float]] = defaultdict(list)
    for row in document["rows"]:
        if row["system"] == "teacher":
            teacher[row["device"]].append(row["accuracy"])
        elif row["channel"] == "awgn" and row["snr_db"] == 10 and row["symbols"] == 64:
            at[row["device"], row["system"]].append(row)
    devices = list(dict.fromkeys(row["device"] for row in document["rows"]))
    labels = document["rows"][0]["labels"]
    seeds = len({row["seed"] for row in document["rows"]})
    lines = [
        f"`quick` on `fashion-mini` with {labels:,} labels, {seeds} seeds, mean ± std; test accuracy in % over AWGN at "
        "10 dB and 64 complex symbols per image. Costs are those of the whole transmitter (encoder + channel encoder).",
        "",
        "| device class | kdnas | without distillation | gain (points) | teacher, no channel | parameters | MACs (M) "
        "| peak SRAM (kB) | flash (kB) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for device in devices:
        ours, without = at[device, "kdnas"], at[device, "no-kd"]
        by_seed = {row["seed"]: row["accuracy"] for row in without}
        gains = [row["accuracy"] - by_seed[row["seed"]] for row in ours]
        lines.append(
            f"| `{device}` | {spread([r['accuracy'] for r in ours])} | {spread([r['accuracy'] for r in without])} "
            f"| {spread(gains)} | {spread(teacher[device])} | {spread([r['params'] for r in ours], 1, 0)} "
            f"| {spread([r['macs'] for r in ours], 1e-6, 2)} | {spread([r['sram_bytes'] for r in ours], 1e-3)} "
            f"| {spread([r['flash_bytes'] for r in ours], 1e-3)} |"
        )
    lines += [
        "",
        "Search against chance: the found architecture and random ones inside the same budgets, equally trained.",
        "",
    ]
    lines += [
        "| device class, seed | found | random: median | lowest | highest | how many |",
        "|---|---|---|---|---|---|",
    ]
    for device in devices:
        for ours in at[device, "kdnas"]:
            chance = [
                row["accuracy"]
                for (d, system), rows in at.items()
                for row in rows
                if d == device and system.startswith("random-") and row["seed"] == ours["seed"]
            ]
            if chance:
                numbers = (ours["accuracy"], statistics.median(chance), min(chance), max(chance))
                cells = " | ".join(f"{100 * value:.1f}" for value in numbers)
                lines.append(f"| `{device}`, {ours['seed']} | {cells} | {len(chance)} |")
    lines += ["", f"Made by `{document['command']}`."]
    return "\n".join(lines)


def main() -> None:
    """Rewrite the section, or with ``--check`` exit 1 where it is not what the published table gives."""
    path = ROOT / "README.md"
    text = path.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    new = f"{head}{BEGIN}\n{section()}\n{END}{tail}"
    if "--check" in sys.argv:
        sys.exit(0 if new == text else "README.md: the results are not those of runs/published/quick.json")
    path.write_text(new)


if __name__ == "__main__":
    main()
