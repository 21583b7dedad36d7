"""The verbs of the command line as functions: what a script can do, ``kdnas.api`` can do."""

import errno
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kdnas.config import Settings, make_settings
from kdnas.device import load_device
from kdnas.errors import InputError
from kdnas.pipeline.catalogue import list_ as list_
from kdnas.pipeline.catalogue import show as show
from kdnas.pipeline.places import absolute, classes_directory, default_directory, storage_of
from kdnas.run import ranks
from kdnas.run.directory import RunDirectory
from kdnas.run.process import configure_process
from kdnas.space import Architecture, SearchSpace

Say = Callable[[str], None]

STAGES = {
    "teach": ["teach"],
    "tune": ["teach", "tune"],
    "search": ["teach", "search"],
    "distill": ["teach", "search", "distill"],
    "run": ["teach", "tune", "search", "distill", "no-kd", "evaluate", "plot"],
}

# What a channel encoder's size depends on, and what a space made anew depends on.
CODEC_SIZES = ("codec.tokens", "codec.width", "codec.depth", "codec.class_words")
"""Settings of the channel encoder that its costs depend on."""
SPACE_SETTINGS = ("space", "dataset", "data.channels", "data.image_size", "spaces")


def _quiet(line: str) -> None:
    """Say nothing."""


def _go(
    verb: str,
    given: Mapping[str, Any],
    out: str | Path | None,
    resume: str | Path | None,
    say: Say,
    progress: bool,
    architecture: str | Path | None = None,
    weights: str | Path | None = None,
) -> Path:
    with ranks.joined():
        if ranks.rank() > 0:
            say, progress = _quiet, False
        begun = ranks.by_main(lambda: str(_begin(verb, given, out, resume, architecture, weights).path))
        directory = RunDirectory.open(Path(begun))
        # A storage's password is in no file of the run: what was given goes on.
        settings = make_settings(directory.settings, {"tune.storage": storage_of(given)})
        try:
            _through(STAGES[verb], directory, settings, say, progress, architecture, weights)
        except InputError:
            if resume is None and ranks.rank() == 0:
                directory.discard()  # nothing was computed: the corrected command can use the same place
            raise
        return directory.path


def _begin(
    verb: str,
    given: Mapping[str, Any],
    out: str | Path | None,
    resume: str | Path | None,
    architecture: str | Path | None,
    weights: str | Path | None,
) -> RunDirectory:
    """The run directory to work in, a new one unless ``resume`` names it; refuses what can be refused at once."""
    if weights is not None:
        if architecture is None or resume is not None:
            raise InputError("weights of an encoder go with its architecture, in a new run")
        given = {**given, "distill.init": "inherited"}
    own = Architecture.load(architecture).hash if architecture is not None else None
    if resume is not None:
        _check_place(out)
        directory = RunDirectory.open(Path(resume))
        if "classes" in directory.document:
            raise InputError(f"{resume} holds the runs of several device classes: name one of them")
        settings = make_settings(directory.settings)
        if own is not None and own != directory.document.get("architecture"):
            raise InputError(f"{resume} was not begun with this architecture: leave it out, or start a new run")
        _check_kept(directory, given)
        return directory
    settings = make_settings(absolute(make_settings(given)))
    device = load_device(settings.device)  # refused before anything is written or imported
    fleet = {}
    if verb == "run" and settings.tailor.enabled:
        from kdnas.tailor import load_fleet

        fleet = {"fleet": load_fleet(settings.tailor.fleet).of_class(device.name).document()}
    return RunDirectory.create(
        Path(out) if out is not None else default_directory(settings, verb),
        settings.model_dump(mode="json"),
        {"architecture": own, "device": device.hash, "device_class": device.model_dump(mode="json"), **fleet},
    )


def _check_place(out: str | Path | None) -> None:
    """Refuse another place for a run that is resumed."""
    if out is not None:
        raise InputError("a resumed run stays in its place: leave out --out")


def _check_kept(directory: RunDirectory, given: Mapping[str, Any]) -> None:
    """Refuse settings that are others than those of the run that is resumed."""
    before = make_settings(directory.settings).model_dump(mode="json")
    for key, value in ({**given, "tune.storage": storage_of(given)}).items():
        if make_settings(directory.settings, {key: value}).model_dump(mode="json") != before:
            raise InputError(f"a resumed run keeps its settings: leave out {key!r}, or start a new run")


