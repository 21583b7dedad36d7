"""Make the tables about tuning in runs/published/: one subcommand each.

    python scripts/publish_tune.py proxy --devices wearable --seeds 0 --architectures 10
    python scripts/publish_tune.py tuning --seeds 0 1 2
    python scripts/publish_tune.py workers --devices mcu --workers 1 2 4

proxy: short searches with drawn weights, as a study makes them, inside budgets that are drawn too (--spread), so that
small and large networks are among them; what cheap measures say of each derived network, and the accuracy of the same
architecture after both stages of training, through the link, on the architecture split with all its labels (which no
search sees). Test data are not read.

tuning: for each device class and seed a study, and both stages on the architecture that it leads to and on the one that
the settings' own weights find; the same teacher, budgets, steps and seed; test accuracy at 10 dB AWGN and full length,
by --test on the test images of another data set with the same classes and images (fashion-mnist has five times as many
as its part, fashion-mini).

workers: the same trials with 1, 2, ... workers on this machine, nothing pruned, from a warmed-up supernet; then once
more with the most, one of which is killed. For a machine that does nothing else.

What is finished is kept in --work and not done again: several processes, each with a part of --devices and --seeds, may
fill one --work, and a last call collects.
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch
from publishing import add_run_options, command, run_script

from kdnas.config import make_settings, parse_assignments
from kdnas.data import load_dataset
from kdnas.device import list_devices
from kdnas.evaluate import evaluate_answers, evaluate_link
from kdnas.export import load_link
from kdnas.link import Link, constant_conditions
from kdnas.pipeline import api, stages
from kdnas.pipeline.context import Context
from kdnas.run.directory import RunDirectory
from kdnas.run.files import hash_of, read_json, write_json
from kdnas.run.seeds import generator
from kdnas.run.tensors import torch_device
from kdnas.space import Architecture
from kdnas.tune.objective import Objective
from kdnas.tune.space import search_space, with_parameters
from kdnas.tune.storage import open_storage


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


def proxies_of(context: Context, index: int, spread: float) -> list[dict[str, Any]]:
    """One drawn set of weights and budgets: the values of all proxies, and what full training makes of the network."""
    s = context.settings
    draw = generator(s.seed, "weights of a trial", index)
    space = search_space(s.tune.parameters, context.searcher.budgets, s.search, s.loss)
    *shares, size = torch.rand(len(space) + 1, generator=draw).tolist()
    factor = spread ** (2 * size - 1)
    parameters = {
        name: math.exp(math.log(low) + share * math.log(high / low))
        for (name, (low, high)), share in zip(space.items(), shares, strict=True)
    }
    short = s.search.model_copy(update={"warmup_epochs": 0, "epochs": s.tune.epochs, "steps": s.tune.steps})
    search, loss = with_parameters(parameters, short, s.loss)
    searcher = context.searcher
    searcher.budgets = {name: factor * limit for name, limit in context.encoder_budgets.items()}
    began = time.perf_counter()
    found = searcher.run(
        search, loss, context.path, f"trial-{index}-{spread:g}", weights=stages.warmed(context), progress=False,
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
        channels=radio.channels, name=f"codec-{index}-{spread:g}",
    )  # fmt: skip
    codec_s = time.perf_counter() - began
    for judged in ("labels", "all"):
        add("codec", judged, lambda j=judged: worth_through(link, judges["codec", j]))  # type: ignore[misc]
        rows[-1]["proxy_s"] += codec_s

    network = stages.fresh(context, found.choices)
    trained = stages.both_stages(context, network, s.loss, f"full-{index}-{spread:g}").cpu().eval()
    ids = torch.cat([context.splits.architecture_labelled, context.splits.architecture_unlabelled])
    low, high = radio.snr_db
    correct = evaluate_answers(
        trained, context.dataset.train_images[ids], context.dataset.train_labels[ids], ids, channels=radio.channels,
        snrs_db=(low, (low + high) / 2, high), lengths=[radio.symbols], draws=2, batch_size=500, seed=s.seed,
    )  # fmt: skip
    accuracy = float(torch.stack([c.double().mean() for c in correct.values()]).mean())
    told = {"trained": accuracy, "budget_factor": factor, **{name: found.costs[name] for name in ("params", "macs")}}
    return [{**row, **told} for row in rows]


def proxy_table(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of proxies.json."""
    rows = []
    for device in given.devices:
        for seed in given.seeds:
            context = context_of(given, device, seed)
            for index in range(given.architectures):
                path = context.path / f"architecture-{index}-{given.spread:g}.json"
                found = kept(path, lambda c=context, i=index: proxies_of(c, i, given.spread))  # type: ignore[misc]
                rows += found
                told = {f"{r['proxy']}/{r['judged']}": round(r["value"], 4) for r in found}
                print(device, seed, index, json.dumps(told), f"trained {found[0]['trained']:.4f}", flush=True)
    return rows


