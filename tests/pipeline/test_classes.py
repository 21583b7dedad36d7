import pytest

from kdnas.codec import CAT, channel_encoder_steps
from kdnas.cost import CostTables, costs_of, exact_costs
from kdnas.device import list_devices, load_device
from kdnas.space import make_space


@pytest.mark.parametrize("name", list_devices())
def test_searching_matters_in_every_class(name: str) -> None:
    """The cheapest network of `mobile` uses under half of each budget, the largest over one and a half of some."""
    device, space = load_device(name), make_space("mobile")
    size = {"tokens": device.codec.tokens, "width": device.codec.width, "depth": device.codec.depth}
    channel = channel_encoder_steps(CAT(64, device.link.symbols, encoder=size).encoder.config)
    tables = CostTables(space.units(), space.domains(), costs_of(device))
    used = {}
    for which, pick in (("cheapest", min), ("largest", max)):
        choices = {label: pick(values) for label, values in space.domains().items()}
        costs = exact_costs([*tables.steps(choices), *channel], tables.costs)
        used[which] = {cost: costs[cost] / budget for cost, budget in device.budgets.items()}
    assert max(used["cheapest"].values()) < 0.5, used["cheapest"]
    assert max(used["largest"].values()) > 1.5, used["largest"]
