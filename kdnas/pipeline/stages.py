"""Each stage of a run: what it reads, what it leaves in the run directory, and its report."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdnas import __version__, config
from kdnas.errors import InputError
from kdnas.evaluate import accuracy_row, evaluate_link, evaluate_teacher, rank_correlation, results_document
from kdnas.export import load_link, load_weights, save_adaptation, save_link
from kdnas.link import Link
from kdnas.loss import KnowledgeLoss
from kdnas.pipeline import board
from kdnas.pipeline.context import Context
from kdnas.pipeline.picture import layers
from kdnas.pipeline.workers import fair_threads, helpers
from kdnas.run import ranks
from kdnas.run.files import atomic_write, hash_of, read_json, sha256_file, write_json
from kdnas.run.seeds import seeded
from kdnas.run.tensors import read_tensors, torch_device, write_tensors
from kdnas.search.engine import SearchResult
from kdnas.space.architecture import Architecture
from kdnas.tune.objective import Objective
from kdnas.tune.space import search_space, with_parameters
from kdnas.tune.study import Study, ranked
from kdnas.tune.warm import warm_parameters

Say = Callable[[str], None]


def teach(context: Context, say: Say) -> None:
    """Adapt the teacher and store what it says of every (image, view)."""
    with context.directory.stage("teach") as report:
        store = context.store
        report |= {"teacher": context.teacher_report, "store": store.report, "key": store.identity.key}
        report["data"] = {
            "name": context.dataset.name,
            "hash": context.dataset.hash,
            "splits": context.splits.hash,
        }
    t, s = report["teacher"], report["store"]
    say(
        f"teacher {t['teacher']}: {t['accuracy']:.1%} on the architecture split, calibration error {t['ece']:.3f}"
        f"{' (from the cache)' if t['reused'] else ''}; knowledge: {s['bytes'] / 1e6:.0f} MB, "
        f"{s['bytes_per_sample']:.0f} B per image and view{' (from the cache)' if s['reused'] else ''}"
    )


def warmed(context: Context) -> dict[str, Tensor]:
    """The warmed-up supernet that trials and the search branch from; trained once."""
    path = context.path / "checkpoints" / "warm-up.safetensors"
    if not ranks.by_main(path.exists):
        s = context.settings
        weights = context.searcher.warm_up(s.search, s.loss, context.path, "warm-up", progress=context.progress)
        ranks.by_main(lambda: write_tensors(path, weights))
    return read_tensors(path)


def study_of(context: Context, helper: bool = False) -> Study:
    """The study of the run's device class; every worker that is given the same settings, data and device shares it."""
    s = context.settings
    defining = s.model_dump(
        mode="json",
        include={"data", "space", "spaces", "teacher", "adapt", "knowledge", "loss", "search", "codec", "tune"},
        exclude={
            "data": {"root"},
            "knowledge": {"workers"},
            "tune": {"enabled", "trials", "check", "workers", "storage", "heartbeat", "warm_start", "finalists",
                     "final_epochs"},
        },
    )  # fmt: skip
    identity = {
        "kdnas": __version__, "device": context.device.name, "dataset": context.dataset.name,
        "device_hash": context.device.hash, "data_hash": context.dataset.hash, "splits_hash": context.splits.hash,
        "settings": hash_of(defining),
    }  # fmt: skip
    space = search_space(s.tune.parameters, context.searcher.budgets, s.search, s.loss)
    warm: list[dict[str, float]] = []
    if s.tune.warm_start is not None:
        warm = warm_parameters(s.tune.warm_start, s.tune.storage, space, max(1, s.tune.startup_trials // 2))
    return Study(
        context.searcher, warmed(context), s.search, s.loss, s.tune, context.path, s.seed, judge=objective_of(context),
        warm=warm, identity=identity, helper=helper,
    )  # fmt: skip


def objective_of(context: Context) -> Objective:
    """What architectures are worth, as the settings want it judged."""
    s = context.settings
    return Objective(
        context.lessons, context.splits, context.device.link, channel=s.tune.objective == "noise", seed=s.seed,
        judged=s.tune.judged if s.loss.kd > 0 else "labels",  # without distillation the teacher has no say
    )  # fmt: skip


def tune(context: Context, say: Say) -> None:
    """Let Optuna set λ_kd and the λ_c of the device class, and check that short trials rank architectures rightly."""
    s = context.settings
    with context.directory.stage("tune") as report:
        threads, before = fair_threads(context), torch.get_num_threads()
        study = study_of(context)
        with helpers(context, threads) as others:
            torch.set_num_threads(threads or before)

            def on_trial(row: Mapping[str, Any]) -> None:
                board.add_trial(context.path, row, context.device.name, s.seed)
                value = "pruned" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
                fits = "inside the budgets" if row["feasible"] else "outside the budgets"
                by = f", by {row['worker']}" if row["worker"] else ""
                say(f"trial {row['trial'] + 1} of {s.tune.trials}: {value}, {fits}{by}")
                for pid, code in others.lost():
                    say(f"worker {pid} ended with {code}; its trial goes to another")

            rows = study.run(on_trial)
            for row in rows:  # of other machines, from before this one joined
                if not (context.path / "tensorboard" / "trials" / f"{row['trial']:03d}").exists():
                    board.add_trial(context.path, row, context.device.name, s.seed)
        torch.set_num_threads(before)
        report["study"] = {"name": study.name, "retries": study.retries(), "warm_start": study.warm}
        report["savings"] = study.savings()
        board.add_savings(context.path, report["savings"])
        best = study.best()
        report |= {"best": best, "trials": rows, "pruned": sum(row["state"] == "pruned" for row in rows)}
        report["feasible"] = sum(row["feasible"] and row["accuracy"] is not None for row in rows)
        report["ranks"] = _rank_check(context, rows)
        report["rank_correlation"] = (
            rank_correlation(
                *zip(*((r["trial_accuracy"], r["trained_accuracy"]) for r in report["ranks"]), strict=True)
            )
            if len(report["ranks"]) > 1
            else None
        )
    weights = ", ".join(f"{name} {value:.3g}" for name, value in best["parameters"].items())
    rho = report["rank_correlation"]
    ranks = "" if rho is None else f"; rank correlation with full training {rho:.2f} on {len(report['ranks'])}"
    say(
        f"best weights: {weights}; {len(rows)} trials, {report['feasible']} feasible, {report['pruned']} pruned "
        f"({report['savings']['share_saved']:.0%} of the steps saved){ranks}"
    )


def _rank_check(context: Context, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Train a few trials' architectures in full: the best, the worst, and some between."""
    complete = sorted((r for r in rows if r["accuracy"] is not None), key=lambda r: (r["accuracy"], r["trial"]))
    count = min(context.settings.tune.check, len(complete))
    chosen = [complete[round(i * (len(complete) - 1) / max(1, count - 1))] for i in range(count)]
    pairs = []
    for row in {r["trial"]: r for r in chosen}.values():
        network = fresh(context, row["choices"])
        accuracy = train_clean(context, network, f"check/{row['trial']:03d}")
        pairs.append({"trial": row["trial"], "trial_accuracy": row["accuracy"], "trained_accuracy": accuracy})
    return pairs


def fresh(context: Context, choices: Mapping[str, Any]) -> nn.Module:
    """The network of ``choices``, its first weights drawn from the run's seed."""
    space = context.space  # made before: it draws weights too, the first time
    with seeded(context.settings.seed, "encoder"):
        return space.network(choices)


def train_clean(context: Context, network: nn.Module, name: str) -> float:
    """Stage 1 on ``network``; its accuracy on the labelled images of the architecture split."""
    classifier, _ = context.distiller().clean(network, context.settings.loss, name)
    network.eval()
    return context.searcher.accuracy(network, classifier, torch.device("cpu"))


def search(context: Context, say: Say) -> None:
    """The full search, which all processes share; after a study several, of which the best architecture is kept."""
    s = context.settings

    def prepare() -> None:
        _ = context.searcher  # adapts the teacher and stores what it says, where the cache has lost them

    with context.directory.stage("search") as report:
        ranks.by_main(prepare)
        tried = finalists(context)
        results = [
            context.searcher.run(
                settings.model_copy(update={"warmup_epochs": 0}), loss, context.path,
                f"search-{number}" if number > 1 else "search", weights=warmed(context),
                on_epoch=lambda epoch, accuracy, likely: None, progress=context.progress,
            )
            for number, (_, settings, loss) in enumerate(tried, 1)
        ]  # fmt: skip
        values = compared(context, results, [whose for whose, _, _ in tried], say)
        chosen = max(range(len(tried)), key=values.__getitem__)  # the first of equals
        (_, settings, loss), result = tried[chosen], results[chosen]
        architecture = Architecture(
            s.space, context.space_options, result.choices, result.costs,
            {"data": context.dataset.hash, "teacher": context.teacher.hash, "device": context.device.hash},
        )  # fmt: skip
        report |= {
            "choices": result.choices, "costs": result.costs, "likely": result.likely, "penalty": settings.penalty,
            "kd": loss.kd, "accuracy_relaxed": result.accuracy_relaxed, "accuracy_derived": result.accuracy_derived,
            "gap": result.gap, "history": result.history,
            "finalists": [
                {"weights": whose, "kd": loss.kd, "penalty": settings.penalty, "choices": each.choices,
                 "costs": each.costs, "gap": each.gap, "value": value if len(tried) > 1 else None}
                for (whose, settings, loss), each, value in zip(tried, results, values, strict=True)
            ],
        }  # fmt: skip

        def keep() -> None:
            write_tensors(context.path / "inherited.safetensors", result.network.state_dict())
            architecture.save(context.path / "architecture.json")
            board.add_search(context.path, report, context.space.domains(), layers(result.network, context.dataset))

        ranks.by_main(keep)
    used = {name: result.costs[name] / budget for name, budget in context.encoder_budgets.items()}
    binding = max(used, key=lambda name: used[name])
    say(
        f"found {result.costs['params']:,.0f} parameters, {result.costs['macs']:,.0f} MACs; {binding} uses "
        f"{used[binding]:.0%} of the encoder's budget; discretisation gap {100 * result.gap:+.1f} points"
    )


def finalists(context: Context) -> list[tuple[str, config.Search, config.Loss]]:
    """Whose weights the full searches have: the study's best trials', then the settings' own; without a study these."""
    s, tuned = context.settings, context.directory.report("tune")
    best = ranked(tuned["trials"])[: s.tune.finalists] if tuned else []
    return [
        *((f"trial {row['trial'] + 1}", *with_parameters(row["parameters"], s.search, s.loss)) for row in best),
        ("settings", s.search, s.loss),
    ]


def compared(context: Context, results: Sequence[SearchResult], names: Sequence[str], say: Say) -> list[float]:
    """What the architectures of several searches are worth by the study's objective.

    Each begins stage 1 anew, the same for all: the weights that a search leaves tell its λ_kd more than its choices.
    """
    values: list[float] = []
    if len(results) == 1:
        return [0.0]
    distiller, objective = context.distiller(), objective_of(context)
    distiller.settings = context.settings.distill.model_copy(
        update={"epochs": context.settings.tune.final_epochs, "patience": 0}
    )
    for number, (result, name) in enumerate(zip(results, names, strict=True)):
        same = [index for index in range(number) if results[index].choices == result.choices]
        if same:
            values.append(values[same[0]])
        else:
            network = fresh(context, result.choices)
            classifier, _ = distiller.clean(network, context.settings.loss, f"finalists/{number + 1}")
            network.eval()
            values.append(ranks.by_main(partial(objective, network, classifier, torch.device("cpu"))))
        say(f"search with the weights of {name}: its architecture is worth {values[-1]:.1%}")
    return values


def architecture_of(context: Context, path: Path | None = None) -> Architecture:
    """The run's architecture (or the one in ``path``), checked against its space, image shape and budgets.

    Raises:
        InputError: It is of another space or image shape, its choices are not the space's, or it breaks a budget.
    """
    path = path or context.path / "architecture.json"
    found = Architecture.load(path)
    if found.options != context.space_options or found.space != context.settings.space:
        raise InputError(
            f"{path} is of space {found.space!r} with options {found.options}; this run needs "
            f"{context.settings.space!r} with {context.space_options}"
        )
    costs = context.tables.exact(context.space.check(found.choices))
    for name, limit in context.encoder_budgets.items():
        if costs[name] > limit:
            raise InputError(
                f"{path} needs {costs[name]:.6g} of the encoder's {name} budget {limit:.6g} on {context.device.name}"
            )
    return found


def distill(context: Context, say: Say) -> None:
    """Both stages of RKD on the found architecture."""
    s = context.settings
    with context.directory.stage("distill") as report:
        architecture = architecture_of(context)
        network = fresh(context, architecture.choices)
        if s.distill.init == "inherited":
            load_weights(network, context.path / "inherited.safetensors")
        link = both_stages(context, network, s.loss, "kdnas")
        save(context, context.path, architecture, link)
        report |= {"encoder": sha256_file(context.path / "encoder.safetensors")}
    say("distilled: stage 1 clean, stage 2 through the link")


def baseline(context: Context, say: Say) -> None:
    """The same encoder and codec without distillation: the same labels, the same steps, no teacher."""
    with context.directory.stage("no-kd") as report:
        architecture = architecture_of(context)
        loss = context.settings.loss.model_copy(update={"kd": 0.0, "ce": 1.0})
        link = both_stages(context, fresh(context, architecture.choices), loss, "no-kd")
        save(context, context.path / "baselines" / "no-kd", architecture, link)
        report |= {"encoder": sha256_file(context.path / "baselines" / "no-kd" / "encoder.safetensors")}
    say("trained the baseline without distillation on the same labels and steps")


def both_stages(context: Context, network: nn.Module, loss: config.Loss, name: str) -> Link:
    """Stage 1, kept when finished, and stage 2."""
    classifier, knowledge = clean_stage(context, network, loss, name)
    return context.distiller(teacher=loss.kd > 0).through_link(
        network, classifier, knowledge, context.codec(), snr_db=context.training_snr_db,
        channels=context.device.link.channels, name=f"{name}/stage2",
    )  # fmt: skip


def clean_stage(
    context: Context, network: nn.Module, loss: config.Loss, name: str, settings: config.Distill | None = None
) -> tuple[nn.Module, KnowledgeLoss]:
    """Stage 1 of ``network``, in place, kept when finished; the classifier and the loss that come out of it."""
    distiller = context.distiller(loss.kd > 0, settings)
    kept = context.path / "checkpoints" / f"{name}-stage1.safetensors"
    classifier: nn.Module = nn.Linear(context.settings.spaces.feature_dim, len(context.dataset.classes))
    knowledge = distiller.knowledge_loss(loss)
    whole = nn.ModuleDict({"encoder": network, "classifier": classifier, "loss": knowledge})
    if kept.exists():
        load_weights(whole, kept)
    else:
        trained, knowledge = distiller.clean(network, loss, f"{name}/stage1")
        classifier, whole["classifier"], whole["loss"] = trained, trained, knowledge
        write_tensors(kept, whole.state_dict())
    return classifier, knowledge


def save(context: Context, directory: Path, architecture: Architecture, link: Link) -> None:
    """Write a trained link of the run."""
    device = context.device
    save_link(
        directory, architecture, link,
        {"device": device.name, "dataset": context.dataset.name, "classes": list(context.dataset.classes),
         "channels": list(device.link.channels), "snr_db": list(context.training_snr_db)},
    )  # fmt: skip


def evaluate(context: Context, say: Say, baselines: Sequence[str] = (), out: Path | None = None) -> None:
    """Accuracy for every channel, SNR and length: ``results.json`` on test data, ``adaptation.json`` on its split.

    Args:
        context: Of the run.
        say: Called with a line of progress.
        baselines: Made where they are not kept; those that are kept are reported in any case.
        out: Another directory for ``results.json``: the run's own, its adaptation table and its report stay.
    """
    from kdnas.pipeline.baselines import Baselines

    others = Baselines(context, architecture_of(context), context.path / "baselines")
    others.check(baselines)
    s, device = context.settings, context.device
    place = out or context.path
    place.mkdir(parents=True, exist_ok=True)
    stage: AbstractContextManager[dict[str, Any]] = nullcontext({})
    if out is None:
        stage = context.directory.stage("evaluate")
    with stage as report:
        images, labels = context.dataset.test_images, context.dataset.test_labels
        lengths = sorted({n for n in s.evaluate.lengths if n <= device.link.symbols} | {device.link.symbols})
        curves: list[dict[str, Any]] = []
        links = {"kdnas": load_link(context.path)}
        if s.evaluate.int8:
            links["kdnas-int8"] = int8_link(context, links["kdnas"], place)
        baseline = context.path / "baselines" / "no-kd"
        if (baseline / "link.json").exists():
            links["no-kd"] = load_link(baseline)
        how: dict[str, Any] = {
            "channels": s.evaluate.channels or device.link.channels, "snrs_db": s.evaluate.snrs_db, "lengths": lengths,
            "draws": s.evaluate.draws, "batch_size": s.evaluate.batch_size, "seed": s.seed,
        }  # fmt: skip
        for system, link in links.items():
            curves += evaluate_link(
                link.to(torch_device(s.accelerator)), images, labels, system=system,
                snr_offsets_db=[0.0, *s.evaluate.snr_offsets_db], ci95=s.evaluate.ci95, max_draws=s.evaluate.max_draws,
                **how,
            )  # fmt: skip
        mismatch = [row for row in curves if "snr_offset_db" in row]
        curves = [row for row in curves if "snr_offset_db" not in row]
        if out is None:
            ids, data = context.splits.architecture_labelled, context.dataset
            held = (data.train_images[ids], data.train_labels[ids], ids)
            # Over the device's own channels, whichever others the link is tried on: by default the worst one counts.
            # A transmitter that knows the SNR after fading meets no fading on top of it.
            own = {**how, "channels": ["awgn"] if links["kdnas"].transmitter_csi else device.link.channels}
            save_adaptation(
                context.path, evaluate_link(links["kdnas"], *held, system="kdnas", **own), s.evaluate.confidence
            )
        teacher = evaluate_teacher(context.teacher, images, labels, device=torch_device(s.accelerator))
        curves += teacher
        for name in baselines:
            others.correct(name)
            say(f"baseline {name}: done")
        kept = [name for name in config.BASELINES if others.is_kept(name)]
        curves += [accuracy_row(name, point, right) for name in kept for point, right in others.correct(name).items()]
        encoder_steps = context.tables.steps(architecture_of(context).choices)
        write_json(
            place / "results.json",
            results_document(
                device=device.name, dataset=context.dataset.name, seed=s.seed, labels=s.data.labels,
                draws=s.evaluate.draws, transmitter=context.transmitter_costs(encoder_steps),
                encoder=context.tables.exact(architecture_of(context).choices),
                budgets={str(name): limit for name, limit in device.budgets.items()},
                teacher={"name": s.teacher, "params": context.teacher.parameter_count,
                         "accuracy": teacher[0]["accuracy"]},
                curves=curves, mismatch=mismatch, baselines={name: others.info(name) for name in kept},
                search=_search_info(context),
            ),
        )  # fmt: skip
        report |= {"settings": s.evaluate.model_dump(), "points": len(curves + mismatch)}
        report |= {"results": hash_of(curves + mismatch)}
    say(f"evaluated {len(curves + mismatch)} points on {len(images):,} test images")


def int8_link(context: Context, link: Link, place: Path) -> Link:
    """The link with its transmitter in int8, calibrated on the weights split.

    Leaves ``transmitter.onnx`` and ``transmitter.int8.onnx`` in the directory ``place``.
    """
    from kdnas.export import int8
    from kdnas.export.halves import half_onnx

    splits, dataset = context.splits, context.dataset
    known = dataset.train_images[torch.cat([splits.weights_labelled, splits.weights_unlabelled])]
    exact = half_onnx(link, "transmitter.onnx", dataset.image_shape)
    small = int8.quantised(
        exact, known, snr_db=context.training_snr_db, symbols=link.symbols, seed=context.settings.seed
    )
    atomic_write(place / "transmitter.onnx", exact)
    atomic_write(place / "transmitter.int8.onnx", small)
    return int8.int8_link(link, small, threads=torch.get_num_threads())


def _search_info(context: Context) -> dict[str, Any]:
    """What the figures of the search need."""
    found, tuned = context.directory.report("search"), context.directory.report("tune")
    network = context.space.network(architecture_of(context).choices)
    info: dict[str, Any] = {"layers": layers(network, context.dataset), "choices": context.space.domains()}
    if found:
        info["alphas"] = [{"epoch": row["epoch"], "probs": row["probabilities"]} for row in found["history"]]
    if tuned:
        info["trials"] = [
            {
                "number": row["trial"],
                "accuracy": row["accuracy"],
                "ratio": 1 + max(row["constraints"].values()) if row["constraints"] else None,
                "feasible": row["feasible"],
            }
            for row in tuned["trials"]
        ]
        info["ranks"] = [{k: p[k] for k in ("trial_accuracy", "trained_accuracy")} for p in tuned["ranks"]]
    return info


def plot(context: Context, say: Say) -> None:
    """Draw every figure from ``results.json`` and put them on the TensorBoard page."""
    from kdnas.plot import plot_run

    with context.directory.stage("plot") as report:
        written = plot_run(context.path)
        results = read_json(context.path / "results.json")
        board.add_run(context.path, context.settings.model_dump(mode="json"), results)
        board.add_figures(context.path, [path for path in written if path.suffix == ".png"])
        report["figures"] = [str(path.relative_to(context.path)) for path in written]
    say(f"drew {len(written)} figures")
