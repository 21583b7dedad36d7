"""The command line: every verb of kdnas, with exit codes that scripts can trust."""

import errno
import functools
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from kdnas.errors import InputError
from kdnas.run import ranks

app = typer.Typer(
    name="kdnas",
    help="Search, distil and link small semantic image encoders for each class of devices.\n\n"
    "Start with:  kdnas run --device wearable --preset quick",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Device = Annotated[
    str | None,
    typer.Option("--device", help="Device class (kdnas list devices), or a TOML file of your own."),
]
DatasetName = Annotated[str | None, typer.Option("--dataset", help="Data set (kdnas list datasets), or folder:PATH.")]
SpaceName = Annotated[str | None, typer.Option("--space", help="Search space (kdnas list spaces).")]
TeacherName = Annotated[
    str | None,
    typer.Option("--teacher", help="Teacher (kdnas list teachers), hf:MODEL, timm:MODEL, or several joined by +."),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset", help="How much to compute: smoke (a minute, for tests), quick (minutes), standard, paper."
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of everything random.")]
Devices = Annotated[
    str | None,
    typer.Option(
        "--device", help="Device class (kdnas list devices), a TOML file of your own, several with commas, or all."
    ),
]
Seeds = Annotated[str | None, typer.Option("--seed", help="Seed of everything random; several with commas.")]
Out = Annotated[Path | None, typer.Option("--out", help="Run directory to make (default: below runs/).")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting (kdnas show settings); may be given often."),
]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file of settings; the command line wins over it.")]
Resume = Annotated[Path | None, typer.Option("--resume", metavar="RUN", help="Go on with a run that was stopped.")]
ArchitectureFile = Annotated[
    Path | None, typer.Option("--architecture", help="An architecture.json of your own instead of a search.")
]
WeightsFile = Annotated[
    Path | None, typer.Option("--weights", help="With --architecture: safetensors weights from which stage 1 starts.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Processes on this machine that share the study's trials.")
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage", metavar="URL",
        help="Where the study is kept: postgresql://user@host/db, or an SQLite file. Workers that are started anywhere "
        "with the same command share it.",
    ),
]  # fmt: skip
Classes = typer.Option("--classes", help="Classes that the link tells apart: the channel encoder has a word for each.")
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


def guard(command: Callable[..., None]) -> Callable[..., None]:
    """Exit codes: 2 for what the user can mend (one line, no traceback), 130 for Ctrl-C, 1 for our own faults."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            _check_processes(command.__name__)
            command(*args, **kwargs)
        except InputError as error:
            if isinstance(error, ranks.ToldError):
                time.sleep(30)  # torchrun ends all processes with the first that fails: let rank 0, which tells, be it
            else:
                typer.echo(f"kdnas: {error}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            begun = _last_run is not None and (_last_run / "run.json").exists()
            hint = f"; go on with: kdnas {command.__name__} --resume {shlex.quote(str(_last_run))}" if begun else ""
            if ranks.launched()[0] == 0:
                typer.echo(f"\nkdnas: stopped{hint}", err=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader of our output went away (| head)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
                raise
            place = f" {error.filename}" if error.filename else ""
            typer.echo(f"kdnas: cannot write{place}: {error.strerror}; free space or choose another --out", err=True)
            raise typer.Exit(2) from None

    return wrapped


def _check_processes(command: str) -> None:
    """Refuse what two processes would do twice."""
    rank, processes = ranks.launched()
    if processes > 1 and command not in ("run", "search", "distill"):
        kind = InputError if rank == 0 else ranks.ToldError
        raise kind(f"`kdnas {command.rstrip('_')}` runs in one process: start it without torchrun")


_last_run: Path | None = None


def say(line: str) -> None:
    """A line of progress, on standard error so that standard output stays machine-readable."""
    typer.echo(line, err=True)


def _print(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1))


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _assigned(pairs: list[str] | None) -> dict[str, Any]:
    """What --set sets, by keys that are settings: no other word may reach a function's own arguments."""
    from kdnas.config import check_keys, parse_assignments

    found = parse_assignments(pairs or [])
    check_keys(found)
    return found


def _of_file(config: Path | None, acting: Sequence[str]) -> dict[str, Any]:
    """What a settings file says of a command that few settings act on; the rest of the file must be right too."""
    from kdnas.config import load_config, make_settings
    from kdnas.pipeline.api import acts

    found = load_config(config) if config else {}
    make_settings(found)
    return {key: value for key, value in found.items() if acts(key, acting)}


def _go(
    verb: str, given: Mapping[str, Any], config: Path | None, pairs: list[str] | None, out: Path | None,
    resume: Path | None, as_json: bool, **extra: Path | bool | None,
) -> None:  # fmt: skip
    global _last_run
    from kdnas.config import load_config, make_settings, parse_assignments
    from kdnas.pipeline import api
    from kdnas.pipeline.places import classes_directory

    named = {key: value for key, value in given.items() if value is not None}

    def read() -> tuple[dict[str, Any], dict[str, Any], Path]:
        layers = {**(load_config(config) if config else {}), **parse_assignments(pairs or []), **named}
        many = _many(layers, resume) if verb in ("run", "tune") else {}
        if many and any(value is not None for value in extra.values()):
            raise InputError("an architecture of your own goes with one device class and one seed")
        settings = make_settings(layers)
        if resume or out:
            return layers, many, resume or out  # type: ignore[return-value]
        where = (verb, many["devices"], many["seeds"]) if many else (verb, settings.device, [settings.seed])
        return layers, many, classes_directory(settings, *where)

    with ranks.joined():
        layers, many, _last_run = ranks.by_main(read)
        own = {key: value for key, value in extra.items() if value is not None}
        how: dict[str, Any] = {"out": out, "resume": resume, "say": say, "progress": sys.stderr.isatty()}
        if many:
            path = api.run_classes(**many, verb=verb, **how, **layers)
        else:
            path = getattr(api, verb)(**how, **own, **layers)
        ranks.by_main(lambda: _finish_classes(path, as_json) if many else _finish(verb, path, as_json))


def _many(layers: dict[str, Any], resume: Path | None) -> dict[str, Any]:
    """Devices and seeds where there are several, taken out of ``layers``; nothing where there is one of both."""
    device, seed = layers.get("device"), layers.get("seed")
    several = isinstance(seed, list) or (isinstance(device, str) and (device == "all" or "," in device))
    if resume is not None:
        from kdnas.pipeline.classes import classes_document

        if several:
            raise InputError("a resumed run has its classes and seeds: leave out --device and --seed")
        return {"devices": "", "seeds": []} if classes_document(resume) else {}
    if not several:
        return {}
    layers.pop("device", None), layers.pop("seed", None)
    return {"devices": device or "wearable", "seeds": seed if isinstance(seed, list) else [seed or 0]}


def _finish_classes(path: Path, as_json: bool) -> None:
    """Report several device classes."""
    found = path / "pareto.json"
    if as_json:
        _print({"run": str(path), **({"document": _read(found)} if found.exists() else {})})
        return
    if found.exists():
        _pareto_report(_read(found)["rows"])
    say(f"run directory: {path}")
    say(f"look at it:    {_program('tensorboard')} --logdir {path}")


def _pareto_report(rows: list[dict[str, Any]]) -> None:
    """One line for each device class: accuracy and costs, the costs at which no other class beats it marked."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from kdnas.evaluate.pareto import pareto_front
    from kdnas.plot.cost import COST_NAMES, quantity

    classes: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        classes.setdefault(row["device"], []).append(row)
    means = {
        name: {key: sum(row[key] for row in own) / len(own) for key in ("accuracy", *COST_NAMES) if key in own[0]}
        for name, own in classes.items()
    }
    costs = [cost for cost in COST_NAMES if all(cost in row for row in rows)]
    fronts = {
        cost: pareto_front([mean[cost] for mean in means.values()], [mean["accuracy"] for mean in means.values()])
        for cost in costs
    }
    first, snrs = rows[0], sorted({row["snr_db"] for row in rows})
    table = Table(
        title=f"{first['dataset']}, {len({row['seed'] for row in rows})} seed(s): test accuracy over {first['channel']}"
        f" at {' or '.join(f'{snr:g}' for snr in snrs)} dB and full length, and what the transmitter costs",
        caption="*: no other class is as accurate at less", box=SIMPLE, pad_edge=False, show_edge=False,
        padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("device", overflow="fold")
    for column in ("accuracy", *(COST_NAMES[cost].removesuffix(" per image") for cost in costs)):
        table.add_column(column.replace("parameters", "params"), justify="right", no_wrap=True)
    for place, (name, mean) in enumerate(means.items()):
        table.add_row(
            name, f"{mean['accuracy']:.1%}",
            *(quantity(cost, mean[cost]) + ("*" if fronts[cost][place] else " ") for cost in costs),
        )  # fmt: skip
    Console().print(table)


def _finish(verb: str, path: Path, as_json: bool) -> None:
    summary: dict[str, Any] = {"run": str(path)}
    for name in ("results.json", "architecture.json"):
        if (path / name).exists():
            summary[name.removesuffix(".json")] = str(path / name)
    reported = verb == "teach" and (path / "store_report.json").exists()
    if as_json:
        if (path / "results.json").exists() and verb in ("run", "evaluate"):
            summary["document"] = _read(path / "results.json")
        if reported:
            summary["document"] = _read(path / "store_report.json")
        _print(summary)
        return
    if verb in ("run", "evaluate"):
        _report(path)
    if verb == "evaluate":
        say(f"results.json and adaptation.json are those of this evaluation; draw them with `kdnas plot {path}`")
    if reported:
        _store_report(path)
    say(f"run directory: {path}")
    say(f"look at it:    {_program('tensorboard')} --logdir {path / 'tensorboard'}")
    if (path / "link.json").exists():
        python = _program("python")
        say(f'import it:     {python} -c "import kdnas; link = kdnas.load({str(path)!r})"')


def _program(name: str) -> str:
    """A program of this environment as one can type it: its bare name only where the shell finds the same one."""
    own = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and Path(found).parent == own.parent:
        return name
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)


def _report(path: Path) -> None:
    """The run in a table: costs against budgets, and accuracy at full length."""
    from rich.console import Console
    from rich.table import Table

    results = _read(path / "results.json")
    console = Console()
    table = Table(title=f"{results['device']}, {results['dataset']}, seed {results['seed']}")
    for column in ("transmitter", "used", "budget", "of budget"):
        table.add_column(column, justify="left" if column == "transmitter" else "right")
    for name, used in results["transmitter"].items():
        limit = results["budgets"].get(name)
        table.add_row(
            name, f"{used:,.4g}" if isinstance(used, float) else f"{used:,}",
            "-" if limit is None else f"{limit:,.4g}" if isinstance(limit, float) else f"{limit:,}",
            "-" if limit is None else f"{used / limit:.0%}",
        )  # fmt: skip
    console.print(table)
    # What the link is compared with, once it was, has a figure of its own, and images of thousands of symbols.
    rows = [row for row in results["curves"] if row["system"] not in results.get("baselines", {})]
    top = max((row["symbols"] or 0) for row in rows)
    rows = [row for row in rows if row["symbols"] == top]
    table = Table(
        title=f"test accuracy at {top} complex symbols per image (teacher: {results['teacher']['accuracy']:.1%})"
    )
    table.add_column("SNR (dB)", justify="right")
    points = sorted({(row["channel"], row["system"]) for row in rows})
    for channel, system in points:
        table.add_column(f"{system}, {channel}", justify="right")
    values = {(row["channel"], row["system"], row["snr_db"]): row for row in rows}
    for snr in sorted({row["snr_db"] for row in rows}):
        cells = [values.get((channel, system, snr)) for channel, system in points]
        table.add_row(f"{snr:g}", *(f"{c['accuracy']:.1%} ± {c['ci95']:.1%}" if c else "-" for c in cells))
    console.print(table)


def _store_report(path: Path) -> None:
    """The forms of stored knowledge in a table."""
    from rich.console import Console
    from rich.table import Table

    told = _read(path / "store_report.json")
    table = Table(
        title=f"stored knowledge of {told['dataset']}, {told['labels']} labels, seed {told['seed']}; a student of "
        f"{told['params']:,} parameters, epochs of {told['steps']} steps of {told['batch_size']} images",
        caption="bytes of one image in one view; ratio to the epoch without a teacher (the live one runs once on each "
        "batch); accuracy on test data",
    )
    for column in ("form", "dims", "feature + top-K", "of image", "epoch", "ratio", "accuracy"):
        table.add_column(column, justify="left" if column == "form" else "right", no_wrap=True)
    for row in told["rows"]:
        stored = row["share"] is not None
        table.add_row(
            row["form"], f"{row['dims']:,}" if row["dims"] else "-",
            f"{row['feature_bytes']:,} + {row['top_bytes']:,} B" if stored else "-",
            f"{row['share']:.1%}" if stored else "-", f"{row['epoch_s']:.2f} s", f"{row['epoch_ratio']:.2f}",
            f"{row['accuracy']:.1%} ± {row['ci95']:.1%}",
        )  # fmt: skip
    Console().print(table)


def _given(
    device: str | None,
    dataset: str | None,
    space: str | None,
    teacher: str | None,
    preset: str | None,
    seed: int | list[int] | None,
    workers: int | None = None,
    storage: str | None = None,
) -> dict[str, Any]:
    """The settings that have options of their own, by key; None where the user gave none."""
    return {
        "device": device, "dataset": dataset, "space": space, "teacher": teacher, "preset": preset, "seed": seed,
        "tune.workers": workers, "tune.storage": storage,
    }  # fmt: skip


def _seeds(text: str | None) -> int | list[int] | None:
    """One seed, or several with commas between."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise InputError(f"--seed takes a number from 0 on, or different ones with commas between, not {text!r}")
    return [int(part) for part in parts] if len(parts) > 1 else int(parts[0])


@app.command()
@guard
def run(
    device: Devices = None, dataset: DatasetName = None, space: SpaceName = None, teacher: TeacherName = None,
    preset: Preset = None, seed: Seeds = None, out: Out = None, set_: Set = None, config: Config = None,
    resume: Resume = None, json_: Json = False,
    architecture: ArchitectureFile = None, weights: WeightsFile = None,
    workers: Workers = None, storage: Storage = None,
) -> None:  # fmt: skip
    """The whole way: teach, tune, search, distil, baseline, evaluate, plot."""
    given = _given(device, dataset, space, teacher, preset, _seeds(seed), workers, storage)
    _go("run", given, config, set_, out, resume, json_, architecture=architecture, weights=weights)


@app.command()
@guard
def teach(
    device: Device = None, dataset: DatasetName = None, space: SpaceName = None, teacher: TeacherName = None,
    preset: Preset = None, seed: Seed = None, out: Out = None, set_: Set = None, config: Config = None,
    resume: Resume = None, json_: Json = False,
    report: Annotated[
        bool,
        typer.Option("--report", help="Bytes, time of an epoch and student's accuracy for each form of the store."),
    ] = False,
) -> None:  # fmt: skip
    """Adapt the teacher to the data set and store what it knows, once."""
    given = _given(device, dataset, space, teacher, preset, seed)
    _go("teach", given, config, set_, out, resume, json_, report=report or None)


@app.command()
@guard
def tune(
    device: Devices = None, dataset: DatasetName = None, space: SpaceName = None, teacher: TeacherName = None,
    preset: Preset = None, seed: Seeds = None, out: Out = None, set_: Set = None, config: Config = None,
    resume: Resume = None, json_: Json = False, workers: Workers = None, storage: Storage = None,
) -> None:  # fmt: skip
    """Let Optuna set the penalty weights of a device class."""
    given = _given(device, dataset, space, teacher, preset, _seeds(seed), workers, storage)
    _go("tune", given, config, set_, out, resume, json_)


@app.command()
@guard
def search(
    device: Device = None, dataset: DatasetName = None, space: SpaceName = None, teacher: TeacherName = None,
    preset: Preset = None, seed: Seed = None, out: Out = None, set_: Set = None, config: Config = None,
    resume: Resume = None, json_: Json = False,
) -> None:  # fmt: skip
    """KDL-DARTS: search an encoder inside the device class's budgets."""
    given = _given(device, dataset, space, teacher, preset, seed)
    _go("search", given, config, set_, out, resume, json_)


@app.command()
@guard
def distill(
    device: Device = None, dataset: DatasetName = None, space: SpaceName = None, teacher: TeacherName = None,
    preset: Preset = None, seed: Seed = None, out: Out = None, set_: Set = None, config: Config = None,
    resume: Resume = None, json_: Json = False,
    architecture: ArchitectureFile = None, weights: WeightsFile = None,
) -> None:  # fmt: skip
    """Robust distillation, clean, then through the channel, of --architecture, or of one that is searched first."""
    given = _given(device, dataset, space, teacher, preset, seed)
    _go("distill", given, config, set_, out, resume, json_, architecture=architecture, weights=weights)


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]


