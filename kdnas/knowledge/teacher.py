"""What a teacher is, how one is found, and the form that an adapted one takes."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdnas.errors import InputError
from kdnas.run.files import atomic_write, hash_of, read_json, write_json

if TYPE_CHECKING:
    from kdnas.knowledge.ensemble import Ensemble

GROUP = "kdnas.teachers"
FAMILIES = "kdnas.teacher_families"  # entries that are called with what follows ``NAME:``
SCHEMA = 1


@dataclass(frozen=True)
class InputSpec:
    """What a network expects: ``channels`` x ``size`` x ``size`` values, less ``mean``, over ``std``."""

    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def prepare(self, images: Tensor) -> Tensor:
        """Fit ``images`` (B, C, H, W), floats in [0, 1], to the network: channels, size (bilinear), scale."""
        if images.shape[1] != self.channels:
            images = images if images.shape[1] == 1 else images.mean(1, keepdim=True)
        if images.shape[-2:] != (self.size, self.size):
            shrinks = images.shape[-1] > self.size or images.shape[-2] > self.size
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=shrinks)
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1)
        # A grey image becomes (B, channels, H, W) here, by broadcasting. Channels last: up to 2x faster on
        # CPUs.
        return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


class Teacher(Protocol):
    """A large model whose knowledge is to be kept; everything above this floor sees no more of it than this.

    Attributes:
        name: Of the registry entry.
        feature_dim: F.
        classes: How many classes it tells apart.
        input: What it expects inside; ``features`` does the fitting.
        parameter_count: Parameters of the network and its classifier.
        hash: 16 hex digits that change with any weight or with the input specification.
    """

    name: str
    feature_dim: int
    classes: int
    input: InputSpec

    @property
    def parameter_count(self) -> int: ...  # noqa: D102

    @property
    def hash(self) -> str: ...  # noqa: D102

    def features(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W), floats in [0, 1], any size, 1 or 3 channels, to features (B, F)."""
        ...

    def logits(self, features: Tensor) -> Tensor:
        """Map features (B, F) to logits (B, classes) whose softmax is calibrated."""
        ...


class Backbone(Protocol):
    """What an entry of the group ``kdnas.teachers`` returns when called: a headless ``nn.Module``.

    Attributes:
        name: Of the entry.
        feature_dim: F, the length of what ``layers`` gives.
        channels, mean, std: As in ``InputSpec``.
        pretrained: Whether its features are of use before any training (a linear probe then makes sense).
        layers: The network as a chain from normalised images to (B, F); its first links can be frozen.
        frozen: How many first links fine-tuning leaves as they are: 0 for a network without pretrained
            weights.

    It may have ``default_size`` too: the side of its input, in pixels, where the settings name none.
    """

    name: str
    feature_dim: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pretrained: bool
    layers: nn.Sequential
    frozen: int


def list_teachers() -> list[str]:
    """The names of all registered teachers, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def list_families() -> list[str]:
    """The families of teachers whose members are named ``FAMILY:MEMBER``, sorted."""
    return sorted({entry.name for entry in entry_points(group=FAMILIES)})


def split_name(name: str) -> list[str]:
    """The members of the ensemble ``name``, joined by ``+``; one for a teacher that is none.

    Raises:
        InputError: There is nothing on one side of a ``+``, or no such teacher.
    """
    names = name.split("+")
    if not all(names):
        raise InputError(f"the teacher {name!r} has nothing on one side of a '+': name two teachers, as in a+b")
    for each in names:
        find_teacher(each)
    return names


def find_teacher(name: str) -> Callable[[], Backbone]:
    """What makes the headless network of the teacher ``name``, not loaded yet.

    Args:
        name: Of an entry of ``kdnas.teachers``; or ``FAMILY:MEMBER``, with an entry of ``kdnas.teacher_families``.

    Raises:
        InputError: No such teacher, or an ensemble.
    """
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return lambda: cast(Callable[[], Backbone], entry.load())()
    family, colon, member = name.partition(":")
    for entry in entry_points(group=FAMILIES):
        if colon and entry.name == family:
            if not member:
                raise InputError(f"the teacher {name!r} names no member of the family: write {family}:NAME")
            return lambda: cast(Callable[[str], Backbone], entry.load())(member)
    choices = ", ".join([*list_teachers(), *(f"{family}:…" for family in list_families())])
    raise InputError(f"unknown teacher {name!r}: choose one of {choices}, or several joined by '+'")


def load_backbone(name: str) -> Backbone:
    """The headless network of the teacher ``name``.

    Raises:
        InputError: As ``find_teacher``; or its weights or the package that reads them are not installed.
    """
    return find_teacher(name)()


def folded(net: nn.Sequential) -> nn.Sequential:
    """A copy of ``net`` in which batch norms that follow a convolution in a chain have become part of it.

    It computes what ``net`` computes in evaluation mode, faster. It can be trained: as if with the norms'
    statistics kept, which is what few images, or few pixels, call for.
    """
    net = copy.deepcopy(net).eval()
    for chain in net.modules():
        if isinstance(chain, nn.Sequential):
            names = list(chain._modules)
            for first, second in pairwise(names):
                conv, norm = chain._modules[first], chain._modules[second]
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    chain._modules[first] = fuse_conv_bn_eval(conv, norm)
                    chain._modules[second] = nn.Identity()
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class AdaptedTeacher(nn.Module):
    """A backbone with a classifier for one data set: the ``Teacher`` that ``adapt`` makes.

    Args:
        backbone: The network; from ``load_backbone``, perhaps trained since. Its batch norms are folded here.
        head: Linear, F to the number of classes.
        image_size: Side of the square that images are resized to, in pixels.
        temperature: Divides the logits.
    """

    def __init__(self, backbone: Backbone, head: nn.Linear, image_size: int, temperature: float = 1.0) -> None:
        super().__init__()
        self.name = backbone.name
        self.feature_dim = backbone.feature_dim
        self.classes = head.out_features
        self.input = InputSpec(backbone.channels, image_size, tuple(backbone.mean), tuple(backbone.std))
        self.layers = folded(backbone.layers)
        self.head = head
        self.temperature = temperature
        self.eval().requires_grad_(False)

    @property
    def parameter_count(self) -> int:
        """Parameters of the network, its batch norms folded, and its classifier."""
        return sum(parameter.numel() for parameter in self.parameters())

    @cached_property
    def hash(self) -> str:
        """16 hex digits of all weights, the input specification and the temperature."""
        return hash_of("teacher", SCHEMA, self.name, asdict(self.input), self.temperature, dict(self.state_dict()))

    def features(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W), floats in [0, 1], any size, 1 or 3 channels, to features (B, F)."""
        with torch.no_grad():
            return self.layers(self.input.prepare(images.to(self.head.weight.device)))

    def logits(self, features: Tensor) -> Tensor:
        """Map features (B, F) to calibrated logits (B, classes)."""
        with torch.no_grad():
            return self.head(features.to(self.head.weight.device)) / self.temperature

    def forward(self, images: Tensor) -> Tensor:
        """Map images, as for ``features``, to calibrated logits (B, classes)."""
        return self.logits(self.features(images))


