"""Make the tables about tuning in runs/published/: one subcommand each.

    python scripts/publish_tune.py proxy --devices wearable --seeds 0 --architectures 10
    python scripts/publish_tune.py tuning --seeds 0 1 2
    python scripts/publish_tune.py workers --devices mcu --workers 1 2 4

proxy: short searches with drawn weights, as a study makes them; what cheap measures say of each derived network, and
the accuracy of the same architecture after both stages of training, through the link, on the architecture split with
all its labels (which no search sees). Test data are not read.

tuning: for each device class and seed a whole run with the study's weights, and one with the settings' own; the same
teacher, search, and both stages; test accuracy at 10 dB AWGN.

workers: the same study with 1, 2, ... workers, from a warmed-up supernet; then once more with one of them killed.

What is finished is kept in --work and not done again: several processes, each with a part of --devices and --seeds,
may fill one --work, and a last call collects.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kdnas.config import make_settings, parse_assignments
from kdnas.evaluate import evaluate_answers
from kdnas.link import Link, constant_conditions
from kdnas.pipeline import stages
from kdnas.pipeline.context import Context
from kdnas.run.directory import RunDirectory
from kdnas.run.files import hash_of, read_json, write_json
from kdnas.run.seeds import generator
from kdnas.tune.objective import Objective
from kdnas.tune.space import search_space, with_parameters


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What ``make`` returns, or what it returned before."""
    if not path.exists():
        write_json(path, make())
    return read_json(path)


def context_of(given: argparse.Namespace, device: str, seed: int) -> Context:
    """The run directory of a device class and seed in --work, new or as it was left."""
    settings = make_settings(
        {"preset": given.preset, "device": device, "seed": seed, "threads": given.threads}, parse_assignments(given.set)
    )
    place = given.work / f"{given.table}-{device}-s{seed}-{hash_of(given.preset, *given.set)}"
    run = (
        RunDirectory.open(place)
        if (place / "run.json").exists()
        else RunDirectory.create(place, settings.model_dump(mode="json"), {})
    )
    return Context(settings, run, progress=False)


def worth_through(link: Link, objective: Objective) -> float:
    """What ``objective`` says of a trained link instead of bare features, on the same images, channels and SNRs."""
    low, high = objective.radio.snr_db
    values = []
    with torch.no_grad():
        features = torch.cat(
            [link.encoder(objective.lessons.dataset.train_images[p].float() / 255) for p in objective.ids.split(500)]
        )
        for name in objective.radio.channels:
            for snr_db in (low, (low + high) / 2, high):
                at = constant_conditions(len(features), snr_db, name, link.symbols)
                answers = link.through(features, at, generator("worth", name, round(snr_db))).logits.argmax(1)
                values.append(objective.worth.gather(1, answers[:, None]).mean())
    return float(torch.stack(values).mean())