@app.command()
@guard
def evaluate(
    run: RunArgument,
    baselines: Annotated[
        bool,
        typer.Option("--baselines", help="Train and measure also what the link is compared with (evaluate.baselines)."),
    ] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Also with the transmitter in int8 (extra `export`).")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A directory for results.json, to look without changing the run's own results."),
    ] = None,
    set_: Set = None,
    config: Config = None,
    json_: Json = False,
) -> None:
    """Measure a run's link on test data: every channel, SNR and length; --set and --config give evaluate's settings."""
    from kdnas.pipeline import api

    given = {**_of_file(config, ["evaluate"]), **_assigned(set_), **({"evaluate.int8": True} if int8 else {})}
    api.evaluate(run, baselines=baselines, out=out, say=say, **given)
    if out is None:
        _finish("evaluate", run, json_)
    elif json_:
        _print({"run": str(run), "results": str(out / "results.json"), "document": _read(out / "results.json")})
    else:
        _report(out)
        say(f"written to {out}; draw it with `kdnas plot {shlex.quote(str(out))}`")


@app.command()
@guard
def plot(
    source: Annotated[Path, typer.Argument(metavar="RUN|FILE.json", help="Run directory, or a published table.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where a table's figures go (default: beside it).")] = None,
    json_: Json = False,
) -> None:
    """Draw the figures of a run or of a published table, from its JSON alone."""
    from kdnas.pipeline import api

    files = api.plot(source, out)
    if json_:
        _print({"figures": [str(file) for file in files]})
    else:
        for file in files:
            typer.echo(str(file))