def save_teacher(teacher: "AdaptedTeacher | Ensemble", directory: str | Path, report: dict[str, object]) -> None:
    """Write ``teacher.safetensors``, then ``teacher.json`` (which makes it complete) into ``directory``."""
    from safetensors.torch import save

    state = {key: value.cpu().contiguous() for key, value in teacher.state_dict().items()}
    atomic_write(Path(directory) / "teacher.safetensors", save(state))
    described: dict[str, Any] = {"schema": SCHEMA}
    if isinstance(teacher, AdaptedTeacher):
        described |= _described(teacher)
    else:
        described |= {"members": [_described(cast(AdaptedTeacher, member)) for member in teacher.members]}
    described |= {
        "classes": teacher.classes,
        "temperature": teacher.temperature,
        "hash": teacher.hash,
        "report": report,
    }
    write_json(Path(directory) / "teacher.json", described)


def _described(teacher: AdaptedTeacher) -> dict[str, Any]:
    """What makes the network of ``teacher`` again, its weights and classes apart."""
    return {"name": teacher.name, "image_size": teacher.input.size, "temperature": teacher.temperature}


def _blank(described: dict[str, Any], classes: int) -> AdaptedTeacher:
    """The network of ``_described``, with a classifier of any weights."""
    backbone = load_backbone(described["name"])
    head = nn.Linear(backbone.feature_dim, classes)
    return AdaptedTeacher(backbone, head, described["image_size"], described["temperature"])


def _blank_ensemble(told: dict[str, Any]) -> "Ensemble":
    """The networks of ``_described`` as one, with statistics that say nothing."""
    from kdnas.knowledge.ensemble import Ensemble

    members = [_blank(described, told["classes"]) for described in told["members"]]
    width = sum(member.feature_dim for member in members)
    return Ensemble(members, torch.zeros(width), torch.ones(width), told["temperature"])


def load_teacher(directory: str | Path) -> tuple["AdaptedTeacher | Ensemble", dict[str, Any]]:
    """Read a teacher and its report from where ``save_teacher`` put them.

    Raises:
        InputError: A file is missing, damaged, of another version, or does not fit the other.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    directory = Path(directory)
    told = read_json(directory / "teacher.json")
    try:
        if told["schema"] != SCHEMA:
            raise InputError(f"{directory} holds a teacher of schema {told['schema']}, not {SCHEMA}: adapt it again")
        teacher = _blank_ensemble(told) if "members" in told else _blank(told, told["classes"])
        teacher.load_state_dict(load_file(directory / "teacher.safetensors"))
        expected, report = told["hash"], told["report"]
    except (SafetensorError, RuntimeError, OSError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"the teacher in {directory} is damaged ({reason}): remove that folder and adapt again"
        ) from None
    if teacher.hash != expected:
        raise InputError(
            f"the teacher in {directory} is damaged (its weights changed): remove that folder and adapt again"
        )
    return teacher, report
