"""A link as files that explain themselves, written whole and checked when read.

``architecture.json``    the encoder's choices in its search space
``encoder.py``           the encoder in plain torch, for others to read and run; it is never executed here
``encoder.safetensors``  the encoder's weights
``link.safetensors``     the weights of channel encoder, channel decoder and semantic decoder
``link.json``            how these fit together (``LinkInfo``), with their hashes; written last
``adaptation.json``      which length has which accuracy where; comes with the evaluation, and may be missing
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from kdnas.codec import Codec, codec_name
from kdnas.errors import InputError
from kdnas.export.adaptation import NAME as ADAPTATION
from kdnas.export.adaptation import load_adaptation
from kdnas.export.source import encoder_source
from kdnas.link import Link
from kdnas.run.files import atomic_write, sha256_file, write_json
from kdnas.run.tensors import read_tensors
from kdnas.space import Architecture

SCHEMA = 1
WEIGHTS = ("encoder.safetensors", "link.safetensors")
HASHED = (*WEIGHTS, "encoder.py")
FILES = ("architecture.json", *HASHED, "link.json")

Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class CodecInfo(_Strict):
    """The arguments of ``Codec``: its name, D, k, and the settings of each half."""

    name: Name = "cat"
    feature_dim: Count
    symbols: Count
    encoder: dict[Name, Count | Name]
    decoder: dict[Name, Count | Name]


class LinkInfo(_Strict):
    """The content of ``link.json``.

    Attributes:
        device: Device class that the link was made for.
        dataset: Data set that it was trained on.
        classes: Their names, in the order of the logits.
        channels: Names of the channels it was trained for.
        snr_db: Lowest and highest SNR of the training, in dB.
        feature_dim: D, the length of the semantic feature vector.
        symbols: k, the most complex symbols for an image.
        codec: Arguments of ``Codec``.
        architecture: ``Architecture.hash`` of the encoder.
        files: SHA-256 of the files that belong to it.
    """

    schema_: Literal[1] = Field(alias="schema")
    device: Name
    dataset: Name
    classes: Annotated[list[Name], Field(min_length=1)]
    channels: Annotated[list[Name], Field(min_length=1)]
    snr_db: tuple[float, float]
    feature_dim: Count
    symbols: Count
    codec: CodecInfo
    architecture: Name
    files: dict[Name, Name]


META = ("device", "dataset", "classes", "channels", "snr_db")


def save_link(directory: str | Path, architecture: Architecture, link: Link, meta: Mapping[str, Any]) -> None:
    """Write a trained link; each file is whole or absent, and ``link.json`` comes last.

    Before anything is written, the text of ``encoder.py`` is run on random images and must give the encoder's
    outputs, bit by bit.

    Args:
        directory: Made if it is missing.
        architecture: Of ``link.encoder``.
        link: With a codec of ``list_codecs`` and a linear semantic decoder. It is not changed.
        meta: ``device``, ``dataset``, ``classes`` and ``channels`` (names), ``snr_db`` (lowest, highest).

    Raises:
        InputError: ``meta`` lacks a key or has a wrong value, the encoder is of another architecture or needs
            more than torch, or the directory cannot be written.
        TypeError: Another codec or semantic decoder.
    """
    from safetensors.torch import save

    directory = Path(directory)
    for key in META:
        if key not in meta:
            raise InputError(f"the link's meta lacks {key!r}; it must have {', '.join(META)}")
    halves = _halves(link)
    codec = _codec_info(link)
    if len(meta["classes"]) != link.semantic_decoder.out_features:
        raise InputError(f"{len(meta['classes'])} class names for {link.semantic_decoder.out_features} logits")

    network, state = _network(architecture), _state(link.encoder)
    weights = {"encoder.safetensors": save(state), "link.safetensors": save(_state(halves))}
    _check_fit(network, state, "the link's encoder")
    network.load_state_dict(state)
    options = architecture.options
    shape = f"{options['in_channels']} x {options['image_size']} x {options['image_size']}"
    about = (
        f"The semantic encoder of {meta['device']} for {meta['dataset']}.\n\nFound by kdnas in the space "
        f"'{architecture.space}': images of {shape} to {codec['feature_dim']} features."
    )
    source = encoder_source(network, about)
    _prove(source, network, options)

    (directory / ADAPTATION).unlink(missing_ok=True)  # of the link that stood here before
    architecture.save(directory / "architecture.json")
    for name, data in weights.items():
        atomic_write(directory / name, data)
    atomic_write(directory / "encoder.py", source)
    document = {
        "schema": SCHEMA, **{key: meta[key] for key in META}, "feature_dim": codec["feature_dim"],
        "symbols": codec["symbols"], "codec": codec, "architecture": architecture.hash,
        "files": {name: sha256_file(directory / name) for name in HASHED},
    }  # fmt: skip
    _checked(json.dumps(document), "the link's meta")
    write_json(directory / "link.json", document)


def read_info(directory: str | Path) -> LinkInfo:
    """The checked content of ``link.json``.

    Raises:
        InputError: It is missing or damaged, with the bad key.
    """
    path = Path(directory) / "link.json"
    try:
        return _checked(path.read_text(), str(path))
    except FileNotFoundError:
        raise InputError(f"{directory} holds no link.json: it is no finished run; finish it, or export it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no text'}") from None


def load_architecture(path: str | Path) -> Architecture:
    """An ``architecture.json``, or the one in a directory, checked against the space that it names.

    Raises:
        InputError: The file is damaged, its space is not installed, or it does not fit that space.
    """
    path = Path(path)
    path = path / "architecture.json" if path.is_dir() else path
    architecture = Architecture.load(path)
    try:
        with torch.random.fork_rng(devices=[]):
            architecture.make_space().check(architecture.choices)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return architecture


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Fill ``network`` with the weights of a .safetensors file, which must fit exactly.

    Raises:
        InputError: The file is missing or damaged, or a tensor is missing, unknown, or of another shape.
    """
    state = read_tensors(path)
    _check_fit(network, state, str(path))
    network.load_state_dict(state)