@app.command()
@guard
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory; with --format onnx, or a published name.")],
    format_: Annotated[
        str,
        typer.Option("--format", help="torch: encoder.py and weights; onnx: encoder, transmitter and receiver apart."),
    ] = "torch",
    to_zoo: Annotated[bool, typer.Option("--to-zoo", help="Publish it in the package's zoo.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Copy it into this directory instead: architecture, encoder.py, weights, results; with --format onnx, "
            "where its files go (default: the run directory).",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name in the zoo (default: DEVICE-DATASET).")] = None,
    json_: Json = False,
) -> None:
    """Publish a finished run (architecture, encoder.py, weights and results), or write its halves as ONNX files."""
    from kdnas.pipeline import api

    if format_ == "onnx" and (to_zoo or name is not None):
        raise InputError("--format onnx writes into a directory: leave out --to-zoo and --name")
    if format_ == "torch" and to_zoo == (out is not None):
        raise InputError("give either --to-zoo or --out DIRECTORY")
    place = api.export(run, name=name, out=out, format=format_)
    _print({"published": str(place)}) if json_ else typer.echo(str(place))


@app.command()
@guard
def cost(
    architecture: Annotated[
        str,
        typer.Argument(
            metavar="ARCHITECTURE",
            help="architecture.json, run directory, or published name; with --space, text in that space's notation: "
            "'|nor_conv_3x3~0|+|…' of nas_bench_201, 'Genotype(normal=…' of darts.",
        ),
    ],
    device: Device = None,
    space: SpaceName = None,
    dataset: DatasetName = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Find the encoder's order of execution that holds the fewest bytes too.")
    ] = False,
    classes: Annotated[int | None, Classes] = None,
    set_: Set = None,
    config: Config = None,
    json_: Json = False,
) -> None:
    """What an architecture costs on a device class, by layer; needs no data.

    Without --device on the class that its run or link was made for, else on wearable. Exact numbers: --json.

    Beside its trained link (of CAT, for as many symbols) the channel encoder is that link's, unless --classes or a
    setting of the codec is given.

    Of a settings file the device class and the codec's sizes count; with --space also the data set and the space's own.

    Text with --space is costed for images like those of --dataset, whose data are not read; for nas_bench_201 the
    parameters and multiply-accumulates that the benchmark lists are printed too.
    """
    from kdnas.pipeline import api

    acting = ("device", *api.CODEC_SIZES, *(api.SPACE_SETTINGS if space is not None else ()))
    named = {"device": device, "space": space, "dataset": dataset}
    said = {key: value for key, value in named.items() if value is not None}
    given = {**_of_file(config, acting), **_assigned(set_), **said}
    found = api.cost(architecture, plan=plan, classes=classes, **given)
    if json_:
        _print(found)
        return
    from rich.console import Console
    from rich.table import Table

    from kdnas.plot.cost import quantity

    console = Console()
    table = Table(title=f"{architecture} on {found['device']}: " + ("fits" if found["fits"] else "over budget"))
    for column in ("cost", "encoder", "channel encoder", "transmitter", "budget", "of budget"):
        table.add_column(column, justify="left" if column == "cost" else "right")
    for key, value in found["transmitter"].items():
        limit, parts = found["budgets"].get(key), (found[part][key] for part in ("encoder", "channel_encoder"))
        table.add_row(
            key, *(quantity(key, part) for part in parts), quantity(key, value),
            "-" if limit is None else quantity(key, limit), "-" if limit is None else f"{value / limit:.0%}",
        )  # fmt: skip
    console.print(table)
    table = Table(title="by layer (held: bytes of activations alive while it runs)")
    for column in ("layer", "params", "MACs", "held (B)", "us", "uJ", ""):
        table.add_column(column, justify="left" if column in ("layer", "") else "right", no_wrap=True)
    for row in found["layers"]:
        table.add_row(
            row["name"], f"{row['params']:,}", f"{row['macs']:,}", f"{row['sram_bytes']:,}",
            f"{1e6 * row['latency_s']:,.1f}", f"{1e6 * row['energy_j']:,.1f}" if "energy_j" in row else "-",
            "peak" if row["peak"] else "",
        )  # fmt: skip
    console.print(table)
    told = {"link": "the link's own", "device": f"that of a new link of {found['device']}"}
    typer.echo(f"the channel encoder is {told[found['channel_encoder_of']]}")
    names = [row["name"] for row in found["layers"] if row["peak"]]
    peaks = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    typer.echo(f"the peak of activation memory, {found['transmitter']['sram_bytes']:,} B, is held by {peaks}")
    if plan:
        least, at = found["planned_sram_bytes"], found["planned_peak"]
        typer.echo(f"in the best order of execution the encoder holds {least:,} B, at {at}")
    if "published_params" in found:
        params, macs = found["published_params"], found["published_macs"]
        typer.echo(f"as {found['space']} lists it for CIFAR-10: {params:,} parameters, {macs:,} multiply-accumulates")