def _through(
    names: list[str],
    directory: RunDirectory,
    settings: Settings,
    say: Say,
    progress: bool,
    architecture: str | Path | None,
    weights: str | Path | None,
) -> None:
    configure_process(settings.threads)
    from kdnas.export import load_weights
    from kdnas.pipeline import stages
    from kdnas.pipeline import tailor as tailoring
    from kdnas.pipeline.context import Context
    from kdnas.run.tensors import write_tensors

    context = Context(settings, directory, progress)
    steps: dict[str, Callable[[Context, Say], None]] = {
        "teach": stages.teach, "tune": stages.tune, "search": stages.search, "distill": stages.distill,
        "no-kd": stages.baseline, "evaluate": stages.evaluate, "tailor": tailoring.stage, "plot": stages.plot,
    }  # fmt: skip

    def check_and_bring() -> None:
        context.check()
        context.check_same()
        if architecture is None:
            return
        found = stages.architecture_of(context, Path(architecture))
        if weights is not None:
            network = found.network()
            load_weights(network, weights)
            write_tensors(directory.path / "inherited.safetensors", network.state_dict())
        found.save(directory.path / "architecture.json")

    ranks.by_main(check_and_bring)
    if "fleet" in directory.document and "plot" in names:
        names = [*names[:-1], "tailor", names[-1]]  # after all that the run itself is
    if directory.document.get("architecture"):
        names = [name for name in names if name not in ("tune", "search")]
    elif "search" in names and (not settings.tune.enabled or directory.report("search") is not None):
        names = [name for name in names if name != "tune"]  # a study after the search would act on nothing
    if "search" in names:
        ranks.by_main(context.check_ranks)
    if "tune" in names and not _is_done(directory, "tune"):
        ranks.by_main(partial(_check_study, settings))
    for number, name in enumerate(names, 1):
        if ranks.by_main(partial(_is_done, directory, name)):
            say(f"[{number}/{len(names)}] {name}: done before")
            continue
        say(f"[{number}/{len(names)}] {name}")
        if name == "search":
            stages.search(context, say)  # the one stage that all processes share
        else:
            ranks.by_main(partial(steps[name], context, say))


def _check_study(settings: Settings) -> None:
    """Refuse a storage or a warm start that is not there before anything is trained."""
    if settings.tune.storage is not None:
        from kdnas.tune.storage import open_storage

        open_storage(settings.tune.storage).remove_session()
    if settings.tune.warm_start is not None:
        from kdnas.tune.space import RANGES
        from kdnas.tune.warm import warm_parameters

        bounds = {**RANGES, **{f"penalty.{cost}": RANGES["penalty"] for cost in settings.search.penalty}}
        warm_parameters(settings.tune.warm_start, settings.tune.storage, bounds, 1)


def _is_done(directory: RunDirectory, stage: str) -> bool:
    return directory.report(stage) is not None


def run(
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    say: Say = _quiet,
    progress: bool = False,
    architecture: str | Path | None = None,
    weights: str | Path | None = None,
    **settings: Any,
) -> Path:
    """The whole way for one device class: teach, tune, search, distil, baseline, evaluate, plot.

    Args:
        out: The run directory; by default ``runs/DEVICE-DATASET-PRESET-sSEED``.
        resume: A run directory to go on with, instead of a new run.
        say: Called with a line of progress now and then.
        progress: Show progress bars.
        architecture: An ``architecture.json`` of one's own, instead of tuning and searching.
        weights: A safetensors file for that architecture's encoder, from which stage 1 starts.
        settings: By (dotted) key, as in a config file: ``run(device="mcu", **{"data.labels": 500})``.

    Returns:
        The run directory.

    Raises:
        InputError: Something given is wrong; nothing was lost.
        KeyboardInterrupt: Stopped by the user; ``resume`` goes on.
    """
    return _go("run", settings, out, resume, say, progress, architecture, weights)