def load_encoder(directory: str | Path) -> nn.Module:
    """The encoder alone: float32 (B, C, H, W) in [0, 1] to (B, D), in evaluation mode, on the CPU.

    Its weights take no gradient, as those of ``load_link``.

    Raises:
        InputError: A file is missing, damaged, or not of this link.
    """
    directory = Path(directory)
    return _encoder(directory, read_info(directory))[0].requires_grad_(False)


def load_link(directory: str | Path) -> Link:
    """The ready link, in evaluation mode, on the CPU; its attribute ``info`` is the ``LinkInfo``.

    It is for use: its weights take no gradient, which ``requires_grad_()`` gives back.

    Raises:
        InputError: A file is missing, damaged, or not of this link.
    """
    directory = Path(directory)
    info = read_info(directory)
    check_hashes(directory, info, WEIGHTS)
    try:
        # Without memory and random numbers; the weights follow.
        with torch.device("meta"):
            codec = Codec(**info.codec.model_dump())
            semantic_decoder = nn.Linear(info.feature_dim, len(info.classes))
    except (InputError, TypeError, RuntimeError) as error:
        raise InputError(f"{directory / 'link.json'}: the codec's settings are wrong ({_line(error)})") from None
    link = Link(nn.Identity(), codec.encoder, codec.decoder, semantic_decoder)
    halves, path = _halves(link), directory / "link.safetensors"
    state = read_tensors(path)
    _check_fit(halves, state, str(path))
    halves.to_empty(device="cpu").load_state_dict(state)
    link.encoder, options = _encoder(directory, info)
    link.info = info  # type: ignore[assignment]
    link.image_shape = (options["in_channels"], options["image_size"], options["image_size"])
    link.accuracies = load_adaptation(directory)
    return link.eval().requires_grad_(False)


