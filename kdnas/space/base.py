"""What a search space must be: an NNI model space that knows its costs and its frozen networks."""

import inspect
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdnas.errors import InputError
from kdnas.ops import Unit
from kdnas.space.relaxation import Relaxation

with warnings.catch_warnings():
    # NNI 3.0 warns about torch classes newer than itself.
    warnings.simplefilter("ignore")
    import nni
    from nni.mutable import Categorical, MutableExpression
    from nni.nas.nn.pytorch import LayerChoice, ModelSpace
    from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
    from nni.nas.space import model_context

Choices = dict[str, Any]


class SearchSpace(ModelSpace):
    """An NNI ``ModelSpace`` of image encoders: (B, C, H, W) in [0, 1] to (B, feature_dim).

    A space is one module in ``search_spaces/`` (or any package that declares the entry point ``kdnas.spaces``).
    It takes ``in_channels`` (1 or 3), ``image_size`` (28 to 224) and ``feature_dim``, and any options of its own with
    defaults. It must set ``self.options`` to all of them before it returns.
    """

    name: ClassVar[str]
    skip_values: ClassVar[tuple[Any, ...]] = (False, "none", "skip_connect")
    """Values with which a block or an edge computes nothing: a search that ends in them has collapsed."""
    option_names: ClassVar[tuple[str, ...]]
    options: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # NNI hides the signature of __init__ behind a wrapper; read it before.
        cls.option_names = tuple(inspect.signature(cls.__init__).parameters)[1:]
        super().__init_subclass__(**kwargs)

    @abstractmethod
    def units(self) -> list[Unit]:
        """The parts of the network in the order in which a device runs them, with their costs."""

    @abstractmethod
    def network(self, choices: Mapping[str, Any]) -> nn.Module:
        """The network of one architecture in plain torch, freshly initialised.

        Its class, and every class it is made of, may use torch alone, and ``network.config`` holds the arguments
        that build it; ``state_dict()`` has the names of ``freeze(choices).state_dict()``.
        """

    def domains(self) -> dict[str, list[Any]]:
        """The values of every choice, by label, in a defined order."""
        if not hasattr(self, "_domains"):
            # NNI's labels are a class of their own, which a checkpoint loaded with weights_only refuses.
            self._domains = {str(label): list(choice.values) for label, choice in self.simplify().items()}
        return self._domains

    def check_relaxation(self, name: str) -> None:
        """Refuse what this space cannot be relaxed with.

        Raises:
            InputError: Partial channels of a space whose choices share one set of weights.
        """
        if name == "partial" and not any(isinstance(module, LayerChoice) for module in self.modules()):
            raise InputError(
                f"relaxation 'partial' needs branches to mix, and space {self.name!r} has none (its choices share one "
                "set of weights): take 'softmax' or 'gumbel'"
            )

    def is_skip(self, value: Any) -> bool:
        """Whether ``value`` is one of ``skip_values`` (0 is not False)."""
        return any(value is skip or (isinstance(skip, str) and value == skip) for skip in self.skip_values)

    def check(self, choices: Mapping[str, Any]) -> Choices:
        """``choices`` in the space's own order.

        Raises:
            InputError: A choice is missing, unknown, or has a value that the space does not offer.
        """
        domains = self.domains()
        for label in choices:
            if label not in domains:
                raise InputError(f"space {self.name!r} has no choice {label!r}: is it of another space?")
        for label, values in domains.items():
            if label not in choices:
                raise InputError(f"the architecture lacks the choice {label!r} of space {self.name!r}")
            if choices[label] not in values:
                raise InputError(f"choice {label!r} is {choices[label]!r}; space {self.name!r} offers {values}")
        return {label: choices[label] for label in domains}

    def parse(self, text: str) -> Choices:
        """The choices that ``text`` writes down in the space's own notation.

        Raises:
            InputError: It is not in that notation, or the space has none.
        """
        raise InputError(f"space {self.name!r} has no notation for architectures: give an architecture.json")

    def published_costs(self, choices: Mapping[str, Any]) -> dict[str, int]:
        """What a public benchmark lists for ``choices``, by name (``published_params`` ...); nothing by default."""
        return {}

    def random(self, generator: torch.Generator) -> Choices:  # type: ignore[override]
        """Choices drawn uniformly and independently."""
        return {
            label: values[int(torch.randint(len(values), (1,), generator=generator))]
            for label, values in self.domains().items()
        }

    def frozen(self, choices: Mapping[str, Any]) -> "SearchSpace":
        """The space's own module with every choice made: what NNI calls a frozen model, freshly initialised."""
        with model_context(self.check(choices)):
            return type(self)(**self.options)

    def inherit(self, choices: Mapping[str, Any], supernet: "SearchSpace") -> nn.Module:
        """The network of ``choices`` with the weights that it has inside ``supernet``, copied."""
        network = self.network(choices)
        weights = supernet.freeze(self.check(choices)).state_dict()
        with torch.no_grad():
            network.load_state_dict({name: value.clone() for name, value in weights.items()})
        return network


