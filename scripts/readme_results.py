"""Write the tables of README.md and docs/results.md from runs/published/: python scripts/readme_results.py [--check].

Each table stands between markers that name its file, in one of the two. Where there is no such file, nothing stands
between them.
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from kdnas.evaluate.statistics import rank_correlation

ROOT = Path(__file__).resolve().parents[1]
BEGIN = "<!-- results: made by scripts/readme_results.py from runs/published/{} -->"
END = "<!-- end of results -->"


def spread(values: list[float], scale: float = 100.0, digits: int = 1) -> str:
    """``mean ± std`` (the sample's, where there are two values or more)."""
    text = f"{scale * statistics.mean(values):.{digits}f}"
    return f"{text} ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def quick(document: dict) -> str:
    """The results in markdown."""
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
        for found in at[device, "kdnas"]:
            chance = [
                row["accuracy"]
                for (d, system), rows in at.items()
                for row in rows
                if d == device and system.startswith("random-") and row["seed"] == found["seed"]
            ]
            if chance:
                numbers = (found["accuracy"], statistics.median(chance), min(chance), max(chance))
                cells = " | ".join(f"{100 * value:.1f}" for value in numbers)
                lines.append(f"| `{device}`, {found['seed']} | {cells} | {len(chance)} |")
    lines += ["", f"Made by `{document['command']}`."]
    return "\n".join(lines)


COSTS = {
    "params": "parameters", "macs": "MACs", "sram_bytes": "peak SRAM", "flash_bytes": "flash", "latency_s": "latency",
    "energy_j": "energy",
}  # fmt: skip
SYSTEMS = {
    "kdnas": "kdnas",
    "kdnas-budget": "kdnas, with budgets",
    "largest": "largest network, trained",
    "nni": "NNI's DARTS",
    "darts": "DARTS",
    "random": "best of random",
    "mobilenet-v2": "MobileNetV2, scaled",
    "no-kd-search": "search without distillation",
    "no-penalty": "search without penalty",
}


def groups(rows: Iterable[dict], *keys: str) -> dict[tuple, list[dict]]:
    """Rows that agree in ``keys``, in order of appearance."""
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return found


def table(document: dict, about: str, heads: list[str], lines: Iterable[list[str]]) -> str:
    """A sentence, a markdown table, and the command."""
    cells = [heads, ["---"] * len(heads), *lines]
    rows = ["| " + " | ".join(line) + " |" if line[0] != "---" else "|" + "---|" * len(line) for line in cells]
    return "\n".join([about, "", *rows, "", f"Made by `{document['command']}`."])


def seeds(rows: list[dict]) -> str:
    """How many seeds there are, in words."""
    count = len({row["seed"] for row in rows})
    return "1 seed" if count == 1 else f"{count} seeds, mean ± std"


def search_speed(document: dict) -> str:
    """What a step of the search takes."""
    devices = {row.get("device") for row in document["rows"]}
    lines = []
    for row in document["rows"]:
        system = SYSTEMS.get(row["system"], row["system"]) + (f", {row['relaxation']}" if row["relaxation"] else "")
        ratio = "" if row["ratio_to_largest"] is None else f"{row['ratio_to_largest']:.2f}"
        space = f"`{row['space']}`" + (f", {row['device']}" if len(devices) > 1 else "")
        lines.append([space, system, f"{1e3 * row['step_s']:.1f}", ratio, f"{row['peak_bytes'] / 1e6:.0f}"])
    about = (
        "A bilevel step of the search (one of the architecture, one of the weights) against one training step of the "
        "space's largest network."
    )
    return table(document, about, ["space", "system", "ms per step", "times the largest", "peak memory (MB)"], lines)


def budgets(document: dict) -> str:
    """How far the budgets are used."""
    lines = []
    for (device,), rows in groups(document["rows"], "device").items():
        found = groups(rows, "seed")
        # In every seed, the cost nearest to its budget.
        binding = [max(own, key=lambda row: row["value"] / row["budget"]) for own in found.values()]
        uses = [row["value"] / row["budget"] for row in binding]
        names = ", ".join(dict.fromkeys(COSTS.get(row["cost"], row["cost"]) for row in binding))
        fits = "yes" if all(row["largest_fits"] for row in rows) else "no"
        lines.append(
            [
                f"`{device}`", names, f"{100 * statistics.mean(uses):.1f}",
                f"{100 * min(uses):.1f}–{100 * max(uses):.1f}",
                f"{sum(use <= 1 for use in uses)} of {len(uses)}", fits,
            ]
        )  # fmt: skip
    about = "How far the transmitter found uses the budget that binds it, over seeds: mean, lowest and highest, in %."
    heads = ["device class", "binding cost", "its use: mean", "range", "inside all budgets", "largest network fits"]
    return table(document, about, heads, lines)


def collapse(document: dict) -> str:
    """What protects the search."""
    rows = document["rows"]
    several = len({row["device"] for row in rows}) > 1
    lines = []
    for (space, device, protection), own in groups(rows, "space", "device", "protection").items():
        numbers = [spread([row[key] for row in own]) for key in ("gap", "accuracy_derived", "accuracy_unlabelled")]
        name = f"`{space}`" + (f", `{device}`" if several else "")
        lines.append([name, protection, *numbers, spread([row["skips"] for row in own], 1)])
    about = (
        "What protects the search from collapse: the discretisation gap (accuracy of the relaxed supernet less that "
        f"of the derived network), what the derived network is worth, and how many choices skip; {seeds(rows)}."
    )
    heads = [
        "space", "protection", "gap (points)", "derived: architecture split (%)", "derived: unlabelled images (%)",
        "skips",
    ]  # fmt: skip
    return table(document, about, heads, lines)


def search_baselines(document: dict) -> str:
    """The search against other ways."""
    rows = document["rows"]
    lines = [
        [
            f"`{device}`", SYSTEMS.get(system, system), spread([row["accuracy"] for row in own]),
            spread([row["params"] for row in own], 1, 0), spread([row["macs"] for row in own], 1e-6, 2),
            f"{sum(row['in_budget'] for row in own)} of {len(own)}",
        ]
        for (device, system), own in groups(rows, "device", "system").items()
    ]  # fmt: skip
    about = f"Test accuracy by the way in which the architecture was found, all trained alike; {seeds(rows)}."
    heads = ["device class", "system", "accuracy (%)", "parameters", "MACs (M)", "inside all budgets"]
    return table(document, about, heads, lines)


def nas_bench_201(document: dict) -> str:
    """The strings found; a bar inside a table is written with a backslash."""
    lines = [
        [
            SYSTEMS.get(row["system"], row["system"]), str(row["seed"]), "`" + row["arch"].replace("|", "\\|") + "`",
            str(row["skips"]), f"{100 * row['gap']:.1f}",
        ]
        for (_,), own in groups(document["rows"], "system").items() for row in own
    ]  # fmt: skip
    about = (
        "What searches in NAS-Bench-201 find on CIFAR-10 with a small proxy network; each string can be looked up in "
        "the benchmark."
    )
    return table(document, about, ["system", "seed", "architecture", "skips", "gap (points)"], lines)


DATASETS = {"cifar10-jpeg": "CIFAR-10 (JPEG copy)", "fashion-mnist": "Fashion-MNIST", "fashion-mini": "`fashion-mini`"}
LEARNT = {
    "ce": "labels alone", "ib": "labels, bottleneck", "kd": "distilled on labelled",
    "kd-all": "distilled on all images", "full": "everything",
}  # fmt: skip


def data_set(name: str) -> str:
    """As a reader knows it."""
    return DATASETS.get(name, f"`{name}`")


def few_labels(document: dict) -> str:
    """Accuracy by the number of labels."""
    rows = document["rows"]
    systems = [name for name in LEARNT if any(row["system"] == name for row in rows)]
    lines = []
    for (name, labels), own in groups(rows, "dataset", "labels").items():
        by_system = groups(own, "system")
        teacher = {row["seed"]: row["teacher_accuracy"] for row in own}
        many = own[0]["images"] if labels == "all" else labels
        lines.append(
            [data_set(name), f"{many:,}" + (" (all)" if labels == "all" else ""),
             *(spread([row["accuracy"] for row in by_system[system,]]) for system in systems),
             spread(list(teacher.values()))]
        )  # fmt: skip
    heads = ["data set", "labels", *(LEARNT[name] for name in systems), "teacher"]
    about = f"Test accuracy in % of the same small encoder, without a channel, all trained alike; {seeds(rows)}."
    return table(document, about, heads, lines)


def all_labels(document: dict) -> str:
    """What distillation gives where nothing is unlabelled."""
    lines = []
    for (name, teacher, _, student), own in groups(
        document["rows"], "dataset", "teacher", "epochs", "architecture"
    ).items():
        by_system = {
            key[0]: {row["seed"]: row["accuracy"] for row in rows} for key, rows in groups(own, "system").items()
        }
        gains = [value - by_system["ce"][seed] for seed, value in by_system["kd"].items() if seed in by_system["ce"]]
        lines.append(
            [data_set(name), teacher, student, f"{own[0]['params']:,}", f"{own[0]['images']:,}",
             f"{own[0]['epochs']:.0f}", str(len(gains)),
             *(spread(list(by_system[system].values()), digits=2) for system in ("ce", "kd")), spread(gains, digits=2),
             spread([own[0]["teacher_accuracy"]], digits=2)]
        )  # fmt: skip
    heads = [
        "data set", "teacher", "student", "its parameters", "images", "epochs", "seeds", "labels alone", "distilled",
        "gain (points)", "the teacher",
    ]  # fmt: skip
    about = "With all labels: test accuracy in %; mean ± std over seeds."
    return table(document, about, heads, lines)


def losses(document: dict) -> str:
    """The whole loss with one part taken out."""
    lines = []
    for (name,), own in groups(document["rows"], "dataset").items():
        full = {row["seed"]: row["accuracy"] for row in own if row["system"] == "full"}
        for (system,), rows in groups(own, "system").items():
            change = [row["accuracy"] - full[row["seed"]] for row in rows if row["seed"] in full]
            words = system.replace("no-", "without ") if system.startswith("no-") else system
            changed = "" if system == "full" else spread(change)
            lines.append([data_set(name), words, spread([row["accuracy"] for row in rows]), changed])
    about = f"Every part of the loss at once, and the whole without one of them; {seeds(document['rows'])}."
    return table(document, about, ["data set", "loss", "accuracy (%)", "change (points, by seed)"], lines)


def store(document: dict) -> str:
    """What a stored view costs and gives."""
    lines = []
    for (name, form), own in groups(document["rows"], "dataset", "form").items():
        size = own[0]["bytes_per_view"]
        ratio = statistics.median(row["epoch_s"] / row["epoch_no_teacher_s"] for row in own)
        stored = [f"{size:.0f}", f"{100 * size / own[0]['image_bytes']:.1f}"] if size else ["", ""]
        lines.append([data_set(name), form, *stored, f"{ratio:.2f}", spread([row["accuracy"] for row in own])])
    live = statistics.median(row["epoch_live_s"] / row["epoch_no_teacher_s"] for row in document["rows"])
    about = (
        "Stored knowledge: bytes of an image's view (feature and top-K posterior), the time of an epoch over that of "
        f"one without a teacher (with the live teacher: {live:.1f}), and the student's test accuracy; "
        f"{seeds(document['rows'])}."
    )
    heads = ["data set", "form", "bytes per view", "% of the image", "epoch, times no teacher", "accuracy (%)"]
    return table(document, about, heads, lines)


def stages(document: dict, judged: str = "test") -> str:
    """Two stages against one and against the codec alone."""
    rows = document["rows"]
    snrs = sorted({row["snr_db"] for row in rows})
    lines = []
    for (name, channel, system), own in groups(rows, "dataset", "channel", "system").items():
        by_snr = groups(own, "snr_db")
        lines.append(
            [data_set(name), channel, system, str(len({row["seed"] for row in own})),
             *(spread([row["accuracy"] for row in by_snr[snr,]]) for snr in snrs)]
        )  # fmt: skip
    on = "Test accuracy" if judged == "test" else "Accuracy on held-out training images"
    about = f"{on} in % through the link, by SNR, all with the same number of steps; mean ± std over seeds."
    return table(document, about, ["data set", "channel", "system", "seeds", *(f"{snr:g} dB" for snr in snrs)], lines)


def feature_weight(document: dict) -> str:
    """What features weigh beside labels and posteriors."""
    return stages(document, "held-out")


def envelope(document: dict) -> str:
    """The link against its baselines, at as many symbols as it sends."""
    rows = document["rows"]
    sent = [row for row in rows if row["channel"] is not None]
    full = {key: max(row["symbols"] for row in own if row["system"] == "kdnas")
            for key, own in groups(sent, "dataset", "device").items()}  # fmt: skip
    own = [row for row in sent if row["symbols"] == full[row["dataset"], row["device"]]]
    snrs = sorted({row["snr_db"] for row in own})
    lines = []
    for (name, channel, system), points in groups(own, "dataset", "channel", "system").items():
        by_snr = groups(points, "snr_db")
        lines.append(
            [data_set(name), channel, system, f"{points[0]['transmitter_params']:,}",
             str(len({row["seed"] for row in points})),
             *(spread([row["accuracy"] for row in by_snr[snr,]]) if (snr,) in by_snr else "" for snr in snrs)]
        )  # fmt: skip
    teachers = [
        f"{data_set(name)} {spread([row['accuracy'] for row in own])}"
        for (name,), own in groups([row for row in rows if row["system"] == "teacher"], "dataset").items()
    ]
    about = (
        "The link and what it is compared with: test accuracy in % by SNR, all with "
        f"{' or '.join(sorted({str(count) for count in full.values()}))} complex symbols per image; "
        f"mean ± std over seeds. Teacher without a channel: {', '.join(teachers)}."
    )
    heads = ["data set", "channel", "system", "transmitter's parameters", "seeds", *(f"{snr:g} dB" for snr in snrs)]
    return table(document, about, heads, lines)


def kept(document: dict) -> str:
    """What the link keeps of the teacher's accuracy, over AWGN at 10 dB and full length."""
    lines = []
    for (name, device), own in groups(document["rows"], "dataset", "device").items():
        sent = [row for row in own if row["system"] == "kdnas" and (row["channel"], row["snr_db"]) == ("awgn", 10.0)]
        symbols = max(row["symbols"] for row in sent)
        at = [row for row in sent if row["symbols"] == symbols]
        lines.append(
            [data_set(name), f"`{device}`", str(len(at)), f"{at[0]['transmitter_params']:,}",
             f"{100 * at[0]['transmitter_params'] / at[0]['teacher_params']:.2f}", str(symbols),
             spread([row["accuracy"] for row in at]), spread([row["teacher_accuracy"] for row in at]),
             spread([row["accuracy"] / row["teacher_accuracy"] for row in at])]
        )  # fmt: skip
    heads = [
        "data set", "device class", "seeds", "transmitter's parameters", "% of the teacher's", "symbols",
        "accuracy (%)", "the teacher's, no channel (%)", "kept (%)",
    ]  # fmt: skip
    about = "What is kept of the teacher's test accuracy over AWGN at 10 dB; mean ± std over seeds."
    return table(document, about, heads, lines)


def tailored(document: dict) -> str:
    """Devices served, what was distilled, and energy."""
    lines = []
    for (device, system), own in groups(document["rows"], "device", "system").items():
        bound = ", ".join(sorted({row["binding"] for row in own if row["binding"]}))
        lines.append(
            [f"`{device}`", system, f"{sum(row['feasible'] for row in own)} of {len(own)}", bound,
             f"{100 * own[0]['accuracy_floor']:.0f}",
             spread(judged) if (judged := [r["accuracy"] for r in own if r["accuracy"] is not None]) else "",
             spread([row["units"] for row in own], 1e-6, 2), spread([row["energy_j"] for row in own], 1e3, 2),
             spread([row["latency_s"] for row in own], 1e3, 1)]
        )  # fmt: skip
    heads = [
        "device", "system", "served", "else bound by", "floor (%)", "accuracy (%)", "distilled units (M)",
        "energy (mJ)", "latency (ms)",
    ]  # fmt: skip
    about = f"A model for each device of a fleet, from one teacher and one store; {seeds(document['rows'])}."
    return table(document, about, heads, lines)


PARTS = ("encoder", "channel encoder", "transmitter", "receiver")


def link_speed(document: dict) -> str:
    """Throughput of the parts of a link, and the channel's share of a training step."""
    measured = [row for row in document["rows"] if row["part"] in PARTS]
    batches = sorted({row["batch"] for row in measured})
    ways = {("torch", "fp32"): "torch", ("onnxruntime", "fp32"): "ONNX", ("onnxruntime", "int8"): "ONNX int8"}
    lines = []
    for (device, part), own in groups(measured, "device", "part").items():
        rate = {(row["batch"], row["runtime"], row["dtype"]): f"{row['images_per_s']:,.0f}" for row in own}
        lines.append([f"`{device}`", part, *(rate.get((batch, *way), "") for batch in batches for way in ways)])
    shares: dict[int, list[float]] = {}
    for row in document["rows"]:
        if row["share"] is not None:
            shares.setdefault(row["channels"].count("+") + 1, []).append(100 * row["share"])
    told = "; ".join(f"{min(v):.1f}–{max(v):.1f} % with {count} channels" for count, v in sorted(shares.items()))
    about = "Images per second of each part of the published links, one thread (the transmitter is both encoders)."
    about += f" The simulated channel takes {told} of a training step of stage 2." if told else ""
    heads = ["device class", "part", *(f"batch {batch}: {name}" for batch in batches for name in ways.values())]
    return table(document, about, heads, lines)


def int8(document: dict) -> str:
    """What the transmitter loses in int8."""
    rows = document["rows"]
    lines = []
    for (device,), own in groups(rows, "device").items():
        full = max(row["symbols"] for row in own)
        at = [row for row in own if (row["channel"], row["snr_db"], row["symbols"]) == ("awgn", 10, full)]
        by_seed = [statistics.mean(row["difference"] for row in seed) for seed in groups(own, "seed").values()]
        # The worst point is of the means over seeds: a single one is mostly noise.
        points = groups(own, "channel", "snr_db", "symbols").values()
        worst = min(statistics.mean(row["difference"] for row in point) for point in points)
        uses = [row["binding_use"] for row in own]
        operations = own[0]["operations_int8"], own[0]["operations_int8"] + own[0]["operations_float"]
        lines.append(
            [f"`{device}`", spread([row["accuracy_fp32"] for row in at]), spread([row["accuracy_int8"] for row in at]),
             spread(by_seed, digits=2), f"{100 * worst:.2f}", f"{100 * min(uses):.1f}–{100 * max(uses):.1f}",
             f"{own[0]['flash_bytes'] / 1e3:.1f}", f"{own[0]['flash_bytes_file'] / 1e3:.1f}",
             f"{operations[0]} of {operations[1]}"]
        )  # fmt: skip
    about = (
        "The transmitter in int8 (post-training, calibrated on training images) through the link, the receiver in "
        f"float32: test accuracy over AWGN at 10 dB and full length; the change over all channels, SNRs and lengths; "
        f"{seeds(rows)}. All convolutions and matrix products are among the operations in int8. Flash (of the first "
        "seed) as the budget counts it, and as the int8 file has it: weights, scales, biases."
    )
    heads = [
        "device class", "float32 (%)", "int8 (%)", "change: mean (points)", "worst point",
        "use of the binding budget (%)", "flash counted (kB)", "in the file (kB)", "operations in int8",
    ]  # fmt: skip
    return table(document, about, heads, lines)


def _by_seed(rows: list[dict], key: str, value: object) -> dict[tuple, float]:
    """Accuracy of one system by point and seed."""
    columns = ("channel", "symbols", "snr_db", "seed")
    return {tuple(row[column] for column in columns): row["accuracy"] for row in rows if row[key] == value}


def _differences(rows: list[dict], key: str, system: object, base: object) -> dict[tuple, list[float]]:
    """Differences by (channel, symbols, snr_db): one for each seed."""
    found: dict[tuple, list[float]] = defaultdict(list)
    ours, theirs = _by_seed(rows, key, system), _by_seed(rows, key, base)
    for point in ours.keys() & theirs.keys():
        found[point[:3]].append(ours[point] - theirs[point])
    return found


def one_model(document: dict) -> str:
    """The model for all lengths and SNRs against dedicated ones."""
    lines = []
    for (name, channel), own in groups(document["rows"], "dataset", "channel").items():
        cells = _differences(own, "system", "one-model", "dedicated")
        means = {point: statistics.mean(values) for point, values in cells.items()}
        worst = min(means, key=lambda point: means[point])
        values = cells[worst]
        error = 2 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        by_length = groups([{"symbols": point[1], "mean": mean} for point, mean in means.items()], "symbols")
        lengths = ", ".join(
            f"{symbols}: {100 * statistics.mean(row['mean'] for row in found):+.1f}"
            for (symbols,), found in sorted(by_length.items())
        )
        lines.append(
            [data_set(name), channel, str(len(values)), f"{100 * statistics.mean(means.values()):+.2f}", lengths,
             f"{100 * means[worst]:+.1f} ± {100 * error:.1f} ({worst[1]} symbols, {worst[2]:g} dB)"]
        )  # fmt: skip
    about = (
        "One model for all against models made for one length, or at one SNR, alone: difference in points, paired by "
        "seed; means over seeds."
    )
    heads = ["data set", "channel", "seeds", "mean", "by symbols", "worst point (± 2 SE)"]
    return table(document, about, heads, lines)


def _against(document: dict, key: str, base: str, about: str) -> str:
    """Differences by SNR of what has each value of ``key`` to what has ``base``."""
    lines = []
    snrs = sorted({row["snr_db"] for row in document["rows"]})
    for (name, channel), own in groups(document["rows"], "dataset", "channel").items():
        for kind in dict.fromkeys(row[key] for row in own):
            if kind != base:
                cells = _differences(own, key, kind, base)
                by_snr = {
                    snr: [v for point, values in cells.items() if point[2] == snr for v in values] for snr in snrs
                }
                numbers = [f"{100 * statistics.mean(by_snr[snr]):+.1f}" for snr in snrs]
                lines.append([data_set(name), channel, kind, *numbers])
    about = f"{about}, mean over lengths; {seeds(document['rows'])}."
    heads = ["data set", "channel", key.replace("_", " "), *(f"{snr:g} dB" for snr in snrs)]
    return table(document, about, heads, lines)


def constellation(document: dict) -> str:
    """What sending only the points of a constellation costs."""
    about = (
        "What it costs to send nothing but the points of a constellation: difference in points to any complex number"
    )
    return _against(document, "constellation", "none", about)


def trained_on(document: dict) -> str:
    """What training on one channel costs on others."""
    about = "What it costs to be trained on one channel alone: difference in points to training on AWGN and Rayleigh"
    return _against(document, "trained_on", "all", about)


def adaptation(document: dict) -> str:
    """Lengths chosen at each SNR against fixed ones."""
    lines = []
    for (name, channel, system, target), own in groups(
        document["rows"], "dataset", "channel", "system", "target"
    ).items():
        for (symbols,), found in groups(own, "mean_symbols").items() if system == "fixed" else [((None,), own)]:
            adaptive = system == "adaptive"
            used = spread([row["mean_symbols"] for row in found], 1) if adaptive else f"{symbols:g}"
            told = [spread([row[key] for row in found], digits=0) if adaptive else "" for key in ("promised", "met")]
            wanted = f"{100 * target:g} %" if adaptive else "fixed length"
            lines.append([data_set(name), channel, wanted, used, spread([row["accuracy"] for row in found]), *told])
    about = (
        "The shortest prefix that the adaptation table promises to be accurate enough, chosen at each SNR, and fixed "
        f"lengths; all are means over SNRs, test accuracy in %; {seeds(document['rows'])}."
    )
    heads = ["data set", "channel", "wanted", "symbols", "accuracy (%)", "SNRs promised (%)", "SNRs met (%)"]
    return table(document, about, heads, lines)


def told_wrong(document: dict) -> str:
    """What a wrong SNR costs."""
    lines = []
    snrs = sorted({row["snr_db"] for row in document["rows"]})
    for (name, channel, system), own in groups(document["rows"], "dataset", "channel", "system").items():
        for offset in sorted({row["snr_offset_db"] for row in own} - {0.0}):
            cells = _differences(own, "snr_offset_db", offset, 0.0)
            by_snr = {snr: [v for point, values in cells.items() if point[2] == snr for v in values] for snr in snrs}
            numbers = [f"{100 * statistics.mean(by_snr[snr]):+.1f}" for snr in snrs]
            words = "the right SNR" if system == "one-model" else "wrong ones"
            lines.append([data_set(name), channel, words, f"{offset:+g} dB", *numbers])
    about = (
        "What it costs when both ends are told a wrong SNR: difference in points to the right one, by the true SNR, "
        f"mean over lengths; {seeds(document['rows'])}."
    )
    heads = ["data set", "channel", "told in training", "told wrong by", *(f"{snr:g} dB" for snr in snrs)]
    return table(document, about, heads, lines)


def tuning(document: dict) -> str:
    """The study's weights against fixed ones."""
    lines = []
    for (device,), rows in groups(document["rows"], "device").items():
        own = {system: {row["seed"]: row for row in rows if row["system"] == system} for system in ("study", "default")}
        both = sorted(own["study"].keys() & own["default"].keys())
        gains = [own["study"][seed]["accuracy"] - own["default"][seed]["accuracy"] for seed in both]
        cells = [f"`{device}`"]
        for system in ("study", "default"):
            cells.append(spread([own[system][seed]["accuracy"] for seed in both]))
        cells.append(spread(gains))
        for system in ("study", "default"):
            cells.append(spread([own[system][seed]["binding_use"] for seed in both], 100, 0))
        lines.append(cells)
    about = (
        "Weights that a study set against fixed ones (`tune.enabled=false`), inside the same budgets: test accuracy in "
        f"% at 10 dB AWGN and full length; {seeds(document['rows'])}."
    )
    heads = ["device class", "study", "fixed", "gain (points)", "use of the binding budget (%): study", "fixed"]
    return table(document, about, heads, lines)


PROXIES = {"clean": "no channel", "noise": "bare features through the channel", "codec": "short codec training"}


def proxies(document: dict) -> str:
    """How cheap measures rank architectures."""
    from kdnas.plot.published_tune import mean_correlation

    lines = []
    for (proxy, judged), rows in groups(document["rows"], "proxy", "judged").items():
        rho = mean_correlation(rows)
        by = "labelled images" if judged == "labels" else "all images, by the teacher"
        cost = statistics.median(row["proxy_s"] for row in rows)
        lines.append([PROXIES.get(proxy, proxy), by, "" if rho is None else f"{rho:.2f}", f"{cost:.1f}"])
    count = len({(row["device"], row["seed"], row["architecture"]) for row in document["rows"]})
    about = (
        "What a short trial says of the network that it finds, against the accuracy of the same architecture after "
        "both stages through the link (on the architecture split with all its labels, which no search sees): "
        f"Spearman's rank correlation within a class and seed, over {count} architectures."
    )
    return table(document, about, ["measure", "judged by", "rank correlation", "seconds"], lines)


def workers(document: dict) -> str:
    """Trials per hour by the number of workers, and the kill test."""
    lines = [
        [str(row["workers"]), str(row["trials"]), f"{row['trials_per_hour']:.0f}", f"{100 * row['efficiency']:.0f}"]
        for row in document["rows"]
    ]
    first = document["rows"][0]
    about = (
        f"Workers on one machine of {first['cores']} cores that share the study of `{first['device']}`, one thread "
        "each; efficiency: trials per hour and worker over those of one worker, in %."
    )
    kill = next((row["kill_test"] for row in document["rows"] if row.get("kill_test")), None)
    if kill and kill["killed"]:
        found = next((retry for retry in kill["retries"] if retry["died"] == kill["killed"]["number"]), None)
        by = found["retried_by"] if found else "nobody"
        again = f"its trial {kill['killed']['trial'] + 1} was retried by {by}"
        same = "the same as without the kill" if kill["same_trials"] else "not the same as without the kill"
        about += (
            f" With one of {document['rows'][-1]['workers']} killed (process {kill['killed']['worker']}) {again}; all "
            f"{len(kill['trials'])} trials ended once, {same}."
        )
    return table(document, about, ["workers", "trials", "trials per hour", "efficiency (%)"], lines)


def latency(document: dict) -> str:
    """Error of the latency model on networks that it has not seen."""
    lines = []
    for (space, dtype), own in groups(document["rows"], "space", "dtype").items():
        errors = [abs(row["predicted_s"] / row["measured_s"] - 1) for row in own]
        both = [[row[key] for row in own] for key in ("predicted_s", "measured_s")]
        ranks = rank_correlation(both[0], both[1]) or 0.0
        measured = [1e6 * row["measured_s"] for row in own]
        lines.append(
            [f"`{space}`", dtype, str(len(own)), f"{min(measured):.0f} to {max(measured):.0f}",
             f"{100 * statistics.median(errors):.1f}", f"{100 * max(errors):.1f}", f"{ranks:.3f}"]
        )  # fmt: skip
    heads = ["space", "type", "networks", "measured (us)", "median error (%)", "largest (%)", "rank correlation"]
    about = "Latency of networks that the table of operations was not fitted to, on one core with ONNX Runtime."
    return table(document, about, heads, lines)


def sram(document: dict) -> str:
    """Activation memory: by the steps, in the best order, and as torch runs it."""
    lines = []
    for (space,), own in groups(document["rows"], "space").items():
        over = [row["model_bytes"] / row["planner_bytes"] - 1 for row in own]
        exact = sum(row["model_bytes"] == row["planner_bytes"] for row in own)
        measured = [row["measured_bytes"] / row["planner_bytes"] - 1 for row in own]
        lines.append(
            [f"`{space}`", str(len(own)), f"{exact} of {len(own)}", f"{100 * statistics.mean(over):.1f}",
             f"{100 * statistics.mean(measured):.1f}"]
        )  # fmt: skip
    heads = ["space", "networks", "model = best order", "model above it (%)", "torch above it (%)"]
    about = "Bytes of int8 activations that budgets count, against the best order of execution (exact search)."
    return table(document, about, heads, lines)


SECTIONS: dict[str, Callable[[dict], str]] = {
    "quick.json": quick,
    "search_speed.json": search_speed,
    "budgets.json": budgets,
    "collapse.json": collapse,
    "search_baselines.json": search_baselines,
    "nas_bench_201.json": nas_bench_201,
    "few_labels.json": few_labels,
    "all_labels.json": all_labels,
    "loss_ablation.json": losses,
    "store.json": store,
    "stages.json": stages,
    "stages_ablation.json": stages,
    "feature_weight.json": feature_weight,
    "link_feature.json": feature_weight,
    "envelope.json": envelope,
    "kept.json": kept,
    "lengths.json": one_model,
    "snrs.json": one_model,
    "adaptation.json": adaptation,
    "mismatch.json": told_wrong,
    "constellation.json": constellation,
    "channels.json": trained_on,
    "tailor.json": tailored,
    "link_speed.json": link_speed,
    "int8.json": int8,
    "tuning.json": tuning,
    "proxies.json": proxies,
    "workers.json": workers,
    "latency.json": latency,
    "sram.json": sram,
}


DOCUMENTS = ("README.md", "docs/results.md")


def rewritten(texts: dict[str, str]) -> dict[str, str]:
    """The documents, by name, with every section as the published tables give it."""
    for name, make in SECTIONS.items():
        begin = BEGIN.format(name)
        places = [document for document, text in texts.items() if begin in text]
        head, _, rest = texts[places[0]].partition(begin) if places else ("", "", "")
        _, closed, tail = rest.partition(END)
        if len(places) != 1 or not closed:
            sys.exit(f"the markers {begin} and {END} are not in one of {', '.join(texts)}: put them where they belong")
        path = ROOT / "runs" / "published" / name
        made = make(json.loads(path.read_text())) + "\n" if path.exists() else ""
        texts = {**texts, places[0]: f"{head}{begin}\n{made}{END}{tail}"}
    return texts


def main() -> None:
    """Rewrite the sections, or with ``--check`` exit 1 where one is not what its published table gives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="rewrite nothing; exit 1 where a table is out of date")
    given = parser.parse_args()
    texts = {name: (ROOT / name).read_text() for name in DOCUMENTS}
    new = rewritten(texts)
    if given.check:
        sys.exit(0 if new == texts else "the results are not those of runs/published: run scripts/readme_results.py")
    for name, text in new.items():
        (ROOT / name).write_text(text)


if __name__ == "__main__":
    main()