def judged(context: Context, choices: dict[str, Any], system: str, given: argparse.Namespace) -> dict[str, Any]:
    """Test accuracy and costs of an architecture after both stages; its link is kept in the run directory."""
    place = context.path if system == "study" else context.path / system
    if not (place / "link.json").exists():
        costs = context.tables.exact(choices)
        architecture = Architecture(context.settings.space, context.space_options, choices, costs, {})
        network = stages.fresh(context, choices)
        stages.save(context, place, architecture, stages.both_stages(context, network, context.settings.loss, system))
    s, radio = context.settings, context.device.link
    tested = load_dataset(given.test) if given.test else context.dataset
    row = evaluate_link(
        load_link(place).to(torch_device(s.accelerator)), tested.test_images, tested.test_labels, system=system,
        channels=["awgn"], snrs_db=[10.0], lengths=[radio.symbols], draws=s.evaluate.draws,
        batch_size=s.evaluate.batch_size, seed=s.seed,
    )[0]  # fmt: skip
    costs = context.transmitter_costs(context.tables.steps(choices))
    return {
        "device": context.device.name, "seed": s.seed, "system": system, "accuracy": row["accuracy"],
        "ci95": row["ci95"], **costs,
        "binding_use": max(costs[name] / limit for name, limit in context.device.budgets.items()),
    }  # fmt: skip


def pair(given: argparse.Namespace, device: str, seed: int) -> list[dict[str, Any]]:
    """A study and its full searches, and what the study chose against what the settings' own weights found.

    These weights' search is one of the study's: it begins from the same supernet and sees the same batches as a run
    without a study would.
    """
    place = given.work / f"tuning-study-{device}-s{seed}-{hash_of(given.preset, *given.set)}"
    begun = (place / "run.json").exists()
    settings = {
        **parse_assignments(given.set), "preset": given.preset, "device": device, "seed": seed,
        "threads": given.threads,
    }  # fmt: skip
    for verb in (api.tune, api.distill):
        verb(**({"resume": place} if begun else {"out": place, **settings}), say=print)
        begun = True
    directory = RunDirectory.open(place)
    context = Context(make_settings(directory.settings), directory, progress=False)
    tuned, searched = directory.report("tune"), directory.report("search")
    assert tuned is not None and searched is not None
    study = {
        **judged(context, searched["choices"], "study", given), "parameters": tuned["best"]["parameters"],
        "feasible": tuned["feasible"], "savings": tuned["savings"],
    }  # fmt: skip
    own = searched["finalists"][-1]
    assert own["weights"] == "settings"
    if own["choices"] == searched["choices"]:  # trained alike, it is the same link
        default = {**study, "system": "default"}
    else:
        default = judged(context, own["choices"], "default", given)
    return [{**default, "parameters": None, "feasible": None, "savings": None}, study]


