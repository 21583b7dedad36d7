"""What a study may set, and between which bounds."""

from collections.abc import Collection, Iterable, Mapping

from kdnas import config

RANGES: dict[str, tuple[float, float]] = {
    "kd": (0.1, 10.0),
    "penalty": (0.01, 10.0),
    "temperature": (1.0, 8.0),
    "learning_rate": (0.001, 0.02),
    "alpha_learning_rate": (0.02, 0.5),
}
"""By the name in ``tune.parameters``; all are drawn log-uniformly at first.

- ``kd``: λ_kd, the weight of distillation in both levels of the search.
- ``penalty``: λ_c, the first weight of the complexity penalty, one for each cost that has a budget and a weight.
- ``temperature``: T of the softened posteriors in the search's distillation.
- ``learning_rate``: of the weights in the search.
- ``alpha_learning_rate``: of the architecture parameters.
"""


def search_space(
    names: Collection[str], budgets: Iterable[str], search: config.Search, loss: config.Loss
) -> dict[str, tuple[float, float]]:
    """The bounds of each parameter of a study.

    Args:
        names: ``tune.parameters``.
        budgets: The costs that have a budget.
        search: What it sets to 0 is an ablation, and stays 0.
        loss: Likewise; without distillation there is no temperature either.

    Returns:
        Bounds by parameter; the penalty's are named ``penalty.COST``.
    """
    found: dict[str, tuple[float, float]] = {}
    for name in RANGES:
        if name not in names or (name in ("kd", "temperature") and loss.kd == 0):
            continue
        if name == "penalty":
            found |= {f"penalty.{cost}": RANGES[name] for cost in budgets if search.penalty.get(cost, 0) > 0}
        else:
            found[name] = RANGES[name]
    return found


def with_parameters(
    parameters: Mapping[str, float], search: config.Search, loss: config.Loss
) -> tuple[config.Search, config.Loss]:
    """The settings of a search with what a trial set."""
    penalty = {
        name.removeprefix("penalty."): value for name, value in parameters.items() if name.startswith("penalty.")
    }
    rates = {name: parameters[name] for name in ("learning_rate", "alpha_learning_rate") if name in parameters}
    weights = {name: parameters[name] for name in ("kd", "temperature") if name in parameters}
    return (
        search.model_copy(update={**rates, "penalty": {**search.penalty, **penalty}}),
        loss.model_copy(update=weights),
    )
