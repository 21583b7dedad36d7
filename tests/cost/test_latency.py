"""Tables of latencies: the file, the cost that reads it, the fit that makes it, and a measurement in small."""

import string
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdnas.codec import CAT, channel_encoder_steps
from kdnas.cost import CostTables, costs_of, exact_costs
from kdnas.cost.latency import COLUMNS, _nonnegative, fit_table, load_table, network_seconds, parse_table, save_table
from kdnas.device import device_toml, load_device
from kdnas.errors import InputError
from kdnas.ops import Op, Step, conv_step, linear_step
from kdnas.pipeline import api, measure
from kdnas.space import list_spaces, make_space

HEADER = ",".join(COLUMNS)
sizes = st.integers(1, 5000)
ops = st.builds(Op, st.text(string.ascii_lowercase + "_", min_size=1, max_size=9), *[sizes] * 7)


@settings(max_examples=60, deadline=None)
@given(table=st.dictionaries(ops, st.floats(0, 10).map(lambda x: float(f"{x:.6g}")), min_size=1, max_size=6))
def test_a_table_survives_its_file(table: dict[Op, float], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("table") / "t.csv"
    save_table(path, table, ["a comment, with a comma"])
    assert load_table(path) == table


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: the header must be kind,inputs"),
        ("# only a comment\nkind,inputs\n", "line 2: the header must be"),
        (f"{HEADER}\n", "lists no operation"),
        (f"{HEADER}\n\n# x\nconv,1,2,3\n", "line 4: 4 values, where the header has 9 columns"),
        (f"{HEADER}\nconv,1,0,1,1,1,1,1,1e-6\n", "line 2: outputs is '0': give a whole number, at least 1"),
        (f"{HEADER}\nconv,1,2.5,1,1,1,1,1,1e-6\n", "line 2: outputs is '2.5'"),
        (f"{HEADER}\nconv,1,2,1,1,1,1,1,nan\n", "line 2: latency_s is 'nan': give seconds, at least 0"),
        (f"{HEADER}\nconv,1,2,1,1,1,1,1,fast\n", "line 2: latency_s is 'fast'"),
        (f"{HEADER}\n,1,2,1,1,1,1,1,1e-6\n", "line 2: kind is empty"),
        (f"{HEADER}\nconv,1,2,1,1,1,1,1,1e-6\nconv,1,2,1,1,1,1,1,2e-6\n", "line 3: an earlier line has this operation"),
    ],
)
def test_a_faulty_table_is_named_with_its_line(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_table(text, "t.csv")
    assert "t.csv: " in str(caught.value) and told in str(caught.value) and "\n" not in str(caught.value)


def device_with(folder: Path, table: dict[Op, float] | None, line: str = "") -> Path:
    """A device file that names ``table.csv`` beside it."""
    if table is not None:
        save_table(folder / "table.csv", table)
    path = folder / "own.toml"
    path.write_text('latency_table = "table.csv"\n' + line + device_toml("wearable"))
    return path


def test_a_device_with_a_table_has_its_latencies(tmp_path: Path) -> None:
    conv, linear = conv_step("a", 3, 8, 3, 28), linear_step("b", 8, 4)
    assert conv.op and linear.op
    path = device_with(tmp_path, {conv.op: 3e-6, linear.op: 1e-6})
    device = load_device(path)
    costs = costs_of(device)
    assert exact_costs([conv, conv, linear, Step("c", ops=0)], costs)["latency_s"] == pytest.approx(7e-6, rel=1e-12)
    before = device.hash
    save_table(tmp_path / "table.csv", {conv.op: 4e-6, linear.op: 1e-6})
    assert load_device(path).hash != before  # a run does not go on with other latencies


def test_what_a_table_lacks_is_refused_or_by_request_goes_by_the_roofline(tmp_path: Path) -> None:
    conv, linear = conv_step("a", 3, 8, 3, 28), linear_step("b.up", 8, 4)
    assert conv.op
    device = load_device(device_with(tmp_path, {conv.op: 3e-6}))
    with pytest.raises(InputError, match=r"table.csv has no latency for b.up .kind=linear inputs=8 outputs=4"):
        exact_costs([conv, linear], costs_of(device))
    device = load_device(device_with(tmp_path, {conv.op: 3e-6}, 'latency_missing = "roofline"\n'))
    wanted = 3e-6 + device.latency_s(linear.macs, linear.moved_bytes, 1)
    assert exact_costs([conv, linear], costs_of(device))["latency_s"] == pytest.approx(wanted, rel=1e-12)


def test_faults_of_a_device_with_a_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"own.toml: line 1: latency_table: there is no file .*table.csv"):
        load_device(device_with(tmp_path, None))
    device = device_with(tmp_path, {Op("conv", 1, 1): 1.0})
    (tmp_path / "table.csv").write_text(f"{HEADER}\nconv\n")
    with pytest.raises(InputError, match=r"table.csv: line 2: 1 values"):
        costs_of(load_device(device))
    text = f"{HEADER}\nconv,1,1,1,1,1,1,1,2.0\n"
    (tmp_path / "table.csv").write_bytes(text.encode("utf-16"))
    load_device(device).hash  # noqa: B018 - a run asks for it first
    with pytest.raises(InputError, match=r"table.csv: it is not a UTF-8 text file"):
        costs_of(load_device(device))
    (tmp_path / "table.csv").write_bytes(text.encode("utf-8-sig"))  # as spreadsheets write it
    assert exact_costs([Step("a", op=Op("conv", 1, 1))], costs_of(load_device(device)))["latency_s"] == 2.0
    (tmp_path / "own.toml").write_text('latency_missing = "roofline"\n' + device_toml("wearable"))
    with pytest.raises(InputError, match="line 1: latency_missing needs latency_table"):
        load_device(tmp_path / "own.toml")