def tuning_table(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of tuning.json."""
    rows = []
    for device in given.devices:
        for seed in given.seeds:
            what = hash_of(given.preset, *given.set, *([given.test] if given.test else []))
            path = given.work / f"tuning-{device}-s{seed}-{what}.json"
            found = kept(path, lambda d=device, s=seed: pair(given, d, s))  # type: ignore[misc]
            rows += found
            print(device, seed, *(f"{row['system']} {row['accuracy']:.4f}" for row in found), flush=True)
    return rows


def place_of(given: argparse.Namespace, name: str) -> Path:
    """Where a part of workers.json is kept."""
    return Path(given.work / f"workers-{name}-{hash_of(given.preset, given.devices, given.trials, *given.set)}")


def prepared(given: argparse.Namespace, workers: int, name: str, **more: Any) -> Path:
    """A run directory with teacher, store and warmed-up supernet, whose study is all that is left to do."""
    place = place_of(given, name)
    if not (place / "run.json").exists():
        settings = {
            "preset": given.preset, "device": given.devices[0], "seed": given.seeds[0], "threads": given.threads,
            "tune.workers": workers, "tune.trials": given.trials, "tune.check": 0,
            "tune.startup_trials": given.trials,  # drawn, and none pruned: all counts of workers do the same work
            **more,
        }  # fmt: skip
        api.teach(out=place, **{**parse_assignments(given.set), **settings})
    directory = RunDirectory.open(place)
    stages.warmed(Context(make_settings(directory.settings), directory, progress=False))
    return place


def workers_table(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of workers.json."""
    rows: list[dict[str, Any]] = []
    found: dict[int, list[tuple[Any, ...]]] = {}
    for count in given.workers:
        place = api.tune(resume=prepared(given, count, str(count)), say=print)
        report = read_json(place / "stages" / "tune.json")
        found[count] = [(row["parameters"], row["accuracy"], row["choices"]) for row in report["trials"]]
        rate = 3600 * given.trials / report["seconds"]
        rows.append(
            {"workers": count, "trials": given.trials, "seconds": report["seconds"], "trials_per_hour": rate,
             "efficiency": rate / count / (rows[0]["trials_per_hour"] / rows[0]["workers"]) if rows else 1.0,
             "cores": os.cpu_count(), "threads": given.threads, "device": make_settings(
                 RunDirectory.open(place).settings).device,
             "same_trials": found[count] == found[given.workers[0]]}
        )  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    path = place_of(given, "kill").with_suffix(".json")
    rows[-1]["kill_test"] = kept(path, lambda: kill_test(given, found[given.workers[0]]))
    return rows


def kill_test(given: argparse.Namespace, expected: list[tuple[Any, ...]]) -> dict[str, Any]:
    """The study once more with the most workers, one of which is killed in the middle of a trial."""
    shutil.rmtree(place_of(given, "kill"), ignore_errors=True)  # of a call that was stopped
    place = prepared(given, max(given.workers), "kill", **{"tune.heartbeat": 1.0})
    command = [sys.executable, "-m", "kdnas.cli", "tune", "--resume", str(place)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or []))
    reader.start()
    killed: dict[str, Any] = {}
    storage = open_storage(str(place / "study.db"))
    while process.poll() is None and not killed:
        time.sleep(0.2)
        for name in optuna.get_all_study_names(storage):
            study = optuna.load_study(study_name=name, storage=storage)
            for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
                pid = int(trial.user_attrs.get("worker", ":0").rpartition(":")[2])
                if len(trial.intermediate_values) == 1 and pid not in (0, process.pid):  # its middle
                    os.kill(pid, signal.SIGKILL)
                    killed = {"trial": trial.user_attrs["slot"], "number": trial.number, "worker": pid}
                    break
    process.wait()
    reader.join()
    report = read_json(place / "stages" / "tune.json")
    return {
        "killed": killed, "retries": report["study"]["retries"],
        "trials": [row["trial"] for row in report["trials"]],
        "same_trials": [(r["parameters"], r["accuracy"], r["choices"]) for r in report["trials"]] == expected,
        "log": [line.rstrip() for line in lines if line.startswith(("trial ", "worker "))],
    }  # fmt: skip


TABLES: dict[str, tuple[str, Callable[[argparse.Namespace], list[dict[str, Any]]], list[str]]] = {
    "proxy": ("proxies.json", proxy_table, ["wearable"]),
    "tuning": ("tuning.json", tuning_table, list_devices()),
    "workers": ("workers.json", workers_table, ["mcu"]),
}
# Options that act on one table alone.
OWN_OPTIONS = {"proxy": ("architectures", "spread"), "tuning": ("test",), "workers": ("workers", "trials")}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--devices", nargs="+", help="device classes (default: the table's)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--architectures", type=int, default=10, help="proxy: how many")
    parser.add_argument("--spread", type=float, default=3.0, help="proxy: budgets are drawn from 1/this to this times")
    parser.add_argument("--test", metavar="DATASET", help="tuning: judge by its test images (default: the run's own)")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4], help="workers: how many, the fewest first")
    parser.add_argument("--trials", type=int, default=12, help="workers: trials of the study")
    add_run_options(parser)
    parser.add_argument("--work", type=Path, default=Path("runs/tune"))
    parser.add_argument("--out", type=Path, help="the published file (default: the table's, in runs/published)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    file, make, devices = TABLES[given.table]
    given.devices = given.devices or devices
    rows = make(given)
    out = given.out or Path("runs/published") / file
    write_json(
        out,
        {
            "command": command("publish_tune.py", given, "devices", "seeds", *OWN_OPTIONS.get(given.table, ())),
            "rows": rows,
        },
    )
    print(f"wrote {out}: {len(rows)} rows")


if __name__ == "__main__":
    run_script(main)