def check_hashes(directory: Path, info: LinkInfo, names: Sequence[str]) -> None:
    """Check that files are those that ``link.json`` was written for.

    Raises:
        InputError: One is missing or another.
    """
    for name in names:
        path = directory / name
        if not path.is_file():
            raise InputError(f"{path} is missing: get or export the link again")
        if sha256_file(path) != info.files.get(name):
            raise InputError(f"{path} does not fit link.json (truncated or replaced): get or export the link again")


def _line(error: Exception) -> str:
    """The first line of an error of torch or safetensors, which may bring a stack of frames."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _network(architecture: Architecture) -> nn.Module:
    """The architecture's network on the CPU; the global random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        return architecture.network().eval()


def _encoder(directory: Path, info: LinkInfo) -> tuple[nn.Module, dict[str, Any]]:
    """The network with its weights, and the options of its search space."""
    check_hashes(directory, info, ["encoder.safetensors"])
    architecture = load_architecture(directory)
    if architecture.hash != info.architecture:
        raise InputError(
            f"{directory / 'architecture.json'} is not the architecture of link.json beside it: "
            "get or export the link again"
        )
    network = _network(architecture)
    load_weights(network, directory / "encoder.safetensors")
    return network, architecture.options


def _halves(link: Link) -> nn.ModuleDict:
    """The parts of ``link.safetensors``."""
    names = ("channel_encoder", "channel_decoder", "semantic_decoder")
    return nn.ModuleDict({name: getattr(link, name) for name in names})


def _state(module: nn.Module) -> dict[str, Tensor]:
    """The weights as safetensors wants them: on the CPU, contiguous, float32."""
    state = {name: value.detach().cpu() for name, value in module.state_dict().items()}
    return {
        name: value.to(torch.float32 if value.is_floating_point() else value.dtype).contiguous().clone()
        for name, value in state.items()
    }


def _codec_info(link: Link) -> dict[str, Any]:
    """The arguments of ``Codec`` that build the link's codec, every setting written out."""
    halves: list[Any] = [link.channel_encoder, link.channel_decoder]
    name = codec_name(*halves)
    if name is None or not isinstance(link.semantic_decoder, nn.Linear):
        raise TypeError("only links of a codec by name and a linear semantic decoder have a file format")
    shared = {key: halves[0].config[key] for key in ("feature_dim", "symbols")}
    settings = [{k: v for k, v in half.config.items() if k not in shared} for half in halves]
    return {"name": name, **shared, "encoder": settings[0], "decoder": settings[1]}


def _checked(text: str, source: str) -> LinkInfo:
    try:
        return LinkInfo.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{source}: {where + ': ' if where else ''}{first['msg']}; get or export the link again"
        ) from None


def _check_fit(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    expected = network.state_dict()
    for name, value in state.items():
        if name not in expected:
            raise InputError(f"{source} holds {name!r}, which the network lacks: it is of another architecture")
        if value.shape != expected[name].shape:
            raise InputError(
                f"{source}: {name!r} has the shape {tuple(value.shape)}, not {tuple(expected[name].shape)}: "
                "it is of another architecture"
            )
    for name in expected:
        if name not in state:
            raise InputError(f"{source} lacks {name!r}: it is of another architecture")


def _prove(source: str, network: nn.Module, options: Mapping[str, Any]) -> None:
    """Run the text of an ``encoder.py``, just generated from our own classes, against the network itself."""
    namespace: dict[str, Any] = {"__name__": "encoder"}
    generator = torch.Generator().manual_seed(0)
    size = options["image_size"]
    images = torch.rand(2, options["in_channels"], size, size, generator=generator)
    try:
        exec(compile(source, "encoder.py", "exec"), namespace)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            copy = namespace["build"]()
            copy.load_state_dict(network.state_dict())
            same = torch.equal(copy.eval()(images), network(images))
    except Exception as error:
        raise InputError(
            f"encoder.py of {type(network).__name__} does not run ({_line(error)}): see its space"
        ) from error
    if not same:
        raise InputError(f"encoder.py of {type(network).__name__} computes something else: see its space")