@pytest.mark.parametrize("name", list_spaces())
def test_every_step_that_runs_can_be_in_a_table(name: str) -> None:
    space = make_space(name)
    table = {step.op: 1e-6 for step in measure.every_step(space) if step.op}
    choices = space.random(torch.Generator().manual_seed(5))
    steps = measure.steps_of(space, choices)
    assert all(step.op is not None for step in steps)
    assert network_seconds(table, steps) == pytest.approx(1e-6 * len(steps), rel=1e-12)


def test_expected_latency_by_a_table_is_differentiable(tmp_path: Path) -> None:
    space = make_space("mobile")
    table = {step.op: 1e-9 * step.macs + 1e-6 for step in measure.every_step(space) if step.op}
    device = load_device(device_with(tmp_path, table))
    tables = CostTables(space.units(), space.domains(), costs_of(device))
    alphas = {
        label: torch.zeros(len(v), dtype=torch.float64, requires_grad=True) for label, v in tables.domains.items()
    }
    tables.expected({label: alpha.softmax(0) for label, alpha in alphas.items()})["latency_s"].backward()
    assert all(alpha.grad is not None and alpha.grad.abs().max() > 0 for alpha in alphas.values())


def test_a_fit_finds_the_operations_behind_whole_networks() -> None:
    space, draw = make_space("mobile"), np.random.default_rng(0)
    steps = {step.op: step for step in measure.every_step(space)}
    # Each operation off the smooth law by a fifth, and each measurement by one in two hundred.
    truth = {op: (1e-6 + 4e-11 * s.macs + 1e-10 * s.moved_bytes) * draw.uniform(0.8, 1.2) for op, s in steps.items()}

    def seconds(own: list[Step]) -> float:
        return sum(truth[step.op] for step in own) * draw.normal(1, 0.005) + 5e-6  # and the call

    fitted = [measure.steps_of(space, choices) for choices in measure.covering(space, 120, 0)]
    table, error = fit_table(fitted, [seconds(own) for own in fitted], list(steps.values()))
    assert set(table) == set(steps) and all(value > 0 for value in table.values())
    generator = torch.Generator().manual_seed(9)
    others = [measure.steps_of(space, space.random(generator)) for _ in range(40)]
    off = [abs(network_seconds(table, own) / seconds(own) - 1) for own in others]
    assert np.median(off) < 0.03 and error < 0.03
    assert len({step.op for own in fitted for step in own}) > 0.95 * len(steps)  # covering covers


def test_least_squares_without_negative_values_is_scipys() -> None:
    scipy = pytest.importorskip("scipy.optimize")
    draw = np.random.default_rng(1)
    for _ in range(5):
        matrix, target = draw.uniform(0, 1, (30, 6)), draw.normal(0.3, 1, 30)
        assert _nonnegative(matrix, target) == pytest.approx(scipy.nnls(matrix, target)[0], abs=1e-5)


@pytest.mark.parametrize("dtype", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
def test_a_measured_table_costs_the_space_and_the_channel_encoder(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(measure, "TRANSMITTERS", 1)
    about = api.measure(
        tmp_path / "table.csv", dtype=dtype, networks=10, **{"spaces.options": {"depth": 1, "width": 0.5}}
    )
    assert about["networks"] == 11 and 0 < about["error"] < 1 and about["seen"] < about["operations"]
    device = load_device(device_with(tmp_path, None))
    text = (tmp_path / "table.csv").read_text()
    assert text.startswith("# seconds that each operation adds") and dtype in text
    space = make_space("mobile", depth=1, width=0.5)
    size = {key: getattr(device.codec, key) for key in ("tokens", "width", "depth")}
    channel = channel_encoder_steps(CAT(64, device.link.symbols, encoder=size).encoder.config)
    encoder = measure.steps_of(space, space.random(torch.Generator().manual_seed(0)))
    costs = costs_of(device)
    assert 1e-6 < exact_costs(encoder, costs)["latency_s"] < exact_costs([*encoder, *channel], costs)["latency_s"] < 1