@app.command("list")
@guard
def list_(
    what: Annotated[str, typer.Argument(help="devices|datasets|channels|spaces|teachers|architectures|cache")],
    empty: Annotated[bool, typer.Option("--empty", help="With `cache`: remove everything in it.")] = False,
    json_: Json = False,
) -> None:
    """What there is: devices, datasets, channels, spaces, teachers, architectures, cache."""
    from kdnas.pipeline import catalogue

    found = catalogue.list_(what)
    if empty:
        if what != "cache":
            raise InputError("--empty goes with `kdnas list cache` only")
        from kdnas.data.cache import empty_cache

        freed = empty_cache()
        _print({"freed_bytes": freed}) if json_ else typer.echo(f"freed {freed / 1e6:.1f} MB")
        return
    if what == "teachers":
        from kdnas.knowledge import list_families

        say(f"also {', '.join(f'{family}:MODEL' for family in list_families())}, and several joined by +")
    if json_:
        _print(found)
    elif what == "cache":
        for row in found:
            typer.echo(f"{row['bytes'] / 1e6:9.1f} MB  {row['kind']:10} {row['path']}")
    else:
        typer.echo("\n".join(found))


@app.command()
@guard
def show(
    what: Annotated[str, typer.Argument(help="device | settings | architecture")],
    name: Annotated[str | None, typer.Argument(help="Which one; for settings, the preset.")] = None,
    toml: Annotated[bool, typer.Option("--toml", help="With `device`: its file, to start one of your own.")] = False,
    json_: Json = False,
) -> None:
    """One thing in full: a device class, all settings, or an architecture."""
    from kdnas.pipeline import catalogue

    if toml:
        if what != "device":
            raise InputError("--toml goes with `kdnas show device NAME` only")
        from kdnas.device import device_toml

        typer.echo(device_toml(name or "wearable"), nl=False)
        return
    document = catalogue.show(what, name)
    if json_:
        _print(document)
    elif what == "settings":
        from kdnas.config import known_keys

        for key, field in known_keys().items():
            section, _, inner = key.rpartition(".")
            value = document[section][inner] if section else document[inner]
            typer.echo(f"{key:28} = {json.dumps(value):24} {field.description or ''}")
    else:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