def run_classes(
    devices: str | Sequence[str],
    seeds: Sequence[int] = (0,),
    *,
    verb: str = "run",
    out: str | Path | None = None,
    resume: str | Path | None = None,
    say: Say = _quiet,
    progress: bool = False,
    **settings: Any,
) -> Path:
    """Several device classes and seeds, each in its own run directory, from one teacher and one store for each seed.

    Args:
        devices: ``all``, or the names of classes (or TOML files).
        seeds: All classes are run with each.
        verb: ``run`` or ``tune``.
        out: The parent directory; by default ``runs/DEVICES-DATASET-PRESET-sSEEDS``.
        resume: A parent directory to go on with; ``devices``, ``seeds`` and ``verb`` are then its own.
        say: As in ``run``, like ``progress``.
        progress: Show progress bars.
        settings: By (dotted) key, the same for all.

    Returns:
        The parent directory; after ``run`` it holds ``pareto.json``, the report over classes.

    Raises:
        InputError: Something given is wrong; nothing was lost.
        KeyboardInterrupt: Stopped by the user; ``resume`` goes on.
    """
    from kdnas.pipeline import classes

    with ranks.joined():
        if ranks.rank() > 0:
            say = _quiet

        def begun() -> list[str]:
            if resume is not None:
                document = classes.classes_document(Path(resume))
                if document is None:
                    raise InputError(f"{resume} is no directory of several device classes")
                _check_place(out)
                _check_kept(RunDirectory.open(Path(resume)), settings)
                return [str(resume), document["verb"]]
            names = classes.classes_of(devices if isinstance(devices, str) else ",".join(devices))
            place = Path(out) if out is not None else classes_directory(make_settings(settings), verb, devices, seeds)
            classes.begin(place, absolute(make_settings(settings)), names, list(seeds), verb)
            return [str(place), verb]

        place, own = ranks.by_main(begun)
        storage = storage_of(settings)

        def one(given: Mapping[str, Any], out: Path | None, resume: Path | None) -> Path:
            return _go(own, given, out, resume, say, progress)

        try:
            classes.run_all(Path(place), {} if storage is None else {"tune.storage": storage}, one, say)
        except InputError:
            begun_before = any((child / "run.json").exists() for _, _, child in classes.children(Path(place)))
            if ranks.rank() == 0 and not begun_before:
                RunDirectory(Path(place)).discard()  # the corrected command can use the same place
            raise
        if own == "run":
            ranks.by_main(lambda: classes.report(Path(place)) and None)
        return Path(place)


def teach(
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    say: Say = _quiet,
    progress: bool = False,
    report: bool = False,
    **settings: Any,
) -> Path:
    """Adapt the teacher to the data set and store its knowledge; arguments and errors as in ``run``.

    With ``report``, ``store_report.json`` in the run directory tells what each form of stored knowledge costs and what
    a student makes of it (``kdnas.pipeline.store_report``).
    """
    path = _go("teach", settings, out, resume, say, progress)
    if report:
        store_report(path, say=say)
    return path


def store_report(
    run: str | Path, *, forms: Sequence[str] | None = None, rounds: int | None = None, say: Say = _quiet
) -> dict[str, Any]:
    """What each form of stored knowledge costs and gives, for a run whose teacher is adapted.

    Args:
        run: A run directory.
        forms: ``none``, ``live``, ``fp16``, ``int8``, ``pca``, ``pca-DIMS``, ``pq``, ``pq-DIMSxCODES``; None for the
            first five and ``pq``.
        rounds: Timed epochs of each form; None for 5.
        say: As in ``run``.

    Returns:
        The document, which is also kept as ``store_report.json`` in the run directory.

    Raises:
        InputError: No run directory, or a form that there is not or that cannot be stored.
    """
    directory = RunDirectory.open(Path(run))
    settings = make_settings(directory.settings)
    configure_process(settings.threads)
    from kdnas.pipeline import store_report as module
    from kdnas.pipeline.context import Context

    context = Context(settings, directory, progress=False)
    return module.store_report(context, say, forms or module.FORMS, rounds or module.ROUNDS)


def tune(
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    say: Say = _quiet,
    progress: bool = False,
    **settings: Any,
) -> Path:
    """Run the Optuna study of a device class; arguments and errors as in ``run``."""
    return _go("tune", settings, out, resume, say, progress)