def proxies_of(context: Context, index: int) -> list[dict[str, Any]]:
    """One drawn set of weights: the values of all proxies, and what full training makes of the architecture."""
    s = context.settings
    draw = generator(s.seed, "weights of a trial", index)
    space = search_space(s.tune.parameters, context.searcher.budgets, s.search, s.loss)
    shares = torch.rand(len(space), generator=draw).tolist()
    parameters = {
        name: math.exp(math.log(low) + share * math.log(high / low))
        for (name, (low, high)), share in zip(space.items(), shares, strict=True)
    }
    short = s.search.model_copy(update={"warmup_epochs": 0, "epochs": s.tune.epochs, "steps": s.tune.steps})
    search, loss = with_parameters(parameters, short, s.loss)
    began = time.perf_counter()
    found = context.searcher.run(
        search, loss, context.path, f"trial-{index}", weights=stages.warmed(context), progress=False,
        key=f"trial-{index}", on_epoch=lambda *_: None,
    )  # fmt: skip
    search_s = time.perf_counter() - began
    cpu = torch.device("cpu")
    network, classifier = found.network.cpu().eval(), found.classifier.cpu()
    rows: list[dict[str, Any]] = []

    def add(proxy: str, judged: str, measure: Callable[[], float]) -> None:
        began = time.perf_counter()
        value = measure()
        rows.append(
            {"device": s.device, "seed": s.seed, "architecture": index, "proxy": proxy, "judged": judged,
             "value": value, "proxy_s": time.perf_counter() - began, "search_s": search_s}
        )  # fmt: skip

    judges = {
        (proxy, judged): Objective(
            context.lessons, context.splits, context.device.link, judged=judged, channel=proxy != "clean", seed=s.seed
        )  # type: ignore[arg-type]
        for proxy in ("clean", "noise", "codec")
        for judged in ("labels", "all")
    }
    for proxy in ("clean", "noise"):
        for judged in ("labels", "all"):
            add(proxy, judged, lambda p=proxy, j=judged: judges[p, j](network, classifier, cpu))  # type: ignore[misc]
    began = time.perf_counter()
    distiller = context.distiller()
    distiller.settings = s.distill.model_copy(update={"link_epochs": 1, "encoder_rate": 0.0})
    radio = context.device.link
    link = distiller.through_link(
        network, classifier, distiller.knowledge_loss(s.loss), context.codec(), snr_db=radio.snr_db,
        channels=radio.channels, name=f"codec-{index}",
    )  # fmt: skip
    codec_s = time.perf_counter() - began
    for judged in ("labels", "all"):
        add("codec", judged, lambda j=judged: worth_through(link, judges["codec", j]))  # type: ignore[misc]
        rows[-1]["proxy_s"] += codec_s

    trained = stages.both_stages(context, stages.fresh(context, found.choices), s.loss, f"full-{index}").cpu().eval()
    ids = torch.cat([context.splits.architecture_labelled, context.splits.architecture_unlabelled])
    low, high = radio.snr_db
    correct = evaluate_answers(
        trained, context.dataset.train_images[ids], context.dataset.train_labels[ids], ids, channels=radio.channels,
        snrs_db=(low, (low + high) / 2, high), lengths=[radio.symbols], draws=2, batch_size=500, seed=s.seed,
    )  # fmt: skip
    accuracy = float(torch.stack([c.double().mean() for c in correct.values()]).mean())
    return [{**row, "trained": accuracy, **{k: found.costs[k] for k in ("params", "macs")}} for row in rows]


def proxy_table(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of proxies.json."""
    rows = []
    for device in given.devices:
        for seed in given.seeds:
            context = context_of(given, device, seed)
            for index in range(given.architectures):
                path = context.path / f"architecture-{index}.json"
                found = kept(path, lambda c=context, i=index: proxies_of(c, i))  # type: ignore[misc]
                rows += found
                told = {f"{r['proxy']}/{r['judged']}": round(r["value"], 4) for r in found}
                print(device, seed, index, json.dumps(told), f"trained {found[0]['trained']:.4f}", flush=True)
    return rows


TABLES = {"proxy": ("proxies.json", proxy_table)}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--devices", nargs="+", default=["wearable"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--architectures", type=int, default=10, help="proxy: how many")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of every run")
    parser.add_argument("--work", type=Path, default=Path("runs/tune"))
    parser.add_argument("--out", type=Path, help="the published file (default: the table's, in runs/published)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    file, make = TABLES[given.table]
    rows = make(given)
    out = given.out or Path("runs/published") / file
    write_json(out, {"command": command(given), "rows": rows})
    print(f"wrote {out}: {len(rows)} rows")


def command(given: argparse.Namespace) -> str:
    """The command that makes the table again."""
    words = ["python scripts/publish_tune.py", given.table, "--devices", *given.devices]
    words += ["--seeds", *map(str, given.seeds)]
    words += ["--architectures", str(given.architectures)] if given.table == "proxy" else []
    words += ["--preset", given.preset, "--threads", str(given.threads)]
    words += ["--set", *given.set] if given.set else []
    return " ".join(words)


if __name__ == "__main__":
    main()