@app.command()
@guard
def tailor(
    fleet: Annotated[
        str | None, typer.Option("--fleet", help="Fleet of the package (default: default), or a TOML file of your own.")
    ] = None,
    run_: Annotated[
        Path | None,
        typer.Option("--run", metavar="RUN", help="Take settings, teacher and architecture of this finished run."),
    ] = None,
    architecture: Annotated[
        list[str] | None,
        typer.Option(
            "--architecture", metavar="CLASS=FILE",
            help="An architecture.json for the devices of a class; without one, the space's own inside its budgets. "
            "May be given often.",
        ),
    ] = None,
    dataset: DatasetName = None, space: SpaceName = None, teacher: TeacherName = None, preset: Preset = None,
    seed: Seed = None, out: Out = None, set_: Set = None, config: Config = None, resume: Resume = None,
    json_: Json = False,
) -> None:  # fmt: skip
    """Dynamic distillation: a model for every device of a fleet, within its time, energy and budget of knowledge."""
    global _last_run
    from kdnas.config import load_config
    from kdnas.pipeline import api

    named = {
        "tailor.fleet": fleet, "dataset": dataset, "space": space, "teacher": teacher, "preset": preset, "seed": seed,
    }  # fmt: skip
    layers = {**(load_config(config) if config else {}), **_assigned(set_)}
    layers |= {key: value for key, value in named.items() if value is not None}
    files = {}
    for pair in architecture or []:
        name, equals, path = pair.partition("=")
        if not equals or not name or not path:
            raise InputError(f"--architecture takes CLASS=FILE, not {pair!r}")
        if name in files:
            raise InputError(f"--architecture was given twice for class {name!r}: give it once")
        files[name] = path

    def begun(path: Path) -> None:
        global _last_run
        _last_run = path

    place = api.tailor(
        out=out, resume=resume, run=run_, architectures=files, say=say, progress=sys.stderr.isatty(), begun=begun,
        **layers,
    )  # fmt: skip
    document = _read(place / "tailor.json")
    if json_:
        _print({"run": str(place), **document})
        return
    _fleet_report(document)
    say(f"run directory: {place}")
    say(f"look at it:    {_program('tensorboard')} --logdir {place / 'tensorboard'}")