def search(
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    say: Say = _quiet,
    progress: bool = False,
    **settings: Any,
) -> Path:
    """Search an architecture with the settings' weights (a resumed study's, where the run has one); as ``run``."""
    return _go("search", settings, out, resume, say, progress)


def distill(
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    say: Say = _quiet,
    progress: bool = False,
    architecture: str | Path | None = None,
    weights: str | Path | None = None,
    **settings: Any,
) -> Path:
    """Distil an architecture in both stages; searched first unless one is given; as ``run``."""
    return _go("distill", settings, out, resume, say, progress, architecture, weights)


def tailor(
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    run: str | Path | None = None,
    architectures: Mapping[str, str | Path] | None = None,
    say: Say = _quiet,
    progress: bool = False,
    begun: Callable[[Path], None] = lambda _: None,
    **settings: Any,
) -> Path:
    """Dynamic distillation for every device of a fleet (``tailor.fleet``), from one teacher and one store.

    Args:
        out: The run directory; by default ``runs/tailor-FLEET-DATASET-PRESET-sSEED``.
        resume: A directory of ``tailor`` to go on with.
        run: A finished run whose settings, teacher and architecture are taken; ``settings`` may then set ``tailor.*``,
            ``evaluate.*``, ``threads`` and ``accelerator`` only.
        architectures: Class to the path of its ``architecture.json`` (or a directory that holds one). For classes
            without one, the architecture of the space that uses the class's budgets and favours no choice is taken.
        say: As in ``run``, like ``progress``.
        progress: Show progress bars.
        begun: Called with the run directory as soon as there is one.
        settings: By (dotted) key; ``device`` is none of them, as the fleet has its own.

    Returns:
        The run directory: ``tailor.json`` (the report), and a link for ``kdnas.load`` in ``devices/NAME``.

    Raises:
        InputError: Something given is wrong; nothing was lost.
        KeyboardInterrupt: Stopped by the user; ``resume`` goes on.
    """
    configure_process(settings.get("threads"))
    from kdnas.pipeline import tailor as tailoring

    if resume is not None:
        if run is not None or architectures or out is not None:
            raise InputError("a resumed run has its architectures and its place: give --resume alone")
        directory = RunDirectory.open(Path(resume))
        tailoring.resume(directory, settings)
    else:
        files = {name: Path(path) for name, path in (architectures or {}).items()}
        directory = tailoring.begin(
            settings, None if out is None else Path(out), None if run is None else Path(run), files
        )
    begun(directory.path)
    configure_process(make_settings(directory.settings).threads)
    try:
        tailoring.tailor_fleet(directory, say, progress)
    except InputError:
        if resume is None:
            tailoring.discard(directory)  # nothing was computed: the corrected command can use the same place
        raise
    return directory.path


def evaluate(
    run: str | Path,
    *,
    baselines: bool | Sequence[str] = False,
    out: str | Path | None = None,
    say: Say = _quiet,
    **settings: Any,
) -> Path:
    """Evaluate a run's link again: ``results.json`` on test data, ``adaptation.json`` on the architecture split.

    Args:
        run: A run directory with a distilled link.
        baselines: Train and measure also the systems that it is compared with: those named, or all that the run's
            setting ``evaluate.baselines`` names. Each is kept in ``baselines/NAME`` and not trained again.
        out: A directory for this ``results.json``, which ``plot`` takes too; the run's own and its adaptation table
            stay as they are. Without it they are those of this evaluation.
        say: As in ``run``.
        settings: Those of ``evaluate`` that shall be others than the run's, by dotted key: other channels, SNRs, ...

    Returns:
        The path of ``results.json``.

    Raises:
        InputError: The run has no link yet, a setting is not one of ``evaluate``, there is no such baseline, an extra
            is not installed, or ``out`` is a file, a run or a link, or comes with ``baselines``, which the run keeps.
    """
    from kdnas.export.halves import need_onnx
    from kdnas.pipeline import stages
    from kdnas.pipeline.context import Context

    directory = RunDirectory.open(Path(run))
    if not (directory.path / "link.json").exists():
        raise InputError(f"{run} has no link yet: finish it with `kdnas run --resume {run}`")
    for key in settings:
        if not key.startswith("evaluate."):
            raise InputError(f"{key!r} is no setting of an evaluation: the others are the run's and stay")
    resolved = make_settings(directory.settings, settings)
    if resolved.evaluate.int8:
        need_onnx()
    configure_process(resolved.threads)
    baselines = [baselines] if isinstance(baselines, str) else baselines
    named: Sequence[str] = resolved.evaluate.baselines if baselines is True else baselines or ()
    if out is not None:
        if named:
            raise InputError("what the link is compared with is kept in the run: leave out --out or --baselines")
        if any((Path(out) / name).exists() for name in ("run.json", "link.json")):
            raise InputError(f"{out} is a run or a link itself: give --out a directory of its own")
        for path in (Path(out), *Path(out).parents):
            if path.is_file():
                raise InputError(f"{path} is a file: give --out a directory")
    context = Context(resolved, directory, progress=False)
    context.check_same()
    stages.evaluate(context, say, named, Path(out) if out is not None else None)
    return (Path(out) if out is not None else directory.path) / "results.json"