def inherit_edges(network: nn.Module, supernet: SearchSpace, chosen: Callable[[int, str], str]) -> nn.Module:
    """``SearchSpace.inherit`` where choices are the operations on edges of a cell (``STACK.INDEX.edges.EDGE.…``).

    Weights are picked by name: freezing copies all operations of the supernet once for each level of nesting.

    Args:
        network: The network of the choices, whose weights are replaced.
        supernet: What the weights are copied from.
        chosen: From the index of a cell in its stack, and an edge, to the operation on it.
    """
    found, weights = supernet.state_dict(), {}
    for name in network.state_dict():
        parts = name.split(".")
        if "edges" in parts:
            parts[4:4] = ["operations", chosen(int(parts[1]), parts[3])]
        weights[name] = found[".".join(parts)]
    network.load_state_dict(weights)
    return network


class Relaxed(BaseSuperNetModule):
    """A part of a supernet in which choices are mixed by probabilities that have a gradient.

    Args:
        choices: The argument name of each choice of this part, with its NNI choice or a fixed value.
        memo: Label to alpha, shared by all the parts of the supernet.
        softmax: From alpha to probabilities: one relaxation, shared by the whole supernet.
    """

    def __init__(self, choices: Mapping[str, Any], memo: Mapping[str, nn.Parameter], softmax: Relaxation) -> None:
        super().__init__()
        self.alpha = nn.ParameterDict()
        self.softmax = softmax
        self.labels: dict[str, str] = {}
        self.domains: dict[str, list[Any]] = {}
        for argument, choice in choices.items():
            if isinstance(choice, Categorical):
                self.add_mutable(choice)
                self.alpha[choice.label] = memo[choice.label]
                self.labels[argument] = choice.label
                self.domains[argument] = list(choice.values)
            elif isinstance(choice, MutableExpression):
                raise TypeError(f"{argument}: give the choice itself, not an expression of choices")
            else:
                self.domains[argument] = [choice]

    def probabilities(self, argument: str) -> Tensor:
        """(len(domain),) probabilities of a choice; a fixed value has the probability 1."""
        if argument in self.labels:
            label = self.labels[argument]
            return self.softmax(self.alpha[label], label)
        return torch.ones(1, device=next(self.parameters()).device, dtype=next(self.parameters()).dtype)

    def value(self, argument: str, choices: Mapping[str, Any]) -> Any:
        """The value that ``choices`` give to ``argument``."""
        return choices[self.labels[argument]] if argument in self.labels else self.domains[argument][0]

    def arch_parameters(self) -> list[nn.Parameter]:
        """The alphas of this part, in the order of its arguments."""
        return [self.alpha[label] for label in self.labels.values()]

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Nothing is sampled here: the relaxation may."""
        return {}

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """The most likely value of each choice that ``memo`` does not hold yet."""
        return {
            label: self.domains[argument][int(self.alpha[label].argmax())]
            for argument, label in self.labels.items()
            if label not in memo
        }

    def export_probs(self, memo: dict[str, Any]) -> dict[str, Any]:
        """The probabilities of each choice that ``memo`` does not hold yet, as Python floats."""
        return {
            label: dict(zip(self.domains[argument], self.softmax.soft(self.alpha[label], label).tolist(), strict=True))
            for argument, label in self.labels.items()
            if label not in memo
        }

    @abstractmethod
    def freeze(self, sample: dict[str, Any]) -> nn.Module:
        """The plain module of ``sample`` with the weights that it has here, copied."""


def relax_with(source: type, relaxed: Callable[..., Relaxed]) -> Callable[..., Any]:
    """An NNI mutation hook: modules of exactly the type ``source`` become ``relaxed(module, memo, softmax)``."""

    def hook(module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]) -> Any:
        if type(module) is source:
            return relaxed(module, memo, mutate_kwargs["softmax"])
        return None

    return hook


__all__ = ["Choices", "Relaxed", "SearchSpace", "nni", "relax_with"]