def _fleet_report(document: Mapping[str, Any]) -> None:
    """One line for every device and system."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{document['dataset']}, seed {document['seed']}: test accuracy at each device's SNRs")
    for column in ("device", "class", "system", "accuracy", "floor", "symbols", "ms (computing)", "mJ (computing)",
                   "M units", "steps", "verdict"):  # fmt: skip
        table.add_column(column, justify="left" if column in ("device", "class", "system", "verdict") else "right")
    for row in document["rows"]:
        table.add_row(
            row["device"], row["device_class"], row["system"],
            "-" if row["accuracy"] is None else f"{row['accuracy']:.1%}", f"{row['accuracy_floor']:.1%}",
            "-" if row["symbols"] is None else str(row["symbols"]),
            f"{1e3 * row['latency_s']:.3g} ({1e3 * row['latency_compute_s']:.3g})",
            f"{1e3 * row['energy_j']:.3g} ({1e3 * row['energy_compute_j']:.3g})",
            f"{row['units'] / 1e6:.3g}", str(sum(part["steps"] for part in row["steps"])),
            "feasible" if row["feasible"] else f"infeasible: {row['binding']}",
        )  # fmt: skip
    Console().print(table)


devices = typer.Typer(no_args_is_help=True, help="Device classes: list, show, and measure a table of latencies.")
app.add_typer(devices, name="device")


@devices.command("list")
@guard
def device_list(json_: Json = False) -> None:
    """The device classes of the package."""
    list_("devices", json_=json_)


@devices.command("show")
@guard
def device_show(
    name: Annotated[str, typer.Argument(help="Device class, or a TOML file of your own.")] = "wearable",
    toml: Annotated[bool, typer.Option("--toml", help="Its file, to start one of your own.")] = False,
    json_: Json = False,
) -> None:
    """A device class in full, with its budgets."""
    show("device", name, toml=toml, json_=json_)


@devices.command("measure")
@guard
def device_measure(
    out: Annotated[Path, typer.Option("--out", help="CSV file to write.")] = Path("latency.csv"),
    space: SpaceName = None,
    dtype: Annotated[str, typer.Option("--dtype", help="fp32 or int8.")] = "fp32",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of ONNX Runtime (1).")] = None,
    networks: Annotated[int, typer.Option("--networks", help="How many networks of the space are measured.")] = 300,
    classes: Annotated[int, Classes] = 10,
    device: Device = None,
    dataset: DatasetName = None,
    seed: Seed = None,
    set_: Set = None,
    config: Config = None,
    json_: Json = False,
) -> None:
    r"""Measure a space's operations on this machine: a latency_table for a device file (needs kdnas\[export])."""
    from kdnas.pipeline import api

    named = {"device": device, "space": space, "dataset": dataset, "threads": threads, "seed": seed}
    acting = ("device", *api.SPACE_SETTINGS, *api.CODEC_SIZES, "seed", "threads")
    said = {key: value for key, value in named.items() if value is not None}
    given = {**_of_file(config, acting), **_assigned(set_), **said}
    about = api.measure(out, dtype=dtype, networks=networks, classes=classes, say=say, **given)
    if json_:
        _print(about)
        return
    say(f"{about['operations']} operations from {about['networks']} networks, median error {about['error']:.1%}")
    say(f'use it:  latency_table = "{out.name}" at the top of a device file beside it (kdnas device show NAME --toml)')
    typer.echo(str(out))


def main() -> None:
    """The entry point of ``kdnas``."""
    from kdnas.run.process import configure_process

    configure_process()
    app()


if __name__ == "__main__":
    main()