def plot(source: str | Path, out: str | Path | None = None) -> list[Path]:
    """Draw the figures of a run, or of a published table, from its JSON alone.

    Args:
        source: A run directory (figures go below it), or a published JSON file; its kind is told from its rows' keys.
        out: Where a table's figures go; beside it unless given.

    Returns:
        The files written.

    Raises:
        InputError: There is no such thing, or it is malformed (the key is named).
    """
    from kdnas.plot import plot_run, plot_table

    source = Path(source)
    if not source.exists():
        raise InputError(f"{source} does not exist: give a run directory or a published JSON file")
    if source.is_dir() and out is not None:
        raise InputError("the figures of a run go into its own folder: leave out --out")
    if (source / "pareto.json").is_file():  # of several device classes
        return plot_table(source / "pareto.json", source / "figures")
    return plot_run(source) if source.is_dir() else plot_table(source, out or source.parent)


def export(run: str | Path, *, name: str | None = None, out: str | Path | None = None, format: str = "torch") -> Path:
    """Publish a finished run in the package's zoo, copy what importing needs to ``out``, or write ONNX files.

    Args:
        run: A finished run directory; for ``onnx`` also a published name.
        name: In the zoo; ``DEVICE-DATASET`` unless given.
        out: A directory, instead of the zoo. The ONNX files go into the run directory unless it is given.
        format: ``torch``; or ``onnx``: the two halves apart, for machines without torch (``kdnas.export.halves``).

    Returns:
        The directory that was written to.

    Raises:
        InputError: The run is not finished, or damaged; an unknown format, or one that needs the extra ``export``.
    """
    from kdnas.zoo import list_architectures, publish, resolve

    if format == "torch":
        return publish(run, name, out)
    if format != "onnx":
        raise InputError(f"cannot export as {format!r}; there are torch, onnx")
    from kdnas.export import export_onnx

    if out is None and str(run) in list_architectures():
        raise InputError(f"{run} is a published architecture: say where its ONNX files go with --out DIRECTORY")
    place = resolve(run) if out is None else Path(out)
    export_onnx(resolve(run), place)
    return place


def cost(
    architecture: str | Path,
    device: str | None = None,
    *,
    plan: bool = False,
    classes: int | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """What an architecture costs on a device class; needs no data.

    Where it lies beside its link, of CAT and for as many symbols as the device class sends, the channel encoder is that
    link's; else, and where ``classes`` or a setting of the codec is given, the one that a new link of this device class
    would have.

    Args:
        architecture: An ``architecture.json``, a run directory, or a published name; where ``space`` is given, text in
            the notation of that space.
        device: Device class, or a TOML file. None: the one that the run or the link beside the architecture was made
            for, or ``wearable``.
        plan: Find the order of execution in which the encoder holds the fewest bytes too (a few seconds for cells).
        classes: That the link tells apart, 2 or more: the channel encoder has a word for each, unless they are many
            (``codec.class_words``). None: as many as the link beside the architecture, or 10.
        settings: ``codec.tokens``, ``codec.width``, ``codec.depth`` and ``codec.class_words`` may be given; with text,
            ``space`` must be, and ``dataset``, ``data.channels``, ``data.image_size`` and ``spaces.*`` may.

    Returns:
        ``encoder``, ``channel_encoder``, ``transmitter`` and ``budgets`` by cost; ``channel_encoder_of``: ``link`` or
        ``device``; ``fits``; ``layers``: each step's
        own costs and whether it holds the peak of activation memory; ``planned_sram_bytes`` and ``planned_peak`` (the
        operation that holds them) with ``plan``; and ``published_params`` and ``published_macs`` where the space is a
        benchmark that lists them.

    Raises:
        InputError: An unknown device, no such architecture, fewer than 2 classes, or a setting that costs do not depend
            on.
    """
    from kdnas.codec import CAT, channel_encoder_steps
    from kdnas.cost import costs_of, exact_costs, layer_table
    from kdnas.export.files import read_info
    from kdnas.zoo import resolve

    written = SPACE_SETTINGS if "space" in settings else ()
    _check_acts(
        settings, (*CODEC_SIZES, *written), "costs" + ("" if written else " without a space, which goes with text")
    )
    link = None
    if "space" in settings:
        device = device or make_settings({}).device
        found = _written(str(architecture), make_settings({"device": device, **settings}))
    else:
        try:
            path = Path(architecture)
            path = path if path.is_file() else resolve(architecture) / "architecture.json"
            found = Architecture.load(path)
            device = device or _made_for(path.parent)
            if classes is None and (path.parent / "link.json").exists():
                link = read_info(path.parent)
                link = link if link.architecture == found.hash else None
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise InputError("an architecture written as text needs its space: give --space NAME") from None
    resolved, target = make_settings({"device": device, **settings}), load_device(device)
    space = found.make_space()
    choices = space.check(found.choices)
    sized = any(key in settings for key in CODEC_SIZES)
    of_link = link is not None and not sized and link.codec.name == "cat" and link.symbols == target.link.symbols
    if link is not None and of_link:
        sizes: dict[str, Any] = dict(link.codec.encoder)
    else:
        sizes = {n: getattr(resolved.codec, n) or getattr(target.codec, n) for n in ("tokens", "width", "depth")}
        of_data = len(link.classes) if link is not None else 10
        sizes["classes"] = _words(resolved, of_data if classes is None else classes)
    codec = CAT(found.options["feature_dim"], target.link.symbols, encoder=sizes)
    costs = costs_of(target)
    encoder = [step for unit in space.units() for step in unit.steps(choices)]
    channel = channel_encoder_steps(codec.encoder.config)
    total = exact_costs([*encoder, *channel], costs)
    return {
        "device": target.name,
        "space": found.space,
        "encoder": exact_costs(encoder, costs),
        "channel_encoder": exact_costs(channel, costs),
        "channel_encoder_of": "link" if of_link else "device",
        "transmitter": total,
        "budgets": dict(target.budgets),
        "fits": all(total[name] <= limit for name, limit in target.budgets.items()),
        "layers": layer_table([*encoder, *channel], costs),
        **(_planned(space, choices) if plan else {}),
        **space.published_costs(choices),
    }


def _planned(space: SearchSpace, choices: Mapping[str, Any]) -> dict[str, Any]:
    """The least memory in which the encoder's tensors can be computed, and the operation that holds it."""
    import torch

    from kdnas.cost.planner import plan
    from kdnas.cost.trace import tensors_of

    size = space.options["image_size"]
    image = torch.zeros(1, space.options["in_channels"], size, size)
    found = plan(tensors_of(space.network(choices).eval(), image))
    peak = found.order[found.held_bytes.index(found.peak_bytes)]
    return {"planned_sram_bytes": found.peak_bytes, "planned_peak": peak}


def measure(
    out: str | Path, device: str = "wearable", dtype: str = "fp32", networks: int = 300, threads: int = 1,
    say: Callable[[str], None] = lambda line: None, classes: int = 10, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """Measure the latency of every operation of a search space on this machine, and write the table.

    Args:
        out: The CSV file to write, as a device's ``latency_table`` takes it.
        device: Device class, or a TOML file: whose channel encoder is measured too.
        dtype: ``fp32`` or ``int8``.
        networks: Of the space, measured whole.
        threads: That ONNX Runtime computes with.
        say: Told what is done.
        classes: That the links tell apart, as in ``cost``: a word for each is an operation of the channel encoder.
        settings: ``space``, ``dataset`` (whose data are not read), ``data.channels``, ``data.image_size``,
            ``spaces.*``, ``codec.tokens``, ``codec.width``, ``codec.depth``, ``codec.class_words`` and ``seed`` may be
            given.

    Returns:
        ``out``; ``networks``, ``operations``, ``seen`` and ``error``, as ``kdnas.pipeline.measure`` tells them.

    Raises:
        InputError: An unknown device, space, data type or option, fewer than 2 classes, or the extra ``export`` is not
            installed.
    """
    from kdnas.cost.latency import save_table
    from kdnas.pipeline import measure as measuring

    if dtype not in ("fp32", "int8"):
        raise InputError(f"dtype is fp32 or int8, not {dtype!r}")
    if Path(out).is_dir():
        raise InputError(f"{out} is a directory: name the CSV file to write")
    if networks < measuring.LEAST:
        raise InputError(f"networks is {networks}: measure at least {measuring.LEAST}")
    _check_acts(settings, (*SPACE_SETTINGS, *CODEC_SIZES, "seed"), "a table of latencies")
    resolved = make_settings({"device": device, **settings})
    target = load_device(device)
    size = {name: getattr(resolved.codec, name) or getattr(target.codec, name) for name in ("tokens", "width", "depth")}
    target = target.model_copy(update={"codec": target.codec.model_copy(update=size)})
    space = _space(resolved)
    table, about = measuring.measure(
        space, target, classes=_words(resolved, classes), dtype=dtype, networks=networks, threads=threads,
        seed=resolved.seed, say=say,
    )  # fmt: skip
    save_table(Path(out), table, measuring.comments(space, target, dtype, threads, about))
    return {"out": str(out), **about}


def _words(settings: Settings, classes: int) -> int | None:
    """For how many of the classes the channel encoder has a word; None: for none."""
    if classes < 2:
        raise InputError(f"a link tells 2 or more classes apart, not {classes}")
    return settings.codec.words(classes)


def _made_for(place: Path) -> str:
    """The device class of the run or the link in a directory; the settings' own where there is neither."""
    from kdnas.export.files import read_info

    if (place / "run.json").exists():
        return make_settings(RunDirectory.open(place).settings).device
    return read_info(place).device if (place / "link.json").exists() else make_settings({}).device


def acts(key: str, acting: Sequence[str]) -> bool:
    """Whether a dotted key is among those acting, or in one of the sections among them."""
    return key in acting or key.startswith(tuple(f"{name}." for name in acting))


def _check_acts(settings: Mapping[str, Any], acting: Sequence[str], on: str) -> None:
    """Refuse a setting that is not among those acting."""
    for key in settings:
        if not acts(key, acting):
            raise InputError(f"{key!r} does not act on {on}: leave it out")


# (channels, side) of the images of the data sets that need no folder.
_IMAGES = {"fashion-mini": (1, 28), "fashion-mnist": (1, 28), "cifar10": (3, 32), "cifar100": (3, 32)}


def _written(text: str, settings: Settings) -> Architecture:
    """The architecture that ``text`` writes down, of the space and for the images that ``settings`` name."""
    space = _space(settings)
    return Architecture(settings.space, space.options, space.parse(text))


def _space(settings: Settings) -> SearchSpace:
    """The space for the images that ``settings`` name."""
    from kdnas.space import make_space

    known = _IMAGES.get(settings.dataset, (None, None))
    channels, size = settings.data.channels or known[0], settings.data.image_size or known[1]
    if channels is None or size is None:
        raise InputError(
            f"what images {settings.dataset!r} has is not known without its data: choose among {', '.join(_IMAGES)}, "
            "or set data.channels and data.image_size"
        )
    fixed = {"in_channels": channels, "image_size": size, "feature_dim": settings.spaces.feature_dim}
    return make_space(settings.space, **{**fixed, **settings.spaces.options})
